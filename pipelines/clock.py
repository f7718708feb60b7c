"""The one look at the clock; every step takes the time as an argument."""

from __future__ import annotations

import time


def clock() -> int:
    """Microseconds since 1970; what happened later than now is refused."""
    return time.time_ns() // 1000
