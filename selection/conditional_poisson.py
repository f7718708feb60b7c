"""The kernels: calibrate conditional Poisson designs to given inclusion probabilities, and draw.

Finds w with `pi_i(w) = t_i`, the maximum of the concave `sum_i t_i log w_i - log e_k(w)`
(Chen, Dempster, Liu 1994, section 3), for LANES groups at a time: every array has the lanes last,
each lane is one group, and no number of one lane enters another, so a group's result does not
depend on its neighbours. Lanes with fewer clusters are filled up with p = 0, q = 1.

With `in_i` and `out_i` the probabilities that the trials of all clusters but i total k - 1 and k,
`pi_i = p_i in_i / (p_i in_i + q_i out_i)`. Both come from a prefix and a suffix table of positive
terms; taking cluster i out of the full total (leave-one-out) subtracts, and over wide weights loses
every digit. First a quasi-Newton step with Hajek's covariance, `diag(c) - c c' / sum c`; what has
not settled after FAST_STEPS goes on by coordinate ascent, which never steps down.

All in one file: numba's cache of a kernel does not notice a change of what it calls in another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.compiling import njit
from profiling.hashing import UIntArray
from profiling.schema import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

LANES = 32  # wide enough for the compiler to vectorise over them (measured: 8 and 16 are not)
TOLERANCE = 1e-10  # of the odds pi / (1 - pi), relative: tighter than the same in pi
FAST_STEPS = 12
MAX_STEPS = 400


class Lanes(NamedTuple):
    """Work space of `calibrate` for up to m clusters and k draws; float64, lanes last.

    Attributes:
        t: (m, LANES) targets; 0 where a lane has no such cluster.
        u: (m, LANES) 1 - t, exact.
        p: (m, LANES) trials found: p / q is the weight.
        q: (m, LANES) 1 - p, exact.
        damping: (m, LANES) exponent of the quasi-Newton step, 1 - c / sum c.
        ratio: (m, LANES) odds of the target over odds of pi.
        prefix: (m + 1, k + 1, LANES) P(trials of the first i total j).
        suffix: (k + 1, LANES) P(trials after i total k - j).
        within: (LANES,) `in` of the cluster at hand.
        without: (LANES,) `out` of the cluster at hand.
        gap: (LANES,) largest |ratio - 1|.
        total: (LANES,) scratch.
    """

    t: FloatArray
    u: FloatArray
    p: FloatArray
    q: FloatArray
    damping: FloatArray
    ratio: FloatArray
    prefix: FloatArray
    suffix: FloatArray
    within: FloatArray
    without: FloatArray
    gap: FloatArray
    total: FloatArray


class Groups(NamedTuple):
    """What the kernels know of all groups; t becomes the exact inclusion probability."""

    offsets: IntArray
    t: FloatArray
    u: FloatArray
    free: IntArray  # clusters with 0 < t < 1
    left: IntArray  # draws among these
    bounds: IntArray  # of the drawn rows
    sequence: UIntArray
    slot: UIntArray


@njit(cache=True, nogil=True)
def hash_of(state: np.uint64, index: int) -> np.uint64:
    """The kernels' twin of `profiling.hashing.hash64`, its last part."""
    z = (state ^ np.uint64(index)) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def uniform_of(state: np.uint64, index: int) -> float:
    """`profiling.hashing.uniforms`, its last part: in the open interval (0, 1)."""
    value = (np.float64(hash_of(state, index) >> np.uint64(11)) + 0.5) * 2.0**-53
    return min(value, 1.0 - 2.0**-53)


@njit(cache=True, nogil=True)
def draw_groups(groups: Groups, order: IntArray, rows: IntArray, chances: FloatArray) -> None:
    """Calibrate and draw, LANES groups of equally many draws at a time."""
    if len(order) == 0:
        return
    widest = groups.free.max()
    x = new_lanes(widest, groups.left.max())
    places = np.empty((widest, LANES), np.int64)
    first = 0
    while first < len(order):
        last = _calibrate_next(groups, order, first, x, places)
        for lane in range(last - first):
            _draw_lane(groups, order[first + lane], x, places, lane, rows, chances)
        first = last


