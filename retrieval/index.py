"""The items nearest to a query, in the whole catalogue or inside the slice of a condition.

A condition is a set of topics; its *slice* is every item that carries at least one of them. One
interface, `ItemIndex`, with one method; `ExactIndex` is the exact one and the default, since
filtered retrieval at low selectivity breaks graph indexes (design, section 4, Index).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from numba import njit

from profiling.items import Items
from profiling.schema import IntArray

Vectors = npt.NDArray[np.float32]

SCORE_STEP = 1e-6  # scores are rounded to it before they are ordered
_BLOCK_CELLS = 1 << 22  # float32 scores held at a time, 16 MiB
_ROW_BITS = 40  # of an ordering key; above them stands the score
_TOP_STEPS = 1 << 21  # more steps of SCORE_STEP than a cosine can have
_LONGEST = 1.001  # a unit row in float32, with room for its rounding


class Lists(NamedTuple):
    """(l,) lists of int64: list i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: IntArray
    values: IntArray


class Searches(NamedTuple):
    """n searches; what many of them share (vector, condition, exclusions) is held and used once.

    Attributes:
        vectors: (v, d) float32 unit rows.
        vector_of: (n,) int64, each search's row of `vectors`.
        conditions: Lists of topic ids; an empty list is no condition: the whole catalogue.
        condition_of: (n,) int64, each search's list of `conditions`.
        excluded: Lists of item rows that must not come back.
        excluded_of: (n,) int64, each search's list of `excluded`.
    """

    vectors: Vectors
    vector_of: IntArray
    conditions: Lists
    condition_of: IntArray
    excluded: Lists
    excluded_of: IntArray


class Hits(NamedTuple):
    """What n searches found, best first.

    Attributes:
        rows: (n, k) int64 item rows, -1 beyond the count.
        scores: (n, k) float32 cosines, a multiple of `SCORE_STEP`; 0 beyond the count.
        counts: (n,) int64.
    """

    rows: IntArray
    scores: Vectors
    counts: IntArray


class ItemIndex(Protocol):
    """What retrieval asks; approximate indexes may miss items but never return an excluded one."""

    def search(self, searches: Searches, k: int) -> Hits:
        """The k items of greatest cosine within each search's slice, equal scores by item id."""
        ...


class ExactIndex:
    """Exact search: the k greatest `round(cos(q, e_i), 1e-6)` of the slice, ties by item id.

    A search looks into the slice of each topic of its condition; the best of those are its hits.
    Two stages a slice. A float32 matrix product, one for all its searches, finds the contenders:
    its error is at most `d * 2^-23`, so no item of the true top k lies further than twice that (and
    one step) below the k-th best. Contenders are scored again in float64, in one fixed order of
    addition, rounded and ordered. So the same search gives the same bits in any batch, which a
    float32 product alone does not: its last bits differ with the batch's shape.
    """

    def __init__(self, items: Items) -> None:
        """Over the whole catalogue.

        Raises:
            ValueError: A vector is longer than 1 or not finite.
        """
        _check_unit_rows(items.vectors, "item row")
        topics, offsets, rows = items.items_by_topic
        self._topics = topics
        # The catalogue once more, topic by topic, so that a slice is never gathered: the last
        # "topic" is everything, for searches without a condition.
        whole = np.arange(len(items.ids))
        self._slices = _Slices(
            offsets=np.r_[offsets, offsets[-1] + len(whole)],
            rows=np.r_[rows, whole],
            vectors=np.concatenate([items.vectors[rows], items.vectors]),
        )
        self._n_items = len(whole)

    def search(self, searches: Searches, k: int) -> Hits:
        """See `ItemIndex.search`.

        Raises:
            ValueError: The vectors have another width than the items, or are no unit rows.
        """
        width = self._slices.vectors.shape[1]
        if searches.vectors.shape[1] != width:
            raise ValueError(
                f"queries are {searches.vectors.shape[1]} numbers wide, the index {width}: "
                "make both with one embedding version"
            )
        _check_unit_rows(searches.vectors, "query")
        n = len(searches.vector_of)
        hits = Hits(np.full((n, k), -1, np.int64), np.zeros((n, k), np.float32), np.zeros(n, int))
        if n and self._n_items:
            inner = searches._replace(vectors=np.ascontiguousarray(searches.vectors))
            parts = _parts(searches, self._topics)
            keys = np.empty((len(parts.search), k), np.int64)
            found = np.zeros(len(parts.search), np.int64)
            order = np.lexsort((parts.search, inner.vector_of[parts.search], parts.slice))
            stamps = np.full(self._n_items, -1, np.int64)
            _search_slices(self._slices, inner, parts, order, stamps, keys, found)
            _merge_parts(parts.search, keys, found, hits)
        return hits


