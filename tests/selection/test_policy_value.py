"""Estimates and their intervals: ratios of sums, what doubly robust adds, and what they lean on."""

from __future__ import annotations

import numpy as np
import pytest

from profiling.bootstrap import Estimate, acceleration_of, estimate, resample_weights
from profiling.schema import FloatArray
from selection.off_policy import COLUMNS, LOG, UserSums
from selection.policy_value import (
    compare_policies,
    effective_weights,
    estimate_policies,
    spread_of,
)

N = 600


def sums_of(*policies: dict[str, FloatArray], nights: FloatArray | None = None) -> UserSums:
    """Sums of N users, 3 draws a night; columns not given are 0."""
    nights = np.ones(N) if nights is None else nights
    log = np.zeros((N, len(LOG)))
    log[:, LOG.index("nights")], log[:, LOG.index("draws")] = nights, 3 * nights
    log[:, LOG.index("interests")] = 5 * nights
    table = np.zeros((len(policies), N, len(COLUMNS)))
    for p, given in enumerate(policies):
        given = {"draw_e": 3 * nights} | given
        for name, values in given.items():
            table[p, :, COLUMNS.index(name)] = values
    items, exposure = np.arange(200), np.ones((len(policies), 200))
    return UserSums(np.arange(N), log, table, np.ones((len(policies), N, 2)), items, exposure)


def noisy(seed: int = 0) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """A policy whose weighted value is mostly the noise of its weights, and the log's own."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=N), rng.random(N)
    names = ("draw_wy", "draw_w", "draw_x_reward", "set_wy", "set_w", "set_x_reward")
    asked = dict(zip(names, (y + 5 * x, 3 + x, x, y + 5 * x, 1 + x, x), strict=True))
    own = dict(zip(names, (y, np.full(N, 3.0), 0 * x, y, np.ones(N), 0 * x), strict=True))
    return asked, own


def hull(values: FloatArray, influence: FloatArray) -> Estimate:
    plain, moved = estimate(values), estimate(values, acceleration_of(influence))
    return Estimate(plain.value, min(plain.low, moved.low), max(plain.high, moved.high))


def test_estimates_are_ratios_of_sums_and_intervals_resample_users() -> None:
    sums = sums_of(*noisy())
    found = compare_policies(sums, estimate_policies(sums, 4), 0, 1)
    wy, w = sums.column(0, "draw_wy"), sums.column(0, "draw_w")
    assert found.draw.values["ips"].value == pytest.approx(wy.sum() / (3 * N))
    assert found.draw.values["snips"].value == pytest.approx(wy.sum() / w.sum())
    assert found.set.values["ips"].value == pytest.approx(wy.sum() / N)
    weights = np.r_[np.ones((1, N)), resample_weights(N, 4)]
    ips = hull((weights @ wy) / (3 * weights.sum(axis=1)), wy - wy.mean())
    assert found.draw.values["ips"].low == pytest.approx(ips.low)
    own = sums.column(1, "draw_wy")
    moved = wy - wy.mean() - own + own.mean()
    gain = hull((weights @ wy - weights @ own) / (3 * weights.sum(axis=1)), moved)
    assert found.draw.uplifts["ips"].high == pytest.approx(gain.high)
    moved = wy - wy.mean() - (own - own.mean()) * wy.mean() / own.mean()
    relative = hull((weights @ wy) / (weights @ own) - 1, moved)
    assert found.draw.relative["ips"].low == pytest.approx(relative.low)


def test_doubly_robust_takes_out_what_the_weights_explain() -> None:
    sums = sums_of(*noisy())
    found = compare_policies(sums, estimate_policies(sums, 4), 0, 1)

    def width(name: str) -> float:
        return found.draw.values[name].high - found.draw.values[name].low

    y = sums.column(1, "draw_wy")
    assert found.draw.values["dr"].value == pytest.approx(y.sum() / (3 * N), rel=0.02)
    assert width("dr") < 0.1 * width("ips")


def test_a_model_that_explains_nothing_costs_next_to_nothing() -> None:
    asked, own = noisy()
    rng = np.random.default_rng(8)
    asked |= {"draw_x_reward": rng.standard_t(2.5, N), "draw_x_importance": rng.normal(size=N)}
    sums = sums_of(asked, own)
    found = compare_policies(sums, estimate_policies(sums, 4), 0, 1).draw.values
    assert found["dr"].high - found["dr"].low <= 1.02 * (found["ips"].high - found["ips"].low)


def test_a_users_own_outcomes_do_not_enter_their_model() -> None:
    asked, own = noisy()
    before, after = sums_of(asked, own), sums_of(asked, own)
    place = COLUMNS.index("draw_wy")
    after.policies[0, 0, place] += 1e6
    matrices: list[FloatArray] = []

    def keep(matrix: FloatArray) -> FloatArray:
        matrices.append(matrix)
        return matrix.sum(axis=0, keepdims=True)

    for sums in (before, after):
        estimate_policies(sums, 4, keep)
    column = 4  # units; e, wy, w, dr of the draws of the first policy
    model = [m[:, 2] - m[:, column] for m in matrices]
    ratio = model[1] / model[0]
    assert len(np.unique(ratio.round(6))) >= 2  # the other half's model is another one
    assert np.isclose(ratio, ratio[0], rtol=1e-6).sum() >= N // 3  # the own half's only rescaled


def test_what_the_estimates_lean_on() -> None:
    w = np.r_[np.full(N // 2, 2.0), np.zeros(N // 2)]
    asked = {"set_w": w, "set_w2": w * w, "set_hit": w / 4, "set_lost": np.full(N, 0.25)}
    asked |= {"draw_starved": np.full(N, 1.0), "draw_focus": np.full(N, 0.5)}
    sums = sums_of(asked)
    found = effective_weights(sums, 0, "set")
    assert (found.effective, found.share) == pytest.approx((N / 2, 0.5))
    assert found.successes == pytest.approx(N / 8)
    assert found.unsupported == pytest.approx(0.25)
    spread = spread_of(sums, 0)
    assert (spread.starved, spread.focus, spread.top_items) == pytest.approx((0.2, 0.5, 0.01))


def test_no_user_is_said_so() -> None:
    with pytest.raises(ValueError, match="no draw to evaluate"):
        estimate_policies(sums_of(*noisy()).take(np.zeros(0, np.int64)), 1)
