"""Which of a user's clusters of tonight a query of any night counts for.

The cluster that holds its item, else that of the user's nearest medoid, if near enough, else none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import IntArray, group_offsets, ints


def clusters_of(
    user_ids: IntArray, queries: IntArray, profiles: pa.Table, items: Items, threshold: float
) -> IntArray:
    """The cluster that each user's query counts for tonight.

    Args:
        user_ids: (n,) int64, whose.
        queries: (n,) int64 item ids.
        profiles: PROFILES sorted by key.
        items: The catalogue.
        threshold: Least cosine of a query that is no member to its nearest medoid.

    Returns:
        (n,) int64: rows of `profiles`, -1 where none.
    """
    if profiles.num_rows == 0 or len(queries) == 0:
        return np.full(len(queries), -1, np.int64)
    bounds = group_offsets(ints(profiles, "user_id"))
    users = ints(profiles, "user_id")[bounds[:-1]]
    place = np.minimum(np.searchsorted(users, user_ids), len(users) - 1)
    place[users[place] != user_ids] = -1
    members = profiles["item_ids"].combine_chunks()
    lengths = pc.list_value_length(members).to_numpy(zero_copy_only=False)
    found: IntArray = _holding(
        place,
        queries,
        bounds,
        np.r_[0, np.cumsum(lengths)].astype(np.int64),
        pc.list_flatten(members).to_numpy(zero_copy_only=False),
    )
    left = np.flatnonzero((found < 0) & (place >= 0))  # few: most queries are members
    found[left] = _nearest_clusters(place[left], queries[left], bounds, profiles, items, threshold)
    return found


def _nearest_clusters(
    place: IntArray,
    queries: IntArray,
    bounds: IntArray,
    profiles: pa.Table,
    items: Items,
    threshold: float,
) -> IntArray:
    """(n,) row of `profiles` with the nearest medoid of the user at this place, else -1."""
    asked = np.zeros(len(bounds) - 1, bool)
    asked[place] = True
    rows = np.flatnonzero(np.repeat(asked, np.diff(bounds)))
    medoids = np.full(profiles.num_rows, -1, np.int64)
    medoids[rows] = items.rows_of(ints(profiles, "medoid_item_id")[rows])
    vectors, found = np.ascontiguousarray(items.vectors), np.full(len(queries), -1, np.int64)
    _find_nearest(
        np.stack([bounds[place], bounds[place + 1], items.rows_of(queries)], axis=1),
        medoids,
        vectors,
        threshold,
        found,
    )
    return found


@njit(cache=True, nogil=True)
def _holding(
    places: IntArray, queries: IntArray, bounds: IntArray, offsets: IntArray, members: IntArray
) -> IntArray:
    """The cluster with the query among its members, else -1."""
    found = np.full(len(queries), -1, np.int64)
    for i in range(len(queries)):
        if places[i] < 0:
            continue
        first, last = bounds[places[i]], bounds[places[i] + 1]
        for k in range(offsets[first], offsets[last]):  # a user's clusters hold an item once
            if members[k] == queries[i]:
                found[i] = first + np.searchsorted(offsets[first : last + 1], k, side="right") - 1
                break
    return found


@njit(cache=True, nogil=True)
def _find_nearest(
    wanted: IntArray,
    medoids: IntArray,
    vectors: npt.NDArray[np.float32],
    threshold: float,
    found: IntArray,
) -> None:
    """Fill `found`; rows of `wanted`: first cluster, cluster after the last, row of `vectors`."""
    for i in range(len(wanted)):
        first, last, row = wanted[i]
        if row >= 0:
            found[i] = _nearest(row, first, last, medoids, vectors, threshold)


@njit(cache=True, nogil=True)
def _nearest(
    row: int,
    first: int,
    last: int,
    medoids: IntArray,
    vectors: npt.NDArray[np.float32],
    threshold: float,
) -> int:
    nearest, best = -1, -np.inf
    for c in range(first, last):
        if medoids[c] < 0:
            continue
        cosine = 0.0
        for d in range(vectors.shape[1]):
            cosine += float(vectors[row, d]) * float(vectors[medoids[c], d])
        if cosine >= threshold and cosine > best:
            nearest, best = c, cosine
    return nearest
