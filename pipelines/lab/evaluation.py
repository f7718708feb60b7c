"""What another policy would have earned on the nights of a log, in one record for people and JSON.

Three policies are summed together: the one asked about, the one it is compared with, and `uniform`
as a probe of whether draws compete for what a user does.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pipelines.config import config_from_manifest
from pipelines.lab.asked import LOGGED, policy_asked
from pipelines.lab.period import Period, Tell, sum_period
from pipelines.store.warehouse import Warehouse
from profiling.bootstrap import Estimate
from profiling.options import FORBID_UNKNOWN, check_options, option
from selection.off_policy import LOG, UserSums
from selection.policies import SelectionConfig, policy_version
from selection.policy_value import (
    ESTIMANDS,
    ESTIMATORS,
    Comparison,
    Valuation,
    compare_policies,
    estimate_policies,
    spread_of,
)

ASSUMES = {
    "draw": "what a draw earns does not depend on which other interests were drawn with it",
    "set": "nothing of how the draws of a set share what a user does",
    "both": "users do not influence each other; the states are those that the log's own policy "
    "led to, so this is the value of choosing otherwise on each night, not of a policy that learns "
    "on its own (`queryloop lab replay` and `lab tune` ask that)",
}
CANNOT = (
    "another retrieval, index, model, rerank or spacing: it would have shown items that this log "
    "never showed",
    "more or fewer queries a night, per set: no set of another size was ever drawn",
    "what a policy would have learned on its own, or be worth once users have changed",
)
PROBE = "uniform"


@dataclass(frozen=True)
class TrustConfig:
    """What an estimate must have not to be flagged; benchmarks/coverage.py measures it."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    users: int = option(20_000, "users from which coverage was measured", low=1)
    successes: float = option(
        200.0, "effective successes (effective sample * rate) from which it was", low=0
    )
    unsupported: float = option(
        1e-6, "share of the policy's draws that the log could not have made", low=0, high=1
    )
    effective_share: float = option(
        0.1,
        "effective share of the sample under which weights are extreme: above it intervals of sets "
        "held the truth 94 times in 100, below it 88 to 94",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Evaluation:
    """The numbers, before they are words.

    Attributes:
        names: Of the policy and of the one it is compared with, as asked.
        versions: As in QUERIES; `logged` where it is the log's own.
        period: What was evaluated.
        sums: Of the policy, the other one and the probe, in this order.
        comparison: The policy against the other.
        competes: Whether draws compete, by the policy, the other or the probe.
    """

    names: tuple[str, str]
    versions: tuple[str, str]
    period: Period
    sums: UserSums
    comparison: Comparison
    competes: bool


def evaluate_policy(
    warehouse: Warehouse,
    period: Period,
    policy: str,
    against: str = LOGGED,
    tell: Tell = lambda done, of: None,
) -> Evaluation:
    """Evaluate `policy` against another on a period's log; `tell` hears of the buckets done.

    Raises:
        ValueError: A policy is unknown, or the log cannot say anything of one.
    """
    night = period.selection
    asked = [policy_asked(text, night) for text in (policy, against, PROBE)]
    for text, policy_ in zip((policy, against), asked, strict=False):
        _check_prior(text, policy_, period)
    sums = sum_period(warehouse, period, asked, tell)
    estimates = estimate_policies(sums, period.nights[-1].seed)
    comparison = compare_policies(sums, estimates, 0, 1)
    competes = any(compare_policies(sums, estimates, p, 1).competes for p in range(3))
    versions = tuple(LOGGED if p is None else policy_version(p) for p in asked[:2])
    return Evaluation(
        (policy, against), (versions[0], versions[1]), period, sums, comparison, competes
    )


def _check_prior(text: str, policy: SelectionConfig | None, period: Period) -> None:
    """Raise ValueError where the rewards kept lean on another prior than the policy's."""
    if policy is None or policy.policy in ("counts", "importance"):
        return
    for night in period.nights:
        own = {s.prior for s in config_from_manifest(night).selections.values()}
        if own != {policy.prior}:
            raise ValueError(
                f"{text!r} leans on the prior {policy.prior!r}, and the rewards kept of the night "
                f"{night.date} on {' and '.join(sorted(own))}: what it would have drawn is not "
                "known. Ask `queryloop lab replay` or `lab tune`, or let an arm of an experiment "
                "run with it first"
            )


def report_of(found: Evaluation, trust: TrustConfig | None = None) -> dict[str, Any]:
    """The evaluation as plain JSON types; null where a number is not known."""
    sums, nights = found.sums, found.period.nights
    log = dict(zip(LOG, sums.log.sum(axis=0).tolist(), strict=True))
    comparison = found.comparison
    return {
        "from": nights[0].date.isoformat(),
        "to": nights[-1].date.isoformat(),
        "nights": len(nights),
        "policy": {"asked": found.names[0], "version": found.versions[0]},
        "against": {"asked": found.names[1], "version": found.versions[1]},
        "users": len(sums.users),
        "user_nights": int(log["nights"]),
        "draws": int(log["draws"]),
        "served_share": log["served"] / log["nights"],
        "logged_value_per_draw": log["value"] / log["draws"],
        "estimands": [_estimand(v) for v in (comparison.draw, comparison.set)],
        "competing": _number(comparison.competing) | {"flagged": found.competes},
        "spread": {
            name: asdict(spread_of(sums, place)) for place, name in enumerate(("policy", "against"))
        },
        "flags": flags_of(comparison, found.competes, len(sums.users), trust or TrustConfig()),
        "notes": _notes(found),
        "assumes": ASSUMES,
        "cannot": list(CANNOT),
    }


def flags_of(
    comparison: Comparison, competes: bool, users: int, trust: TrustConfig
) -> dict[str, list[str]]:
    """What makes the intervals less than 95 %, in sentences, by estimand and for both."""
    flags: dict[str, list[str]] = {"both": []}
    if users < trust.users:
        flags["both"].append(
            f"{users:,} users: intervals were measured to hold the truth 95 times in 100 from "
            f"{trust.users:,} on"
        )
    for v in (comparison.draw, comparison.set):
        w, found = v.weights, flags.setdefault(v.estimand, [])
        if w.unsupported > trust.unsupported:
            found.append(
                f"the log could never have made {w.unsupported:.2%} of what the policy draws; that "
                "part is a model's guess (dr) or missing (ips, snips). Log with a higher floor"
            )
        if w.successes < trust.successes:
            found.append(
                f"{w.successes:,.0f} effective successes; from {trust.successes:g} on the "
                "intervals were measured"
            )
        if w.share < trust.effective_share:
            found.append(
                f"the effective sample is {w.share:.1%} of the log, the largest weight "
                f"{w.largest:,.0f}: a few units decide, and the interval is too short"
            )
    if competes:
        flags["draw"].append(
            "draws compete (sets and draws disagree by more than three standard errors), so the "
            f"assumption fails; go by the {ESTIMANDS['set']}"
        )
    return flags


def _notes(found: Evaluation) -> list[str]:
    notes, sums = list(found.period.notes), found.sums
    if sums.unknown:
        notes.append(
            f"{sums.unknown:,} draws are left out with their user-nights: the rewards kept of "
            "their night do not have their interest, as after a replay"
        )
    if sums.redrawn:
        notes.append(
            f"{sums.redrawn:,} user-nights were drawn with other probabilities than the rewards "
            "kept of their night give, as after a replay: the logged ones count"
        )
    return notes


def _estimand(found: Valuation) -> dict[str, Any]:
    rows = [
        {
            "estimator": name,
            **_number(found.values[name]),
            **{f"uplift{k}": v for k, v in _suffixed(found.uplifts[name]).items()},
            **{f"uplift_pct{k}": v for k, v in _suffixed(found.relative[name], 100.0).items()},
        }
        for name in ESTIMATORS
    ]
    return {"estimand": ESTIMANDS[found.estimand], "rows": rows, **asdict(found.weights)}


def _number(found: Estimate) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(found).items()}


def _suffixed(found: Estimate, scale: float = 1.0) -> dict[str, float | None]:
    value, low, high = (_finite(scale * x) for x in (found.value, found.low, found.high))
    return {"": value, "_low": low, "_high": high}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
