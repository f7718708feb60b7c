"""Calibration ends, and meets its targets, where targets are as uneven as they come."""

import numpy as np
import pytest

from selection.conditional_poisson import (
    LANES,
    MAX_STEPS,
    TOLERANCE,
    calibrate,
    new_lanes,
)


def lanes_of(targets, complements, k):
    m = targets.shape[0]
    x = new_lanes(m, k)
    x.t[:], x.u[:] = targets, complements
    return x


@pytest.mark.parametrize(("m", "k"), [(2, 1), (3, 2), (8, 3), (40, 7)])
def test_meets_targets_down_to_1e_12(m, k):
    rng = np.random.default_rng(m)
    targets = np.empty((m, LANES))
    for lane in range(LANES):  # k near-certain clusters and m - k near-impossible ones, paired
        small = 10.0 ** rng.uniform(-12, -1, m - k)
        small *= min(1.0, 0.9 / small.sum())
        targets[k:, lane] = small
        targets[:k, lane] = small.sum() / k
    complements = 1.0 - targets
    complements[:k], targets[:k] = targets[:k].copy(), 1.0 - targets[:k]
    x = lanes_of(targets, complements, k)
    assert calibrate(x, m, k) < MAX_STEPS
    assert x.gap.max() <= TOLERANCE
    pi = x.t / (x.t + x.u * x.ratio)
    np.testing.assert_allclose(pi, targets, rtol=2 * TOLERANCE)
    np.testing.assert_allclose(pi.sum(0), k, rtol=1e-9)


def test_equal_targets_need_no_more_than_the_start():
    x = lanes_of(np.full((20, LANES), 5 / 20), np.full((20, LANES), 15 / 20), 5)
    assert calibrate(x, 20, 5) == 1
    np.testing.assert_allclose(x.p / x.q, 1 / 3)  # Poisson trials of equal weight


def test_targets_that_no_design_has_still_end():
    """Sum 2.5 for k = 2: no weights give these, and the step limit holds."""
    x = lanes_of(np.full((5, LANES), 0.5), np.full((5, LANES), 0.5), 2)
    assert calibrate(x, 5, 2) <= MAX_STEPS
    assert np.all(np.isfinite(x.ratio))
