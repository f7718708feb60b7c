"""A world whose every outcome is known: what each user would do with each item of their universe.

A query brings the items nearest to it that its user has not seen and whose outcome is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import FloatArray, IntArray, floats, group_offsets, ints
from selection.draws import match_rows

BoolArray = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]


class Known(NamedTuple):
    """The known outcomes of u users: user i has `rows[bounds[i]:bounds[i + 1]]`.

    Attributes:
        bounds: (u + 1,) int64.
        rows: (n,) int64 rows of the catalogue, ascending for each user.
        values: (n,) float64 in [0, 1].
    """

    bounds: IntArray
    rows: IntArray
    values: FloatArray


class Asked(NamedTuple):
    """Queries of u users, each user's in slot order: user i asks `rows[bounds[i]:bounds[i + 1]]`.

    Attributes:
        bounds: (u + 1,) int64.
        rows: (d,) int64 rows of the catalogue.
    """

    bounds: IntArray
    rows: IntArray


@dataclass(frozen=True)
class Universe:
    """Items, users and what they would do.

    Attributes:
        user_ids: (u,) int64 ascending.
        start: (n,) bool, which of the known outcomes the users saw at the beginning.
    """

    items: Items
    user_ids: IntArray
    known: Known
    start: BoolArray

    @classmethod
    def of(cls, items: Items, outcomes: pa.Table, start: pa.Table) -> Universe:
        """From rows (user_id, item_id, value) and (user_id, item_id).

        Raises:
            ValueError: A value is outside [0, 1], a pair comes twice, an item is not in the
                catalogue, or a start item is outside its user's universe.
        """
        users, ids = ints(outcomes, "user_id"), ints(outcomes, "item_id")
        values = floats(outcomes, "value")
        _check_outcomes(users, ids, values, items)
        order = np.lexsort((ids, users))
        users, ids, values = users[order], ids[order], values[order]
        bounds = group_offsets(users)
        shown = [ints(start, "user_id"), ints(start, "item_id")]
        places = match_rows([users, ids], shown)
        if (places < 0).any():
            i = int(np.flatnonzero(places < 0)[0])
            raise ValueError(
                f"start, row {i}: item {shown[1][i]} is not in the universe of user "
                f"{shown[0][i]}: there is no outcome of the two. Start with items whose outcome "
                "is known, or add the outcome"
            )
        began = np.zeros(len(users), bool)
        began[places] = True
        return cls(items, users[bounds[:-1]], Known(bounds, items.rows_of(ids), values), began)

    @cached_property
    def users_of(self) -> IntArray:
        """(n,) int64: the place in `user_ids` of each known outcome's user."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.known.bounds))

    def bring(self, seen: BoolArray, asked: Asked, per_query: int) -> IntArray:
        """What the queries bring, slot after slot, no item twice.

        Args:
            seen: (n,) bool, of the known outcomes.
            asked: The queries.
            per_query: Items of each, M.

        Returns:
            (d, M) int64 places of known outcomes, -1 where none is left.
        """
        return np.asarray(_bring(self.known, asked, seen.copy(), self._vectors, per_query))

    def best_queries(
        self, seen: BoolArray, clusters: Asked, queries: int, per_query: int
    ) -> IntArray:
        """The queries that a myopic oracle asks: slot after slot, the one with the best outcomes.

        It knows tonight's outcomes and cares for no later night; ties go to the first.

        Args:
            seen: (n,) bool, of the known outcomes.
            clusters: What may be asked.
            queries: Draws per user.
            per_query: Items of each.

        Returns:
            (u, queries) int64 places in `clusters.rows`, -1 where a user has no more clusters.
        """
        found = _best(self.known, clusters, seen.copy(), self._vectors, queries, per_query)
        return np.asarray(found)

    @property
    def _vectors(self) -> Vectors:
        return np.ascontiguousarray(self.items.vectors)


