"""What an import meets in the warehouse: rows that landed before, and the catalogue's vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.digests import row_digests
from pipelines.importers.foreign import ForeignLog, all_rejected
from pipelines.plan import open_items
from pipelines.store.tables import SCHEMAS, read_files, read_period
from pipelines.store.warehouse import Warehouse
from profiling.intake import rejected_rows
from profiling.schema import IntArray, group_offsets, ints

_ID = {"ENGAGEMENTS": "event_id", "IMPRESSIONS": "impression_id", "SERVED_DRAWS": "draw_id"}
# A kind of id, and the tables whose rows have it.
_WITH_KIND = {
    "item": ("ITEMS", *_ID),
    "user": tuple(_ID),
    "topic": ("TOPICS",),
}


@dataclass(frozen=True)
class NewRows:
    """Rows of one table that are to land, REJECTED ones, and how many had landed before."""

    rows: pa.Table
    rejected: pa.Table | None = None
    repeated: int = 0


def landed_rows(warehouse: Warehouse, name: str) -> pa.Table:
    """All rows of a table that imports wrote."""
    files = [f for landing in warehouse.landings() for f in landing.tables.get(name, ())]
    return read_files(warehouse.root, name, files)


def leave_out_landed(warehouse: Warehouse, log: ForeignLog, horizon_us: int) -> ForeignLog:
    """The log without rows that an earlier import landed, id and content: imports may overlap.

    An id of two users is refused here: a night sees the users of one bucket at a time, and could
    not know. One id with other content of the same user is left to the night.
    """
    found = {}
    for name, table in log.tables.items():
        if name in _ID:
            found[name] = _new_events(warehouse, name, table, horizon_us)
        elif name == "EXPOSURES":
            found[name] = _new_rows(table, landed_rows(warehouse, name))
        else:
            found[name] = _new_rows(table, _holding(warehouse, name))
    notes = [
        f"{new.repeated:,} rows of {name} had landed before: left out"
        for name, new in found.items()
        if new.repeated
    ]
    refused = [new.rejected for new in found.values() if new.rejected is not None]
    return ForeignLog(
        tables={name: new.rows for name, new in found.items()},
        rejected=all_rejected([log.rejected, *refused]),
        keys=log.keys,
        sources=log.sources,
        starts_at=log.starts_at if _any(found, "IMPRESSIONS") else None,
        notes=[*log.notes, *notes],
    )


def _new_events(warehouse: Warehouse, name: str, rows: pa.Table, horizon_us: int) -> NewRows:
    if not rows.num_rows:
        return NewRows(rows)
    at, columns = ints(rows, "at"), (_ID[name], "user_id", "content_digest")
    known = read_period(
        warehouse.root,
        name,
        [f for landing in warehouse.landings() for f in landing.tables.get(name, ())],
        (int(at.min()) - horizon_us, int(at.max()) + horizon_us),
        columns,
    )
    ids, users, digests = (ints(rows, c) for c in columns)
    known_ids, known_users = ints(known, columns[0]), ints(known, "user_id")
    other = (
        users
        != _users_of_ids(
            np.r_[known_ids, ids],
            np.r_[known_users, users],
            np.r_[np.full(len(known_ids), -1), np.argsort(np.argsort(digests, kind="stable"))],
        )[len(known_ids) :]
    )
    reason = f"{_ID[name]} came with another user before; one holds, give each its own id"
    reasons = np.full(len(ids), reason, object)
    rejected = rejected_rows(rows, other, reasons, source=name, id_column=_ID[name])
    event = [_ID[name], "content_digest"]
    new = _new_rows(rows.filter(pa.array(~other)), known, event)
    return NewRows(new.rows, rejected, new.repeated)


def _users_of_ids(ids: IntArray, users: IntArray, rank: IntArray) -> IntArray:
    """(n,) the user that holds each id: of those with it, the one of the least rank."""
    order = np.lexsort((rank, ids))
    bounds = group_offsets(ids[order])
    holding = np.empty(len(ids), np.int64)
    holding[order] = np.repeat(users[order][bounds[:-1]], np.diff(bounds))
    return holding


def _new_rows(rows: pa.Table, known: pa.Table, columns: list[str] | None = None) -> NewRows:
    """Those of `rows` that differ from all of `known` in `columns` (None: any column)."""
    names = columns or rows.column_names
    digests, before = (row_digests([t[n] for n in names]) for t in (rows, known))
    repeated = np.isin(digests, before)
    return NewRows(rows.filter(pa.array(~repeated)), repeated=int(repeated.sum()))


def _holding(warehouse: Warehouse, name: str) -> pa.Table:
    """The rows of the catalogue: of one id, the one that landed last."""
    rows = read_files(warehouse.root, name, warehouse.catalogue()[name])
    ids = ints(rows, SCHEMAS[name].key[0])
    order = np.argsort(ids, kind="stable")
    last = order[group_offsets(ids[order])[1:] - 1]
    return rows.take(pa.array(last))


def _any(found: dict[str, NewRows], name: str) -> bool:
    return name in found and found[name].rows.num_rows > 0


def check_catalogue(warehouse: Warehouse, log: ForeignLog) -> bool:
    """Whether the log's ITEMS replace the catalogue: they have vectors of another model.

    Raises:
        ValueError: They would mix with the catalogue's; the message names the cure.
    """
    items, files = log.tables.get("ITEMS"), warehouse.catalogue()["ITEMS"]
    if items is None or not items.num_rows:
        return False
    versions = sorted(pc.unique(items["embedding_version"]).to_pylist())
    if len(versions) > 1:
        raise ValueError(
            f"ITEMS mixes embedding versions {', '.join(versions)}; nothing has landed. Give all "
            "items vectors of one model"
        )
    if not files:
        return False
    known = open_items(warehouse.root, files)
    width = items.schema.field("embedding").type.list_size
    if (versions[0], width) == (known.version, known.width):
        return False
    which = (
        f"ITEMS has vectors of version {versions[0]!r} and width {width}, the catalogue of "
        f"{known.version!r} and {known.width}; vectors never mix and nothing has landed. "
    )
    if versions[0] == known.version:
        raise ValueError(which + "Give vectors of another model another embedding_version")
    lacking = np.setdiff1d(known.ids, ints(items, "item_id"))
    if len(lacking):
        raise ValueError(
            which + f"Import all {len(known.ids):,} known items with the new version at once: "
            f"{len(lacking):,} are lacking, the first is {lacking[0]}"
        )
    return True


def check_id_kinds(warehouse: Warehouse, log: ForeignLog) -> None:
    """Raise ValueError where ids are text of which the warehouse has integers."""
    landings = warehouse.landings()
    before = set(landed_rows(warehouse, "KEYS")["kind"].to_pylist())
    for kind in sorted(set(log.keys["kind"].to_pylist()) - before):
        if any(name in landing.tables for landing in landings for name in _WITH_KIND.get(kind, ())):
            raise ValueError(
                f"{kind} ids are text, but those in {warehouse.root} are integers: they would "
                f"never meet, and nothing has landed. Give the integers (say `ids: {{{kind}: "
                "integer}` in the mapping where text holds them), or begin another warehouse"
            )
