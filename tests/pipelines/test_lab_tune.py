"""`lab tune`: a world of the log's shape, every value on the curve, paired differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.config import NightConfig
from pipelines.lab.period import find_period, sum_period
from pipelines.lab.shaped import shape_of
from pipelines.lab.tuning import TuneConfig, in_world, tune_policy
from pipelines.worlds.nights import Loop, best_share, play_nights
from pipelines.worlds.planted import START, WORLDS, People
from pipelines.worlds.stored import config_of_world, store_nights
from selection.policies import SelectionConfig

TRIED = TuneConfig(
    users=120, nights=3, first=1, beta=(4.0,), gamma=(), floor=(), half_life_days=(7.0,),
    prior_strength=(20.0,), prior=("evidence",),
)  # fmt: skip


def test_every_value_is_on_the_curve_beside_the_policy_as_it_is() -> None:
    world = in_world(WORLDS["stationary"], TRIED, seed=2)
    points = tune_policy(world, NightConfig(), TRIED, seed=2)
    assert [(p.option, p.value, p.as_it_is) for p in points] == [
        ("as it is", "", True),
        ("beta", 2.0, True), ("beta", 4.0, False),
        ("gamma", 1.0, True),
        ("floor", 0.05, True),
        ("prior", "average", True), ("prior", "evidence", False),
        ("half_life_days", 7.0, False), ("half_life_days", 30.0, True),
        ("prior_strength", "fitted", True), ("prior_strength", 20.0, False),
    ]  # fmt: skip
    for p in points:
        assert p.mean.low < p.mean.value < p.mean.high
        assert not p.as_it_is or p.uplift.low == p.uplift.high == 0.0
    assert any(p.uplift.low < p.uplift.high for p in points)
    assert points == tune_policy(world, NightConfig(), TRIED, seed=2)


def test_a_sharper_policy_finds_the_best_interests_in_the_curve_too() -> None:
    tried = replace(
        TRIED, beta=(), gamma=(), floor=(1.0,), half_life_days=(), prior_strength=(), prior=()
    )
    tried = replace(tried, users=300, nights=6, first=3)
    sharp = SelectionConfig(policy="reward_odds", beta=4.0, floor=0.0)
    world = in_world(WORLDS["stationary"], tried, seed=2)
    points = tune_policy(world, replace(NightConfig(), selection=sharp), tried, seed=2)
    even = next(p for p in points if p.option == "floor" and p.value == 1.0)
    assert even.uplift.high < 0.0


def test_the_world_has_the_shape_of_the_log(tmp_path) -> None:
    rules = replace(WORLDS["stationary"], comes=0.5, brings=3.0)
    people = People.create(rules, np.arange(1, 400), 3)
    made = store_nights(
        str(tmp_path / "w"),
        config_of_world(rules, Loop(), 3),
        play_nights(people, Loop(), 2),
        buckets=1,
    )
    period = find_period(made, START, START)
    shape = shape_of(made, period, sum_period(made, period, [None]))
    assert shape.comes == pytest.approx(0.5, abs=0.1)
    assert shape.brings > 2.0
    assert shape.rules.comes == shape.comes
    assert 0.0 <= shape.mismatch <= 1.0


def test_nights_that_lean_on_evidence_learn() -> None:
    people = People.create(WORLDS["stationary"], np.arange(1, 300), 3)
    loop = Loop(SelectionConfig(policy="reward_odds", prior="evidence", beta=4.0))
    first, *_, last = (best_share(people, n) for n in play_nights(people, loop, 6))
    assert last > first


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"first": 10}, "first must be below nights, got 10 of 10"), ({"users": 1}, "users must be")],
)
def test_impossible_searches(changes: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TuneConfig(**changes)
