from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from profiling.schema import FloatArray, IntArray
from selection.cluster_tallies import CLUSTER_TALLIES, roll_up_tallies
from selection.prior import (
    PRIOR_SUMS,
    WORKING_STRENGTH,
    Prior,
    PriorConfig,
    RatePrior,
    fit_prior,
    prior_sums,
)
from tests.selection.reward_rows import CONFIG, NO_ITEMS, NOW, world_profiles, world_rewards

PRIOR = PriorConfig()


def tallies_of(rates: FloatArray, shown: int | IntArray, seed: int = 0, **how: float) -> pa.Table:
    rewards = world_rewards(rates, shown, np.random.default_rng(seed), **how)
    profiles = world_profiles(*rates.shape)
    return roll_up_tallies(rewards, profiles, NO_ITEMS, CONFIG, now=NOW, surfaces=["home"])


def fitted(tallies: pa.Table) -> RatePrior:
    return fit_prior([prior_sums(tallies, "")], PRIOR).of("home", "")


@pytest.mark.parametrize("days", [0.0, 90.0])
@pytest.mark.parametrize(("a", "b"), [(2, 38), (1, 9)])
def test_recovers_beta_rates(a: float, b: float, days: float) -> None:
    """80,000 rates: the strength's standard error is 1.5 % here; 10 % is asked for."""
    rates = np.random.default_rng(1).beta(a, b, size=(10_000, 8))
    prior = fitted(tallies_of(rates, 20, days=days))
    assert prior.mean == pytest.approx(a / (a + b), rel=0.10)
    assert prior.strength == pytest.approx(a + b, rel=0.10)
    assert prior.user_strength > 1_000  # users do not differ
    assert prior.trials == 1.0


def test_raw_variances_would_be_far_off() -> None:
    """The trap: the variance of the raw rates holds their sampling variance."""
    rates = np.random.default_rng(1).beta(2, 38, size=(10_000, 8))
    tallies = tallies_of(rates, 20)
    raw = np.asarray(tallies["wy"]) / np.asarray(tallies["w"])
    naive = raw.mean() * (1 - raw.mean()) / raw.var() - 1
    assert naive < 20 < 36 < fitted(tallies).strength < 44


@pytest.mark.parametrize("days", [0.0, 90.0])
def test_recovers_both_levels(days: float) -> None:
    """Users Beta(3, 27), their clusters Beta(m_u k, (1 - m_u) k): K = sigma^2 / Var(m_u)."""
    rng, k = np.random.default_rng(2), 20.0
    users = rng.beta(3, 27, size=(10_000, 1))
    rates = rng.beta(users * k, (1 - users) * k, size=(10_000, 8))
    shown = rng.integers(0, 41, rates.shape)
    prior = fitted(tallies_of(rates, shown, days=days))
    assert prior.mean == pytest.approx(0.1, rel=0.10)
    assert prior.strength == pytest.approx(k, rel=0.10)
    assert prior.user_strength == pytest.approx(30 * k / (k + 1), rel=0.10)


def test_values_between_0_and_1_need_no_bernoulli() -> None:
    """y = rate +- .45: sigma^2 = .9^2 / 12, and the strengths are ratios to it."""
    rates = np.random.default_rng(3).beta(20, 20, size=(4_000, 8))
    prior = fitted(tallies_of(rates, 10, spread=0.9))
    sigma2, variance = 0.9**2 / 12, 0.25 / 41
    assert prior.mean == pytest.approx(0.5, rel=0.02)
    assert prior.strength == pytest.approx(sigma2 / variance, rel=0.10)
    assert prior.trials == pytest.approx((0.25 - variance) / sigma2, rel=0.05)


def test_of_users_with_one_cluster_the_sum_of_variances_is_right() -> None:
    rates = np.random.default_rng(4).beta(2, 38, size=(40_000, 1))
    prior = fitted(tallies_of(rates, 20))
    assert 1 / prior.strength + 1 / prior.user_strength == pytest.approx(1 / 40, rel=0.10)


