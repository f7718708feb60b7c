"""What a cluster is summed up by: its medoid, and the sums over its engagements.

Clusters of many users lie one after another: cluster c has the members
`offsets[c]:offsets[c + 1]`, by ascending item id.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiling.compiling import njit
from profiling.schema import FloatArray, IntArray
from profiling.ward import FloatMatrix

_TIE = 1e-9  # squared distances closer than this are equal: float noise must not choose a medoid


@njit(cache=True, nogil=True)
def cluster_medoids(offsets: IntArray, rows: IntArray, vectors: FloatMatrix) -> IntArray:
    """The member with the least sum of squared distances to the others; ties: the smaller item id.

    `sum_j |x_m - x_j|^2 = n |x_m - centroid|^2 + const`, so it is the member nearest to the
    centroid (PinnerSage, KDD 2020, eq. 2). Two members always tie.

    Args:
        offsets: (c + 1,) int64.
        rows: (m,) int64 rows of `vectors`; within a cluster by ascending item id.
        vectors: (n, d) float32.

    Returns:
        (c,) int64 places in `rows`.
    """
    width = vectors.shape[1]
    medoids = np.empty(len(offsets) - 1, np.int64)
    centroid = np.empty(width)
    for c in range(len(medoids)):
        low, high = offsets[c], offsets[c + 1]
        medoids[c] = low
        if high - low <= 2:
            continue
        centroid[:] = 0.0
        for m in range(low, high):
            row = rows[m]
            for k in range(width):
                centroid[k] += vectors[row, k]
        centroid /= high - low
        least = np.inf
        for m in range(low, high):
            distance = _squared_distance(vectors[rows[m]], centroid)
            if distance < least - _TIE:
                least, medoids[c] = distance, m
    return medoids


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _squared_distance(vector: FloatMatrix, centroid: FloatArray) -> float:
    total = 0.0
    for k in range(len(centroid)):
        gap = vector[k] - centroid[k]
        total += gap * gap
    return total


@dataclass(frozen=True)
class ClusterSums:
    """Sums over the engagements of (c,) clusters.

    Attributes:
        importance: (c,) float64, sum of weights.
        action_counts: (c, a) int64.
        first_at: (c,) int64 microseconds.
        last_at: (c,) int64 microseconds.
    """

    importance: FloatArray
    action_counts: IntArray
    first_at: IntArray
    last_at: IntArray


def sum_engagements(
    clusters: IntArray, at: IntArray, codes: IntArray, weights: FloatArray, shape: tuple[int, int]
) -> ClusterSums:
    """Sum engagements by cluster, in the order given.

    Args:
        clusters: (e,) int64 cluster of each engagement.
        at: (e,) int64 microseconds.
        codes: (e,) int64 action codes.
        weights: (e,) float64, what each adds to importance.
        shape: (c, a), numbers of clusters and of actions.
    """
    return ClusterSums(*_sum_engagements(clusters, at, codes, weights, shape))


@njit(cache=True, nogil=True)
def _sum_engagements(
    clusters: IntArray, at: IntArray, codes: IntArray, weights: FloatArray, shape: tuple[int, int]
) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
    importance = np.zeros(shape[0])
    counts = np.zeros(shape, np.int64)
    first = np.full(shape[0], np.iinfo(np.int64).max)
    last = np.full(shape[0], np.iinfo(np.int64).min)
    for e in range(len(clusters)):
        c = clusters[e]
        importance[c] += weights[e]
        counts[c, codes[e]] += 1
        first[c] = min(first[c], at[e])
        last[c] = max(last[c], at[e])
    return importance, counts, first, last


@njit(cache=True, nogil=True)
def group_members(groups: IntArray, n_groups: int) -> tuple[IntArray, IntArray]:
    """Places of (m,) members, group by group in their order, and the (g + 1,) bounds.

    A stable counting sort: groups of a user lie together, so this walks memory almost in order.
    """
    offsets = np.zeros(n_groups + 1, np.int64)
    for group in groups:
        offsets[group + 1] += 1
    for g in range(n_groups):
        offsets[g + 1] += offsets[g]
    ends = offsets[:-1].copy()
    order = np.empty(len(groups), np.int64)
    for m in range(len(groups)):
        order[ends[groups[m]]] = m
        ends[groups[m]] += 1
    return order, offsets
