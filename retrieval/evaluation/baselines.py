"""What any learned retrieval has to beat: popularity, item-kNN, and factors of a kept library.

A baseline scores every item for every user, `Scorer.scores`. `WithPrior` multiplies any of them by
what is popular now; `rank` and `rank_slots` cut the scores to rankings, the second inside the slice
of each slot's condition. ALS and BPR come from the library `implicit` (extra `evaluation`),
imported where they are fitted and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from profiling.decay import DAY_US
from profiling.items import Items
from profiling.schema import FloatArray, IntArray
from retrieval.evaluation.protocol import HeldOut
from retrieval.evaluation.rankings import NOTHING, Ranking, SlotLists, deal, top_rows
from retrieval.index.exact import Lists

_BLOCK_CELLS = 1 << 21  # scores held at a time, 16 MiB


@dataclass(frozen=True)
class Feedback:
    """Positive engagements before a cut-off, in order of (user, item, age).

    Attributes:
        user_ids: (n,) int64, ascending: whose engagements they are.
        users: (m,) int64 places in `user_ids`.
        rows: (m,) int64 item rows.
        ages: (m,) float64 days before the cut-off.
        n_items: Size of the catalogue.
    """

    user_ids: IntArray
    users: IntArray
    rows: IntArray
    ages: FloatArray
    n_items: int

    @classmethod
    def of(
        cls, user_ids: IntArray, item_ids: IntArray, at: IntArray, items: Items, cutoff: int
    ) -> Feedback:
        """From events, (m,) each, any order; unknown items and events not before it are left out.

        Raises:
            ValueError: No event is left.
        """
        rows = items.rows_of(item_ids)
        kept = (rows >= 0) & (at < cutoff)
        if not kept.any():
            raise ValueError(
                f"none of {len(rows):,} engagements lies before the cut-off with a known item; "
                "there is nothing to learn from: choose a later day"
            )
        order = np.lexsort((-at[kept], rows[kept], user_ids[kept]))
        known, users = np.unique(user_ids[kept][order], return_inverse=True)
        ages = (cutoff - at[kept][order]) / DAY_US
        return cls(known, users.astype(np.int64), rows[kept][order], ages, len(items.ids))

    def weights(self, half_life_days: float) -> FloatArray:
        """(m,) `2^(-age / half_life)`."""
        return np.exp2(-self.ages / half_life_days)

    def matrix(self, half_life_days: float = np.inf) -> sp.csr_matrix:
        """(n, n_items) float64: the greatest weight of a user's engagements with an item."""
        first = np.r_[True, (np.diff(self.users) != 0) | (np.diff(self.rows) != 0)]
        starts = np.flatnonzero(first)
        values = np.maximum.reduceat(self.weights(half_life_days), starts)
        place = (values, (self.users[first], self.rows[first]))
        return sp.csr_matrix(place, shape=(len(self.user_ids), self.n_items))


class Scorer(Protocol):
    """Something that scores the whole catalogue for some users."""

    def scores(self, user_ids: IntArray) -> FloatArray:
        """(b, n_items) float64, the greater the better; users it does not know get what it can."""
        ...


@dataclass(frozen=True)
class Popularity:
    """One score per item for everybody: `sum 2^(-age / half_life)` over engagements."""

    counts: FloatArray

    @classmethod
    def fit(cls, feedback: Feedback, *, half_life_days: float) -> Popularity:
        """Count."""
        weights = feedback.weights(half_life_days)
        counts = np.bincount(feedback.rows, weights, minlength=feedback.n_items)
        return cls(counts.astype(np.float64))

    def scores(self, user_ids: IntArray) -> FloatArray:
        """See `Scorer.scores`."""
        return np.repeat(self.counts[None, :], len(user_ids), axis=0)


