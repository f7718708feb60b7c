"""How good retrieval is: a row of figures per arm, with intervals over users.

Every figure is a ratio of two sums over users, so all of them share one way to an interval, and two
arms are compared user by user (`profiling.bootstrap`). With R_u(k) the first k items of user u's
ranking, P_u what the user came to like, C_s the condition of the slot s that brought an item:

    hit_rate_k   share of all the positives found: sum |P_u in R_u(k)| / sum |P_u|
    recall_k     mean over users of |P_u in R_u(k)| / |P_u|
    any_hit_k    share of users with at least one of P_u in R_u(k)
    topic_match  share of the items in R_u(100) that carry a topic of C_s
    kept_share   the same of what the slots fetch without a filter; 1 / kept_share is what a filter
                 fetches per item that it keeps (papers.md 2.3)
    slot_overlap mean over pairs of a user's slots of the share of their first items in common
    slot_overlap_alike  the same over the pairs whose conditions are the same topics
    ..._tail     the same for P_u, or C_s, of tail topics alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from profiling.bootstrap import RESAMPLES, Estimate, estimate, resampled_sums
from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import FloatArray, IntArray
from retrieval.candidates import carries_topic, distinct_lists
from retrieval.evaluation.protocol import HeldOut
from retrieval.evaluation.rankings import NOTHING, Ranking, SlotLists
from retrieval.index.exact import Lists

DEPTHS = (10, 100, 300)  # k of hit rate and recall
AT = 100  # k of everything else
DEEPEST = max(DEPTHS)


@dataclass(frozen=True)
class UserScores:
    """The figures of one arm, user by user: figure m is `sum above[:, m] / sum below[:, m]`.

    Attributes:
        above: (u, m) float64.
        below: (u, m) float64.
        coverage: Share of the catalogue that somebody gets among their first `AT`.
    """

    names: tuple[str, ...]
    above: FloatArray
    below: FloatArray
    coverage: float


@dataclass(frozen=True)
class Judge:
    """What every arm is judged by.

    Attributes:
        held_out: Users, positives, conditions.
        items: The catalogue.
        tail: (t,) int64 topics, ascending.
    """

    held_out: HeldOut
    items: Items
    tail: IntArray

    def scores(
        self, ranking: Ranking, fetched: SlotLists | None = None, shown: SlotLists | None = None
    ) -> UserScores:
        """The figures of one arm.

        Args:
            ranking: At least `DEEPEST` deep where there are as many items.
            fetched: What its slots bring without a filter; None: it has no such lists.
            shown: What its slots bring; None: it has one list for all slots.
        """
        columns = self._hits(ranking) | self._matches(ranking)
        if fetched is not None:
            columns["kept_share"] = self._kept(fetched)
        if shown is not None:
            columns["slot_overlap"] = slot_overlap(shown, len(self.items.ids))
            alike = self._topics_of_slots()
            columns["slot_overlap_alike"] = slot_overlap(shown, len(self.items.ids), alike)
        first = ranking.rows[:, :AT]
        coverage = len(np.unique(first[first >= 0])) / max(len(self.items.ids), 1)
        pairs = list(columns.values())
        return UserScores(
            tuple(columns),
            np.stack([above for above, _ in pairs], axis=1),
            np.stack([below for _, below in pairs], axis=1),
            coverage,
        )

    def _hits(self, ranking: Ranking) -> dict[str, tuple[FloatArray, FloatArray]]:
        positives = self.held_out.positives
        ones = np.ones(len(self.held_out.users))
        wanted = np.diff(positives.offsets).astype(np.float64)
        found = {}
        for k in DEPTHS:
            hits = count_hits(ranking.rows[:, :k], positives, len(self.items.ids))
            found[f"hit_rate_{k}"] = (hits.astype(np.float64), wanted)
            found[f"recall_{k}"] = (hits / wanted, ones)
            found[f"any_hit_{k}"] = ((hits > 0).astype(np.float64), ones)
        tail = self._tail_positives()
        hits = count_hits(ranking.rows[:, :AT], tail, len(self.items.ids))
        of_tail = np.diff(tail.offsets).astype(np.float64)
        return found | {f"hit_rate_{AT}_tail": (hits.astype(np.float64), of_tail)}

    def _tail_positives(self) -> Lists:
        positives = self.held_out.positives
        which = np.zeros(len(positives.values), np.int64)
        topics = Lists(np.array([0, len(self.tail)]), self.tail)
        rare = carries_topic(self.items, topics, which, positives.values)
        before = np.r_[0, np.cumsum(rare)]
        return Lists(before[positives.offsets].astype(np.int64), positives.values[rare])

    def _matches(self, ranking: Ranking) -> dict[str, tuple[FloatArray, FloatArray]]:
        rows, slots = ranking.rows[:, :AT], ranking.slots[:, :AT]
        conditions = self.held_out.conditions
        held = (slots >= 0) & (rows >= 0)
        held[held] = np.diff(conditions.offsets)[slots[held]] > 0
        matched = np.zeros(rows.shape, bool)
        matched[held] = carries_topic(self.items, conditions, slots[held], rows[held])
        rare = np.zeros(rows.shape, bool)
        rare[held] = self._tail_slots()[slots[held]]
        return {
            "topic_match": (_sums(matched), _sums(held)),
            "topic_match_tail": (_sums(matched & rare), _sums(held & rare)),
        }

    def _tail_slots(self) -> np.ndarray:
        """(s,) bool: whether a slot has a condition, of tail topics alone."""
        conditions = self.held_out.conditions
        common = np.r_[0, np.cumsum(~np.isin(conditions.values, self.tail))]
        lengths = np.diff(conditions.offsets)
        return np.asarray((np.diff(common[conditions.offsets]) == 0) & (lengths > 0))

    def _topics_of_slots(self) -> IntArray:
        """(s,) int64: equal numbers for the same topics, `NOTHING` for none."""
        which = distinct_lists(self.held_out.conditions)[1]
        return np.where(np.diff(self.held_out.conditions.offsets) > 0, which, NOTHING)

    def _kept(self, fetched: SlotLists) -> tuple[FloatArray, FloatArray]:
        conditions = self.held_out.conditions
        rows = fetched.rows[:, :AT]
        held = (rows >= 0) & (np.diff(conditions.offsets) > 0)[:, None]
        slots = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
        matched = np.zeros(rows.shape, bool)
        matched[held] = carries_topic(self.items, conditions, slots[held], rows[held])
        above, below = (
            np.add.reduceat(np.r_[_sums(some), 0.0], fetched.offsets[:-1])
            for some in (matched, held)
        )
        return above, below


def _sums(flags: np.ndarray) -> FloatArray:
    return np.asarray(flags.sum(axis=1), np.float64)


def count_hits(rows: IntArray, positives: Lists, n_items: int) -> IntArray:
    """(u,) how many of each user's positives stand in the (u, k) rows."""
    hits = np.zeros(len(rows), np.int64)
    _count_hits(rows, positives, np.full(n_items, -1, np.int64), hits)
    return hits


