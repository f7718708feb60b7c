"""Opens what `queryloop export` wrote for a server: weights as Parquet, JSON Lines or SQLite.

DIR/export.json names the files and what all their draws share. It is replaced as a whole, after the
files of another night lie beside those of the last: a server that opens DIR again takes them up.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selection.request_draws import (
    RequestSampler,
    TableWeights,
    UserWeights,
    WeightState,
    WeightStore,
    user_weights,
)
from selection.weights import WEIGHTS

EXPORT_FORMAT = 1
RECORD = "export.json"
_CURE = "export again with the release that the server runs"


def open_sampler(folder: str | Path) -> RequestSampler:
    """A sampler over the weights in `folder`.

    Raises:
        ValueError: There is no export with weights, it is of another version, or a file is damaged.
    """
    place = Path(folder, RECORD)
    if not place.exists():
        raise ValueError(f"{folder} holds no export; make one with `queryloop export --out DIR`")
    try:
        record = json.loads(place.read_bytes())
        number, tables = record["format"], record["tables"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is damaged ({error!r}); export again") from error
    if number != EXPORT_FORMAT:
        raise ValueError(f"{place} is of format {number!r}, this reads {EXPORT_FORMAT}; {_CURE}")
    if "weights" not in tables:
        raise ValueError(f"{folder} holds {', '.join(tables)} and no weights; export these too")
    try:
        state = WeightState(
            run_date=date.fromisoformat(record["run_date"]),
            seed=int(record["seed"]),
            salt=record["salt"],
            version=record["state_version"],
            surfaces=tuple(record["surfaces"]),
        )
        file = tables["weights"]
        path = Path(folder, file["file"])
        version, digest = file["version"], file["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is damaged ({error!r}); export again") from error
    if version != WEIGHTS.version:
        raise ValueError(
            f"{path} holds weights of version {version!r}, this reads {WEIGHTS.version}; {_CURE}"
        )
    _check_digest(path, digest)
    return RequestSampler(_OPENERS[path.suffix](path), state)


def _check_digest(path: Path, digest: str) -> None:
    if not path.exists():
        raise ValueError(f"{path} is gone; export again")
    with path.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != digest:
        raise ValueError(f"{path} is not what was exported (SHA-256 {found[:12]}); export again")


class SqliteWeights:
    """WEIGHTS in a SQLite file: nothing is loaded, a user is looked up by the primary key."""

    def __init__(self, path: Path) -> None:
        """Over the file at `path`, read only, with a connection a thread."""
        self._uri, self._mine = f"{path.resolve().as_uri()}?mode=ro&immutable=1", threading.local()

    def find(self, user_id: int, surface: str) -> UserWeights | None:
        """The user's interests there; None where there are none."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = sqlite3.connect(self._uri, uri=True)
        names = WEIGHTS.names
        rows = self._mine.connection.execute(
            f"SELECT {', '.join(names)} FROM weights WHERE user_id = ? AND surface = ? "
            "ORDER BY cluster_id",
            (user_id, surface),
        ).fetchall()
        if not rows:
            return None
        columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
        columns["conditions"] = [_pairs(json.loads(text)) for text in columns["conditions"]]
        return user_weights(columns)


def _pairs(conditions: list[Mapping[str, Any]]) -> list[tuple[int, float]]:
    return [(t["topic_id"], float(np.float32(t["confidence"]))) for t in conditions]


def _parquet(path: Path) -> WeightStore:
    return TableWeights(pq.read_table(path))


def _json_lines(path: Path) -> WeightStore:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return TableWeights(pa.Table.from_pylist(rows, schema=WEIGHTS.arrow))


_OPENERS = {".parquet": _parquet, ".jsonl": _json_lines, ".sqlite": SqliteWeights}
