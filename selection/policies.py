"""What a cluster's selection weight is, by policy name.

| policy | weight |
|---|---|
| counts | positive engagements: the published system before its reward (Pinterest 2022) |
| importance | time-decayed size (PinnerSage, KDD 2020) |
| reward | `max(reward, eps)^beta` |
| reward_importance | `max(reward, eps)^beta * importance^gamma` |
| reward_odds | `(y / (1 - y))^beta`, y the posterior mean held to [eps, 1 - eps] |
| odds_importance | `(y / (1 - y))^beta * importance^gamma` |
| thompson | share of M posterior draws in which the cluster is among the best k |

Importance enters as the share of the user's sum on the surface. Where a user has no record on a
surface and the rewards are all equal, `reward`, `reward_odds` and `thompson` have nothing to go by
and fall back to counts (design, section 4).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from profiling.compiling import njit
from profiling.hashing import UIntArray
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, IntArray, floats, ints
from selection.conditional_poisson import hash_of, uniform_of
from selection.sampling import stream_states

POLICIES = (
    *("counts", "importance", "reward", "reward_importance"),
    *("reward_odds", "odds_importance", "thompson"),
)
_POSTERIOR = 4  # what a hash of a key is for; 1 to 3 are those of sampling
_ATTEMPTS = 64  # of rejection sampling, each accepted with probability > .95


@dataclass(frozen=True)
class SelectionConfig:
    """How an arm chooses its queries."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    policy: str = option("reward_importance", "what weighs a cluster", choices=POLICIES)
    prior: str = option(
        "average",
        "what an interest with no or few impressions of its own leans on. average: the user's "
        "average reward, the published rule; evidence: what the user did with items like the "
        "query, and everyone with items around it (section `evidence`)",
        choices=("average", "evidence"),
    )
    beta: float = option(
        2.0, "exponent of the reward, its sharpness (measured: 2 to 4)", low=0, high=64
    )
    gamma: float = option(1.0, "exponent of the importance share", low=0, high=64)
    eps: float = option(
        1e-4, "least reward that a weight is made of, value units", low=1e-12, high=0.5
    )
    floor: float = option(
        0.05,
        "share of the draws spread evenly over the clusters; later evaluation lives on it",
        low=0,
        high=1,
    )
    queries: int = option(3, "draws per user and surface (PinnerSage: 3)", low=1, high=1000)
    reward_per: str = option(
        "impression",
        "value per impression, or per draw where that is known",
        choices=("impression", "draw"),
    )
    thompson_samples: int = option(
        256, "posterior draws M behind a target inclusion", low=1, high=65536
    )
    topics: int = option(
        0, "topics of a query kept as conditions, the surest first; 0: all", low=0, high=1000
    )

    def __post_init__(self) -> None:
        check_options(self)


def policy_version(config: SelectionConfig) -> str:
    """Policy name and version, such as `reward/1f0c9a52`: the digest is of every field."""
    fields = json.dumps(asdict(config), sort_keys=True)
    return f"{config.policy}/{hashlib.blake2b(fields.encode(), digest_size=4).hexdigest()}"


