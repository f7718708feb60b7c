"""One file of a foreign table to rows of ours: every column parsed, bad rows refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.catalogue import CataloguePart
from pipelines.importers.digests import row_digests
from pipelines.importers.files import ReadFile, require_columns
from pipelines.importers.keys import KeyBook
from pipelines.importers.lists import (
    DELIMITER,
    LABEL_FIELDS,
    TOPIC_FIELDS,
    as_pairs,
    pair_faults,
    parse_action_lists,
    parse_embeddings,
    unknown_action_cure,
)
from pipelines.importers.mapping import SCHEMAS, TableMapping, known_columns
from pipelines.importers.rejects import ColumnFault, Fault, Parsed, null_faults, refuse_rows
from pipelines.importers.scalars import (
    outside,
    parse_flags,
    parse_ids,
    parse_integers,
    parse_numbers,
    parse_text,
    unknown_words,
)
from pipelines.importers.times import parse_times
from profiling.actions import Actions, action_names
from profiling.hashing import hash63
from profiling.schema import TIMESTAMP, Column

# Columns that are ids of something, wherever they stand.
ID_KINDS = {
    "user_id": "user",
    "item_id": "item",
    "query_id": "item",
    "topic_id": "topic",
    "event_id": "event",
    "impression_id": "impression",
    "draw_id": "draw",
}
# What a column is where the file lacks it; any other column is required.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ITEMS": {
        "embedding_version": "imported/1",
        "topics": None,
        "created_at": None,
        "labels": None,
        "title": None,
    },
    "TOPICS": {"embedding": None},
    "ENGAGEMENTS": {"event_id": None, "impression_id": None, "synthetic": False},
    "IMPRESSIONS": {
        "impression_id": None,
        "surface": "home",
        "request_id": None,
        "position": None,
        "draw_id": None,
        "actions": None,
    },
    "SERVED_DRAWS": {"query_type": "item", "arm": "", "state_version": ""},
}
# Ids that are made where the file has none, and of what.
MADE_IDS = {
    "ENGAGEMENTS": ("event_id", ("user_id", "item_id", "action", "at")),
    "IMPRESSIONS": ("impression_id", ("user_id", "item_id", "at")),
}


@dataclass
class Reading:
    """What the columns of one import are read with.

    Attributes:
        actions: The configured actions.
        mapping: Which of their columns is which of ours.
        book: Hashes text ids.
        text_kinds: Kinds of id that are text.
        width: Of the vectors.
        now_us: Events after it are refused.
    """

    actions: Actions
    mapping: TableMapping
    book: KeyBook
    text_kinds: frozenset[str]
    width: int
    now_us: int


def wanted_columns(table: str, mapping: TableMapping) -> set[str]:
    """Their columns that a file of `table` may have and that are read."""
    columns = (mapping.column(table, name).column for name in known_columns(table))
    return {c for c in columns if c is not None}


def check_columns(read: ReadFile, table: str, mapping: TableMapping) -> None:
    """Raise ValueError where a required or mapped column is not in the file."""
    made = MADE_IDS.get(table, ("", ()))[0]
    for name in known_columns(table):
        source = mapping.column(table, name).column
        optional = (name in DEFAULTS[table] or name == made) and not mapping.is_mapped(table, name)
        if source is not None and not optional:
            meaning = next(c.meaning for c in SCHEMAS[table].columns if c.name == name)
            require_columns(
                read,
                [source],
                f"{table}.{name} ({meaning}) is read from it; rename the column, or say in a "
                f"mapping file `{table.lower()}: {{{name}: THEIR COLUMN}}`.",
            )


def raw_column(read: ReadFile, table: str, name: str, mapping: TableMapping) -> pa.Array | None:
    """Our column `name` as the file or the mapping has it; None where neither does."""
    place = mapping.column(table, name)
    if place.column is None:
        return pa.repeat(pa.scalar(place.constant), read.rows.num_rows)
    return read.array(place.column) if place.column in read.names else None


def conform(read: ReadFile, table: str, reading: Reading) -> tuple[CataloguePart, pa.Table]:
    """The good rows of a file, with all columns of our table, and REJECTED for the others."""
    schema = SCHEMAS[table]
    faults: list[ColumnFault] = []
    values: dict[str, pa.Array] = {}
    for column in schema.columns:
        if column.name == "content_digest":
            continue
        raw = raw_column(read, table, column.name, reading.mapping)
        if raw is None:
            values[column.name] = _default(table, column, read.rows.num_rows)
            continue
        parsed = _parse(read, table, column, raw, reading)
        values[column.name] = parsed.values
        faults += [ColumnFault(column.name, raw, f) for f in _all_faults(column, parsed, reading)]
    keep, rejected = refuse_rows(read, faults, values.get("user_id"))
    good = pa.array(keep)
    kept = {name: array.filter(good) for name, array in values.items()}
    _make_ids(table, kept)
    if "content_digest" in schema.names:
        kept["content_digest"] = row_digests([kept[n] for n in known_columns(table)])
    rows = schema.of_width(reading.width).build(kept)
    return CataloguePart(read, rows, np.flatnonzero(keep)), rejected


def _parse(read: ReadFile, table: str, column: Column, raw: pa.Array, reading: Reading) -> Parsed:
    where = f"{read.source.path}: {table}.{column.name}"
    name, place = column.name, reading.mapping.column(table, column.name)
    delimiter = place.delimiter or DELIMITER
    if name in ID_KINDS:
        kind = ID_KINDS[name]
        as_text = kind in reading.text_kinds
        return parse_ids(raw, kind, as_text=as_text, book=reading.book, where=where)
    if column.type == TIMESTAMP:
        return parse_times(raw, place.unit, where)
    if name == "embedding":
        return parse_embeddings(raw, reading.width, where)
    if name == "topics":
        return _parse_topics(raw, delimiter, reading, where)
    if name == "labels":
        pairs = as_pairs(raw, LABEL_FIELDS, delimiter, where)
        labels = parse_text(pc.struct_field(pc.list_flatten(pairs), "label"), where)
        return Parsed(*pair_faults(pairs, labels, where))
    if name == "actions":
        return parse_action_lists(
            raw, reading.actions, delimiter, null_is_none=read.is_csv, where=where
        )
    return _simple_parser(column)(raw, where)


def _simple_parser(column: Column) -> Callable[[pa.Array, str], Parsed]:
    if pa.types.is_integer(column.type):
        return parse_integers
    if pa.types.is_floating(column.type):
        return parse_numbers
    return parse_flags if pa.types.is_boolean(column.type) else parse_text


def _parse_topics(raw: pa.Array, delimiter: str, reading: Reading, where: str) -> Parsed:
    pairs = as_pairs(raw, TOPIC_FIELDS, delimiter, where)
    names = pc.struct_field(pc.list_flatten(pairs), "topic_id")
    as_text = "topic" in reading.text_kinds
    ids = parse_ids(names, "topic", as_text=as_text, book=reading.book, where=where)
    return Parsed(*pair_faults(pairs, ids, where))


def _all_faults(column: Column, parsed: Parsed, reading: Reading) -> list[Fault]:
    """The parser's, nulls where none may be, and values out of range."""
    faults = list(parsed.faults)
    if not column.nullable:
        faults.append(null_faults(parsed.values, parsed, column.meaning))
    if column.name == "at":
        micros = pc.fill_null(parsed.values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        faults.append(Fault(micros < 0, "a time must not be before 1970; correct it"))
        now = np.datetime64(reading.now_us, "us")
        faults.append(Fault(micros > reading.now_us, f"it is in the future: now is {now}Z"))
    elif column.name == "action":
        known = action_names(reading.actions)
        faults.append(Fault(unknown_words(parsed.values, known), unknown_action_cure(known)))
    elif column.low is not None or column.high is not None or pa.types.is_floating(column.type):
        high = float(np.iinfo(np.int32).max) if column.type == pa.int32() else column.high
        faults.append(outside(parsed.values, column.low, high))
    return faults


def _default(table: str, column: Column, n: int) -> pa.Array:
    value = DEFAULTS[table].get(column.name)
    if value is None and not column.nullable and pa.types.is_list(column.type):
        value = []
    return pa.repeat(pa.scalar(value, column.type), n)


def _make_ids(table: str, kept: dict[str, pa.Array]) -> None:
    """An event's or impression's id where the file has none."""
    name, parts = MADE_IDS.get(table, ("", ()))
    if name and kept[name].null_count:
        made = hash63(row_digests([kept[p] for p in parts]))
        kept[name] = pc.coalesce(kept[name], pa.array(made))
    if "position" in kept:
        kept["position"] = kept["position"].cast(pa.int32())


def missing_ids(table: str, read: ReadFile, mapping: TableMapping) -> str | None:
    """A line for people where ids are made, else None."""
    name, parts = MADE_IDS.get(table, ("", ()))
    if not name or raw_column(read, table, name, mapping) is not None:
        return None
    return f"{read.name} has no {name}: made from {', '.join(parts)}, so equal rows are one"
