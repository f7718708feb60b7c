import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from pipelines.catalog.views import query_rows
from pipelines.demo.command import run_demo
from pipelines.demo.loop import ARMS, REWARD, START, DemoRun, night_config, play
from pipelines.demo.measures import (
    Served,
    barren_shares,
    cluster_names,
    count_by_user,
    names_in_order,
    rate,
    story_day,
    uplift,
)
from pipelines.demo.options import DemoOptions
from pipelines.demo.views import Findings, chart_statements, sql_statements
from pipelines.store.warehouse import Warehouse
from pipelines.worlds.demo import ITEMS_PER_TOPIC, TOPIC_NAMES
from profiling.bootstrap import resample_weights
from profiling.hashing import uniforms
from profiling.schema import floats, ints

EVERYONE = np.ones(4, bool)


def test_a_rate_is_a_ratio_of_sums():
    engaged, shown = np.array([1.0, 2, 0, 9]), np.array([10.0, 10, 20, 9])
    who = np.array([True, True, True, False])
    one = rate(engaged, shown, who, resample_weights(4, 1))
    assert one.value == (1 + 2 + 0) / (10 + 10 + 20)
    assert 0 <= one.low <= one.value <= one.high <= 0.2
    nothing = rate(engaged, np.zeros(4), np.zeros(4, bool), resample_weights(4, 1))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_uplift_is_over_the_stated_days_and_users():
    served = Served(
        shown=np.array([[10.0, 10, 10, 10]] * 3),
        engaged=np.array([[5.0, 5, 5, 5], [2, 2, 1, 1], [4, 0, 1, 1]]),
    )
    treated = np.array([True, True, False, False])
    last_two = uplift(served, slice(-2, None), treated, ~treated, resample_weights(4, 1))
    assert last_two.value == pytest.approx((2 + 2 + 4 + 0) / (1 + 1 + 1 + 1) - 1)
    first = uplift(served, slice(0, 1), treated, ~treated, resample_weights(4, 1))
    assert (first.value, first.low, first.high) == (0, 0, 0)


def test_intervals_cover():
    """Of 300 worlds of 200 users without a difference, 95 % cover 0: 4 standard errors below."""
    weights = resample_weights(200, 1, 300)
    treated = np.arange(200) < 100
    covered = 0
    for seed in range(300):
        users = np.arange(200)
        shown = np.floor(5 + 20 * uniforms(seed, "shown", users))
        engaged = shown * (0.02 + 0.2 * uniforms(seed, "rate", users))
        one = uplift(Served(shown[None], engaged[None]), slice(None), treated, ~treated, weights)
        covered += one.low <= 0 <= one.high
    assert covered / 300 > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 300)


def test_counts_by_user_and_what_barren_interests_took():
    def day(users: list[int], topics: list[int]) -> pa.Table:
        items = np.array(topics) * ITEMS_PER_TOPIC + 1
        return pa.table({"user_id": pa.array(users), "item_id": pa.array(items)})

    days = [day([1, 1, 2, 3], [0, 1, 2, 0]), day([2, 2, 2, 4], [2, 2, 0, 0])]
    assert count_by_user(days, 4).tolist() == [[2, 1, 1, 0], [0, 3, 0, 1]]
    barren, arms = np.array([0, 2, -1, -1]), np.array([0, 1, 1, 0])
    shares = barren_shares(days, barren, arms, 2)
    assert shares[0].tolist() == [1 / 2, 1.0]
    assert np.isnan(shares[1, 0])
    assert shares[1, 1] == 2 / 3


def test_a_story_day_goes_by_the_draw():
    queries = pa.table({"draw_id": [7, 8], "cluster_id": [1, 2]})
    shown = pa.table({"draw_id": [7, 7, 8], "item_id": [70, 71, 80]})
    day = story_day(shown, pa.table({"item_id": [71]}), queries)
    assert day.shown == {1: 2, 2: 1}
    assert day.engaged == {1: 1, 2: 0}


