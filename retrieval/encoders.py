"""What retrieval looks near: a query becomes a vector in the space of the index.

One protocol, `QueryEncoder`. The arm INDEX asks with the embedding of the query's item; the learned
arms ask a model with the user's history, and with the condition or without.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from profiling.actions import Actions
from profiling.items import Items
from profiling.schema import TIMESTAMP, IntArray, ints
from retrieval.histories import HistoryConfig, build_histories
from retrieval.index.exact import Lists, Vectors
from retrieval.model.serving import RetrievalModel


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


class ModelEncoder:
    """The learned arms: history encodings made before, context path and head here."""

    def __init__(self, model: RetrievalModel, encodings: pa.Table) -> None:
        """Over the history encodings of all users who will ask.

        Args:
            model: Bound to the catalogue that the index holds.
            encodings: (user_id, encoding), one row a user, any order.
        """
        self._model = model
        users = ints(encodings, "user_id")
        order = np.argsort(users)
        self._users = users[order]
        flat = encodings["encoding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._encodings = flat.reshape(len(users), model.history_width)[order]

    def encode(self, asked: Asked) -> tuple[Vectors, IntArray]:
        """One vector for each query; one a user for all without condition and item.

        Raises:
            ValueError: A user has no history encoding.
        """
        places = np.searchsorted(self._users, asked.user_ids)
        known = np.r_[self._users, -1][places] == asked.user_ids
        if not known.all():
            raise ValueError(f"user {asked.user_ids[~known][0]} has no history encoding; make it")
        lengths = np.diff(asked.conditions.offsets)
        free = (asked.rows < 0) & (lengths == 0)
        key = np.where(free, places, len(self._users) + np.arange(len(places)))
        _, first, vector_of = np.unique(key, return_index=True, return_inverse=True)
        offsets = np.r_[0, np.cumsum(lengths[first])].astype(np.int64)
        topics = np.repeat(asked.conditions.offsets[:-1][first] - offsets[:-1], lengths[first])
        topics = topics + np.arange(offsets[-1])
        vectors = self._model.encode_queries(
            self._encodings[places[first]],
            Lists(offsets, asked.conditions.values[topics]),
            asked.confidences[topics],
            asked.rows[first],
        )
        return vectors, vector_of.astype(np.int64)


def encode_users(
    model: RetrievalModel,
    history: pa.Table,
    profiles: pa.Table,
    user_ids: pa.Array[pa.Int64Scalar],
    actions: Actions,
    config: HistoryConfig,
    *,
    cutoff: int,
) -> pa.Table:
    """(user_id, encoding list<float32>) of users as of `cutoff`, in the order of their ids.

    Made anew every night: the ages of a history's items are part of it, so that of a user who did
    nothing changes too. Reading an encoding back costs as much as making it.

    Args:
        model: Bound to the catalogue.
        history: HISTORY of these users; others are ignored.
        profiles: PROFILES of these users.
        user_ids: Distinct.
        actions: The configured ones.
        config: How much of a past the model was trained to read.
        cutoff: Of the night, microseconds.
    """
    cutoffs = pa.array(np.full(len(user_ids), cutoff)).cast(TIMESTAMP)
    wanted = pa.table({"user_id": user_ids, "cutoff": cutoffs})
    histories = build_histories(history, profiles, wanted, actions, config)
    encoded = model.encode_histories(histories)
    offsets = np.arange(len(encoded) + 1, dtype=np.int32) * model.history_width
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(encoded.ravel()))
    return pa.table({"user_id": histories["user_id"], "encoding": lists})
