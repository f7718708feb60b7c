"""How near what stands for a user lies to what the user came to like.

With r_1, r_2, ... the vectors that stand for user u in the order of use, P_u the items that u
engaged with on the days after and had not met, t a cosine, N a budget of items:

    relevance@e  sum_u |{p in P_u : max_{j <= e} cos(r_j, p) >= t}| / sum_u |P_u|
    recall@e     sum_u |{p in P_u : some j <= e has rank_j(p) <= N // min(e, n_u)}| / sum_u |P_u|
    cosine@e     sum_u sum_p max_{j <= e} cos(r_j, p) / sum_u |P_u|

rank_j(p) is p's place among the catalogue's items that u had not met, by cosine to r_j; n_u is how
many vectors u has. So every method asks for N items a user, in equal parts for its vectors, and
items that two of them bring are lost, as in PinnerSage (KDD 2020, section 5: 400 candidates in all,
floor(400 / e) per embedding). Its table calls relevant what is near one of the *candidates*; here
what is near one of the *vectors* is, as in its "next action" table: in a small catalogue 400
candidates are near everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import FloatArray, IntArray
from profiling.ward import FloatMatrix
from retrieval.evaluation.measures import UserScores
from retrieval.evaluation.representatives import Chosen
from retrieval.index.exact import Lists

FIGURES = ("relevance", "recall", "cosine")
EVERY = 1 << 20  # as many vectors as a user has
_SAME = np.float32(1e-6)  # cosines closer than this are ties: products differ in their last bits
_CELLS = 1 << 24  # scores held at a time


class Sought(NamedTuple):
    """What is to be found.

    Attributes:
        positives: u Lists of item rows.
        known: u Lists of item rows that are not brought again.
    """

    positives: Lists
    known: Lists


@dataclass(frozen=True)
class Rules:
    """What counts.

    Attributes:
        threshold: Least cosine of what is relevant.
        budget: Items asked for a user.
        depths: Numbers e of vectors.
    """

    threshold: float
    budget: int
    depths: tuple[int, ...]


class _Probes(NamedTuple):
    """What stands for somebody anywhere, once: (k,) pairs of user and vector.

    Attributes:
        users: (k,) int64 places of users.
        ids: (k,) int64 vectors; pairs ascend.
        starts: (k + 1,) int64 bounds in what follows, a value a positive of the user.
        cosines: (s,) float32.
        ranks: (s,) int64, from 1.
    """

    users: IntArray
    ids: IntArray
    starts: IntArray
    cosines: npt.NDArray[np.float32]
    ranks: IntArray


def judge_chosen(
    draws: Sequence[Sequence[Chosen]], sought: Sought, items: Items, rules: Rules
) -> list[tuple[UserScores, ...]]:
    """The figures (`FIGURES`) of several methods, for each number e of vectors in `rules.depths`.

    Args:
        draws: For each method what it chose, draw by draw; the figures are means over draws.
        sought: Of the same users.
        items: The catalogue.
        rules: What counts.
    """
    tagged, own = _with_common_ids(draws, len(items.ids))
    width = len(items.ids) + len(own)
    probes = _probe([lists for method in tagged for lists in method], own, sought, items)
    return [
        _mean([_score(lists, probes, rules, width) for lists in method], sought)
        for method in tagged
    ]


def _with_common_ids(
    draws: Sequence[Sequence[Chosen]], n_items: int
) -> tuple[list[list[Lists]], FloatMatrix]:
    """The lists with ids that go on from method to method, and all vectors that are no item's."""
    tagged, own, count = [], [], 0
    for method in draws:
        lists = [
            c.lists._replace(values=np.where(c.lists.values < n_items, 0, count) + c.lists.values)
            for c in method
        ]
        tagged.append(lists)
        own.append(method[0].own)  # chance chooses among them, it makes none
        count += len(method[0].own)
    return tagged, np.concatenate(own)


