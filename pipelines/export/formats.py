"""Tables as Parquet, JSON Lines or SQLite files, in parts of bounded memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.catalog.answers import plain
from pipelines.catalog.sql_text import identifier
from profiling.schema import TableSchema

_ROWS = 1 << 16
Progress = Callable[[int], None]  # rows written since the last call


def _write_parquet(path: Path, schema: TableSchema, table: pa.Table, done: Progress) -> None:
    with pq.ParquetWriter(path, schema.arrow) as writer:
        for part in _parts(table):
            writer.write_table(part)
            done(part.num_rows)


def _write_json_lines(path: Path, schema: TableSchema, table: pa.Table, done: Progress) -> None:
    with path.open("w", encoding="utf-8") as sink:
        for part in _parts(table):
            for row in _rows(part):
                line = dict(zip(schema.names, row, strict=True))
                sink.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            done(part.num_rows)


def _write_sqlite(path: Path, schema: TableSchema, table: pa.Table, done: Progress) -> None:
    """One table by its key, which is how a server asks; what is nested is JSON text."""
    name = identifier(schema.name.lower())
    columns = ", ".join(f"{identifier(c.name)} {_affinity(c.type)}" for c in schema.columns)
    key = ", ".join(identifier(c) for c in _lookup(schema))
    places = ", ".join("?" for _ in schema.columns)
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")  # it gets its name once it is whole
        connection.execute(f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID")
        for part in _parts(table):
            rows = [[_flat(v) for v in row] for row in _rows(part)]
            connection.executemany(f"INSERT INTO {name} VALUES ({places})", rows)
            done(part.num_rows)
        connection.commit()
    finally:
        connection.close()


FORMATS: dict[str, Callable[[Path, TableSchema, pa.Table, Progress], None]] = {
    "parquet": _write_parquet,
    "jsonl": _write_json_lines,
    "sqlite": _write_sqlite,
}


def _lookup(schema: TableSchema) -> tuple[str, ...]:
    """The key with the user first; of an export every row is of one night."""
    return tuple(c for c in schema.key if c != "run_date")


def _affinity(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        return "INTEGER"
    return "REAL" if pa.types.is_floating(type_) else "TEXT"


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _ROWS):
        yield table.slice(start, _ROWS)


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    columns = [plain(column.combine_chunks()) for column in table.columns]
    yield from zip(*columns, strict=True)