def test_sums_are_those_over_pairs() -> None:
    """The exact twin: every product of two different outcomes, or clusters, one by one."""
    rng = np.random.default_rng(5)
    rows, expected = [], dict.fromkeys(PRIOR_SUMS.names[2:], 0.0)
    for user, sizes in enumerate([[3, 1, 4], [2], [1, 1]]):
        clusters = [(rng.random(n), rng.random(n)) for n in sizes]
        for c, (x, y) in enumerate(clusters):
            rows.append(tally_row(user, c, x, y))
        for name, value in terms_of_user(clusters).items():
            expected[name] += value
    got = prior_sums(pa.Table.from_pylist(rows, schema=CLUSTER_TALLIES.arrow), "a").to_pylist()
    assert [(r.pop("surface"), r.pop("arm")) for r in got] == [("home", "a")]
    assert got[0] == pytest.approx(expected, rel=1e-9)


def tally_row(user: int, cluster: int, x: FloatArray, y: FloatArray) -> dict[str, Any]:
    return {
        "user_id": user, "surface": "home", "cluster_id": cluster, "w": x.sum(),
        "wy": (x * y).sum(), "w2": (x**2).sum(), "w2y": (x**2 * y).sum(),
        "w2y2": (x**2 * y**2).sum(), "draw_w": 2.0, "drawn_w": 3.0, "impressions": len(x),
        "draws": 2, "last_at": NOW,
    }  # fmt: skip


def terms_of_user(clusters: list[tuple[FloatArray, FloatArray]]) -> dict[str, float]:
    out = dict.fromkeys(PRIOR_SUMS.names[2:], 0.0)
    rate, b, t = [], [], []
    for x, y in clusters:
        n = x.sum() ** 2 / (x**2).sum()
        rate.append((x * y).sum() / x.sum())
        b.append(n / (n + WORKING_STRENGTH))
        t.append((n - 1) / (n - 1 + WORKING_STRENGTH))
        pairs = list(combinations(range(len(x)), 2))
        total = sum(x[i] * x[j] for i, j in pairs) or 1.0
        one = sum(x[i] * x[j] * (y[i] + y[j]) / 2 for i, j in pairs) / total
        two = sum(x[i] * x[j] * y[i] * y[j] for i, j in pairs) / total
        of_y = [(x**2 * y**p).sum() / (x**2).sum() for p in range(3)]
        for j in range(3):
            out[f"all_{j}"] += b[-1] * of_y[j]
            out[f"own_{j}"] += t[-1] * of_y[j]
            out[f"pair_{j}"] += t[-1] * (1.0, one, two)[j]
        out["weight"] += x.sum()
    out |= {"users": 1, "clusters": len(clusters)}
    out |= {"draw_w": 2.0 * len(clusters), "drawn_w": 3.0 * len(clusters)}
    size = WORKING_STRENGTH * sum(b)
    out["mean_0"] = size * WORKING_STRENGTH / (size + WORKING_STRENGTH)
    out["mean_1"] = out["mean_0"] * np.dot(b, rate) / sum(b)
    pairs = list(combinations(range(len(clusters)), 2))
    if not pairs:
        return out | {"lone_0": sum(t)}
    total = sum(b[i] * b[j] for i, j in pairs)
    moments = (
        1.0,
        sum(b[i] * b[j] * (rate[i] + rate[j]) / 2 for i, j in pairs) / total,
        sum(b[i] * b[j] * rate[i] * rate[j] for i, j in pairs) / total,
    )
    for j in range(3):
        out[f"user_{j}"] = 2 * total / (1 + 2 * total) * moments[j]
        out[f"other_{j}"] = sum(t) * moments[j]
    return out


def test_any_sharding_and_order_give_the_same_prior() -> None:
    rng = np.random.default_rng(6)
    rates = rng.beta(2, 18, size=(300, 4))
    tallies = tallies_of(rates, rng.integers(0, 9, rates.shape), days=60.0)
    whole = fitted(tallies)
    shuffled = tallies.take(rng.permutation(tallies.num_rows))
    assert fitted(shuffled) == whole
    part = np.asarray(tallies["user_id"]) % 3
    sums = [prior_sums(tallies.filter(pa.array(part == i)), "") for i in range(3)]
    split = fit_prior(sums, PRIOR).of("home", "")
    numbers = [[v for v in vars(p).values() if v is not None] for p in (split, whole)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)
    as_rows = [json.loads(json.dumps(s.to_pylist())) for s in sums]
    assert fit_prior(as_rows, PRIOR).of("home", "") == split


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        (np.zeros((0, 1)), 1),
        (np.full((1, 1), 0.3), 1),
        (np.full((1, 1), 0.3), 1_000),
        (np.full((1, 9), 0.3), 50),
        (np.full((500, 1), 0.3), 1),
        (np.zeros((500, 3)), 20),
        (np.ones((500, 3)), 20),
        (np.full((40, 2), 0.05), 3),
        (np.repeat(np.eye(2), 50, axis=0), 40),
    ],
)
def test_degenerate_logs_give_sensible_priors(rates: FloatArray, shown: int) -> None:
    prior = fitted(tallies_of(rates, shown))
    assert 0.0 < prior.mean < 1.0
    assert PRIOR.strength_low <= prior.strength <= PRIOR.strength_high
    assert PRIOR.strength_low <= prior.user_strength <= PRIOR.strength_high
    assert 1.0 <= prior.trials <= 1.0 + 1e-9  # all outcomes are 0 or 1
    assert prior.clusters == rates.size


