"""The interests of one user as a scikit-learn estimator, by the kernels of the night."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from profiling.medoids import cluster_medoids, group_members
from profiling.schema import FloatArray, IntArray
from profiling.ward import ward_labels


class Interests(ClusterMixin, BaseEstimator):
    """Ward clusters cut at a cost, their medoids and importance (PinnerSage, KDD 2020, 4.2).

    Rows are items a user engaged with. Given unit rows by ascending item id, and weights of
    `profiling.decay.importance_weights`, labels, medoids and importances are those of PROFILES.
    Rows are not scaled here. Computed in float32 from (n, d) rows, in O(n^2) memory and time.

    Args:
        alpha: Largest cost of a merge, squared distance; `sqrt(alpha)` is the `distance_threshold`
            of scikit-learn's AgglomerativeClustering.

    Attributes:
        labels_: (n,) int64 interests 0, 1, ... in the order of their first members.
        medoid_indices_: (c,) int64 row of the member with the least sum of squared distances to
            the others; ties: the first.
        importances_: (c,) float64 sums of the members' weights.
        n_clusters_: c.
        n_features_in_: d.
    """

    labels_: IntArray
    medoid_indices_: IntArray
    importances_: FloatArray
    n_clusters_: int

    def __init__(self, alpha: float = 2.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: None = None, *, weights: npt.ArrayLike | None = None) -> Interests:
        """Cluster the rows.

        Args:
            X: (n, d) vectors.
            y: Not used.
            weights: (n,) what each row adds to the importance of its interest, 0 or more, as
                `exp(-lambda * age)`; 1 by default. They move no cluster and no medoid.

        Raises:
            ValueError: Rows or weights that are no numbers, a weight or `alpha` below 0.
        """
        vectors = validate_data(self, X, dtype=np.float32, order="C")
        added = _checked_weights(weights, len(vectors))
        self.labels_ = ward_labels(vectors, self.alpha)
        self.n_clusters_ = int(self.labels_.max()) + 1
        order, offsets = group_members(self.labels_, self.n_clusters_)
        self.medoid_indices_ = order[cluster_medoids(offsets, order, vectors)]
        sums = np.bincount(self.labels_, added, self.n_clusters_)
        self.importances_ = np.asarray(sums, np.float64)
        return self


def _checked_weights(weights: npt.ArrayLike | None, n: int) -> FloatArray:
    if weights is None:
        return np.ones(n)
    found: FloatArray = check_array(
        weights, ensure_2d=False, dtype=np.float64, input_name="weights"
    )
    check_consistent_length(found, np.empty(n))
    if (found < 0).any():
        raise ValueError(f"weights must be >= 0, got {found.min():g}; weigh old items near 0")
    return found
