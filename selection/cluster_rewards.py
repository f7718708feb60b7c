"""Step 3, second pass: the records of queries become the rewards of tonight's clusters.

Records are keyed by query. A query counts for the cluster that holds its item tonight; one that
left the history for the user's nearest medoid, if near enough, else it is kept apart and fades.
With n = w, V = wy and the prior's m, k, K (design, section 4, Reward):

    s_c = k n_c / (k + n_c),  m_u = (sum_c s_c V_c / n_c + K m) / (sum_c s_c + K)
    r_c = (V_c + k m_u) / (n_c + k);  without a record r_c = m_u, or m where the user has none

The posterior that Thompson sampling and the interval use goes by Kish's count n' = w^2 / w2, faded
by the age of the latest impression, so that a cluster not shown for long is as uncertain as a new
one (fading: ours):

    mean (n' V_c / n_c + k m_u) / (n' + k),  variance sigma^2 / e,
    1 / e = 1 / (n' + k) + (k / (n' + k))^2 / (sum_c s_c + K)

where the second part is what is not known of m_u; a Beta of that mean and a + b = e * trials has
that variance (`RatePrior.trials`; for yes-or-no outcomes 1, and a, b are counts of yes and no).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import betaincinv

from profiling.actions import Actions, counts_matrix
from profiling.decay import half_life_weights
from profiling.items import Items
from profiling.schema import (
    TIMESTAMP,
    Column,
    FloatArray,
    IntArray,
    TableSchema,
    floats,
    group_offsets,
    ints,
    sort_rows,
)
from profiling.tables import F64, I64, PROFILES, TEXT
from selection.experiments import Experiment, arms_of
from selection.keys import key_bounds, name_codes, name_column, names_in, sort_keys
from selection.membership import clusters_of
from selection.prior import Prior
from selection.rewards import NEVER, SUMS, RewardConfig, last_times
from selection.tables import CLUSTER_REWARDS

# In memory only: REWARDS by cluster, as of the cut-off.
CLUSTER_TALLIES = TableSchema(
    "CLUSTER_TALLIES",
    1,
    ("user_id", "surface", "cluster_id"),
    (
        Column("user_id", I64, "whose"),
        Column("surface", TEXT, "where"),
        Column("cluster_id", I64, "the interest"),
        *(Column(s, F64, "as in REWARDS, decayed to the cut-off", low=0) for s in SUMS),
        Column("impressions", I64, "outcomes ever counted here", low=0),
        Column("draws", I64, "draws ever closed here", low=0),
        Column("last_at", TIMESTAMP, "latest impression here", nullable=True),
    ),
)
_TAIL = 0.025  # on each side of the interval


@dataclass(frozen=True)
class RollUpInputs:
    """What the second pass needs of one bucket of users, and the prior fitted over all."""

    profiles: pa.Table
    rewards: pa.Table
    items: Items
    prior: Prior
    actions: Actions
    experiment: Experiment | None = None


@dataclass(frozen=True)
class _Estimates:
    """Per cluster, in units of y, (n,) each: the names of this module's head.

    `seen`: has a record; `rate` = V_c / n_c and `kish` = w^2 / w2, 0 without; `user` = m_u; `own` =
    sum_c s_c.
    """

    prior: dict[str, FloatArray]
    seen: npt.NDArray[np.bool_]
    rate: FloatArray
    kish: FloatArray
    user: FloatArray
    own: FloatArray
    reward: FloatArray
    a: FloatArray
    b: FloatArray


def roll_up_tallies(
    rewards: pa.Table,
    profiles: pa.Table,
    items: Items,
    config: RewardConfig,
    *,
    now: int,
    surfaces: Sequence[str],
) -> pa.Table:
    """CLUSTER_TALLIES: a row per user, surface and cluster, zeros where there is no record.

    Args:
        rewards: REWARDS of the bucket; queries that are no items count for no cluster.
        profiles: PROFILES of the bucket, tonight's.
        items: The catalogue, for queries that left the history.
        config: Half-life, threshold; records decayed below `prune_below` count as none.
        now: The cut-off, microseconds.
        surfaces: Where to; records of other surfaces are left out.
    """
    profiles, names = _in_key_order(profiles), sorted(set(surfaces))
    rewards = rewards.filter(pc.equal(rewards["query_type"], pa.scalar("item")))
    surface = name_codes(rewards["surface"], names)
    keys = np.stack([surface, ints(rewards, "query_id")], axis=1)
    users, keys, order = sort_keys(ints(rewards, "user_id"), keys)
    bounds = group_offsets(ints(profiles, "user_id"))
    clusters = clusters_of(users, keys[:, 1], profiles, items, config.threshold)
    kept = (clusters >= 0) & (keys[:, 0] >= 0)
    order, clusters, surface = order[kept], clusters[kept], keys[kept, 0]
    # A user's rows lie together, surface after surface.
    user = np.searchsorted(bounds, clusters, side="right") - 1
    rows = bounds[user] * (len(names) - 1) + surface * np.diff(bounds)[user] + clusters
    columns = _sums_by_row(rewards, order, rows, len(names) * profiles.num_rows, config, now)
    of_profile, codes = _layout(bounds, len(names))
    return CLUSTER_TALLIES.build(
        {
            "user_id": ints(profiles, "user_id")[of_profile],
            "surface": name_column(codes, names),
            "cluster_id": ints(profiles, "cluster_id")[of_profile],
            **columns,
        }
    )


def _sums_by_row(
    rewards: pa.Table,
    order: IntArray,
    rows: IntArray,
    n: int,
    config: RewardConfig,
    now: int,
) -> dict[str, npt.NDArray[np.generic] | pa.Array[Any]]:
    """CLUSTER_TALLIES but for its key: the records `order` added to the (n,) `rows`, in order."""
    decay = half_life_weights(ints(rewards, "as_of"), now, config.half_life_days)[order]
    columns: dict[str, npt.NDArray[np.generic] | pa.Array[Any]] = {}
    for s in SUMS:
        values = floats(rewards, s)[order] * (decay**2 if s.startswith("w2") else decay)
        weight = floats(rewards, "draw_w" if s == "draw_w" else "w")[order] * decay
        alive = np.where(weight >= config.prune_below, values, 0.0)
        columns[s] = np.bincount(rows, alive, minlength=n)
    for c in ("impressions", "draws"):
        counts = np.zeros(n, np.int64)
        np.add.at(counts, rows, ints(rewards, c)[order])
        columns[c] = counts
    last_at = np.full(n, NEVER, np.int64)
    np.maximum.at(last_at, rows, last_times(rewards)[order])
    return columns | {"last_at": pa.array(last_at, mask=last_at == NEVER).cast(TIMESTAMP)}


def roll_up_cluster_rewards(
    inputs: RollUpInputs,
    config: RewardConfig,
    *,
    now: int,
    surfaces: Sequence[str],
    value_range: tuple[float, float],
) -> pa.Table:
    """CLUSTER_REWARDS: a row per user, surface and cluster of PROFILES.

    Args:
        inputs: Tables of the bucket, the prior, and the configured actions, of which the positive
            ones are counted for the policy `counts`.
        config: As for the tally.
        now: The cut-off, microseconds.
        surfaces: Where to.
        value_range: (lo, hi) of an outcome's value; rewards are in its unit.
    """
    profiles = _in_key_order(inputs.profiles)
    tallies = roll_up_tallies(
        inputs.rewards, profiles, inputs.items, config, now=now, surfaces=surfaces
    )
    arms = _arm_column(ints(tallies, "user_id"), inputs.experiment)
    estimates = _estimates(tallies, _prior_columns(tallies, arms, inputs.prior), config, now)
    rows, _ = _layout(group_offsets(ints(profiles, "user_id")), len(set(surfaces)))
    counts = counts_matrix(profiles["action_counts"], len(inputs.actions))
    positive = np.array([a.positive for a in inputs.actions])
    return CLUSTER_REWARDS.build(
        {
            **{c: tallies[c] for c in ("user_id", "surface", "cluster_id")},
            "arm": arms,
            "query_type": name_column(np.zeros(len(rows), np.int64), ["item"]),
            "query_id": ints(profiles, "medoid_item_id")[rows],
            "importance": floats(profiles, "importance")[rows],
            "actions": counts[:, positive].sum(axis=1)[rows],
            "weight": tallies["w"],
            "draws": tallies["draw_w"],
            **_reward_columns(tallies, estimates, value_range),
        }
    )


def _reward_columns(
    tallies: pa.Table, estimates: _Estimates, value_range: tuple[float, float]
) -> dict[str, Any]:
    """The columns of CLUSTER_REWARDS that say what a cluster is worth, in units of value."""
    lo, hi = value_range
    seen, prior = estimates.seen, estimates.prior
    low, high = _interval(estimates)
    reward = lo + (hi - lo) * estimates.reward
    source = np.where(seen, 0, np.where(estimates.own > 0, 1, 2))
    more, per_draw = prior["draw_strength"], prior["per_draw"]
    brought = (floats(tallies, "drawn_w") + more * per_draw) / (floats(tallies, "draw_w") + more)
    return {
        "effective_n": estimates.kish,
        "raw_rate": pa.array(lo + (hi - lo) * estimates.rate, mask=~seen),
        "reward": reward,
        "low": lo + (hi - lo) * low,
        "high": lo + (hi - lo) * high,
        "prior_source": name_column(source, ["observed", "user average", "global average"]),
        "prior_mean": lo + (hi - lo) * estimates.user,
        "prior_strength": prior["strength"],
        "posterior_a": estimates.a,
        "posterior_b": estimates.b,
        "reward_per_draw": pa.array(brought * reward, mask=np.isnan(per_draw)),
    }


def _estimates(
    tallies: pa.Table, prior: dict[str, FloatArray], config: RewardConfig, now: int
) -> _Estimates:
    """The formulas of this module's head, over the clusters of every user and surface."""
    w, w2 = floats(tallies, "w"), floats(tallies, "w2")
    m, k, top = prior["mean"], prior["strength"], prior["user_strength"]
    seen = (w > 0) & (w2 > 0)
    rate = np.divide(floats(tallies, "wy"), w, where=seen, out=np.zeros(len(w)))
    s = np.where(seen, k * w / (k + w), 0.0)
    bounds = _user_bounds(tallies)
    own, earned = _spread(s, bounds), _spread(s * rate, bounds)
    user = np.where(own > 0, (earned + top * m) / (own + top), m)
    reward = np.where(seen, (w * rate + k * user) / (w + k), user)
    shown_at = np.where(seen, last_times(tallies), now)
    fresh = half_life_weights(shown_at, now, config.half_life_days)
    kish = np.divide(w * w, w2, where=seen, out=np.zeros(len(w)))
    n = kish * fresh
    mean = np.where(seen, (n * rate + k * user) / (n + k), user)
    total = prior["trials"] / (1.0 / (n + k) + (k / (n + k)) ** 2 / (own + top))
    least = 1e-12  # a Beta needs both above 0
    return _Estimates(
        prior=prior,
        seen=seen,
        rate=rate,
        kish=kish,
        user=user,
        own=own,
        reward=reward,
        a=np.maximum(mean * total, least),
        b=np.maximum((1.0 - mean) * total, least),
    )


