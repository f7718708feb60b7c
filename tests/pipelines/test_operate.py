"""What operators ask before, during and after a night."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import pipelines.night as night_module
from pipelines.cli import app
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night, run_nights
from pipelines.operate.anomalies import (
    Figures,
    ValidationConfig,
    _chance_divergence,
    anomalies,
    jensen_shannon,
)
from pipelines.operate.difference import compare_nights
from pipelines.operate.doctor import check_machine, check_warehouse, clean
from pipelines.operate.forecast import estimate, forecast
from pipelines.operate.metrics import render_metrics
from pipelines.operate.status import Night, nights_of, status_of
from pipelines.operate.validation import validate
from pipelines.operate.views import show_nights
from pipelines.store.manifests import LandedGroup, Manifest
from pipelines.store.warehouse import Warehouse
from tests.pipelines.small_world import (
    FIRST,
    day,
    engagements_table,
    foreign_impressions,
    items_table,
)

QUIET = RunOptions(progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights, and the rows of a third day; copy it to change it."""
    path = tmp_path_factory.mktemp("operate") / "w"
    warehouse = Warehouse.create(str(path), render_config(NightConfig()), buckets=2)
    tables = {
        "ITEMS": items_table(),
        "ENGAGEMENTS": engagements_table(0, 2),
        "IMPRESSIONS": foreign_impressions(0, 2, own_actions=True),
    }
    land(warehouse, tables, source="log")
    run_nights(warehouse, [day(0), day(1)], QUIET)
    return path


@pytest.fixture
def warehouse(made: Path, tmp_path: Path) -> Warehouse:
    shutil.copytree(made, tmp_path / "w")
    return Warehouse.open(str(tmp_path / "w"))


def broken_off(warehouse: Warehouse, date: dt.date) -> None:
    """The night of `date`, ended in its second job."""

    def fail(*args: object, **options: object) -> None:
        raise OSError("the power went")

    patch = pytest.MonkeyPatch()
    patch.setattr(night_module, "choose_queries", fail)
    with pytest.raises(OSError, match="the power went"):
        run_night(warehouse, date, QUIET)
    patch.undo()


def run(*words: object) -> tuple[int, str]:
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, [str(w) for w in words])
    return done.exit_code, done.output


def test_status_says_what_was_made_and_what_waits(warehouse: Warehouse) -> None:
    found = status_of(warehouse)
    assert found.head is not None
    assert (found.head.date, found.next_night, found.landings) == (day(1), day(2), 1)
    waiting = {w.table: w for w in found.waiting}
    third = {
        "ENGAGEMENTS": engagements_table(2, 2).num_rows,
        "IMPRESSIONS": foreign_impressions(2, 2, own_actions=True).num_rows,
    }
    assert {name: w.rows for name, w in waiting.items()} == third
    assert {(w.first, w.last) for w in waiting.values()} == {(day(2), day(2))}
    assert found.staged == ()
    assert not found.config_changed


def test_status_and_plan_know_what_a_broken_night_has_finished(warehouse: Warehouse) -> None:
    broken_off(warehouse, day(2))
    (staged,) = status_of(warehouse).staged
    assert (staged.date, staged.jobs) == (day(2), ("1-learn",))
    assert forecast(warehouse, day(2)).finished == ("1-learn",)