def test_without_records_the_defaults_hold() -> None:
    config = PriorConfig(default_mean=0.2, default_strength=7.0, default_user_strength=9.0)
    empty = fit_prior([], config)
    assert empty.of("home", "x") == empty.default == RatePrior(0.2, 7.0, 9.0)
    never_shown = fit_prior([prior_sums(tallies_of(np.ones((3, 2)), 0), "")], config)
    assert never_shown.of("home", "") == RatePrior(0.2, 7.0, 9.0)


def test_all_alike_outcomes_leave_the_default_strength() -> None:
    prior = fitted(tallies_of(np.zeros((500, 3)), 20))
    assert prior.strength == pytest.approx(PRIOR.default_strength, rel=1e-6)
    assert prior.mean < 0.05 / 500  # and a mean that is nearly, but not, 0


def test_default_mean_is_worth_one_impression() -> None:
    n = 4.0
    size = WORKING_STRENGTH * n / (n + WORKING_STRENGTH)
    weight = size * WORKING_STRENGTH / (size + WORKING_STRENGTH)
    prior = fitted(tallies_of(np.ones((1, 1)), 4))
    assert prior.mean == pytest.approx((weight * 1.0 + 1.0 * 0.05) / (weight + 1.0), rel=1e-12)


def test_clusters_that_are_alike_get_the_largest_strength() -> None:
    prior = fitted(tallies_of(np.full((4_000, 6), 0.1), 30, seed=11))
    assert prior.strength > 500


def test_arms_learn_apart_and_fall_back() -> None:
    rates = np.full((200, 2), 0.1)
    rates[100:] = 0.6
    tallies = tallies_of(rates, 20)
    arms = np.where(np.asarray(tallies["user_id"]) < 100, "low", "high")
    prior = fit_prior([prior_sums(tallies, arms)], PRIOR)
    assert prior.of("home", "low").mean == pytest.approx(0.1, abs=0.02)
    assert prior.of("home", "high").mean == pytest.approx(0.6, abs=0.03)
    assert prior.of("home", "other") == prior.default
    pooled = fit_prior([prior_sums(tallies, "")], PRIOR)
    assert pooled.of("home", "low") == pooled.of("home", "")
    assert pooled.of("home", "").users == 200
    assert pooled.of("related", "low") == pooled.default


def test_impressions_per_draw() -> None:
    rows = [tally_row(1, c, np.ones(2), np.ones(2)) for c in range(5)]
    tallies = pa.Table.from_pylist(rows, schema=CLUSTER_TALLIES.arrow)
    assert fitted(tallies).per_draw == pytest.approx((5 * 3.0 + 1) / (5 * 2.0 + 1))
    rows = [row | {"draw_w": 0.0, "drawn_w": 0.0} for row in rows]
    assert fitted(pa.Table.from_pylist(rows, schema=CLUSTER_TALLIES.arrow)).per_draw is None


def test_json_round_trip_is_exact() -> None:
    rng = np.random.default_rng(8)
    prior = fit_prior([prior_sums(tallies_of(rng.random((50, 3)), 7), "a")], PRIOR)
    drawn = replace(prior.of("home", "a"), per_draw=1 / 3)
    prior = Prior(prior.default, {**prior.rates, ("related", ""): drawn})
    assert Prior.from_json(json.loads(json.dumps(prior.to_json()))) == prior


def test_bounds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="strength_low must be <= strength_high, got 50 > 10"):
        PriorConfig(strength_low=50.0, strength_high=10.0)
    with pytest.raises(ValueError, match="default_mean must be >= "):
        PriorConfig(default_mean=0.0)
