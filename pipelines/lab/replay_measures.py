"""What a replay says of each policy: its mean, its uplift over `counts`, and at what price.

The mean is the value of what was shown over the number shown, all seeds together. The uplift is
paired: both policies met the same users with the same outcomes, and every resample of users weighs
a user the same for both (`profiling.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.lab.replay import ORACLE, REFERENCE, Replayed, ReplayOptions
from profiling.bootstrap import estimate, resampled_sums
from profiling.schema import FloatArray, IntArray

TOP_SHARE = 0.1  # of the items, whose part of the exposures is told


def summarise(runs: Sequence[Replayed], options: ReplayOptions, *, users: int) -> dict[str, Any]:
    """The whole replay as plain JSON: a row per policy, over all nights and the first ones."""
    first = min(options.first_nights, options.nights)
    return {
        "users": users,
        "nights": options.nights,
        "seeds": options.seeds,
        "queries": options.queries,
        "per_query": options.per_query,
        "reference": REFERENCE,
        "rows": policy_rows(runs, options.names, options.nights),
        "first_nights": first,
        "first_rows": policy_rows(runs, options.names, first),
        "by_night": night_rows(runs, options),
    }


def policy_rows(
    runs: Sequence[Replayed], names: Sequence[str], nights: int
) -> list[dict[str, Any]]:
    """A row per policy over the first `nights`.

    Args:
        runs: Every policy and seed.
        names: The policies, the reference among them.
        nights: How many nights count.

    Returns:
        mean, uplift_pct with low and high (95 %), gini and top_share of the exposures over the
        items that anybody was shown, draws, empty_draws, and users stopped at the end.
    """
    columns = [_by_user(runs, name, nights) for name in names]
    sums = resampled_sums(np.concatenate(columns, axis=1), seed=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = {name: sums[:, 2 * i] / sums[:, 2 * i + 1] for i, name in enumerate(names)}
        uplifts = {n: estimate(100.0 * (means[n] / means[REFERENCE] - 1.0)) for n in names}
    shown = np.sum([run.exposures for run in runs], axis=0) > 0
    return [
        {
            "policy": name,
            "mean": _number(means[name][0]),
            "uplift_pct": _number(uplifts[name].value),
            "low": _number(uplifts[name].low),
            "high": _number(uplifts[name].high),
            **_price([r for r in runs if r.policy == name], shown, nights),
        }
        for name in names
    ]


def night_rows(runs: Sequence[Replayed], options: ReplayOptions) -> list[dict[str, Any]]:
    """A row per policy and night: the mean value, with its interval, and how many users went on."""
    rows = []
    for name in options.names:
        mine = [run for run in runs if run.policy == name]
        values = np.sum([run.values for run in mine], axis=0).T
        shown = np.sum([run.shown for run in mine], axis=0).T
        sums = resampled_sums(np.concatenate([values, shown], axis=1), seed=0)
        for night in range(options.nights):
            with np.errstate(divide="ignore", invalid="ignore"):
                found = estimate(sums[:, night] / sums[:, options.nights + night])
            rows.append(
                {
                    "policy": name,
                    "night": night + 1,
                    "mean": _number(found.value),
                    "low": _number(found.low),
                    "high": _number(found.high),
                    "shown": int(shown[:, night].sum()),
                    "stopped": round(float(np.mean([run.dry[night] for run in mine])), 3),
                    "idle": round(float(np.mean([run.idle[night] for run in mine])), 3),
                }
            )
    return rows


def concentration(exposures: IntArray) -> tuple[float, float]:
    """How unevenly (n,) exposures fall on the items.

    Returns:
        Their Gini coefficient, `sum_i (2 i - n - 1) x_i / (n sum x)` with x ascending: 0 where all
        are alike, (n - 1) / n where one item has all; and the share of the first tenth of the
        items. NaN for no exposures.
    """
    x, n = np.sort(exposures).astype(np.float64), len(exposures)
    total = x.sum()
    if not total:
        return float("nan"), float("nan")
    gini = float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * total))
    top = x[n - max(1, round(TOP_SHARE * n)) :].sum() / total
    return gini, float(top)


def _by_user(runs: Sequence[Replayed], name: str, nights: int) -> FloatArray:
    """(u, 2) sums of value and of items shown, over nights and seeds."""
    mine = [run for run in runs if run.policy == name]
    value = np.sum([run.values[:nights].sum(axis=0) for run in mine], axis=0)
    return np.stack([value, np.sum([run.shown[:nights].sum(axis=0) for run in mine], axis=0)], 1)


def _price(runs: Sequence[Replayed], shown: np.ndarray, nights: int) -> dict[str, Any]:
    """What a policy did for it: exposures of all nights, draws and stopped users of these."""
    exposures = np.sum([run.exposures for run in runs], axis=0)[shown]
    gini, top = concentration(exposures)
    return {
        "gini": _number(gini),
        "top_share": _number(top),
        "draws": int(sum(run.draws[:nights].sum() for run in runs)),
        "empty_draws": int(sum(run.empty[:nights].sum() for run in runs)),
        "stopped": round(float(np.mean([run.dry[nights - 1] for run in runs])), 3),
        "idle": round(float(np.mean([run.idle[nights - 1] for run in runs])), 3),
        "bound": runs[0].policy in (ORACLE, "uniform"),
    }


def _number(value: float) -> float | None:
    """As JSON has it."""
    return float(value) if np.isfinite(value) else None