def _interval(estimates: _Estimates) -> tuple[FloatArray, FloatArray]:
    """(n,) bounds of the central 95 % of the posterior; clusters without a record share theirs."""
    a, b = estimates.a, estimates.b
    again = np.zeros(len(a), bool)
    again[1:] = (a[1:] == a[:-1]) & (b[1:] == b[:-1])
    place = np.cumsum(~again) - 1
    a, b = a[~again], b[~again]
    return betaincinv(a, b, _TAIL)[place], betaincinv(a, b, 1 - _TAIL)[place]


def _prior_columns(tallies: pa.Table, arms: pa.Array[Any], prior: Prior) -> dict[str, FloatArray]:
    """Each row's m, k, K, trials, per_draw (NaN where None) and draw_strength."""
    arm_column = pa.chunked_array([arms], pa.string())
    surfaces, names = names_in(tallies["surface"]), names_in(arm_column)
    pairs = [prior.of(s, a) for s in surfaces for a in names]
    code = name_codes(tallies["surface"], surfaces) * len(names)
    code += name_codes(arm_column, names)
    fields = ("mean", "strength", "user_strength", "trials", "per_draw", "draw_strength")
    return {f: np.array([getattr(p, f) for p in pairs], np.float64)[code] for f in fields}


def _arm_column(user_ids: IntArray, experiment: Experiment | None) -> pa.Array[Any]:
    if experiment is None:
        return name_column(np.zeros(len(user_ids), np.int64), [""])
    return name_column(arms_of(user_ids, experiment), [a.name for a in experiment.arms])