class _Slices(NamedTuple):
    """Item rows and their vectors, topic by topic."""

    offsets: IntArray
    rows: IntArray
    vectors: Vectors


class _Slice(NamedTuple):
    """Rows of the catalogue and their vectors."""

    rows: IntArray
    vectors: Vectors


class _Parts(NamedTuple):
    """The slices that each search looks into, by search."""

    search: IntArray
    slice: IntArray


def _parts(searches: Searches, topics: IntArray) -> _Parts:
    """Every search once for each topic of its condition that some item carries."""
    n_lists = len(searches.conditions.offsets) - 1
    lengths = np.diff(searches.conditions.offsets)
    lists = np.r_[np.repeat(np.arange(n_lists), lengths), np.flatnonzero(lengths == 0)]
    slices = np.r_[
        _places(topics, searches.conditions.values), np.full((lengths == 0).sum(), len(topics))
    ]
    pairs = np.unique(np.stack([lists, slices], axis=1)[slices >= 0], axis=0)
    bounds = np.searchsorted(pairs[:, 0], np.arange(n_lists + 1))
    counts = np.diff(bounds)[searches.condition_of]
    search = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(search)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Parts(search, pairs[bounds[searches.condition_of[search]] + places, 1])


def _check_unit_rows(vectors: Vectors, what: str) -> None:
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    wrong = np.flatnonzero(~(squares <= _LONGEST**2))
    if len(wrong):
        length = np.sqrt(squares[wrong[0]])
        raise ValueError(f"{what} {wrong[0]} has length {length:g}, must be 1 at most: scale it")


def _places(topics: IntArray, wanted: IntArray) -> IntArray:
    """The place of each wanted topic in ascending `topics`; -1 where no item carries it."""
    if len(topics) == 0:
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(topics, wanted), len(topics) - 1)
    return np.where(topics[places] == wanted, places, -1).astype(np.int64)


@njit(cache=True, nogil=True)
def _search_slices(
    slices: _Slices,
    searches: Searches,
    parts: _Parts,
    order: IntArray,
    stamps: IntArray,
    keys: IntArray,
    found: IntArray,
) -> None:
    """The top k keys of every part; `order` brings those of one slice together, then by vector."""
    start = 0
    while start < len(order):
        which = parts.slice[order[start]]
        end = start
        while end < len(order) and parts.slice[order[end]] == which:
            end += 1
        low, high = slices.offsets[which], slices.offsets[which + 1]
        part = _Slice(slices.rows[low:high], slices.vectors[low:high])
        _search_slice(part, searches, parts.search, order[start:end], stamps, keys, found)
        start = end


