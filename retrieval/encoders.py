"""What retrieval looks near: a query becomes a vector in the space of the index.

One protocol, `QueryEncoder`. The arm INDEX asks with the embedding of the query's item; the learned
arms ask a model with the user's history, and with the condition or without.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from profiling.items import Items
from profiling.schema import IntArray
from retrieval.index import Lists, Vectors


class Asked(NamedTuple):
    """n queries as an encoder sees them.

    Attributes:
        user_ids: (n,) int64.
        rows: (n,) int64 item row of each query; -1 where the query is not to count.
        conditions: n lists of topic ids, ascending; an empty list is no condition.
        confidences: (t,) float32 of the topics in `conditions`.
    """

    user_ids: IntArray
    rows: IntArray
    conditions: Lists
    confidences: Vectors

    def without(self, free: IntArray) -> Asked:
        """The same queries, those in `free`, (f,) places, without query item and condition."""
        rows, lengths = self.rows.copy(), np.diff(self.conditions.offsets)
        kept = np.ones(len(rows), bool)
        rows[free], kept[free] = -1, False
        topics = np.repeat(kept, lengths)
        offsets = np.r_[0, np.cumsum(np.where(kept, lengths, 0))].astype(np.int64)
        conditions = Lists(offsets, self.conditions.values[topics])
        return Asked(self.user_ids, rows, conditions, self.confidences[topics])


class QueryEncoder(Protocol):
    """What makes vectors of queries; one and the same query has the same bits in any batch."""

    def encode(self, asked: Asked) -> tuple[Vectors, IntArray]:
        """(v, d) float32 rows of length 1 at most, and each query's row among them, (n,) int64."""
        ...


class ItemEncoder:
    """The arm INDEX: the embedding of the query's own item, as it stands in the catalogue."""

    def __init__(self, items: Items) -> None:
        """Over the catalogue that the index holds."""
        self._items = items

    def encode(self, asked: Asked) -> tuple[Vectors, IntArray]:
        """One vector for each item asked with."""
        rows, vector_of = np.unique(asked.rows, return_inverse=True)
        return self._items.vectors[rows], vector_of.astype(np.int64)
