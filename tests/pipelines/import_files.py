"""Small files as somebody else writes them, and the importer of tables over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.importers.foreign import ForeignLog
from pipelines.importers.tables import read_tables
from profiling.actions import DEFAULT_ACTIONS

KEY = b"a key of the warehouse"
DAY = 86_400_000_000
NOW = 20_000 * DAY

ITEM = {"item_id": 1, "embedding": [3.0, 4.0]}
EVENT = {"user_id": 1, "item_id": 1, "action": "like", "at": "2022-04-25T01:00:00Z"}
SHOWN = {"impression_id": 5, "user_id": 1, "item_id": 1, "at": "2022-04-25T00:59:00Z"}
DRAW = {
    "draw_id": 4,
    "user_id": 1,
    "request_id": "r",
    "at": "2022-04-25T00:58:00Z",
    "surface": "home",
    "cluster_id": 0,
    "query_id": 1,
    "propensity": 0.5,
    "set_probability": 0.25,
    "policy": "mine/1",
}


def parquet_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file of these rows."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def text_file(path: Path, text: str) -> Path:
    """A file of this text."""
    path.write_text(text)
    return path


def read(paths: dict[str, Path | str], **more: Any) -> ForeignLog:
    """The importer over files by table, as of `NOW`."""
    options: dict[str, Any] = {"hash_key": KEY, "now_us": NOW} | more
    return read_tables(paths, DEFAULT_ACTIONS, **options)


def read_one(tmp_path: Path, table: str, *rows: dict[str, Any], **more: Any) -> ForeignLog:
    """The importer over one table's rows."""
    return read({table: parquet_file(tmp_path / f"{table.lower()}.parquet", list(rows))}, **more)


def refused_rows(log: ForeignLog) -> list[tuple[int, str]]:
    """(row, reason) of what was rejected."""
    return [(r["row"], r["reason"]) for r in log.rejected.to_pylist()]
