"""Another number of buckets: the same rows, for every reader at once, and nights that go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

import pipelines.operate.reshard as reshard_module
from pipelines.cli import app
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night, run_nights
from pipelines.operate.doctor import check_warehouse, clean
from pipelines.operate.erase import erase
from pipelines.operate.fingerprint import compare, fingerprint
from pipelines.operate.reshard import plan_reshard, reshard
from pipelines.plan import plan_night
from pipelines.store.manifests import StoredFile
from pipelines.store.tables import SCHEMAS, read_bucket
from pipelines.store.warehouse import PublishConflict, Warehouse
from profiling.hashing import buckets_of
from tests.pipelines.small_world import (
    day,
    engagements_table,
    foreign_impressions,
    items_table,
)

QUIET = RunOptions(progress=False)
NOW = 1_800_000_000_000_000


def two_nights(path: Path, buckets: int) -> Warehouse:
    """Two nights, and the rows of a third day."""
    config = render_config(NightConfig()).replace("nights: 35", "nights: 1", 1)
    warehouse = Warehouse.create(str(path), config, buckets=buckets)
    tables = {
        "ITEMS": items_table(),
        "ENGAGEMENTS": engagements_table(0, 2),
        "IMPRESSIONS": foreign_impressions(0, 2, own_actions=True),
    }
    land(warehouse, tables, source="log")
    run_nights(warehouse, [day(0), day(1)], QUIET)
    return warehouse


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In two buckets; copy it to change it."""
    path = tmp_path_factory.mktemp("reshard") / "w"
    two_nights(path, 2)
    return path


@pytest.fixture
def warehouse(made: Path, tmp_path: Path) -> Warehouse:
    shutil.copytree(made, tmp_path / "w")
    return Warehouse.open(str(tmp_path / "w"))


def resharded(warehouse: Warehouse, buckets: int) -> Warehouse:
    reshard(warehouse, buckets, NOW)
    return Warehouse.open(warehouse.root)


def prints(warehouse: Warehouse) -> list[dict[str, str]]:
    return [fingerprint(warehouse, m) for m in warehouse.manifests()]


