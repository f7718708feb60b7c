"""Rankings to be judged: what the slots of a user bring, merged to one list of distinct items.

Whatever retrieves, every user gets the same number of distinct items: the slots take turns, each
giving the best of its list that the user does not have yet (KDD 2025, arXiv 2506.23060: round-robin
merge with deduplication). Item rows are places in the catalogue (`profiling.items.Items`), -1 where
a list has ended.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import FloatArray, IntArray, ints
from retrieval.index.exact import Lists

NOTHING = -1


class SlotLists(NamedTuple):
    """What each slot of each user brings.

    Attributes:
        offsets: (u + 1,) int64: user i has the slots `offsets[i]:offsets[i + 1]`.
        rows: (s, q) int64 item rows, best first, distinct within a slot.
    """

    offsets: IntArray
    rows: IntArray


class Ranking(NamedTuple):
    """What each user gets.

    Attributes:
        rows: (u, k) int64 item rows, best first, distinct.
        slots: (u, k) int64 rows of the slots that brought them; a user without slots has `NOTHING`.
    """

    rows: IntArray
    slots: IntArray


def interleave(lists: SlotLists, n_items: int, k: int) -> Ranking:
    """Merge the slots of each user, in turns, to k distinct items or as many as there are."""
    users = len(lists.offsets) - 1
    ranking = Ranking(
        np.full((users, k), NOTHING, np.int64), np.full((users, k), NOTHING, np.int64)
    )
    _interleave(lists, np.full(n_items, NOTHING, np.int64), ranking)
    return ranking


@njit(cache=True, nogil=True)
def _interleave(lists: SlotLists, taken_by: IntArray, ranking: Ranking) -> None:
    depth = lists.rows.shape[1]
    for user in range(len(lists.offsets) - 1):
        first, last = lists.offsets[user], lists.offsets[user + 1]
        places = np.zeros(last - first, np.int64)
        n, ended = 0, 0
        while n < ranking.rows.shape[1] and ended < last - first:
            ended = 0
            for slot in range(first, last):
                place = places[slot - first]
                while place < depth and (
                    lists.rows[slot, place] >= 0 and taken_by[lists.rows[slot, place]] == user
                ):
                    place += 1
                if place == depth or lists.rows[slot, place] < 0:
                    places[slot - first] = place
                    ended += 1
                elif n < ranking.rows.shape[1]:
                    row = lists.rows[slot, place]
                    taken_by[row] = user
                    ranking.rows[user, n], ranking.slots[user, n] = row, slot
                    places[slot - first] = place + 1
                    n += 1


def deal(rows: IntArray, offsets: IntArray) -> Ranking:
    """One list per user as if its slots had brought it in turns: (u, k) rows, (u + 1,) offsets.

    What `interleave` makes of slots that all bring this list.
    """
    counts = np.diff(offsets)[:, None]
    turns = np.arange(rows.shape[1])[None, :] % np.maximum(counts, 1)
    slots = np.where((rows >= 0) & (counts > 0), offsets[:-1, None] + turns, NOTHING)
    return Ranking(rows, slots.astype(np.int64))


def lists_of_candidates(
    candidates: pa.Table, draw_ids: IntArray, offsets: IntArray, items: Items, depth: int
) -> SlotLists:
    """CANDIDATES as the lists of the slots that asked, by rank.

    Args:
        candidates: CANDIDATES in any order.
        draw_ids: (s,) int64, the draw of each slot, unique; slots of one user are neighbours.
        offsets: (u + 1,) int64 bounds of the users' slots.
        items: The catalogue.
        depth: q, longest list that is kept.
    """
    rows = np.full((len(draw_ids), depth), NOTHING, np.int64)
    if candidates.num_rows:
        order = np.argsort(draw_ids)
        draws, ranks = ints(candidates, "draw_id"), ints(candidates, "rank")
        places = np.minimum(np.searchsorted(draw_ids[order], draws), len(order) - 1)
        slots = order[places]
        kept = (draw_ids[slots] == draws) & (ranks < depth)
        found = items.rows_of(ints(candidates, "item_id"))
        rows[slots[kept], ranks[kept]] = found[kept]
    return SlotLists(offsets, rows)


def top_rows(scores: FloatArray, k: int) -> IntArray:
    """The k columns of greatest score in each row, best first, ties to the smaller column.

    Args:
        scores: (n, m) float; -inf is never returned.
        k: How many.

    Returns:
        (n, k) int64, `NOTHING` beyond what there is.
    """
    found = np.full((len(scores), k), NOTHING, np.int64)
    last = max(scores.shape[1] - k, 0)
    bounds = np.partition(scores, last, axis=1)[:, last] if scores.shape[1] else scores[:, :0]
    for i, row in enumerate(scores):
        columns = np.flatnonzero((row >= bounds[i]) & (row > -np.inf))
        best = columns[np.argsort(-row[columns], kind="stable")[:k]]
        found[i, : len(best)] = best
    return found


def lists_of(owners: npt.ArrayLike, values: IntArray, n: int) -> Lists:
    """(m,) values as n lists: list i holds those whose owner is i, ascending and once."""
    pairs = np.unique(np.stack([np.asarray(owners, np.int64), values], axis=1), axis=0)
    bounds = np.searchsorted(pairs[:, 0], np.arange(n + 1))
    return Lists(bounds.astype(np.int64), np.ascontiguousarray(pairs[:, 1]))


def slot_offsets(users: IntArray, owners: IntArray) -> IntArray:
    """(u + 1,) bounds of each of the ascending `users` among ascending (s,) `owners`."""
    bounds = np.searchsorted(owners, np.r_[users, np.iinfo(np.int64).max])
    return np.asarray(bounds, np.int64)