@njit(cache=True, nogil=True)
def _calibrate_next(groups: Groups, order: IntArray, first: int, x: Lanes, places: IntArray) -> int:
    """Calibrate the groups from `first` on that share the lanes; the place after the last."""
    k, last = groups.left[order[first]], first + 1
    while last < min(first + LANES, len(order)) and groups.left[order[last]] == k:
        last += 1
    m = groups.free[order[last - 1]]
    if k > 0:
        _gather(groups, order[first:last], x, places, m)
        calibrate(x, m, k)
    return last


@njit(cache=True, nogil=True)
def weigh_groups(
    groups: Groups,
    order: IntArray,
    wanted: BoolArray,
    barred: BoolArray,
    held: BoolArray,
    chances: FloatArray,
    supported: FloatArray,
) -> None:
    """Calibrate as `draw_groups`, and weigh the wanted sets instead of drawing some."""
    if len(order) == 0:
        return
    widest = groups.free.max()
    x = new_lanes(widest, groups.left.max())
    places = np.empty((widest, LANES), np.int64)
    first = 0
    while first < len(order):
        last = _calibrate_next(groups, order, first, x, places)
        for lane in range(last - first):
            g = order[first + lane]
            chances[g] = _weigh_lane(groups, g, x, places, lane, wanted)
            supported[g] = _support_of_lane(groups, g, x, places, lane, barred, held)
            for i in range(groups.free[g]):
                row = places[i, lane]
                t, u = groups.t[row], groups.u[row]
                groups.t[row] = t / (t + u * x.ratio[i, lane])
        first = last


@njit(cache=True, nogil=True, error_model="numpy")
def _weigh_lane(
    groups: Groups, g: int, x: Lanes, places: IntArray, lane: int, wanted: BoolArray
) -> float:
    """P(S) of the wanted set: the product of `_draw_lane`, factor by factor, hence bit for bit."""
    for i in range(groups.offsets[g], groups.offsets[g + 1]):
        if (groups.u[i] == 0.0 and not wanted[i]) or (groups.t[i] == 0.0 and wanted[i]):
            return 0.0
    chance, r = 1.0, groups.left[g]
    for i in range(groups.free[g] - 1, -1, -1):
        inside = wanted[places[i, lane]]
        if (r == 0 and inside) or (i + 1 == r and not inside):
            return 0.0
        if r == 0:
            continue
        if inside:
            if i + 1 > r:
                chance *= x.p[i, lane] * x.prefix[i, r - 1, lane] / x.prefix[i + 1, r, lane]
            r -= 1
        else:
            chance *= x.q[i, lane] * x.prefix[i, r, lane] / x.prefix[i + 1, r, lane]
    return chance


@njit(cache=True, nogil=True, error_model="numpy")
def _support_of_lane(
    groups: Groups,
    g: int,
    x: Lanes,
    places: IntArray,
    lane: int,
    barred: BoolArray,
    held: BoolArray,
) -> float:
    """Probability of the sets with every held and no barred cluster: the prefix table again."""
    plain = True
    for i in range(groups.offsets[g], groups.offsets[g + 1]):
        plain = plain and not barred[i] and not held[i]
        if (groups.u[i] == 0.0 and barred[i]) or (groups.t[i] == 0.0 and held[i]):
            return 0.0
    if plain or groups.left[g] == 0:
        return 1.0
    m, k = groups.free[g], groups.left[g]
    totals = np.zeros(k + 1)
    totals[0] = 1.0
    for i in range(m):
        row = places[i, lane]
        p = 0.0 if barred[row] else x.p[i, lane]
        q = 0.0 if held[row] else x.q[i, lane]
        for j in range(k, -1, -1):
            totals[j] = q * totals[j] + (p * totals[j - 1] if j > 0 else 0.0)
    return min(totals[k] / x.prefix[m, k, lane], 1.0)