def _check_outcomes(users: IntArray, ids: IntArray, values: FloatArray, items: Items) -> None:
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"outcomes, row {i}: the value of user {users[i]} and item {ids[i]} is {values[i]:g}, "
            f"must be from 0 to 1 ({len(wrong):,} such rows); scale the values, or cut them at a "
            "threshold"
        )
    unknown = np.flatnonzero(items.rows_of(ids) < 0)
    if len(unknown):
        i = int(unknown[0])
        raise ValueError(
            f"outcomes, row {i}: item {ids[i]} is not among the {len(items.ids):,} items "
            f"({len(unknown):,} such rows); add it to the items with its embedding"
        )
    order = np.lexsort((ids, users))
    again = (np.diff(users[order]) == 0) & (np.diff(ids[order]) == 0)
    if again.any():
        i = int(order[1:][again][0])
        raise ValueError(
            f"outcomes, row {i}: user {users[i]} and item {ids[i]} come twice "
            f"({int(again.sum()):,} such rows); keep one value of each pair"
        )


@njit(cache=True, nogil=True)
def _nearest(known: Known, user: int, query: int, taken: BoolArray, vectors: Vectors) -> int:
    """The place of the user's item nearest to the query that is not taken, ties by item; or -1."""
    best, place = -np.inf, -1
    if query < 0:
        return place
    for i in range(known.bounds[user], known.bounds[user + 1]):
        if taken[i]:
            continue
        cosine = 0.0
        for d in range(vectors.shape[1]):
            cosine += float(vectors[query, d]) * float(vectors[known.rows[i], d])
        cosine = np.rint(cosine * 1e6) / 1e6
        if cosine > best:
            best, place = cosine, i
    return place


@njit(cache=True, nogil=True)
def _bring(
    known: Known, asked: Asked, taken: BoolArray, vectors: Vectors, per_query: int
) -> IntArray:
    """See `Universe.bring`; `taken` is used up."""
    found = np.full((len(asked.rows), per_query), -1, np.int64)
    for user in range(len(asked.bounds) - 1):
        for d in range(asked.bounds[user], asked.bounds[user + 1]):
            for m in range(per_query):
                place = _nearest(known, user, asked.rows[d], taken, vectors)
                if place >= 0:
                    taken[place] = True
                    found[d, m] = place
    return found


@njit(cache=True, nogil=True)
def _worth(
    known: Known,
    user: int,
    query: int,
    taken: BoolArray,
    vectors: Vectors,
    per_query: int,
) -> tuple[float, IntArray]:
    """The sum of the outcomes that one query would bring, and their places; -1 with nothing left.

    `taken` is left as it was.
    """
    places, total = np.full(per_query, -1, np.int64), 0.0
    for m in range(per_query):
        places[m] = _nearest(known, user, query, taken, vectors)
        if places[m] < 0:
            break
        taken[places[m]] = True
        total += known.values[places[m]]
    for place in places:
        if place >= 0:
            taken[place] = False
    return (total if places[0] >= 0 else -1.0), places


@njit(cache=True, nogil=True)
def _best(
    known: Known,
    clusters: Asked,
    taken: BoolArray,
    vectors: Vectors,
    queries: int,
    per_query: int,
) -> IntArray:
    """See `Universe.best_queries`; `taken` is used up."""
    found = np.full((len(clusters.bounds) - 1, queries), -1, np.int64)
    asked = np.zeros(len(clusters.rows), np.bool_)
    for user in range(len(clusters.bounds) - 1):
        for slot in range(queries):
            most, best = -np.inf, -1
            brought = np.full(per_query, -1, np.int64)
            for c in range(clusters.bounds[user], clusters.bounds[user + 1]):
                if asked[c]:
                    continue
                worth, places = _worth(known, user, clusters.rows[c], taken, vectors, per_query)
                if worth > most:
                    most, best, brought = worth, c, places
            if best < 0:
                break
            asked[best] = True
            found[user, slot] = best
            for place in brought:
                if place >= 0:
                    taken[place] = True
    return found
