"""What an earlier version wrote is read for ever: tables, manifest, landing, warehouse record.

Each folder of tests/golden is a small warehouse, with the values of its tables as JSON beside it.
These files are never written again. Where a table is new or its version is raised, run

    python -m tests.pipelines.test_golden v2-feed

from the root of the repository: it writes a new folder, named after the tables it is for, with the
tables whose present version no folder has yet, and refuses one that exists.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.models import Learners, ModelRecord, models
from pipelines.store.folders import Folder, FolderFile
from pipelines.store.manifests import LandedGroup, Landing, Manifest, StoredFile, to_json
from pipelines.store.storage import create_exclusive
from pipelines.store.tables import SCHEMAS, read_files, schema_of, write_table
from pipelines.store.warehouse import Warehouse
from profiling.schema import TIMESTAMP, Column, TableSchema, sort_rows
from retrieval.histories import HistoryConfig

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(p.parent.name for p in GOLDEN.glob("*/warehouse.json"))
CASES = [
    (folder, name)
    for folder in FOLDERS
    for name in sorted(SCHEMAS)
    if (GOLDEN / folder / "expected" / f"{name}.json").exists()
]
LANDED = {"ITEMS", "TOPICS", "ENGAGEMENTS", "EXPOSURES", "IMPRESSIONS", "SERVED_DRAWS", "KEYS"}
LATER = ("ENCODINGS", "ITEM_RATES")  # tables that came after v1
WIDTH = 3  # of the vectors
ODD = 'Möbel · 家具 🪑\n"quoted", \u202eright to left'


def files_of(folder: str, name: str) -> tuple[StoredFile, ...]:
    warehouse = Warehouse.open(str(GOLDEN / folder))
    (landing,), head = warehouse.landings(), warehouse.head()
    assert head is not None
    return landing.tables.get(name) or (head.tables | head.catalogue).get(name, ())


def versions_of(name: str) -> set[int]:
    """The versions of a table that some folder has."""
    found = set()
    for folder in FOLDERS:
        for file in files_of(folder, name):
            metadata = pq.read_schema(GOLDEN / folder / file.path).metadata
            assert metadata[b"queryloop.table"] == name.encode()
            found.add(int(metadata[b"queryloop.version"]))
    return found


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON holds them: microseconds and days as integers."""
    for i, f in enumerate(table.schema):
        if pa.types.is_timestamp(f.type):
            table = table.set_column(i, f.name, table[f.name].cast(pa.int64()))
        if pa.types.is_date32(f.type):
            table = table.set_column(i, f.name, table[f.name].cast(pa.int32()))
    return list(table.to_pylist())


def expected(folder: str, name: str) -> list[dict[str, Any]]:
    return list(json.loads((GOLDEN / folder / "expected" / f"{name}.json").read_text()))


def lifted(folder: str, name: str, schema: TableSchema) -> list[dict[str, Any]]:
    """The expected rows, with what their version did not have yet."""
    rows = expected(folder, name)
    return [{n: row[n] if n in row else schema.lifts[n] for n in schema.names} for row in rows]


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_a_table_is_read_and_lifted(folder: str, name: str) -> None:
    files = files_of(folder, name)
    assert files
    table = read_files(str(GOLDEN / folder), name, files)
    schema = schema_of(name, table.schema)
    assert table.schema.equals(schema.arrow)
    assert len(expected(folder, name)) >= 4
    assert plain(table) == lifted(folder, name, schema)
    schema.check_ranges(table, folder)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_version_of_every_table_is_kept(name: str) -> None:
    missing = set(range(1, SCHEMAS[name].version + 1)) - versions_of(name)
    assert not missing, (
        f"{name} has no golden file of version {sorted(missing)}: "
        f"run python -m tests.pipelines.test_golden v{max(missing, default=0)}-{name.lower()}"
    )


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_column_of_a_next_version_would_be_lifted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SCHEMAS[name]
    added = Column("added", pa.int64(), "new in the next version")
    later = replace(
        now,
        version=now.version + 1,
        columns=(*now.columns, added),
        lifts={**now.lifts, "added": 5},
    )
    monkeypatch.setitem(SCHEMAS, name, later)
    folder = next(f for f in reversed(FOLDERS) if files_of(f, name))
    table = read_files(str(GOLDEN / folder), name, files_of(folder, name))
    assert table["added"].to_pylist() == [5] * table.num_rows
    assert plain(table.drop_columns(["added"])) == lifted(folder, name, now)


