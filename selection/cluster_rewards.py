"""Step 3, second pass: the records of queries become the rewards of tonight's clusters.

With n = w and V = wy of a cluster's records (`cluster_tallies`) and the prior's m, k, K (design,
section 4, Reward):

    s_c = k n_c / (k + n_c),  m_u = (sum_c s_c V_c / n_c + K m) / (sum_c s_c + K)
    r_c = (V_c + k m_u) / (n_c + k);  without a record r_c = m_u, or m where the user has none

The posterior that Thompson sampling and the interval use goes by Kish's count n' = w^2 / w2, faded
by the age of the latest impression, so that a cluster not shown for long is as uncertain as a new
one (fading: ours):

    mean (n' V_c / n_c + k m_u) / (n' + k),  variance sigma^2 / e,
    1 / e = 1 / (n' + k) + (k / (n' + k))^2 / (sum_c s_c + K)

where the second part is what is not known of m_u; a Beta of that mean and a + b = e * trials has
that variance (`RatePrior.trials`; for yes-or-no outcomes 1, and a, b are counts of yes and no).

In arms with `prior: evidence`, p_c of `selection.evidence` stands for m_u and its `strength` for k,
without that second part, and the posterior's mean is r_c itself: it is what `reward_odds` weighs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import betaincinv

from profiling.actions import Actions, counts_matrix
from profiling.decay import half_life_weights
from profiling.items import Items
from profiling.schema import (
    FloatArray,
    IntArray,
    floats,
    group_offsets,
    ints,
)
from selection.cluster_tallies import cluster_layout, in_key_order, roll_up_tallies
from selection.evidence import (
    Evidence,
    EvidenceInputs,
    QueryGroups,
    no_evidence,
    weigh_evidence,
)
from selection.experiments import Experiment, arms_of, fit_arms
from selection.keys import key_bounds, name_codes, name_column, names_in
from selection.prior import Prior
from selection.rewards import RewardConfig, last_times
from selection.tables import CLUSTER_REWARDS

_TAIL = 0.025  # on each side of the interval


@dataclass(frozen=True)
class RollUpInputs:
    """What the second pass needs of one bucket of users, and the prior fitted over all.

    `evidence`: for the arms that lean on it; None where none does.
    """

    profiles: pa.Table
    rewards: pa.Table
    items: Items
    prior: Prior
    actions: Actions
    experiment: Experiment | None = None
    evidence: EvidenceInputs | None = None


@dataclass(frozen=True)
class _Records:
    """Per cluster, in units of y, (n,) each: the names of this module's head.

    `seen`: has a record; `rate` = V_c / n_c and `kish` = w^2 / w2, 0 without; `user` = m_u; `own` =
    sum_c s_c.
    """

    prior: dict[str, FloatArray]
    seen: npt.NDArray[np.bool_]
    weight: FloatArray
    rate: FloatArray
    kish: FloatArray
    user: FloatArray
    own: FloatArray


@dataclass(frozen=True)
class _Estimates:
    """Per cluster, (n,) each: what it leans on (m_u or p_c, k or `strength`), and what comes out.

    In units of y; `weight` in impressions.
    """

    centre: FloatArray
    strength: FloatArray
    reward: FloatArray
    a: FloatArray
    b: FloatArray


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
    profiles = in_key_order(inputs.profiles)
    tallies = roll_up_tallies(
        inputs.rewards, profiles, inputs.items, config, now=now, surfaces=surfaces
    )
    rows, _ = cluster_layout(group_offsets(ints(profiles, "user_id")), len(set(surfaces)))
    medoids = ints(profiles, "medoid_item_id")[rows]
    arms = _arm_column(ints(tallies, "user_id"), inputs.experiment)
    records = _records(tallies, _prior_columns(tallies, arms, inputs.prior))
    evidence = no_evidence(tallies.num_rows)
    if inputs.evidence is not None:
        groups = _query_groups(tallies, arms, records, medoids, inputs)
        evidence = weigh_evidence(
            groups,
            inputs.evidence,
            inputs.items,
            now=now,
            half_life_days=config.half_life_days,
            value_range=value_range,
        )
    estimates = _estimates(tallies, records, evidence, config, now)
    counts = counts_matrix(profiles["action_counts"], len(inputs.actions))
    positive = np.array([a.positive for a in inputs.actions])
    return CLUSTER_REWARDS.build(
        {
            **{c: tallies[c] for c in ("user_id", "surface", "cluster_id")},
            "arm": arms,
            "query_type": name_column(np.zeros(len(rows), np.int64), ["item"]),
            "query_id": medoids,
            "importance": floats(profiles, "importance")[rows],
            "actions": counts[:, positive].sum(axis=1)[rows],
            "weight": tallies["w"],
            "draws": tallies["draw_w"],
            "last_chance": tallies["last_chance"],
            **_reward_columns(tallies, records, evidence, estimates, value_range),
        }
    )


def _reward_columns(
    tallies: pa.Table,
    records: _Records,
    evidence: Evidence,
    estimates: _Estimates,
    value_range: tuple[float, float],
) -> dict[str, Any]:
    """The columns of CLUSTER_REWARDS that say what a cluster is worth, in units of value."""
    lo, hi = value_range
    seen, prior = records.seen, records.prior
    low, high = _interval(estimates)
    reward = lo + (hi - lo) * estimates.reward
    source = np.where(records.own > 0, 1, 2)
    source = np.where(seen, 0, np.where(evidence.used, 3, source))
    sources = ["observed", "user average", "global average", "evidence"]
    more, per_draw = prior["draw_strength"], prior["per_draw"]
    brought = (floats(tallies, "drawn_w") + more * per_draw) / (floats(tallies, "draw_w") + more)
    unused = ~evidence.used
    return {
        "effective_n": records.kish,
        "raw_rate": pa.array(lo + (hi - lo) * records.rate, mask=~seen),
        "reward": reward,
        "low": lo + (hi - lo) * low,
        "high": lo + (hi - lo) * high,
        "prior_source": name_column(source, sources),
        "prior_mean": lo + (hi - lo) * estimates.centre,
        "prior_strength": estimates.strength,
        "posterior_a": estimates.a,
        "posterior_b": estimates.b,
        "reward_per_draw": pa.array(brought * reward, mask=np.isnan(per_draw)),
        "prior": name_column(evidence.used.astype(np.int64), ["average", "evidence"]),
        "own_evidence": pa.array(lo + (hi - lo) * evidence.own, mask=unused),
        "item_evidence": pa.array(lo + (hi - lo) * evidence.item, mask=unused),
    }


def _records(tallies: pa.Table, prior: dict[str, FloatArray]) -> _Records:
    """What the clusters of every user and surface have on record, and their user's mean."""
    w, w2 = floats(tallies, "w"), floats(tallies, "w2")
    m, k, top = prior["mean"], prior["strength"], prior["user_strength"]
    seen = (w > 0) & (w2 > 0)
    rate = np.divide(floats(tallies, "wy"), w, where=seen, out=np.zeros(len(w)))
    s = np.where(seen, k * w / (k + w), 0.0)
    bounds = _user_bounds(tallies)
    own, earned = _spread(s, bounds), _spread(s * rate, bounds)
    kish = np.divide(w * w, w2, where=seen, out=np.zeros(len(w)))
    user = np.where(own > 0, (earned + top * m) / (own + top), m)
    return _Records(prior, seen, w, rate, kish, user, own)


