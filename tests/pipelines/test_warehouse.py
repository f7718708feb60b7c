"""The warehouse: nothing half-written is visible, and one of two publishers wins."""

import dataclasses
import datetime as dt
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.landing import land
from pipelines.store.manifests import Manifest, StoredFile
from pipelines.store.storage import HashingSink, create_exclusive, join, list_names, read_bytes
from pipelines.store.tables import TableWriter, read_bucket, read_files, read_row_group
from pipelines.store.warehouse import PublishConflict, Warehouse
from profiling.decay import DAY_US
from profiling.tables import ENGAGEMENTS, HISTORY


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse.create(str(tmp_path / "w"), "seed: 0\n", buckets=4)


def engagements(at: list[int]) -> pa.Table:
    n = len(at)
    return ENGAGEMENTS.build(
        {
            "event_id": np.arange(n),
            "user_id": np.arange(n) % 3,
            "item_id": np.arange(n),
            "action": ["like"] * n,
            "at": np.array(at),
            "impression_id": pa.nulls(n, pa.int64()),
            "synthetic": np.zeros(n, bool),
            "content_digest": np.arange(n),
        }
    )


def manifest(**changes: object) -> Manifest:
    draft = Manifest(
        number=0, parent=None, kind="night", head=True, date=dt.date(2024, 1, 1), cutoff=DAY_US,
        tables={}, inputs=(), catalogue={}, config={}, config_digest="", seed=0,
        embedding_version="v", counts={}, seconds={},
    )  # fmt: skip
    return dataclasses.replace(draft, **changes)  # type: ignore[arg-type] # fields by name


def test_a_warehouse_is_not_made_twice(warehouse: Warehouse) -> None:
    with pytest.raises(FileExistsError, match="already"):
        Warehouse.create(warehouse.root, "", buckets=4)


def test_what_is_no_warehouse_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="queryloop init"):
        Warehouse.open(str(tmp_path))


def test_another_format_is_refused(warehouse: Warehouse) -> None:
    path = Path(warehouse.root, "warehouse.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99; this version reads 1"):
        Warehouse.open(warehouse.root)


def test_a_damaged_record_is_named(warehouse: Warehouse) -> None:
    Path(warehouse.root, "manifests").mkdir()
    Path(warehouse.root, "manifests", "000001.json").write_text('{"format": 1, "num')
    with pytest.raises(ValueError, match=r"000001\.json is damaged"):
        warehouse.head()


def test_landed_row_groups_never_cross_midnight_or_the_start(warehouse: Warehouse) -> None:
    at = [5, DAY_US - 1, DAY_US, DAY_US + 10, DAY_US + 20, 3 * DAY_US]
    land(warehouse, {"ENGAGEMENTS": engagements(at)}, source="t", starts_at=DAY_US + 10)
    groups = warehouse.pending(set(), 4 * DAY_US)
    rows = [
        read_row_group(warehouse.root, g.table, g.path, g.row_group)["at"].cast(pa.int64())
        for g in groups
    ]
    assert [r.to_pylist() for r in rows] == [at[:2], at[2:3], at[3:5], at[5:]]


def test_a_night_takes_what_lies_before_its_cut_off_and_was_not_taken(warehouse: Warehouse) -> None:
    land(warehouse, {"ENGAGEMENTS": engagements([1, DAY_US, 2 * DAY_US])}, source="t")
    first = warehouse.pending(set(), DAY_US)
    assert [g.rows for g in first] == [1]
    taken = {(g.path, g.row_group) for g in first}
    assert len(warehouse.pending(taken, 3 * DAY_US)) == 2
    assert len(warehouse.pending(taken, 2 * DAY_US)) == 1


def test_readers_follow_the_newest_head_only(warehouse: Warehouse) -> None:
    one = warehouse.publish(manifest(), None)
    branch = warehouse.publish(manifest(head=False, parent=one.number), None)
    assert (one.number, branch.number) == (1, 2)
    head = warehouse.head()
    assert head == one
    assert [m.number for m in warehouse.chain(branch)] == [1, 2]


def test_of_two_nights_at_once_one_is_refused(warehouse: Warehouse) -> None:
    first = warehouse.publish(manifest(), None)
    with pytest.raises(PublishConflict, match="nothing of this run is visible"):
        warehouse.publish(manifest(date=dt.date(2024, 1, 1)), None)
    assert warehouse.head() == first


def test_a_rival_published_while_the_head_is_read_is_noticed(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_then_rival(folder: str) -> list[str]:
        names = list_names(folder)
        monkeypatch.undo()
        warehouse.publish(manifest(seed=1), None)
        return names

    monkeypatch.setattr("pipelines.store.records.list_names", list_then_rival)
    with pytest.raises(PublishConflict, match="nothing of this run is visible"):
        warehouse.publish(manifest(seed=2), None)
    assert [m.seed for m in warehouse.manifests()] == [1]


def test_an_exclusive_create_never_overwrites_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = join(str(tmp_path), "x", "record.json")
    assert create_exclusive(path, b"one")
    assert not create_exclusive(path, b"two")
    assert read_bytes(path) == b"one"
    assert [p.name for p in Path(path).parent.iterdir()] == ["record.json"]


def history(users: list[int]) -> pa.Table:
    n = len(users)
    return HISTORY.build(
        {
            "user_id": np.array(users),
            "event_id": np.arange(n),
            "item_id": np.arange(n),
            "action": np.zeros(n, np.int16),
            "at": np.arange(n),
            "impression_id": pa.nulls(n, pa.int64()),
            "credited_id": pa.nulls(n, pa.int64()),
            "content_digest": np.arange(n),
        }
    )


def write(warehouse: Warehouse) -> tuple[StoredFile, ...]:
    writer = TableWriter(warehouse.root, "HISTORY", "t")
    for bucket, users in ((0, [1, 2]), (1, []), (3, [5])):
        writer.write(history(users), bucket)
    return writer.finish()


def test_a_bucket_is_read_from_its_row_groups(warehouse: Warehouse) -> None:
    files = write(warehouse)
    assert len(files) == 1
    users = [
        read_bucket(warehouse.root, "HISTORY", files, b)["user_id"].to_pylist() for b in range(4)
    ]
    assert users == [[1, 2], [], [], [5]]
    assert read_files(warehouse.root, "HISTORY", files)["user_id"].to_pylist() == [1, 2, 5]


def test_a_stored_file_states_its_bytes_and_digest(warehouse: Warehouse) -> None:
    import hashlib

    (file,) = write(warehouse)
    content = Path(warehouse.root, file.path).read_bytes()
    assert (file.bytes, file.digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_truncated_file_is_named_with_the_cure(warehouse: Warehouse) -> None:
    (file,) = write(warehouse)
    path = Path(warehouse.root, file.path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"data/HISTORY/.*cannot be read as Parquet.*restore"):
        read_files(warehouse.root, "HISTORY", [file])


def test_a_full_disk_makes_nothing_visible(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: HashingSink, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashingSink, "write", full)
    with pytest.raises(OSError, match="No space left"):
        land(warehouse, {"ENGAGEMENTS": engagements([1])}, source="t")
    assert warehouse.landings() == []
