"""The rows of a study: arms, pairs, leakage, filters, models trained otherwise; as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.evaluate.arms import ARMS, Arm, Engine, judge_arm
from pipelines.evaluate.contest import Note, Train
from pipelines.evaluate.material import StudyOptions
from profiling.bootstrap import Estimate
from retrieval.evaluation.measures import AT, Comparison, Judge, UserScores
from retrieval.evaluation.protocol import with_random_conditions
from retrieval.evaluation.tuning import Trial

HIT_RATE = f"hit_rate_{AT}"
REFERENCE = "als_prior"
# Whose gap between the label's condition and the real one says what the oracle itself knows.
KNOWERS = ("popularity_filter", "als_prior_filter", "lr_filter")
LEAKERS = ("cr", "cr_filter")
UNTOLD = "_without_query_item"
THRESHOLDS = (0.25, 0.5, 0.75, 1.0)  # least confidence of the condition's topic
VARIED: Mapping[str, tuple[Any, ...]] = {
    "context_dropout": (0.0, 0.3, 0.5, 0.8),
    "condition": ("uniform", "confidence", "inverse_popularity", "all"),
}
# Worth an interval of their own, where both are there: the first less the second.
PAIRS = (
    ("lr", "als_prior"), ("cr", "lr_filter"), ("cr", "als_prior_filter"),
    ("cr_unconditioned", "lr"), ("night", "index"), ("night", "item_knn"),
    ("cr_mixed", "index"), ("cr_mixed", "item_knn"),
    ("cr_filter", "lr_filter"), ("lr_filter", "als_prior_filter"), ("lr", "item_knn"),
)  # fmt: skip


def arm_row(comparison: Comparison, name: str, arm: Arm | None) -> dict[str, Any]:
    """One arm, or a baseline: None."""
    scores = comparison.arms[name]
    row: dict[str, Any] = {"arm": name, "kind": "arm" if arm else "baseline"}
    best = comparison.figure(name, HIT_RATE)
    for figure in scores.names:
        found = comparison.figure(name, figure)
        row[figure] = None if found is None else found.value
        if figure == HIT_RATE and best is not None:
            row |= {"low": best.low, "high": best.high}
    if arm is not None and arm.free in comparison.arms:
        row["kept_share"] = comparison.value(arm.free, "kept_share")
    kept = row.get("kept_share")
    row["cost_per_kept"] = 1.0 / kept if kept else None
    row["coverage"] = scores.coverage
    if REFERENCE in comparison.arms:
        row |= _interval("difference", comparison.difference(name, REFERENCE, HIT_RATE))
    return row


def pair_rows(comparison: Comparison, arms: Mapping[str, UserScores]) -> list[dict[str, Any]]:
    """Paired differences of `PAIRS`."""
    return [
        {"first": first, "second": second}
        | _interval("difference", comparison.difference(first, second, HIT_RATE))
        for first, second in PAIRS
        if first in arms and second in arms
    ]


def overlap_rows(comparison: Comparison, arms: Mapping[str, UserScores]) -> list[dict[str, Any]]:
    """How alike a user's slots are, with the query's item told to the model and without.

    One row for all pairs of slots, one for those held to the same topics, which nothing but the
    item tells apart.
    """
    found = []
    for name in LEAKERS:
        without = f"{name}{UNTOLD}"
        for figure in ("slot_overlap", "slot_overlap_alike") if name in arms else ():
            if comparison.value(name, figure) is None:
                continue
            row: dict[str, Any] = {
                "arm": name,
                "pairs": "all" if figure == "slot_overlap" else "same topics",
            }
            row |= {"number": int(arms[name].below[:, arms[name].names.index(figure)].sum())}
            row |= {"with": comparison.value(name, figure)}
            row |= {"without": comparison.value(without, figure)}
            row |= _interval("difference", comparison.difference(name, without, figure))
            found.append(row)
    return found


def leakage_rows(comparison: Comparison, arms: Mapping[str, UserScores]) -> list[dict[str, Any]]:
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


def threshold_rows(
    comparison: Comparison, judge: Judge, engines: Mapping[str, Engine], seed: int, note: Note
) -> list[dict[str, Any]]:
    """Relevance against the filter: the surer a kept item's topic has to be, the fewer are kept.

    Of the first training seed, but for no filter at all, which is a row of `comparison`.
    """
    found = []
    for name in ("index", "lr_filter", "cr_filter"):
        arm = ARMS[name]
        if arm.engine not in engines:
            continue
        found.append(_threshold_row(name, 0.0, comparison, arm.free))
        for threshold in THRESHOLDS:
            note(f"{name}, confidence from {threshold:g}")
            scores = judge_arm(judge, arm, engines[arm.engine], threshold)
            found.append(_threshold_row(name, threshold, Comparison({name: scores}, seed), name))
    return found


def _threshold_row(
    name: str, threshold: float, comparison: Comparison, judged: str
) -> dict[str, Any]:
    row = _interval(HIT_RATE, comparison.figure(judged, HIT_RATE))
    match = comparison.value(judged, "topic_match")
    return {"arm": name, "threshold": threshold, **row, "topic_match": match}


def random_topic_rows(
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


def sweep_rows(
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
                row = arm_row(comparison, name, ARMS[name]) | {"varied": option, "value": value}
                row["oracle"] = comparison.value("cr@oracle", HIT_RATE) if name == "cr" else None
                found.append(row)
    return found


def trial_row(trial: Trial) -> dict[str, Any]:
    """What a trial of a baseline reached; what is unbounded is null."""
    options = {k: v if np.isfinite(v) else None for k, v in trial.options.items()}
    return {"baseline": trial.baseline, "options": options, HIT_RATE: trial.hit_rate}


def _interval(name: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
