"""Alarms: a figure that left what it was on the nights before, or what was promised for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipelines.health.records import Alarm, Figure, Health
from pipelines.spacing.books import LEAST_NIGHTS, drifts
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from profiling.options import FORBID_UNKNOWN, check_options, option


@dataclass(frozen=True)
class HealthConfig:
    """When a night's figures ring. Nothing here changes a row."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    nights: int = option(7, "nights before, whose mean a figure is compared with", low=3)
    least: int = option(200, "rows that a figure must be from to ring", low=1)
    rate_fall: float | None = option(
        0.25,
        "an engagement rate below its trailing mean by this share, its interval too; null: never",
        low=0.0,
        high=1.0,
    )
    rise: float | None = option(
        0.1,
        "shares that may rise by this much over their trailing mean: unattributed, never shown, "
        "leaning on an average, and Gini coefficients; null: never",
        low=0.0,
        high=1.0,
    )
    late_share: float | None = option(
        0.2, "share of the landed impressions that may come late; null: never", low=0.0, high=1.0
    )
    calibration_gap: float | None = option(
        0.25,
        "what came against what was predicted, as a share of it, outside its interval; null: never",
        low=0.0,
    )
    draw_z: float | None = option(
        6.0, "standard errors between drawn and promised; null: never", low=0.0
    )
    report: str = option(
        "", "folder of this machine in which every night leaves a report, DATE.html; '': none"
    )

    def __post_init__(self) -> None:
        check_options(self)


def night_alarms(
    warehouse: Warehouse, manifest: Manifest, healths: Sequence[Health], config: HealthConfig
) -> list[Alarm]:
    """All alarms of a night: of its figures, then of its spacing classes.

    Args:
        warehouse: Where.
        manifest: The night.
        healths: Its figures last, those of the nights before it first.
        config: The thresholds as they are now.
    """
    return figure_alarms(healths[-1], healths[:-1], config) + drifts(warehouse, manifest)


def figure_alarms(health: Health, before: Sequence[Health], config: HealthConfig) -> list[Alarm]:
    """The figures of `health` that ring."""
    found: list[Alarm] = []
    for figure in (f for f in health.figures if f.value is not None and f.n >= config.least):
        for rule in _RULES.get(figure.name, ()):
            found += rule(figure, _trailing(figure, before, config), config)
    return found


def _trailing(figure: Figure, before: Sequence[Health], config: HealthConfig) -> float | None:
    """Mean of the figure over the nights before; None where there are too few."""
    values = [
        f.value
        for health in before[-config.nights :]
        for f in health.figures
        if f.key == figure.key and f.value is not None and f.n >= config.least
    ]
    return sum(values) / len(values) if len(values) >= LEAST_NIGHTS else None


def _fallen(f: Figure, mean: float | None, config: HealthConfig) -> Iterator[Alarm]:
    if mean is None or config.rate_fall is None or f.value is None:
        return
    bound = (1.0 - config.rate_fall) * mean
    if f.value < bound and (f.high is None or f.high < mean):
        yield Alarm(
            f"engagement rate, {f.of}",
            f"{f.value:.2%} a value per impression, {mean:.2%} in the nights before; look at what "
            "was shown and logged before the next night learns from it",
        )


def _risen(f: Figure, mean: float | None, config: HealthConfig) -> Iterator[Alarm]:
    if mean is None or config.rise is None or f.value is None or f.part == "observed":
        return
    if f.value - mean > config.rise:
        what = f"{f.name}, {f.of}" if f.of else f.name
        yield Alarm(what, f"{f.value:.3f}, {mean:.3f} in the nights before; {_LOOK[f.name]}")


def _late(f: Figure, mean: float | None, config: HealthConfig) -> Iterator[Alarm]:
    if config.late_share is not None and (f.value or 0.0) > config.late_share:
        yield Alarm(
            "late impressions",
            f"{f.value:.1%} of the landed are older than the night before; run that night again "
            "when a day is complete, or land days sooner",
        )


def _miscalibrated(f: Figure, mean: float | None, config: HealthConfig) -> Iterator[Alarm]:
    gap, promised = config.calibration_gap, f.expected
    if gap is None or not promised or f.value is None:
        return
    outside = f.low is not None and f.high is not None and not f.low <= promised <= f.high
    if outside and abs(f.value / promised - 1.0) > gap:
        yield Alarm(
            f"calibration, {f.of}",
            f"{f.value:.3f} a value per impression came, {promised:.3f} was predicted; see the "
            "view health_calibration, and rewards.half_life_days",
        )


def _unfair(f: Figure, mean: float | None, config: HealthConfig) -> Iterator[Alarm]:
    if config.draw_z is not None and abs(f.value or 0.0) > config.draw_z:
        yield Alarm(
            f"draws, {f.of}",
            f"{f.value:+.1f} standard errors between what was drawn and the propensities written "
            "down; trust no estimate of this night before the view draw_check is understood",
        )


_LOOK = {
    "unattributed": "see that the serving system echoes draw_id, and that ITEMS are whole",
    "waiting": "raise selection.queries or selection.floor, or see who stopped being served",
    "prior": "records fade or are missing: see OUTCOMES by attribution",
    "gini": "few items take more: see selection.floor and the catalogue",
}
_Rule = Callable[[Figure, float | None, HealthConfig], Iterable[Alarm]]
_RULES: dict[str, tuple[_Rule, ...]] = {
    "rate": (_fallen,),
    "unattributed": (_risen,),
    "waiting": (_risen,),
    "prior": (_risen,),
    "gini": (_risen,),
    "late": (_late,),
    "calibration": (_miscalibrated,),
    "draw z": (_unfair,),
}
