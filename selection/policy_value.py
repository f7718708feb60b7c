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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiling.bootstrap import RESAMPLES, Estimate, estimate, resampled_sums
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


def compare_policies(
    sums: UserSums,
    of: int,
    against: int,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Comparison:
    """The value of one policy, and its difference to another.

    Args:
        sums: Of the log.
        of: Place of the policy in them.
        against: Place of the other.
        seed: Of the resamples and the halves.
        resamples: Poisson resamples of users.

    Raises:
        ValueError: There is no user.
    """
    if not len(sums.users):
        raise ValueError("there is no draw to evaluate: no user was drawn for in these nights")
    columns = user_columns(sums, (of, against), seed)
    totals = resampled_sums(np.stack(list(columns.values()), axis=1), seed, resamples)
    by_name = dict(zip(columns, totals.T, strict=True))
    return comparison_of(by_name, sums, of)


def user_columns(sums: UserSums, policies: tuple[int, int], seed: int) -> dict[str, FloatArray]:
    """(n,) sums by user whose ratios the estimates are; keys `units` and `0 draw wy` and so on."""
    halves = hash64(seed, "half", sums.users) % np.uint64(2) == 0
    units = sums.log[:, LOG.index("nights")]
    columns = {"units": units}
    for place, policy in enumerate(policies):
        for estimand in ESTIMANDS:
            wy, w = (sums.column(policy, f"{estimand}_{c}") for c in ("wy", "w"))
            base = sums.column(policy, "draw_e") if estimand == "draw" else units
            terms = np.stack([sums.column(policy, f"{estimand}_x_{f}") for f in FEATURES], axis=1)
            values = {"wy": wy, "w": w, "dr": wy - _modelled(wy, base, terms, halves)}
            if estimand == "draw":
                values["e"] = base
            columns |= {f"{place} {estimand} {c}": v for c, v in values.items()}
    return columns


def comparison_of(by_name: dict[str, FloatArray], sums: UserSums, of: int) -> Comparison:
    """The comparison from (1 + B,) sums and resampled sums of `user_columns`."""
    ratios = {e: [_ratios(by_name, place, e) for place in (0, 1)] for e in ESTIMANDS}
    found = {
        e: _valuation(e, ratios[e][0], ratios[e][1], effective_weights(sums, of, e))
        for e in ESTIMANDS
    }
    per_unit = by_name["0 draw e"] / by_name["units"]
    competing = ratios["set"][0]["dr"] - ratios["draw"][0]["dr"] * per_unit
    return Comparison(found["draw"], found["set"], estimate(competing))


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
    fitted = np.empty(len(wy))
    for half in (halves, ~halves):
        d = terms[~half]
        beta = np.linalg.pinv(d.T @ d, rcond=1e-10, hermitian=True) @ (d.T @ residual[~half])
        fitted[half] = terms[half] @ beta
    square = float(fitted @ fitted)
    share = float(fitted @ residual) / square if square > 0 else 0.0
    return fitted * min(max(share, 0.0), 1.0)


def _ratios(by_name: dict[str, FloatArray], place: int, estimand: str) -> dict[str, FloatArray]:
    wy, w, dr = (by_name[f"{place} {estimand} {c}"] for c in ("wy", "w", "dr"))
    base = by_name[f"{place} draw e"] if estimand == "draw" else by_name["units"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"ips": wy / base, "snips": wy / w, "dr": dr / base}


def _valuation(
    estimand: str,
    of: dict[str, FloatArray],
    against: dict[str, FloatArray],
    weights: Weights,
) -> Valuation:
    with np.errstate(divide="ignore", invalid="ignore"):
        return Valuation(
            estimand,
            {name: estimate(of[name]) for name in ESTIMATORS},
            {name: estimate(of[name] - against[name]) for name in ESTIMATORS},
            {name: estimate(of[name] / against[name] - 1.0) for name in ESTIMATORS},
            weights,
        )