def policy_weights(
    rows: pa.Table, offsets: IntArray, config: SelectionConfig, keys: UIntArray
) -> FloatArray:
    """(n,) float64 selection weights, floor and calibration not yet in them.

    Args:
        rows: (n,) rows of CLUSTER_REWARDS by (user, surface, cluster); the columns of the policy.
        offsets: (g + 1,) int64 bounds of the users on a surface.
        config: The policy and its exponents.
        keys: (g,) uint64 of `sampling.draw_keys`; only `thompson` draws.

    Raises:
        ValueError: A weight is not finite or negative; names the cluster.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        weights = _WEIGHTS[config.policy](rows, offsets, config, keys)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        row = rows.slice(int(bad[0]), 1).to_pylist()[0]
        raise ValueError(
            f"policy {config.policy} gives user {row.get('user_id')}, cluster "
            f"{row.get('cluster_id')} the weight {weights[bad[0]]}; it must be finite and >= 0. "
            f"Look at its row of CLUSTER_REWARDS (reward {row.get('reward')}, importance "
            f"{row.get('importance')}) and at beta {config.beta} and gamma {config.gamma}."
        )
    return weights


def _counts(rows: pa.Table, offsets: IntArray, config: SelectionConfig, _: UIntArray) -> FloatArray:
    return floats(rows, "actions")


def _importance(
    rows: pa.Table, offsets: IntArray, config: SelectionConfig, _: UIntArray
) -> FloatArray:
    return _shares(floats(rows, "importance"), offsets)


def _reward(rows: pa.Table, offsets: IntArray, config: SelectionConfig, _: UIntArray) -> FloatArray:
    weights = np.maximum(_rewards(rows, config), config.eps) ** config.beta
    return _or_counts(weights, rows, offsets)


def _reward_importance(
    rows: pa.Table, offsets: IntArray, config: SelectionConfig, _: UIntArray
) -> FloatArray:
    rewards = np.maximum(_rewards(rows, config), config.eps) ** config.beta
    return np.asarray(rewards * _shares(floats(rows, "importance"), offsets) ** config.gamma)


def _reward_odds(
    rows: pa.Table, offsets: IntArray, config: SelectionConfig, _: UIntArray
) -> FloatArray:
    return _or_counts(_odds(rows, config), rows, offsets)


def _odds_importance(
    rows: pa.Table, offsets: IntArray, config: SelectionConfig, _: UIntArray
) -> FloatArray:
    odds = _odds(rows, config)
    return np.asarray(odds * _shares(floats(rows, "importance"), offsets) ** config.gamma)


def _odds(rows: pa.Table, config: SelectionConfig) -> FloatArray:
    a, b = floats(rows, "posterior_a"), floats(rows, "posterior_b")
    mean = np.clip(a / (a + b), config.eps, 1.0 - config.eps)
    return np.asarray((mean / (1.0 - mean)) ** config.beta)


def _thompson(
    rows: pa.Table, offsets: IntArray, config: SelectionConfig, keys: UIntArray
) -> FloatArray:
    a, b = floats(rows, "posterior_a"), floats(rows, "posterior_b")
    bad = np.flatnonzero(~((a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)))
    if len(bad):
        raise ValueError(
            f"posterior_a and posterior_b must be finite and > 0 for thompson, got {a[bad[0]]} and "
            f"{b[bad[0]]} for user {ints(rows, 'user_id')[bad[0]]}; look at the prior"
        )
    states = stream_states(keys, _POSTERIOR)
    shares = np.empty(len(a))
    _top_shares(offsets, a, b, config.queries, config.thompson_samples, states, shares)
    return _or_counts(shares, rows, offsets)


_Policy = Callable[[pa.Table, IntArray, SelectionConfig, UIntArray], FloatArray]
_WEIGHTS: dict[str, _Policy] = {
    "counts": _counts,
    "importance": _importance,
    "reward": _reward,
    "reward_importance": _reward_importance,
    "reward_odds": _reward_odds,
    "odds_importance": _odds_importance,
    "thompson": _thompson,
}


def _rewards(rows: pa.Table, config: SelectionConfig) -> FloatArray:
    reward = floats(rows, "reward")
    if config.reward_per == "impression":
        return reward
    per_draw = floats(rows, "reward_per_draw")
    return np.where(np.isnan(per_draw), reward, per_draw)


def _shares(values: FloatArray, offsets: IntArray) -> FloatArray:
    """Each value over the sum of its group; 0 where that is 0."""
    if len(values) == 0:
        return values
    totals = np.add.reduceat(values, offsets[:-1])
    totals[totals == 0] = 1.0
    return np.asarray(values / np.repeat(totals, np.diff(offsets)))


def _or_counts(weights: FloatArray, rows: pa.Table, offsets: IntArray) -> FloatArray:
    """The weights; counts for the groups without a record whose rewards are all equal."""
    if len(weights) == 0:
        return weights
    starts, reward = offsets[:-1], floats(rows, "reward")
    equal = np.maximum.reduceat(reward, starts) == np.minimum.reduceat(reward, starts)
    empty = np.maximum.reduceat(floats(rows, "weight"), starts) == 0
    if not (equal & empty).any():
        return weights
    fall_back = np.repeat(equal & empty, np.diff(offsets))
    return np.asarray(np.where(fall_back, floats(rows, "actions"), weights))


@njit(cache=True, nogil=True)
def _top_shares(
    offsets: IntArray,
    a: FloatArray,
    b: FloatArray,
    k: int,
    samples: int,
    states: UIntArray,
    shares: FloatArray,
) -> None:
    """Share of the samples in which each cluster's Beta(a, b) draw is among its group's best k."""
    widest = np.max(np.diff(offsets)) if len(offsets) > 1 else 0
    scores, best = np.empty(widest), np.empty(k, np.int64)
    for g in range(len(offsets) - 1):
        lo, n = offsets[g], offsets[g + 1] - offsets[g]
        shares[lo : lo + n] = 0.0
        for m in range(samples):
            for i in range(n):
                state = hash_of(states[g], i * samples + m)
                scores[i] = beta_log_odds(a[lo + i], b[lo + i], state)
            for place in range(_best(scores[:n], best)):
                shares[lo + best[place]] += 1.0
        for i in range(n):
            shares[lo + i] /= samples


@njit(cache=True, nogil=True)
def _best(scores: FloatArray, best: IntArray) -> int:
    """Fill `best` with the places of the greatest scores, ties to the first; return how many."""
    count = 0
    for i in range(len(scores)):
        if count == len(best) and scores[i] <= scores[best[count - 1]]:
            continue
        at = count if count < len(best) else count - 1
        count = at + 1
        while at > 0 and scores[i] > scores[best[at - 1]]:
            best[at] = best[at - 1]
            at -= 1
        best[at] = i
    return count


@njit(cache=True, nogil=True)
def beta_log_odds(a: float, b: float, state: np.uint64) -> float:
    """`log(x / (1 - x))` of one x ~ Beta(a, b), a and b > 0.

    The ratio of two gamma variates, each by Marsaglia and Tsang (2000) on one half of a Box-Muller
    pair, with shapes below 1 lifted by `U^(1/shape)`; in logarithms, where small shapes would give
    0 / 0.
    """
    first, second, lift = a, b, 0.0
    if a < 1.0:
        first, lift = a + 1.0, math.log(uniform_of(state, 0)) / a
    if b < 1.0:
        second, lift = b + 1.0, lift - math.log(uniform_of(state, 1)) / b
    x, y = 0.0, 0.0  # gamma variates over their d
    for attempt in range(_ATTEMPTS):
        at = 2 + 4 * attempt
        radius = math.sqrt(-2.0 * math.log(uniform_of(state, at)))
        angle = 2.0 * math.pi * uniform_of(state, at + 1)
        if x == 0.0:
            x = _gamma_try(first, radius * math.cos(angle), uniform_of(state, at + 2))
        if y == 0.0:
            y = _gamma_try(second, radius * math.sin(angle), uniform_of(state, at + 3))
        if x > 0.0 and y > 0.0:
            break
    x, y = x if x > 0.0 else 1.0, y if y > 0.0 else 1.0
    return math.log((first - 1.0 / 3.0) * x / ((second - 1.0 / 3.0) * y)) + lift


@njit(cache=True, nogil=True)
def _gamma_try(shape: float, normal: float, uniform: float) -> float:
    """One v of Gamma(shape) = d v, d = shape - 1/3, shape >= 1; 0 where the try is rejected."""
    d = shape - 1.0 / 3.0
    root = 1.0 + normal / math.sqrt(9.0 * d)
    if root <= 0.0:
        return 0.0
    v, square = root * root * root, normal * normal
    if uniform < 1.0 - 0.0331 * square * square:
        return v
    return v if math.log(uniform) < 0.5 * square + d * (1.0 - v + math.log(v)) else 0.0
