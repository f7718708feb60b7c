"""Why an item stands where it stands: the utility equation of one position, read out loud."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiling.schema import FloatArray, IntArray
from retrieval.spacing.terms import FeedSpacing, SpacingTerm
from retrieval.spacing.utility import BoolArray, Pool


@dataclass(frozen=True)
class Cause:
    """An earlier item that made a class take something off this one.

    Attributes:
        spacing_class: The class.
        position: Of the earlier item, from 0.
        item_id: The earlier item.
        penalty: What this pair costs, before the joint cap.
    """

    spacing_class: str
    position: int
    item_id: int
    penalty: float


@dataclass(frozen=True)
class Standing:
    """What a candidate is worth at one position.

    Attributes:
        item_id: The candidate.
        relevance: f(r).
        diversity: What its newness adds.
        penalties: What each class takes off, after the joint cap.
        rank: Its place by relevance among all candidates, from 0.
        causes: Where the penalties come from.
    """

    item_id: int
    relevance: float
    diversity: float
    penalties: dict[str, float]
    rank: int
    causes: tuple[Cause, ...]

    @property
    def utility(self) -> float:
        """What the greedy choice compares."""
        return self.relevance + self.diversity - sum(self.penalties.values())


@dataclass(frozen=True)
class Explanation:
    """A position of a feed: what stands there, and the best of the others that could.

    Attributes:
        chosen: What stands there.
        rival: The candidate of next greatest utility; None where none was left.
        decided_by: Classes without which the rival or another item would stand there.
    """

    chosen: Standing
    rival: Standing | None
    decided_by: tuple[str, ...]


def explain_position(
    pool: Pool, spacing: FeedSpacing, placed: IntArray, position: int
) -> Explanation:
    """Evaluate every candidate of one feed at `position`, after the items before it.

    Args:
        pool: One feed's candidates.
        spacing: The configuration that the feed was made with.
        placed: (r,) int64 item ids of the feed, in order.
        position: From 0, below r.

    Raises:
        ValueError: An item of the feed is no candidate of the pool.
    """
    ids = pool.items.ids[pool.item_rows]
    places = np.searchsorted(ids, placed).clip(max=len(ids) - 1)
    if (ids[places] != placed).any():
        raise ValueError(f"item {placed[ids[places] != placed][0]} of the feed is no candidate")
    left = np.ones(len(ids), bool)
    left[places[:position]] = False
    classes, diversity, penalties = _evaluate(pool, spacing, places[:position])
    total, cap = penalties.sum(axis=0), spacing.config.joint_cap
    gain = pool.relevance + diversity
    scaled = penalties * np.minimum(1.0, cap / np.where(total > 0, total, 1.0))
    ranks = np.argsort(np.argsort(-pool.relevance, kind="stable"))

    def standing(j: int) -> Standing:
        return Standing(
            item_id=int(ids[j]),
            relevance=float(pool.relevance[j]),
            diversity=float(diversity[j]),
            penalties={t.name: float(scaled[k, j]) for k, t in enumerate(classes)},
            rank=int(ranks[j]),
            causes=_causes(pool, classes, j, places[:position]),
        )

    chosen = int(places[position])
    without = [_best(gain - np.minimum(total - penalty, cap), left) for penalty in penalties]
    decided = tuple(t.name for t, j in zip(classes, without, strict=True) if j != chosen)
    left[chosen] = False
    rival = standing(_best(gain - np.minimum(total, cap), left)) if left.any() else None
    return Explanation(standing(chosen), rival, decided)


def _evaluate(
    pool: Pool, spacing: FeedSpacing, placed: IntArray
) -> tuple[list[SpacingTerm], FloatArray, FloatArray]:
    """The classes, (m,) diversity and (c, m) penalties of every candidate after those placed."""
    terms = spacing.terms(pool.feeds)
    classes = [t for t in terms if isinstance(t, SpacingTerm)]
    running = [term.begin(pool) for term in terms]
    for place in placed:
        for at_work in running:
            at_work.place(np.array([place]))
    values = np.array([r.values() for r in running]).reshape(len(terms), len(pool.item_rows))
    n_diversity = len(terms) - len(classes)
    return classes, values[:n_diversity].sum(axis=0), values[n_diversity:]


def _best(utility: FloatArray, left: BoolArray) -> int:
    """The candidate of greatest utility that is left; in steps of 2^-30, as the feed is made."""
    return int(np.argmax(np.where(left, np.floor(utility * 2.0**30 + 0.5), -np.inf)))


def _causes(pool: Pool, classes: list[SpacingTerm], j: int, before: IntArray) -> tuple[Cause, ...]:
    """Every pair of this candidate and an earlier item within a class's window."""
    found = []
    rows = pool.item_rows
    for term in classes:
        if not (term.active[0] and term.members[rows[j]]):
            continue
        for distance, weight in enumerate(term.spacing_class.weights, start=1):
            position = len(before) - distance
            if position >= 0 and term.members[rows[before[position]]] and weight > 0:
                item = int(pool.items.ids[rows[before[position]]])
                found.append(Cause(term.name, position, item, float(weight)))
    return tuple(found)