@njit(cache=True, nogil=True)
def _search_slice(
    part: _Slice,
    searches: Searches,
    search_of: IntArray,
    order: IntArray,
    stamps: IntArray,
    keys: IntArray,
    found: IntArray,
) -> None:
    """Parts of one slice, by vector: a block of vectors against the slice at a time."""
    if len(part.rows) == 0:
        return
    block = max(1, min(256, _BLOCK_CELLS // len(part.rows)))
    contenders = np.empty(len(part.rows), np.int64)
    k = keys.shape[1]
    start = 0
    while start < len(order):
        vectors = np.empty(block, np.int64)
        n_vectors = 0
        end = start
        while end < len(order):
            vector = searches.vector_of[search_of[order[end]]]
            if n_vectors == 0 or vectors[n_vectors - 1] != vector:
                if n_vectors == block:
                    break
                vectors[n_vectors] = vector
                n_vectors += 1
            end += 1
        scores = np.dot(searches.vectors[vectors[:n_vectors]], part.vectors.T)
        place = 0
        for i in order[start:end]:
            search = search_of[i]
            if searches.vector_of[search] != vectors[place]:
                place += 1
            _stamp(searches.excluded, searches.excluded_of[search], stamps, search)
            query = searches.vectors[vectors[place]]
            n = _contenders(part, query, scores[place], stamps, search, k, contenders)
            contenders[:n].sort()
            found[i] = min(n, k)
            keys[i, : found[i]] = contenders[: found[i]]
        start = end


@njit(cache=True, nogil=True)
def _stamp(excluded: Lists, which: int, stamps: IntArray, search: int) -> None:
    for row in excluded.values[excluded.offsets[which] : excluded.offsets[which + 1]]:
        stamps[row] = search


@njit(cache=True, nogil=True)
def _contenders(
    part: _Slice,
    query: Vectors,
    scores: Vectors,
    stamps: IntArray,
    search: int,
    k: int,
    keys: IntArray,
) -> int:
    """Write the ordering key of every item that may be in the top k to `keys`; return their number.

    A key holds the exact score, rounded, best first, and below it the row. A row is excluded where
    its stamp is the search.
    """
    least = _kth_best(part.rows, scores, stamps, search, k)
    least -= len(query) * 2.0**-22 + SCORE_STEP
    n = 0
    for i in range(len(scores)):
        if scores[i] >= least and stamps[part.rows[i]] != search:
            exact = 0.0
            for j in range(len(query)):
                exact += np.float64(query[j]) * np.float64(part.vectors[i, j])
            steps = np.int64(np.rint(exact / SCORE_STEP))
            keys[n] = ((_TOP_STEPS - steps) << _ROW_BITS) | part.rows[i]
            n += 1
    return n


@njit(cache=True, nogil=True)
def _kth_best(rows: IntArray, scores: Vectors, stamps: IntArray, search: int, k: int) -> float:
    """The k-th greatest score that is not excluded; -inf where there are fewer."""
    heap = np.full(k, -np.inf, np.float32)  # least on top
    for i in range(len(scores)):
        if scores[i] > heap[0] and stamps[rows[i]] != search:
            _replace_top(heap, scores[i])
    return float(heap[0])


@njit(cache=True, nogil=True)
def _replace_top(heap: Vectors, value: float) -> None:
    place = 0
    while True:
        child = 2 * place + 1
        if child >= len(heap):
            break
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@njit(cache=True, nogil=True)
def _merge_parts(search_of: IntArray, keys: IntArray, found: IntArray, hits: Hits) -> None:
    """The best of a search's parts; an item of two topics is in two parts with one key."""
    k = keys.shape[1]
    start = 0
    while start < len(search_of):
        search, end, n = search_of[start], start, 0
        while end < len(search_of) and search_of[end] == search:
            n += found[end]
            end += 1
        merged = np.empty(n, np.int64)
        n = 0
        for i in range(start, end):
            merged[n : n + found[i]] = keys[i, : found[i]]
            n += found[i]
        if end - start > 1:
            merged.sort()
        place = 0
        for i in range(n):
            if place < k and (i == 0 or merged[i] != merged[i - 1]):
                hits.rows[search, place] = merged[i] & ((1 << _ROW_BITS) - 1)
                hits.scores[search, place] = (_TOP_STEPS - (merged[i] >> _ROW_BITS)) * SCORE_STEP
                place += 1
        hits.counts[search] = place
        start = end
