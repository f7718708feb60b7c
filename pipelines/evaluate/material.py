"""What a study is made of: who asks, what they like on the days after, what may be learned from.

train until D  | D+1 ... D+days: what users like there, and did not know, is to be found
tuning:  ... D-v | D-v+1 ... D
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from pipelines.config import NightConfig
from pipelines.evaluate.log import items_of, liked_actions, night_queries, read_log
from pipelines.plan import cutoff_of
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US
from profiling.items import Items
from profiling.schema import ints
from retrieval.candidates import RetrievalConfig
from retrieval.evaluation.baselines import Feedback
from retrieval.evaluation.protocol import HeldOut, hold_out


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
        actions: What counts as liked.
        retrieval: How the nights of the warehouse are served.
    """

    items: Items
    test: HeldOut
    validation: HeldOut
    feedback: Feedback
    before: Feedback
    actions: tuple[str, ...]
    retrieval: RetrievalConfig


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
        retrieval=config.retrieval,
    )
