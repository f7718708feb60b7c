"""Intervals by resampling users, for any number that is a ratio of sums over users.

Every resample gives each user a Poisson(1) weight (Oza and Russell 2001), the same one wherever the
seed is the same: numbers of the same users are compared within each resample, which is what makes a
difference of two of them *paired*. The interval is the middle 95 % of the resampled values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from profiling.compiling import njit
from profiling.hashing import mix64, text_hash, uniforms
from profiling.schema import FloatArray

RESAMPLES = 1000
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod(np.r_[1.0, np.arange(1.0, 12.0)]))
_BLOCK = 2048  # users added at a time: their values stay in the cache


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def resample_weights(
    users: int, seed: int, resamples: int = RESAMPLES, first: int = 0
) -> FloatArray:
    """(resamples, users) float64 of independent Poisson(1) numbers, from resample `first` on."""
    u = uniforms(seed, "bootstrap", np.arange(first * users, (first + resamples) * users))
    return np.searchsorted(_POISSON, u).astype(np.float64).reshape(resamples, users)


def resampled_sums(values: FloatArray, seed: int, resamples: int = RESAMPLES) -> FloatArray:
    """(1 + B, m) float64: the sums of (n, m) `values` over users, then those of every resample."""
    values = np.ascontiguousarray(values, np.float64)
    sums = np.zeros((resamples, values.shape[1]))
    # `hash64` but for its last part, which the kernel adds.
    state = mix64(mix64(mix64(np.uint64(3)) ^ np.uint64(seed)) ^ text_hash("bootstrap"))[0]
    _add_resampled(values, state, _POISSON, _BLOCK, sums)
    return np.concatenate([values.sum(axis=0, keepdims=True), sums])


@njit(cache=True, nogil=True)
def _add_resampled(
    values: FloatArray, state: np.uint64, poisson: FloatArray, block: int, sums: FloatArray
) -> None:
    """Add to sums (B, m) what `resample_weights(n, seed, B) @ values` is, a block of users a time.

    Weights are made where they are used: held, those of 100,000 users are 800 MB.
    """
    n, m = values.shape
    for start in range(0, n, block):
        for b in range(len(sums)):
            for i in range(start, min(start + block, n)):
                z = (state ^ np.uint64(b * n + i)) + np.uint64(0x9E3779B97F4A7C15)
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
                u = (np.float64(z >> np.uint64(11)) + 0.5) * 2.0**-53
                weight = 0.0
                while weight < len(poisson) and u > poisson[int(weight)]:
                    weight += 1.0
                if weight > 0.0:
                    for j in range(m):
                        sums[b, j] += weight * values[i, j]


def estimate(values: npt.ArrayLike, acceleration: float | None = None) -> Estimate:
    """The first of (1 + B,) values, with the middle 95 % of the finite ones among the others.

    With an `acceleration` (of `acceleration_of`) the bounds are those of BCa (Efron 1987): a few
    large values among the users make the plain middle too low and too short, and it moves.
    """
    numbers = np.asarray(values, np.float64)
    known = numbers[1:][np.isfinite(numbers[1:])]
    if not len(known):
        return Estimate(float(numbers[0]), float("nan"), float("nan"))
    levels = np.array([0.025, 0.975])
    if acceleration is not None:
        below = np.mean(known < numbers[0]) + np.mean(known == numbers[0]) / 2
        bias = ndtri(np.clip(below, 0.5 / len(known), 1 - 0.5 / len(known)))
        z = bias + ndtri(levels)
        levels = ndtr(bias + z / np.maximum(1.0 - acceleration * z, 0.1))
    low, high = np.quantile(known, levels)
    return Estimate(float(numbers[0]), float(low), float(high))


def acceleration_of(influence: FloatArray) -> float:
    """BCa's a of an estimate: `sum l^3 / (6 (sum l^2)^1.5)`, l (n,) what each user moves it by."""
    square = float(influence @ influence)
    return float(np.sum(influence**3)) / (6.0 * square**1.5) if square > 0 else 0.0