@pytest.mark.parametrize("columns", [None, ["user_id"]])
def test_a_table_of_a_later_version_is_refused(
    columns: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEMAS, "REWARDS", replace(SCHEMAS["REWARDS"], version=0))
    message = r"data/REWARDS/.*: REWARDS is of version 1; this release reads up to version 0"
    with pytest.raises(ValueError, match=message):
        read_files(str(GOLDEN / "v1"), "REWARDS", files_of("v1", "REWARDS"), columns)


def test_the_warehouse_record() -> None:
    warehouse = Warehouse.open(str(GOLDEN / "v1"))
    assert (warehouse.buckets, warehouse.hash_key) == (4, bytes(range(16)))


def test_the_landing_record() -> None:
    (landing,) = Warehouse.open(str(GOLDEN / "v1")).landings()
    assert (landing.number, landing.source, landing.format) == (1, ODD, 1)
    assert landing.starts_at == 1_709_251_200_000_000
    assert landing.sources == ({"path": "log.csv", "bytes": 12, "rows": 4},)
    assert landing.notes == ("user ids are text", ODD)
    assert set(landing.tables) == LANDED
    (part,) = landing.tables["ENGAGEMENTS"][0].parts
    assert (part.bucket, part.row_group, part.row_groups, part.rows) == (-1, 0, 1, 4)


def test_the_manifest() -> None:
    warehouse = Warehouse.open(str(GOLDEN / "v1"))
    head = warehouse.head()
    assert head is not None
    assert warehouse.chain(head) == [head]
    assert warehouse.night(dt.date(2024, 3, 1)) == head
    assert (head.number, head.parent, head.kind, head.head) == (1, None, "night", True)
    assert (head.date, head.cutoff) == (dt.date(2024, 3, 1), 1_709_337_600_000_000)
    path = warehouse.landings()[0].tables["ENGAGEMENTS"][0].path
    assert head.inputs == (LandedGroup(1, "ENGAGEMENTS", path, 0, 4),)
    assert set(head.catalogue) == {"ITEMS", "TOPICS"}
    assert set(head.tables) == set(SCHEMAS) - LANDED - set(LATER)
    assert head.config == {"seed": 3, "actions": [{"name": "like", "value": 0.5}]}
    assert (head.config_digest, head.seed, head.embedding_version) == ("0123abcd", 3, "v1")
    assert head.counts == {"impressions": {"landed": 4, "outcomes": 3, "open_after": 1}}
    assert head.seconds == {"build_profiles": 0.125}
    assert head.prior == {"home": {"mean": 0.05, "strength": 20.0}}
    assert (head.model, head.runner, head.format) == (None, "in-process", 1)
    assert head.retrieval == {}  # a field that came later
    assert head.versions == {"queryloop": "0.1.0"}


def test_the_record_of_a_model() -> None:
    (record,) = models(str(GOLDEN / "v1-encodings"))
    assert record == golden_model()
    assert record.folder.digest.startswith("f6d5c1fa69c9341742e4e89408b7bfe6")


