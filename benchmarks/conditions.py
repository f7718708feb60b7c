"""Logged conditions against those derived from the item: `python benchmarks/conditions.py`.

Two worlds of `pipelines.worlds.faceted`, 12 nights of training, the two days after are judged. In
the first an item is chosen for another reason under each of its topics, in the second (facets 0)
for the same under all: what the log still tells there is which of the topics the user cares for,
and that confidences mean nothing. All trainings of a world read the same pairs and histories, with
the same options, steps and seeds. They differ in where a pair's condition comes from: one of the
item's topics, drawn evenly, by confidence or by inverse popularity; or the one that it was engaged
under where that is known, in half of the pairs, and drawn evenly in the others (`logged_mixed`: in
four of five of them). `query_item` is off, so that nothing but the topic tells a condition, and
`history_share` is 0: everyone chooses within the topic.

Judged as `queryloop evaluate retrieval` does: conditions are the last night's draws, three a user,
what users knew is left out, HR@100 is the share of what they newly liked on the two days after,
under the draws of these days or without, among 100 items in all, slots in turns. CR + filter as in
the published table (.191 against .164), CR without filter beside. Means over training seeds; 95 %
intervals of paired differences, users resampled. Last line JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.evaluate.arms import ARMS, Engine, judge_arm
from pipelines.worlds.faceted import FacetedWorld, Log, cutoff_of_night
from profiling.actions import DEFAULT_ACTIONS
from profiling.schema import ints
from profiling.tables import PROFILES
from retrieval.encoders import ModelEncoder, encode_users
from retrieval.evaluation.measures import Comparison, Judge, UserScores, mean_scores
from retrieval.evaluation.protocol import hold_out
from retrieval.histories import HistoryConfig, build_histories
from retrieval.model.serving import RetrievalModel
from retrieval.model.towers import ModelConfig
from retrieval.pairs import make_pairs
from retrieval.training.learning import TrainingConfig
from retrieval.training.pools import Chunk
from retrieval.training.train import TrainingInputs, train

HISTORIES_READ = HistoryConfig(recent_items=50, clusters=0)
MODEL = ModelConfig(query_item=False)
TRAINING = TrainingConfig(history_share=0.0, logged_share=0.0)
SOURCES: Mapping[str, dict[str, Any]] = {
    "uniform": {"condition": "uniform"},
    "confidence": {"condition": "confidence"},
    "inverse_popularity": {"condition": "inverse_popularity"},
    "logged": {"condition": "uniform", "logged_share": 1.0},
    "logged_mixed": {"condition": "uniform", "logged_share": 0.8},
}
ITEM_DERIVED = ("uniform", "confidence", "inverse_popularity")
FIGURE = "hit_rate_100"


class Study(NamedTuple):
    """A world's log, cut at its last night."""

    world: FacetedWorld
    log: Log
    inputs: TrainingInputs
    judge: Judge

    @property
    def cutoff(self) -> int:
        """Of the last night."""
        return int(self.inputs.cutoffs[-1])


def study_of(world: FacetedWorld, nights: int, days: int = 2) -> Study:
    """The nights before the cut-off to learn from, the days after it to be judged by."""
    log, cutoffs = (
        world.log(nights + days),
        np.array([cutoff_of_night(n) for n in range(nights + 1)]),
    )
    args = (log.history, log.outcomes, log.queries, DEFAULT_ACTIONS)
    pairs = make_pairs(*args, cutoffs=cutoffs)
    none = PROFILES.empty()
    histories = build_histories(log.history, none, pairs, DEFAULT_ACTIONS, HISTORIES_READ)
    at = ints(log.history, "at")
    met = log.history.filter(pa.array(at < cutoffs[-1])).select(["user_id", "item_id"])
    later = log.history.filter(pa.array(at >= cutoffs[-1])).select(["user_id", "item_id"])
    nights_run = np.unique(ints(log.queries, "run_date"))
    last = log.queries.filter(pa.array(ints(log.queries, "run_date") == nights_run[nights]))
    judge = Judge(hold_out(last, later, met, world.items), world.items, np.zeros(0, np.int64))
    chunk = Chunk(histories, pairs)
    return Study(
        world, log, TrainingInputs([chunk], world.items, world.topics_table(), cutoffs), judge
    )


