"""What chance every interest had, drawn or not: the probabilities that a night drew by, again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa

from profiling.hashing import hash64
from profiling.schema import FloatArray, group_offsets, ints
from selection.policies import SelectionConfig, policy_weights
from selection.sampling import NEGLIGIBLE, DrawRequest, draw_keys, inclusion_targets


def inclusion_chances(
    rewards: pa.Table,
    selections: Mapping[str, SelectionConfig],
    *,
    run_date: date,
    seed: int,
    salt: str,
) -> FloatArray:
    """(n,) inclusion probability of every interest, as QUERIES have it of those drawn.

    The target that a draw is calibrated to, from the same weights and, where the policy draws, by
    the same keys.

    Args:
        rewards: CLUSTER_REWARDS in key order, of one surface and one arm.
        selections: By arm.
        run_date: The night.
        seed: Of the night.
        salt: Of its experiment.
    """
    if not rewards.num_rows:
        return np.empty(0)
    selection = selections[rewards["arm"][0].as_py()]
    users = ints(rewards, "user_id")
    offsets = group_offsets(users)
    surface = rewards["surface"][0].as_py()
    request = DrawRequest(seed, 0, run_date, surface, salt)
    keys = draw_keys(request, users[offsets[:-1]], hash64(surface))
    groups = len(offsets) - 1
    weights = policy_weights(rewards, offsets, selection, keys)
    if groups == 1:  # no kernel has to be loaded, which takes longer than all else
        return targets_of_one(weights, selection.queries, selection.floor)
    queries, floor = np.full(groups, selection.queries), np.full(groups, selection.floor)
    return inclusion_targets(offsets, weights, queries, floor)


def targets_of_one(weights: FloatArray, k: int, floor: float) -> FloatArray:
    """`inclusion_targets` of one user on one surface, in plain NumPy.

    Args:
        weights: (n,) float64, finite, >= 0.
        k: Draws wanted.
        floor: Share of the draws that is spread evenly.
    """
    n = len(weights)
    if k >= n:
        return np.ones(n)
    weights = np.where(weights > NEGLIGIBLE * weights.max(), weights, 0.0)
    sure = np.zeros(n, bool)
    while True:
        left, total = k - int(sure.sum()), float(weights[~sure].sum())
        if total == 0.0:
            shares = np.where(sure, 1.0, left / max(n - int(sure.sum()), 1))
            break
        shares = np.where(sure, 1.0, left * weights / total)
        over = ~sure & (shares >= 1.0)
        if not over.any():
            break
        sure |= over
    return np.asarray((1.0 - floor) * shares + floor * (k / n))
