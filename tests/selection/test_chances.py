"""Chances of one user without the kernel: the same as with it."""

import numpy as np
import pytest

from profiling.hashing import uniforms
from selection.chances import inclusion_chances, targets_of_one
from selection.queries import SelectionConfig
from selection.sampling import NEGLIGIBLE, inclusion_targets
from selection.tables import CLUSTER_REWARDS
from tests.pipelines.small_world import day


@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
def test_targets_of_one_user_are_those_of_the_kernel(floor: float) -> None:
    for case in range(200):
        n, k = 1 + case % 9, 1 + case // 9 % 5
        draw = uniforms("chances", case, np.arange(n))
        weights = draw**4 * (draw > 0.3) + NEGLIGIBLE / 2 * (case % 3 == 0)
        weights[0] += 100.0 * (case % 4 == 0)
        bounds, ks, floors = np.array([0, n]), np.array([k]), np.array([floor])
        theirs = inclusion_targets(bounds, weights, ks, floors)
        ours = targets_of_one(weights, k, floor)
        assert ours == pytest.approx(theirs, abs=1e-12)
        assert ours.sum() == pytest.approx(min(k, n))


def test_nobody_has_no_chance() -> None:
    none = CLUSTER_REWARDS.empty()
    configs = {"": SelectionConfig()}
    assert len(inclusion_chances(none, configs, run_date=day(0), seed=0, salt="")) == 0