def scores_of(
    study: Study, training: TrainingConfig, model: ModelConfig, seed: int
) -> dict[str, UserScores]:
    """Train, and judge CR with and without filter."""
    trained = train(study.inputs, training, model, seed=seed)
    bound = RetrievalModel(trained, study.world.items, study.inputs.topics)
    users = pa.array(study.judge.held_out.users)
    encodings = encode_users(
        bound, study.log.history, PROFILES.empty(), users, DEFAULT_ACTIONS, HISTORIES_READ,
        cutoff=study.cutoff,
    )  # fmt: skip
    engine = Engine(bound.encode_items(study.world.items), ModelEncoder(bound, encodings))
    return {name: judge_arm(study.judge, ARMS[name], engine) for name in ("cr_filter", "cr")}


def compare(study: Study, names: tuple[str, ...], seeds: int) -> dict[str, Any]:
    """The means of every source over the seeds, and what `logged` gains on each of the others."""
    found: dict[str, UserScores] = {}
    for name in names:
        began = perf_counter()
        changed = TrainingConfig(**(vars(TRAINING) | SOURCES[name]))
        runs = [scores_of(study, changed, MODEL, seed) for seed in range(seeds)]
        for arm in runs[0]:
            found[f"{name}/{arm}"] = mean_scores([run[arm] for run in runs])
        seconds = (perf_counter() - began) / seeds
        print(f"  {name}: {seconds:.0f} s a training", file=sys.stderr, flush=True)
    comparison = Comparison(found, seed=0)
    rows: dict[str, Any] = {}
    for name in names:
        row: dict[str, Any] = {}
        for arm in ("cr_filter", "cr"):
            row[arm] = comparison.value(f"{name}/{arm}", FIGURE)
            gain = comparison.difference(f"logged/{arm}", f"{name}/{arm}", FIGURE)
            row[f"{arm}_logged_gain"] = [gain.value, gain.low, gain.high]
        row["topic_match"] = comparison.value(f"{name}/cr", "topic_match")
        rows[name] = row
    return rows


def print_rows(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """HR@100 in percent, and the gain of logged conditions with its interval."""
    gains = f"{'logged gains':>24}"
    print(f"{'conditions':<20}{'CR+filter':>10}{gains}{'CR':>10}{gains}{'match':>8}")
    for name, row in rows.items():
        cells = [f"{name:<20}"]
        for arm in ("cr_filter", "cr"):
            gain, low, high = (100 * g for g in row[f"{arm}_logged_gain"])
            told = "" if name == "logged" else f"{gain:+.2f} ({low:+.2f}..{high:+.2f})"
            cells.append(f"{100 * row[arm]:>10.2f}{told:>24}")
        print("".join(cells) + f"{100 * row['topic_match']:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--nights", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="trainings that each row is a mean of")
    parser.add_argument("--world", type=int, default=0, help="seed of the worlds")
    given = parser.parse_args()
    last: dict[str, Any] = {}
    for facets, names in ((1.0, tuple(SOURCES)), (0.0, ("uniform", "confidence", "logged"))):
        world = FacetedWorld.create(
            given.users, given.items, given.topics, facets=facets, seed=given.world
        )
        study = study_of(world, given.nights)
        held_out = study.judge.held_out
        pairs = study.inputs.source[0].pairs.num_rows  # type: ignore[index]
        print(
            f"facets {facets:g}: {pairs:,} pairs, {len(held_out.users):,} users with "
            f"{len(held_out.positives.values):,} positives after"
        )
        rows = compare(study, names, given.seeds)
        print_rows(rows)
        last[f"facets_{facets:g}"] = rows
    print(json.dumps(rounded(last)))


def rounded(value: Any) -> Any:
    """Numbers to four places."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [round(v, 4) for v in value] if isinstance(value, list) else round(value, 4)


if __name__ == "__main__":
    main()
