"""Loop health: figures against plain Python over the tables, alarms at their bounds, records."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from pipelines.catalog.views import query_rows
from pipelines.health.alarms import HealthConfig, figure_alarms
from pipelines.health.command import after_night, health_lines
from pipelines.health.figures import MEANINGS, measure_health, record_health
from pipelines.health.records import Figure, Health, read_health
from pipelines.night_command import After, tell_night
from pipelines.store.warehouse import Warehouse
from tests.pipelines.conftest import Served

LAST = 2
Sums = dict[Any, list[float]]


@pytest.fixture(scope="module")
def health(served: Served) -> Health:
    return measure_health(served.warehouse, served.nights[LAST])


def figure(health: Health, name: str, arm: str = "", part: str = "") -> Figure:
    (found,) = [f for f in health.of(name) if f.arm == arm and f.part.split("/")[0] == part]
    return found


def outcomes(served: Served) -> list[dict[str, Any]]:
    return list(served.warehouse.read("OUTCOMES", served.nights[LAST]).to_pylist())


def interval(users: Sums) -> tuple[float, float]:
    """A ratio and its standard error, from (v, w) of every user."""
    v, w = (sum(u[i] for u in users.values()) for i in (0, 1))
    n, rate = len(users), v / w
    squares = sum((u[0] - rate * u[1]) ** 2 for u in users.values())
    return rate, math.sqrt(squares * n / (n - 1)) / w


def test_rates_and_their_intervals_are_those_of_the_closed_impressions(
    served: Served, health: Health
) -> None:
    for arm in ("counts", "reward"):
        users: Sums = defaultdict(lambda: [0.0, 0.0])
        mine = [r for r in outcomes(served) if r["arm"] == arm and r["attribution"] == "logged"]
        for r in mine:
            weight = r["examination"] * r["credit"]
            users[r["user_id"]][0] += weight * r["value"]
            users[r["user_id"]][1] += weight
        rate, error = interval(users)
        found = figure(health, "rate", arm, arm)
        assert found.value == pytest.approx(rate)
        assert found.low == pytest.approx(rate - 1.96 * error)
        assert found.high == pytest.approx(rate + 1.96 * error)
        assert found.n == len({r["impression_id"] for r in mine}) > 30
        engaged = sum(r["credit"] for r in mine if r["actions"] & 0b11) / sum(
            r["credit"] for r in mine
        )
        assert figure(health, "engaged", arm, arm).value == pytest.approx(engaged, rel=0.2)


def test_what_was_predicted_is_the_reward_of_the_night_that_drew(
    served: Served, health: Health
) -> None:
    nights = {m.date: m for m in served.nights}
    rewards = {
        (date, r["user_id"], r["cluster_id"]): r["reward"]
        for date, m in nights.items()
        for r in served.warehouse.read("CLUSTER_REWARDS", m).to_pylist()
    }
    drawn = {
        q["draw_id"]: date
        for date, m in nights.items()
        for q in served.warehouse.read("QUERIES", m).to_pylist()
    }
    for arm in ("counts", "reward"):
        v = w = p = 0.0
        for r in outcomes(served):
            key = (drawn.get(r["draw_id"]), r["user_id"], r["cluster_id"])
            if r["arm"] == arm and key in rewards:
                weight = r["examination"] * r["credit"]
                v, w, p = v + weight * r["value"], w + weight, p + weight * rewards[key]
        found = figure(health, "calibration", arm)
        assert found.value == pytest.approx(v / w)
        assert found.expected == pytest.approx(p / w)
        bins = [f for f in health.of("calibration bin") if f.arm == arm]
        assert len(bins) == 10
        assert sum(f.n for f in bins) == found.n
        promised = [f.expected for f in sorted(bins, key=lambda f: int(f.part))]
        assert promised == sorted(promised, key=lambda x: x or 0.0)


def test_spread_is_entropy_and_gini_of_the_counts(served: Served, health: Health) -> None:
    queries = served.warehouse.read("QUERIES", served.nights[LAST]).to_pylist()
    for arm in ("counts", "reward"):
        counts = sorted(Counter(q["query_id"] for q in queries if q["arm"] == arm).values())
        total, n = sum(counts), len(counts)
        entropy = -sum(c / total * math.log2(c / total) for c in counts)
        gaps = sum(abs(a - b) for a in counts for b in counts)
        assert figure(health, "entropy", arm, "queries").value == pytest.approx(entropy)
        gini = figure(health, "gini", arm, "queries").value
        assert gini == pytest.approx(gaps / (2 * n * total), abs=1e-9)


def test_who_waits_has_no_record_and_was_not_drawn(served: Served, health: Health) -> None:
    night = served.nights[LAST]
    rows = served.warehouse.read("CLUSTER_REWARDS", night).to_pylist()
    drawn = {
        (q["user_id"], q["cluster_id"]) for q in served.warehouse.read("QUERIES", night).to_pylist()
    }
    for arm in ("counts", "reward"):
        mine = [r for r in rows if r["arm"] == arm]
        waits = [
            r
            for r in mine
            if r["weight"] == 0 and r["draws"] == 0 and (r["user_id"], r["cluster_id"]) not in drawn
        ]
        assert figure(health, "waiting", arm).value == pytest.approx(len(waits) / len(mine))
        assert 0 < len(waits) < len(mine)
    sources = Counter(r["prior_source"] for r in rows if r["arm"] == "reward")
    for source, count in sources.items():
        share = count / sum(sources.values())
        assert figure(health, "prior", "reward", source).value == pytest.approx(share)


def test_late_and_unattributed_impressions_are_counted(served: Served, health: Health) -> None:
    landed = served.nights[LAST].counts["impressions"]["landed"]
    assert served.late > 5
    assert figure(health, "late").value == pytest.approx(served.late / landed)
    rows = outcomes(served)
    none = {r["impression_id"] for r in rows if r["attribution"] == "none"}
    assert figure(health, "unattributed").value == len(none) / len(
        {r["impression_id"] for r in rows}
    )
    first = measure_health(served.warehouse, served.nights[0])
    assert figure(first, "late").value == 0


VIEWS = {
    "rate": ("health_rates", "rate", "policy"),
    "waiting": ("health_waiting", "share", "''"),
    "prior": ("health_prior", "share", "prior_source"),
    "gini": ("health_spread", "gini", "what"),
    "calibration bin": ("health_calibration", "came", "bin::VARCHAR"),
    "draws": ("health_draws", "stood_for", "policy"),
    "unattributed": ("health_flow", "unattributed_share", "''"),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_nights_figures_are_what_the_views_say_of_it(
    served: Served, health: Health, name: str
) -> None:
    view, column, part = VIEWS[name]
    arm = "''" if view == "health_flow" else "arm"
    date = served.nights[LAST].date
    rows = query_rows(
        served.warehouse,
        f"SELECT {arm} AS arm, {part} AS part, {column} AS value FROM {view} "
        f"WHERE run_date = DATE '{date}' AND {part} IS NOT NULL",
        served.nights[LAST],
    ).to_pylist()
    said = {(r["arm"], r["part"]): r["value"] for r in rows}
    ours = {(f.arm, f.part): f.value for f in health.of(name)}
    assert said == {key: pytest.approx(value) for key, value in ours.items()}
    assert said


def test_of_a_large_warehouse_whole_buckets_are_a_sample(served: Served) -> None:
    night = served.nights[LAST]
    some = measure_health(served.warehouse, night, rows=1)
    assert some.share == 0.5
    held = [p.rows for f in night.tables["CLUSTER_REWARDS"] for p in f.parts if p.bucket == 0]
    assert sum(f.n for f in some.of("waiting")) == sum(held)


def test_of_a_night_without_rows_all_are_looked_at(served: Served) -> None:
    night = replace(served.nights[0], tables={}, parent=None)
    found = measure_health(served.warehouse, night)
    assert found.share == 1.0
    assert health_lines(found)[0] == "health:"


def test_a_record_is_written_once_and_is_a_table_of_the_catalogue(
    served: Served, health: Health, tmp_path: Path
) -> None:
    shutil.copytree(served.warehouse.root, tmp_path / "w")
    warehouse = Warehouse.open(str(tmp_path / "w"))
    night = served.nights[LAST]
    assert read_health(warehouse, night) is None
    found = record_health(warehouse, night, 7)
    assert [h.manifest for h in found] == [m.number for m in served.nights]
    assert read_health(warehouse, night) == found[-1] == health
    rows = query_rows(warehouse, "SELECT figure, value FROM night_health", warehouse.head())
    assert rows.num_rows == sum(len(h.figures) for h in found)
    later = query_rows(
        warehouse,
        f"SELECT value FROM night_health WHERE figure = 'late' AND manifest = {night.number}",
        warehouse.head(),
    )
    assert later["value"].to_pylist() == [figure(health, "late").value]


def test_a_night_prints_its_health_and_stops_where_an_alarm_rings(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(served.warehouse.root, tmp_path / "w")
    warehouse = Warehouse.open(str(tmp_path / "w"))
    config = tmp_path / "w" / "queryloop.yaml"
    console = Console(width=200)
    tell_night(warehouse, served.nights[LAST], After(strict=True))  # too few rows to ring
    said = capsys.readouterr().out
    assert "value per impression: counts, counts: 0." in said
    assert "ALARM" not in said
    text = config.read_text()
    assert "late_share: 0.2" in text
    text = text.replace("late_share: 0.2", "late_share: 0.01").replace("least: 200", "least: 1")
    config.write_text(text.replace('report: ""', f"report: {tmp_path / 'pages'}"))
    after_night(console, warehouse, served.nights[LAST])
    assert "ALARM late impressions: " in capsys.readouterr().out
    with pytest.raises(typer.Exit) as ended:
        tell_night(warehouse, served.nights[LAST], After(strict=True, json=True))
    assert json.loads(capsys.readouterr().out)["alarms"][0]["what"] == "late impressions"
    assert ended.value.exit_code == 1
    page = (tmp_path / "pages" / f"{served.nights[LAST].date}.html").read_text()
    assert "ALARM late impressions" in page
    assert len(page) < 3_000_000


def test_every_figure_has_a_meaning_and_its_place(health: Health) -> None:
    assert {f.name for f in health.figures} == set(MEANINGS)
    assert len({f.key for f in health.figures}) == len(health.figures)
    assert json.dumps([f.key for f in health.figures])
    assert len(health_lines(health)) == 7


CONFIG = HealthConfig()


def night(name: str, value: float | None, **more: Any) -> Health:
    facts = {"n": 1000, "part": "p"} | more
    return Health(1, "2024-01-01", 1.0, (Figure(name, "home", "", value=value, **facts),))


def rings(name: str, now: Health, before: list[float], config: HealthConfig = CONFIG) -> bool:
    return bool(figure_alarms(now, [night(name, v) for v in before], config))


def test_a_rate_rings_below_its_trailing_mean_with_its_whole_interval() -> None:
    before = [0.1, 0.1, 0.1]
    assert rings("rate", night("rate", 0.074, low=0.06, high=0.09), before)
    assert not rings("rate", night("rate", 0.076, low=0.06, high=0.09), before)
    assert not rings("rate", night("rate", 0.074, low=0.04, high=0.11), before)
    assert not rings("rate", night("rate", 0.074, low=0.06, high=0.09), before[:2])
    assert not rings("rate", night("rate", 0.074, low=0.06, high=0.09, n=199), before)


@pytest.mark.parametrize("name", ["unattributed", "waiting", "prior", "gini"])
def test_shares_ring_where_they_rise(name: str) -> None:
    assert rings(name, night(name, 0.31), [0.2] * 7)
    assert not rings(name, night(name, 0.29), [0.2] * 7)
    assert rings(name, night(name, 0.31), [0.9, *[0.2] * 7])  # what was before the window
    assert not rings(name, night(name, 0.31, part="observed"), [0.2] * 7) or name != "prior"


def test_what_was_promised_rings_without_nights_before() -> None:
    assert rings("late", night("late", 0.21), [])
    assert not rings("late", night("late", 0.2), [])
    far = night("calibration", 0.13, low=0.12, high=0.14, expected=0.1)
    assert rings("calibration", far, [])
    assert not rings(
        "calibration", night("calibration", 0.12, low=0.11, high=0.13, expected=0.1), []
    )
    wide = night("calibration", 0.13, low=0.09, high=0.17, expected=0.1)
    assert not rings("calibration", wide, [])
    assert rings("draw z", night("draw z", -6.1, expected=0.0), [])
    assert not rings("draw z", night("draw z", 5.9, expected=0.0), [])
    assert not rings("draw z", night("draw z", None), [])


def test_null_switches_an_alarm_off() -> None:
    off = HealthConfig(
        rate_fall=None, rise=None, late_share=None, calibration_gap=None, draw_z=None
    )
    for name, value in (("rate", 0.0), ("late", 1.0), ("gini", 1.0), ("draw z", 99.0)):
        assert rings(name, night(name, value), [0.5] * 3)
        assert not rings(name, night(name, value), [0.5] * 3, off)
    far = night("calibration", 9.0, low=8.0, high=10.0, expected=0.1)
    assert not rings("calibration", far, [], off)
    assert replace(off, rise=0.1).rise == 0.1
