"""What does not look like the nights before, by the names that TFDV gives it.

A distance of distributions over categories is the largest difference of two shares (L-infinity);
over numbers the Jensen-Shannon divergence of the histograms, base 2, in [0, 1] (TensorFlow Data
Validation). Both are counted beyond what chance gives for as few rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, IntArray


@dataclass(frozen=True)
class ValidationConfig:
    """What is still like before."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    nights: int = option(14, "trailing nights that the new rows are held against", low=1)
    fewest: float = option(
        0.5, "rows or users less than this share of the trailing median are few", low=0.0
    )
    most: float = option(
        2.0, "rows or users more than this many times the trailing median are many", low=1.0
    )
    categories: float = option(
        0.1, "largest difference of a category's share, L-infinity", low=0.0, high=1.0
    )
    numbers: float = option(
        0.1, "Jensen-Shannon divergence of a number's histogram", low=0.0, high=1.0
    )
    nulls: float = option(0.05, "by which a share of nulls may differ", low=0.0, high=1.0)
    unknown_items: float = option(
        0.05, "share of rows whose item the catalogue does not have", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Anomaly:
    """Something that does not look like before.

    Attributes:
        table: Where.
        column: Which; '' for the whole table.
        kind: TFDV's name of it.
        detail: The value, and what was expected.
    """

    table: str
    column: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Figures:
    """What is known of one night's rows of a table."""

    rows: int
    users: int
    categories: Mapping[str, Mapping[str, int]]
    numbers: Mapping[str, IntArray]
    nulls: Mapping[str, float]
    unknown_items: float


def anomalies(
    table: str, now: Figures, past: Sequence[Figures], config: ValidationConfig
) -> list[Anomaly]:
    """What does not look like before, of one table."""
    found = []
    if now.unknown_items > config.unknown_items:
        found.append(
            Anomaly(
                table,
                "item_id",
                "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
                f"{now.unknown_items:.1%} of the rows have an item that ITEMS does not",
            )
        )
    if not past:
        return found
    for what in ("rows", "users"):
        found += _amount(table, what, getattr(now, what), [getattr(p, what) for p in past], config)
    for column, share in now.nulls.items():
        expected = float(np.median([p.nulls[column] for p in past]))
        if abs(share - expected) > config.nulls:
            rarer = share > expected
            kind = "FEATURE_TYPE_LOW_FRACTION_PRESENT" if rarer else "COMPARATOR_L_INFTY_HIGH"
            found.append(
                Anomaly(table, column, kind, f"null in {share:.1%}, {expected:.1%} before")
            )
    for column, counts in now.categories.items():
        found += _category(table, column, counts, [p.categories[column] for p in past], config)
    for column, histogram in now.numbers.items():
        found += _number(table, column, histogram, [p.numbers[column] for p in past], config)
    return found


def jensen_shannon(p: IntArray, q: IntArray) -> float:
    """Divergence of two histograms over the same bins, base 2: 0 equal, 1 disjoint."""
    a, b = (h / h.sum() if h.sum() else np.zeros(len(h)) for h in (p, q))
    middle = (a + b) / 2

    def relative(x: FloatArray) -> float:
        some = x > 0
        return float((x[some] * np.log2(x[some] / middle[some])).sum())

    return (relative(a) + relative(b)) / 2


def _amount(
    table: str, what: str, now: int, past: Sequence[int], config: ValidationConfig
) -> list[Anomaly]:
    median = float(np.median(past))
    detail = f"{now:,} {what}, median of {len(past)} nights before {median:,.0f}"
    if now < config.fewest * median:
        return [Anomaly(table, "", "COMPARATOR_LOW_NUM_EXAMPLES", detail)]
    if now > config.most * median:
        return [Anomaly(table, "", "COMPARATOR_HIGH_NUM_EXAMPLES", detail)]
    return []


def _category(
    table: str,
    column: str,
    now: Mapping[str, int],
    past: Sequence[Mapping[str, int]],
    config: ValidationConfig,
) -> list[Anomaly]:
    known = {value: sum(p.get(value, 0) for p in past) for p in past for value in p}
    new = [v for v in now if v not in known]
    found = []
    if new:
        named = ", ".join(repr(v) for v in new[:5])
        found.append(
            Anomaly(table, column, "ENUM_TYPE_UNEXPECTED_STRING_VALUES", f"never before: {named}")
        )
    total, before = sum(now.values()), sum(known.values())
    shares = {v: (now.get(v, 0) / total, known.get(v, 0) / before) for v in {*now, *known}}
    worst = max(shares, key=lambda v: (abs(shares[v][0] - shares[v][1]), v))
    a, b = shares[worst]
    chance = 3 * float(np.sqrt(max(b * (1 - b), 1 / total) / total))
    if abs(a - b) - chance > config.categories:
        detail = f"{worst!r} is {a:.1%} of the rows, {b:.1%} before"
        found.append(Anomaly(table, column, "COMPARATOR_L_INFTY_HIGH", detail))
    return found


def _number(
    table: str, column: str, now: IntArray, past: Sequence[IntArray], config: ValidationConfig
) -> list[Anomaly]:
    before = np.sum(past, axis=0)
    if not now.sum() or not before.sum():
        return []
    far = jensen_shannon(now, before)
    if far - _chance_divergence(now, before) <= config.numbers:
        return []
    detail = f"divergence {far:.3f} from the nights before"
    return [Anomaly(table, column, "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH", detail)]


def _chance_divergence(p: IntArray, q: IntArray) -> float:
    """What samples of one distribution differ by on average: (bins - 1) / (8 ln 2) (1/n + 1/m).

    The divergence of two samples is near a chi-squared variable with bins - 1 degrees of freedom,
    scaled so (Menendez et al. 1997).
    """
    bins = int(((p > 0) | (q > 0)).sum())
    return (bins - 1) / (8 * np.log(2)) * (1 / p.sum() + 1 / q.sum())
