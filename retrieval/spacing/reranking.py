"""The greedy rerank as one compiled pass: what `order_greedily` does, without touching every item.

Two facts make it fast. The active bases of the sliding window are orthogonal to each other and to
every restored vector, so `<v_j, b> = <x_j, b>` for the newest base b: a candidate keeps its own
vector, and `|v_j|^2 = |x_j|^2 - sum over active bases of <x_j, b>^2 / |b|^2`. And a candidate's
utility is at most its relevance plus what its norm, less the parts already known, can still give;
candidates are looked at by falling relevance until no later one can win, and what a candidate has
missed of bases that left the window it never needs.

What the inner loop calls is inlined by force and takes arrays one by one: handing them over in a
call, or in a tuple that counts references, took ten times the inner product itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from profiling.compiling import njit
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
        rows: (m,) int64 rows of `vectors` and `norms`.
        relevance: (m,) float64.
        tail: (g, t) int64 candidates placed before the first position, oldest first; -1: none.
        vectors: (n, d) float32; d 0 without diversity.
        norms: (n,) float64 squared lengths.
        marks: (m, c) whether the candidate is of the spacing class, and that works in its feed.
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
    marks: BoolArray
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
    total, classes = int(lengths.sum()), pool.marks.shape[1]
    placed = Placed(
        lengths=lengths,
        chosen=np.empty(total, np.int64),
        diversity=np.zeros(total),
        penalties=np.zeros((total, classes)),
        decided=np.zeros((total, classes), bool),
    )
    _place_feeds(
        (pool.bounds, pool.rows, pool.relevance, pool.marks, pool.tail),
        (pool.vectors, pool.norms, pool.weights),
        (pool.cap, pool.gamma, pool.window, pool.fades),
        lengths,
        (placed.chosen, placed.diversity, placed.penalties, placed.decided),
    )
    return placed


@njit(cache=True, nogil=True)
def _place_feeds(candidates: Any, items: Any, options: Any, lengths: Any, out: Any) -> Any:
    """One feed after the other; the work space is made once."""
    bounds, rows, relevance, marks, tail = candidates
    vectors, norms, weights = items
    window = options[2]
    chosen, diversity, penalties, decided = out
    most = 1
    for feed in range(len(lengths)):
        most = max(most, bounds[feed + 1] - bounds[feed])
    d, c = vectors.shape[1], marks.shape[1]
    near, squares = np.empty((most, d), np.float32), np.empty(most)
    own, n_own = np.empty((most, c), np.int64), np.empty(most, np.int64)
    bases, base_norms = np.empty((window, d)), np.empty(window)
    done = 0
    for feed in range(len(lengths)):
        if lengths[feed] == 0:
            continue
        first, n = bounds[feed], bounds[feed + 1] - bounds[feed]
        # by falling relevance, the order in which they are looked at
        order = np.argsort(-relevance[first : first + n], kind="mergesort")
        for i in range(n):
            row = rows[first + order[i]]
            near[i], squares[i] = vectors[row], norms[row]
            n_own[i] = 0
            for k in range(c):
                if marks[first + order[i], k]:
                    own[i, n_own[i]] = k
                    n_own[i] += 1
        end = done + lengths[feed]
        _place_one(
            (relevance[first + order], near[:n], squares[:n], own[:n], n_own[:n], order),
            tail[feed] - first,
            (weights, *options),
            (bases, base_norms),
            (chosen[done:end], diversity[done:end], penalties[done:end], decided[done:end]),
        )
        chosen[done:end] = first + order[chosen[done:end]]
        done = end


@njit(cache=True, nogil=True)
def _place_one(candidates: Any, tail: Any, options: Any, space: Any, out: Any) -> Any:
    """One feed: `tail` first, then the greatest utility at every position."""
    _, near, squares, own, n_own, names = candidates
    weights, cap, gamma, _, fades = options
    chosen, diversity, penalties, decided = out
    n, c = own.shape
    remaining = np.arange(n)
    hits, now = np.zeros((weights.shape[1], c), np.bool_), np.zeros(c)
    known = np.zeros((len(space[1]), n if gamma > 0.0 else 0))
    span = (squares.copy(), np.zeros(n, np.int64), known, *space)
    reach, volume, placed, hint = np.sqrt(squares.max()), 0.0, 0, np.int64(-1)
    for step in range(len(tail) + len(chosen)):
        position, newest = step - len(tail), (placed - 1) % len(space[1])
        if position < 0:
            if tail[step] < 0:
                continue
            j = np.flatnonzero(names == tail[step])[0]
        else:
            _weigh(now, hits, placed, weights)
            state = (now, cap, volume, volume * reach, placed, newest)
            j, hint = _best(
                remaining[: n - placed], hint, candidates, state, span, decided[position]
            )
        square = _residual(_left(j, placed, newest, near, -np.inf, *span)) if gamma > 0.0 else 0.0
        if position >= 0:
            chosen[position], diversity[position] = j, volume * np.sqrt(square)
            _enter(penalties[position], now, own[j, : n_own[j]], cap)
        if gamma > 0.0:
            _add_base(placed, near, j, square, span)
            before = gamma if placed == 0 else volume
            volume = before * np.sqrt(square) if fades else gamma
        hits[placed % len(hits)] = False
        for k in own[j, : n_own[j]]:
            hits[placed % len(hits), k] = True
        _drop(remaining, n - placed, j)
        placed += 1


@njit(cache=True, nogil=True)
def _best(remaining: Any, hint: Any, candidates: Any, state: Any, span: Any, decided: Any) -> Any:
    """The candidate of greatest utility, and one nearly as good to begin with the next time.

    `decided` is set for every class without which another candidate were the best. A good first
    guess rules out most others by what is known of them already.
    """
    relevance, near, _, own, n_own, names = candidates
    now, cap, volume, reach, placed, newest = state
    left, seen, known, bases, norms = span
    best, best_worth, to_beat, second = np.int64(-1), -np.inf, -np.inf, np.int64(-1)
    rivals, worths = np.full(len(now), -1, np.int64), np.full(len(now), -np.inf)
    for i in range(-1, len(remaining)):
        j = remaining[i] if i >= 0 else hint
        if j < 0 or (i >= 0 and j == hint):
            continue
        if i >= 0 and relevance[j] + reach < to_beat:
            break
        gained = relevance[j]
        if volume > 0.0:
            missing = (to_beat - relevance[j]) / volume
            enough = missing * missing if missing > 0.0 else -np.inf
            square = _left(j, placed, newest, near, enough, left, seen, known, bases, norms)
            if square < enough:
                continue
            gained += volume * np.sqrt(_residual(square))
        demotion = _demotion(j, own, n_own, now)
        worth = _steps(gained - min(demotion, cap))
        if worth > best_worth or (worth == best_worth and names[j] < names[best]):
            second, best, best_worth, to_beat = best, j, worth, (worth - 1.0) / STEPS
        if demotion > 0.0:
            _note_rivals(j, gained, demotion, own, n_own, now, cap, rivals, worths, names)
    _decide(decided, best, best_worth, own[best, : n_own[best]], (rivals, worths, names))
    return best, second


@njit(cache=True, nogil=True)
def _decide(decided: Any, best: Any, best_worth: Any, classes: Any, found: Any) -> Any:
    """(c,) whether the best rival of a class beats the chosen one where the class is left out."""
    rivals, worths, names = found
    for k in classes:  # the chosen one gains as well
        decided[k] = rivals[k] >= 0 and rivals[k] != best
        rivals[k] = -1
    for k in range(len(rivals)):
        if rivals[k] >= 0:
            earlier = names[rivals[k]] < names[best]
            decided[k] = worths[k] > best_worth or (worths[k] == best_worth and earlier)


@njit(cache=True, nogil=True, forceinline=True)
def _demotion(j: Any, own: Any, n_own: Any, now: Any) -> Any:
    total = 0.0
    for i in range(n_own[j]):
        total += now[own[j, i]]
    return total


@njit(cache=True, nogil=True, forceinline=True)
def _note_rivals(  # noqa: PLR0913
    j: Any, gained: Any, demotion: Any, own: Any, n_own: Any, now: Any, cap: Any,
    rivals: Any, worths: Any, names: Any,
) -> Any:  # fmt: skip
    """Of every class, its member of greatest utility where the class were left out."""
    for i in range(n_own[j]):
        k = own[j, i]
        if now[k] > 0.0:
            freed = _steps(gained - min(demotion - now[k], cap))
            if freed > worths[k] or (freed == worths[k] and names[j] < names[rivals[k]]):
                rivals[k], worths[k] = j, freed


@njit(cache=True, nogil=True, forceinline=True)
def _left(  # noqa: PLR0913
    j: Any, placed: Any, newest: Any, near: Any, enough: Any,
    left: Any, seen: Any, known: Any, bases: Any, base_norms: Any,
) -> Any:  # fmt: skip
    """|v_j|^2: what is left of candidate j outside the bases of the window.

    Where what is known already brings it below `enough`: that, an upper bound.
    """
    window, k = len(bases), max(placed - len(bases), seen[j])
    slot = newest - (placed - 1 - k)  # no remainder: a division takes longer than the product
    slot = slot if slot >= 0 else slot + window
    while k < placed and left[j] >= enough:
        known[slot, j] = _share(near, j, bases, base_norms, slot)
        left[j] -= known[slot, j]
        k += 1
        slot = slot + 1 if slot + 1 < window else 0
    seen[j] = k
    return left[j]


@njit(cache=True, nogil=True, forceinline=True)
def _residual(square: Any) -> Any:
    return square if square > FLAT else 0.0


@njit(cache=True, nogil=True, forceinline=True)
def _steps(utility: Any) -> Any:
    return np.floor(utility * STEPS + 0.5)


@njit(cache=True, nogil=True, forceinline=True)
def _share(near: Any, j: Any, bases: Any, base_norms: Any, slot: Any) -> Any:
    """The part of |near[j]|^2 that lies along the base."""
    if base_norms[slot] == 0.0:
        return 0.0
    product = _product(near, j, bases, slot)
    return product * product / base_norms[slot]


@njit(
    cache=True, nogil=True, forceinline=True, fastmath={"reassoc", "contract"}
)  # lets the sum be vectorised
def _product(vectors: Any, i: Any, bases: Any, slot: Any) -> Any:
    total = 0.0
    for k in range(bases.shape[1]):
        total += np.float64(vectors[i, k]) * bases[slot, k]
    return total


@njit(cache=True, nogil=True)
def _add_base(placed: Any, near: Any, j: Any, square: Any, span: Any) -> Any:
    """What is new in the item just placed becomes the newest base, in the slot of the oldest.

    What lay along the oldest is given back to every candidate that had lost it.
    """
    left, _, known, bases, base_norms = span
    window = len(bases)
    width, slot = bases.shape[1], placed % window
    base = near[j].astype(np.float64)
    for other in range(min(placed, window)):
        if base_norms[other] > 0.0:
            along = _product(near, j, bases, other) / base_norms[other]
            for i in range(width):  # a loop: array expressions would make a new array each
                base[i] -= along * bases[other, i]
    if placed >= window:
        left += known[slot]
        known[slot] = 0.0
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
def _drop(remaining: Any, n: Any, j: Any) -> Any:
    """Take candidate j out of the first n, which ascend."""
    for i in range(np.searchsorted(remaining[:n], j), n - 1):
        remaining[i] = remaining[i + 1]
