"""Conditional Poisson sampling: k of n clusters without replacement, every probability known.

The design of greatest entropy among those of fixed size k with given inclusion probabilities
(Hajek 1981; Chen, Dempster, Liu 1994, Biometrika 81): `P(S) = prod_{i in S} w_i / e_k(w)`.

Groups (a user on a surface) lie one after another in the rows; `offsets`, (g + 1,) int64, are their
bounds. What a group gets depends on its own rows and key alone, bit for bit.

Targets, from policy weights: `pi_i = min(1, lambda weight_i)` with sum k (what exceeds 1 is capped
and the rest shared again), then `t_i = (1 - floor) pi_i + floor k / n`: the floor spreads that
share of the draws evenly, keeps the sum at k and gives every cluster at least `floor k / n`. Where
k >= n all are taken. Where fewer than k weights are above 0, those are taken surely and the
rest of the k is spread evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from profiling.compiling import njit
from profiling.hashing import UIntArray, hash63, hash64, hash64_of, mix64
from profiling.schema import FloatArray, IntArray
from selection.conditional_poisson import Groups, draw_groups

NEGLIGIBLE = 1e-30  # of the largest weight: less counts as 0 (sums carry some 32 digits)
_EPOCH = date(1970, 1, 1)
SEQUENCE, SLOT, DRAW_ID = 1, 2, 3  # what a hash of a key is for


@dataclass(frozen=True)
class DrawRequest:
    """What a draw is for; its randomness is a hash of these and of nothing else.

    Attributes:
        seed: Of the warehouse.
        user_id: For whom.
        run_date: The night whose rewards the weights come from.
        surface: Where.
        salt: Of the experiment.
        request_id: The request, where a draw is made per request; None for the night's.
    """

    seed: int
    user_id: int
    run_date: date
    surface: str
    salt: str = ""
    request_id: str | None = None


@dataclass(frozen=True)
class Draw:
    """One user's queries, in slot order.

    Attributes:
        indices: (k,) int64 places in the weights.
        propensities: (k,) float64 inclusion probability of each.
        set_probability: P(S) of them all together.
        draw_ids: (k,) int64, to be echoed by the serving system.
    """

    indices: IntArray
    propensities: FloatArray
    set_probability: float
    draw_ids: IntArray


@dataclass(frozen=True)
class Sets:
    """The drawn sets of g groups.

    Attributes:
        offsets: (g + 1,) int64: group i drew `rows[offsets[i]:offsets[i + 1]]`.
        rows: (d,) int64 rows of the weights, in slot order.
        set_probabilities: (g,) float64.
        propensities: (n,) float64 inclusion probability of every row, drawn or not.
    """

    offsets: IntArray
    rows: IntArray
    set_probabilities: FloatArray
    propensities: FloatArray


def draw_queries(weights: npt.ArrayLike, k: int, floor: float, request: DrawRequest) -> Draw:
    """Draw k of one user's clusters: what `select_queries` draws of the same weights.

    Args:
        weights: (n,) policy weights, by ascending cluster id; finite, >= 0.
        k: Queries wanted; min(k, n) are drawn.
        floor: Share of the draws that is spread evenly over the clusters, in [0, 1].
        request: What the draw is for.

    Raises:
        ValueError: A weight is negative or not finite, k < 1, or the floor is no share.
    """
    values = np.ascontiguousarray(weights, np.float64)
    key = _draw_key(request)
    bounds = np.array([0, len(values)], np.int64)
    keys = np.array([key], np.uint64)
    sets = sample_sets(bounds, values, np.array([k]), np.array([floor], np.float64), keys)
    ids = [max(hash64_of(key, DRAW_ID, slot) >> 1, 1) for slot in range(len(sets.rows))]
    propensities = sets.propensities[sets.rows]
    return Draw(sets.rows, propensities, float(sets.set_probabilities[0]), np.array(ids, np.int64))


def draw_keys(request: DrawRequest, user_ids: IntArray, surfaces: UIntArray) -> UIntArray:
    """(g,) uint64 keys of the groups' randomness.

    Args:
        request: Seed, date, salt and request; its user and surface are not used.
        user_ids: (g,) int64.
        surfaces: (g,) or (1,) uint64 `hash64` of the surface's name.
    """
    day = np.datetime64(request.run_date, "D").astype(np.int64)
    per_request = () if request.request_id is None else (request.request_id,)
    head = ("selection", request.seed, request.salt, day)
    return hash64(*head, user_ids, surfaces, *per_request)


def _draw_key(request: DrawRequest) -> int:
    """`draw_keys` of one user; `draw_queries` names its draws as `draw_ids` does."""
    day = (request.run_date - _EPOCH).days
    per_request = () if request.request_id is None else (request.request_id,)
    head = ("selection", request.seed, request.salt, day)
    return hash64_of(*head, request.user_id, hash64_of(request.surface), *per_request)


def draw_ids(keys: UIntArray, slots: IntArray) -> IntArray:
    """(d,) int64 ids, >= 1, of the draws of each key and slot."""
    return hash63(keys, DRAW_ID, slots)


def inclusion_targets(
    offsets: IntArray, weights: FloatArray, k: IntArray, floor: FloatArray
) -> FloatArray:
    """(n,) float64 inclusion probabilities that a draw is calibrated to (module docstring)."""
    _check(weights, k, floor)
    t, u = np.empty(len(weights)), np.empty(len(weights))
    _fill_targets(offsets, weights, k, floor, t, u)
    return t


def sample_sets(
    offsets: IntArray, weights: FloatArray, k: IntArray, floor: FloatArray, keys: UIntArray
) -> Sets:
    """min(k, n) rows of every group, slots permuted by hash.

    Args:
        offsets: (g + 1,) int64 bounds of the groups in the rows.
        weights: (n,) float64, finite, >= 0.
        k: (g,) int64 draws wanted.
        floor: (g,) float64 in [0, 1].
        keys: (g,) uint64 of `draw_keys`.

    Raises:
        ValueError: A weight is negative or not finite, k < 1, or a floor is no share.
    """
    _check(weights, k, floor)
    t, u = np.empty(len(weights)), np.empty(len(weights))
    free, left = _fill_targets(offsets, weights, k, floor, t, u)
    bounds = np.r_[0, np.cumsum(np.minimum(k, np.diff(offsets)))].astype(np.int64)
    sequence, slot = stream_states(keys, SEQUENCE), stream_states(keys, SLOT)
    groups = Groups(offsets, t, u, free, left, bounds, sequence, slot)
    order = np.argsort(left * (free.max(initial=0) + 1) + free, kind="stable")
    rows, chances = np.empty(bounds[-1], np.int64), np.ones(len(keys))
    draw_groups(groups, order, rows, chances)
    return Sets(bounds, rows, chances, t)


def stream_states(keys: UIntArray, purpose: int) -> UIntArray:
    """(g,) uint64 from which `hash_of(state, i)` is `hash64(key, purpose, i)`."""
    return mix64(mix64(mix64(np.uint64(3)) ^ keys) ^ np.uint64(purpose))


def _check(weights: FloatArray, k: IntArray, floor: FloatArray) -> None:
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise ValueError(
            f"weights must be finite and >= 0, got {weights[bad[0]]} in row {bad[0]}; "
            "look at the rewards and the exponents that made it"
        )
    if len(k) and k.min() < 1:
        raise ValueError(f"queries must be >= 1, got {k.min()}")
    if len(floor) and not (floor.min() >= 0 and floor.max() <= 1):
        raise ValueError(f"floor must be in [0, 1], got {floor.min()} to {floor.max()}")


@njit(cache=True, nogil=True)
def _fill_targets(
    offsets: IntArray,
    weights: FloatArray,
    k: IntArray,
    floor: FloatArray,
    t: FloatArray,
    u: FloatArray,
) -> tuple[IntArray, IntArray]:
    """Fill targets t and u = 1 - t; count the clusters left to chance and the draws among them."""
    n_groups = len(offsets) - 1
    free, left = np.zeros(n_groups, np.int64), np.zeros(n_groups, np.int64)
    for g in range(n_groups):
        lo, hi = offsets[g], offsets[g + 1]
        n = hi - lo
        if k[g] >= n:
            t[lo:hi] = 1.0
            u[lo:hi] = 0.0
            continue
        _share(weights[lo:hi], k[g], t[lo:hi], u[lo:hi])
        left[g] = k[g]
        for i in range(lo, hi):
            t[i] = (1.0 - floor[g]) * t[i] + floor[g] * (k[g] / n)
            u[i] = (1.0 - floor[g]) * u[i] + floor[g] * ((n - k[g]) / n)
            left[g] -= u[i] == 0.0
            free[g] += t[i] > 0.0 and u[i] > 0.0
    return free, left


@njit(cache=True, nogil=True)
def _share(weights: FloatArray, k: int, t: FloatArray, u: FloatArray) -> None:
    """Targets t proportional to the weights with sum k < n, capped at 1; u = 1 - t.

    Sums are kept in two floats (Knuth's two-sum, Dekker's product), so that u has its digits even
    where t is 1 - 1e-12: there they decide the probability of the sets without the cluster.
    """
    n, top = len(weights), weights.max()
    rest = k  # draws not yet taken by capped clusters
    t[:] = 0.0  # 1 marks a capped cluster
    while True:
        total, low, count, taken = 0.0, 0.0, 0, 0
        for i in range(n):
            if t[i] < 1.0:
                count += 1
                w = weights[i] / top if weights[i] > NEGLIGIBLE * top else 0.0
                both = total + w
                back = both - total
                low += (total - (both - back)) + (w - back)
                total = both
                u[i] = w
        if total == 0.0 or rest == 0:
            break
        for i in range(n):
            if t[i] < 1.0 and _excess(u[i], rest, total, low) <= NEGLIGIBLE * total:
                t[i], u[i] = 1.0, 0.0
                taken += 1
        rest -= taken
        if taken == 0:
            break
    for i in range(n):
        if t[i] < 1.0:
            w = u[i]
            t[i] = rest * w / total if total > 0.0 else rest / count
            u[i] = _excess(w, rest, total, low) / total if total > 0.0 else (count - rest) / count


@njit(cache=True, nogil=True)
def _excess(w: float, rest: int, total: float, low: float) -> float:
    """`total + low - rest * w`, exact to some 32 digits of total; rest < 2^26."""
    split = 134217729.0 * w
    high = split - (split - w)
    product = rest * w
    error = (rest * high - product) + rest * (w - high)
    difference = total - product
    back = difference - total
    return difference + ((total - (difference - back)) - (product + back) + (low - error))