def test_a_night_after_it_has_the_rows_of_a_warehouse_that_had_the_buckets_all_along(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    ours, theirs = resharded(warehouse, 4), two_nights(tmp_path / "twin", 4)
    nights = [run_night(w, day(2), QUIET) for w in (ours, theirs)]
    for found in compare((ours, nights[0]), (theirs, nights[1])):
        assert found.equal, found
    for name in ("HISTORY", "PROFILES", "REWARDS", "CLUSTER_REWARDS", "FEED"):
        parts = [[p.bucket for f in n.tables[name] for p in f.parts] for n in nights]
        assert parts[0] == parts[1], name
        pair = [w.read(name, n) for w, n in zip((ours, theirs), nights, strict=True)]
        assert pair[0].num_rows, name
        assert pair[0]["user_id"].equals(pair[1]["user_id"]), name


@pytest.mark.parametrize("buckets", [1, 16])
def test_every_night_keeps_its_rows_and_every_bucket_has_its_users(
    buckets: int, warehouse: Warehouse
) -> None:
    before, stored = prints(warehouse), 0
    ours = resharded(warehouse, buckets)
    assert (ours.buckets, prints(ours)) == (buckets, before)
    for manifest in ours.manifests():
        for name, files in manifest.tables.items():
            for part in (p for f in files for p in f.parts if p.bucket >= 0):
                rows = read_bucket(ours.root, name, files, part.bucket)
                users = rows["user_id"].to_numpy()
                assert set(buckets_of(users, buckets)) == {part.bucket}, name
                order = [(k, "ascending") for k in SCHEMAS[name].key]
                assert rows.equals(rows.sort_by(order)), name
                stored += part.rows
    assert stored == plan_reshard(ours, 2).rows
    user = int(ours.read("PROFILES")["user_id"][0].as_py())
    head = ours.head()
    assert head is not None
    mine = pc.sum(pc.equal(ours.read("PROFILES")["user_id"], user)).as_py()
    assert ours.read_user("PROFILES", user, head).num_rows == mine > 0


def test_broken_off_nothing_is_seen_and_run_again_it_goes_on(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = prints(warehouse), plan_reshard(warehouse, 8).files
    real, calls = reshard_module.reshard_file, 0

    def failing_at(last: int) -> Callable[..., StoredFile | None]:
        def one(*args: object) -> StoredFile | None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise OSError("the power went")
            return real(*args)  # type: ignore[arg-type]

        return one

    with monkeypatch.context() as patch:
        patch.setattr(reshard_module, "reshard_file", failing_at(8))
        with pytest.raises(OSError, match="the power went"):
            reshard(warehouse, 8, NOW)
    assert (Warehouse.open(warehouse.root).buckets, prints(warehouse)) == (2, before)
    assert plan_reshard(warehouse, 8).finished == 7
    gone = next(Path(warehouse.root, "data").rglob("8-buckets-*"))
    gone.unlink()  # a cleaning took what no record named
    calls = 0
    monkeypatch.setattr(reshard_module, "reshard_file", failing_at(-1))
    found = reshard(warehouse, 8, NOW)
    assert (found.finished, found.done, calls) == (6, True, files - 6)
    ours = Warehouse.open(warehouse.root)
    assert (ours.buckets, prints(ours)) == (8, before)
    assert not list(Path(warehouse.root, "staged").glob("reshard*"))


def test_whoever_opened_it_before_is_told_to_open_it_again(warehouse: Warehouse) -> None:
    head = warehouse.head()
    assert head is not None
    plan = plan_night(warehouse, NightConfig(), day(2), head)
    ours = resharded(warehouse, 4)
    for read in (warehouse.head, warehouse.manifests, lambda: warehouse.publish(head, head.number)):
        with pytest.raises(PublishConflict, match="put into 4 buckets meanwhile, 2 when this"):
            read()
    again = plan_night(ours, NightConfig(), day(2), ours.head())
    assert again.digest != plan.digest  # what the first had staged is not taken up


def test_what_happened_meanwhile_is_not_lost(
    warehouse: Warehouse, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "other")
    other, real = Warehouse.open(str(tmp_path / "other")), reshard_module.reshard_file

    def meanwhile(root: str, act: Callable[[Warehouse], object]) -> Callable[..., object]:
        def one(*args: object) -> StoredFile | None:
            monkeypatch.setattr(reshard_module, "reshard_file", real)
            act(Warehouse.open(root))
            return real(*args)  # type: ignore[arg-type]

        return one

    night = meanwhile(warehouse.root, lambda w: run_night(w, day(2), QUIET))
    monkeypatch.setattr(reshard_module, "reshard_file", night)
    with pytest.raises(PublishConflict, match="was published meanwhile; nothing changed"):
        reshard(warehouse, 8, NOW)
    assert resharded(warehouse, 8).night(day(2)).date == day(2)

    erased = meanwhile(other.root, lambda w: erase(w, 4711, NOW))
    monkeypatch.setattr(reshard_module, "reshard_file", erased)
    with pytest.raises(ValueError, match="collected, erased or laid out anew meanwhile; run it"):
        reshard(other, 8, NOW)
    assert Warehouse.open(other.root).buckets == 2


def test_old_files_are_in_no_record_and_an_erasure_leaves_none_of_them(
    warehouse: Warehouse, made: Path, tmp_path: Path
) -> None:
    ours = resharded(warehouse, 8)
    found = check_warehouse(ours, NOW / 1e6)
    assert found.healthy
    assert len(found.strays) == plan_reshard(ours, 2).files
    assert clean(ours, found.strays, 0.0) == len(found.strays)
    assert check_warehouse(ours, NOW / 1e6).strays == ()
    shutil.copytree(made, tmp_path / "other")
    other = resharded(Warehouse.open(str(tmp_path / "other")), 1)
    assert erase(other, 7, NOW).found == ()
    users = np.unique(other.read("HISTORY")["user_id"].to_numpy())
    assert 7 not in users
    assert len(users) > 30


@pytest.mark.parametrize(
    ("buckets", "problem"),
    [
        ("0", "buckets must be a power of two up to 65536, got 0; take 1"),
        ("12", "got 12; take 8"),
        ("2", "has 2 buckets already; give another number"),
    ],
)
def test_a_number_that_cannot_be_is_refused(buckets: str, problem: str, made: Path) -> None:
    done = CliRunner().invoke(app, ["reshard", "-w", str(made), "--buckets", buckets])
    assert done.exit_code == 2
    assert problem in done.output


def test_it_waits_for_a_night_that_broke_off_and_needs_a_warehouse(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    staged = Path(warehouse.root, "staged", f"{day(2)}-abc", "1-learn.json")
    staged.parent.mkdir(parents=True)
    staged.write_text("{}")
    asked = ["reshard", "--buckets", "4", "-w"]
    done = CliRunner().invoke(app, [*asked, warehouse.root])
    assert done.exit_code == 2
    assert f"runs or broke off ({day(2)}); let it end, or `queryloop resume`" in done.output
    done = CliRunner().invoke(app, [*asked, str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "is no warehouse" in done.output


def test_a_dry_run_says_what_it_takes_and_changes_nothing(warehouse: Warehouse) -> None:
    asked = ["reshard", "--buckets", "4", "-w", warehouse.root]
    told = CliRunner().invoke(app, [*asked, "--dry-run", "--json"])
    planned = json.loads(told.output)
    assert (planned["before"], planned["after"], planned["done"]) == (2, 4, False)
    assert Warehouse.open(warehouse.root).buckets == 2
    done = CliRunner().invoke(app, asked)
    assert f"{planned['files']} files of {planned['nights']} nights" in done.output
    assert "2 buckets became 4, for every reader from now on" in done.output
    assert Warehouse.open(warehouse.root).buckets == 4
