"""Which interest of tonight is which of the version before: lineage (ours, for people).

Nothing but lineage depends on it. The rule, for one user:

1. The *share* of a new cluster in an old one is the importance, in the new profile, of the items
   that both hold. A new cluster claims the old one in which its share is largest (ties: the
   smaller old id). Where it shares none, it claims the old one with the nearest medoid by cosine,
   if that is at least `threshold` and the same vectors made both versions; else it claims nothing.
2. Among claims on one old cluster the strongest continues it and keeps its id: any share before
   any cosine, the larger first, ties to the smaller medoid id. The others get new ids.
3. An old cluster *went to* the new one that holds its largest share (ties: the smaller medoid id).
   What a new cluster came from is the one it claims and all that went to it.
4. Lineage: `born` without a claim; `merged` if it came from several; else `continued` if it keeps
   the id it claims and `split` if it does not.

New ids count on from `n_born`, in the order of the clusters' smallest items, and never come again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.compiling import njit
from profiling.schema import FloatArray, IntArray
from profiling.ward import FloatMatrix

LINEAGES = ("born", "continued", "merged", "split")
_BORN, _CONTINUED, _MERGED, _SPLIT = range(4)


@dataclass(frozen=True)
class Clusters:
    """The clusters of (u,) users, user by user; within a user in the order ids are given.

    Attributes:
        user_offsets: (u + 1,) int64; user u has the clusters `user_offsets[u]:user_offsets[u + 1]`.
        member_offsets: (c + 1,) int64; cluster c has the members of these bounds.
        members: (m,) int64 item ids.
        weights: (m,) float64, the members' importance; read of the new clusters only.
        medoids: (c,) int64 item ids.
        medoid_rows: (c,) int64 rows of the items' vectors; -1 where unknown, or where the cluster
            was made by other vectors.
        ids: (c,) int64 cluster ids; read of the old ones only.
    """

    user_offsets: IntArray
    member_offsets: IntArray
    members: IntArray
    weights: FloatArray
    medoids: IntArray
    medoid_rows: IntArray
    ids: IntArray


@dataclass(frozen=True)
class Lineage:
    """What the (c,) new clusters are.

    Attributes:
        ids: (c,) int64 cluster ids.
        codes: (c,) int64 places in `LINEAGES`.
        from_offsets: (c + 1,) int64 bounds in `from_ids`.
        from_ids: Ids of the old clusters that each came from, ascending.
        n_born: (u,) int64, how many ids each user has used by now.
    """

    ids: IntArray
    codes: IntArray
    from_offsets: IntArray
    from_ids: IntArray
    n_born: IntArray

    def names(self) -> pa.Array:
        """Lineage in words, (c,) strings."""
        return pa.array(LINEAGES).take(pa.array(self.codes))

    def sources(self) -> pa.Array:
        """`from_cluster_ids`, (c,) lists of int64."""
        offsets = pa.array(self.from_offsets.astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(self.from_ids))


def trace_lineage(
    new: Clusters, old: Clusters, n_born: IntArray, vectors: FloatMatrix, threshold: float
) -> Lineage:
    """Ids and lineage of the new clusters by the module's rule.

    Args:
        new: Tonight's clusters of some users.
        old: Their clusters of the version before, of the same users in the same order; within a
            user by ascending id. A user without any has none.
        n_born: (u,) int64, ids used so far by each.
        vectors: (n, d) float32 unit rows, for the medoids' cosine.
        threshold: Least cosine at which a medoid alone carries an interest on.
    """
    claims = _claim(_sides(new), _sides(old), vectors, threshold)
    best, strength, share_offsets, shares = claims
    return Lineage(
        *_decide(_sides(new), _sides(old), n_born, (best, strength), (share_offsets, shares))
    )


def _sides(clusters: Clusters) -> tuple[Any, ...]:
    return (
        clusters.user_offsets,
        clusters.member_offsets,
        clusters.members,
        clusters.weights,
        clusters.medoids,
        clusters.medoid_rows,
        clusters.ids,
    )


@njit(cache=True, nogil=True)
def _claim(
    new: tuple[Any, ...], old: tuple[Any, ...], vectors: FloatMatrix, threshold: float
) -> tuple[IntArray, FloatArray, IntArray, FloatArray]:
    """Rule 1: (c,) claimed old clusters (-1: none), their strength, and every user's shares.

    Shares are one (new, old) matrix per user, one after another, with (u + 1,) bounds. A share is
    its own strength; a claim by cosine has its cosine less 2, which is below every share.
    """
    new_users, old_users = new[0], old[0]
    n_users, n_new = len(new_users) - 1, len(new[1]) - 1
    best, strength = np.full(n_new, -1, np.int64), np.full(n_new, -np.inf)
    bounds = np.zeros(n_users + 1, np.int64)
    for u in range(n_users):
        size = (new_users[u + 1] - new_users[u]) * (old_users[u + 1] - old_users[u])
        bounds[u + 1] = bounds[u] + size
    shares = np.zeros(bounds[n_users])
    for u in range(n_users):
        low, n_old = old_users[u], old_users[u + 1] - old_users[u]
        if n_old == 0:
            continue
        share = shares[bounds[u] : bounds[u + 1]].reshape(-1, n_old)
        _add_shares(new, old, u, share)
        for i in range(len(share)):
            c = new_users[u] + i
            for j in range(n_old):
                if share[i, j] > 0.0 and share[i, j] > strength[c]:
                    best[c], strength[c] = low + j, share[i, j]
            if best[c] < 0:
                best[c], cosine = _nearest_medoid(
                    new[5][c], old[5][low : low + n_old], vectors, threshold
                )
                strength[c] = cosine - 2.0
                best[c] += low if best[c] >= 0 else 0
    return best, strength, bounds, shares


@njit(cache=True, nogil=True)
def _add_shares(new: tuple[Any, ...], old: tuple[Any, ...], user: int, share: FloatArray) -> None:
    """Add the importance of every item that a new and an old cluster of `user` both hold."""
    low_new, low_old = new[0][user], old[0][user]
    starts_new = new[1][low_new : new[0][user + 1] + 1]
    starts_old = old[1][low_old : old[0][user + 1] + 1]
    items_new = new[2][starts_new[0] : starts_new[-1]]
    items_old = old[2][starts_old[0] : starts_old[-1]]
    order_new, order_old = np.argsort(items_new), np.argsort(items_old)
    a = b = 0
    while a < len(order_new) and b < len(order_old):
        item, other = items_new[order_new[a]], items_old[order_old[b]]
        if item == other:
            m, o = starts_new[0] + order_new[a], starts_old[0] + order_old[b]
            i = np.searchsorted(starts_new, m, side="right") - 1
            j = np.searchsorted(starts_old, o, side="right") - 1
            share[i, j] += new[3][m]
        if item <= other:
            a += 1
        if item >= other:
            b += 1


@njit(cache=True, nogil=True)
def _nearest_medoid(
    row: int, others: IntArray, vectors: FloatMatrix, threshold: float
) -> tuple[int, float]:
    """The place in `others` of the row nearest to `row`, and the cosine; -1 below `threshold`."""
    nearest, highest = -1, -1.0
    for j in range(len(others)):
        if row < 0 or others[j] < 0:
            continue
        cosine = 0.0
        for k in range(vectors.shape[1]):
            cosine += np.float64(vectors[row, k]) * np.float64(vectors[others[j], k])
        if cosine >= threshold and (nearest < 0 or cosine > highest):
            nearest, highest = j, cosine
    return nearest, highest


@njit(cache=True, nogil=True)
def _decide(
    new: tuple[Any, ...],
    old: tuple[Any, ...],
    n_born: IntArray,
    claims: tuple[IntArray, FloatArray],
    all_shares: tuple[IntArray, FloatArray],
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Rules 2 to 4: the fields of `Lineage`."""
    best, strength = claims
    bounds, shares = all_shares
    n_new, n_old = len(best), len(old[4])
    heir, receiver = _heirs(best, strength, new[4], n_old), np.full(n_old, -1, np.int64)
    for u in range(len(n_born)):
        width = old[0][u + 1] - old[0][u]
        if width:
            share = shares[bounds[u] : bounds[u + 1]].reshape(-1, width)
            _send(share, new[4][new[0][u] : new[0][u + 1]], new[0][u], old[0][u], receiver)
    ids, codes = np.empty(n_new, np.int64), np.empty(n_new, np.int64)
    born, sources = n_born.copy(), np.empty(n_new + n_old, np.int64)
    source_offsets = np.zeros(n_new + 1, np.int64)
    count = 0
    for u in range(len(born)):
        for c in range(new[0][u], new[0][u + 1]):
            for o in range(old[0][u], old[0][u + 1]):
                if best[c] == o or receiver[o] == c:
                    sources[count] = old[6][o]
                    count += 1
            source_offsets[c + 1] = count
            keeps = best[c] >= 0 and heir[best[c]] == c
            codes[c] = _lineage(best[c] >= 0, keeps, count - source_offsets[c])
            if keeps:
                ids[c] = old[6][best[c]]
            else:
                born[u] += 1
                ids[c] = born[u]
    return ids, codes, source_offsets, sources[:count], born