def _in_key_order(profiles: pa.Table) -> pa.Table:
    users, clusters = ints(profiles, "user_id"), ints(profiles, "cluster_id")
    rising = users[1:] > users[:-1]
    rising |= (users[1:] == users[:-1]) & (clusters[1:] > clusters[:-1])
    return profiles if rising.all() else sort_rows(profiles, PROFILES.key)


def _layout(bounds: IntArray, n_surfaces: int) -> tuple[IntArray, IntArray]:
    """For every row by (user, surface, cluster): its row of PROFILES, and its surface's code."""
    sizes = np.repeat(np.diff(bounds), n_surfaces)
    starts = np.repeat(bounds[:-1], n_surfaces)
    ends = np.cumsum(sizes)
    rows = np.arange(int(sizes.sum())) - np.repeat(ends - sizes - starts, sizes)
    codes = np.tile(np.arange(n_surfaces), len(bounds) - 1)
    return rows, np.repeat(codes, sizes)


def _user_bounds(tallies: pa.Table) -> IntArray:
    """(g + 1,) bounds of the clusters of one user and surface; rows are in key order."""
    users, surface = ints(tallies, "user_id"), tallies["surface"]
    codes = name_codes(surface, names_in(surface))
    return key_bounds(users, codes[:, None])


def _spread(values: FloatArray, bounds: IntArray) -> FloatArray:
    """(n,) float64: the sum over each row's group."""
    if len(values) == 0:
        return values
    return np.repeat(np.add.reduceat(values, bounds[:-1]), np.diff(bounds))
