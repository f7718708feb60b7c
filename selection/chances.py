"""What chance every interest had, drawn or not: the probabilities that a night drew by, again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa

from profiling.hashing import hash64
from profiling.schema import FloatArray, group_offsets, ints
from selection.policies import SelectionConfig, policy_weights
from selection.sampling import DrawRequest, draw_keys, inclusion_targets


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
    queries, floor = np.full(groups, selection.queries), np.full(groups, selection.floor)
    return inclusion_targets(offsets, weights, queries, floor)
