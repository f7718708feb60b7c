"""The gate: may this policy ship? Bounds, and which of them an evaluation does not keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.lab.evaluation import Evaluation
from profiling.options import FORBID_UNKNOWN, check_options, option
from selection.policy_value import ESTIMANDS, ESTIMATORS, spread_of


@dataclass(frozen=True)
class GateConfig:
    """What a policy must keep to ship (all bounds are ours)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    margin: float = option(
        0.0, "the lower bound of the relative uplift must not be under this: -.01 lets 1 % go"
    )
    estimand: str = option(
        "draw", "whose uplift: value per draw, or per user-night set", choices=tuple(ESTIMANDS)
    )
    estimator: str = option("dr", "which estimate of it", choices=ESTIMATORS)
    unsupported: float = option(
        0.001, "share of the policy's draws that the log could not have made", low=0, high=1
    )
    successes: float = option(
        200.0, "least effective successes (effective sample * rate) of the estimate", low=0
    )
    starved: float = option(
        0.05,
        "by how much the share of starved interests may grow: those with less than a tenth of the "
        "chance that all alike would have",
        low=0,
        high=1,
    )
    focus: float = option(
        0.05, "by how much the mean sum of squared shares of a user's draws may grow", low=0, high=1
    )
    top_items: float = option(
        0.05, "by how much the share of the most asked hundredth of items may grow", low=0, high=1
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Check:
    """One bound: what it is about, what was found, what is allowed, whether it is kept."""

    name: str
    found: float
    allowed: float
    passed: bool
    meaning: str


def check_policy(found: Evaluation, config: GateConfig) -> list[Check]:
    """Every bound of the gate, kept or not; a number that is not known keeps none."""
    comparison = found.comparison
    valued = comparison.draw if config.estimand == "draw" else comparison.set
    low, weights = valued.relative[config.estimator].low, valued.weights
    of = f"{ESTIMANDS[config.estimand]}, {config.estimator}"
    checks = [
        Check("uplift", low, config.margin, low >= config.margin, f"lower bound, {of}"),
        _at_most("unsupported", weights.unsupported, config.unsupported, "share without support"),
        Check(
            "successes", weights.successes, config.successes,
            weights.successes >= config.successes, f"effective successes, {of}",
        ),
    ]  # fmt: skip
    policy, against = (spread_of(found.sums, place) for place in (0, 1))
    for name, meaning in (
        ("starved", "growth of the share of starved interests"),
        ("focus", "growth of the concentration on a user's interests"),
        ("top_items", "growth of the share of the most asked items"),
    ):
        grown = getattr(policy, name) - getattr(against, name)
        checks.append(_at_most(name, grown, getattr(config, name), meaning))
    if config.estimand == "draw":
        disagree = float(found.competes)
        checks.append(_at_most("competing", disagree, 0.0, "draws compete: gate by --estimand set"))
    return checks


def _at_most(name: str, found: float, allowed: float, meaning: str) -> Check:
    return Check(name, found, allowed, found <= allowed, meaning)
