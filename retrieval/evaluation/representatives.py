"""What stands for a user's history: one vector, a few recent items, or some of their clusters.

Every method gives each user a list of vectors in the order in which they are used, so that what is
asked with e of them is the first e. Clusters are drawn in proportion to importance, without
replacement (PinnerSage, KDD 2020, section 4: three medoids), by keys `log(u) / importance` of which
the greatest come first (Efraimidis and Spirakis 2006); u is a hash of seed, draw, user and medoid,
so that methods which share a cluster share its luck. An average over draws stands for the chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from profiling.hashing import uniforms
from profiling.items import Items, unit_rows
from profiling.medoids import cluster_medoids, group_members
from profiling.schema import FloatArray, IntArray
from profiling.ward import FloatMatrix
from retrieval.evaluation.clusterings import (
    Histories,
    Partition,
    complete_linkage,
    k_means,
    ward,
)
from retrieval.index.exact import Lists

K_PUBLISHED = 5  # of k-means in the paper's table
_TRACE = 1e-12  # so that actions that weigh nothing still have an order


@dataclass(frozen=True)
class Method:
    """One way to stand for a history.

    Attributes:
        clusters: `ward`, `complete` (as many clusters as Ward), `k_means` (likewise), `k_means_5`;
            or no clusters: `items` (the latest first) or `average` (one decayed mean).
        decay: lambda per day, of importance or of the mean.
        centroid: Whether a cluster's mean stands for it, not its medoid.
        drawn: Whether clusters are drawn by importance; else the most important come first.
    """

    clusters: Literal["ward", "complete", "k_means", "k_means_5", "items", "average"]
    decay: float = 0.01
    centroid: bool = False
    drawn: bool = True

    @property
    def by_chance(self) -> bool:
        """Whether another draw brings another list."""
        return self.drawn and self.clusters not in ("items", "average")


METHODS: Mapping[str, Method] = {
    "items": Method("items"),
    "average_0": Method("average", 0.0),
    "average_0.01": Method("average", 0.01),
    "average_0.1": Method("average", 0.1),
    "average_0.25": Method("average", 0.25),
    "k_means_5": Method("k_means_5"),
    "k_means": Method("k_means"),
    "complete": Method("complete"),
    "ward_centroid": Method("ward", centroid=True),
    "ward_0": Method("ward", 0.0),
    "ward_0.01": Method("ward", 0.01),
    "ward_0.1": Method("ward", 0.1),
    "ward_top": Method("ward", drawn=False),
}


class Chosen(NamedTuple):
    """What stands for each user, in the order of use.

    Attributes:
        lists: Lists of ids: below the size of the catalogue an item's row, from there on a row of
            `own`.
        own: (v, d) float32 unit rows that are no item's.
    """

    lists: Lists
    own: FloatMatrix


@dataclass(frozen=True)
class Clusters:
    """A partition, summed up.

    Attributes:
        offsets: (u + 1,) int64 bounds of the users' clusters.
        medoids: (c,) int64 item rows.
        centroids: (c, d) float32 unit rows.
        groups: (m,) int64 cluster of each member.
    """

    offsets: IntArray
    medoids: IntArray
    centroids: FloatMatrix
    groups: IntArray

    @classmethod
    def of(cls, partition: Partition, histories: Histories, vectors: FloatMatrix) -> Clusters:
        """Medoids as the night takes them, and means."""
        order, bounds = group_members(partition.groups, int(partition.offsets[-1]))
        rows = histories.rows[order]
        medoids = rows[cluster_medoids(bounds, rows, vectors)]
        sums = np.add.reduceat(vectors[rows], bounds[:-1], axis=0)
        return cls(partition.offsets, medoids, unit_rows(sums), partition.groups)


class Trial:
    """Histories, clustered once in each way, from which every method takes what it stands for."""

    def __init__(self, histories: Histories, items: Items, alpha: float, *, seed: int) -> None:
        """Cluster.

        Args:
            histories: Who is tried.
            items: The catalogue.
            alpha: Of Ward, which says how many clusters the others make.
            seed: Of k-means and draws.
        """
        self.histories, self.items, self.seed = histories, items, seed
        by_ward = ward(histories, items.vectors, alpha)
        published = np.full(len(histories.users), K_PUBLISHED, np.int64)
        partitions = {
            "ward": by_ward,
            "complete": complete_linkage(histories, items.vectors, by_ward.sizes),
            "k_means": k_means(histories, items.vectors, by_ward.sizes, seed),
            "k_means_5": k_means(histories, items.vectors, published, seed),
        }
        self.clusters = {
            name: Clusters.of(partition, histories, items.vectors)
            for name, partition in partitions.items()
        }

    def chosen(self, method: Method, draw: int = 0) -> Chosen:
        """What stands for each user: all there is, what is used first in front."""
        if method.clusters == "average":
            return self._averages(method.decay)
        none = np.empty((0, self.items.width), np.float32)
        if method.clusters == "items":
            latest = self.histories.last_at().astype(np.float64)
            rows = self.histories.rows
            return Chosen(_in_order(self.histories.offsets, latest, rows, rows), none)
        clusters = self.clusters[method.clusters]
        keys = self.importance(clusters, method.decay)
        if method.drawn:
            owners = np.repeat(self.histories.users, np.diff(clusters.offsets))
            keys = np.log(uniforms(self.seed, "trial", draw, owners, clusters.medoids)) / keys
        if not method.centroid:
            ids, own = clusters.medoids, none
        else:
            ids = len(self.items.ids) + np.arange(len(clusters.medoids))
            own = clusters.centroids
        return Chosen(_in_order(clusters.offsets, keys, clusters.medoids, ids), own)

    def importance(self, clusters: Clusters, decay_per_day: float) -> FloatArray:
        """(c,) float64 sums of the weights of the members."""
        weights = self.histories.weights(decay_per_day)
        sums = np.bincount(clusters.groups, weights, len(clusters.medoids))
        return np.maximum(sums, _TRACE)

    def _averages(self, decay_per_day: float) -> Chosen:
        histories = self.histories
        weights = np.maximum(histories.weights(decay_per_day), _TRACE)[:, None]
        sums = np.add.reduceat(
            weights * self.items.vectors[histories.rows], histories.offsets[:-1], axis=0
        )
        ids = len(self.items.ids) + np.arange(len(histories.users))
        return Chosen(Lists(np.arange(len(ids) + 1), ids), unit_rows(sums.astype(np.float32)))


def _in_order(offsets: IntArray, keys: FloatArray, ties: IntArray, ids: IntArray) -> Lists:
    """The ids of each user by descending key; ties: the smaller of `ties`."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return Lists(offsets, np.asarray(ids[np.lexsort((ties, -keys, owners))], np.int64))
