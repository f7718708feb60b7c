"""The greedy rerank as one compiled pass: what `order_greedily` does, without touching every item.

Two facts make it fast. The active bases of the sliding window are orthogonal to each other and to
every restored vector, so `<v_j, b> = <x_j, b>` for the newest base b: a candidate keeps its own
vector, and `|v_j|^2 = |x_j|^2 - sum over active bases of <x_j, b>^2 / |b|^2`. And a candidate's
utility is at most its relevance plus what its norm, less the parts already known, can still give;
candidates are looked at by falling relevance until no later one can win, and what a candidate has
missed of bases that left the window it never needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from profiling.schema import FloatArray, IntArray

# Utilities are compared in steps of 2^-30: rounding errors must not decide between equals.
STEPS = float(2**30)
# A squared residual below this is rounding error: the vector lies in the window's span.
FLAT = 1e-12

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SpacedPool:
    """Candidates of g feeds as arrays, and the weights of the utility.

    Attributes:
        bounds: (g + 1,) int64: feed f has candidates `bounds[f]:bounds[f + 1]`.
        rows: (m,) int64 rows of `vectors`, `norms` and `members`.
        relevance: (m,) float64.
        tail: (g, t) int64 candidates placed before the first position, oldest first; -1: none.
        vectors: (n, d) float32; d 0 without diversity.
        norms: (n,) float64 squared lengths.
        members: (n, c) whether the item is of the spacing class.
        active: (g, c) whether the class works in the feed.
        weights: (c, w) float64: penalty by distance, from 1; 0 beyond a class's window.
        cap: The greatest sum of penalties; a larger one is scaled down to it.
        gamma: Weight of diversity.
        window: Earlier items that diversity sees.
        fades: Whether the weight is multiplied by the norm of every item placed.
    """

    bounds: IntArray
    rows: IntArray
    relevance: FloatArray
    tail: IntArray
    vectors: npt.NDArray[np.float32]
    norms: FloatArray
    members: BoolArray
    active: BoolArray
    weights: FloatArray
    cap: float
    gamma: float
    window: int
    fades: bool


@dataclass(frozen=True)
class Placed:
    """What was placed, by feed, then position.

    Attributes:
        lengths: (g,) int64 positions filled of each feed.
        chosen: (r,) int64 candidates.
        diversity: (r,) float64.
        penalties: (r, c) float64.
        decided: (r, c) whether another candidate would stand here without the class.
    """

    lengths: IntArray
    chosen: IntArray
    diversity: FloatArray
    penalties: FloatArray
    decided: BoolArray


def place_spaced(pool: SpacedPool, size: int) -> Placed:
    """The first `size` places of every feed by utility, ties to the smaller candidate."""
    tails = (pool.tail >= 0).sum(axis=1)
    lengths = np.minimum(np.diff(pool.bounds) - tails, size)
    total, classes = int(lengths.sum()), pool.members.shape[1]
    placed = Placed(
        lengths=lengths,
        chosen=np.empty(total, np.int64),
        diversity=np.zeros(total),
        penalties=np.zeros((total, classes)),
        decided=np.zeros((total, classes), bool),
    )
    _place_feeds(
        (pool.bounds, pool.rows, pool.relevance, pool.tail),
        (pool.vectors, pool.norms, pool.members, pool.active, pool.weights),
        (pool.cap, pool.gamma, pool.window, pool.fades),
        lengths,
        (placed.chosen, placed.diversity, placed.penalties, placed.decided),
    )
    return placed


@njit(cache=True, nogil=True)
def _place_feeds(candidates: Any, items: Any, options: Any, lengths: Any, out: Any) -> Any:
    """One feed after the other; the work space is made once."""
    bounds, rows, relevance, tail = candidates
    vectors, norms, members, active, weights = items
    window = options[2]
    chosen, diversity, penalties, decided = out
    most = 1
    for feed in range(len(lengths)):
        most = max(most, bounds[feed + 1] - bounds[feed])
    d, c = vectors.shape[1], members.shape[1]
    near, squares = np.empty((most, d), np.float32), np.empty(most)
    own, n_own = np.empty((most, c), np.int64), np.empty(most, np.int64)
    known, bases, base_norms = np.empty((most, window)), np.empty((window, d)), np.empty(window)
    done = 0
    for feed in range(len(lengths)):
        first, n = bounds[feed], bounds[feed + 1] - bounds[feed]
        for i in range(n):
            row = rows[first + i]
            near[i], squares[i] = vectors[row], norms[row]
            n_own[i] = 0
            for k in range(c):
                if members[row, k] and active[feed, k]:
                    own[i, n_own[i]] = k
                    n_own[i] += 1
        end = done + lengths[feed]
        _place_one(
            (relevance[first : first + n], near[:n], squares[:n], own[:n], n_own[:n]),
            np.maximum(tail[feed] - first, -1),
            (weights, *options),
            (known[:n], bases, base_norms),
            (chosen[done:end], diversity[done:end], penalties[done:end], decided[done:end]),
        )
        chosen[done:end] += first
        done = end


@njit(cache=True, nogil=True)
def _place_one(candidates: Any, tail: Any, options: Any, space: Any, out: Any) -> Any:
    """One feed: `tail` first, then the greatest utility at every position."""
    relevance, near, squares, own, n_own = candidates
    weights, cap, gamma, _, fades = options
    chosen, diversity, penalties, decided = out
    n, c = own.shape
    order = np.argsort(-relevance, kind="mergesort")
    seen, hits = np.zeros(n, np.int64), np.zeros((weights.shape[1], c), np.bool_)
    now, reach = np.zeros(c), np.sqrt(squares.max())
    volume, placed = 0.0, 0
    for step in range(len(tail) + len(chosen)):
        position = step - len(tail)
        if position < 0:
            j = tail[step]
            if j < 0:
                continue
        else:
            _weigh(now, hits, placed, weights)
            j = _best(
                (order[: n - placed], *candidates),
                (now, cap, volume, volume * reach, placed),
                (seen, *space),
                decided[position],
            )
        square = _residual(_square_left(j, placed, near, squares[j], -np.inf, (seen, *space)))
        if position >= 0:
            chosen[position], diversity[position] = j, volume * np.sqrt(square)
            _enter(penalties[position], now, own[j, : n_own[j]], cap)
        if gamma > 0.0:
            _add_base(placed, near, j, square, space)
            before = gamma if placed == 0 else volume
            volume = before * np.sqrt(square) if fades else gamma
        hits[placed % len(hits)] = False
        for k in own[j, : n_own[j]]:
            hits[placed % len(hits), k] = True
        _drop(order, n - placed, j)
        placed += 1


@njit(cache=True, nogil=True)
def _best(candidates: Any, options: Any, space: Any, decided: Any) -> Any:
    """The candidate of greatest utility; `decided` is set for every class that made it so."""
    order, relevance, near, squares, own, n_own = candidates
    now, cap, volume, reach, placed = options
    best, best_worth, to_beat = np.int64(-1), -np.inf, -np.inf
    rivals, worths = np.full(len(now), -1, np.int64), np.full(len(now), -np.inf)
    for j in order:
        if relevance[j] + reach < to_beat:
            break
        square = squares[j]
        if volume > 0.0:
            missing = (to_beat - relevance[j]) / volume
            enough = missing * missing if missing > 0.0 else -np.inf
            square = _square_left(j, placed, near, square, enough, space)
            if square < enough:
                continue
        gained = relevance[j] + volume * np.sqrt(_residual(square))
        demotion = _demotion(j, own, n_own, now)
        worth = _steps(gained - min(demotion, cap))
        if worth > best_worth or (worth == best_worth and j < best):
            best, best_worth, to_beat = j, worth, (worth - 1.0) / STEPS
        if demotion > 0.0:
            _note_rivals(j, gained, demotion, (own, n_own, now, cap), (rivals, worths))
    for i in range(n_own[best]):  # where its own class is left out, it gains as well
        k = own[best, i]
        decided[k] = rivals[k] >= 0 and rivals[k] != best
        rivals[k] = -1
    for k in np.flatnonzero(rivals >= 0):
        decided[k] = worths[k] > best_worth or (worths[k] == best_worth and rivals[k] < best)
    return best


@njit(cache=True, nogil=True)
def _demotion(j: Any, own: Any, n_own: Any, now: Any) -> Any:
    total = 0.0
    for i in range(n_own[j]):
        total += now[own[j, i]]
    return total


@njit(cache=True, nogil=True)
def _note_rivals(j: Any, gained: Any, demotion: Any, classes: Any, found: Any) -> Any:
    """Of every class, its member of greatest utility where the class were left out."""
    own, n_own, now, cap = classes
    rivals, worths = found
    for i in range(n_own[j]):
        k = own[j, i]
        if now[k] > 0.0:
            freed = _steps(gained - min(demotion - now[k], cap))
            if freed > worths[k] or (freed == worths[k] and j < rivals[k]):
                rivals[k], worths[k] = j, freed


@njit(cache=True, nogil=True)
def _square_left(j: Any, placed: Any, near: Any, square: Any, enough: Any, space: Any) -> Any:
    """|v_j|^2: what is left of candidate j outside the bases of the window, oldest base first.

    Where a part of the sum falls below `enough` already, that part: an upper bound.
    """
    seen, known, bases, base_norms = space
    window = known.shape[1]
    first = max(placed - window, 0)
    slot = first % window
    for k in range(first, placed):
        if k >= seen[j]:
            if square < enough:
                return square
            known[j, slot] = _share(near, j, bases, base_norms, slot)
            seen[j] = k + 1
        square -= known[j, slot]
        slot = slot + 1 if slot + 1 < window else 0
    return square


@njit(cache=True, nogil=True)
def _residual(square: Any) -> Any:
    return square if square > FLAT else 0.0


@njit(cache=True, nogil=True)
def _steps(utility: Any) -> Any:
    return np.floor(utility * STEPS + 0.5)


@njit(cache=True, nogil=True)
def _share(near: Any, j: Any, bases: Any, base_norms: Any, slot: Any) -> Any:
    """The part of |near[j]|^2 that lies along the base."""
    if base_norms[slot] == 0.0:
        return 0.0
    product = _product(near, j, bases, slot)
    return product * product / base_norms[slot]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # lets the sum be vectorised
def _product(vectors: Any, i: Any, bases: Any, slot: Any) -> Any:
    total = 0.0
    for k in range(bases.shape[1]):
        total += np.float64(vectors[i, k]) * bases[slot, k]
    return total


@njit(cache=True, nogil=True)
def _add_base(placed: Any, near: Any, j: Any, square: Any, space: Any) -> Any:
    """What is new in the item just placed becomes the newest base, in the slot of the oldest."""
    bases, base_norms = space[1], space[2]
    window = len(bases)
    base = near[j].astype(np.float64)
    for k in range(max(placed - window, 0), placed):
        slot = k % window
        if base_norms[slot] > 0.0:
            base -= _product(near, j, bases, slot) / base_norms[slot] * bases[slot]
    slot = placed % window
    bases[slot] = base
    base_norms[slot] = _product(bases, slot, bases, slot) if square > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _weigh(now: Any, hits: Any, placed: Any, weights: Any) -> Any:
    """(c,) what each class takes off its members at the next position."""
    now[:] = 0.0
    slot = placed % len(hits)
    for distance in range(1, min(len(hits), placed) + 1):
        slot = slot - 1 if slot > 0 else len(hits) - 1
        for k in range(len(now)):
            if hits[slot, k]:
                now[k] += weights[k, distance - 1]


@njit(cache=True, nogil=True)
def _enter(ledger: Any, now: Any, classes: Any, cap: Any) -> Any:
    """(c,) what is taken off the item placed; in sum at most `cap`."""
    total = 0.0
    for k in classes:
        ledger[k] = now[k]
        total += now[k]
    if total > cap:
        ledger *= cap / total


@njit(cache=True, nogil=True)
def _drop(order: Any, n: Any, j: Any) -> Any:
    """Take candidate j out of the first n of `order`."""
    i = 0
    while order[i] != j:
        i += 1
    order[i : n - 1] = order[i + 1 : n].copy()
