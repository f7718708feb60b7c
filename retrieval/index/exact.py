"""The items nearest to a query, in the whole catalogue or inside the slice of a condition.

A condition is a set of topics; its *slice* is every item that carries at least one of them. One
interface, `ItemIndex`, with one method; `ExactIndex` is the exact one and the default, since
filtered retrieval at low selectivity breaks graph indexes (design, section 4, Index). Beside it
`ivf` (approximate, for large catalogues without a condition) and `planner`, which picks between
them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from profiling.items import Items
from profiling.schema import IntArray
from retrieval.index.scan import (
    Asked,
    Best,
    Slices,
    Work,
    ascending,
    jobs_by_slice,
    scan,
    searches_at_a_time,
    write_hits,
)
from retrieval.index.searches import (
    SCORE_STEP,
    Hits,
    ItemIndex,
    Lists,
    Searches,
    Vectors,
    check_queries,
    check_rows,
)

__all__ = ["SCORE_STEP", "ExactIndex", "Hits", "ItemIndex", "Lists", "Searches", "Vectors"]


class ExactIndex:
    """Exact search: the k greatest `round(q . e_i, 1e-6)` of the slice, ties by item id.

    Two plans with one result. *Slice*: a search looks into the slice of each topic of its
    condition. *Whole*: it looks at every item and leaves out those without the condition; taken
    where the condition is empty or the slices of its topics add up to the catalogue or more.

    Attributes:
        ids: (n,) int64, ascending: hits are rows of it.
        vectors: (n, d) float32 of length 1 at most: content embeddings or a model's item tower.
        carried: Lists, the topic ids of every item.
        topics: (t,) int64, ascending, the topic ids that some item carries.
    """

    def __init__(self, ids: IntArray, vectors: Vectors, carried: Lists) -> None:
        """Over the whole catalogue.

        Raises:
            ValueError: Ids that do not ascend; another number of vectors or topic lists than ids; a
                vector that is longer than 1 or not finite.
        """
        _check_catalogue(ids, vectors, carried)
        self.ids, self.carried = ids, carried
        self.vectors = np.require(vectors, np.float32, ["C", "W"])
        self.topics = np.unique(carried.values)
        self._numbers = ascending(carried._replace(values=_places(self.topics, carried.values)))
        offsets, numbers = self._numbers
        owners = np.repeat(np.arange(len(ids)), np.diff(offsets))
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(len(self.topics) + 1))
        rows = owners[order]
        # The catalogue once more, topic by topic, so that a slice is never gathered.
        self._slices = Slices(bounds.astype(np.int64), rows, self.vectors[rows])
        everything = np.arange(len(ids))
        self._whole = Slices(np.array([0, len(ids)]), everything, self.vectors)

    @classmethod
    def over(cls, items: Items, vectors: Vectors | None = None) -> ExactIndex:
        """Over a catalogue: with its content embeddings, or with the (n, d) vectors of a model."""
        carried = Lists(items.topic_offsets, items.topic_ids)
        return cls(items.ids, items.vectors if vectors is None else vectors, carried)

    def search(self, searches: Searches, k: int) -> Hits:
        """See `ItemIndex.search`.

        Raises:
            ValueError: The vectors have another width than the items, or are longer than 1.
        """
        check_queries(searches.vectors, self.vectors.shape[1])
        hits = Hits.none(len(searches.vector_of), k)
        wanted = min(k, len(self.ids))
        if wanted == 0:
            return hits
        order = np.argsort(searches.vector_of, kind="stable")
        asked = self.asked(searches)
        step = searches_at_a_time(wanted)
        for start in range(0, len(order), step):
            places = order[start : start + step]
            part = asked.take(places)
            work = Work(self.vectors, part, Best.empty(len(places), wanted), wanted)
            whole = self.plans_whole(part.conditions)[part.condition_of]
            self._scan_topics(work, np.flatnonzero(~whole))
            free = np.flatnonzero(whole)
            scan(self._whole, jobs_by_slice(free, np.zeros(len(free), np.int64), 1), work, False)
            write_hits(work, places, hits)
        return hits

    def asked(self, searches: Searches) -> Asked:
        """The searches in the form that kernels take: topics by number, lists ascending."""
        conditions = ascending(
            searches.conditions._replace(values=_places(self.topics, searches.conditions.values))
        )
        return Asked(
            np.require(searches.vectors, np.float32, ["C", "W"]),
            searches.vector_of.astype(np.int64),
            self._numbers,
            conditions,
            searches.condition_of.astype(np.int64),
            ascending(searches.excluded),
            searches.excluded_of.astype(np.int64),
        )

    def slice_sizes(self, conditions: Lists) -> IntArray:
        """(l,) int64: in how many items' vectors the slices of each condition's topics hold.

        Args:
            conditions: Lists of topic numbers, -1 for a topic that nothing carries.
        """
        sizes = np.r_[np.diff(self._slices.offsets), 0][conditions.values]
        return np.diff(np.r_[0, np.cumsum(sizes)][conditions.offsets]).astype(np.int64)

    def plans_whole(self, conditions: Lists) -> npt.NDArray[np.bool_]:
        """(l,) whether a condition is looked for in the whole catalogue: if that scores fewer."""
        free = np.diff(conditions.offsets) == 0
        whole: npt.NDArray[np.bool_] = free | (self.slice_sizes(conditions) >= len(self.ids))
        return whole

    def _scan_topics(self, work: Work, which: IntArray) -> None:
        """Look into the slice of every topic of the conditions of these searches."""
        offsets, values = work.asked.conditions
        condition = work.asked.condition_of[which]
        lengths = offsets[condition + 1] - offsets[condition]
        places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        topics = values[np.repeat(offsets[condition], lengths) + places]
        searches = np.repeat(which, lengths)[topics >= 0]
        jobs = jobs_by_slice(searches, topics[topics >= 0], len(self.topics))
        scan(self._slices, jobs, work, True)


def _check_catalogue(ids: IntArray, vectors: Vectors, carried: Lists) -> None:
    for what, n in (("vectors", len(vectors)), ("topic lists", len(carried.offsets) - 1)):
        if n != len(ids):
            raise ValueError(f"{n} {what} for {len(ids)} items: give every item one")
    if np.any(ids[1:] <= ids[:-1]):
        raise ValueError("item ids must ascend, without repeats: ties are ordered by row")
    check_rows(vectors, "item row")


def _places(topics: IntArray, wanted: IntArray) -> IntArray:
    """The place of each wanted topic in ascending `topics`; -1 where no item carries it."""
    if len(topics) == 0:
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(topics, wanted), len(topics) - 1)
    return np.where(topics[places] == wanted, places, -1).astype(np.int64)
