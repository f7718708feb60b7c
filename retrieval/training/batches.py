"""Training batches: pairs in a shuffled order, conditions drawn anew every epoch.

Every draw is a hash of the seed, the epoch and what it is for, so a batch is the same whatever
thread makes it and however often training is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.hashing import hash64, uniforms
from profiling.schema import FloatArray, IntArray
from retrieval.index.exact import Lists
from retrieval.model.inputs import Catalogue, Rows
from retrieval.model.towers import ContextRows, Floats, HistoryRows
from retrieval.training.learning import TrainingConfig
from retrieval.training.pools import BoolArray, Pool


class Batch(NamedTuple):
    """What a step reads; B rows, U drawn items.

    Attributes:
        history: HistoryRows.
        context: ContextRows.
        items: (B,) int32 item rows of the positives.
        users: (B,) int32 codes.
        cutoffs: (B,) int32 rows of the prior's table.
        early: (B,) bool, before the first cut-off.
        drawn: (U,) int32 item rows, even over the catalogue.
        sliced: (B, M) int32 item rows, even over the slice of the row's condition; -1 for none.
    """

    history: HistoryRows
    context: ContextRows
    items: Rows
    users: Rows
    cutoffs: Rows
    early: BoolArray
    drawn: Rows
    sliced: Rows


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batches of an epoch.

    Attributes:
        catalogue: Bound to the model's ids and topics.
        config: Shares, strategies and sizes.
        topic_counts: (t,) positives that carry each topic, for `inverse_popularity`.
        slices: Item rows by topic row.
        cutoffs: (q,) int64 ascending: rows of the prior's table.
        seed: Of all draws.
    """

    catalogue: Catalogue
    config: TrainingConfig
    topic_counts: npt.NDArray[np.float64]
    slices: Lists
    cutoffs: IntArray
    seed: int

    def order(self, pool: Pool, epoch: int) -> IntArray:
        """The places of the pairs learned from in this epoch, in its order."""
        drawn = hash64("shuffle", self.seed, epoch, pool.users, pool.items)
        order = np.argsort(drawn, kind="stable")
        order = order[~self.held_out(pool)[order]]
        early = np.flatnonzero(pool.early[order])
        # Some early pairs, others every epoch: as many as belong there, the first in this order.
        return np.delete(order, early[round(len(early) * self.config.early_share) :])

    def expected(self, pool: Pool) -> FloatArray:
        """(p,) how often each pair is learned from in an epoch, in expectation."""
        often = np.where(pool.early, self.config.early_share, 1.0)
        return np.where(self.held_out(pool), 0.0, often)

    def held_out(self, pool: Pool) -> BoolArray:
        """(p,) bool: pairs kept for the recall that training shows; the same for every seed."""
        share = uniforms("held out", pool.users, pool.items)
        return (share < self.config.heldout_share) & ~pool.early

    def steps(self, pool: Pool) -> int:
        """How many batches an epoch of this pool has; 0 where there is no pair, else at least 1."""
        held = self.held_out(pool)
        early = round(int((pool.early & ~held).sum()) * self.config.early_share)
        pairs = early + int((~pool.early & ~held).sum())
        return max(min(pairs, 1), pairs // self.config.batch_size)

    def batches(self, pool: Pool, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Whole batches from the `first` on; what is left over waits for another epoch's order.

        A pool smaller than a batch is repeated until it fills one.
        """
        size, order = self.config.batch_size, self.order(pool, epoch)
        if 0 < len(order) < size:
            order = np.resize(order, size)
        for number in range(first, len(order) // size):
            yield self.batch(pool, order[number * size : (number + 1) * size], epoch)

    def batch(self, pool: Pool, which: IntArray, epoch: int) -> Batch:
        """The pairs `which` with their conditions of this epoch."""
        history, rows = self._histories(pool, which)
        context = self._contexts(pool, which, rows[:, pool.n_recent :], epoch)
        early = pool.early[which]
        first = int(pool.users[which[0]]), int(pool.items[which[0]])
        draw = np.arange(self.config.uniform_negatives)
        drawn = uniforms("drawn", self.seed, epoch, *first, draw)
        return Batch(
            history=history,
            context=context,
            items=pool.items[which],
            users=(hash64(pool.users[which]) & np.uint64(0x7FFFFFFF)).astype(np.int32),
            cutoffs=np.searchsorted(self.cutoffs, pool.cutoffs[which]).astype(np.int32),
            early=early,
            drawn=(drawn * len(self.catalogue.ids)).astype(np.int32),
            sliced=self._sliced(context.topics, pool, which, epoch),
        )

    def _histories(self, pool: Pool, which: IntArray) -> tuple[HistoryRows, Rows]:
        """Each pair's history, less the positive itself; and the item rows in it."""
        of = pool.history[which]
        weights, content, sizes = pool.weights[of], pool.content[of], pool.sizes[of]
        rows = pool.rows[of]
        own = rows == pool.items[which][:, None]
        b, place = np.nonzero(own)
        vectors = self.catalogue.items.vectors[pool.items[which[b]]]
        np.subtract.at(content, b, weights[b, place][:, :, None] * vectors[:, None, :])
        weights[b, place] = 0
        return HistoryRows(pool.ids[of], content, weights, sizes), np.where(own, -1, rows)

    def _contexts(self, pool: Pool, which: IntArray, medoids: Rows, epoch: int) -> ContextRows:
        """Each pair's condition: logged, drawn from the positive, or one of the history's own."""
        config, items = self.config, pool.items[which]
        none, logged, chosen, own, place, alone = (
            uniforms(name, self.seed, epoch, pool.users[which], items)
            for name in ("none", "logged", "topic", "own", "medoid", "query")
        )
        topics, sure = self._item_topics(items, chosen)
        importance = pool.weights[pool.history[which], pool.n_recent :, -1]
        if config.query_source == "nearest":
            queries = self._nearest(items, medoids)
        else:
            queries = _drawn_medoid(importance * self._shares(medoids, topics), medoids, place)
        known = logged < config.logged_share
        queries = np.where(known & (pool.queries[which] >= 0), pool.queries[which], queries)
        asked = alone >= config.query_dropout
        if config.query_source == "shared":
            of_query = self.catalogue.topics[queries], self.catalogue.confidences[queries]
            topics, sure = _either(asked & (queries >= 0), *of_query, topics, sure)
        use_logged = known & (pool.topics[which, 0] >= 0)
        topics, sure = _either(
            use_logged, pool.topics[which], pool.confidences[which], topics, sure
        )
        drawn = _drawn_medoid(importance, medoids, place)
        use_own = ~use_logged & (own < config.history_share) & (drawn >= 0)
        of_own = self.catalogue.topics[drawn], self.catalogue.confidences[drawn]
        topics, sure = _either(use_own, *of_own, topics, sure)
        queries = np.where(use_own, drawn, queries)
        keep = none >= config.none_share
        asked &= keep & (config.query_source != "none")
        return self.catalogue.context_rows(
            np.where(keep[:, None], topics, -1).astype(np.int32),
            np.where(keep[:, None], sure, np.float32(0)),
            np.where(asked, queries, -1).astype(np.int64),
        )

    def _item_topics(self, items: Rows, chosen: npt.NDArray[np.float64]) -> tuple[Rows, Floats]:
        """One topic of each item, drawn by the strategy, at confidence 1; or all of them."""
        topics, sure = self.catalogue.topics[items], self.catalogue.confidences[items]
        if self.config.condition == "all":
            return topics, sure
        weights = (topics >= 0).astype(np.float64)
        if self.config.condition == "confidence":
            weights *= sure
        elif self.config.condition == "inverse_popularity":
            weights /= np.maximum(self.topic_counts[topics], 1)
        ends = np.cumsum(weights, axis=1)
        place = (ends <= chosen[:, None] * ends[:, -1:]).sum(axis=1)
        place = np.minimum(place, topics.shape[1] - 1)[:, None]
        topic = np.take_along_axis(topics, place, axis=1)
        return topic, (topic >= 0).astype(np.float32)

    def _shares(self, medoids: Rows, topics: Rows) -> BoolArray:
        """(B, C) bool: which medoids carry the first of the row's topics."""
        carried = (self.catalogue.topics[medoids] == topics[:, :1, None]).any(axis=2)
        return carried & (medoids >= 0) & (topics[:, :1] >= 0)

    def _nearest(self, items: Rows, medoids: Rows) -> Rows:
        """The medoid nearest to each item, -1 where there is none: the query it would answer."""
        vectors = self.catalogue.items.vectors
        near = np.einsum("bcw,bw->bc", vectors[medoids], vectors[items], optimize=True)
        near = np.where(medoids >= 0, near, -np.inf)
        best = near.argmax(axis=1)
        return np.take_along_axis(medoids, best[:, None], axis=1)[:, 0]

    def _sliced(self, topics: Rows, pool: Pool, which: IntArray, epoch: int) -> Rows:
        """Items drawn evenly from the slice of the condition's surest topic."""
        m = self.config.slice_negatives
        if m == 0:
            return np.zeros((len(which), 0), np.int32)
        topic = topics[:, :1]
        draws = uniforms(
            "slice",
            self.seed,
            epoch,
            np.repeat(pool.users[which], m),
            np.repeat(pool.items[which], m),
            np.tile(np.arange(m), len(which)),
        ).reshape(-1, m)
        starts, sizes = self.slices.offsets[:-1][topic], np.diff(self.slices.offsets)[topic]
        rows = self.slices.values[
            np.minimum(starts + (draws * sizes).astype(np.int64), len(self.slices.values) - 1)
        ]
        return np.where((topic >= 0) & (sizes > 0), rows, -1).astype(np.int32)


def _drawn_medoid(weights: Floats, medoids: Rows, drawn: npt.NDArray[np.float64]) -> Rows:
    """One medoid a row by its weight, -1 where all weigh 0."""
    ends = np.cumsum(np.where(medoids >= 0, weights, 0), axis=1, dtype=np.float64)
    place = (ends <= drawn[:, None] * ends[:, -1:]).sum(axis=1)
    place = np.minimum(place, medoids.shape[1] - 1)
    found = np.take_along_axis(medoids, place[:, None], axis=1)[:, 0]
    return np.where(ends[:, -1] > 0, found, -1).astype(np.int32)


def _either(
    left: BoolArray, topics: Rows, sure: Floats, other_topics: Rows, other_sure: Floats
) -> tuple[Rows, Floats]:
    """Rows of the first pair where `left`, else of the second, padded to the wider."""
    width = max(topics.shape[1], other_topics.shape[1])

    def wide(values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=fill)

    return (
        np.where(left[:, None], wide(topics, -1), wide(other_topics, -1)),
        np.where(left[:, None], wide(sure, 0), wide(other_sure, 0)),
    )


def slices_of(catalogue: Catalogue, n_topics: int) -> Lists:
    """Item rows by topic row."""
    rows, places = np.nonzero(catalogue.topics >= 0)
    topics = catalogue.topics[rows, places]
    order = np.argsort(topics, kind="stable")
    offsets = np.searchsorted(topics[order], np.arange(n_topics + 1))
    return Lists(offsets.astype(np.int64), rows[order].astype(np.int64))
