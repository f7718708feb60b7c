"""Foreign rows become landed files: immutable, one row group a day, named by a numbered record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.manifests import Landing, StoredFile
from pipelines.store.tables import TableWriter, write_table
from pipelines.store.taken import erased_of, read_taken
from pipelines.store.warehouse import EVENT_TABLES, Warehouse
from profiling.decay import DAY_US
from profiling.schema import group_offsets, ints, sort_rows


def land(
    warehouse: Warehouse,
    tables: dict[str, pa.Table],
    *,
    source: str,
    starts_at: int | None = None,
    sources: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
    replaces: bool = False,
) -> Landing:
    """Write tables of the world and make them visible to the next night, in one atomic step.

    Events are sorted by time and cut into row groups at midnight UTC, and at the first impression
    of all imports: a row group is what a night takes whole, once its last event lies before
    the cut-off.

    Args:
        warehouse: Where to.
        tables: By name, conforming to their schemas; empty ones are skipped.
        source: What was imported, for people.
        starts_at: First impression of the import, microseconds: the bootstrap's cut-off.
        sources: Path, size, digest and rows of the imported files.
        notes: What the importer had to decide.
        replaces: Whether the ITEMS hold instead of all before.
    """
    tables = without_erased(warehouse, tables)
    starts = [start for start in (starts_at, *_starts(warehouse)) if start is not None]
    first = min(starts, default=None)
    files = {
        name: _write_events(warehouse.root, name, table, first)
        if name in EVENT_TABLES
        else write_table(warehouse.root, name, table, "landed")
        for name, table in tables.items()
        if table.num_rows
    }
    return warehouse.land(
        Landing(0, source, files, starts_at, tuple(sources), tuple(notes), replaces)
    )


def without_erased(warehouse: Warehouse, tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """`tables` without rows of users who were erased: they never land again."""
    stones = read_taken(warehouse.root).tombstones
    if not stones:
        return tables
    found = {}
    for name, rows in tables.items():
        column = {"KEYS": "id"}.get(name, "user_id")
        if column in rows.column_names:
            users = pc.unique(rows[column].drop_null()).to_pylist()
            erased = erased_of(users, stones, warehouse.hash_key)
            if len(erased):
                known = pc.is_in(rows[column], pa.array(erased))
                rows = rows.filter(pc.invert(known))
        found[name] = rows
    return found


def _starts(warehouse: Warehouse) -> list[int | None]:
    return [landing.starts_at for landing in warehouse.landings()]


def _write_events(
    root: str, name: str, table: pa.Table, first: int | None
) -> tuple[StoredFile, ...]:
    id_column = {"ENGAGEMENTS": "event_id", "IMPRESSIONS": "impression_id"}.get(name, "draw_id")
    table = sort_rows(table, ("at", id_column, "content_digest"))
    at = ints(table, "at")
    period = at // DAY_US * 2 + (at >= first if first is not None else 0)
    bounds = group_offsets(np.asarray(period))
    writer = TableWriter(root, name, "landed")
    for start, end in pairwise(bounds.tolist()):
        writer.write(table.slice(start, end - start), -1, timed=True)
    return writer.finish()
