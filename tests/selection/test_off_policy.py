"""Sums of a log for other policies: by hand, by enumeration of every set, and what is left out."""

from __future__ import annotations

from datetime import date
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from profiling.items import Items
from profiling.schema import FloatArray
from selection.off_policy import (
    COLUMNS,
    FEATURES,
    LOG,
    LoggedNight,
    UserSums,
    add_users,
    sum_log,
)
from selection.policies import SelectionConfig
from selection.queries import select_queries, weigh_clusters
from selection.sampling import sample_sets, weigh_sets
from selection.tables import CLUSTER_REWARDS, OUTCOMES

NIGHT = date(2026, 3, 1)
NO_ITEMS = Items(
    np.zeros(1, np.int64), np.ones((1, 1), np.float32), "v", np.zeros(2, np.int64),
    np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(1, np.int64),
)  # fmt: skip


def state(sizes: dict[int, int], seed: int = 0, **columns: Any) -> pa.Table:
    """CLUSTER_REWARDS of users with so many clusters, their numbers at random."""
    rng = np.random.default_rng(seed)
    users = np.repeat(list(sizes), list(sizes.values()))
    n = len(users)
    rows: dict[str, Any] = {c.name: rng.random(n) for c in CLUSTER_REWARDS.required}
    rows |= {
        "user_id": users,
        "surface": ["home"] * n,
        "cluster_id": np.concatenate([np.arange(s) + 1 for s in sizes.values()]),
        "arm": [""] * n,
        "query_type": ["item"] * n,
        "query_id": rng.integers(0, 50, n),
        "actions": rng.integers(1, 9, n),
        "prior_source": ["observed"] * n,
        "posterior_a": rng.random(n) + 0.5,
        "posterior_b": rng.random(n) * 9 + 0.5,
    }
    return CLUSTER_REWARDS.build(rows | columns)


def night(rewards: pa.Table, selection: SelectionConfig, seed: int = 7) -> LoggedNight:
    selections = {"": selection}
    queries = select_queries(rewards, NO_ITEMS, selections, run_date=NIGHT, seed=seed, salt="")
    return LoggedNight(queries, rewards, NIGHT, selections, seed, "")


def outcomes(rows: list[tuple[int, int, float, float]]) -> pa.Table:
    """(user_id, draw_id, value, credit)."""
    users, draws, values, credits = ([r[i] for r in rows] for i in range(4))
    columns = {"user_id": users, "draw_id": draws, "value": values, "credit": credits}
    types = {c.name: c.type for c in OUTCOMES.columns}
    return pa.table({k: pa.array(v, types[k]) for k, v in columns.items()})


def earning(log: LoggedNight, value: dict[int, float]) -> pa.Table:
    """Outcomes by which every draw earns the value of its cluster."""
    draws = log.queries.to_pylist()
    return outcomes([(q["user_id"], q["draw_id"], value[q["cluster_id"]], 1.0) for q in draws])


def of(sums: UserSums, name: str, policy: int = 0) -> float:
    return float(sums.column(policy, name).sum())


def test_by_hand() -> None:
    # b = 1/3 each (all even); asked by counts 1, 2, 3: e = 1/6, 2/6, 3/6; cluster 3 was drawn.
    rewards = state({4: 3}, actions=np.array([1, 2, 3]))
    even = SelectionConfig(policy="counts", floor=1.0, queries=1)
    log = next(
        night(rewards, even, seed)
        for seed in range(99)
        if night(rewards, even, seed).queries["cluster_id"][0].as_py() == 3
    )
    draw = log.queries["draw_id"][0].as_py()
    earned = outcomes([(4, draw, 1.0, 1.0), (4, draw, 0.5, 0.5), (5, draw, 9.0, 1.0)])
    sums = sum_log([log], earned, [SelectionConfig(policy="counts", floor=0.0, queries=1)])
    assert sums.users.tolist() == [4]
    assert dict(zip(LOG, sums.log[0].tolist(), strict=True)) == pytest.approx(
        {"nights": 1, "draws": 1, "value": 1.25, "served": 1, "interests": 3}
    )
    w = (3 / 6) / (1 / 3)
    expected = {"draw_e": 1, "draw_wy": w * 1.25, "draw_w": w, "draw_w2": w * w, "draw_hit": w}
    expected |= {"set_wy": w * 1.25, "set_w": w, "set_x_one": w - 1, "draw_x_one": w - 1}
    expected["draw_focus"] = (1 + 4 + 9) / 36
    assert {c: of(sums, c) for c in expected} == pytest.approx(expected)
    assert sums.largest[0, 0] == pytest.approx([w, w])


