"""Baselines are tuned too: each gets the same number of trials on days before the cut-off.

An untuned matrix factorisation is no baseline: on KuaiRand the library's defaults find less than
item-kNN does, tuned settings more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiling.hashing import uniforms
from retrieval.evaluation.baselines import (
    Feedback,
    ItemKnn,
    Popularity,
    Scorer,
    WithPrior,
    fit_als,
    fit_bpr,
    rank,
)
from retrieval.evaluation.measures import AT, count_hits
from retrieval.evaluation.protocol import HeldOut

TRIALS = 8
VALIDATED_USERS = 4000  # at most; chosen by hash
_ENDLESS = float("inf")

# Each baseline's trials: popularity by how fast it forgets, the others by what moves them most.
TRIED: Mapping[str, tuple[dict[str, Any], ...]] = {
    "popularity": tuple(
        {"half_life_days": days} for days in (0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 14.0, _ENDLESS)
    ),
    "item_knn": tuple(
        {"neighbours": neighbours, "shrink": shrink, "half_life_days": half_life}
        for neighbours in (100, 300)
        for shrink in (5.0, 20.0)
        for half_life in (7.0, _ENDLESS)
    ),
    "als": tuple(
        {"factors": factors, "regularization": strength, "alpha": alpha, "iterations": 10}
        | {"half_life_days": _ENDLESS}
        for factors, strength, alpha in (
            (32, 10.0, 10.0), (32, 100.0, 10.0), (64, 30.0, 10.0), (64, 100.0, 10.0),
            (64, 100.0, 30.0), (64, 200.0, 10.0), (128, 100.0, 10.0), (128, 200.0, 10.0),
        )
    ),
    "bpr": tuple(
        {"factors": 64, "learning_rate": rate, "regularization": strength, "iterations": steps}
        for rate in (0.01, 0.02)
        for strength in (0.01, 0.1)
        for steps in (60, 150)
    ),
}  # fmt: skip
PRIOR_EXPONENTS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25)


@dataclass(frozen=True)
class Trial:
    """What some options of a baseline reached on the validation days: hit rate at 100."""

    baseline: str
    options: Mapping[str, Any]
    hit_rate: float


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Attributes:
        options: Of each baseline.
        exponents: Of the prior on each baseline but popularity.
        trials: All, in the order tried.
    """

    options: Mapping[str, Mapping[str, Any]]
    exponents: Mapping[str, float]
    trials: tuple[Trial, ...]


def fit_baseline(name: str, feedback: Feedback, seed: int, options: Mapping[str, Any]) -> Scorer:
    """Fit one of `TRIED` by its name."""
    fitters: dict[str, Callable[..., Scorer]] = {
        "popularity": Popularity.fit,
        "item_knn": ItemKnn.fit,
        "als": lambda log, **given: fit_als(log, seed, **given),
        "bpr": lambda log, **given: fit_bpr(log, seed, **given),
    }
    return fitters[name](feedback, **options)


def tune_baselines(
    feedback: Feedback,
    validation: HeldOut,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
    tried: Mapping[str, tuple[dict[str, Any], ...]] = TRIED,
) -> Tuned:
    """Try what `tried` lists, then the exponents of the prior on the best of each.

    Args:
        feedback: Before the validation days.
        validation: What users liked on them.
        seed: Of the fits.
        note: Told of every trial that begins.
        tried: Options by baseline; `popularity` among them, since it makes the prior.
    """
    validation = _some_users(validation, seed)
    trials: list[Trial] = []
    options: dict[str, Mapping[str, Any]] = {}
    exponents: dict[str, float] = {}

    def judge(name: str, given: Mapping[str, Any], scorer: Scorer) -> float:
        trials.append(Trial(name, given, hit_rate(scorer, validation)))
        return trials[-1].hit_rate

    for name in sorted(tried, key=lambda each: (each != "popularity", each)):
        best: tuple[float, Scorer] | None = None
        for given in tried[name]:
            note(f"{name} {_text(given)}")
            scorer = fit_baseline(name, feedback, seed, given)
            rate = judge(name, given, scorer)
            if best is None or rate > best[0]:
                best, options[name] = (rate, scorer), given
        if name == "popularity" or best is None:
            continue
        prior = Popularity.fit(feedback, **options["popularity"]).counts
        rates = []
        for exponent in PRIOR_EXPONENTS:
            note(f"{name} with prior^{exponent:g}")
            scorer = WithPrior(best[1], prior, exponent)
            rates.append(judge(f"{name}_prior", {"exponent": exponent}, scorer))
        exponents[name] = PRIOR_EXPONENTS[int(np.argmax(rates))]
    return Tuned(options, exponents, tuple(trials))


def hit_rate(scorer: Scorer, held_out: HeldOut) -> float:
    """Share of the positives found among the first 100."""
    hits = count_hits(rank(scorer, held_out, AT).rows, held_out.positives, held_out.n_items)
    return float(hits.sum() / len(held_out.positives.values))


def _some_users(held_out: HeldOut, seed: int) -> HeldOut:
    users = len(held_out.users)
    if users <= VALIDATED_USERS:
        return held_out
    draw = uniforms(seed, "validation", held_out.users)
    return held_out.take(draw <= np.partition(draw, VALIDATED_USERS - 1)[VALIDATED_USERS - 1])


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in options.items())
