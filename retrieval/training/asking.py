"""How users ask a model, kept with it to calibrate approximate indexes by."""

from __future__ import annotations

import numpy as np

from retrieval.index.exact import Lists
from retrieval.model import towers
from retrieval.model.serving import RetrievalModel
from retrieval.model.towers import Floats, HistoryRows
from retrieval.training.pools import Pool

_SAMPLE = 2000


def sample_queries(pool: Pool, model: RetrievalModel) -> Floats:
    """(s, d) float32 query rows of at most 2,000 of the pool's histories, without a condition.

    Those with a condition mostly go into its slice, which is exact, and are easier where they do
    not: they point to where their items lie together.
    """
    n = len(pool.ids)
    which = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    parts = (pool.ids, pool.content, pool.weights, pool.sizes)
    rows = HistoryRows(*(part[which] for part in parts))
    encoded = towers.encode_histories(np, model.trained.params, rows)
    free = Lists(np.zeros(len(which) + 1, np.int64), np.zeros(0, np.int64))
    none = np.zeros(0, np.float32)
    return model.encode_queries(encoded, free, none, np.full(len(which), -1))
