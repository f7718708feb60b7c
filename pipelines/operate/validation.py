"""Does what landed look like what landed before?

The rows that a night consumes are held against its own trailing nights: how many, how many users,
which actions and surfaces, which share of nulls, and how values are spread.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config_files import config_of
from pipelines.operate.anomalies import Anomaly, Figures, anomalies
from pipelines.plan import cutoff_of, open_items
from pipelines.store.manifests import LandedGroup, Manifest
from pipelines.store.tables import read_columns
from pipelines.store.warehouse import Warehouse
from profiling.schema import IntArray, ints

_CATEGORIES = {
    "ENGAGEMENTS": ("action",),
    "IMPRESSIONS": ("surface",),
    "SERVED_DRAWS": ("surface",),
}
_NUMBERS = {"IMPRESSIONS": ("position",)}
_NULLS = {
    "ENGAGEMENTS": ("impression_id",),
    "IMPRESSIONS": ("draw_id", "position", "actions", "request_id"),
}
_HOURS = 24


@dataclass(frozen=True)
class Validation:
    """What `validate` found.

    Attributes:
        date: The night whose input it is.
        nights: Trailing nights that it was held against.
        figures: Of the new rows, by table.
        anomalies: What does not look like before.
    """

    date: dt.date
    nights: tuple[dt.date, ...]
    figures: Mapping[str, Figures]
    anomalies: tuple[Anomaly, ...]


def validate(warehouse: Warehouse, date: dt.date) -> Validation:
    """Hold the input of the night of `date`, run or not, against the nights before it."""
    config = config_of(warehouse).validation
    chain = warehouse.chain(warehouse.head())
    before = [m for m in chain if m.kind != "bootstrap" and m.date < date][-config.nights :]
    inputs = _inputs(warehouse, chain, date)
    items = open_items(warehouse.root, warehouse.catalogue()["ITEMS"]).ids
    now = _by_table(warehouse.root, inputs, items)
    past = [_by_table(warehouse.root, m.inputs, items) for m in before]
    found: list[Anomaly] = []
    for name in ("ENGAGEMENTS", "IMPRESSIONS"):
        if name not in now and any(name in p for p in past):
            found.append(Anomaly(name, "", "DATASET_LOW_NUM_EXAMPLES", "nothing landed"))
    for name, figures in now.items():
        found += anomalies(name, figures, [p[name] for p in past if name in p], config)
    return Validation(date, tuple(m.date for m in before), now, tuple(found))


def _inputs(
    warehouse: Warehouse, chain: Sequence[Manifest], date: dt.date
) -> tuple[LandedGroup, ...]:
    """What the night of `date` consumed or would consume."""
    for manifest in chain:
        if manifest.date == date and manifest.kind != "bootstrap":
            return manifest.inputs
    consumed = {(g.path, g.row_group) for m in chain for g in m.inputs}
    return tuple(warehouse.pending(consumed, cutoff_of(date)))


def _by_table(root: str, groups: Sequence[LandedGroup], items: IntArray) -> dict[str, Figures]:
    by_table: dict[str, list[LandedGroup]] = {}
    for group in groups:
        by_table.setdefault(group.table, []).append(group)
    return {name: _figures(root, name, found, items) for name, found in by_table.items()}


def _figures(root: str, name: str, groups: Sequence[LandedGroup], items: IntArray) -> Figures:
    categories, numbers = _CATEGORIES.get(name, ()), _NUMBERS.get(name, ())
    nulls = _NULLS.get(name, ())
    wanted = ["user_id", *(["item_id"] if name != "SERVED_DRAWS" else [])]
    columns = list(dict.fromkeys([*wanted, "at", *categories, *numbers, *nulls]))
    rows = pa.concat_tables([read_columns(root, g.path, g.row_group, columns) for g in groups])
    hours = ints(rows, "at") // 3_600_000_000 % _HOURS
    spread = {c: _histogram(rows[c]) for c in numbers}
    unknown = ~np.isin(ints(rows, "item_id"), items) if "item_id" in wanted else np.zeros(1)
    return Figures(
        rows=len(rows),
        users=len(pc.unique(rows["user_id"])),
        categories={c: _counts(rows[c]) for c in categories},
        numbers=spread | {"at (hour)": np.bincount(hours, minlength=_HOURS)},
        nulls={c: rows[c].null_count / max(len(rows), 1) for c in nulls},
        unknown_items=float(unknown.mean()) if len(unknown) else 0.0,
    )


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(column.combine_chunks())
    pairs = zip(
        counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True
    )
    return {str(value): n for value, n in sorted(pairs, key=lambda p: str(p[0]))}


def _histogram(column: pa.ChunkedArray) -> IntArray:
    """Positions by powers of two: 0, 1, 2 to 3, 4 to 7, ...; 31 bins."""
    values = column.drop_null().to_numpy().astype(np.int64)
    return np.bincount(np.log2(np.maximum(values, 0) + 1).astype(np.int64), minlength=32)[:32]
