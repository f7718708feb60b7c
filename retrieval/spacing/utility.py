"""The order of a feed: `U_i(t) = f(r_i) + diversity_i(t) - sum_c penalty_c,i(t)`.

Feeds are ordered together, one position of all of them at a time; nothing passes between feeds.
Candidates of all feeds lie in one flat `Pool`. Diversity and spacing are terms of the utility: to
add one, write a frozen dataclass with the three members of `UtilityTerm`. This is the equation read
literally; `spacing_terms.order_spaced` does the same for our own terms, compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import FloatArray, IntArray
from retrieval.spacing.reranking import STEPS

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pool:
    """The candidates of g feeds, by feed, then by item id, each item once per feed.

    Attributes:
        bounds: (g + 1,) int64: feed f has candidates `bounds[f]:bounds[f + 1]`, at least one.
        item_rows: (m,) int64 rows of `items`.
        relevance: (m,) float64 in [0, 1]: f(r).
        feeds: One row per feed: run_date, serve_date, user_id, surface, arm.
        items: The catalogue.
        tail: (g, t) int64 candidates that the page before ended with, oldest first, -1 where there
            are fewer: terms are told of them, they are not placed again. None: no tail.
    """

    bounds: IntArray
    item_rows: IntArray
    relevance: FloatArray
    feeds: pa.Table
    items: Items
    tail: IntArray | None = None


class RunningTerm(Protocol):
    """A term at work on one pool: it is told what is placed and says what the next is worth."""

    def values(self) -> FloatArray:
        """(m,) float64, finite: the term of every candidate at the next position of its feed."""
        ...

    def place(self, chosen: IntArray) -> None:
        """(g,) int64: the candidate just placed in each feed, -1 where none was left."""
        ...


class UtilityTerm(Protocol):
    """A term of the utility. Its `repr` goes into the feed's config version.

    Attributes:
        name: As in the ledger: the spacing class.
        kind: `diversity` is added; `penalty` is taken off and entered in the ledger.
    """

    @property
    def name(self) -> str:
        """The spacing class, or the name of the diversity."""
        ...

    @property
    def kind(self) -> Literal["diversity", "penalty"]:
        """Its sign, and the column it goes to."""
        ...

    def begin(self, pool: Pool) -> RunningTerm:
        """Start on a pool of which nothing is placed yet."""
        ...


@dataclass(frozen=True)
class Ordering:
    """What was placed, by feed, then position.

    Attributes:
        chosen: (r,) int64 candidates of the pool.
        feeds: (r,) int64.
        positions: (r,) int64 from 0.
        diversity: (r,) float64, at the position where the candidate was placed.
        penalties: (r, c) float64, one column per penalty term, in their order.
        decided: (r, c) whether another candidate would stand there without the penalty term.
    """

    chosen: IntArray
    feeds: IntArray
    positions: IntArray
    diversity: FloatArray
    penalties: FloatArray
    decided: BoolArray


def order_feeds(
    pool: Pool, size: int, terms: Sequence[UtilityTerm] = (), cap: float = np.inf
) -> Ordering:
    """The first `size` places of every feed, by greatest utility, ties to the smaller item id."""
    return order_greedily(pool, size, terms, cap) if terms else order_by_relevance(pool, size)


def order_by_relevance(pool: Pool, size: int) -> Ordering:
    """`order_greedily` without terms, by sorting."""
    chosen = _most_relevant(pool.relevance, pool.bounds, size)
    lengths = np.minimum(np.diff(pool.bounds), size)
    feeds = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(chosen)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    nothing, none = np.zeros(len(chosen)), np.zeros((len(chosen), 0))
    return Ordering(chosen, feeds, positions, nothing, none, none.astype(bool))


def order_greedily(
    pool: Pool, size: int, terms: Sequence[UtilityTerm], cap: float = np.inf
) -> Ordering:
    """Place the candidate of greatest utility, tell the terms, go on to the next position.

    Utilities are compared in steps of 2^-30, so that rounding errors do not decide between equals.

    Args:
        pool: The candidates.
        size: Positions to fill.
        terms: Diversity and penalties.
        cap: The greatest sum of an item's penalties; a larger one is scaled down to it.

    Raises:
        ValueError: A term gave a value that is not finite.
    """
    running = [term.begin(pool) for term in terms]
    is_penalty = np.array([term.kind == "penalty" for term in terms], bool)
    left = np.ones(len(pool.relevance), bool)
    for chosen in () if pool.tail is None else pool.tail.T:
        _place(chosen, left, running)
    longest = int(np.diff(pool.bounds).max(initial=0))
    picks: list[IntArray] = []
    worth: list[FloatArray] = []
    decided: list[BoolArray] = []
    for _ in range(min(size, longest)):
        values = np.zeros((len(terms), len(left)))
        for i, term in enumerate(terms):
            values[i] = _finite_values(term, running[i])
        gained = pool.relevance + values[~is_penalty].sum(axis=0)
        penalties = values[is_penalty]
        total = penalties.sum(axis=0)
        chosen = _greatest_left(_steps(gained - np.minimum(total, cap)), left, pool.bounds)
        placed = chosen[chosen >= 0]
        without = np.zeros((len(penalties), len(placed)), bool)
        for k, penalty in enumerate(penalties):
            freed = _steps(gained - np.minimum(total - penalty, cap))
            without[k] = (_greatest_left(freed, left, pool.bounds) != chosen)[chosen >= 0]
        values[is_penalty] *= np.minimum(1.0, cap / np.where(total > 0.0, total, 1.0))
        picks.append(chosen)
        worth.append(values[:, placed])
        decided.append(without)
        _place(chosen, left, running)
    return _ordering(picks, worth, decided, is_penalty)


def _place(chosen: IntArray, left: BoolArray, running: Sequence[RunningTerm]) -> None:
    left[chosen[chosen >= 0]] = False
    for at_work in running:
        at_work.place(chosen)


def _steps(utility: FloatArray) -> FloatArray:
    """(m,) utilities as whole steps of 2^-30."""
    steps: FloatArray = np.floor(utility * STEPS + 0.5)
    return steps


def _finite_values(term: UtilityTerm, running: RunningTerm) -> FloatArray:
    values = running.values()
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise ValueError(f"the term {term.name} gave {wrong}, must be finite for every candidate")
    return values


def _ordering(
    picks: list[IntArray],
    worth: list[FloatArray],
    decided: list[BoolArray],
    is_penalty: BoolArray,
) -> Ordering:
    """From what was picked at each position, by feed and what its terms were worth."""
    if not picks:
        none, classes = np.zeros(0, np.int64), int(is_penalty.sum())
        table = np.zeros((0, classes))
        return Ordering(none, none, none, np.zeros(0), table, table.astype(bool))
    positions, feeds = np.nonzero(np.stack(picks) >= 0)
    chosen = np.stack(picks)[positions, feeds]
    order = np.lexsort((positions, feeds))
    values = np.concatenate(worth, axis=1).T[order]
    return Ordering(
        chosen=chosen[order],
        feeds=feeds[order],
        positions=positions[order],
        diversity=values[:, ~is_penalty].sum(axis=1),
        penalties=values[:, is_penalty],
        decided=np.concatenate(decided, axis=1).T[order],
    )


@njit(cache=True, nogil=True)
def _greatest_left(utility: FloatArray, left: BoolArray, bounds: IntArray) -> IntArray:
    """(g,) the candidate of greatest utility of every feed that is left; -1 where none is."""
    chosen = np.full(len(bounds) - 1, -1, np.int64)
    for feed in range(len(chosen)):
        for i in range(bounds[feed], bounds[feed + 1]):
            if left[i] and (chosen[feed] < 0 or utility[i] > utility[chosen[feed]]):
                chosen[feed] = i
    return chosen


@njit(cache=True, nogil=True)
def _most_relevant(relevance: FloatArray, bounds: IntArray, size: int) -> IntArray:
    """The `size` candidates of greatest relevance of every feed, one feed after the other."""
    chosen = np.empty(len(relevance), np.int64)
    n = 0
    for feed in range(len(bounds) - 1):
        start, end = bounds[feed], bounds[feed + 1]
        order = np.argsort(-relevance[start:end], kind="mergesort")  # stable: ties by item id
        for i in order[:size]:
            chosen[n] = start + i
            n += 1
    return chosen[:n].copy()