@njit(cache=True, nogil=True)
def _count_hits(rows: IntArray, positives: Lists, stamps: IntArray, hits: IntArray) -> None:
    for user in range(len(rows)):
        for row in positives.values[positives.offsets[user] : positives.offsets[user + 1]]:
            stamps[row] = user
        for row in rows[user]:
            if row >= 0 and stamps[row] == user:
                hits[user] += 1


def slot_overlap(
    lists: SlotLists, n_items: int, alike: IntArray | None = None, *, first: int = AT // 2
) -> tuple[FloatArray, FloatArray]:
    """(u,) sums over pairs of slots of |A and B| / min(|A|, |B|), and (u,) numbers of pairs.

    Args:
        lists: What the slots bring.
        n_items: Size of the catalogue.
        alike: (s,) int64: only slots of equal numbers are a pair, those of `NOTHING` are in none;
            None: all are.
        first: How much of each list counts.
    """
    users = len(lists.offsets) - 1
    above, below = np.zeros(users), np.zeros(users)
    kinds = np.zeros(len(lists.rows), np.int64) if alike is None else alike
    _slot_overlap(lists, kinds, first, np.full(n_items, -1, np.int64), above, below)
    return above, below


@njit(cache=True, nogil=True)
def _slot_overlap(
    lists: SlotLists,
    kinds: IntArray,
    first: int,
    stamps: IntArray,
    above: FloatArray,
    below: FloatArray,
) -> None:
    for user in range(len(lists.offsets) - 1):
        for a in range(lists.offsets[user], lists.offsets[user + 1]):
            n_a = 0
            for row in lists.rows[a, :first]:
                if row >= 0:
                    stamps[row] = a
                    n_a += 1
            for b in range(a + 1, lists.offsets[user + 1]):
                if kinds[a] != kinds[b] or kinds[a] == NOTHING:
                    continue
                n_b, common = 0, 0
                for row in lists.rows[b, :first]:
                    if row >= 0:
                        n_b += 1
                        common += stamps[row] == a
                if n_a and n_b:
                    above[user] += common / min(n_a, n_b)
                    below[user] += 1.0


def mean_scores(runs: Sequence[UserScores]) -> UserScores:
    """The mean over training seeds, user by user."""
    return UserScores(
        runs[0].names,
        np.mean([run.above for run in runs], axis=0),
        np.mean([run.below for run in runs], axis=0),
        float(np.mean([run.coverage for run in runs])),
    )


class Comparison:
    """The figures of several arms over the same users, resampled together."""

    def __init__(
        self, arms: Mapping[str, UserScores], seed: int, resamples: int = RESAMPLES
    ) -> None:
        """Resample once, for all arms and figures."""
        self.arms = dict(arms)
        values = np.concatenate([np.c_[s.above, s.below] for s in self.arms.values()], axis=1)
        sums = resampled_sums(values, seed, resamples)
        self._figures: dict[tuple[str, str], FloatArray] = {}
        start = 0
        for arm, scores in self.arms.items():
            n = len(scores.names)
            for i, name in enumerate(scores.names):
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratio = sums[:, start + i] / sums[:, start + n + i]
                self._figures[arm, name] = ratio
            start += 2 * n

    def figure(self, arm: str, name: str) -> Estimate | None:
        """A figure of an arm; None where it has none."""
        found = self._figures.get((arm, name))
        return None if found is None or not np.isfinite(found[0]) else estimate(found)

    def value(self, arm: str, name: str) -> float | None:
        """A figure of an arm without its interval."""
        found = self.figure(arm, name)
        return None if found is None else found.value

    def difference(self, arm: str, other: str, name: str) -> Estimate:
        """`figure(arm) - figure(other)`, user by user."""
        return estimate(self._figures[arm, name] - self._figures[other, name])

    def gain(self, name: str, pair: tuple[str, str], over: tuple[str, str]) -> Estimate:
        """How much further apart the arms of `pair` are than those of `over`."""
        parts = [self._figures[a, name] - self._figures[b, name] for a, b in (pair, over)]
        return estimate(parts[0] - parts[1])
