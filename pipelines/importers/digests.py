"""Content digests: one 64-bit hash per row, over whole columns at a time.

Equal values hash alike whatever their width (int8 or int64, float or double) and file format, so a
row that comes again from another file is the same row. A null has a hash of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.files import plain
from profiling.hashing import UIntArray, hash64, mix64, text_hash
from profiling.schema import IntArray

_NULL = text_hash("null")


def row_digests(columns: Iterable[pa.ChunkedArray | pa.Array]) -> IntArray:
    """(n,) int64: `hash64` of the column hashes, in the order given."""
    return hash64(*[column_hashes(c) for c in columns]).view(np.int64)


def column_hashes(column: pa.ChunkedArray | pa.Array) -> UIntArray:
    """(n,) uint64 of a column: integers and times by value, floats by bits, text by BLAKE2b.

    A list hashes its elements with their places, a struct its fields in order.
    """
    array = plain(column)
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), _NULL)
    if pa.types.is_string(kind):
        return _text_hashes(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        hashes = _list_hashes(array)
    elif pa.types.is_struct(kind):
        hashes = hash64(*[column_hashes(child) for child in array.flatten()])
    elif pa.types.is_floating(kind):
        values = pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False) + 0.0
        hashes = np.where(np.isnan(values), np.nan, values).view(np.uint64)
    else:
        values = array.cast(pa.int32()) if pa.types.is_date32(kind) else array
        numbers = pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        hashes = numbers.view(np.uint64)
    nulls = pc.is_null(array).to_numpy(zero_copy_only=False)
    return np.where(nulls, _NULL, hashes) if nulls.any() else hashes


def _text_hashes(array: pa.Array) -> UIntArray:
    codes = array.dictionary_encode()
    hashes = np.array([text_hash(t) for t in codes.dictionary.to_pylist()] + [_NULL], np.uint64)
    places = pc.fill_null(codes.indices, len(hashes) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(hashes[places])


def _list_hashes(array: pa.Array) -> UIntArray:
    """Sum of `mix64(element hash + mix64(place))` per list, and its length."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    elements = mix64(column_hashes(pc.list_flatten(array)) + mix64(places))
    sums = np.r_[np.uint64(0), np.cumsum(elements, dtype=np.uint64)]
    return hash64(sums[ends] - sums[ends - lengths], lengths)
