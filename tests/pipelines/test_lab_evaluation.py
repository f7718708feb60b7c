"""`lab evaluate` and `lab gate` on the log of a planted world, and what they refuse."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.lab.asked import policy_asked
from pipelines.lab.evaluation import TrustConfig, evaluate_policy, flags_of
from pipelines.lab.gate import GateConfig, check_policy
from pipelines.lab.period import default_period, find_period
from pipelines.store.warehouse import Warehouse
from pipelines.worlds.nights import Loop, Truth, play_nights, true_value
from pipelines.worlds.planted import START, WORLDS, People
from pipelines.worlds.stored import config_of_world, store_nights
from selection.policies import SelectionConfig

USERS, NIGHTS = 500, 4
LOOP = Loop(SelectionConfig(floor=0.2))


@pytest.fixture(scope="module")
def played() -> tuple[People, list[Any]]:
    people = People.create(WORLDS["stationary"], np.arange(1, USERS + 1), 3)
    return people, list(play_nights(people, LOOP, NIGHTS))


@pytest.fixture(scope="module")
def warehouse(played: Any, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    people, nights = played
    config = config_of_world(people.rules, LOOP, people.seed)
    return store_nights(str(tmp_path_factory.mktemp("lab") / "w"), config, nights, buckets=4)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["queryloop", "lab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command


def day(i: int) -> dt.date:
    return START + dt.timedelta(days=i)


def copied(warehouse: Warehouse, tmp_path: Path) -> Path:
    return Path(shutil.copytree(warehouse.root, tmp_path / "w"))


def rewritten(root: Path, number: int, **changes: Any) -> None:
    """A manifest with other fields, as a night with another configuration would have."""
    path = root / "manifests" / f"{number:06d}.json"
    record = json.loads(path.read_text())
    for name, value in changes.items():
        place = record
        *parents, last = name.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(record))


def test_values_lie_around_the_planted_truth(played: Any, warehouse: Warehouse, run: Any) -> None:
    people, nights = played
    code, out, _ = run("evaluate", "-w", warehouse.root, "--policy", "counts", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert (found["from"], found["to"]) == (str(day(0)), str(day(NIGHTS - 1)))
    assert (found["users"], found["draws"]) == (USERS, USERS * NIGHTS * 3)
    asked = policy_asked("counts", LOOP.selection)
    assert asked is not None
    truth = sum((true_value(people, n, asked) for n in nights), Truth(0, 0, 0))
    own = sum((true_value(people, n, LOOP.selection) for n in nights), Truth(0, 0, 0))
    units = (truth.draws, truth.units)
    for estimand, unit, logged in zip(
        found["estimands"], units, (own.draws, own.units), strict=True
    ):
        for row in estimand["rows"]:
            half = row["high"] - row["low"]  # some four standard errors
            assert abs(row["value"] - truth.value / unit) < half
            gain = truth.value / unit - own.value / logged
            assert abs(row["uplift"] - gain) < row["uplift_high"] - row["uplift_low"]
    assert found["estimands"][0]["unsupported"] == 0.0
    assert "500 users" in found["flags"]["both"][0]


def test_the_logs_own_policy_gains_nothing(warehouse: Warehouse) -> None:
    period = find_period(warehouse, day(0), day(1))
    found = evaluate_policy(warehouse, period, "reward_importance")
    ips = found.comparison.draw.values["ips"].value
    log = found.sums.log.sum(axis=0)
    assert ips == pytest.approx(log[2] / log[1], rel=1e-12)
    assert (
        found.comparison.draw.relative["ips"].low == found.comparison.set.uplifts["ips"].high == 0
    )


def test_the_table_says_what_is_assumed_and_what_cannot_be_answered(
    warehouse: Warehouse, run: Any
) -> None:
    code, out, _ = run("evaluate", "-w", warehouse.root, "--policy", "reward:beta=4:floor=.1")
    assert code == 0
    said = " ".join(out.split())
    for words in ("additive value per draw", "value per user-night set", "flag: 500 users"):
        assert words in said
    assert "assumed (per draw): what a draw earns does not depend" in said
    assert "cannot be answered from this log: another retrieval" in said


def test_the_gate_passes_and_fails_with_its_reason(warehouse: Warehouse, run: Any) -> None:
    code, out, _ = run("gate", "-w", warehouse.root, "--policy", "counts", "--margin", "-.5")
    assert code == 0
    assert "may ship" in out
    code, out, _ = run("gate", "-w", warehouse.root, "--policy", "counts", "--format", "json")
    assert code == 1
    checks = {c["name"]: c for c in json.loads(out)["checks"]}
    assert not checks["uplift"]["passed"]
    assert checks["unsupported"]["passed"]


def test_each_bound_of_the_gate_can_fail(warehouse: Warehouse, tmp_path: Path, run: Any) -> None:
    period = find_period(warehouse, day(0), day(3))
    narrow = evaluate_policy(warehouse, period, "reward:beta=30:floor=0")
    loose = GateConfig(margin=-1.0, starved=1.0, focus=1.0)
    assert all(c.passed for c in check_policy(narrow, loose))

    def failed(**bounds: Any) -> list[str]:
        config = GateConfig(**{"margin": -1.0, "starved": 1.0, "focus": 1.0} | bounds)
        return [c.name for c in check_policy(narrow, config) if not c.passed]

    assert failed(starved=0.05) == ["starved"]
    assert failed(focus=0.01) == ["focus"]
    assert failed(successes=1e6) == ["successes"]
    assert failed(top_items=0.0, margin=5.0) == ["uplift", "top_items"]
    bounds = tmp_path / "gate.yaml"
    bounds.write_text("margin: -1\nsuccesses: 1000000\n")
    code, out, _ = run("gate", "-w", warehouse.root, "--policy", "reward", "--config", bounds)
    assert code == 1
    assert "does not ship: successes is" in out


def test_without_floor_the_log_cannot_carry_every_policy(tmp_path: Path) -> None:
    rules = WORLDS["stationary"]
    people = People.create(rules, np.arange(1, 120), 3)
    loop = Loop(SelectionConfig(policy="counts", floor=0.0, queries=3))
    config = config_of_world(rules, loop, 3)
    nights = list(play_nights(people, loop, 1))
    made = store_nights(str(tmp_path / "w"), config, nights, buckets=1)
    found = evaluate_policy(made, find_period(made, day(0), day(0)), "uniform:queries=2")
    assert found.comparison.set.weights.unsupported == 1.0
    flags = flags_of(found.comparison, found.competes, 10**6, TrustConfig())
    assert "could never have made" in flags["set"][0]
    gate = {c.name: c.passed for c in check_policy(found, GateConfig(estimand="set"))}
    assert not gate["unsupported"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policy", "rewart"], "there is no policy 'rewart'; the nearest is 'reward'"),
        (["--policy", "reward:beat=2"], "'beat=2' is no option; write name=value, of prior, beta"),
        (["--policy", "reward:beta=200"], "beta must be <= 64"),
        (["--policy", "reward:beta=x"], "valid number"),
        (["--policy", "evidence"], "'evidence' leans on the prior 'evidence'"),
        (["--policy", "logged:beta=2"], "takes no options"),
        (["--policy", "reward", "--format", "xml"], "format must be one of table, json"),
        (["--policy", "reward", "--from", "2026-03-01"], "give both --from D1 and --to D2"),
        (
            ["--policy", "reward", "--from", "2026-03-04", "--to", "2026-03-01"],
            "lies before --from",
        ),
        (["--policy", "reward", "--from", "2026-02-27", "--to", "2026-03-02"], "2 of the 4 nights"),
    ],
)
def test_bad_requests_are_refused(warehouse: Warehouse, run: Any, words: Any, says: str) -> None:
    code, out, err = run("evaluate", "-w", warehouse.root, *words)
    assert (code, out) == (2, "")
    assert says in err


def test_a_gap_can_be_left_out_and_is_reported(warehouse: Warehouse) -> None:
    period = find_period(warehouse, day(-2), day(1), allow_gap=True)
    assert len(period.nights) == 2
    assert "2 nights of the range were not run" in period.notes[0]


def test_nights_without_queries_cannot_be_evaluated(warehouse: Warehouse) -> None:
    head = warehouse.head()
    assert head is not None
    assert default_period(warehouse, 2) == (day(NIGHTS - 2), day(NIGHTS - 1))
    with pytest.raises(ValueError, match="they drew no queries"):
        find_period(warehouse, head.date, head.date)


def test_the_last_nights_of_a_log_are_not_yet_known(warehouse: Warehouse, tmp_path: Path) -> None:
    root = copied(warehouse, tmp_path)
    for number in (NIGHTS + 2, NIGHTS + 3):
        (root / "manifests" / f"{number:06d}.json").unlink()
    cut = Warehouse.open(str(root))
    assert default_period(cut, 14) == (day(0), day(NIGHTS - 2))
    period = find_period(cut, day(0), day(NIGHTS - 1))
    assert len(period.nights) == NIGHTS - 1
    assert "1 nights are left out: what their draws brought is not all known" in period.notes[0]
    with pytest.raises(ValueError, match="run more nights"):
        find_period(cut, day(NIGHTS - 1), day(NIGHTS - 1))


def test_a_log_that_names_no_draw_is_refused(
    warehouse: Warehouse, tmp_path: Path, run: Any
) -> None:
    root = copied(warehouse, tmp_path)
    for number in range(1, NIGHTS + 4):
        record = json.loads((root / "manifests" / f"{number:06d}.json").read_text())
        record["tables"].pop("OUTCOMES", None)
        (root / "manifests" / f"{number:06d}.json").write_text(json.dumps(record))
    code, _, err = run("evaluate", "-w", root, "--policy", "reward")
    assert code == 2
    assert "it has no outcomes" in err
    assert "without draw_id and propensities cannot be evaluated" in err


def test_a_configuration_that_changed_in_between(warehouse: Warehouse, tmp_path: Path) -> None:
    root = copied(warehouse, tmp_path)
    serving = {"config__retrieval__candidates": 7, "config__selection__beta": 3.0}
    rewritten(root, 3, config_digest="another", **serving)
    period = find_period(Warehouse.open(str(root)), day(0), day(2))
    assert any("retrieval changed on 2026-03-03" in note for note in period.notes)
    assert any("own policy changed on 2026-03-03" in note for note in period.notes)
    rewritten(root, 3, config__outcomes__value_high=2.0)
    with pytest.raises(ValueError, match="value_high changed between the nights 2026-03-02 and"):
        find_period(Warehouse.open(str(root)), day(0), day(2))


def test_options_not_said_are_those_of_the_log() -> None:
    night = SelectionConfig(policy="reward", beta=3.0, queries=5, floor=0.2)
    asked = policy_asked("thompson:floor=0.3", night)
    assert asked == SelectionConfig(policy="thompson", beta=3.0, queries=5, floor=0.3)
    assert policy_asked("reward", night) == night
    assert policy_asked("uniform", night) == SelectionConfig(
        "counts", beta=3.0, queries=5, floor=1.0
    )
    assert policy_asked("logged", night) is None