@njit(cache=True, nogil=True)
def _gather(groups: Groups, members: IntArray, x: Lanes, places: IntArray, m: int) -> None:
    x.t[:m] = 0.0
    x.u[:m] = 1.0
    for lane in range(len(members)):
        g, count = members[lane], 0
        for i in range(groups.offsets[g], groups.offsets[g + 1]):
            if groups.t[i] > 0.0 and groups.u[i] > 0.0:
                x.t[count, lane], x.u[count, lane] = groups.t[i], groups.u[i]
                places[count, lane] = i
                count += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_lane(
    groups: Groups,
    g: int,
    x: Lanes,
    places: IntArray,
    lane: int,
    rows: IntArray,
    chances: FloatArray,
) -> None:
    """One set, from the last cluster to the first, each taken with its conditional probability.

    `P(i | r left to draw among the first i + 1) = p_i P_i(r - 1) / P_{i+1}(r)`, P the prefix; the
    product over the decisions is P(S).
    """
    lo, drawn = groups.offsets[g], groups.bounds[g]
    for i in range(lo, groups.offsets[g + 1]):
        if groups.u[i] == 0.0:
            rows[drawn] = i
            drawn += 1
    chance, r = 1.0, groups.left[g]
    for i in range(groups.free[g] - 1, -1, -1):
        row = places[i, lane]
        t, u = groups.t[row], groups.u[row]
        groups.t[row] = t / (t + u * x.ratio[i, lane])
        if r == 0:
            continue
        take = 1.0
        if i + 1 > r:
            take = x.p[i, lane] * x.prefix[i, r - 1, lane] / x.prefix[i + 1, r, lane]
        if i + 1 == r or uniform_of(groups.sequence[g], row - lo) < take:
            rows[drawn] = row
            drawn += 1
            chance *= take
            r -= 1
        else:
            chance *= x.q[i, lane] * x.prefix[i, r, lane] / x.prefix[i + 1, r, lane]
    chances[g] = chance
    _permute(rows[groups.bounds[g] : drawn], lo, groups.slot[g])


@njit(cache=True, nogil=True)
def _permute(rows: IntArray, lo: int, state: np.uint64) -> None:
    """Order the drawn rows by their hash: which slot a query gets says nothing about it."""
    for a in range(1, len(rows)):
        b = a
        while b > 0 and hash_of(state, rows[b] - lo) < hash_of(state, rows[b - 1] - lo):
            rows[b], rows[b - 1] = rows[b - 1], rows[b]
            b -= 1


