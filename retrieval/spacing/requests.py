"""Step 6 at request time: one feed from arrays, without tables, files or a catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from profiling.hashing import text_hash
from profiling.schema import FloatArray, IntArray
from retrieval.spacing.classes import Source, Spacing, SpacingClass
from retrieval.spacing.diversity import Vectors, combine_embeddings
from retrieval.spacing.labels import reaches
from retrieval.spacing.reranking import Placed, SpacedPool, place_spaced
from retrieval.spacing.terms import squared_lengths, stack_columns, weight_table
from retrieval.spacing.utility import BoolArray

ITEM = "item"  # the name of the item's own embedding


@dataclass(frozen=True)
class Candidates:
    """Items of one request, or of the end of the page before, as arrays of n.

    Attributes:
        item_ids: (n,) int64.
        relevance: (n,) float, any scale, greater is better; of a tail it is not looked at.
        embeddings: (n, d) float32 by name: `item`, and TABLE.COLUMN; NaN: the item has none.
        labels: (n,) scores in [0, 1] by label.
        topics: (n,) confidences in [0, 1] by topic.
        columns: (n,) scores in [0, 1] by TABLE.COLUMN.
    """

    item_ids: IntArray
    relevance: FloatArray
    embeddings: Mapping[str, Vectors] = field(default_factory=dict)
    labels: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    topics: Mapping[int, npt.NDArray[np.floating]] = field(default_factory=dict)
    columns: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        named: dict[str, npt.NDArray[Any]] = {"relevance": self.relevance}
        for what in ("embeddings", "labels", "topics", "columns"):
            named |= {f"{what}[{name!r}]": v for name, v in getattr(self, what).items()}
        for name, values in named.items():
            if len(values) != n:
                raise ValueError(f"{name} must have one entry per item id, {n}, got {len(values)}")

    def scores(self, source: Source) -> npt.NDArray[np.floating] | None:
        """(n,) what `source` says of the items; None where it says nothing."""
        if source.topic is not None:
            return self.topics.get(source.topic)
        if source.label:
            return self.labels.get(source.label)
        return self.columns.get(source.column)


NO_ITEMS = Candidates(np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Context:
    """For whom and where a feed is made.

    Attributes:
        surface: As in QUERIES.
        day: Of serving, UTC.
        segments: Of the user.
        arm: Of the experiment; '' without one.
    """

    surface: str
    day: dt.date
    segments: frozenset[str] = frozenset()
    arm: str = ""


@dataclass(frozen=True)
class RankedFeed:
    """One feed, with its ledger.

    Attributes:
        item_ids: (r,) int64 in order.
        relevance: (r,) float64: f(r), min-max over the request's candidates.
        diversity: (r,) float64.
        classes: The spacing classes that worked here.
        penalties: (r, c) float64, one column a class.
        decided: (r, c) whether another item would stand there without the class.
        version: Of the configuration that made the whole feed.
        refused: Item id and reason of every candidate that was left out.
        left_out: Classes, or diversity, that could not work, and why.
        stale: Why a newer configuration is not in use; '' where the newest is.
    """

    item_ids: IntArray
    relevance: FloatArray
    diversity: FloatArray
    classes: tuple[str, ...]
    penalties: FloatArray
    decided: BoolArray
    version: str
    refused: tuple[tuple[int, str], ...] = ()
    left_out: tuple[str, ...] = ()
    stale: str = ""


def spacing_version(spacing: Spacing) -> str:
    """12 hexadecimal digits that change with anything in the configuration."""
    return f"{int(text_hash(repr(spacing))):016x}"[:12]


def rank_candidates(
    spacing: Spacing,
    candidates: Candidates,
    context: Context,
    tail: Candidates = NO_ITEMS,
    *,
    size: int,
    version: str = "",
) -> RankedFeed:
    """The first `size` places by utility, ties to the smaller item id; see `rerank_feed`.

    A candidate that cannot be judged (relevance that is no number, a missing embedding, a score
    outside [0, 1], an id that came before) is left out and named. A class whose labels the
    candidates do not carry is left out and named.

    Args:
        spacing: Diversity and classes.
        candidates: What may be shown.
        context: For whom and where.
        tail: What the page before ended with, oldest first: its items count as placed.
        size: Positions to fill.
        version: Of `spacing`; computed where it is not given.
    """
    classes, left_out = _possible(spacing, candidates, context, tail)
    sources, missing = _sources(spacing, candidates)
    kept, refused = _judge(candidates, classes, sources, check_relevance=True)
    told, refused_tail = _judge(tail, classes, sources, check_relevance=False)
    kept = kept[np.argsort(candidates.item_ids[kept], kind="stable")]
    relevance = _min_max(np.asarray(candidates.relevance, np.float64)[kept])
    if classes or sources:
        pool = _pool(spacing, (candidates, kept), (tail, told), relevance, classes, sources)
        placed = place_spaced(pool, size)
    else:
        placed = _sorted(relevance, size)
    return RankedFeed(
        item_ids=np.asarray(candidates.item_ids, np.int64)[kept[placed.chosen]],
        relevance=relevance[placed.chosen],
        diversity=placed.diversity,
        classes=tuple(c.id for c in classes),
        penalties=placed.penalties,
        decided=placed.decided,
        version=version or spacing_version(spacing),
        refused=(*refused, *refused_tail),
        left_out=(*left_out, *missing),
    )


def _sources(spacing: Spacing, candidates: Candidates) -> tuple[list[str], list[str]]:
    """The embeddings that diversity compares by; none, and why, where one is not there."""
    if spacing.diversity.gamma == 0:
        return [], []
    sources = [part.source for part in spacing.diversity.parts]
    missing = [name for name in sources if name not in candidates.embeddings]
    if missing:
        return [], [f"diversity: the candidates carry no embedding {missing[0]!r}"]
    return sources, []


def _possible(
    spacing: Spacing, candidates: Candidates, context: Context, tail: Candidates
) -> tuple[list[SpacingClass], list[str]]:
    """The active classes that candidates carry labels for, and why the others cannot work."""
    classes, left_out = [], []
    where = (context.surface, context.segments, context.arm, context.day)
    for one in spacing.works:
        if not one.activation.holds(*where):
            continue
        if candidates.scores(one.source) is None:
            left_out.append(f"{one.id}: the candidates carry no {one.source.name}")
            continue
        classes.append(one)
        if len(tail.item_ids) and tail.scores(one.source) is None:
            left_out.append(f"{one.id}, as to the tail: it carries no {one.source.name}")
    return classes, left_out


def _judge(
    items: Candidates, classes: list[SpacingClass], sources: list[str], *, check_relevance: bool
) -> tuple[IntArray, list[tuple[int, str]]]:
    """Places of the items that can be judged; id and reason of the others."""
    n = len(items.item_ids)
    refused: dict[int, str] = {}

    def refuse(bad: Any, reason: str, values: object = None) -> None:
        for i in np.flatnonzero(bad):
            shown = "" if values is None else f" {np.asarray(values)[i]:g}"
            refused.setdefault(int(i), reason.format(shown))

    if check_relevance:
        values = np.asarray(items.relevance, np.float64)
        refuse(~np.isfinite(values), "relevance is{}, must be a number", values)
        first = np.unique(items.item_ids, return_index=True)[1]
        if len(first) < n:
            refuse(~np.isin(np.arange(n), first), "its id came before in the same request")
    for source in sources:
        vectors = items.embeddings.get(source)
        if vectors is None or not np.isfinite(vectors).all():
            bad = np.ones(n, bool) if vectors is None else ~np.isfinite(vectors).all(axis=1)
            refuse(bad, f"it has no embedding {source!r}")
    for one in classes:
        scores = items.scores(one.source)
        if scores is not None and not ((scores >= 0) & (scores <= 1)).all():
            bad = ~((scores >= 0) & (scores <= 1))
            refuse(bad, f"{one.source.name} has score{{}}, must lie in [0, 1]", scores)
    kept = np.array(
        [i for i in range(n) if i not in refused] if refused else np.arange(n), np.int64
    )
    return kept, [(int(items.item_ids[i]), reason) for i, reason in sorted(refused.items())]


def _pool(
    spacing: Spacing,
    front: tuple[Candidates, IntArray],
    back: tuple[Candidates, IntArray],
    relevance: FloatArray,
    classes: list[SpacingClass],
    sources: list[str],
) -> SpacedPool:
    """One feed: the candidates, then the tail's items, which are placed already."""
    n, t = len(front[1]), len(back[1])

    def both(source: Source) -> BoolArray:
        columns = [_members(items, rows, source) for items, rows in (front, back)]
        return np.concatenate(columns)

    vectors = np.zeros((n + t, 0), np.float32)
    if sources and n + t:
        combined = {
            s: np.concatenate(
                [items.embeddings[s][rows] for items, rows in (front, back) if len(rows)]
            )
            for s in sources
        }
        vectors = combine_embeddings(spacing.diversity, combined)
    return SpacedPool(
        bounds=np.array([0, n + t], np.int64),
        rows=np.arange(n + t),
        relevance=np.r_[relevance, np.zeros(t)],
        tail=np.arange(n, n + t)[None],
        vectors=vectors,
        norms=squared_lengths(vectors),
        marks=stack_columns([both(c.source) for c in classes], n + t),
        weights=weight_table(classes),
        cap=spacing.joint_cap,
        gamma=spacing.diversity.gamma if sources else 0.0,
        window=spacing.diversity.window,
        fades=spacing.diversity.variant == "ssd",
    )


def _members(items: Candidates, rows: IntArray, source: Source) -> BoolArray:
    scores = items.scores(source)
    if scores is None:
        return np.zeros(len(rows), bool)
    return reaches(scores[rows], source.threshold)


def _min_max(values: FloatArray) -> FloatArray:
    """(n,) scaled to [0, 1]; .5 where all are equal."""
    if not len(values):
        return values
    low, span = values.min(), values.max() - values.min()
    return (values - low) / span if span > 0 else np.full(len(values), 0.5)


def _sorted(relevance: FloatArray, size: int) -> Placed:
    """Without classes and diversity the feed is the sort by relevance."""
    chosen = np.argsort(-relevance, kind="stable")[:size]
    none = np.zeros((len(chosen), 0))
    lengths = np.array([len(chosen)])
    return Placed(lengths, chosen, np.zeros(len(chosen)), none, none.astype(bool))