@dataclass(frozen=True)
class ItemKnn:
    """`score(u, i) = sum over u's items j of w_uj sim(j, i)`, sim among the nearest of j.

    `sim(j, i) = |U_j and U_i| / (sqrt(|U_j| |U_i|) + shrink)` over the sets of users, 0 for i = j.
    """

    user_ids: IntArray
    history: sp.csr_matrix
    similarity: sp.csr_matrix

    @classmethod
    def fit(
        cls, feedback: Feedback, *, neighbours: int, shrink: float, half_life_days: float
    ) -> ItemKnn:
        """Count common users, and keep the nearest of each item, ties to the smaller row."""
        ones = feedback.matrix()
        common = (ones.T @ ones).tocsr()
        sizes = np.sqrt(common.diagonal())
        owners = np.repeat(np.arange(feedback.n_items), np.diff(common.indptr))
        common.data /= sizes[owners] * sizes[common.indices] + shrink
        common.setdiag(0.0)
        common.eliminate_zeros()
        history = feedback.matrix(half_life_days)
        return cls(feedback.user_ids, history, _nearest(common, neighbours))

    def scores(self, user_ids: IntArray) -> FloatArray:
        """See `Scorer.scores`; an unknown user's are 0."""
        rows, known = places_of(user_ids, self.user_ids)
        picked = sp.diags(known.astype(np.float64)) @ self.history[rows]
        return np.asarray((picked @ self.similarity).toarray())


def _nearest(similarity: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """Each row's n greatest values, ties to the smaller column."""
    owners = np.repeat(np.arange(similarity.shape[0]), np.diff(similarity.indptr))
    order = np.lexsort((similarity.indices, -similarity.data, owners))
    ranks = np.arange(len(owners)) - np.repeat(similarity.indptr[:-1], np.diff(similarity.indptr))
    kept = order[ranks < n]
    place = (similarity.data[kept], (owners[kept], similarity.indices[kept]))
    return sp.csr_matrix(place, shape=similarity.shape)


@dataclass(frozen=True)
class Factors:
    """`score(u, i) = x_u . y_i`; an unknown user's is 0.

    Attributes:
        user_ids: (n,) int64, ascending.
        x: (n, f) float32.
        y: (n_items, f) float32.
    """

    user_ids: IntArray
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]

    def scores(self, user_ids: IntArray) -> FloatArray:
        """See `Scorer.scores`."""
        rows, known = places_of(user_ids, self.user_ids)
        return np.asarray((self.x[rows] * known[:, None]) @ self.y.T, np.float64)


def fit_als(feedback: Feedback, seed: int, *, half_life_days: float, **options: Any) -> Factors:
    """Weighted matrix factorisation by alternating least squares (Hu, Koren, Volinsky 2008).

    Args:
        feedback: What to learn from.
        seed: Of the first factors.
        half_life_days: Of an engagement's confidence.
        options: Of `implicit.als.AlternatingLeastSquares`: factors, regularization, alpha,
            iterations.
    """
    from implicit.als import AlternatingLeastSquares

    return _fit(AlternatingLeastSquares, feedback, half_life_days, {"random_state": seed} | options)


def fit_bpr(feedback: Feedback, seed: int, **options: Any) -> Factors:
    """Bayesian personalised ranking (Rendle et al. 2009).

    Args:
        feedback: What to learn from.
        seed: Of the first factors and of the samples; one thread, or the order would be open.
        options: Of `implicit.bpr.BayesianPersonalizedRanking`: factors, learning_rate,
            regularization, iterations.
    """
    from implicit.bpr import BayesianPersonalizedRanking

    options = {"random_state": seed, "num_threads": 1} | options
    return _fit(BayesianPersonalizedRanking, feedback, np.inf, options)


def _fit(model: Any, feedback: Feedback, half_life_days: float, options: Any) -> Factors:
    from implicit.gpu import HAS_CUDA

    gpu = {"use_gpu": False} if HAS_CUDA else {}
    with threadpool_limits(1, user_api="blas"):  # the library has threads of its own
        fitted = model(**options, **gpu)
        fitted.fit(feedback.matrix(half_life_days).astype(np.float32), show_progress=False)
    return Factors(
        feedback.user_ids, np.asarray(fitted.user_factors), np.asarray(fitted.item_factors)
    )


