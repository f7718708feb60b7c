"""How far each part of the evidence is trusted: its slopes, fitted over all users.

On some feeds what a user did with items like the query says much, on others nothing (KuaiRec's
captions), so how far to trust it is found out. Each impression i of a user, value y_i and weight
x_i, is foretold as if its item were a query, from all else that is known:

    m_i = (sum_j x_j y_j + S m) / (sum_j x_j + S)   over the user's impressions j of other items
    f_i = (logit h_i - logit m_i, logit G_i - mean of logit G over the user's impressions)
    H = sum_i x_i v_i f_i f_i',  g = sum_i x_i f_i (y_i - m_i),  v_i = m_i (1 - m_i)

h and G as in `selection.evidence`, with m_i for m_u; S is `item_strength`. The first step of Fisher
scoring from no trust at all is H^-1 g, the slopes of a logistic regression with offset logit m_i;
and the configured slopes b0 enter as `slope_strength` impressions of average information would:

    b = (H + D)^-1 (g + D b0),  D = diag(H) * slope_strength / sum_i x_i,  held to [0, SLOPE_HIGH]

H and g add up over users and buckets, so one pass is enough. A night is chosen with the slopes that
the night before it could fit: they come with its item rates, and nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from profiling.schema import FloatArray, IntArray, ints
from selection.cluster_rewards import RollUpInputs
from selection.evidence import (
    EvidenceConfig,
    EvidenceInputs,
    QueryGroups,
    ShownItems,
    Slopes,
    item_evidence,
    logit,
    own_evidence,
    shown_items,
)
from selection.experiments import Experiment, arm_names, fit_arms
from selection.prior import Prior
from selection.rewards import RewardConfig

SLOPE_HIGH = 8.0
NEWEST = 200  # impressions of a user that are foretold: the pairs grow with their square
_SUMS = ("users", "weight", "own_own", "own_item", "item_item", "own_y", "item_y")


def slope_sums(
    inputs: RollUpInputs,
    config: RewardConfig,
    *,
    now: int,
    surfaces: Sequence[str],
    value_range: tuple[float, float],
) -> list[dict[str, float]]:
    """H and g of one bucket of users; arguments as in `roll_up_cluster_rewards`.

    Returns:
        One row of `users` and their `weight`, H (`own_own`, `own_item`, `item_item`) and g
        (`own_y`, `item_y`); none where no arm leans on evidence.
    """
    evidence, items, half_life = inputs.evidence, inputs.items, config.half_life_days
    if evidence is None:
        return []
    groups = _groups(evidence, inputs.prior, inputs.experiment, sorted(set(surfaces)))
    mine = np.isin(groups.arms, sorted(evidence.arms))
    shown = shown_items(groups, evidence.outcomes, items, mine, now, half_life, value_range)
    several = np.diff(shown.bounds) > 1  # one impression alone has nothing to be foretold from
    targets, bounds = _newest(shown.bounds, several)
    mean = np.repeat(groups.mean, np.diff(bounds))
    around = _others_mean(shown, targets, bounds, mean, evidence.config.item_strength)
    asked = replace(groups, bounds=bounds, queries=shown.rows[targets], mean=mean, user_mean=around)
    own = logit(own_evidence(asked, shown, items, evidence.config)) - logit(around)
    item = logit(item_evidence(asked, evidence, items, now, half_life))
    item -= _spread_mean(item, bounds)
    x, rest = shown.weights[targets], shown.values[targets] - around
    heavy = x * around * (1.0 - around)
    terms = (x, heavy * own * own, heavy * own * item, heavy * item * item,
             x * own * rest, x * item * rest)  # fmt: skip
    users = len(np.unique(groups.users[several]))
    return [dict(zip(_SUMS, (float(users), *(float(t.sum()) for t in terms)), strict=True))]


def fit_slopes(sums: Sequence[Mapping[str, float]], config: EvidenceConfig) -> Slopes:
    """The slopes of all users; the configured ones where nothing is known.

    Args:
        sums: Of every bucket, in the buckets' order, in which they are added.
        config: The configured slopes, and how many impressions they are worth.
    """
    total = {name: sum(s[name] for s in sums) for name in _SUMS}
    if total["weight"] <= 0 or np.isinf(config.slope_strength):
        return Slopes(config.own_weight, config.item_weight)
    start = np.array([config.own_weight, config.item_weight])
    h = np.array([[total["own_own"], total["own_item"]], [total["own_item"], total["item_item"]]])
    g = np.array([total["own_y"], total["item_y"]])
    d = np.diag(h) * config.slope_strength / total["weight"]
    known = np.diag(h) > 0
    slopes = np.where(known, 0.0, start)
    free = np.flatnonzero(known)
    while len(free):  # a slope below 0 is held there, and the other fitted without it
        part = np.ix_(free, free)
        left, right = h[part] + np.diag(d[free]), g[free] + d[free] * start[free]
        slopes[free] = np.linalg.lstsq(left, right, rcond=None)[0]
        if (slopes[free] >= 0).all():
            break
        slopes[free] = np.maximum(slopes[free], 0.0)
        free = free[slopes[free] > 0]
    own, item = np.minimum(slopes, SLOPE_HIGH).round(9).tolist()
    return Slopes(own, item, int(total["users"]), total["weight"])


def _groups(
    inputs: EvidenceInputs, prior: Prior, experiment: Experiment | None, surfaces: list[str]
) -> QueryGroups:
    """Every user with an outcome, on each surface; no queries yet."""
    users = np.unique(ints(inputs.outcomes, "user_id"))
    fits, s = fit_arms(users, experiment), len(surfaces)
    means = [[prior.of(surface, arm).mean for surface in surfaces] for arm in fits.tolist()]
    return QueryGroups(
        bounds=np.zeros(len(users) * s + 1, np.int64),
        users=np.repeat(users, s),
        surfaces=np.tile(np.arange(s), len(users)).astype(np.int64),
        surface_names=surfaces,
        arms=np.repeat(arm_names(users, experiment), s),
        fits=np.repeat(fits, s),
        queries=np.zeros(0, np.int64),
        mean=np.array(means, np.float64).reshape(-1),
        user_mean=np.zeros(0),
    )


def _newest(bounds: IntArray, several: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """Places of the newest impressions of each group that has several, and their bounds."""
    sizes = np.where(several, np.minimum(np.diff(bounds), NEWEST), 0)
    new = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    places = np.arange(new[-1]) - np.repeat(new[1:], sizes) + np.repeat(bounds[1:], sizes)
    return places.astype(np.int64), new


def _others_mean(
    shown: ShownItems, targets: IntArray, bounds: IntArray, mean: FloatArray, strength: float
) -> FloatArray:
    """m_i of each target: the mean of its user's impressions of other items, shrunk to m."""
    group = np.repeat(np.arange(len(shown.bounds) - 1), np.diff(shown.bounds))
    pairs = group * (shown.rows.max(initial=0) + 1) + shown.rows
    _, same = np.unique(pairs, return_inverse=True)
    weighed = shown.weights * shown.values
    mine = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))

    def others(values: FloatArray) -> FloatArray:
        whole = np.bincount(group, values, minlength=len(bounds) - 1)
        return np.asarray(whole[mine] - np.bincount(same, values)[same[targets]])

    if len(targets) == 0:
        return np.zeros(0)
    return (others(weighed) + strength * mean) / (others(shown.weights) + strength)


def _spread_mean(values: FloatArray, bounds: IntArray) -> FloatArray:
    """(n,) the mean of each row's group."""
    sizes = np.diff(bounds)
    group = np.repeat(np.arange(len(sizes)), sizes)
    sums = np.bincount(group, values, minlength=len(sizes))
    return np.asarray((sums / np.maximum(sizes, 1))[group])
