"""A trained model at serving: plain NumPy over memory-mapped arrays, no training library.

    model = RetrievalModel.load(folder, items, topics)      # once a process
    rows = model.encode_items(items)                        # (n, d): the index
    histories = model.encode_histories(build_histories(...))  # (m, h): once a user, stored
    asked = model.encode_queries(histories, conditions, confidences, query_rows)   # (n, d)

Every score is the inner product of a query row and an item row, in [-1, 1]; d is e + 1, the last
dimension holds the popularity prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.items import Items
from profiling.schema import IntArray
from retrieval.index.exact import Lists
from retrieval.model import towers
from retrieval.model.inputs import Catalogue, lists_of, padded_topics, places_of, topic_content
from retrieval.model.towers import ContextRows, Floats, ItemRows, ModelConfig
from retrieval.model.trained import TrainedModel

_BLOCK = 8192  # items that are encoded at a time
_ROWS = 256  # histories or queries in a block, always
_LENGTHS = (4, 16, 64, 256, 1024)  # that padded lists have: a list has the least that holds it
_MAX_CONDITION = 64  # topics of a condition read, the surest first
_STEPS = np.float32(1 << 20)  # encodings are multiples of 1 / _STEPS


class RetrievalModel:
    """A trained model bound to the catalogue of today."""

    def __init__(self, trained: TrainedModel, items: Items, topics: pa.Table | None = None) -> None:
        """Bind.

        Args:
            trained: The model.
            items: The catalogue that item ids of histories and `query_rows` refer to. Items that
                training did not know have their content and topics alone.
            topics: TOPICS of today; one that training did not know can be used as a condition where
                it has a vector. None: the topics of training.

        Raises:
            ValueError: The items' vectors are of another width or version than the model's.
        """
        _check_items(trained, items)
        self.trained, self.items = trained, items
        self.topic_ids, self._topic_table = _topic_table(trained, topics)
        self._catalogue = Catalogue.of(items, trained.item_ids, self.topic_ids)

    @classmethod
    def load(
        cls, folder: Path | str, items: Items, topics: pa.Table | None = None
    ) -> RetrievalModel:
        """Open a saved model, memory-mapped, and bind it; raises ValueError as both do."""
        return cls(TrainedModel.load(folder), items, topics)

    def save(self, folder: Path | str) -> None:
        """As `TrainedModel.save`."""
        self.trained.save(folder)

    @property
    def config(self) -> ModelConfig:
        """The shape."""
        return self.trained.config

    @property
    def item_ids(self) -> IntArray:
        """(n,) int64 ascending: the items with an embedding of their own."""
        return self.trained.item_ids

    @property
    def width(self) -> int:
        """d, the width of item and query rows."""
        return self.config.width + 1

    @property
    def history_width(self) -> int:
        """h, the width of history encodings."""
        return self.config.hidden

    def encode_items(self, items: Items) -> Floats:
        """(n, d) float32 rows of any catalogue, norms at most 1 over the bound one's.

        Raises:
            ValueError: Vectors of another width or version than the model's.
        """
        _check_items(self.trained, items)
        catalogue = Catalogue.of(items, self.trained.item_ids, self.topic_ids)
        rows = self._raw_items(catalogue) / np.float32(self._largest_item)
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        return (rows / np.maximum(norms, 1.0)[:, None]).astype(np.float32)

    def encode_histories(self, histories: pa.Table) -> Floats:
        """(m, h) float32 of HISTORIES, in their order; knows no condition, can be stored.

        A row has the same bits whatever else is in the table: see `_blocks`.
        """
        encoded = np.empty((histories.num_rows, self.history_width), np.float32)
        recent, ages, medoids, importances = self._catalogue.history_parts(histories)
        lengths = [_least_length(lists_of(histories, c)) for c in ("item_ids", "cluster_item_ids")]
        for (long, wide), kept, rows in _blocks(np.stack(lengths, axis=1)):
            read = self._catalogue.pooled(
                _of_length(recent[rows], long, -1),
                _of_length(ages[rows], long, 0),
                _of_length(medoids[rows], wide, -1),
                _of_length(importances[rows], wide, 0),
                self.config,
            )
            found = towers.encode_histories(np, self.trained.params, read)
            encoded[kept] = _rounded(found)[: len(kept)]
        return encoded

    def encode_queries(
        self, encodings: Floats, conditions: Lists, confidences: Floats, query_rows: IntArray
    ) -> Floats:
        """(n, d) float32 unit rows: context path and head over stored history encodings.

        Args:
            encodings: (n, h), one a query.
            conditions: n lists of topic ids; those that the model does not know are left out, an
                empty list is no condition.
            confidences: (t,) float32, of `conditions.values`.
            query_rows: (n,) rows of the bound catalogue, -1 for no query item.

        Raises:
            ValueError: Encodings of another width than the model's.
        """
        if encodings.shape[1:] != (self.history_width,):
            raise ValueError(
                f"history encodings have width {encodings.shape[1]}, the model's have "
                f"{self.history_width}: encode the histories with this model"
            )
        places = Lists(conditions.offsets, places_of(self.topic_ids, conditions.values))
        topics, sure = padded_topics(places, confidences, _MAX_CONDITION)
        if not self.config.query_item:
            query_rows = np.full(len(query_rows), -1, np.int64)
        encoded = np.empty((len(encodings), self.width), np.float32)
        for (long,), kept, rows in _blocks(_least_length(conditions)[:, None]):
            read: ContextRows = self._catalogue.context_rows(
                _of_length(topics[rows], long, -1),
                _of_length(sure[rows], long, 0),
                query_rows[rows],
            )
            encoded[kept] = _rounded(self._queries(encodings[rows], read))[: len(kept)]
        return encoded

    def _queries(self, encodings: Floats, rows: ContextRows) -> Floats:
        params = self.trained.params
        read = towers.read_context(np, params, rows, self._topic_table)
        vectors = towers.join(np, params, encodings, towers.encode_context(np, params, read))
        # <u, v> / tau + b orders as <[u, 1], [v, tau b]>.
        both = np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1)
        queries: Floats = (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32)
        return queries

    def _raw_items(self, catalogue: Catalogue) -> Floats:
        """(n, d) rows [v_i, tau b_i], not scaled."""
        params, encoded = self.trained.params, np.empty((len(catalogue.ids), self.width))
        prior = np.where(
            (catalogue.ids >= 0)[:, None],
            self.trained.prior[catalogue.ids],
            self.trained.prior_unknown,
        )
        for start in range(0, len(encoded), _BLOCK):
            block = slice(start, start + _BLOCK)
            rows: ItemRows = catalogue.item_rows(block)
            encoded[block, :-1] = towers.encode_items(np, params, rows, self._topic_table)
            bias = towers.item_bias(np, params, catalogue.ids[block], prior[block])
            encoded[block, -1] = self.config.temperature * bias
        return encoded.astype(np.float32)

    @cached_property
    def _largest_item(self) -> float:
        rows = self._raw_items(self._catalogue)
        return max(1.0, float(np.linalg.norm(rows, axis=1).max(initial=0.0)))


def _least_length(lists: Lists) -> IntArray:
    """(n,) the least of `_LENGTHS` that holds each list; the greatest for longer ones."""
    places = np.searchsorted(_LENGTHS, np.diff(lists.offsets))
    return np.array(_LENGTHS)[np.minimum(places, len(_LENGTHS) - 1)]


def _blocks(lengths: IntArray) -> Iterator[tuple[list[int], IntArray, IntArray]]:
    """Rows of equal padded lengths in blocks of `_ROWS`, the last one filled up.

    The last bits of a float32 matrix product differ with its shape. Here the shape that a row is
    computed in depends on the row alone, so that its bits, rounded, do not depend on who else is
    asked for.

    Args:
        lengths: (n, k) int64 padded lengths of each row's k lists.

    Yields:
        The lengths, the block's rows, and the same filled up to `_ROWS` with one of them.
    """
    for some in np.unique(lengths, axis=0):
        rows = np.flatnonzero((lengths == some).all(axis=1))
        for start in range(0, len(rows), _ROWS):
            kept = rows[start : start + _ROWS]
            yield some.tolist(), kept, np.r_[kept, np.repeat(kept[0], _ROWS - len(kept))]


def _of_length(padded: npt.NDArray[Any], length: int, fill: int) -> npt.NDArray[Any]:
    """(n, length): columns cut off or added; those cut off hold `fill`."""
    missing = max(0, length - padded.shape[1])
    return np.pad(padded[:, :length], ((0, 0), (0, missing)), constant_values=fill)


def _rounded(rows: Floats) -> Floats:
    return np.rint(rows * _STEPS) / _STEPS


def _topic_table(trained: TrainedModel, topics: pa.Table | None) -> tuple[IntArray, Floats]:
    """Ascending topic ids and their table; topics of training that are gone stay."""
    ids, content = trained.topic_ids, trained.topic_content
    rows = np.arange(len(ids))
    if topics is not None:
        new_ids, new_content = topic_content(topics, trained.content_width)
        new = np.flatnonzero(places_of(ids, new_ids) < 0)
        rows = np.r_[rows, np.full(len(new), -1)]
        ids = np.r_[ids, new_ids[new]]
        content = np.concatenate([content, new_content[new]])
    order = np.argsort(ids)
    table: Floats = towers.encode_topics(np, trained.params, rows[order], content[order])
    return ids[order], table


def _check_items(trained: TrainedModel, items: Items) -> None:
    if len(items.ids) and items.width != trained.content_width:
        raise ValueError(
            f"the model reads item vectors of width {trained.content_width}, ITEMS has "
            f"{items.width}: train a model on this catalogue"
        )
    if len(items.ids) and items.version != trained.embedding_version:
        raise ValueError(
            f"the model was trained on item vectors {trained.embedding_version!r}, ITEMS has "
            f"{items.version!r}: train a model on this catalogue"
        )
