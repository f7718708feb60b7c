"""The study: hold out, tune, retrieve with every arm and baseline, compare.

    train until D  | D+1 ... D+days: what users like there, and did not know, is to be found
    tuning:  ... D-v | D-v+1 ... D

What the night of D drew decides every condition. What users did after D is read when the rankings
stand, to count hits; only the leakage gap, which asks what that would be worth, looks before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.config import NightConfig
from pipelines.evaluate.arms import ARMS, Engine, judge_arm, judge_scorer
from pipelines.evaluate.log import items_of, liked_actions, night_queries, read_log
from pipelines.plan import cutoff_of
from pipelines.warehouse import Warehouse
from profiling.bootstrap import Estimate
from profiling.decay import DAY_US
from profiling.items import Items
from profiling.schema import ints
from retrieval.baselines import Feedback, Popularity, Scorer, WithPrior
from retrieval.encoders import ItemEncoder
from retrieval.evaluation import AT, Comparison, Judge, UserScores, mean_scores
from retrieval.protocol import (
    HeldOut,
    condition_cover,
    hold_out,
    tail_topics,
    with_oracle_conditions,
    with_random_conditions,
)
from retrieval.tuning import TRIED, Trial, fit_baseline, tune_baselines

HIT_RATE = f"hit_rate_{AT}"
REFERENCE = "als_prior"
FILTERED = "_filter"
# Whose gap between the label's condition and the real one says what the oracle itself knows.
KNOWERS = ("popularity_filter", "als_prior_filter", "lr_filter")
LEAKERS = ("cr", "cr_filter")
THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # least confidence of the condition's topic; 0: no filter
# Worth an interval of their own, where both are there (first less second).
WITHOUT_CONDITION = {"none_share": 1.0}  # what makes LR of CR
VARIED: Mapping[str, tuple[Any, ...]] = {
    "context_dropout": (0.0, 0.3, 0.5, 0.8),
    "condition": ("uniform", "confidence", "inverse_popularity", "all"),
}
PAIRS = (
    ("lr", "als_prior"), ("cr", "lr_filter"), ("cr", "als_prior_filter"),
    ("cr_unconditioned", "lr"), ("cr_mixed", "index"), ("cr_mixed", "item_knn"),
    ("cr_filter", "lr_filter"), ("lr_filter", "als_prior_filter"), ("lr", "item_knn"),
)  # fmt: skip

Note = Callable[[str], None]
Train = Callable[[int, Mapping[str, Any]], Engine]  # by seed and changes of the training's options


@dataclass(frozen=True)
class StudyOptions:
    """What is asked.

    Attributes:
        train_until: D, a night that was run.
        days: Days after it in which positives count.
        validation_days: Days up to D by which the baselines are tuned.
        actions: What counts as liked; empty: every action that is positive and of value above 0.
        seeds: Trainings that the figures of the learned arms are the mean of.
        seed: Of fits, resamples and subsets; of training, the first.
        sweep: Whether models of other context dropout and conditions are trained too.
    """

    train_until: dt.date
    days: int = 4
    validation_days: int = 3
    actions: tuple[str, ...] = ()
    seeds: int = 1
    seed: int = 0
    sweep: bool = False

    def __post_init__(self) -> None:
        for name in ("days", "validation_days", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Material:
    """What the study is made of.

    Attributes:
        test: Users, positives and the night's queries.
        validation: The same users' days before the cut-off; its conditions are not used.
        feedback: What may be learned from: positives before the cut-off.
        before: The same before the validation days.
    """

    items: Items
    test: HeldOut
    validation: HeldOut
    feedback: Feedback
    before: Feedback
    actions: tuple[str, ...]


def gather(warehouse: Warehouse, config: NightConfig, options: StudyOptions) -> Material:
    """Read the warehouse and split it by time.

    Raises:
        ValueError: The night was not run, or there is nothing to evaluate or to learn from.
    """
    items = items_of(warehouse, warehouse.night(options.train_until))
    queries = night_queries(warehouse, options.train_until, config)
    names = liked_actions(config.actions, options.actions)
    cutoff = cutoff_of(options.train_until)
    middle, end = cutoff - options.validation_days * DAY_US, cutoff + options.days * DAY_US
    log = read_log(warehouse, names, end)
    every = read_log(warehouse, liked_actions(config.actions, ()), cutoff)
    users, rows, at = (ints(every.positives, n) for n in ("user_id", "item_id", "at"))
    try:
        validation = hold_out(queries, log.liked(middle, cutoff), log.met(middle), items)
    except ValueError as error:
        raise ValueError(f"{error} (of the {options.validation_days} validation days)") from None
    return Material(
        items=items,
        test=hold_out(queries, log.liked(cutoff, end), log.met(cutoff), items),
        validation=validation,
        feedback=Feedback.of(users, rows, at, items, cutoff),
        before=Feedback.of(users, rows, at, items, middle),
        actions=names,
    )


def run_study(
    material: Material, options: StudyOptions, train: Train | None, note: Note
) -> dict[str, Any]:
    """Everything that the command prints, as plain JSON.

    Args:
        material: Of `gather`.
        options: What is asked.
        train: Trains the learned arms; None: baselines and INDEX alone.
        note: Told what begins.
    """
    scorers, trials = _tuned(material, options.seed, note)
    counts = Popularity.fit(material.feedback, half_life_days=np.inf).counts
    judge = Judge(material.test, material.items, tail_topics(material.items, counts))
    oracle = replace(
        judge, held_out=with_oracle_conditions(material.test, material.items, options.seed)
    )
    runs = _engines(material.items, train, options, note)
    arms = _judged(judge, scorers, runs, note)
    leaking = _judged(oracle, scorers, runs, note, {*KNOWERS, *LEAKERS})
    comparison = Comparison(
        arms | {f"{name}@oracle": scores for name, scores in leaking.items()}, options.seed
    )
    return {
        "train_until": options.train_until.isoformat(),
        "days": options.days,
        "actions": list(material.actions),
        "users": len(judge.held_out.users),
        "positives": len(judge.held_out.positives.values),
        "slots": judge.held_out.queries.num_rows,
        "items": len(material.items.ids),
        "condition_cover": condition_cover(judge.held_out, material.items),
        "tail_topics": judge.tail.tolist(),
        "seeds": options.seeds if train else 0,
        "reference": REFERENCE,
        "rows": [_row(comparison, name) for name in arms],
        "pairs": _pairs(comparison, arms),
        "leakage": _leakage(comparison, leaking),
        "thresholds": _thresholds(judge, runs[0], options.seed, note),
        "random_topics": _random_topics(judge, runs[0], options.seed, note),
        "sweep": _sweep(judge, oracle, train, options, note) if train and options.sweep else [],
        "tuning": [_trial(t) for t in trials],
    }


def _tuned(
    material: Material, seed: int, note: Note
) -> tuple[dict[str, Scorer], tuple[Trial, ...]]:
    """Every baseline with the options that did best, refitted up to the cut-off."""
    tuned = tune_baselines(material.before, material.validation, seed, note, TRIED)
    prior = Popularity.fit(material.feedback, **tuned.options["popularity"])
    scorers: dict[str, Scorer] = {"popularity": prior}
    for name in TRIED:
        if name != "popularity":
            note(f"fit {name}")
            fitted = fit_baseline(name, material.feedback, seed, tuned.options[name])
            scorers[name] = fitted
            scorers[f"{name}_prior"] = WithPrior(fitted, prior.counts, tuned.exponents[name])
    return scorers, tuned.trials


def _engines(
    items: Items, train: Train | None, options: StudyOptions, note: Note
) -> list[dict[str, Engine]]:
    """The engines of every training seed; INDEX has none."""
    own = {"items": Engine(items.vectors, ItemEncoder(items))}
    if train is None:
        return [own]
    runs = []
    for seed in range(options.seed, options.seed + options.seeds):
        note(f"train LR, seed {seed}")
        lr = train(seed, WITHOUT_CONDITION)
        note(f"train CR, seed {seed}")
        runs.append(own | {"lr": lr, "cr": train(seed, {})})
    return runs


def _judged(
    judge: Judge,
    scorers: Mapping[str, Scorer],
    runs: Sequence[Mapping[str, Engine]],
    note: Note,
    wanted: Iterable[str] | None = None,
) -> dict[str, UserScores]:
    """The figures of the wanted baselines and arms, all by default."""
    found: dict[str, UserScores] = {}
    chosen = None if wanted is None else set(wanted)
    for base, scorer in scorers.items():
        for name, conditioned in ((base, False), (base + FILTERED, True)):
            if chosen is None or name in chosen:
                note(name)
                found[name] = judge_scorer(judge, scorer, conditioned=conditioned)
    for name, arm in ARMS.items():
        if (chosen is None or name in chosen) and arm.engine in runs[0]:
            note(name)
            one = runs[:1] if arm.engine == "items" else runs
            found[name] = mean_scores([judge_arm(judge, arm, run[arm.engine]) for run in one])
    return found


def _row(comparison: Comparison, name: str) -> dict[str, Any]:
    """One arm or baseline."""
    scores = comparison.arms[name]
    row: dict[str, Any] = {"arm": name, "kind": "arm" if name in ARMS else "baseline"}
    best = comparison.figure(name, HIT_RATE)
    for figure in scores.names:
        found = comparison.figure(name, figure)
        row[figure] = None if found is None else found.value
        if figure == HIT_RATE and best is not None:
            row |= {"low": best.low, "high": best.high}
    kept = row.get("kept_share")
    row["cost_per_kept"] = 1.0 / kept if kept else None
    row["coverage"] = scores.coverage
    if REFERENCE in comparison.arms:
        row |= _interval("difference", comparison.difference(name, REFERENCE, HIT_RATE))
    return row


def _pairs(comparison: Comparison, arms: Mapping[str, UserScores]) -> list[dict[str, Any]]:
    return [
        {"first": first, "second": second}
        | _interval("difference", comparison.difference(first, second, HIT_RATE))
        for first, second in PAIRS
        if first in arms and second in arms
    ]


def _leakage(comparison: Comparison, arms: Mapping[str, UserScores]) -> list[dict[str, Any]]:
    """What conditions from the label would add, and how much of it the model itself leaks.

    What an arm gains beyond LR + filter, or a filtered baseline where no model is there, when both
    get the label's conditions, it knows from the condition alone: `leak`.
    """
    knower = next((name for name in reversed(KNOWERS) if name in arms), None)
    found = []
    for name in arms:
        gap = comparison.difference(f"{name}@oracle", name, HIT_RATE)
        row: dict[str, Any] = {"arm": name}
        row |= {"real": comparison.value(name, HIT_RATE)}
        row |= {"oracle": comparison.value(f"{name}@oracle", HIT_RATE)}
        row |= _interval("gap", gap)
        if name in LEAKERS and knower is not None:
            pair, over = (f"{name}@oracle", name), (f"{knower}@oracle", knower)
            row |= {"knower": knower}
            row |= _interval("leak", comparison.gain(HIT_RATE, pair, over))
        found.append(row)
    return found


def _thresholds(
    judge: Judge, engines: Mapping[str, Engine], seed: int, note: Note
) -> list[dict[str, Any]]:
    """Relevance against the filter: the surer a kept item's topic has to be, the fewer are kept."""
    found = []
    for threshold in THRESHOLDS:
        for name in ("index", "lr_filter", "cr_filter"):
            arm = ARMS[name]
            if arm.engine not in engines:
                continue
            note(f"{name}, confidence from {threshold:g}")
            if threshold == 0.0:
                arm = replace(arm, options=arm.unfiltered or arm.options, unfiltered=None)
            scores = judge_arm(judge, arm, engines[arm.engine], threshold)
            figures = Comparison({name: scores}, seed)
            found.append(
                {"arm": name, "threshold": threshold}
                | _interval(HIT_RATE, figures.figure(name, HIT_RATE))
                | {"topic_match": figures.value(name, "topic_match")}
            )
    return found


