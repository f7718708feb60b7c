"""Columns that hold several values a row: vectors, topics, labels and actions.

Parquet brings lists, CSV delimited text; both become Arrow lists, then offsets and flat arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.files import plain
from pipelines.importers.rejects import BoolArray, Fault, Parsed
from pipelines.importers.scalars import (
    outside,
    parse_numbers,
    parse_text,
    text_to_floats,
    unknown_words,
)
from profiling.actions import Actions, action_names
from profiling.schema import IntArray

DELIMITER = "|"
TOPIC_FIELDS, LABEL_FIELDS = ("topic_id", "confidence"), ("label", "score")


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's list types."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def list_lengths(array: pa.Array) -> IntArray:
    """(n,) int64, null lists 0."""
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)


def any_in_list(flat: BoolArray, lengths: IntArray) -> BoolArray:
    """(n,) bool: whether any element of a list is set in `flat`."""
    ends = np.cumsum(lengths)
    sums = np.r_[0, np.cumsum(flat)]
    return np.asarray(sums[ends] > sums[ends - lengths])


def as_vectors(raw: pa.Array, where: str) -> pa.Array:
    """Lists of numbers, or text such as `[0.1, 0.2]` or `0.1 0.2`, to lists of float64.

    What is no number becomes NaN.

    Raises:
        ValueError: Another type.
    """
    kind = raw.type
    if pa.types.is_null(kind):
        return pa.nulls(len(raw), pa.list_(pa.float64()))
    if pa.types.is_string(kind):
        text = pc.utf8_trim(raw, " \t[]()")
        raw = pc.split_pattern_regex(text, r"[\s,;|]+")
        values = pc.fill_null(text_to_floats(pc.list_flatten(raw))[0], float("nan"))
    elif is_list(kind) and _is_number(kind.value_type):
        wide = pc.list_flatten(raw).cast(pa.float64(), safe=False)
        values = pc.fill_null(wide, float("nan"))
    else:
        raise ValueError(f"{where} is {kind}, must be a list of floats; store it so or map another")
    return _relist(raw, values, keep_null=True)


def common_width(vectors: Sequence[pa.Array]) -> int:
    """The width of most vectors, the smaller of two as common; 0 where there is none."""
    widths: Counter[int] = Counter()
    for array in vectors:
        sizes, counts = np.unique(list_lengths(array.drop_null()), return_counts=True)
        widths.update(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))
    return min((w for w in widths if w), key=lambda w: (-widths[w], w), default=0)


def parse_embeddings(raw: pa.Array, width: int, where: str) -> Parsed:
    """(n,) vectors to (n,) lists of `width` float32; faulty ones are null.

    Raises:
        ValueError: A type that holds no vectors.
    """
    vectors = as_vectors(raw, where)
    lengths = list_lengths(vectors)
    valid = vectors.is_valid().to_numpy(zero_copy_only=False)
    wrong_width = valid & (lengths != width)
    flat = np.asarray(pc.list_flatten(vectors).to_numpy(zero_copy_only=False), np.float64)
    with np.errstate(over="ignore"):
        narrow = flat.astype(np.float32)
    not_finite = any_in_list(~np.isfinite(narrow), lengths)
    zero = valid & ~any_in_list(narrow != 0, lengths)
    good = valid & ~wrong_width & ~not_finite & ~zero
    kept = narrow[np.repeat(good, lengths)]
    ends = np.cumsum(np.where(good, width, 0)).astype(np.int32)
    values = pa.ListArray.from_arrays(
        pa.array(np.r_[np.int32(0), ends]), pa.array(kept), mask=pa.array(~good)
    )
    faults = (
        Fault(wrong_width, f"a vector must have {width} numbers, as the others; make it again"),
        Fault(not_finite, "a vector must have finite numbers only; make it again"),
        Fault(zero, "a vector must not be zero: it has no direction; make it again"),
    )
    return Parsed(values, faults)


def as_pairs(raw: pa.Array, names: tuple[str, str], delimiter: str, where: str) -> pa.Array:
    """Lists of structs, lists of names, or delimited text, to lists of struct<name, weight>.

    Null lists become empty ones; a name without a weight has weight 1.

    Raises:
        ValueError: Another type, or a struct without these fields.
    """
    kind = raw.type
    name, weight = names
    form = f"list<struct<{name}, {weight}>>, a list of {name} or text with {delimiter!r} between"
    if pa.types.is_null(kind):
        raw = pa.nulls(len(raw), pa.list_(pa.string()))
    elif pa.types.is_integer(kind):
        ends = np.cumsum(raw.is_valid().to_numpy(zero_copy_only=False)).astype(np.int32)
        raw = pa.ListArray.from_arrays(pa.array(np.r_[np.int32(0), ends]), raw.drop_null())
    elif pa.types.is_string(kind):
        raw = split_text(raw, delimiter)
    elif not is_list(kind):
        raise ValueError(f"{where} is {kind}, must be {form}; store it so or map another column")
    flat = plain(pc.list_flatten(raw))
    if pa.types.is_struct(flat.type):
        fields = [f.name for f in flat.type]
        if name not in fields or weight not in fields:
            raise ValueError(f"{where} is {kind}, must be {form}; name the fields so")
        left, right = pc.struct_field(flat, name), pc.struct_field(flat, weight)
    else:
        left, right = flat, pa.repeat(pa.scalar(1.0, pa.float32()), len(flat))
    return _relist(raw, pa.StructArray.from_arrays([left, right], names=list(names)))


def pair_faults(pairs: pa.Array, left: Parsed, where: str) -> tuple[pa.Array, tuple[Fault, ...]]:
    """Check the pairs of `as_pairs`, whose names were parsed to `left`.

    Returns:
        Lists of struct<name, weight float32>, and the faults by row: those of the names, a null
        name, a weight outside [0, 1].
    """
    lengths = list_lengths(pairs)
    names = [f.name for f in pairs.type.value_type]
    flat = pc.list_flatten(pairs)
    weights = parse_numbers(pc.struct_field(flat, names[1]), where)
    range_fault = outside(pc.fill_null(weights.values, float("nan")), 0.0, 1.0)
    nulls = left.values.is_null().to_numpy(zero_copy_only=False)
    inner = (
        *left.faults,
        Fault(nulls, f"a {names[0]} must not be null or empty; leave it out"),
        Fault(range_fault.mask, f"a {names[1]} must be >= 0 and <= 1; correct it"),
    )
    faults = tuple(Fault(any_in_list(f.mask, lengths), f.cure) for f in inner)
    values = pa.StructArray.from_arrays(
        [left.values, weights.values.cast(pa.float32())], names=names
    )
    return _relist(pairs, values), faults


def parse_action_lists(
    raw: pa.Array, actions: Actions, delimiter: str, *, null_is_none: bool, where: str
) -> Parsed:
    """What the user did, by log line: lists or delimited text to lists of configured actions.

    Args:
        raw: The column.
        actions: The configured actions; another name is a fault.
        delimiter: Between the names of a text.
        null_is_none: Whether a null means that nothing was done (CSV, where an empty cell is all
            there is) rather than that the line does not say (Parquet).
        where: File and column, for the error.

    Raises:
        ValueError: Another type.
    """
    if pa.types.is_null(raw.type):
        lists = pa.nulls(len(raw), pa.list_(pa.string()))
    elif is_list(raw.type):
        flat = parse_text(plain(pc.list_flatten(raw)), where).values
        lists = _relist(raw, flat, keep_null=True)
    elif pa.types.is_string(raw.type):
        lists = split_text(raw, delimiter)
    else:
        raise ValueError(f"{where} is {raw.type}, must be a list of text; store it so")
    if null_is_none:
        lists = _relist(lists, pc.list_flatten(lists))
    known = action_names(actions)
    flat = pc.list_flatten(lists)
    unknown = unknown_words(flat, known) | flat.is_null().to_numpy(zero_copy_only=False)
    mask = any_in_list(unknown, list_lengths(lists))
    return Parsed(lists, (Fault(mask, unknown_action_cure(known)),))


def unknown_action_cure(known: Sequence[str]) -> str:
    """What to do about an action that is not configured."""
    return f"the configured actions are {', '.join(known)}; add it to `actions` or leave it out"


def split_text(raw: pa.Array, delimiter: str) -> pa.Array:
    """Delimited text to lists of trimmed text; empty text gives an empty list, null stays null."""
    text = pc.utf8_trim_whitespace(raw)
    lists = pc.split_pattern(text, delimiter)
    flat = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    keep = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    counts = np.bincount(rows[keep], minlength=len(raw))
    offsets = np.r_[0, np.cumsum(counts)].astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), flat.filter(pa.array(keep)), mask=text.is_null()
    )


def _relist(lists: pa.Array, values: pa.Array, *, keep_null: bool = False) -> pa.Array:
    """Other values in lists of the same lengths; null lists become empty unless `keep_null`."""
    offsets = pa.array(np.r_[0, np.cumsum(list_lengths(lists))].astype(np.int32))
    nulls = lists.is_null() if keep_null else None
    return pa.ListArray.from_arrays(offsets, values, mask=nulls)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
