"""Who is compared: baselines with tuned options, arms with models of every training seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluate.arms import (
    ARMS,
    NIGHT,
    Arm,
    Engine,
    judge_arm,
    judge_scorer,
    night_arm,
)
from pipelines.evaluate.material import Material, StudyOptions
from retrieval.encoders import ItemEncoder
from retrieval.evaluation.baselines import Popularity, Scorer, WithPrior
from retrieval.evaluation.measures import Judge, UserScores, mean_scores
from retrieval.evaluation.tuning import TRIED, Trial, fit_baseline, tune_baselines

FILTERED = "_filter"
WITHOUT_CONDITION = {"none_share": 1.0}  # what makes LR of CR

Note = Callable[[str], None]
Train = Callable[[int, Mapping[str, Any]], Engine]  # by seed and changes of the training's options


def tuned(material: Material, seed: int, note: Note) -> tuple[dict[str, Scorer], tuple[Trial, ...]]:
    """Every baseline with the options that did best, refitted up to the cut-off."""
    found = tune_baselines(material.before, material.validation, seed, note, TRIED)
    prior = Popularity.fit(material.feedback, **found.options["popularity"])
    scorers: dict[str, Scorer] = {"popularity": prior}
    for name in TRIED:
        if name != "popularity":
            note(f"fit {name}")
            fitted = fit_baseline(name, material.feedback, seed, found.options[name])
            scorers[name] = fitted
            scorers[f"{name}_prior"] = WithPrior(fitted, prior.counts, found.exponents[name])
    return scorers, found.trials


@dataclass(frozen=True)
class Contest:
    """Whoever is compared.

    Attributes:
        scorers: Baselines; each stands free and inside the conditions.
        arms: Ways through step 5.
        runs: The engines of every training seed.
    """

    scorers: Mapping[str, Scorer]
    arms: Mapping[str, Arm]
    runs: Sequence[Mapping[str, Engine]]

    def judged(
        self, judge: Judge, note: Note, wanted: Iterable[str] | None = None
    ) -> dict[str, UserScores]:
        """The figures of the wanted baselines and arms, all by default."""
        found: dict[str, UserScores] = {}
        chosen = None if wanted is None else set(wanted)
        for base, scorer in self.scorers.items():
            for name, conditioned in ((base, False), (base + FILTERED, True)):
                if chosen is None or name in chosen:
                    note(name)
                    found[name] = judge_scorer(judge, scorer, conditioned=conditioned)
        for name, arm in self.arms.items():
            if (chosen is None or name in chosen) and arm.engine in self.runs[0]:
                note(name)
                runs = self.runs[:1] if arm.engine == "items" else self.runs
                found[name] = mean_scores([judge_arm(judge, arm, run[arm.engine]) for run in runs])
        return found


def enter(
    material: Material,
    scorers: Mapping[str, Scorer],
    train: Train | None,
    options: StudyOptions,
    note: Note,
) -> Contest:
    """Train the models of every seed; INDEX has none."""
    own = {"items": Engine(material.items.vectors, ItemEncoder(material.items))}
    if train is None:
        return Contest(scorers, ARMS, [own])
    runs = []
    for seed in range(options.seed, options.seed + options.seeds):
        note(f"train LR, seed {seed}")
        lr = train(seed, WITHOUT_CONDITION)
        note(f"train CR, seed {seed}")
        runs.append(own | {"lr": lr, "cr": train(seed, {})})
    return Contest(scorers, {**ARMS, NIGHT: night_arm(material.retrieval)}, runs)
