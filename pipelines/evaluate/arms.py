"""The arms that are compared: which model, which way through step 5, which baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from profiling.items import Items
from profiling.schema import ints
from retrieval.candidates import RetrievalConfig, retrieve_candidates
from retrieval.encoders import Asked, QueryEncoder
from retrieval.evaluation.baselines import Scorer, rank, rank_slots
from retrieval.evaluation.measures import DEEPEST, Judge, UserScores
from retrieval.evaluation.protocol import HeldOut
from retrieval.evaluation.rankings import Ranking, SlotLists, interleave, lists_of_candidates
from retrieval.index.exact import ExactIndex, ItemIndex, Vectors

_CHUNK = 2000  # users sent through step 5 at a time
EVERY_SLOT = 1 << 20


@dataclass(frozen=True)
class Engine:
    """What step 5 asks: (n, d) float32 vectors of the items, and what makes those of queries."""

    vectors: Vectors
    encoder: QueryEncoder

    def index(self, items: Items) -> ItemIndex:
        """Exact search over the vectors, in the slices of the topics that `items` has."""
        return ExactIndex.over(items, self.vectors)


@dataclass(frozen=True)
class Arm:
    """One way through step 5.

    Attributes:
        engine: Name of the engine: `items` (the arm INDEX), `lr` or `cr`.
        options: Of `RetrievalConfig`.
        free: Name of the arm that brings what a filter would fetch from; '': itself.
        query_item: Whether the model is told the query's item.
    """

    engine: str
    options: Mapping[str, object]
    free: str = ""
    query_item: bool = True


_HELD: Mapping[str, object] = {"unconditioned_slots": 0}  # every slot in the same way
ARMS: Mapping[str, Arm] = {
    "index": Arm("items", {"arm": "index"}, free="index_free"),
    "index_free": Arm("items", {"arm": "index", "condition": "none"}),
    "lr": Arm("lr", {"arm": "lr", **_HELD}),
    "lr_filter": Arm("lr", {"arm": "lr_filter", **_HELD}, free="lr"),
    "cr": Arm("cr", {"arm": "cr", **_HELD}),
    "cr_filter": Arm("cr", {"arm": "cr_filter", **_HELD}, free="cr"),
    "cr_without_query_item": Arm("cr", {"arm": "cr", **_HELD}, query_item=False),
    "cr_filter_without_query_item": Arm(
        "cr", {"arm": "cr_filter", **_HELD}, free="cr", query_item=False
    ),
    "cr_mixed": Arm("cr", {"arm": "cr", "unconditioned_slots": 1}),
    "cr_unconditioned": Arm("cr", {"arm": "lr", **_HELD}),
}


NIGHT = "night"


def night_arm(config: RetrievalConfig) -> Arm:
    """What the nights of a warehouse with a model serve by, `auto` decided."""
    settled = replace(config.settled(learned=True), candidates_per_query=DEEPEST)
    engine, free = ("items", "index_free") if settled.arm == "index" else (settled.arm[:2],) * 2
    return Arm(engine, asdict(settled), free=free if settled.filtered else "")


class _WithoutQueryItem:
    """An encoder that is not told which item a query stands for."""

    def __init__(self, encoder: QueryEncoder) -> None:
        self._encoder = encoder

    def encode(self, asked: Asked) -> tuple[Vectors, np.ndarray]:
        """See `QueryEncoder.encode`."""
        return self._encoder.encode(asked._replace(rows=np.full_like(asked.rows, -1)))


def retrieve(
    held_out: HeldOut, items: Items, engine: Engine, options: Mapping[str, object]
) -> SlotLists:
    """What step 5 brings each slot, `DEEPEST` deep, a chunk of users at a time."""
    config = replace(RetrievalConfig(candidates_per_query=DEEPEST), **options)  # type: ignore[arg-type]
    index = engine.index(items)
    draws, seen = ints(held_out.queries, "draw_id"), held_out.seen(items)
    rows = np.full((len(draws), DEEPEST), -1, np.int64)
    owners, seen_by = ints(held_out.queries, "user_id"), ints(seen, "user_id")
    for start in range(0, len(held_out.users), _CHUNK):
        users = held_out.users[start : start + _CHUNK]
        low, high = np.searchsorted(owners, [users[0], users[-1] + 1])
        first, last = np.searchsorted(seen_by, [users[0], users[-1] + 1])
        found = retrieve_candidates(
            held_out.queries.slice(low, high - low),
            seen.slice(first, last - first),
            index,
            items,
            config,
            engine.encoder,
        )
        offsets = np.array([0, high - low], np.int64)
        part = lists_of_candidates(found, draws[low:high], offsets, items, DEEPEST)
        rows[low:high] = part.rows
    return SlotLists(held_out.offsets, rows)


def judge_arm(judge: Judge, arm: Arm, engine: Engine, threshold: float = 0.0) -> UserScores:
    """Run an arm and score it.

    Args:
        judge: Users, conditions, figures.
        arm: Which way through step 5.
        engine: What it asks.
        threshold: A filter keeps items whose confidence in a topic of the condition is this, at
            least; every topic of an item counts in the figures.
    """
    if not arm.query_item:
        engine = replace(engine, encoder=_WithoutQueryItem(engine.encoder))
    held_out, sure = judge.held_out, judge.items.surer_than(threshold)
    lists = retrieve(held_out, sure, engine, arm.options)
    fetched = None if arm.free else lists
    return judge.scores(interleave(lists, len(sure.ids), DEEPEST), fetched, lists)


def judge_scorer(judge: Judge, scorer: Scorer, *, conditioned: bool) -> UserScores:
    """Score a baseline, free or inside the conditions of the slots."""
    ranking = rank(scorer, judge.held_out, DEEPEST)
    fetched = SlotLists(judge.held_out.offsets, _repeated(ranking, judge.held_out))
    if not conditioned:
        return judge.scores(ranking, fetched)
    lists = rank_slots(scorer, judge.held_out, judge.items, DEEPEST)
    return judge.scores(interleave(lists, len(judge.items.ids), DEEPEST), fetched, lists)


def _repeated(ranking: Ranking, held_out: HeldOut) -> np.ndarray:
    """(s, k) the list of a slot's user."""
    return np.repeat(ranking.rows, np.diff(held_out.offsets), axis=0)
