"""What goes wrong changes nothing that readers see, and says what, where, the value, the cure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import pipelines.nights as nights_module
from pipelines.cli import main
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night, run_nights
from pipelines.operate.fingerprint import fingerprint
from pipelines.store.manifests import Manifest
from pipelines.store.storage import HashingSink
from pipelines.store.tables import SCHEMAS, _footer
from pipelines.store.warehouse import PublishConflict, Warehouse
from tests.pipelines.small_world import (
    FIRST,
    day,
    engagements_table,
    foreign_impressions,
    items_table,
)

QUIET = RunOptions(progress=False)


def make(path: Path) -> Warehouse:
    warehouse = Warehouse.create(str(path), render_config(NightConfig()), buckets=2)
    tables = {
        "ITEMS": items_table(),
        "ENGAGEMENTS": engagements_table(0, 1),
        "IMPRESSIONS": foreign_impressions(0, 1, own_actions=True),
    }
    land(warehouse, tables, source="log")
    return warehouse


def rejected(warehouse: Warehouse) -> list[dict[str, object]]:
    chain = warehouse.chain(warehouse.head())
    return [row for m in chain for row in warehouse.read("REJECTED", m).to_pylist()]


KILLED = """
import os, signal, sys, datetime as dt
from pathlib import Path
import pipelines.{module} as module
from pipelines.store.warehouse import Warehouse
from pipelines.nights import run_night
from pipelines.night import RunOptions
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
module.{function} = die
date = dt.date.fromisoformat(sys.argv[2])
run_night(Warehouse.open(sys.argv[1]), date, RunOptions(progress=False))
"""


@pytest.fixture(scope="module")
def one_night(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """After the first night; copy it to change it."""
    warehouse = make(tmp_path_factory.mktemp("one") / "w")
    run_night(warehouse, day(0), QUIET)
    return warehouse


@pytest.fixture(scope="module")
def two_nights(one_night: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """After the second; copy it to change it."""
    warehouse = copied(one_night, tmp_path_factory.mktemp("two") / "w")
    run_night(warehouse, day(1), QUIET)
    return warehouse


@pytest.fixture(scope="module")
def untouched(two_nights: Warehouse) -> dict[str, str]:
    """Fingerprint of the second of two nights that nothing disturbed."""
    return fingerprint(two_nights, head_of(two_nights))


def copied(warehouse: Warehouse, path: Path) -> Warehouse:
    shutil.copytree(warehouse.root, path)
    return Warehouse.open(str(path))


def head_of(warehouse: Warehouse) -> Manifest:
    head = warehouse.head()
    assert head is not None
    return head


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("rewards", "tally_rewards"),  # job 1
        ("queries", "select_queries"),  # job 2
        ("feed", "rerank_feed"),  # job 3
    ],
)
def test_kill_9_in_any_job_leaves_the_old_night_and_the_rerun_gives_the_same_rows(
    module: str, function: str, tmp_path: Path, one_night: Warehouse, untouched: dict[str, str]
) -> None:
    warehouse, first = copied(one_night, tmp_path / "w"), head_of(one_night)
    code = KILLED.format(module=module, function=function)
    arguments = [sys.executable, "-c", code, warehouse.root, str(day(1))]
    killed = subprocess.run(arguments, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    assert warehouse.head() == first
    assert fingerprint(warehouse, run_night(warehouse, day(1), QUIET)) == untouched


def test_a_rerun_goes_on_from_the_last_job_that_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = make(tmp_path / "w")

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.candidates.retrieve_candidates", fail)
        with pytest.raises(Exception, match="No space left"):
            run_night(warehouse, day(0), QUIET)
    assert warehouse.head() is None
    staged = sorted(p.name for p in Path(warehouse.root, "staged").rglob("*.json"))
    assert staged == ["1-learn.json", "2-choose-feed.json"]
    monkeypatch.setattr("pipelines.profiles.build_profiles", fail)  # must not be called again
    assert run_night(warehouse, day(0), QUIET).head


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, create = make(tmp_path / "w"), HashingSink.__init__

    def on_full_disk(self: HashingSink, path: str) -> None:
        create(self, path)
        self._file.close()
        self._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 (the sink closes it)

    words = ["queryloop", "night", "-w", warehouse.root, "--date", str(day(0))]
    monkeypatch.setattr(sys, "argv", words)
    with monkeypatch.context() as patch:
        patch.setattr(HashingSink, "__init__", on_full_disk)
        with pytest.raises(SystemExit, match="2"):
            main()
    said = capsys.readouterr().err
    assert f"No space left on device: '{warehouse.root}/" in said
    assert "free some space and run it again; nothing of this run is visible" in said
    assert "Traceback" not in said
    assert warehouse.head() is None
    assert run_night(warehouse, day(0), QUIET).head


AT_ONCE = """
import sys, time
from pathlib import Path
import pipelines.nights as nights
from pipelines.cli import main
plan_night, (mine, others, *words) = nights.plan_night, sys.argv[1:]
def plan_and_wait(*args, **options):
    plan = plan_night(*args, **options)
    Path(mine).touch()
    while not Path(others).exists():
        time.sleep(0.01)
    return plan
