"""`queryloop evaluate retrieval` over a small world, and that no label reaches a query."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.cli import main
from pipelines.config import NightConfig, render_config
from pipelines.evaluate.arms import ARMS, Engine, judge_arm, night_arm, retrieve
from pipelines.evaluate.figures import PAIRS, REFERENCE, VARIED
from pipelines.evaluate.learned import Learner
from pipelines.evaluate.log import liked_actions, night_queries, read_log
from pipelines.evaluate.material import Material, StudyOptions, gather
from pipelines.evaluate.page import study_page
from pipelines.evaluate.study import run_study
from pipelines.failures import quiet_beam
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_nights
from pipelines.pages.report import render_report
from pipelines.plan import cutoff_of
from pipelines.store.warehouse import Warehouse
from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.schema import ints
from profiling.tables import EXPOSURES
from retrieval.encoders import ItemEncoder
from retrieval.evaluation.measures import Judge
from retrieval.evaluation.protocol import HeldOut
from retrieval.evaluation.tuning import TRIED
from retrieval.model.serving import RetrievalModel
from retrieval.model.towers import ModelConfig
from retrieval.model.trained import TrainedModel
from tests.pipelines.small_models import untrained
from tests.pipelines.small_world import (
    day,
    engagements_table,
    foreign_impressions,
    items_table,
)

LAST_NIGHT, LAST_DAY = 3, 5
CONFIG = NightConfig()


def make(root: Path, engagements: pa.Table, *, until: str = "queries") -> Warehouse:
    """A warehouse with a log to the last day and one night."""
    warehouse = Warehouse.create(str(root), render_config(CONFIG), buckets=2)
    land(warehouse, {"ITEMS": items_table()}, source="items")
    events = {
        "ENGAGEMENTS": engagements,
        "IMPRESSIONS": foreign_impressions(1, LAST_DAY, own_actions=True),
        "EXPOSURES": EXPOSURES.build(
            {"user_id": np.arange(40), "ordinal": np.zeros(40), "item_id": np.arange(40) + 50}
        ),
    }
    land(warehouse, events, source="log")
    run_nights(
        warehouse, [day(LAST_NIGHT)], RunOptions(until=until, progress=False), allow_gap=True
    )
    return warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return make(tmp_path_factory.mktemp("evaluate") / "w", engagements_table(0, LAST_DAY))


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """The same log without a future, the same nights without queries."""
    root = tmp_path_factory.mktemp("cut_short") / "w"
    return make(root, engagements_table(0, LAST_NIGHT), until="rewards")


@pytest.fixture(scope="module", autouse=True)
def fewer_trials() -> Iterator[None]:
    """Two options a baseline."""
    with pytest.MonkeyPatch.context() as patch:
        fewer = {name: options[:2] for name, options in TRIED.items()}
        patch.setattr("pipelines.evaluate.contest.TRIED", fewer)
        patch.setattr("retrieval.evaluation.tuning.PRIOR_EXPONENTS", (0.5, 1.0))
        yield


@pytest.fixture(scope="module")
def options() -> StudyOptions:
    return StudyOptions(day(LAST_NIGHT), days=2, validation_days=1)


@pytest.fixture(scope="module")
def material(warehouse: Warehouse, options: StudyOptions) -> Material:
    return gather(warehouse, CONFIG, options)


@pytest.fixture(scope="module")
def study(material: Material, options: StudyOptions) -> dict[str, Any]:
    pytest.importorskip("implicit")
    return run_study(material, options, None, lambda text: None)


def lists(held_out: HeldOut, name: str) -> dict[int, set[int]]:
    """Item rows by user."""
    found = getattr(held_out, name)
    bounds = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    users = held_out.users.tolist()
    return {u: set(found.values[a:b].tolist()) for u, (a, b) in zip(users, bounds, strict=True)}


def test_what_users_met_before_the_cut_off_is_neither_asked_for_nor_brought(
    material: Material,
) -> None:
    cutoff = cutoff_of(day(LAST_NIGHT))
    met: dict[int, set[int]] = {}
    for table in (
        engagements_table(0, LAST_DAY),
        foreign_impressions(1, LAST_DAY, own_actions=True),
    ):
        for row in table.filter(pc.less(table["at"].cast(pa.int64()), cutoff)).to_pylist():
            met.setdefault(row["user_id"], set()).add(row["item_id"])
    for user in range(40):
        met.setdefault(user, set()).add(user + 50)  # exposed before the log
    known, positives = lists(material.test, "known"), lists(material.test, "positives")
    assert {user: met[user] for user in known} == known
    engine = Engine(material.items.vectors, ItemEncoder(material.items))
    brought = retrieve(material.test, material.items, engine, {"arm": "index"})
    owners = ints(material.test.queries, "user_id").tolist()
    for user, rows in zip(owners, brought.rows, strict=True):
        assert positives[user]
        assert not positives[user] & known[user]
        assert not set(rows[rows >= 0].tolist()) & known[user]
        assert (rows >= 0).sum() > 60  # of 120, all the others


def test_positives_are_the_liked_of_the_days_after(
    warehouse: Warehouse, material: Material
) -> None:
    cutoff = cutoff_of(day(LAST_NIGHT))
    known = lists(material.test, "known")
    wanted: dict[int, set[int]] = {}
    for row in engagements_table(LAST_NIGHT + 1, LAST_DAY).to_pylist():
        if row["action"] != "hate" and row["item_id"] not in known.get(row["user_id"], ()):
            wanted.setdefault(row["user_id"], set()).add(row["item_id"])
    found = lists(material.test, "positives")
    assert found == {user: wanted[user] for user in found}
    assert len(found) > 20
    log = read_log(warehouse, ("like",), cutoff + 2 * DAY_US)
    assert (
        log.liked(cutoff, cutoff + DAY_US).num_rows
        < log.liked(cutoff, cutoff + 2 * DAY_US).num_rows
    )
    assert material.actions == ("long_view", "like")


def test_flipped_labels_change_neither_conditions_nor_candidates(
    tmp_path: Path, cut_short: Warehouse, material: Material, options: StudyOptions
) -> None:
    """Another future after the same past: other items liked after the cut-off."""
    future = engagements_table(LAST_NIGHT + 1, LAST_DAY)
    place = future.column_names.index("item_id")
    moved = (ints(future, "item_id") + 31) % 120
    future = future.set_column(place, future.schema.field(place), pa.array(moved))
    shutil.copytree(cut_short.root, tmp_path / "w")
    flipped = Warehouse.open(str(tmp_path / "w"))
    land(flipped, {"ENGAGEMENTS": future}, source="another future")
    other = gather(flipped, CONFIG, options)
    both = np.intersect1d(material.test.users, other.test.users)
    assert len(both) > 15
    assert lists(material.test, "positives") != lists(other.test, "positives")
    brought = []
    for one in (material, other):
        held_out = one.test.take(np.isin(one.test.users, both))
        engine = Engine(one.items.vectors, ItemEncoder(one.items))
        brought.append(
            (held_out.queries, retrieve(held_out, one.items, engine, {"arm": "index"}).rows)
        )
    assert brought[0][0].equals(brought[1][0])
    assert (brought[0][1] == brought[1][1]).all()


def test_a_night_that_drew_nothing_is_asked_what_it_would_have_drawn(
    cut_short: Warehouse, warehouse: Warehouse
) -> None:
    assert not cut_short.read("QUERIES").num_rows
    found, drawn = (
        night_queries(one, day(LAST_NIGHT), CONFIG).sort_by("draw_id")
        for one in (cut_short, warehouse)
    )
    assert drawn.num_rows > 50
    assert found.equals(drawn)


def test_every_arm_and_baseline_has_a_row(study: dict[str, Any]) -> None:
    names = [row["arm"] for row in study["rows"]]
    base = ["popularity"] + [
        name + prior for name in ("item_knn", "als", "bpr") for prior in ("", "_prior")
    ]
    wanted = [name + more for name in base for more in ("", "_filter")]
    assert names == [*wanted, "index", "index_free"]
    for row in study["rows"]:
        assert row["low"] <= row["hit_rate_100"] <= row["high"]
        assert row["hit_rate_10"] <= row["hit_rate_100"] <= row["hit_rate_300"]
        assert 0 < row["coverage"] <= 1
        assert row["cost_per_kept"] == pytest.approx(1 / row["kept_share"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    reference = next(row for row in study["rows"] if row["arm"] == REFERENCE)
    assert (reference["difference"], reference["difference_low"]) == (0, 0)
    json.dumps(study, allow_nan=False)


@pytest.fixture(scope="module")
def learned(
    warehouse: Warehouse, material: Material, options: StudyOptions, tmp_path_factory: Any
) -> dict[str, Any]:
    """The study with models that no training made, one a seed and option."""
    pytest.importorskip("implicit")
    learner = Learner(
        warehouse,
        warehouse.night(day(LAST_NIGHT)),
        CONFIG,
        material.test.users,
        tmp_path_factory.mktemp("pairs"),
        lambda text: None,
    )

    def train(seed: int, changes: Mapping[str, Any]) -> Engine:
        number = seed + 100 * len(changes) + len(str(changes))
        model = untrained(material.items, number, shape=ModelConfig(width=8, hidden=16))
        return learner.engine(RetrievalModel(model, material.items))

    return run_study(material, replace(options, seeds=2, sweep=True), train, lambda text: None)


def test_the_learned_arms_stand_beside_the_others(learned: dict[str, Any]) -> None:
    rows = {row["arm"]: row for row in learned["rows"]}
    assert [*ARMS, "night"] == [name for name in rows if rows[name]["kind"] == "arm"]
    settled = night_arm(CONFIG.retrieval).options  # what `auto` comes to
    assert (settled["arm"], settled["unconditioned_slots"]) == ("cr_filter", 1)
    mixed = [rows[name]["topic_match"] for name in ("cr_unconditioned", "night", "cr_filter")]
    assert mixed[0] < mixed[1] < mixed[2]
    assert learned["seeds"] == 2
    for name in ("lr_filter", "cr_filter"):
        assert rows[name]["topic_match"] > rows[name[:2]]["topic_match"]
        assert rows[name]["kept_share"] == rows[name[:2]]["kept_share"]
    assert rows["lr"]["slot_overlap"] == 1.0  # one list for all slots of a user
    assert rows["cr"]["slot_overlap"] < 1.0
    assert {(p["first"], p["second"]) for p in learned["pairs"]} == set(PAIRS)
    for pair in learned["pairs"]:
        gap = rows[pair["first"]]["hit_rate_100"] - rows[pair["second"]]["hit_rate_100"]
        assert pair["difference"] == pytest.approx(gap)


def test_overlap_is_told_with_the_query_item_and_without_over_all_pairs_and_those_alike(
    learned: dict[str, Any],
) -> None:
    arms = {row["arm"]: row for row in learned["rows"]}
    assert {row["arm"] for row in learned["overlap"]} == {"cr", "cr_filter"}
    for row in learned["overlap"]:
        figure = "slot_overlap" if row["pairs"] == "all" else "slot_overlap_alike"
        assert row["with"] == arms[row["arm"]][figure]
        assert row["without"] == arms[f"{row['arm']}_without_query_item"][figure]
        assert row["difference"] == pytest.approx(row["with"] - row["without"])
        assert row["number"] > 0


def test_what_a_model_leaks_is_its_gap_less_that_of_the_oracle(learned: dict[str, Any]) -> None:
    gaps = {row["arm"]: row for row in learned["leakage"]}
    assert list(gaps) == ["popularity_filter", "als_prior_filter", "lr_filter", "cr", "cr_filter"]
    for name in ("cr", "cr_filter"):
        assert gaps[name]["knower"] == "lr_filter"
        assert gaps[name]["leak"] == pytest.approx(gaps[name]["gap"] - gaps["lr_filter"]["gap"])
        assert gaps[name]["leak_low"] <= gaps[name]["leak"] <= gaps[name]["leak_high"]


def test_every_option_that_is_varied_has_its_rows(learned: dict[str, Any]) -> None:
    found = {(row["varied"], row["value"]) for row in learned["sweep"]}
    assert found == {(name, value) for name, values in VARIED.items() for value in values}
    assert len(learned["sweep"]) == 3 * len(found)
    assert [row["arm"] for row in learned["random_topics"]] == ["lr", "cr", "cr_without_query_item"]
    pages = render_report(study_page(learned))
    assert "inverse_popularity" in pages
    assert "lr_filter" in pages


def test_a_model_is_trained_on_what_lies_before_the_cut_off(
    warehouse: Warehouse, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night, users = warehouse.night(day(LAST_NIGHT)), material.test.users
    asked: list[tuple[Any, ...]] = []

    def train(inputs: Any, training: Any, model: Any, *, seed: int, progress: Any) -> TrainedModel:
        asked.append((inputs, training, model, seed))
        return untrained(material.items, shape=model)

    monkeypatch.setattr("retrieval.training.train.train", train)
    config = replace(CONFIG, model=ModelConfig(width=8, hidden=16))
    learner = Learner(warehouse, night, config, users, tmp_path, lambda text: None)
    engine = learner.train(3, {"none_share": 1.0})
    inputs, training, model, seed = asked[0]
    assert (model, seed) == (config.model, 3)
    assert training == replace(config.training, none_share=1.0)
    assert inputs.cutoffs[-1] == night.cutoff == cutoff_of(day(LAST_NIGHT))
    pairs = [chunk.pairs for chunk in inputs.source]
    assert sum(p.num_rows for p in pairs) > 100
    assert max(ints(p, "at").max() for p in pairs) < night.cutoff
    assert engine.vectors.shape == (120, 9)
    learner.train(4, {})
    assert asked[1][0].source is inputs.source  # made once


def test_what_the_oracle_knows_is_more_than_the_real_conditions_do(study: dict[str, Any]) -> None:
    gaps = {row["arm"]: row for row in study["leakage"]}
    assert set(gaps) == {"popularity_filter", "als_prior_filter"}
    for row in gaps.values():
        assert row["gap"] == pytest.approx(row["oracle"] - row["real"])


def test_a_stricter_filter_matches_no_less_where_topics_are_sure(study: dict[str, Any]) -> None:
    rows = {row["threshold"]: row for row in study["thresholds"]}
    assert set(rows) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert rows[0.0]["topic_match"] < rows[1.0]["topic_match"]
    index = next(row for row in study["rows"] if row["arm"] == "index")
    assert rows[0.25]["hit_rate_100"] == index["hit_rate_100"]
    free = next(row for row in study["rows"] if row["arm"] == "index_free")
    assert rows[0.0]["hit_rate_100"] == free["hit_rate_100"]


def test_the_figures_of_an_arm_do_not_depend_on_the_chunk_of_users(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(material.test, material.items, np.array([0]))
    engine = Engine(material.items.vectors, ItemEncoder(material.items))
    whole = judge_arm(judge, ARMS["index"], engine)
    monkeypatch.setattr("pipelines.evaluate.arms._CHUNK", 7)
    parts = judge_arm(judge, ARMS["index"], engine)
    np.testing.assert_array_equal(whole.above, parts.above)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any) -> Any:
    """(exit code, output, errors) of a command."""
    monkeypatch.setattr(sys, "argv", ["queryloop", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    quiet_beam(False)
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def evaluate(warehouse: Warehouse, date: dt.date, *more: Any) -> tuple[Any, ...]:
    return ("evaluate", "retrieval", "-w", warehouse.root, "--train-until", date, *more)


SHORT = ("--no-model", "--days", 2, "--validation-days", 1)


def test_the_command_prints_one_json_object_and_writes_an_offline_report(
    warehouse: Warehouse,
    study: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = evaluate(warehouse, day(LAST_NIGHT), *SHORT, "--format", "json", "--out", tmp_path)
    code, out, _ = run(monkeypatch, capsys, *words)
    assert code == 0
    assert json.loads(out) == study
    assert json.loads((tmp_path / "retrieval.json").read_text()) == study
    page = (tmp_path / "retrieval.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"(https?:)?//[a-z]", page)
    assert "<script src" not in page
    assert "als_prior_filter" in page


def test_the_command_prints_a_table(
    warehouse: Warehouse,
    study: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipelines.evaluate.command.run_study", lambda *_: study)
    code, out, _ = run(monkeypatch, capsys, *evaluate(warehouse, day(LAST_NIGHT), *SHORT))
    assert code == 0
    assert "HR@100" in out
    assert "The leakage gap" in out
    best = next(row for row in study["rows"] if row["arm"] == "index")
    line = next(line for line in out.splitlines() if line.startswith("index "))
    assert f"{100 * best['hit_rate_100']:.1f}" in line


@pytest.mark.parametrize(
    ("night", "more", "said"),
    [
        (30, (), "has no night of 2024-03-31; nights run"),
        (LAST_NIGHT, ("--action", "wave"), "there is no action 'wave'"),
        (LAST_NIGHT, ("--days", 0), "days must be at least 1"),
        (LAST_NIGHT, ("--format", "csv"), "format must be one of table, json"),
    ],
)
def test_what_cannot_be_evaluated_says_why(
    warehouse: Warehouse,
    night: int,
    more: tuple[Any, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = evaluate(warehouse, day(night), *SHORT, *more)
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_missing_libraries_are_told_at_once(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = evaluate(warehouse, day(LAST_NIGHT))
    monkeypatch.setitem(sys.modules, "jax", None)
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert "pip install 'queryloop[retrieval]', or give --no-model" in err
    monkeypatch.setattr("pipelines.evaluate.command.find_spec", lambda name: None)
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert "pip install 'queryloop[evaluation]'" in err


def test_nothing_after_the_last_day_is_nothing_to_evaluate(
    cut_short: Warehouse, options: StudyOptions
) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        gather(cut_short, CONFIG, options)


def test_liked_is_what_is_positive_and_worth_something() -> None:
    assert liked_actions(DEFAULT_ACTIONS, ()) == ("long_view", "like")
    assert liked_actions(DEFAULT_ACTIONS, ("hate",)) == ("hate",)
    with pytest.raises(ValueError, match="no configured action is positive"):
        liked_actions(DEFAULT_ACTIONS[2:], ())