def _query_groups(
    tallies: pa.Table,
    arms: pa.Array[Any],
    records: _Records,
    medoids: IntArray,
    inputs: RollUpInputs,
) -> QueryGroups:
    """Tonight's queries as the evidence is asked for them."""
    bounds, names = _user_bounds(tallies), names_in(tallies["surface"])
    first = bounds[:-1]
    users = ints(tallies, "user_id")[first]
    return QueryGroups(
        bounds=bounds,
        users=users,
        surfaces=name_codes(tallies["surface"], names)[first],
        surface_names=names,
        arms=np.array(arms.take(pa.array(first)).to_pylist(), str),
        fits=fit_arms(users, inputs.experiment),
        queries=inputs.items.rows_of(medoids),
        mean=records.prior["mean"],
        user_mean=records.user,
    )


def _estimates(
    tallies: pa.Table, records: _Records, evidence: Evidence, config: RewardConfig, now: int
) -> _Estimates:
    """The formulas of this module's head, over the clusters of every user and surface."""
    w, rate, seen, prior = records.weight, records.rate, records.seen, records.prior
    used, top = evidence.used, prior["user_strength"]
    centre = np.where(used, evidence.prior, records.user)
    k = np.where(used, evidence.strength, prior["strength"])
    reward = np.where(seen, (w * rate + k * centre) / (w + k), centre)
    shown_at = np.where(seen, last_times(tallies), now)
    fresh = half_life_weights(shown_at, now, config.half_life_days)
    n = records.kish * fresh
    mean = np.where(seen & ~used, (n * rate + k * centre) / (n + k), reward)
    unknown = np.where(used, 0.0, (k / (n + k)) ** 2 / (records.own + top))
    total = prior["trials"] / (1.0 / (n + k) + unknown)
    least = 1e-12  # a Beta needs both above 0
    return _Estimates(
        centre=centre,
        strength=k,
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