def _probe(lists: Sequence[Lists], own: FloatMatrix, sought: Sought, items: Items) -> _Probes:
    """Cosine and rank of every positive of a user for every vector that stands for the user."""
    width = len(items.ids) + len(own)
    keys = np.unique(np.concatenate([_keys(some, width) for some in lists]))
    users, ids = keys // width, keys % width
    lengths = np.diff(sought.positives.offsets)[users]
    starts = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    probes = _Probes(
        users, ids, starts, np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int64)
    )
    vectors, of_probe = np.unique(ids, return_inverse=True)
    order = np.argsort(of_probe, kind="stable")
    bounds = np.searchsorted(of_probe[order], np.arange(len(vectors) + 1))
    step = max(1, _CELLS // max(len(items.ids), 1))
    for first in range(0, len(vectors), step):
        block = vectors[first : first + step]
        scores = _vectors(block, own, items) @ items.vectors.T
        places = order[bounds[first] : bounds[first + len(block)]]
        _measure(scores, places, of_probe[places] - first, probes, sought)
    return probes


def _keys(lists: Lists, width: int) -> IntArray:
    owners = np.repeat(np.arange(len(lists.offsets) - 1), np.diff(lists.offsets))
    return np.asarray(owners * width + lists.values, np.int64)


def _vectors(ids: IntArray, own: FloatMatrix, items: Items) -> FloatMatrix:
    """(n, d) float32 vectors of ids."""
    found = np.empty((len(ids), items.width), np.float32)
    theirs = ids < len(items.ids)
    found[theirs] = items.vectors[ids[theirs]]
    found[~theirs] = own[ids[~theirs] - len(items.ids)]
    return found


@njit(cache=True, nogil=True)
def _measure(
    scores: FloatMatrix, places: IntArray, row_of: IntArray, probes: _Probes, sought: Sought
) -> None:
    """Write cosines and ranks of the probes at `places`; `row_of` (n,) is their row of scores."""
    for n in range(len(places)):
        probe, row = places[n], scores[row_of[n]]
        user, write = probes.users[probe], probes.starts[probe]
        low, high = sought.positives.offsets[user], sought.positives.offsets[user + 1]
        known = sought.known.values[sought.known.offsets[user] : sought.known.offsets[user + 1]]
        for p in range(low, high):
            cosine = row[sought.positives.values[p]]
            bar = cosine + _SAME
            above = 0
            for i in range(len(row)):
                above += row[i] > bar
            for item in known:
                above -= row[item] > bar
            probes.cosines[write], probes.ranks[write] = cosine, above + 1
            write += 1


def _score(lists: Lists, probes: _Probes, rules: Rules, width: int) -> FloatArray:
    """(u, e, 3) sums over each user's positives, in the order of FIGURES; `width` as in `_keys`."""
    places = np.searchsorted(probes.users * width + probes.ids, _keys(lists, width))
    sums = np.zeros((len(lists.offsets) - 1, len(rules.depths), len(FIGURES)))
    depths = np.array(rules.depths, np.int64)
    # Decimal thresholds are not float32 numbers: what is as near as stated counts.
    least = np.float32(rules.threshold) - _SAME
    _sum(lists.offsets, places, probes, depths, least, rules.budget, sums)
    return sums


@njit(cache=True, nogil=True)
def _sum(
    offsets: IntArray,
    places: IntArray,
    probes: _Probes,
    depths: IntArray,
    least: float,
    budget: int,
    sums: FloatArray,
) -> None:
    for user in range(len(offsets) - 1):
        low, n = offsets[user], offsets[user + 1] - offsets[user]
        positives = probes.starts[places[low] + 1] - probes.starts[places[low]] if n else 0
        for d in range(len(depths)):
            used = min(depths[d], n)
            for p in range(positives):
                best, rank = np.float32(-1.0), np.iinfo(np.int64).max
                for j in range(low, low + used):
                    at = probes.starts[places[j]] + p
                    best, rank = max(best, probes.cosines[at]), min(rank, probes.ranks[at])
                sums[user, d, 0] += best >= least
                sums[user, d, 1] += rank <= budget // used
                sums[user, d, 2] += best


def _mean(sums: Sequence[FloatArray], sought: Sought) -> tuple[UserScores, ...]:
    """By number of vectors: the mean over draws, user by user."""
    mean = np.mean(sums, axis=0)
    wanted = np.diff(sought.positives.offsets).astype(np.float64)
    below = np.repeat(wanted[:, None], len(FIGURES), axis=1)
    return tuple(UserScores(FIGURES, mean[:, d], below, 0.0) for d in range(mean.shape[1]))