def _random_topics(
    judge: Judge, engines: Mapping[str, Engine], seed: int, note: Note
) -> list[dict[str, Any]]:
    """Whether the arms without filter hold to conditions that have nothing to do with the user."""
    held_out = with_random_conditions(judge.held_out, judge.items, seed)
    found = []
    for name in ("lr", "cr", "cr_without_query_item"):
        if ARMS[name].engine in engines:
            note(f"{name}, random topics")
            scores = judge_arm(replace(judge, held_out=held_out), ARMS[name], engines[name[:2]])
            match = Comparison({name: scores}, seed).figure(name, "topic_match")
            found.append({"arm": name} | _interval("topic_match", match))
    return found


def _sweep(
    judge: Judge, oracle: Judge, train: Train, options: StudyOptions, note: Note
) -> list[dict[str, Any]]:
    """CR trained otherwise, one option at a time; first training seed."""
    found = []
    for option, values in VARIED.items():
        for value in values:
            note(f"train CR, {option} {value}")
            engine = train(options.seed, {option: value})
            arms = {
                name: judge_arm(judge, ARMS[name], engine)
                for name in ("cr", "cr_filter", "cr_unconditioned")
            }
            arms["cr@oracle"] = judge_arm(oracle, ARMS["cr"], engine)
            comparison = Comparison(arms, options.seed)
            for name in ("cr", "cr_filter", "cr_unconditioned"):
                row = _row(comparison, name) | {"varied": option, "value": value}
                row["oracle"] = comparison.value("cr@oracle", HIT_RATE) if name == "cr" else None
                found.append(row)
    return found


def _trial(trial: Trial) -> dict[str, Any]:
    options = {k: v if np.isfinite(v) else None for k, v in trial.options.items()}
    return {"baseline": trial.baseline, "options": options, HIT_RATE: trial.hit_rate}


def _interval(name: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
