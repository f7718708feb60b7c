"""The prior on items: how popular each was at every cut-off, by several half-lives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiling.decay import half_life_weights
from profiling.schema import FloatArray, IntArray
from retrieval.model.towers import Floats
from retrieval.training.pools import BoolArray


@dataclass
class Popularity:
    """Decayed counts of positives by item, of every cut-off; chunks are added in any number.

        count_p(i, c) = sum over positives of i before c of 2^(-(c - at) / half_life_p)
        prior_p(i, c) = log(n share_p(i, c) + smoothing),   share = count / sum of counts

    Positives before the first cut-off have no time of their own: they have a count apart, without
    decay, which is the last column.

    Attributes:
        cutoffs: (q,) int64 ascending microseconds; the last is that of the training.
        days: Half-lives.
        counts: (q, n, P + 1) float64: what came since the cut-off before, decayed to this one.
    """

    cutoffs: IntArray
    days: tuple[float, ...]
    counts: FloatArray

    @classmethod
    def none(cls, cutoffs: IntArray, days: tuple[float, ...], items: int) -> Popularity:
        """Nothing counted yet."""
        return cls(cutoffs, days, np.zeros((len(cutoffs), items, len(days) + 1)))

    def add(self, items: IntArray, at: IntArray, early: BoolArray) -> None:
        """Count positives: item rows, microseconds, whether before the first cut-off."""
        shape = self.counts.shape[:2]
        interval = np.searchsorted(self.cutoffs, at, side="right")
        inside = (interval < len(self.cutoffs)) & ~early
        cells = interval[inside] * shape[1] + items[inside]
        for p, half_life in enumerate(self.days):
            weights = half_life_weights(at[inside], self.cutoffs[interval[inside]], half_life)
            added = np.bincount(cells, weights, minlength=shape[0] * shape[1])
            self.counts[:, :, p] += added.reshape(shape)
        first = np.bincount(items[early], minlength=shape[1])
        self.counts[0, :, -1] += first

    def priors(self, smoothing: float) -> Floats:
        """(q, n, P + 1) float32; at the first cut-offs, where nothing was counted, `log` of it."""
        total = self.counts.copy()
        for q in range(1, len(self.cutoffs)):
            for p, half_life in enumerate(self.days):
                decay = half_life_weights(self.cutoffs[q - 1], self.cutoffs[q], half_life)
                total[q, :, p] += decay * total[q - 1, :, p]
            total[q, :, -1] += total[q - 1, :, -1]
        shares = total / np.maximum(total.sum(axis=1, keepdims=True), 1e-9)
        return np.log(shares * total.shape[1] + smoothing).astype(np.float32)