def test_golden_files_are_small_and_as_they_were_written() -> None:
    total = sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file())
    assert 10_000 < total < 200_000
    for folder, name in CASES:
        for file in files_of(folder, name):
            content = (GOLDEN / folder / file.path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.digest, file.path


def golden_model() -> ModelRecord:
    return ModelRecord(
        number=1,
        folder=Folder("models/2024-03-01-0123", (FolderFile("model.json", 12, "ab" * 32),)),
        date=dt.date(2024, 3, 1),
        cutoff=1_709_337_600_000_000,
        learners=Learners("experiment", "arm"),
        manifest=4,
        parent=3,
        seed=7,
        embedding_version="v1",
        embedding_width=3,
        catalogue="0123abcd",
        histories=HistoryConfig(recent_items=20, clusters=4),
        config={"model": {"width": 8}, "training": {"epochs": 2}},
        code="0.1.0 with code 0123456789ab",
        report={"loss": 5.5, "heldout_recall_100": None},
        versions={"jax": "0.10.2"},
    )


# Writing a new folder; never run by a test.


def write_golden(folder: Path) -> None:
    """A warehouse with every table that is not kept at its version yet, and its values as JSON."""
    if folder.exists():
        sys.exit(f"{folder} exists; golden files are never written again")
    Warehouse.create(str(folder), "seed: 3\n", buckets=4)
    (folder / "queryloop.yaml").unlink()
    settings = {"format": 1, "buckets": 4, "hash_key": bytes(range(16)).hex()}
    (folder / "warehouse.json").write_text(json.dumps(settings) + "\n")
    warehouse = Warehouse.open(str(folder))
    files, root = {}, str(folder)
    (folder / "expected").mkdir()
    for name in sorted(n for n in SCHEMAS if SCHEMAS[n].version not in versions_of(n)):
        table = golden_rows(SCHEMAS[name].of_width(WIDTH))
        files[name] = write_table(root, name, table, "golden")
        text = json.dumps(plain(table), indent=1)
        (folder / "expected" / f"{name}.json").write_text(text + "\n")
    landed = {name: files[name] for name in LANDED & set(files)}
    sources = ({"path": "log.csv", "bytes": 12, "rows": 4},)
    starts_at = 1_709_251_200_000_000
    warehouse.land(Landing(0, ODD, landed, starts_at, sources, ("user ids are text", ODD)))
    events = [LandedGroup(1, n, files[n][0].path, 0, 4) for n in ("ENGAGEMENTS",) if n in files]
    manifest = Manifest(
        number=0,
        parent=None,
        kind="night",
        head=True,
        date=dt.date(2024, 3, 1),
        cutoff=1_709_337_600_000_000,
        tables={name: f for name, f in files.items() if name not in LANDED},
        inputs=tuple(events),
        catalogue={name: files[name] for name in ("ITEMS", "TOPICS") if name in files},
        config={"seed": 3, "actions": [{"name": "like", "value": 0.5}]},
        config_digest="0123abcd",
        seed=3,
        embedding_version="v1",
        counts={"impressions": {"landed": 4, "outcomes": 3, "open_after": 1}},
        seconds={"build_profiles": 0.125},
        prior={"home": {"mean": 0.05, "strength": 20.0}},
        runner="in-process",
        versions={"queryloop": "0.1.0"},
    )
    warehouse.publish(manifest, None)
    create_exclusive(str(folder / "models" / "000001.json"), to_json(golden_model()))


def golden_rows(schema: TableSchema) -> pa.Table:
    """Four rows: an ordinary one, the least and the greatest values, and one full of nulls."""
    columns = {c.name: pa.array([golden_value(c, i) for i in range(4)]) for c in schema.columns}
    typed = {c.name: pa.array(columns[c.name].to_pylist(), c.type) for c in schema.columns}
    return sort_rows(schema.check(pa.table(typed)), schema.key)


def golden_value(column: Column, i: int) -> Any:
    if column.nullable and i == 3:
        return None
    return value_of(column.type, i, column.low, column.high)


def value_of(type_: pa.DataType, i: int, low: float | None, high: float | None) -> Any:
    if pa.types.is_string(type_):
        return ["home", "", ODD, "x" * 40][i]
    if pa.types.is_boolean(type_):
        return i % 2 == 0
    if type_ == TIMESTAMP:
        return [1_709_251_200_123_456, 0, 253_402_300_799_999_999, 86_400_000_000][i]
    if pa.types.is_date32(type_):
        return [19_783, 0, 2_932_896, -1][i]
    if pa.types.is_integer(type_):
        bounds = np.iinfo(str(type_))
        return [7, int(low) if low is not None else int(bounds.min), int(bounds.max), 12][i]
    if pa.types.is_floating(type_):
        bounds = np.finfo("float32" if type_ == pa.float32() else "float64")
        least = float(bounds.min) if low is None else low
        greatest = float(bounds.max) if high is None else high
        return [1 / 3, least, greatest, float(bounds.smallest_subnormal)][i]
    if pa.types.is_struct(type_):
        return {f.name: value_of(f.type, i, None, None) for f in type_}
    if pa.types.is_fixed_size_list(type_):
        return [[0.6, 0.8, 0.0], [0.0] * 3, [1.0, -1.0, 1e-45], [-0.6, 0.0, 0.8]][i]
    assert pa.types.is_list(type_), type_
    members = {0: (0, 3), 1: (), 2: (2,), 3: (1,)}[i]
    return [value_of(type_.value_type, k, None, None) for k in members]


if __name__ == "__main__":
    write_golden(GOLDEN / sys.argv[1])