def test_resume_goes_on_from_the_finished_job(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(warehouse, day(2))

    def never(*args: object) -> None:
        raise AssertionError("job 1 ran again")

    monkeypatch.setattr(night_module, "learn", never)
    code, said = run("resume", "-w", warehouse.root)
    assert code == 0, said
    head = warehouse.head()
    assert head is not None
    assert head.date == day(2)
    assert run("resume", "-w", warehouse.root)[1].startswith("nothing broke off")


def test_a_plan_names_new_rows_users_and_changed_settings(warehouse: Warehouse) -> None:
    text = Path(warehouse.config_path).read_text()
    Path(warehouse.config_path).write_text(text.replace("seed: 0", "seed: 7"))
    found = forecast(warehouse, day(2))
    users = {*engagements_table(2, 2)["user_id"].to_pylist()}
    users |= {*foreign_impressions(2, 2, own_actions=True)["user_id"].to_pylist()}
    assert (found.kind, found.problem, found.users) == ("night", "", len(users))
    assert [(c.name, c.before, c.after) for c in found.config] == [("seed", "0", "7")]
    assert (found.versions, found.catalogue, found.embedding) == ((), (), None)
    assert found.retrieval == {"": "index, no model"}


def test_a_plan_of_an_earlier_night_names_all_that_run_again(warehouse: Warehouse) -> None:
    found = forecast(warehouse, day(0))
    assert (found.kind, found.replays) == ("replay", (day(0), day(1)))


def test_a_plan_that_would_be_refused_exits_with_2(warehouse: Warehouse) -> None:
    code, said = run("plan", "-w", warehouse.root, "--date", day(4))
    assert code == 2
    assert "would leave out 2 nights" in " ".join(said.split())


def took(seconds: float, rows: int) -> Manifest:
    group = LandedGroup(1, "IMPRESSIONS", "x", 0, rows)
    blank: dict[str, Any] = dict.fromkeys(
        ("number", "parent", "head", "date", "cutoff", "tables", "catalogue", "config"), None
    )
    more: dict[str, Any] = {"config_digest": "", "seed": 0, "embedding_version": "", "counts": {}}
    return Manifest(kind="night", inputs=(group,), seconds={"all": seconds}, **blank, **more)


def test_time_is_foretold_by_the_line_that_past_nights_lie_on() -> None:
    nights = [took(10 + rows / 100, rows) for rows in (100, 200, 400, 800)]
    found = estimate(nights, 1000)
    assert (found.seconds, found.low, found.high) == pytest.approx((20, 20, 20))
    odd = estimate([*nights, took(500, 300)], 1000)
    assert odd.seconds == pytest.approx(20)
    assert estimate(nights, 1000, times=3).seconds == pytest.approx(60)
    assert estimate([], 5).seconds is None


def test_nights_lists_branches_only_when_asked(warehouse: Warehouse) -> None:
    run_night(warehouse, day(1), QUIET)
    shown = nights_of(warehouse)
    every = nights_of(warehouse, every=True)
    assert [n.kind for n in shown] == ["night", "replay"]
    assert [n.on_chain for n in every] == [True, False, True]
    assert shown[1].outcomes == sum(f.rows for f in warehouse.manifest(3).tables["OUTCOMES"])


def test_a_night_against_the_one_before(warehouse: Warehouse) -> None:
    run_night(warehouse, day(2), QUIET)
    found = compare_nights(warehouse, day(0), day(2), users=3)
    rates = {m.what: m for m in found.rates}
    outcomes = warehouse.read("OUTCOMES", warehouse.night(day(2)))
    value = outcomes["value"].to_numpy() * outcomes["credit"].to_numpy()
    assert rates["engagement"].after == pytest.approx(
        value.sum() / outcomes["credit"].to_numpy().sum()
    )
    shares = found.distributions["share of rewards by what they lean on"]
    assert sum(m.after or 0 for m in shares) == pytest.approx(1)
    assert len(found.moved) == 3
    assert [m.moved for m in found.moved] == sorted([m.moved for m in found.moved], reverse=True)
    assert all(0 < m.moved <= 1 and m.why for m in found.moved)
    with pytest.raises(ValueError, match="give the earlier night first"):
        compare_nights(warehouse, day(2), day(0))


def test_the_doctor_finds_what_is_gone_cut_off_changed_or_nobodys(warehouse: Warehouse) -> None:
    now = 1e10
    assert check_warehouse(warehouse, now).healthy
    files = warehouse.manifest(2).tables
    gone, cut, changed = (
        Path(warehouse.root, files[n][0].path) for n in ("OPEN", "FEED", "QUERIES")
    )
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    content = bytearray(changed.read_bytes())
    content[100] ^= 1
    changed.write_bytes(bytes(content))
    stray = Path(warehouse.root, "data", "FEED", "left-over.parquet")
    stray.write_bytes(b"PAR1")
    os.utime(stray, (now - 25 * 3600, now - 25 * 3600))
    found = check_warehouse(warehouse, now)
    (files_found,) = [f for f in found.findings if f.what == "files"]
    assert not found.healthy
    for name, problem in ((gone, "is gone"), (cut, "bytes, not"), (changed, "another SHA-256")):
        assert f"{name.name} " in files_found.detail, files_found.detail
        assert problem in files_found.detail
    assert [s.path for s in found.strays] == ["data/FEED/left-over.parquet"]
    assert clean(warehouse, found.strays) == 1
    assert not stray.exists()


def test_what_an_attempt_wrote_lately_is_not_cleaned_away(warehouse: Warehouse) -> None:
    stray = Path(warehouse.root, "data", "FEED", "of-a-running-night.parquet")
    stray.write_bytes(b"PAR1")
    found = check_warehouse(warehouse, stray.stat().st_mtime + 3600, quick=True)
    assert found.healthy
    assert clean(warehouse, found.strays) == 0
    assert stray.exists()


def test_the_machine_is_described() -> None:
    names = [f.what for f in check_machine()]
    assert "processors" in names
    assert "extra retrieval" in names


def figures(**more: Any) -> Figures:
    usual = Figures(
        rows=100,
        users=10,
        categories={"action": {"view": 80, "like": 20}},
        numbers={"position": np.array([50, 50, 0])},
        nulls={"draw_id": 0.0},
        unknown_items=0.0,
    )
    return replace(usual, **more)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (figures(rows=49), "COMPARATOR_LOW_NUM_EXAMPLES"),
        (figures(users=21), "COMPARATOR_HIGH_NUM_EXAMPLES"),
        (figures(categories={"action": {"view": 50, "like": 50}}), "COMPARATOR_L_INFTY_HIGH"),
        (
            figures(categories={"action": {"view": 80, "like": 19, "share": 1}}),
            "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        ),
        (
            figures(numbers={"position": np.array([0, 0, 9])}),
            "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH",
        ),
        (figures(nulls={"draw_id": 0.5}), "FEATURE_TYPE_LOW_FRACTION_PRESENT"),
        (figures(unknown_items=0.2), "ENUM_TYPE_UNEXPECTED_STRING_VALUES"),
    ],
)
def test_every_kind_of_anomaly_is_named(now: Figures, kind: str) -> None:
    found = anomalies("T", now, [figures(), figures()], ValidationConfig())
    assert [a.kind for a in found] == [kind]