ASKED = [
    SelectionConfig(policy="counts", queries=2, floor=0.0),
    SelectionConfig(policy="reward", queries=2, beta=6.0),
    SelectionConfig(policy="thompson", queries=2, thompson_samples=64),
]


def enumerated(value: Any) -> tuple[FloatArray, FloatArray]:
    """Expected (p, c) sums over all sets that one user's log can hold, and (p, n) chances."""
    rewards = state({1: 5}, seed=3)
    log = night(rewards, SelectionConfig(policy="importance", queries=2, floor=0.2))
    expected = np.zeros((len(ASKED), len(COLUMNS)))
    total = 0.0
    b = chances_of(log, log.selections[""], (0, 1))[1]
    for pair in combinations(range(5), 2):
        chance, _ = chances_of(log, log.selections[""], pair)
        queries = log.queries.to_pylist()
        for q, row in zip(queries, pair, strict=True):
            q |= {"cluster_id": row + 1, "propensity": b[row], "set_probability": chance}
        drawn = pa.Table.from_pylist(queries, schema=log.queries.schema)
        this = LoggedNight(drawn, rewards, NIGHT, log.selections, log.seed, "")
        rows = [(1, q["draw_id"], value(q["cluster_id"], pair), 1.0) for q in queries]
        sums = sum_log([this], outcomes(rows), ASKED)
        assert sums.redrawn == 0
        expected += chance * sums.policies[:, 0]
        total += chance
    assert total == pytest.approx(1.0, abs=1e-12)
    return expected, np.stack([chances_of(log, policy, (0, 1))[1] for policy in ASKED])


def chances_of(
    log: LoggedNight, policy: SelectionConfig, members: tuple[int, ...]
) -> tuple[float, FloatArray]:
    """P(S) of one user's set and all inclusion probabilities, by brute force over sets."""
    weighed = weigh_clusters(
        log.cluster_rewards, {"": policy}, run_date=NIGHT, seed=log.seed, salt=""
    )
    wanted = np.zeros(weighed.rows.num_rows, bool)
    wanted[list(members)] = True
    found = weigh_sets(weighed.offsets, weighed.weights, weighed.draws, weighed.floors, wanted)
    return float(found.sets[0]), found.propensities


def test_every_estimator_is_unbiased_over_all_sets() -> None:
    expected, e = enumerated(lambda cluster, pair: float(cluster))
    truth = e @ np.arange(1, 6)
    column = dict(zip(COLUMNS, expected.T, strict=True))
    assert column["draw_wy"] == pytest.approx(truth, rel=1e-9)
    assert column["set_wy"] == pytest.approx(truth, rel=1e-9)
    assert column["draw_w"] == pytest.approx([2.0] * 3, rel=1e-9)
    assert column["set_w"] == pytest.approx([1.0] * 3, rel=1e-9)
    for f in FEATURES:  # whatever model of a draw's value is linear in these: the mean stays
        assert column[f"draw_x_{f}"] == pytest.approx([0.0] * 3, abs=1e-9)
        assert column[f"set_x_{f}"] == pytest.approx([0.0] * 3, abs=1e-9)


def test_where_draws_compete_only_the_set_value_is_unbiased() -> None:
    def value(cluster: int, pair: tuple[int, ...]) -> float:
        return 1.0 if 0 in pair else float(cluster)

    expected, _ = enumerated(value)
    rewards = state({1: 5}, seed=3)
    log = night(rewards, SelectionConfig(policy="importance", queries=2, floor=0.2))
    truth = [
        sum(
            chances_of(log, policy, pair)[0] * sum(value(c + 1, pair) for c in pair)
            for pair in combinations(range(5), 2)
        )
        for policy in ASKED
    ]
    column = dict(zip(COLUMNS, expected.T, strict=True))
    assert column["set_wy"] == pytest.approx(truth, rel=1e-9)
    assert np.abs(column["draw_wy"] - truth).max() > 0.05


@pytest.mark.parametrize("policy", ["reward_importance", "counts", "thompson"])
def test_the_logs_own_policy_gets_the_logs_own_value_exactly(policy: str) -> None:
    own = SelectionConfig(policy=policy, thompson_samples=32)
    log = night(state({u: 1 + u % 9 for u in range(1, 80)}), own)
    sums = sum_log([log], earning(log, {c: 0.1 * c for c in range(1, 10)}), [own, None])
    assert (sums.column(0, "draw_wy") == sums.log[:, LOG.index("value")]).all()
    assert (sums.column(0, "set_wy") == sums.log[:, LOG.index("value")]).all()
    assert (sums.policies[0] == sums.policies[1]).all()
    assert sums.redrawn == sums.unknown == 0


