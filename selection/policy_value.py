"""Estimates of a policy's value from the sums of `off_policy`, with intervals over users.

Two estimands, each with three estimators (V: sums over users; D: the terms of mean 0):

| estimand | ips | snips | dr |
|---|---|---|---|
| additive value per draw | V(wY) / V(e) | V(wY) / V(w) | (V(wY) - beta D) / V(e) |
| value per user-night set | V(WY) / units | V(WY) / V(W) | (V(WY) - beta D) / units |

`dr` is the doubly robust estimate with the model q_c = beta x_c of what a draw earns, x the stored
reward, reward per draw and importance of the night. beta is the one of least variance among the
other half of the users (a regression of what is weighed on the terms of mean 0: control variates,
Owen and Zhou 2000), so a user's own outcomes do not enter their model, and a model that explains
nothing costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiling.bootstrap import Estimate, acceleration_of, estimate, resampled_sums
from profiling.hashing import hash64
from profiling.schema import FloatArray
from selection.off_policy import FEATURES, LOG, UserSums

ESTIMATORS = ("ips", "snips", "dr")
ESTIMANDS = {"draw": "additive value per draw", "set": "value per user-night set"}


@dataclass(frozen=True)
class Weights:
    """How far the log carries a policy under one estimand.

    Attributes:
        effective: (sum w)^2 / sum w^2, in draws or sets.
        share: The same over the log's draws or sets.
        largest: The largest weight.
        successes: `effective` * the weighted share of draws or sets that earned anything.
        unsupported: Share of the policy's draws or sets that the log could never have made.
    """

    effective: float
    share: float
    largest: float
    successes: float
    unsupported: float


@dataclass(frozen=True)
class Valuation:
    """One policy under one estimand, by estimator, beside another on the same users.

    Attributes:
        estimand: draw or set.
        values: The value, in units of an outcome's value.
        uplifts: Value less that of the other policy, paired.
        relative: Value over that of the other policy, less 1, paired.
        weights: What the estimates lean on.
    """

    estimand: str
    values: dict[str, Estimate]
    uplifts: dict[str, Estimate]
    relative: dict[str, Estimate]
    weights: Weights


@dataclass(frozen=True)
class Comparison:
    """Policy `of` against policy `against`.

    Attributes:
        draw: The additive value per draw.
        set: The value per user-night set.
        competing: `dr` of the set value, less that of the draws, per user-night: away from 0 where
            what a draw earns depends on its company.
    """

    draw: Valuation
    set: Valuation
    competing: Estimate

    @property
    def competes(self) -> bool:
        """Whether `competing` is more than three standard errors away from 0."""
        sigma = (self.competing.high - self.competing.low) / (2 * 1.96)
        return abs(self.competing.value) > 3.0 * sigma > 1e-9 * abs(self.set.values["dr"].value)


@dataclass(frozen=True)
class Ratios:
    """A policy's estimates, each (1 + B,): of the log, then of every resample of its users.

    Attributes:
        draw: Additive value per draw, by estimator.
        set: Value per user-night set, by estimator.
        per_unit: Draws per user-night.
        influence: By estimand and estimator, (n,) what each user moves the estimate by.
    """

    draw: dict[str, FloatArray]
    set: dict[str, FloatArray]
    per_unit: FloatArray
    influence: dict[str, dict[str, FloatArray]]


def estimate_policies(
    sums: UserSums, seed: int, add: Callable[[FloatArray], FloatArray] | None = None
) -> list[Ratios]:
    """The estimates of every policy in the sums, on the same resamples.

    Args:
        sums: Of the log.
        seed: Of the resamples and of the halves.
        add: (n, m) values by user to (1 + B, m) sums; by default `resampled_sums`.

    Raises:
        ValueError: There is no user.
    """
    if not len(sums.users):
        raise ValueError("there is no draw to evaluate: no user was drawn for in these nights")
    names, columns = ["units"], [sums.log[:, LOG.index("nights")]]
    halves = (hash64(seed, "half", sums.users) % np.uint64(2)).astype(bool)
    for policy in range(len(sums.policies)):
        found = _user_columns(sums, policy, columns[0], halves)
        names += [f"{policy} {name}" for name in found]
        columns += found.values()
    matrix = np.stack(columns, axis=1)
    totals = resampled_sums(matrix, seed) if add is None else add(matrix)
    by_name = dict(zip(names, totals.T, strict=True))
    by_user = dict(zip(names, columns, strict=True))
    return [_ratios(by_name, by_user, policy) for policy in range(len(sums.policies))]


def compare_policies(
    sums: UserSums, estimates: Sequence[Ratios], of: int, against: int
) -> Comparison:
    """The value of one policy, and its paired difference to another; places in the sums."""
    mine, theirs = estimates[of], estimates[against]
    competing = mine.set["dr"] - mine.draw["dr"] * mine.per_unit
    return Comparison(
        _valuation("draw", mine, theirs, effective_weights(sums, of, "draw")),
        _valuation("set", mine, theirs, effective_weights(sums, of, "set")),
        estimate(competing),
    )


def _user_columns(
    sums: UserSums, policy: int, units: FloatArray, halves: npt.NDArray[np.bool_]
) -> dict[str, FloatArray]:
    """(n,) sums by user whose ratios are the estimates."""
    columns = {"draw e": sums.column(policy, "draw_e")}
    for estimand in ESTIMANDS:
        wy, w = (sums.column(policy, f"{estimand}_{c}") for c in ("wy", "w"))
        base = columns["draw e"] if estimand == "draw" else units
        terms = np.stack([sums.column(policy, f"{estimand}_x_{f}") for f in FEATURES], axis=1)
        modelled = _modelled(wy, base, terms, halves)
        columns |= {f"{estimand} wy": wy, f"{estimand} w": w, f"{estimand} dr": wy - modelled}
    return columns


def effective_weights(sums: UserSums, policy: int, estimand: str) -> Weights:
    """How far the log carries the policy."""
    w, w2, hit, lost = (
        float(sums.column(policy, f"{estimand}_{c}").sum()) for c in ("w", "w2", "hit", "lost")
    )
    made = float(sums.log[:, LOG.index("draws" if estimand == "draw" else "nights")].sum())
    asked = float(sums.column(policy, "draw_e").sum()) if estimand == "draw" else made
    effective = w * w / w2 if w2 > 0 else 0.0
    return Weights(
        effective=effective,
        share=effective / made,
        largest=float(sums.largest[policy, :, list(ESTIMANDS).index(estimand)].max()),
        successes=effective * hit / w if w > 0 else 0.0,
        unsupported=lost / asked,
    )


@dataclass(frozen=True)
class Spread:
    """How a policy spreads its draws.

    Attributes:
        starved: Share of the interests with less than a tenth of the chance of all alike.
        focus: Mean of the sum of squared shares of a user's draws: 1 where one interest has all.
        top_items: Share of the expected draws that ask with the most asked hundredth of the items.
    """

    starved: float
    focus: float
    top_items: float


def spread_of(sums: UserSums, policy: int) -> Spread:
    """How a policy spreads its draws over interests and items."""
    log = dict(zip(LOG, sums.log.sum(axis=0), strict=True))
    exposure = np.sort(sums.exposure[policy])[::-1]
    top = exposure[: max(1, -(-len(exposure) // 100))].sum()
    return Spread(
        starved=float(sums.column(policy, "draw_starved").sum() / log["interests"]),
        focus=float(sums.column(policy, "draw_focus").sum() / log["nights"]),
        top_items=float(top / exposure.sum()),
    )


def _modelled(
    wy: FloatArray, base: FloatArray, terms: FloatArray, halves: npt.NDArray[np.bool_]
) -> FloatArray:
    """(n,) beta D of each user, beta from the other half, then shrunk by one number for all.

    With few effective sets beta is mostly noise; the number is what of it lowers the variance.
    """
    residual = wy - wy.sum() / base.sum() * base
    both = np.c_[terms, residual]
    of_all, half = both.T @ both, both[halves]
    of_half = half.T @ half
    fitted = np.empty(len(wy))
    for mine, moments in ((halves, of_all - of_half), (~halves, of_half)):
        beta = np.linalg.pinv(moments[:-1, :-1], rcond=1e-10, hermitian=True) @ moments[:-1, -1]
        np.copyto(fitted, terms @ beta, where=mine)
    square = float(fitted @ fitted)
    share = float(fitted @ residual) / square if square > 0 else 0.0
    return np.asarray(fitted * min(max(share, 0.0), 1.0))


def _ratios(by_name: dict[str, FloatArray], by_user: dict[str, FloatArray], policy: int) -> Ratios:
    """The estimates from sums by name, and the influences from what they are sums of."""
    found: dict[str, dict[str, FloatArray]] = {}
    influence: dict[str, dict[str, FloatArray]] = {}
    for estimand in ESTIMANDS:
        base = f"{policy} draw e" if estimand == "draw" else "units"
        wy, w, dr = (f"{policy} {estimand} {c}" for c in ("wy", "w", "dr"))
        found[estimand], influence[estimand] = {}, {}
        for estimator, (above, below) in zip(
            ESTIMATORS, ((wy, base), (wy, w), (dr, base)), strict=True
        ):
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = by_name[above] / by_name[below]
                moved = (by_user[above] - ratio[0] * by_user[below]) / by_name[below][0]
            found[estimand][estimator], influence[estimand][estimator] = ratio, moved
    per_unit = by_name[f"{policy} draw e"] / by_name["units"]
    return Ratios(found["draw"], found["set"], per_unit, influence)


def _valuation(estimand: str, mine: Ratios, theirs: Ratios, weights: Weights) -> Valuation:
    values, uplifts, relative = {}, {}, {}
    for name in ESTIMATORS:
        of, against = (getattr(r, estimand)[name] for r in (mine, theirs))
        a, b = (r.influence[estimand][name] for r in (mine, theirs))
        values[name] = _interval(of, a)
        uplifts[name] = _interval(of - against, a - b)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative[name] = _interval(of / against - 1.0, a - b * (of[0] / against[0]))
    return Valuation(estimand, values, uplifts, relative, weights)


def _interval(values: FloatArray, influence: FloatArray) -> Estimate:
    """The hull of the plain and the accelerated interval of (1 + B,) values.

    Under heavy weights each alone was seen to be too short in some worlds (benchmarks/coverage.py).
    """
    plain = estimate(values)
    moved = estimate(values, acceleration_of(influence))
    return Estimate(plain.value, min(plain.low, moved.low), max(plain.high, moved.high))
