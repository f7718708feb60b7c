"""Weights by hand, and the posterior draws against scipy."""

import dataclasses

import numpy as np
import pytest
from scipy import integrate, stats

from profiling.hashing import hash64
from selection.policies import (
    POLICIES,
    SelectionConfig,
    beta_log_odds,
    policy_version,
    policy_weights,
)
from selection.tables import CLUSTER_REWARDS

BOUNDS = np.array([0, 3, 4])
KEYS = hash64(np.arange(2))


def rows_of(**changed):
    """Three clusters of user 1 and one of user 2."""
    n = len(next(iter(changed.values()))) if changed else 4
    columns = {
        "user_id": [1, 1, 1, 2][:n],
        "surface": ["home"] * n,
        "cluster_id": [1, 2, 3, 1][:n],
        "arm": [""] * n,
        "query_type": ["item"] * n,
        "query_id": [11, 12, 13, 11][:n],
        "importance": [1.0, 2.0, 5.0, 7.0][:n],
        "actions": [4, 1, 9, 2][:n],
        "weight": [10.0, 0.0, 5.0, 0.0][:n],
        "effective_n": [1.0] * n,
        "raw_rate": [None] * n,
        "reward": [0.2, 0.0, 0.5, 0.3][:n],
        "low": [0.0] * n,
        "high": [1.0] * n,
        "prior_source": ["observed"] * n,
        "prior_mean": [0.3] * n,
        "prior_strength": [10.0] * n,
        "posterior_a": [2.0, 1.0, 5.0, 3.0][:n],
        "posterior_b": [8.0, 9.0, 5.0, 7.0][:n],
        "draws": [0.0] * n,
        "reward_per_draw": [0.4, None, 0.1, None][:n],
    }
    return CLUSTER_REWARDS.build(columns | changed)


def weights_of(policy, rows=None, **options):
    config = SelectionConfig(policy=policy, **options)
    return policy_weights(rows_of() if rows is None else rows, BOUNDS, config, KEYS)


def test_weights_by_hand():
    eps = 1e-4
    assert weights_of("counts") == pytest.approx([4, 1, 9, 2])
    assert weights_of("importance") == pytest.approx([1 / 8, 2 / 8, 5 / 8, 1])
    assert weights_of("reward", beta=3.0)[:3] == pytest.approx([0.2**3, eps**3, 0.5**3])
    assert weights_of("reward_importance", beta=2.0, gamma=0.5) == pytest.approx(
        [0.2**2 * (1 / 8) ** 0.5, eps**2 * (2 / 8) ** 0.5, 0.5**2 * (5 / 8) ** 0.5, 0.3**2]
    )
    assert weights_of("reward_odds", beta=4.0)[:3] == pytest.approx(
        [(2 / 8) ** 4, (1 / 9) ** 4, (5 / 5) ** 4]
    )


def test_reward_per_draw_holds_where_it_is_known():
    found = weights_of("reward", beta=1.0, reward_per="draw")
    assert found[:3] == pytest.approx([0.4, 1e-4, 0.1])


def test_a_user_without_record_falls_back_to_counts():
    for policy in ("reward", "reward_odds", "thompson"):
        assert weights_of(policy)[3] == 2
        same = rows_of(reward=[0.3] * 4, weight=[0.0] * 4)
        assert list(weights_of(policy, same)) == [4, 1, 9, 2]
        shown = rows_of(reward=[0.3] * 4, weight=[0.0, 1.0, 0.0, 0.0])
        assert list(weights_of(policy, shown)[:3]) != [4, 1, 9]


def test_importance_without_any_is_even():
    rows = rows_of(importance=[0.0, 0.0, 0.0, 1.0])
    assert list(weights_of("importance", rows)) == [0, 0, 0, 1]


@pytest.mark.parametrize("policy", ["reward", "reward_importance"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(policy, bad):
    with pytest.raises(ValueError, match=f"policy {policy} gives user 1, cluster 2 the weight"):
        weights_of(policy, rows_of(reward=[0.2, bad, 0.1, 0.3]))


def test_posteriors_must_be_above_zero():
    with pytest.raises(ValueError, match=r"must be finite and > 0 for thompson, got 0\.0 and 9\.0"):
        weights_of("thompson", rows_of(posterior_a=[2.0, 0.0, 5.0, 3.0]))


@pytest.mark.parametrize("shape", [(0.02, 0.5), (0.4, 0.9), (2.0, 38.0), (1.0, 1.0), (60.0, 0.3)])
def test_posterior_draws_are_beta(shape):
    """Kolmogorov and Smirnov, 20,000 draws, on the log-odds: p above 1e-3 for a fixed seed."""
    odds = np.array([beta_log_odds(*shape, state) for state in hash64(99, np.arange(20_000))])

    def below(x):  # P(log odds <= x), by the tail that has digits
        tail = np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
        return np.where(x < 0, stats.beta(*shape).cdf(tail), stats.beta(*shape[::-1]).sf(tail))

    assert stats.kstest(odds, below).pvalue > 1e-3


def test_thompson_share_is_the_probability_of_being_among_the_best():
    rows = rows_of(weight=[1.0] * 4)
    samples = 20_000
    found = weights_of("thompson", rows, queries=1, thompson_samples=samples)
    laws = [stats.beta(2, 8), stats.beta(1, 9), stats.beta(5, 5)]
    for i, law in enumerate(laws):
        others = [other for j, other in enumerate(laws) if j != i]
        exact, _ = integrate.quad(
            lambda x, law=law, others=others: law.pdf(x) * others[0].cdf(x) * others[1].cdf(x), 0, 1
        )
        error = np.sqrt(exact * (1 - exact) / samples)
        assert abs(found[i] - exact) < 4 * error
    assert found[3] == 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_thompson_shares_sum_to_the_draws(k):
    found = weights_of("thompson", rows_of(weight=[1.0] * 4), queries=k)
    assert found[:3].sum() == pytest.approx(min(k, 3))
    assert np.all((found >= 0) & (found <= 1))
    assert np.allclose(found * 256, np.round(found * 256))


def test_thompson_does_not_depend_on_the_batch():
    rows = rows_of(weight=[1.0] * 4)
    config = SelectionConfig(policy="thompson", queries=2)
    whole = policy_weights(rows, BOUNDS, config, KEYS)
    first = policy_weights(rows.slice(0, 3), BOUNDS[:2], config, KEYS[:1])
    second = policy_weights(rows.slice(3), np.array([0, 1]), config, KEYS[1:])
    assert np.array_equal(np.r_[first, second], whole)
    assert not np.array_equal(policy_weights(rows, BOUNDS, config, KEYS[::-1]), whole)


def test_every_policy_handles_no_rows():
    for policy in POLICIES:
        config = SelectionConfig(policy=policy)
        none = policy_weights(CLUSTER_REWARDS.empty(), np.zeros(1, np.int64), config, KEYS[:0])
        assert len(none) == 0


def test_versions_tell_configs_apart():
    versions = {policy_version(SelectionConfig(policy=p)) for p in POLICIES}
    versions |= {policy_version(SelectionConfig(floor=f)) for f in (0.0, 0.1)}
    assert len(versions) == len(POLICIES) + 2
    assert policy_version(SelectionConfig()) == policy_version(SelectionConfig())
    assert policy_version(SelectionConfig()).startswith("reward_importance/")


@pytest.mark.parametrize(
    ("option", "value"),
    [("policy", "best"), ("beta", -1.0), ("floor", 1.1), ("queries", 0), ("eps", 0.0)],
)
def test_options_out_of_range_name_themselves(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        dataclasses.replace(SelectionConfig(), **{option: value})