def test_what_looks_like_before_is_no_anomaly() -> None:
    near = figures(rows=70, users=12, categories={"action": {"view": 85, "like": 15}})
    assert anomalies("T", near, [figures()], ValidationConfig()) == []


@pytest.mark.parametrize(
    ("p", "q", "divergence"),
    [([1, 1], [5, 5], 0.0), ([1, 0], [0, 1], 1.0), ([1, 0], [1, 1], 0.311278124459)],
)
def test_jensen_shannon_by_hand(p: list[int], q: list[int], divergence: float) -> None:
    assert jensen_shannon(np.array(p), np.array(q)) == pytest.approx(divergence)


def test_samples_of_one_distribution_differ_by_what_chance_gives() -> None:
    rng = np.random.default_rng(3)
    shares = np.full(24, 1 / 24)
    pairs = [(rng.multinomial(400, shares), rng.multinomial(1200, shares)) for _ in range(300)]
    seen = np.mean([jensen_shannon(p, q) for p, q in pairs])
    expected = np.mean([_chance_divergence(p, q) for p, q in pairs])
    assert expected == pytest.approx(seen, rel=0.1)


def test_a_day_like_the_others_is_valid_and_a_day_without_rows_is_not(
    warehouse: Warehouse,
) -> None:
    fine = validate(warehouse, day(2))
    assert fine.nights == (day(0), day(1))
    assert fine.anomalies == ()
    assert fine.figures["IMPRESSIONS"].users == len(
        set(foreign_impressions(2, 2, own_actions=True)["user_id"].to_pylist())
    )
    run_night(warehouse, day(2), QUIET)
    empty = validate(warehouse, day(3))
    assert {a.kind for a in empty.anomalies} == {"DATASET_LOW_NUM_EXAMPLES"}
    assert run("validate", "-w", warehouse.root, "--date", day(3))[0] == 1


def test_metrics_are_openmetrics(made: Path) -> None:
    manifest = Warehouse.open(str(made)).night(day(1))
    lines = render_metrics(manifest).splitlines()
    assert lines[-1] == "# EOF"
    names = [line.split("{")[0].split(" ")[0] for line in lines if line[0] != "#"]
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert list(dict.fromkeys(names)) == typed  # a family stands together, its type before it
    rows = manifest.counts["select_queries"]["out"]
    assert f'queryloop_rows{{step="select_queries",what="out"}} {rows}' in lines


def test_a_night_writes_its_metrics(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "of" / "night.prom"
    code, said = run("night", "-w", warehouse.root, "--date", day(2), "--metrics", path)
    assert code == 0, said
    head = warehouse.head()
    assert head is not None
    assert path.read_text() == render_metrics(head)
    assert [p.name for p in path.parent.iterdir()] == ["night.prom"]


COMMANDS: list[Callable[[str], list[object]]] = [
    lambda w: ["status", "-w", w],
    lambda w: ["nights", "-w", w, "--all"],
    lambda w: ["plan", "-w", w],
    lambda w: ["validate", "-w", w],
    lambda w: ["diff", day(0), day(1), "-w", w],
    lambda w: ["doctor", "-w", w, "--quick"],
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_speaks_to_people_and_to_programs(
    words: Callable[[str], list[object]], made: Path
) -> None:
    code, text = run(*words(str(made)))
    assert code == 0, text
    code, said = run(*words(str(made)), "--json")
    assert code == 0, said
    assert isinstance(json.loads(said), dict | list)
    assert text != said


def test_the_chain_of_nights_fits_80_columns(made: Path) -> None:
    """A model or a configuration has its column only where nights differ in it."""
    nights = [replace(n, model=None, config="a") for n in nights_of(Warehouse.open(str(made)))]

    def said(width: int, *nights: Night) -> str:
        console = Console(width=width, file=io.StringIO())
        with console.capture() as caught:
            show_nights(console, nights)
        return caught.get()

    narrow = said(80, *nights)
    assert max(map(len, narrow.splitlines())) <= 80
    assert all(f" {n.date} {n.kind} " in narrow for n in nights)
    assert said(160, *nights).split()[:4] == ["manifest", "night", "kind", "impressions"]
    assert "config" not in narrow
    assert "config" in said(160, *nights, replace(nights[0], config="b"))
    assert "model" in said(160, *nights, replace(nights[0], model="1"))


def test_before_anything_landed_the_commands_say_so(tmp_path: Path) -> None:
    warehouse = Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()))
    assert status_of(warehouse).next_night is None
    assert nights_of(warehouse) == []
    code, said = run("plan", "-w", warehouse.root, "--date", FIRST)
    assert code == 2
    assert "has no ITEMS" in said or "nothing has landed" in said