@njit(cache=True, nogil=True)
def _lineage(claims: bool, keeps: bool, n_sources: int) -> int:
    """Rule 4."""
    if not claims:
        return _BORN
    if n_sources > 1:
        return _MERGED
    return _CONTINUED if keeps else _SPLIT


@njit(cache=True, nogil=True)
def _heirs(best: IntArray, strength: FloatArray, medoids: IntArray, n_old: int) -> IntArray:
    """Rule 2: (o,) the new cluster that keeps each old one's id, -1 where none claims it."""
    heir = np.full(n_old, -1, np.int64)
    for c in range(len(best)):
        if best[c] >= 0:
            h = heir[best[c]]
            if (
                h < 0
                or strength[c] > strength[h]
                or (strength[c] == strength[h] and medoids[c] < medoids[h])
            ):
                heir[best[c]] = c
    return heir


@njit(cache=True, nogil=True)
def _send(
    share: FloatArray, medoids: IntArray, low_new: int, low_old: int, receiver: IntArray
) -> None:
    """Rule 3: write, for one user, to which new cluster each old one went."""
    for j in range(share.shape[1]):
        to = -1
        for i in range(share.shape[0]):
            if share[i, j] > 0.0 and (
                to < 0
                or share[i, j] > share[to, j]
                or (share[i, j] == share[to, j] and medoids[i] < medoids[to])
            ):
                to = i
        if to >= 0:
            receiver[low_old + j] = low_new + to


def no_clusters(n_users: int) -> Clusters:
    """Old clusters of users who have none."""
    none: npt.NDArray[np.int64] = np.empty(0, np.int64)
    return Clusters(
        user_offsets=np.zeros(n_users + 1, np.int64),
        member_offsets=np.zeros(1, np.int64),
        members=none,
        weights=np.empty(0),
        medoids=none,
        medoid_rows=none,
        ids=none,
    )
