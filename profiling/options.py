"""How an option is declared: once, as a field of a frozen dataclass in the file that uses it."""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any

FORBID_UNKNOWN = {"extra": "forbid"}  # for the YAML reader; this package does not import it


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its meaning, unit and origin in `doc`, and its closed range."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


def check_options(config: Any) -> None:
    """Check every `option` of a dataclass instance against its range; call from `__post_init__`.

    Raises:
        ValueError: Naming the field, the value and what is allowed.
    """
    for f in fields(config):
        value, rule = getattr(config, f.name), f.metadata
        if rule.get("choices") and value not in rule["choices"]:
            raise ValueError(f"{f.name} must be one of {', '.join(rule['choices'])}, got {value!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low, high = rule.get("low"), rule.get("high")
        if math.isnan(value):
            raise ValueError(f"{f.name} must be a number, got nan")
        if low is not None and value < low:
            raise ValueError(f"{f.name} must be >= {low:g}, got {value!r}")
        if high is not None and value > high:
            raise ValueError(f"{f.name} must be <= {high:g}, got {value!r}")
