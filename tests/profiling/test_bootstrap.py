import numpy as np
import pytest
from scipy.stats import bootstrap

from profiling.bootstrap import (
    Estimate,
    acceleration_of,
    estimate,
    resample_weights,
    resampled_sums,
)


def test_weights_are_poisson_and_the_same_in_any_block():
    weights = resample_weights(500, 3)
    n = weights.size
    assert weights.shape == (1000, 500)
    assert abs(weights.mean() - 1) < 4 / np.sqrt(n)
    assert abs((weights == 0).mean() - np.exp(-1)) < 4 * np.sqrt(np.exp(-1) / n)
    assert abs(weights.var() - 1) < 4 * np.sqrt(3 / n)  # the fourth central moment is 4
    assert (resample_weights(500, 3, 4, first=7) == weights[7:11]).all()
    assert (weights != resample_weights(500, 4)).any()


def test_sums_are_those_of_the_weights():
    values = np.random.default_rng(0).normal(size=(50, 3))
    sums = resampled_sums(values, 9, 20)
    np.testing.assert_allclose(sums[0], values.sum(axis=0))
    np.testing.assert_allclose(sums[1:], resample_weights(50, 9, 20) @ values)


def test_sums_do_not_depend_on_how_many_users_are_added_at_a_time(monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 2))
    whole = resampled_sums(values, 9, 20)
    monkeypatch.setattr("profiling.bootstrap._BLOCK", 7)
    np.testing.assert_allclose(resampled_sums(values, 9, 20), whole, rtol=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    rng = np.random.default_rng(1)
    x = rng.normal(2.0, 3.0, 4000)
    sums = resampled_sums(np.c_[x, np.ones(4000)], 5)
    found = estimate(sums[:, 0] / sums[:, 1])
    half = 1.96 * x.std() / np.sqrt(4000)
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        x = rng.binomial(1, 0.3, 300).astype(float)
        sums = resampled_sums(np.c_[x, np.ones(300)], seed, 300)
        found = estimate(sums[:, 0] / sums[:, 1])
        covered += found.low <= 0.3 <= found.high
    assert 0.91 <= covered / 200 <= 0.985


def test_where_nothing_is_known_there_is_no_interval():
    found = estimate(np.array([0.5, np.nan, np.inf]))
    assert found.value == 0.5
    assert np.isnan(found.low)
    assert estimate([1.0, 2.0, np.nan, 2.0]) == Estimate(1.0, 2.0, 2.0)


def test_the_accelerated_interval_of_skewed_values_is_that_of_the_other_library():
    x = np.random.default_rng(4).lognormal(0.0, 1.5, 200)
    sums = resampled_sums(np.c_[x, np.ones(200)], 5, 20_000)
    found = estimate(sums[:, 0] / sums[:, 1], acceleration_of((x - x.mean()) / 200))
    plain = estimate(sums[:, 0] / sums[:, 1])
    theirs = bootstrap((x,), np.mean, n_resamples=9999, method="BCa", rng=1).confidence_interval
    assert found.low == pytest.approx(theirs.low, rel=0.03)
    assert found.high == pytest.approx(theirs.high, rel=0.03)
    assert found.high > 1.02 * plain.high


def test_without_skew_the_accelerated_interval_is_the_plain_one():
    x = np.r_[np.arange(100.0), -np.arange(100.0)]
    assert acceleration_of(x) == 0.0
    assert acceleration_of(np.zeros(3)) == 0.0
    values = np.r_[0.0, x]
    assert estimate(values, 0.0) == estimate(values)