nights.plan_night = plan_and_wait
sys.argv = ["queryloop", *words]
main()
"""


def test_of_two_processes_at_once_one_publishes(
    tmp_path: Path, one_night: Warehouse, untouched: dict[str, str]
) -> None:
    warehouse, first = copied(one_night, tmp_path / "w"), head_of(one_night)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    words = ["night", "-w", warehouse.root, "--date", str(day(1))]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, mine, others, *words],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine, others in ((a, b), (b, a))
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 2], said
    assert "nothing of this run is visible: run it again" in said[codes.index(2)]
    assert "Traceback" not in said[codes.index(2)]
    head = head_of(warehouse)
    assert [m.number for m in warehouse.manifests()] == [first.number, head.number]
    assert fingerprint(warehouse, head) == untouched


def test_of_two_nights_at_once_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse, original = make(tmp_path / "w"), nights_module.plan_night
    planned = []

    def plan_and_be_overtaken(*args: object, **options: object) -> object:
        plan = original(*args, **options)  # type: ignore[arg-type] # passed through
        if not planned:
            planned.append(plan)
            run_night(warehouse, day(0), QUIET)
        return plan

    monkeypatch.setattr(nights_module, "plan_night", plan_and_be_overtaken)
    with pytest.raises(PublishConflict, match="nothing of this run is visible"):
        run_night(warehouse, day(0), QUIET)
    assert len(warehouse.manifests()) == 1


def test_a_gap_between_nights_is_refused_with_the_cure(
    tmp_path: Path, one_night: Warehouse
) -> None:
    warehouse = copied(one_night, tmp_path / "w")
    with pytest.raises(ValueError, match=rf"leave out 2 nights.*--from {day(1)} --to {day(3)}"):
        run_night(warehouse, day(3), QUIET)
    assert run_night(warehouse, day(3), QUIET, allow_gap=True).date == day(3)


def test_a_date_before_any_data_is_refused(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    with pytest.raises(ValueError, match=r"no event before the end of 2024-02-25.*2024-03-01"):
        run_night(warehouse, FIRST.replace(month=2, day=25), QUIET)


def test_a_date_before_the_first_night_is_refused(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    run_night(warehouse, day(1), QUIET)
    with pytest.raises(ValueError, match=rf"no night of {day(0)}; nights run: {day(1)}"):
        run_night(warehouse, day(0), QUIET)


def test_a_night_without_new_rows_still_closes_what_is_ripe(
    tmp_path: Path, two_nights: Warehouse
) -> None:
    warehouse = copied(two_nights, tmp_path / "w")
    before = warehouse.read("OPEN").num_rows
    manifest = run_night(warehouse, day(2), QUIET)
    assert before > 0
    assert manifest.inputs == ()
    assert manifest.counts["impressions"]["outcomes"] == before


def test_nothing_landed_is_said_so(tmp_path: Path) -> None:
    warehouse = Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()), buckets=2)
    with pytest.raises(ValueError, match=r"nothing has landed.*queryloop import"):
        run_night(warehouse, day(0), QUIET)


def edited(table: pa.Table, column: str, values: list[object]) -> pa.Table:
    place = table.column_names.index(column)
    return table.set_column(place, table.schema.field(place), pa.array(values, table[column].type))


def test_bad_rows_are_refused_with_their_reason_and_the_rest_counts(
    tmp_path: Path, two_nights: Warehouse
) -> None:
    warehouse = copied(two_nights, tmp_path / "w")
    shown = foreign_impressions(2, 2, own_actions=True)
    strange = shown.slice(0, 3)
    ids = [int(i) for i in strange["impression_id"].to_pylist()]
    bad = pa.concat_tables(
        [
            edited(strange.slice(0, 1), "item_id", [987_654]),
            edited(strange.slice(1, 1), "draw_id", [4_242]),
            edited(foreign_impressions(1, 1, own_actions=True).slice(0, 1), "content_digest", [5]),
            edited(foreign_impressions(0, 0, own_actions=True).slice(0, 1), "impression_id", [77]),
            shown.slice(3),
            shown.slice(3, 1),  # a duplicate
        ]
    )
    land(warehouse, {"IMPRESSIONS": bad}, source="bad")
    run_nights(warehouse, [day(2), day(3), day(4)], QUIET)
    reasons = {int(str(r["row"])): str(r["reason"]) for r in rejected(warehouse)}
    assert "not in ITEMS" in reasons[ids[0]]
    assert "4242" in reasons[ids[1]]
    assert "late" in reasons[77]
    assert len(reasons) == 4
    counts = [m.counts["impressions"] for m in warehouse.chain(warehouse.head())]
    assert sum(c["rejected"] for c in counts) == 4
    assert sum(c["duplicates"] for c in counts) == 1
    assert sum(c["landed"] for c in counts) == sum(
        c["outcomes"] + c["rejected"] + c["duplicates"] for c in counts
    )


def test_too_many_refused_rows_stop_the_night(tmp_path: Path) -> None:
    text = render_config(NightConfig(rejected_rows=10))
    warehouse = Warehouse.create(str(tmp_path / "w"), text, buckets=2)
    shown = foreign_impressions(0, 0, own_actions=True)
    unknown = edited(shown, "item_id", [999_999] * shown.num_rows)
    land(warehouse, {"ITEMS": items_table(), "IMPRESSIONS": unknown}, source="log")
    with pytest.raises(ValueError, match="were refused, more than rejected_share"):
        run_night(warehouse, day(0), QUIET)
    assert warehouse.head() is None


def test_stored_action_codes_cannot_be_reordered(one_night: Warehouse, tmp_path: Path) -> None:
    warehouse = copied(one_night, tmp_path / "w")
    config = NightConfig(actions=NightConfig().actions[::-1])
    with pytest.raises(ValueError, match="append new actions"):
        run_night(warehouse, day(1), QUIET, config=config)


def test_a_damaged_state_file_stops_the_night_and_is_named(
    one_night: Warehouse, tmp_path: Path
) -> None:
    warehouse, first = copied(one_night, tmp_path / "w"), head_of(one_night)
    path = Path(warehouse.root, first.tables["PROFILES"][0].path)
    path.write_bytes(path.read_bytes()[:-30])
    _footer.cache_clear()
    with pytest.raises(Exception, match=r"data/PROFILES/.*cannot be read as Parquet"):
        run_night(warehouse, day(1), QUIET)
    assert warehouse.head() == first


def test_every_stored_table_has_a_schema() -> None:
    assert {"ITEMS", "QUERIES", "FEED", "REJECTED", "KEYS", "OPEN"} <= set(SCHEMAS)
