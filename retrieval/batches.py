"""Training batches: pairs with their histories as arrays, shuffled, conditions drawn anew.

Every draw is a hash of the seed, the epoch and what it is for, so a batch is the same whatever
thread makes it and however often training is resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.hashing import hash64, uniforms
from profiling.schema import IntArray, ints
from retrieval.index import Lists
from retrieval.inputs import Catalogue, Rows, lists_of, pad, padded_topics, places_of
from retrieval.learning import TrainingConfig
from retrieval.towers import ContextRows, Floats, HistoryRows, ModelConfig

BoolArray = npt.NDArray[np.bool_]


class Chunk(NamedTuple):
    """Some users' rows: every (user_id, cutoff) of PAIRS is in HISTORIES.

    Attributes:
        histories: HISTORIES.
        pairs: PAIRS.
    """

    histories: pa.Table
    pairs: pa.Table


class Batch(NamedTuple):
    """What a step reads; B rows, U drawn items.

    Attributes:
        history: HistoryRows.
        context: ContextRows.
        items: (B,) int32 item rows of the positives.
        users: (B,) int32 codes.
        cutoffs: (B,) int32 rows of the prior's table.
        early: (B,) bool, before the first cut-off.
        weights: (B,) float32 of the rows in the loss.
        drawn: (U,) int32 item rows, even over the catalogue.
        sliced: (B, M) int32 item rows, even over the slice of the row's condition; -1 for none.
    """

    history: HistoryRows
    context: ContextRows
    items: Rows
    users: Rows
    cutoffs: Rows
    early: BoolArray
    weights: Floats
    drawn: Rows
    sliced: Rows


@dataclass(frozen=True)
class Pool:
    """Pairs held in memory together, and the history of each.

    Attributes:
        ids: (m, L) int32 rows of the id embedding, recent items, then medoids.
        rows: (m, L) int32 item rows, -1 for none.
        weights: (m, L, K) float32 as in HistoryRows.
        content: (m, K, c) float32 as in HistoryRows.
        sizes: (m, 2) float32 as in HistoryRows.
        n_recent: How many of the L places are for recent items.
        medoids: (m, C) int32 item rows: the last places of `rows`.
        history: (p,) the history of each pair.
        users: (p,) int64 user ids.
        items: (p,) int32 item rows of the positives.
        cutoffs: (p,) int64 microseconds.
        at: (p,) int64 microseconds.
        queries: (p,) int32 item rows of logged query items, -1 where unknown.
        topics: (p, T) int32 rows of the topics of logged conditions, -1 beyond.
        confidences: (p, T) float32.
    """

    ids: Rows
    rows: Rows
    weights: Floats
    content: Floats
    sizes: Floats
    n_recent: int
    history: IntArray
    users: IntArray
    items: Rows
    cutoffs: IntArray
    at: IntArray
    queries: Rows
    topics: Rows
    confidences: Floats

    @property
    def early(self) -> BoolArray:
        """(p,) bool: positives before the first cut-off, members of their own history."""
        return self.at < self.cutoffs

    def __len__(self) -> int:
        return len(self.items)


def pool_of(
    chunks: list[Chunk], catalogue: Catalogue, topic_ids: IntArray, config: ModelConfig
) -> Pool:
    """Chunks as arrays; pairs whose item is not in the catalogue are left out.

    Raises:
        ValueError: A pair without its history.
    """
    histories = pa.concat_tables([c.histories for c in chunks]).combine_chunks()
    pairs = pa.concat_tables([c.pairs for c in chunks]).combine_chunks()
    items = catalogue.items.rows_of(ints(pairs, "item_id"))
    pairs, items = pairs.filter(pa.array(items >= 0)), items[items >= 0]
    recent, ages, medoids, importances = catalogue.history_parts(histories)
    read = catalogue.pooled(recent, ages, medoids, importances, config)
    queries = pairs["query_item_id"].fill_null(-1).to_numpy()
    logged = lists_of(pairs, "logged_topics")
    logged = Lists(logged.offsets, places_of(topic_ids, logged.values))
    topics, sure = padded_topics(logged, lists_of(pairs, "logged_confidences").values, 8)
    return Pool(
        ids=read.ids.astype(np.int32),
        rows=np.concatenate([recent, medoids], axis=1).astype(np.int32),
        weights=read.weights,
        content=read.content,
        sizes=read.sizes,
        n_recent=recent.shape[1],
        history=_history_of(pairs, histories),
        users=ints(pairs, "user_id"),
        items=items.astype(np.int32),
        cutoffs=ints(pairs, "cutoff"),
        at=ints(pairs, "at"),
        queries=catalogue.items.rows_of(queries).astype(np.int32),
        topics=topics,
        confidences=sure,
    )


def _history_of(pairs: pa.Table, histories: pa.Table) -> IntArray:
    key: Any = np.dtype([("user", np.int64), ("cutoff", np.int64)])
    known, wanted = (
        np.rec.fromarrays([ints(t, "user_id"), ints(t, "cutoff")], dtype=key)
        for t in (histories, pairs)
    )
    order = np.argsort(known, order=("user", "cutoff"))
    places = np.searchsorted(known[order], wanted)
    places = order[np.minimum(places, max(len(known) - 1, 0))] if len(known) else places
    absent = np.flatnonzero(known[places] != wanted) if len(known) else np.arange(len(wanted))
    if len(absent):
        user, cutoff = wanted[absent[0]]
        raise ValueError(
            f"PAIRS has user {user} at cut-off {cutoff}, HISTORIES of the same chunk has not: "
            "build the histories of all pairs"
        )
    return places.astype(np.int64)


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

    def shuffled(self, pool: Pool, epoch: int) -> IntArray:
        """(p,) the order of the pool's pairs in this epoch."""
        drawn = hash64("shuffle", self.seed, epoch, pool.users, pool.items)
        return np.argsort(drawn, kind="stable")

    def batches(self, pool: Pool, order: IntArray, epoch: int) -> Iterator[Batch]:
        """Whole batches in this order; what is left over waits for another epoch's order.

        A pool smaller than a batch is repeated until it fills one.
        """
        size = self.config.batch_size
        if len(order) < size:
            order = np.resize(order, size)
        for number in range(len(order) // size):
            yield self.batch(pool, order[number * size : (number + 1) * size], epoch, number)

    def batch(self, pool: Pool, which: IntArray, epoch: int, number: int) -> Batch:
        """The pairs `which` with their conditions of this epoch."""
        history, rows = self._histories(pool, which)
        context = self._contexts(pool, which, rows[:, pool.n_recent :], epoch)
        early = pool.early[which]
        draw = np.arange(self.config.uniform_negatives)
        drawn = uniforms("drawn", self.seed, epoch, number, int(pool.users[which[0]]), draw)
        weights = np.where(early, np.float32(self.config.early_weight), np.float32(1))
        return Batch(
            history=history,
            context=context,
            items=pool.items[which],
            users=(hash64(pool.users[which]) & np.uint64(0x7FFFFFFF)).astype(np.int32),
            cutoffs=np.searchsorted(self.cutoffs, pool.cutoffs[which]).astype(np.int32),
            early=early,
            weights=weights,
            drawn=(drawn * len(self.catalogue.ids)).astype(np.int32),
            sliced=self._sliced(context.topics, pool, which, epoch),
        )

    def _histories(self, pool: Pool, which: IntArray) -> tuple[HistoryRows, Rows]:
        """Each pair's history, less the positive itself; and the item rows in it."""
        of = pool.history[which]
        weights, content, sizes = pool.weights[of], pool.content[of], pool.sizes[of]
        rows = pool.rows[of]
        own = rows == pool.items[which][:, None]
        for b in np.flatnonzero(own.any(axis=1)):
            places = np.flatnonzero(own[b])
            vector = self.catalogue.items.vectors[pool.items[which[b]]]
            content[b] -= weights[b, places].sum(axis=0)[:, None] * vector
            weights[b, places] = 0
        return HistoryRows(pool.ids[of], content, weights, sizes), np.where(own, -1, rows)

    def _contexts(self, pool: Pool, which: IntArray, medoids: Rows, epoch: int) -> ContextRows:
        config, items = self.config, pool.items[which]
        none, logged, chosen = (
            uniforms(name, self.seed, epoch, pool.users[which], items)
            for name in ("none", "logged", "topic")
        )
        queries = pool.queries[which]
        if config.query_source == "nearest":
            queries = np.where(queries >= 0, queries, self._nearest(items, medoids))
        topics, sure = self._item_topics(items, chosen)
        use_logged = (pool.topics[which, 0] >= 0) & (logged < config.logged_share)
        topics, sure = _either(
            use_logged, pool.topics[which], pool.confidences[which], topics, sure
        )
        keep = (none >= config.none_share)[:, None]
        topics, sure = np.where(keep, topics, -1), np.where(keep, sure, np.float32(0))
        alone = uniforms("query", self.seed, epoch, pool.users[which], items)
        asked = keep[:, 0] & (alone >= config.query_dropout)
        return self.catalogue.context_rows(
            topics.astype(np.int32), sure, np.where(asked, queries, -1).astype(np.int64)
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


def pools(
    source: Iterable[Chunk],
    catalogue: Catalogue,
    topic_ids: IntArray,
    model: ModelConfig,
    pool_pairs: int,
) -> Iterator[Pool]:
    """The source's chunks, gathered until a pool has `pool_pairs` pairs."""
    gathered: list[Chunk] = []
    for chunk in source:
        gathered.append(chunk)
        if sum(c.pairs.num_rows for c in gathered) >= pool_pairs:
            yield pool_of(gathered, catalogue, topic_ids, model)
            gathered = []
    if gathered:
        yield pool_of(gathered, catalogue, topic_ids, model)


def slices_of(catalogue: Catalogue, n_topics: int) -> Lists:
    """Item rows by topic row."""
    rows, places = np.nonzero(catalogue.topics >= 0)
    topics = catalogue.topics[rows, places]
    order = np.argsort(topics, kind="stable")
    offsets = np.searchsorted(topics[order], np.arange(n_topics + 1))
    return Lists(offsets.astype(np.int64), rows[order].astype(np.int64))


_ = pad
