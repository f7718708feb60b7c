"""From tables to the arrays that the towers read; the same for training and serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.items import Items, unit_rows
from profiling.schema import IntArray, ints
from retrieval.index.exact import Lists
from retrieval.model.towers import (
    ContextRows,
    Floats,
    HistoryRows,
    ItemRows,
    ModelConfig,
    recency_weights,
)

Rows = npt.NDArray[np.int32]
_MAX_TOPICS = 8  # of an item, the surest first; more say no more


@dataclass(frozen=True)
class Catalogue:
    """The items of today as a model sees them.

    Attributes:
        items: The catalogue; its rows are what "item row" means.
        ids: (n,) int32, each item's row in the model's id embedding, -1 where it has none.
        topics: (n, L) int32 rows of the model's topic table, -1 beyond.
        confidences: (n, L) float32, 0 beyond.
    """

    items: Items
    ids: Rows
    topics: Rows
    confidences: Floats

    @classmethod
    def of(cls, items: Items, item_ids: IntArray, topic_ids: IntArray) -> Catalogue:
        """Items against the ascending ids that a model knows; its other topics are left out."""
        topics = Lists(items.topic_offsets, places_of(topic_ids, items.topic_ids))
        rows, confidences = padded_topics(topics, items.topic_confidences, _MAX_TOPICS)
        return cls(items, places_of(item_ids, items.ids).astype(np.int32), rows, confidences)

    def item_rows(self, rows: IntArray | slice) -> ItemRows:
        """What the item tower reads of these items."""
        content = self.items.vectors[rows]
        return ItemRows(self.ids[rows], content, self.topics[rows], self.confidences[rows])

    def history_rows(self, histories: pa.Table, config: ModelConfig) -> HistoryRows:
        """What the history path reads of HISTORIES; items that are not in the catalogue are not."""
        return self.pooled(*self.history_parts(histories), config)

    def history_parts(self, histories: pa.Table) -> tuple[IntArray, Floats, IntArray, Floats]:
        """Padded item rows and ages (m, R), medoid rows and importances (m, C); -1 is none."""
        recent, ages = self._padded(histories, "item_ids", "ages")
        medoids, importances = self._padded(histories, "cluster_item_ids", "cluster_importances")
        return recent, ages, medoids, importances

    def pooled(
        self,
        recent: IntArray,
        ages: Floats,
        medoids: IntArray,
        importances: Floats,
        config: ModelConfig,
    ) -> HistoryRows:
        """The arrays of `history_parts` as the history path reads them."""
        rows = np.concatenate([recent, medoids], axis=1)
        present = rows >= 0
        weights = recency_weights(ages, importances, config, present)
        content = np.matmul(weights.swapaxes(1, 2), self.items.vectors[rows])
        counts = [present[:, : recent.shape[1]].sum(1), present[:, recent.shape[1] :].sum(1)]
        sizes = np.log1p(np.stack(counts, axis=1)).astype(np.float32)
        return HistoryRows(np.where(present, self.ids[rows], -1), content, weights, sizes)

    def context_rows(self, topics: Rows, confidences: Floats, query_rows: IntArray) -> ContextRows:
        """What the context path reads of padded topic rows and of query items, -1 for none."""
        asked = (query_rows >= 0)[:, None]
        content = np.where(asked, self.items.vectors[query_rows], np.float32(0))
        ids = np.where(query_rows >= 0, self.ids[query_rows], -1).astype(np.int32)
        return ContextRows(topics, confidences, ids, content)

    def _padded(self, table: pa.Table, ids: str, values: str) -> tuple[IntArray, Floats]:
        lists, parts = lists_of(table, ids), lists_of(table, values).values
        rows = self.items.rows_of(lists.values)
        padded = pad(lists.offsets, rows, -1)
        return padded, pad(lists.offsets, parts.astype(np.float32), 0)


def pad(offsets: IntArray, values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
    """(m, longest list, at least 1) the lists side by side, `fill` beyond their ends."""
    lengths = np.diff(offsets)
    width = max(1, int(lengths.max(initial=0)))
    padded = np.full((len(lengths), width), fill, values.dtype)
    padded[np.arange(width) < lengths[:, None]] = values[offsets[0] : offsets[-1]]
    return padded


def padded_topics(topics: Lists, confidences: Floats, limit: int) -> tuple[Rows, Floats]:
    """Known topics (rows from 0) of each list, the surest `limit`: (n, L) int32 and float32."""
    owner = np.repeat(np.arange(len(topics.offsets) - 1), np.diff(topics.offsets))
    known = topics.values >= 0
    owner, rows, sure = owner[known], topics.values[known], confidences[known]
    order = np.lexsort((rows, -sure, owner))
    offsets = np.searchsorted(owner, np.arange(len(topics.offsets))).astype(np.int64)
    padded = pad(offsets, rows[order].astype(np.int32), -1)[:, :limit]
    return padded, pad(offsets, sure[order].astype(np.float32), 0)[:, :limit]


def lists_of(table: pa.Table, name: str) -> Lists:
    """A list column without nulls as offsets and values."""
    column: Any = table[name].combine_chunks()
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    return Lists(offsets, column.flatten().to_numpy(zero_copy_only=False))


def places_of(ascending: IntArray, wanted: IntArray) -> IntArray:
    """(n,) the place of each wanted id among the ascending ones, -1 where it is not there."""
    if len(ascending) == 0:
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[places] == wanted, places, -1).astype(np.int64)


def topic_content(topics: pa.Table, width: int) -> tuple[IntArray, Floats]:
    """Ascending ids of TOPICS and their (t, width) unit vectors, zero where a topic has none.

    Raises:
        ValueError: A topic's vector has another width than the items'.
    """
    topics = topics.sort_by("topic_id")
    content = np.zeros((topics.num_rows, width), np.float32)
    given = np.flatnonzero(topics["embedding"].is_valid().to_numpy())
    for row in given:
        vector = topics["embedding"][int(row)].as_py()
        if len(vector) != width:
            raise ValueError(
                f"TOPICS: the vector of topic {topics['topic_id'][int(row)]} has width "
                f"{len(vector)}, must be {width} as those of ITEMS; import the topics again"
            )
        content[row] = vector
    return ints(topics, "topic_id"), unit_rows(content)