def test_names_are_told_apart():
    medoids = np.array([1, 2, ITEMS_PER_TOPIC + 1, 3])
    names = cluster_names(medoids)
    assert names == ["Recipes", "Recipes (2)", "Furniture", "Recipes (3)"]
    assert names_in_order([], ("Recipes",)) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """A small world, told on a page and to a console of 100 columns."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with (out.parent / "told.txt").open("w") as told:
        console = Console(file=told, width=100)
        return run_demo(DemoOptions(users=60, nights=3, seed=2, out=out, model=True), console)


@pytest.mark.slow
def test_the_loop_learns_from_what_it_served(run: DemoRun):
    warehouse = Warehouse.open(run.root)
    outcomes = warehouse.read("OUTCOMES", warehouse.head())
    by_hand = run.served.shown.sum()
    nights = warehouse.chain(warehouse.head())
    closed = sum(warehouse.read("OUTCOMES", m).num_rows for m in nights)
    waiting = warehouse.read("OPEN", nights[-1]).num_rows
    assert closed + waiting == by_hand  # every impression counts once
    assert waiting > 0  # evenings are learned from a night later
    assert set(outcomes["attribution"].to_pylist()) == {"logged"}
    engaged = sum(float(floats(warehouse.read("OUTCOMES", m), "value").sum()) for m in nights)
    assert 0 < engaged <= run.served.engaged.sum()


@pytest.mark.slow
def test_the_story_agrees_with_the_tables(run: DemoRun):
    user = run.world.story_user
    assert run.arms[user - 1] == REWARD
    assert {row.day for row in run.story} == {1, 2, 3, 4}
    drawn = [row for row in run.story if row.drawn]
    warehouse = Warehouse.open(run.root)
    for row in drawn:
        queries = warehouse.read("QUERIES", warehouse.chain(warehouse.head())[row.day - 1])
        mine = (ints(queries, "user_id") == user) & (ints(queries, "cluster_id") == row.cluster_id)
        assert floats(queries, "propensity")[mine] == pytest.approx([row.chance], abs=1e-9)
    for day in (1, 2, 3):
        rows = [row for row in run.story if row.day == day]
        assert sum(row.chance for row in rows) == pytest.approx(3)
        assert sum(row.shown or 0 for row in rows) == run.served.shown[day - 1, user - 1]
        assert sum(row.engaged or 0 for row in rows) == run.served.engaged[day - 1, user - 1]
        assert all(row.drawn for row in rows if row.shown)
    assert all(row.shown is None for row in run.story if row.day == 4)


@pytest.mark.slow
def test_promises_hold(run: DemoRun):
    assert run.checks.never_shown > 0
    assert run.checks.not_average == 0
    assert run.checks.smallest_reward > 0
    assert run.checks.smallest_chance > 0


@pytest.mark.slow
def test_what_is_told(run: DemoRun):
    told = (run.options.out.parent / "told.txt").read_text()
    assert max(map(len, re.sub(r"queryloop sql.*", "", told).splitlines())) <= 100
    assert "Furniture" in told
    asked = (
        "Retrieval on the last night: counts by cr_filter (model 1), "
        "reward by cr_filter (model 2), evidence by cr_filter (model 3)"
    )
    assert asked in " ".join(told.split())
    html = (run.options.out / "report.html").read_text()
    assert "http" not in html
    assert html.count("<svg") == 6
    findings = Findings(run)
    assert not findings.counted[run.world.story_user - 1]
    assert sum(n for _, n, _ in findings.verdict[1:]) == findings.verdict[0][1] == 59
    assert TOPIC_NAMES[0] in html


@pytest.mark.slow
def test_the_statements_run(run: DemoRun):
    warehouse = Warehouse.open(run.root)
    for _, statement in sql_statements(run):
        assert query_rows(warehouse, statement, warehouse.head()).num_rows > 0


@pytest.mark.slow
def test_the_sql_below_a_chart_has_its_numbers(run: DemoRun):
    warehouse, sql = Warehouse.open(run.root), chart_statements(run)
    answers = {k: query_rows(warehouse, v, warehouse.head()).to_pylist() for k, v in sql.items()}
    rates = Findings(run).rates
    assert len(answers["rates"]) == len(ARMS) * len(rates)
    for row in answers["rates"]:
        day = (row["day"] - START).days
        assert row["rate"] == pytest.approx(rates[day][ARMS.index(row["arm"])].value)
    ours = sorted((s.day, s.reward) for s in run.story)
    theirs = sorted(((r["day"] - START).days + 1, r["reward"]) for r in answers["rewards"])
    assert [r for _, r in theirs] == pytest.approx([r for _, r in ours])
    drawn = sorted((s.day, s.chance) for s in run.story if s.drawn)
    chances = sorted(
        ((r["serve_date"] - START).days + 1, r["propensity"]) for r in answers["chances"]
    )
    assert [c for _, c in chances] == pytest.approx([c for _, c in drawn])
    page = (run.options.out / "report.html").read_text()
    assert page.count("<summary>SQL</summary>") >= 5


@pytest.mark.slow
def test_again_over_an_earlier_demo_and_never_over_anything_else(tmp_path: Path):
    options = DemoOptions(users=30, nights=1, seed=4, out=tmp_path / "out", model=False)
    first, second = play(options), play(options)
    asked = "counts by index, reward by index, evidence by index"
    assert first.retrieval == f"Retrieval on the last night: {asked}."
    assert (first.served.engaged == second.served.engaged).all()
    assert first.story == second.story
    assert json.loads((options.out / "demo.json").read_text())["seed"] == 4
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no demo made"):
        play(DemoOptions(users=30, nights=1, out=other, model=False))
    assert (other / "thesis.txt").exists()


def test_the_first_night_lies_before_the_first_day():
    config = night_config(DemoOptions())
    assert config.horizon_us == 6 * 3_600_000_000
    assert set(config.selections) == {"counts", "reward", "evidence"}
    assert START.day == 1