def test_probabilities_of_sets_are_those_they_were_drawn_with_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 13, 300)
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    weights = 10.0 ** rng.uniform(-6, 6, offsets[-1]) * (rng.random(offsets[-1]) < 0.8)
    k, floor = rng.integers(1, 5, 300), rng.choice([0.0, 0.05], 300)
    sets = sample_sets(offsets, weights, k, floor, rng.integers(0, 1 << 60, 300).astype(np.uint64))
    wanted = np.zeros(offsets[-1], bool)
    wanted[sets.rows] = True
    found = weigh_sets(offsets, weights, k, floor, wanted)
    assert (found.sets == sets.set_probabilities).all()
    assert (found.propensities == sets.propensities).all()
    assert (found.supported == 1.0).all()
    wanted[sets.rows[sets.offsets[:-1]]] = False  # a draw less: no such set is ever drawn
    assert (weigh_sets(offsets, weights, k, floor, wanted).sets == 0.0).all()


def test_support_is_the_probability_of_the_sets_that_the_log_can_hold() -> None:
    weights, k, floor = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2]), np.array([0.1])
    offsets = np.array([0, 5])
    barred, held = np.array([1, 0, 0, 0, 0], bool), np.array([0, 0, 0, 0, 1], bool)
    total = 0.0
    for pair in combinations(range(5), 2):
        wanted = np.isin(np.arange(5), pair)
        found = weigh_sets(offsets, weights, k, floor, wanted, barred=barred, held=held)
        total += found.sets[0] * (4 in pair and 0 not in pair)
    assert found.supported[0] == pytest.approx(total, rel=1e-12)


def test_what_the_log_could_never_draw_is_mass_without_support() -> None:
    rewards = state({1: 4}, actions=np.array([0, 1, 1, 1]))
    log = night(rewards, SelectionConfig(policy="counts", queries=2, floor=0.0))
    even = SelectionConfig(policy="counts", queries=2, floor=1.0)
    sums = sum_log([log], earning(log, dict.fromkeys(range(1, 5), 1.0)), [even])
    assert of(sums, "draw_lost") == pytest.approx(0.5)  # of 2 draws; cluster 1 has 1/2
    assert of(sums, "set_lost") == pytest.approx(0.5)  # 3 of the 6 pairs hold cluster 1
    more = SelectionConfig(policy="counts", queries=3, floor=1.0)
    assert of(sum_log([log], outcomes([]), [more]), "set_lost") == 1.0


def test_draws_that_brought_nothing_count() -> None:
    log = night(state({1: 5, 2: 5}), SelectionConfig())
    first = log.queries["draw_id"][0].as_py()
    sums = sum_log([log], outcomes([(1, first, 1.0, 1.0)]), [None])
    assert sums.log.sum(axis=0).tolist() == [2, 6, 1, 1, 10]
    assert of(sums, "draw_wy") == 1.0
    assert of(sums, "draw_e") == pytest.approx(6.0)


def test_any_sharding_gives_the_same_sums() -> None:
    log = night(state({u: 4 + u % 4 for u in range(1, 30)}), SelectionConfig())
    earned = earning(log, {c: 1.0 / c for c in range(1, 9)})
    whole = sum_log([log], earned, ASKED)
    parts = []
    for odd in (0, 1):
        mine = [
            t.filter(pa.array(t["user_id"].to_numpy() % 2 == odd))
            for t in (log.queries, log.cluster_rewards, earned)
        ]
        shard = LoggedNight(mine[0], mine[1], NIGHT, log.selections, log.seed, "")
        parts.append(sum_log([shard], mine[2], ASKED))
    both = add_users(parts, len(ASKED))
    assert (both.policies == whole.policies).all()
    assert (both.log == whole.log).all()
    assert both.exposure == pytest.approx(whole.exposure)
    twice = add_users([whole, whole], len(ASKED))
    assert (twice.policies == 2 * whole.policies).all()
    assert (twice.largest == whole.largest).all()


def test_draws_of_another_state_are_counted() -> None:
    log = night(state({1: 5, 2: 5}), SelectionConfig())
    drawn = log.queries["cluster_id"][0].as_py()
    gone = log.cluster_rewards.filter(
        pa.array(
            (log.cluster_rewards["user_id"].to_numpy() != 1)
            | (log.cluster_rewards["cluster_id"].to_numpy() != drawn)
        )
    )
    other = LoggedNight(log.queries, gone, NIGHT, log.selections, log.seed, "")
    sums = sum_log([other], outcomes([]), [None])
    assert (sums.unknown, sums.users.tolist()) == (3, [2])
    reseeded = state({1: 5, 2: 5}, seed=9)
    other = LoggedNight(log.queries, reseeded, NIGHT, log.selections, log.seed, "")
    assert sum_log([other], outcomes([]), [None]).redrawn == 2
