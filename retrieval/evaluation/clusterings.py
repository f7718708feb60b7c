"""A user's history cut into clusters in several ways: Ward as in the night, and what it is held to.

Complete linkage and k-means are those of scipy and scikit-learn. Where they are compared with Ward
they are given the number of clusters that Ward found for the user, so that only the shape differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from profiling.actions import Actions, action_codes
from profiling.compiling import njit
from profiling.decay import importance_weights
from profiling.hashing import hash64
from profiling.history import ProfileConfig, read_back
from profiling.items import Items
from profiling.medoids import number_groups
from profiling.schema import FloatArray, IntArray, group_offsets, ints, sort_rows
from profiling.ward import FloatMatrix, ward_labels_batch

_SEEDS = 2**32  # scikit-learn takes seeds below


@dataclass(frozen=True)
class Histories:
    """What users engaged with before a cut-off, as a profile sees it.

    Attributes:
        users: (u,) int64 ids, ascending; all have a member.
        offsets: (u + 1,) int64: user i has the members `offsets[i]:offsets[i + 1]`.
        rows: (m,) int64 item rows, distinct and ascending within a user.
        member: (e,) int64 member of every engagement that counts.
        at: (e,) int64 its time, microseconds.
        worth: (e,) float64 what it adds to importance before decay.
    """

    users: IntArray
    offsets: IntArray
    rows: IntArray
    member: IntArray
    at: IntArray
    worth: FloatArray

    @classmethod
    def of(
        cls, events: pa.Table, items: Items, config: ProfileConfig, actions: Actions
    ) -> Histories:
        """Read back as the night does (`profiling.history.read_back`).

        Args:
            events: (user_id, event_id, item_id, at int64, action) positive engagements before the
                cut-off, any order; an event that is there again counts once.
            items: The catalogue; items that it lacks do not count.
            config: Window and number of items.
            actions: The configured actions, which weigh importance.
        """
        events = sort_rows(events, ("user_id", "event_id"))
        users, ids, item_ids = (ints(events, n) for n in ("user_id", "event_id", "item_id"))
        again = np.r_[False, (users[1:] == users[:-1]) & (ids[1:] == ids[:-1])][: len(users)]
        kept = ~again & (items.rows_of(item_ids) >= 0)
        users, item_ids, at = users[kept], item_ids[kept], ints(events, "at")[kept]
        bounds = group_offsets(users)
        member, found, offsets = read_back(bounds, at, item_ids, config.window_us, config.max_items)
        worth = np.array([a.importance for a in actions])[
            action_codes(events["action"], actions)[kept]
        ]
        counts = member >= 0
        rows = items.rows_of(found)
        return cls(users[bounds[:-1]], offsets, rows, member[counts], at[counts], worth[counts])

    @property
    def sizes(self) -> IntArray:
        """(u,) int64 numbers of members."""
        return np.diff(self.offsets)

    def last_at(self) -> IntArray:
        """(m,) int64: when each member was engaged with last, microseconds."""
        latest = np.full(len(self.rows), np.iinfo(np.int64).min)
        np.maximum.at(latest, self.member, self.at)
        return latest

    def weights(self, decay_per_day: float) -> FloatArray:
        """(m,) float64: `sum worth * exp(-lambda * age)` of each member's engagements.

        Ages count from the user's last engagement; from any other moment, all weights of a user
        would be multiplied by one number (PinnerSage, KDD 2020, eq. 3).
        """
        last = np.maximum.reduceat(self.last_at(), self.offsets[:-1])
        as_of = np.repeat(last, self.sizes)[self.member]
        decayed = self.worth * importance_weights(self.at, as_of, decay_per_day)
        return np.asarray(np.bincount(self.member, decayed, len(self.rows)), np.float64)


class Partition(NamedTuple):
    """Every user's members in clusters.

    Attributes:
        groups: (m,) int64 cluster of each member, counted over all users.
        offsets: (u + 1,) int64 bounds of the users' clusters.
    """

    groups: IntArray
    offsets: IntArray

    @property
    def sizes(self) -> IntArray:
        """(u,) int64 numbers of clusters."""
        return np.diff(self.offsets)


def ward(histories: Histories, vectors: FloatMatrix, alpha: float) -> Partition:
    """The clusters of the night: `profiling.ward`."""
    labels = ward_labels_batch(histories.offsets, histories.rows, vectors, alpha)
    return Partition(*number_groups(labels, histories.offsets))


def complete_linkage(histories: Histories, vectors: FloatMatrix, sizes: IntArray) -> Partition:
    """Complete linkage (scipy), cut to `sizes` (u,) clusters.

    On unit vectors the largest distance within a pair of clusters orders as the least cosine.
    """
    # Both libraries are imported where they are used: every command would wait for them.
    from scipy.cluster.hierarchy import linkage

    labels = np.empty(len(histories.rows), np.int64)
    for low, high, k in _users(histories, sizes):
        if _is_settled(labels[low:high], k):
            continue
        merges = linkage(vectors[histories.rows[low:high]], method="complete")
        labels[low:high] = _cut(merges[:, :2].astype(np.int64), k)
    return Partition(*number_groups(labels, histories.offsets))


def k_means(histories: Histories, vectors: FloatMatrix, sizes: IntArray, seed: int) -> Partition:
    """Lloyd's k-means from one k-means++ start (scikit-learn), `sizes` (u,) clusters at most.

    Equal members can leave a user fewer clusters.
    """
    from sklearn import config_context
    from sklearn.cluster import KMeans

    labels = np.empty(len(histories.rows), np.int64)
    seeds = hash64(seed, "k-means", histories.users) % np.uint64(_SEEDS)
    with threadpool_limits(1), config_context(assume_finite=True, skip_parameter_validation=True):
        for (low, high, k), start in zip(_users(histories, sizes), seeds, strict=True):
            if _is_settled(labels[low:high], k):
                continue
            members = vectors[histories.rows[low:high]]
            distinct = len(np.unique(members, axis=0))
            fitted = KMeans(min(k, distinct), n_init=1, random_state=int(start)).fit(members)
            labels[low:high] = np.unique(fitted.labels_, return_inverse=True)[1]
    return Partition(*number_groups(labels, histories.offsets))


def _users(histories: Histories, sizes: IntArray) -> list[tuple[int, int, int]]:
    """(first member, end, number of clusters) of every user."""
    offsets = histories.offsets
    wanted = np.minimum(sizes, histories.sizes)
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), wanted.tolist(), strict=True))


def _is_settled(labels: IntArray, k: int) -> bool:
    """Write the labels of one cluster, or of one a member; whether it was either."""
    labels[:] = 0 if k == 1 else np.arange(len(labels))
    return k == 1 or k == len(labels)


@njit(cache=True, nogil=True)
def _cut(merges: IntArray, k: int) -> IntArray:
    """(n,) labels of the k clusters that all but the last k - 1 of (n - 1, 2) merges leave."""
    n = len(merges) + 1
    into = np.arange(2 * n - 1)
    for step in range(n - k):
        into[merges[step, 0]] = into[merges[step, 1]] = n + step
    for node in range(2 * n - 2, -1, -1):
        into[node] = into[into[node]]
    labels, number, count = np.empty(n, np.int64), np.full(2 * n - 1, -1), 0
    for i in range(n):
        if number[into[i]] < 0:
            number[into[i]] = count
            count += 1
        labels[i] = number[into[i]]
    return labels