@njit(cache=True, nogil=True)
def new_lanes(m: int, k: int) -> Lanes:
    """Work space for m clusters and k draws; contents undefined."""
    return Lanes(
        np.empty((m, LANES)),
        np.empty((m, LANES)),
        np.empty((m, LANES)),
        np.empty((m, LANES)),
        np.empty((m, LANES)),
        np.empty((m, LANES)),
        np.empty((m + 1, k + 1, LANES)),
        np.empty((k + 1, LANES)),
        np.empty(LANES),
        np.empty(LANES),
        np.empty(LANES),
        np.empty(LANES),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def calibrate(x: Lanes, m: int, k: int) -> int:
    """Fill p, q, prefix and ratio from t and u, for the first m clusters and k draws.

    Each lane needs 0 < t, u and sum t = k < the number of its clusters. Prefix and ratio are those
    of the p and q left behind, so `pi = t / (t + u ratio)` is exact whether or not the target was
    met to TOLERANCE.

    Returns:
        Steps taken, at most MAX_STEPS.
    """
    _start(x, m)
    _set_damping(x, m)
    step = 0
    while True:
        _fill_prefix(x, m, k)
        _measure(x, m, k)
        step += 1
        if np.max(x.gap) <= TOLERANCE or step == MAX_STEPS:
            return step
        if step < FAST_STEPS:
            _newton_step(x, m)
        else:
            _ascend(x, m, k)


@njit(cache=True, nogil=True, error_model="numpy")
def _start(x: Lanes, m: int) -> None:
    """Hajek's first approximation: `logit p_i = logit t_i + (mean t - t_i) / sum t u`."""
    variance, mean = x.within, x.without
    variance[:] = 0.0
    mean[:] = 0.0
    for i in range(m):
        for lane in range(LANES):
            v = x.t[i, lane] * x.u[i, lane]
            variance[lane] += v
            mean[lane] += v * x.t[i, lane]
    for lane in range(LANES):
        variance[lane] = max(variance[lane], 1e-300)
        mean[lane] /= variance[lane]
    for i in range(m):
        for lane in range(LANES):
            shift = (mean[lane] - x.t[i, lane]) / variance[lane]
            shift = min(max(shift, -1.0), 1.0)
            up, down = x.t[i, lane] * (2.0 + shift), x.u[i, lane] * (2.0 - shift)
            x.p[i, lane] = up / (up + down)
            x.q[i, lane] = down / (up + down)


@njit(cache=True, nogil=True, error_model="numpy")
def _set_damping(x: Lanes, m: int) -> None:
    """`1 - c_i / sum c` with `c_i (1 - c_i / sum c) = t_i u_i`, by iteration; at least 1/2."""
    x.damping[:m] = 1.0
    for _ in range(4):
        x.total[:] = 1e-300
        for i in range(m):
            for lane in range(LANES):
                x.total[lane] += x.t[i, lane] * x.u[i, lane] / x.damping[i, lane]
        for i in range(m):
            for lane in range(LANES):
                c = x.t[i, lane] * x.u[i, lane] / x.damping[i, lane]
                x.damping[i, lane] = max(0.5, 1.0 - c / x.total[lane])


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_prefix(x: Lanes, m: int, k: int) -> None:
    for j in range(k + 1):
        for lane in range(LANES):
            x.prefix[0, j, lane] = 1.0 if j == 0 else 0.0
    for i in range(m):
        for lane in range(LANES):
            x.prefix[i + 1, 0, lane] = x.q[i, lane] * x.prefix[i, 0, lane]
        for j in range(1, k + 1):
            for lane in range(LANES):
                x.prefix[i + 1, j, lane] = (
                    x.q[i, lane] * x.prefix[i, j, lane] + x.p[i, lane] * x.prefix[i, j - 1, lane]
                )


@njit(cache=True, nogil=True, error_model="numpy")
def _measure(x: Lanes, m: int, k: int) -> None:
    """Ratio and gap of p and q as they stand."""
    _start_suffix(x, k)
    x.gap[:] = 0.0
    for i in range(m - 1, -1, -1):
        _leave_out(x, i, k)
        for lane in range(LANES):
            above = x.t[i, lane] * x.q[i, lane] * x.without[lane]
            below = x.u[i, lane] * x.p[i, lane] * x.within[lane]
            ratio = above / below if below > 0.0 else 1.0
            x.ratio[i, lane] = ratio
            x.gap[lane] = max(x.gap[lane], abs(ratio - 1.0))
        _extend_suffix(x, i, k)


@njit(cache=True, nogil=True, error_model="numpy")
def _newton_step(x: Lanes, m: int) -> None:
    """`w_i *= ratio_i^damping_i`, the power by its first Pade approximation: bounded, above 0."""
    for i in range(m):
        for lane in range(LANES):
            a, ratio = x.damping[i, lane], x.ratio[i, lane]
            up = x.p[i, lane] * ((1.0 + a) * ratio + (1.0 - a))
            down = x.q[i, lane] * ((1.0 - a) * ratio + (1.0 + a))
            live = x.gap[lane] > TOLERANCE
            x.p[i, lane] = up / (up + down) if live else x.p[i, lane]
            x.q[i, lane] = down / (up + down) if live else x.q[i, lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _ascend(x: Lanes, m: int, k: int) -> None:
    """One cluster after another gets the weight that meets its target, the others held."""
    _start_suffix(x, k)
    for i in range(m - 1, -1, -1):
        _leave_out(x, i, k)
        for lane in range(LANES):
            up = x.t[i, lane] * x.without[lane]
            down = x.u[i, lane] * x.within[lane]
            live = x.gap[lane] > TOLERANCE and up > 0.0 and down > 0.0
            x.p[i, lane] = up / (up + down) if live else x.p[i, lane]
            x.q[i, lane] = down / (up + down) if live else x.q[i, lane]
        _extend_suffix(x, i, k)


@njit(cache=True, nogil=True, error_model="numpy")
def _start_suffix(x: Lanes, k: int) -> None:
    for j in range(k + 1):
        for lane in range(LANES):
            x.suffix[j, lane] = 1.0 if j == k else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _extend_suffix(x: Lanes, i: int, k: int) -> None:
    for j in range(k):
        for lane in range(LANES):
            x.suffix[j, lane] = (
                x.q[i, lane] * x.suffix[j, lane] + x.p[i, lane] * x.suffix[j + 1, lane]
            )
    for lane in range(LANES):
        x.suffix[k, lane] *= x.q[i, lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _leave_out(x: Lanes, i: int, k: int) -> None:
    """`in` and `out` of cluster i from the prefix before it and the suffix after it."""
    for lane in range(LANES):
        x.within[lane] = 0.0
        x.without[lane] = x.prefix[i, k, lane] * x.suffix[k, lane]
    for j in range(k):
        for lane in range(LANES):
            x.within[lane] += x.prefix[i, j, lane] * x.suffix[j + 1, lane]
            x.without[lane] += x.prefix[i, j, lane] * x.suffix[j, lane]
