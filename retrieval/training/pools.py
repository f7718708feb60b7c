"""Training's pairs in memory: chunks of users gathered into pools of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.schema import IntArray, ints
from retrieval.index.exact import Lists
from retrieval.model.inputs import Catalogue, Rows, lists_of, padded_topics, places_of
from retrieval.model.towers import Floats, ModelConfig

BoolArray = npt.NDArray[np.bool_]
_MAX_LOGGED = 8  # topics of a logged condition, the surest first


class Chunk(NamedTuple):
    """Some users' rows: every (user_id, cutoff) of PAIRS is in HISTORIES.

    Attributes:
        histories: HISTORIES.
        pairs: PAIRS.
    """

    histories: pa.Table
    pairs: pa.Table


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

    @cached_property
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
    topics, sure = padded_topics(logged, _floats(pairs, "logged_confidences"), _MAX_LOGGED)
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


def _floats(pairs: pa.Table, name: str) -> Floats:
    return lists_of(pairs, name).values.astype(np.float32)


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
