"""Keys of rows as integers: texts as codes, a fast sort, and the runs of equal keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiling.compiling import njit
from profiling.schema import IntArray

_RUN = 12  # rows that insertion sort takes


def names_in(*columns: pa.ChunkedArray[Any]) -> list[str]:
    """The distinct texts of columns, sorted."""
    return sorted({str(v) for c in columns for v in c.unique().to_pylist()})


def name_codes(column: pa.ChunkedArray[Any], names: list[str]) -> IntArray:
    """(n,) text to (n,) int64: each value's place in the sorted `names`; -1 where it is not there.

    Nulls give -1.
    """
    if len(column) == 0:
        return np.zeros(0, np.int64)
    encoded: Any = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.combine_chunks()
    known = pc.fill_null(pc.index_in(encoded.dictionary, pa.array(names, pa.string())), -1)
    places: IntArray = np.r_[np.asarray(known), -1].astype(np.int64)
    return places[np.asarray(pc.fill_null(encoded.indices, len(places) - 1), np.int64)]


def name_column(codes: IntArray, names: list[str]) -> pa.Array[Any]:
    """The inverse of `name_codes`: (n,) codes to a text column."""
    indices: Any = pa.array(codes.astype(np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())).cast(pa.string())


def key_bounds(users: IntArray, keys: IntArray) -> IntArray:
    """(g + 1,) bounds of the runs of equal (user, key) in sorted rows."""
    if len(users) == 0:
        return np.zeros(1, np.int64)
    new = users[1:] != users[:-1]
    for j in range(keys.shape[1]):
        new |= keys[1:, j] != keys[:-1, j]
    return np.asarray(np.r_[0, np.flatnonzero(new) + 1, len(users)], np.int64)


def sort_keys(users: IntArray, keys: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Users (n,) and rows of keys (n, m), sorted, and the order: a faster `np.lexsort`.

    By user, then by the columns of keys from the first on, then by place. NumPy's vectorised
    quicksort takes the users, a merge sort of whole rows those of each user. `keys` is used up.
    """
    keys, order = np.ascontiguousarray(keys), np.arange(len(users))
    if (users[1:] < users[:-1]).any():  # stored tables have them sorted
        order = np.argsort(users)
        users, keys = users[order], keys[order]
    _sort_users(users, keys, order)
    return users, keys, order


@njit(cache=True, nogil=True)
def _before(keys: IntArray, order: IntArray, a: int, b: int) -> bool:
    for j in range(keys.shape[1]):
        if keys[a, j] != keys[b, j]:
            return bool(keys[a, j] < keys[b, j])
    return bool(order[a] < order[b])


@njit(cache=True, nogil=True)
def _sort_users(users: IntArray, keys: IntArray, order: IntArray) -> None:
    """Sort rows of `keys` and `order` in place, within runs of equal users: a merge sort."""
    n = len(users)
    a, b = np.arange(n), np.empty(n, np.int64)
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and users[stop] == users[start]:
            stop += 1
        for run in range(start, stop, _RUN):
            for i in range(run + 1, min(run + _RUN, stop)):
                row, j = a[i], i
                while j > run and _before(keys, order, row, a[j - 1]):
                    a[j] = a[j - 1]
                    j -= 1
                a[j] = row
        width = _RUN
        while width < stop - start:
            for low in range(start, stop, 2 * width):
                _merge(keys, order, a, b, (low, min(low + width, stop), min(low + 2 * width, stop)))
            a[start:stop] = b[start:stop]
            width *= 2
        start = stop
    keys[:] = keys[a]
    order[:] = order[a]


@njit(cache=True, nogil=True)
def _merge(
    keys: IntArray,
    order: IntArray,
    a: IntArray,
    b: IntArray,
    bounds: tuple[int, int, int],
) -> None:
    """Into `b[low:high]`, the sorted `a[low:middle]` and `a[middle:high]`."""
    low, middle, high = bounds
    i, j = low, middle
    for k in range(low, high):
        if j >= high or (i < middle and _before(keys, order, a[i], a[j])):
            b[k] = a[i]
            i += 1
        else:
            b[k] = a[j]
            j += 1