@dataclass(frozen=True)
class WithPrior:
    """`score(u, i) = (max(s(u, i), 0) + eps) * prior_i^exponent`: what is liked, times what is hot.

    The small eps, a thousandth of the user's best score, lets popularity order the items that the
    scorer knows nothing of.

    Attributes:
        scorer: What it corrects.
        prior: (n_items,) float64, 0 or more.
        exponent: How much of it; 0 is none.
    """

    scorer: Scorer
    prior: FloatArray
    exponent: float

    def scores(self, user_ids: IntArray) -> FloatArray:
        """See `Scorer.scores`."""
        own = np.maximum(self.scorer.scores(user_ids), 0.0)
        best = own.max(axis=1, keepdims=True)
        own += np.where(best > 0, 1e-3 * best, 1.0)
        return np.asarray(own * self.prior**self.exponent)


def places_of(user_ids: IntArray, known: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Each user's place among the ascending known ones (0 where there is none), and whether."""
    places = np.minimum(np.searchsorted(known, user_ids), len(known) - 1)
    found = known[places] == user_ids
    return np.where(found, places, 0), found


def rank(scorer: Scorer, held_out: HeldOut, k: int) -> Ranking:
    """The k best items of each user that the user does not know."""
    parts = [top_rows(scores, k) for _, scores in _blocks(scorer, held_out)]
    return deal(np.concatenate(parts), held_out.offsets)


def rank_slots(scorer: Scorer, held_out: HeldOut, items: Items, k: int) -> SlotLists:
    """The k best of each slot: those that carry a topic of its condition, then the others.

    A slot without a condition, or whose slice is exhausted, goes on without one, as step 5 does.
    """
    offsets, found = held_out.offsets, []
    slices = _slices(held_out.conditions, items)
    for start, scores in _blocks(scorer, held_out):
        slots = np.arange(offsets[start], offsets[start + len(scores)])
        owners = np.searchsorted(offsets, slots, side="right") - 1 - start
        scores = scores[owners]
        inside = slices[slots].toarray() > 0
        lists = top_rows(np.where(inside, scores, -np.inf), k)
        short = np.flatnonzero(lists[:, -1] == NOTHING)
        rest = top_rows(np.where(inside[short], -np.inf, scores[short]), k)
        for i, others in zip(short, rest, strict=True):
            n = int((lists[i] >= 0).sum())
            lists[i, n:] = others[: k - n]
        found.append(lists)
    return SlotLists(offsets, np.concatenate(found))


def _blocks(scorer: Scorer, held_out: HeldOut) -> Any:
    """(first user, scores of a block of users), what they know at -inf."""
    known = held_out.known
    block = max(1, _BLOCK_CELLS // max(held_out.n_items, 1))
    for start in range(0, len(held_out.users), block):
        users = held_out.users[start : start + block]
        scores = scorer.scores(users)
        bounds = known.offsets[start : start + len(users) + 1]
        owners = np.repeat(np.arange(len(users)), np.diff(bounds))
        scores[owners, known.values[bounds[0] : bounds[-1]]] = -np.inf
        yield start, scores


def _slices(conditions: Lists, items: Items) -> sp.csr_matrix:
    """(s, n_items): above 0 where the item carries a topic of the slot's condition."""
    topics, offsets, rows = items.items_by_topic
    slots = np.repeat(np.arange(len(conditions.offsets) - 1), np.diff(conditions.offsets))
    places, known = places_of(conditions.values, topics)
    shape = (len(conditions.offsets) - 1, len(topics))
    wanted = sp.csr_matrix((known.astype(np.float64), (slots, places)), shape=shape)
    carriers = sp.csr_matrix(
        (np.ones(len(rows)), rows, offsets), shape=(len(topics), len(items.ids))
    )
    return (wanted @ carriers).tocsr()
