"""Planted worlds: what is planted is what comes out, and the nights learn from it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines.worlds.nights import Loop, Truth, best_share, play_nights, true_value
from pipelines.worlds.planted import WORLDS, People
from profiling.schema import floats, ints
from selection.off_policy import LOG, sum_log
from selection.policies import SelectionConfig
from selection.tables import CLOSED_DRAWS, OUTCOMES

IDS = np.arange(1, 1501)


@pytest.mark.parametrize("name", list(WORLDS))
def test_draws_earn_what_was_planted(name: str) -> None:
    people = People.create(WORLDS[name], IDS, 5)
    (night,) = play_nights(people, Loop(), 1)
    rows = people.rows_of(night.log.queries)
    place = np.searchsorted(people.ids, ints(night.log.queries, "user_id"))
    worth = people.values(1, np.full(len(IDS), 3))[rows] * people.kept(rows, place)
    by_user = np.zeros(len(IDS))
    for table, values in ((night.outcomes, floats(night.outcomes, "value")),):
        np.add.at(by_user, np.searchsorted(people.ids, ints(table, "user_id")), values)
    gap = by_user - np.bincount(place, worth)
    assert abs(gap.mean()) <= 4 * gap.std() / np.sqrt(len(IDS))
    assert gap.std() > 0
    OUTCOMES.check_ranges(night.outcomes)
    CLOSED_DRAWS.check_ranges(night.closed_draws)
    assert set(night.closed_draws["state"].to_pylist()) <= {"brought", "empty", "unserved"}


def test_a_user_is_the_same_in_any_company() -> None:
    few, many = (People.create(WORLDS["stationary"], IDS[:n], 5) for n in (40, 900))
    n = few.offsets[-1]
    assert (few.tastes == many.tastes[:n]).all()
    assert (few.sizes == many.sizes[:n]).all()
    assert few.profiles().equals(many.profiles().slice(0, n))


def test_the_truth_of_the_log_is_what_its_draws_earn_on_average() -> None:
    people = People.create(WORLDS["stationary"], IDS, 5)
    nights = list(play_nights(people, Loop(), 3))
    truth = sum((true_value(people, n, SelectionConfig()) for n in nights), Truth(0, 0, 0))
    log = [night.log for night in nights]
    outcomes = [night.outcomes for night in nights]
    sums = sum_log(log, pa.concat_tables(outcomes), [None])
    value = sums.log[:, LOG.index("value")]
    assert truth.draws == pytest.approx(sums.log[:, LOG.index("draws")].sum())
    assert abs(value.sum() - truth.value) < 4 * value.std() * np.sqrt(len(IDS))


def test_where_draws_compete_the_truth_is_that_of_sets() -> None:
    people = People.create(WORLDS["competing"], IDS[:300], 5)
    (night,) = play_nights(people, Loop(), 1)
    policy = SelectionConfig(policy="counts")
    alone = people.values(1, np.full(300, 3))
    found = true_value(people, night, policy)
    assert found.value < 0.9 * float(alone.sum() * 3 / 5)
    assert found.value == pytest.approx(
        true_value(people, night, policy, rounds=64).value, rel=0.02
    )


def test_outcomes_that_are_known_late_are_learned_late() -> None:
    people = People.create(WORLDS["delayed"], IDS[:200], 5)
    nights = list(play_nights(people, Loop(), 6))
    seen = [float(floats(n.log.cluster_rewards, "weight").sum()) for n in nights]
    assert seen[:4] == [0.0] * 4
    assert seen[4] > 0
    late = (ints(nights[0].outcomes, "run_date") - ints(nights[0].log.queries, "run_date")[0]).max()
    assert late == 4  # the day served, and three nights


def test_choices_go_to_the_best_interests() -> None:
    people = People.create(WORLDS["stationary"], IDS[:300], 5)

    def last(policy: str, beta: float = 2.0) -> float:
        loop = Loop(SelectionConfig(policy=policy, beta=beta))
        *_, night = play_nights(people, loop, 8)
        return best_share(people, night)

    counts, rewarded = last("counts"), last("reward_odds", 4.0)
    assert rewarded > counts + 0.05


def test_a_world_without_users_is_refused() -> None:
    with pytest.raises(ValueError, match="ids ascending"):
        People.create(WORLDS["stationary"], np.array([2, 1]), 5)
