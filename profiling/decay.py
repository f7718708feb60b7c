"""Time decay, defined once: importance and rewards both use it. Times are int64 microseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000


def importance_weights(
    at: npt.ArrayLike, as_of: npt.ArrayLike, decay_per_day: float
) -> npt.NDArray[np.float64]:
    """`exp(-lambda * age_days)` (PinnerSage, KDD 2020, eq. 3; days are our reading of its unit)."""
    age_days = (np.asarray(as_of, np.int64) - np.asarray(at, np.int64)) / DAY_US
    return np.exp(-decay_per_day * age_days)


def half_life_weights(
    at: npt.ArrayLike, as_of: npt.ArrayLike, half_life_days: float
) -> npt.NDArray[np.float64]:
    """`2^(-(as_of - at) / half_life)`: it goes by event time, not by arrival (design, 3)."""
    age_days = (np.asarray(as_of, np.int64) - np.asarray(at, np.int64)) / DAY_US
    return np.exp2(-age_days / half_life_days)
