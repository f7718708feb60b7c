"""The kernels of every index: score slices of the catalogue, keep each search's best items.

A *slice* is a run of item rows with their vectors side by side: the items of a topic, of an IVF
cell, or all. A *job* is a slice that a search must look into. Jobs of one slice are scored
together, a tile of items at a time, by float32 matrix products that stay in the cache.

A float32 product's last bits differ with its shape, so it only finds the contenders. Its error is
at most `d * 2^-23`; no item of the true k best lies further than twice that (and one step) below
the k-th best seen so far. Contenders are scored again in float64, in one fixed order of addition,
rounded and ordered: the same search gives the same bits in any batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from profiling.compiling import njit
from profiling.schema import IntArray
from retrieval.index.searches import SCORE_STEP, Hits, Lists, Vectors

_BLOCK = 128  # vectors, and
_TILE = 2048  # items scored at a time: 1 MiB of scores, within a core's cache
_STRIP = 32  # scores compared with the threshold at a time
_ROW_BITS = 40  # of an ordering key; above them stands the score
_ROW_MASK = (1 << _ROW_BITS) - 1
_TOP_STEPS = 1 << 21  # more steps of SCORE_STEP than a score can have
_HALVINGS = 12  # of the scores' range: to 1 / 4096 of it
_CELLS = 1 << 22  # entries held at a time, 48 MiB


class Slices(NamedTuple):
    """(s,) slices: slice i is `rows[offsets[i]:offsets[i + 1]]` with the vectors beside it.

    Attributes:
        offsets: (s + 1,) int64.
        rows: (m,) int64 item rows.
        vectors: (m, d) float32.
    """

    offsets: IntArray
    rows: IntArray
    vectors: Vectors


class Asked(NamedTuple):
    """n searches as the kernels see them; topics are numbers (places), ascending in every list.

    Attributes:
        vectors: (v, d) float32; `vector_of` (n,) int64 ascending.
        topics: Lists, the topic numbers of every item row.
        conditions: Lists of topic numbers, -1 for a topic that nothing carries; empty: free.
        excluded: Lists of item rows, ascending.
    """

    vectors: Vectors
    vector_of: IntArray
    topics: Lists
    conditions: Lists
    condition_of: IntArray
    excluded: Lists
    excluded_of: IntArray

    def take(self, which: IntArray) -> Asked:
        """Some of the searches, in this order; what they share stays shared."""
        return self._replace(
            vector_of=self.vector_of[which],
            condition_of=self.condition_of[which],
            excluded_of=self.excluded_of[which],
        )


class Best(NamedTuple):
    """The contenders of n searches, at most `capacity` each.

    Attributes:
        scores: (n, capacity) float32.
        entries: (n, capacity) int64: the first `settled` are ordering keys, the others item rows.
        counts: (n,) int64.
        settled: (n,) int64.
        least: (n,) float32, below the k-th best score so far or equal to it; -inf where fewer.
    """

    scores: Vectors
    entries: IntArray
    counts: IntArray
    settled: IntArray
    least: Vectors

    @classmethod
    def empty(cls, n: int, k: int) -> Best:
        """No contenders; room for twice k and some."""
        capacity = 3 * k + _STRIP
        return cls(
            np.empty((n, capacity), np.float32),
            np.empty((n, capacity), np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.full(n, -np.inf, np.float32),
        )


class Work(NamedTuple):
    """What a scan is about.

    Attributes:
        catalogue: (n, d) float32 vectors by item row.
        asked: The searches.
        best: Their contenders, changed in place.
        k: How many each wants.
    """

    catalogue: Vectors
    asked: Asked
    best: Best
    k: int


class Jobs(NamedTuple):
    """Searches by slice: slice i is wanted by `searches[offsets[i]:offsets[i + 1]]`, ascending."""

    offsets: IntArray
    searches: IntArray


def searches_at_a_time(k: int) -> int:
    """How many searches fit the memory that contenders may take."""
    return max(1, _CELLS // (3 * k + _STRIP))


@njit(cache=True, nogil=True)
def scan(slices: Slices, jobs: Jobs, work: Work, by_topic: bool) -> None:
    """Every search looks into its slices; afterwards its contenders hold its k best.

    Args:
        slices: What is looked into.
        jobs: Which search looks into which slice.
        work: The searches; their contenders are changed in place.
        by_topic: Whether slice i holds the items of topic i. A search then takes an item from the
            first of its topics only. Else an item must carry any topic of the search's condition.
    """
    room = (by_topic, np.empty(_BLOCK * _TILE, np.float32), np.empty(_TILE + 1, np.int64))
    for which in range(len(slices.offsets) - 1):
        low, high = jobs.offsets[which], jobs.offsets[which + 1]
        while low < high:
            low = _scan_block(slices, which, jobs, (low, high), work, room)


@njit(cache=True, nogil=True)
def _scan_block(
    slices: Slices,
    which: int,
    jobs: Jobs,
    span: tuple[int, int],
    work: Work,
    room: tuple[bool, Vectors, IntArray],
) -> int:
    """The next jobs of a slice, as many as share a block of vectors; returns where it ended."""
    asked, (by_topic, scores, passed) = work.asked, room
    taken = np.empty(_BLOCK, np.int64)
    n, end = 0, span[0]
    while end < span[1]:
        vector = asked.vector_of[jobs.searches[end]]
        if n == 0 or taken[n - 1] != vector:
            if n == _BLOCK:
                break
            taken[n] = vector
            n += 1
        end += 1
    block = asked.vectors[taken[:n]]
    rows, vectors, best = slices.rows, slices.vectors, work.best
    searches, vector_of = jobs.searches, asked.vector_of
    allowance = slack(vectors.shape[1])
    first, last = slices.offsets[which], slices.offsets[which + 1]
    for start in range(first, last, _TILE):
        width = min(_TILE, last - start)
        tile = scores[: n * width].reshape(n, width)
        np.dot(block, vectors[start : start + width].T, tile)
        place = 0
        for i in range(span[0], end):
            search = searches[i]
            if vector_of[search] != taken[place]:
                place += 1
            least = best.least[search] - allowance
            n_passed = _passing(scores, place * width, width, least, passed)
            if n_passed:
                topic = which if by_topic else -1
                _offer(
                    rows[start : start + width], tile[place], passed[:n_passed], work, search, topic
                )
    return end


@njit(cache=True, nogil=True)
def _offer(
    rows: IntArray, scores: Vectors, passed: IntArray, work: Work, search: int, topic: int
) -> None:
    """What a search may have, of the items that passed its threshold, becomes a contender."""
    asked, best = work.asked, work.best
    allowance = slack(work.catalogue.shape[1])
    least = best.least[search] - allowance
    excluded = _list(asked.excluded, asked.excluded_of[search])
    condition = _list(asked.conditions, asked.condition_of[search])
    # Without a condition, or alone in its topic's slice, an item's topics need not be read.
    held = len(condition) > (1 if topic >= 0 else 0)
    offsets, carried = asked.topics
    best_scores, entries = best.scores[search], best.entries[search]
    filled = best.counts[search]
    for i in passed:
        row = rows[i]
        if scores[i] < least or (len(excluded) and _holds(excluded, row)):
            continue
        if held and not _may_have(condition, carried[offsets[row] : offsets[row + 1]], topic):
            continue
        best_scores[filled] = scores[i]
        entries[filled] = row
        filled += 1
        if filled == len(entries):
            best.counts[search] = filled
            _compact(work, search)
            filled, least = best.counts[search], best.least[search] - allowance
    best.counts[search] = filled


@njit(cache=True, nogil=True)
def _passing(scores: Vectors, start: int, width: int, least: float, passed: IntArray) -> int:
    """Write the places of a row's scores that reach the threshold; return their number.

    Most strips have none: the first loop is one that a compiler turns into vector instructions.
    """
    n = 0
    whole = width // _STRIP * _STRIP
    for strip in range(0, whole, _STRIP):
        any_passed = 0
        for j in range(strip, strip + _STRIP):
            any_passed += scores[start + j] >= least
        if any_passed:
            for j in range(strip, strip + _STRIP):
                passed[n] = j
                n += scores[start + j] >= least
    for j in range(whole, width):
        passed[n] = j
        n += scores[start + j] >= least
    return n


@njit(cache=True, nogil=True)
def _list(lists: Lists, which: int) -> IntArray:
    return lists.values[lists.offsets[which] : lists.offsets[which + 1]]


@njit(cache=True, nogil=True)
def _holds(ascending: IntArray, wanted: int) -> bool:
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) >> 1
        if ascending[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < len(ascending) and ascending[low] == wanted


@njit(cache=True, nogil=True)
def _may_have(condition: IntArray, carried: IntArray, topic: int) -> bool:
    """Whether an item's topics meet the condition; under a topic, whether that is the first to.

    Both lists ascend, so the first topic in common is found by one walk along both.
    """
    i, j = 0, 0
    while i < len(condition) and j < len(carried):
        if condition[i] == carried[j]:
            return topic < 0 or carried[j] == topic
        if condition[i] < carried[j]:
            i += 1
        else:
            j += 1
    return False


@njit(cache=True, nogil=True)
def _compact(work: Work, search: int) -> None:
    """Make room: drop what cannot be among the k best any more."""
    _raise_least(work, search)
    best = work.best
    scores, entries = best.scores[search], best.entries[search]
    least = best.least[search] - slack(work.catalogue.shape[1])
    kept, settled = 0, 0
    for i in range(best.counts[search]):
        score, stays = scores[i], scores[i] >= least
        scores[kept], entries[kept] = score, entries[i]
        settled += stays & (i < best.settled[search])
        kept += stays
    best.counts[search] = kept
    best.settled[search] = settled
    if kept > len(scores) // 2:  # many nearly equal: exact scores tell which k
        settle(work, search)


@njit(cache=True, nogil=True)
def _raise_least(work: Work, search: int) -> None:
    """To the k-th best score of the contenders, where there are as many."""
    best, n = work.best, work.best.counts[search]
    if n > work.k:
        best.least[search] = max(best.least[search], near_kth(best.scores[search], n, work.k))


@njit(cache=True, nogil=True)
def settle(work: Work, search: int) -> None:
    """Score a search's contenders exactly and keep the k best of them, as ordering keys, in order.

    A key holds the exact score, rounded, best first, and below it the row.
    """
    asked, best, k = work.asked, work.best, work.k
    n, settled = best.counts[search], best.settled[search]
    if n == settled:
        return
    _raise_least(work, search)
    entries, scores = best.entries[search], best.scores[search]
    query = asked.vectors[asked.vector_of[search]]
    least = best.least[search] - slack(len(query))
    kept, old = 0, 0
    for i in range(n):
        stays = scores[i] >= least
        entries[kept] = entries[i]
        old += stays & (i < settled)
        kept += stays
    for i in range(old, kept):
        steps = np.int64(np.rint(exact_score(query, work.catalogue[entries[i]]) / SCORE_STEP))
        entries[i] |= (_TOP_STEPS - steps) << _ROW_BITS
    entries[:kept].sort()
    kept = min(kept, k)
    for i in range(kept):
        scores[i] = score_of(entries[i])
    best.least[search] = scores[k - 1] if kept == k else -np.inf
    best.counts[search] = kept
    best.settled[search] = kept


@njit(cache=True, nogil=True)
def slack(width: int) -> np.float32:
    """How far below the k-th best float32 score an item of the true k best may lie."""
    return np.float32(width * 2.0**-22 + SCORE_STEP)


@njit(cache=True, nogil=True)
def exact_score(query: Vectors, vector: Vectors) -> float:
    """The inner product in float64, always added in this order: eight sums, then their sum."""
    a = b = c = d = e = f = g = h = 0.0
    whole = len(query) // 8 * 8
    for j in range(0, whole, 8):
        a += np.float64(query[j]) * np.float64(vector[j])
        b += np.float64(query[j + 1]) * np.float64(vector[j + 1])
        c += np.float64(query[j + 2]) * np.float64(vector[j + 2])
        d += np.float64(query[j + 3]) * np.float64(vector[j + 3])
        e += np.float64(query[j + 4]) * np.float64(vector[j + 4])
        f += np.float64(query[j + 5]) * np.float64(vector[j + 5])
        g += np.float64(query[j + 6]) * np.float64(vector[j + 6])
        h += np.float64(query[j + 7]) * np.float64(vector[j + 7])
    for j in range(whole, len(query)):
        a += np.float64(query[j]) * np.float64(vector[j])
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@njit(cache=True, nogil=True)
def score_of(key: int) -> np.float32:
    """The rounded score in an ordering key."""
    return np.float32((_TOP_STEPS - (key >> _ROW_BITS)) * SCORE_STEP)


@njit(cache=True, nogil=True)
def near_kth(values: Vectors, n: int, k: int) -> np.float32:
    """What the k greatest of the first n values, finite, reach: the k-th or just below; k <= n.

    Halving the range, each time by a count without a branch, is several times as fast as a
    quickselect, whose branches are mispredicted.
    """
    low = high = values[0]
    for i in range(n):
        low, high = min(low, values[i]), max(high, values[i])
    for _ in range(_HALVINGS):
        middle = low + (high - low) * np.float32(0.5)
        reached = 0
        for i in range(n):
            reached += values[i] >= middle
        if reached >= k:
            low = middle
            if reached == k:
                break
        else:
            high = middle
    for i in range(n):
        high = min(high, values[i]) if values[i] >= low else high
    return high


@njit(cache=True, nogil=True)
def write_hits(work: Work, places: IntArray, hits: Hits) -> None:
    """Settle search i and write what it found to row `places[i]` of the hits."""
    best = work.best
    for search in range(len(best.counts)):
        settle(work, search)
        n = best.counts[search]
        for i in range(n):
            key = best.entries[search, i]
            hits.rows[places[search], i] = key & _ROW_MASK
            hits.scores[places[search], i] = score_of(key)
        hits.counts[places[search]] = n


@njit(cache=True, nogil=True)
def jobs_by_slice(searches: IntArray, slices: IntArray, n_slices: int) -> Jobs:
    """(p,) pairs, by search, as Jobs: a counting sort, which keeps the order of the searches."""
    offsets = np.zeros(n_slices + 1, np.int64)
    for which in slices:
        offsets[which + 1] += 1
    offsets = np.cumsum(offsets)
    free = offsets[:-1].copy()
    ordered = np.empty(len(searches), np.int64)
    for i in range(len(searches)):
        ordered[free[slices[i]]] = searches[i]
        free[slices[i]] += 1
    return Jobs(offsets, ordered)


@njit(cache=True, nogil=True)
def ascending(lists: Lists) -> Lists:
    """Every list sorted, without repeats."""
    offsets, values = np.zeros_like(lists.offsets), lists.values.copy()
    n = 0
    for which in range(len(offsets) - 1):
        part = values[lists.offsets[which] : lists.offsets[which + 1]]
        part.sort()
        for i in range(len(part)):
            if i == 0 or part[i] != part[i - 1]:
                last = part[i]
                values[n] = last
                n += 1
        offsets[which + 1] = n
    return Lists(offsets, values[:n])
