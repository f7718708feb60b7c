"""Profiles on trial: what stands for a user at a cut-off, judged by the days after it.

history until D (window and number of items of the configuration) | D+1 ... D+days: new items liked
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import NightConfig
from pipelines.evaluate.contest import Note
from pipelines.evaluate.log import EventLog, liked_actions, read_log
from pipelines.evaluate.orderings import (
    ENTRIES,
    LAST_ITEM,
    NIGHT,
    Entry,
    arm,
    ordering_rows,
)
from pipelines.plan import cutoff_of, date_of, open_items
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US
from profiling.hashing import hash64
from profiling.items import Items
from profiling.options import check_options, option
from profiling.schema import IntArray, ints
from retrieval.evaluation.clusterings import Histories
from retrieval.evaluation.measures import Comparison
from retrieval.evaluation.nearness import EVERY, FIGURES, Rules, Sought, judge_chosen
from retrieval.evaluation.protocol import split_pairs
from retrieval.evaluation.representatives import METHODS, Trial

DEPTHS = (1, 2, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class TrialOptions:
    """What is asked.

    Attributes:
        until: D, the last day of the histories; None: the last of the log that leaves `days`.
        actions: What counts as liked after it; empty: every positive action of value above 0.
    """

    until: dt.date | None = None
    days: int = option(4, "days after it to judge by", low=1)
    actions: tuple[str, ...] = ()
    representatives: int = option(
        3, "vectors that stand for a user in the main table (PinnerSage serves 3)", low=1, high=7
    )
    candidates: int = option(400, "items asked for a user, over all vectors (PinnerSage)", low=7)
    threshold: float = option(
        0.8, "least cosine of what is relevant (PinnerSage)", low=-1.0, high=1.0
    )
    draws: int = option(5, "draws of interests to average over", low=1)
    users: int = option(20_000, "users at most, chosen by hash", low=1)
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class TrialMaterial:
    """Who is tried, by what, until when."""

    items: Items
    histories: Histories
    sought: Sought
    until: dt.date
    actions: tuple[str, ...]
    alpha: float
    options: TrialOptions


def gather_trial(
    warehouse: Warehouse, config: NightConfig, options: TrialOptions, note: Note
) -> TrialMaterial:
    """Read the log and split it by time; users are those with a history and something to find.

    Raises:
        ValueError: There is nothing to evaluate.
    """
    note("read the log")
    until = options.until or _last_day(warehouse) - dt.timedelta(days=options.days)
    cutoff = cutoff_of(until)
    end = cutoff + options.days * DAY_US
    wanted = liked_actions(config.actions, options.actions)
    items = open_items(warehouse.root, warehouse.catalogue()["ITEMS"])
    log = read_log(warehouse, wanted, end)
    liked, met = log.liked(cutoff, end), log.met(cutoff)
    events = _profiled(warehouse, config, cutoff, items)
    users = np.unique(ints(events, "user_id"))
    kept = np.diff(split_pairs(users, liked, met, items)[0].offsets) > 0
    if not kept.any():
        raise ValueError(
            f"nothing to evaluate: of {len(users):,} users with a positive engagement up to "
            f"{until} none has one with a new item among {liked.num_rows:,} on the {options.days} "
            "days after; choose another --until, more days, or other actions"
        )
    users = _some(users[kept], options)
    events = events.filter(pc.is_in(events["user_id"], value_set=pa.array(users)))
    histories = Histories.of(events, items, config.profiles, config.actions)
    sought = Sought(*split_pairs(histories.users, liked, met, items))
    return TrialMaterial(items, histories, sought, until, wanted, config.profiles.alpha, options)


def _last_day(warehouse: Warehouse) -> dt.date:
    """The day of the last engagement or line that landed."""
    parts = [
        part.last_at
        for landing in warehouse.landings()
        for file in landing.tables.get("ENGAGEMENTS", ())
        for part in file.parts
    ]
    if not parts:
        raise ValueError(
            f"nothing to evaluate: {warehouse.root} holds no engagements; run `queryloop import`"
        )
    return date_of(max(parts))


def _profiled(warehouse: Warehouse, config: NightConfig, cutoff: int, items: Items) -> pa.Table:
    """What profiles are made of: positive engagements before the cut-off with known items."""
    names = [action.name for action in config.actions if action.positive]
    log: EventLog = read_log(warehouse, names, cutoff)
    known = items.rows_of(ints(log.positives, "item_id")) >= 0
    return log.positives.filter(pa.array(known))


def _some(users: IntArray, options: TrialOptions) -> IntArray:
    """At most `options.users` of them, by hash, ascending."""
    order = np.argsort(hash64(options.seed, "trial users", users), kind="stable")
    return np.sort(users[order[: options.users]])


def run_trial(material: TrialMaterial, note: Note) -> dict[str, Any]:
    """Everything that the command prints, as plain JSON."""
    options = material.options
    note("cluster")
    trial = Trial(material.histories, material.items, material.alpha, seed=options.seed)
    note("judge")
    draws = [
        [trial.chosen(method, draw) for draw in range(options.draws if method.by_chance else 1)]
        for method in METHODS.values()
    ]
    rules = Rules(options.threshold, options.candidates, (*DEPTHS, EVERY))
    scores = judge_chosen(draws, material.sought, material.items, rules)
    comparison = Comparison(
        {
            f"{name}@{e}": found
            for name, by_depth in zip(METHODS, scores, strict=True)
            for e, found in zip(rules.depths, by_depth, strict=True)
        },
        options.seed,
    )
    served = options.representatives
    return _facts(material, trial) | {
        "rows": [entry_row(comparison, entry, served) for entry in ENTRIES],
        "curves": [
            {"method": name, "vectors": e, **_figures(comparison, f"{name}@{e}")}
            for name in METHODS
            for e in DEPTHS
        ],
        "orderings": ordering_rows(comparison, served),
    }


def _facts(material: TrialMaterial, trial: Trial) -> dict[str, Any]:
    options, histories = material.options, material.histories
    clusters = trial.clusters["ward"]
    return {
        "until": material.until.isoformat(),
        "days": options.days,
        "actions": list(material.actions),
        "users": len(histories.users),
        "positives": len(material.sought.positives.values),
        "items": len(material.items.ids),
        "history_items": float(histories.sizes.mean()),
        "interests": float(np.diff(clusters.offsets).mean()),
        "alpha": material.alpha,
        "representatives": options.representatives,
        "candidates": options.candidates,
        "threshold": options.threshold,
        "draws": options.draws,
        "seed": options.seed,
        "night": NIGHT,
    }


def entry_row(comparison: Comparison, entry: Entry, served: int) -> dict[str, Any]:
    """One row of the main table: figures, lifts over the last item, the paper's lifts."""
    name = arm(entry.method, entry.vectors, served)
    row: dict[str, Any] = {
        "label": entry.label.format(e=served),
        "method": entry.method,
        "vectors": None if entry.vectors == EVERY else entry.vectors or served,
        **_figures(comparison, name),
    }
    for number, figure in enumerate(FIGURES[:2]):
        last = comparison.value(LAST_ITEM, figure)
        row[f"{figure}_lift"] = row[figure] / last - 1.0 if last else None
        row[f"{figure}_published"] = entry.published[number] if entry.published else None
    return row


def _figures(comparison: Comparison, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for figure in FIGURES:
        value = comparison.figure(name, figure)
        assert value is not None  # every user has something to find
        found |= {figure: value.value, f"{figure}_low": value.low, f"{figure}_high": value.high}
    return found
