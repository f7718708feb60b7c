"""What says which items are of a spacing class: labels and topics of ITEMS, and extra tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.items import Items
from profiling.schema import FloatArray, IntArray, floats, ints
from retrieval.spacing.classes import Source, Spacing
from retrieval.spacing.diversity import Vectors, combine_embeddings
from retrieval.spacing.terms import FeedSpacing, squared_lengths, stack_columns, topic_members
from retrieval.spacing.utility import BoolArray


@dataclass(frozen=True)
class ItemLabels:
    """Labels of the catalogue, one entry a label of an item.

    Attributes:
        rows: (t,) int64 rows of the catalogue.
        names: (t,) the labels.
        scores: (t,) float64 in [0, 1].
    """

    rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    names: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, "U1"))
    scores: FloatArray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def from_table(cls, table: pa.Table, items: Items) -> ItemLabels:
        """From `item_id` and `labels` of ITEMS; where an id comes twice, the later row holds.

        Raises:
            ValueError: A score is no number in [0, 1]; the message names the item.
        """
        places = items.rows_of(ints(table, "item_id"))
        last = np.zeros(len(items.ids), np.int64)
        last[places] = np.arange(len(places))  # of several, the last is kept
        lists = table["labels"].take(last).combine_chunks()
        parts = lists.flatten()
        lengths = np.diff(lists.offsets.to_numpy())
        rows = np.repeat(np.arange(len(last)), lengths)
        names = parts.field(0).to_numpy(zero_copy_only=False).astype(str)
        scores = parts.field(1).to_numpy(zero_copy_only=False).astype(np.float64)
        bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
        if len(bad):
            raise ValueError(
                _out_of_range(
                    items.ids[rows[bad[0]]], f"label {str(names[bad[0]])!r}", scores[bad[0]]
                )
            )
        return cls(rows, names, scores)


def feed_spacing(
    config: Spacing,
    items: Items,
    labels: ItemLabels,
    tables: Mapping[str, pa.Table],
    segments: pa.Table | None = None,
) -> FeedSpacing:
    """What the configuration needs of the catalogue and of users.

    Args:
        config: The data.
        items: The catalogue.
        labels: Its labels.
        tables: Extra label tables by name: item_id, and columns of scores or vectors.
        segments: user_id, segment; a user may have several.

    Raises:
        ValueError: A column is not there, or a score lies outside [0, 1].
    """
    columns = [members_of(c.source, items, labels, tables) for c in config.works]
    vectors = np.zeros((len(items.ids), 0), np.float32)
    if config.diversity.gamma > 0:
        sources = {
            part.source: items.vectors
            if part.source == "item"
            else _vectors(part.source, tables, items)
            for part in config.diversity.parts
        }
        vectors = combine_embeddings(config.diversity, sources)
    users: dict[str, IntArray] = {}
    if segments is not None:
        names = np.asarray(segments["segment"].to_pylist(), str)
        users = {s: ints(segments, "user_id")[names == s] for s in np.unique(names).tolist()}
    members = stack_columns(columns, len(items.ids))
    return FeedSpacing(config, vectors, squared_lengths(vectors), members, users)


def members_of(
    source: Source, items: Items, labels: ItemLabels, tables: Mapping[str, pa.Table]
) -> BoolArray:
    """(n,) whether the item is of the class that `source` labels."""
    if source.topic is not None:
        return topic_members(items, source.topic, source.threshold)
    if source.label:
        found = np.zeros(len(items.ids), bool)
        mine = labels.names == source.label
        found[labels.rows[mine & reaches(labels.scores, source.threshold)]] = True
        return found
    return reaches(_scores(source.column, tables, items), source.threshold)


def reaches(scores: npt.NDArray[Any], threshold: float) -> BoolArray:
    """(n,) whether a score reaches the threshold, as float32: .7 reaches .7 in any width."""
    found: BoolArray = scores.astype(np.float32) >= np.float32(threshold)
    return found


def _scores(name: str, tables: Mapping[str, pa.Table], items: Items) -> FloatArray:
    """(n,) float64 of TABLE.COLUMN by row of the catalogue; 0 where the table lacks the item."""
    table, column = _column(name, tables)
    values = floats(table, column)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        raise ValueError(
            _out_of_range(ints(table, "item_id")[bad[0]], f"column {name!r}", values[bad[0]])
        )
    found = np.zeros(len(items.ids))
    rows = items.rows_of(ints(table, "item_id"))
    found[rows[rows >= 0]] = values[rows >= 0]
    return found


def _vectors(name: str, tables: Mapping[str, pa.Table], items: Items) -> Vectors:
    """(n, d) float32 of TABLE.COLUMN by row; NaN where the table lacks the item."""
    table, column = _column(name, tables)
    lists = table[column].combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = len(flat) // max(table.num_rows, 1)
    if len(flat) != width * table.num_rows or not width:
        raise ValueError(f"column {name!r} must hold vectors of one width; correct that table")
    found = np.full((len(items.ids), width), np.nan, np.float32)
    rows = items.rows_of(ints(table, "item_id"))
    found[rows[rows >= 0]] = flat.reshape(-1, width)[rows >= 0]
    return found


def _column(name: str, tables: Mapping[str, pa.Table]) -> tuple[pa.Table, str]:
    table, _, column = name.partition(".")
    for needed in ("item_id", column):
        if needed not in tables[table].column_names:
            raise ValueError(
                f"table {table!r} has no column {needed!r}; it has "
                f"{', '.join(tables[table].column_names)}"
            )
    return tables[table], column


def _out_of_range(item: int, what: str, score: float) -> str:
    return f"item {item}: {what} has score {score:g}, must lie in [0, 1]; correct it at its source"


def check_vectors(rows: IntArray, spacing: FeedSpacing, items: Items) -> None:
    """Raise ValueError where a candidate has no embedding to tell it from others."""
    if spacing.config.diversity.gamma > 0:
        missing = rows[~np.isfinite(spacing.norms[rows])]
        if len(missing):
            names = ", ".join(part.source for part in spacing.config.diversity.parts)
            raise ValueError(
                f"candidate {items.ids[missing[0]]} has no embedding of {names}, which diversity "
                "compares items by; add it, or set diversity.gamma to 0"
            )
