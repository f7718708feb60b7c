"""The study: hold out, tune, retrieve with every arm and baseline, compare.

What the night of D drew decides every condition. What users did after D is read when the rankings
stand, to count hits; only the leakage gap, which asks what that would be worth, looks before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.evaluate.contest import Note, Train, enter, tuned
from pipelines.evaluate.figures import (
    KNOWERS,
    LEAKERS,
    REFERENCE,
    arm_row,
    leakage_rows,
    overlap_rows,
    pair_rows,
    random_topic_rows,
    sweep_rows,
    threshold_rows,
    trial_row,
)
from pipelines.evaluate.material import Material, StudyOptions
from retrieval.evaluation.baselines import Popularity
from retrieval.evaluation.measures import Comparison, Judge
from retrieval.evaluation.protocol import condition_cover, tail_topics, with_oracle_conditions


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
    scorers, trials = tuned(material, options.seed, note)
    counts = Popularity.fit(material.feedback, half_life_days=np.inf).counts
    judge = Judge(material.test, material.items, tail_topics(material.items, counts))
    oracle = replace(
        judge, held_out=with_oracle_conditions(material.test, material.items, options.seed)
    )
    contest = enter(material, scorers, train, options, note)
    arms = contest.judged(judge, note)
    leaking = contest.judged(oracle, note, {*KNOWERS, *LEAKERS})
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
        "rows": [arm_row(comparison, name, contest.arms.get(name)) for name in arms],
        "pairs": pair_rows(comparison, arms),
        "overlap": overlap_rows(comparison, arms),
        "leakage": leakage_rows(comparison, leaking),
        "thresholds": threshold_rows(comparison, judge, contest.runs[0], options.seed, note),
        "random_topics": random_topic_rows(judge, contest.runs[0], options.seed, note),
        "sweep": sweep_rows(judge, oracle, train, options, note) if train and options.sweep else [],
        "tuning": [trial_row(t) for t in trials],
    }
