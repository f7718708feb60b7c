"""Intervals by resampling users, for any number that is a ratio of sums over users.

Every resample gives each user a Poisson(1) weight (Oza and Russell 2001), the same one wherever the
seed is the same: numbers of the same users are compared within each resample, which is what makes a
difference of two of them *paired*. The interval is the middle 95 % of the resampled values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiling.hashing import uniforms
from profiling.schema import FloatArray

RESAMPLES = 1000
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod(np.r_[1.0, np.arange(1.0, 12.0)]))
_BLOCK = 1 << 22  # weights held at a time


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
    n = len(values)
    sums = [values.sum(axis=0, keepdims=True)]
    step = max(1, _BLOCK // max(n, 1))
    for first in range(0, resamples, step):
        weights = resample_weights(n, seed, min(step, resamples - first), first)
        sums.append(weights @ values)
    return np.concatenate(sums)


def estimate(values: npt.ArrayLike) -> Estimate:
    """The first of (1 + B,) values, with the middle 95 % of the finite ones among the others."""
    numbers = np.asarray(values, np.float64)
    known = numbers[1:][np.isfinite(numbers[1:])]
    if not len(known):
        return Estimate(float(numbers[0]), float("nan"), float("nan"))
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(numbers[0]), float(low), float(high))
