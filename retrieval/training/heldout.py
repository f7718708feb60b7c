"""The recall that training shows: held-out positives among the 100 best, without a condition."""

from __future__ import annotations

import math

import numpy as np

from retrieval.model import towers
from retrieval.model.towers import HistoryRows
from retrieval.model.trained import TrainedModel
from retrieval.training.batches import BatchMaker
from retrieval.training.pools import Pool

_PAIRS, _BLOCK, _TOP = 2000, 256, 100


def heldout_recall(pool: Pool, maker: BatchMaker, trained: TrainedModel) -> float:
    """Share of (at most 2,000) held-out pairs whose item is among the 100 best.

    The items of the pair's own history are left out, and the prior is that of the training's
    cut-off: a figure to watch, not the evaluation. nan where nothing is held out.
    """
    held = np.flatnonzero(maker.held_out(pool))[:_PAIRS]
    if len(held) == 0:
        return math.nan
    params, tau = trained.params, trained.config.temperature
    content = trained.topic_content
    table = towers.encode_topics(np, params, np.arange(len(content)), content)
    items = towers.encode_items(np, params, maker.catalogue.item_rows(slice(None)), table)
    bias = towers.item_bias(np, params, maker.catalogue.ids, trained.prior)
    hits = 0
    for start in range(0, len(held), _BLOCK):
        which = held[start : start + _BLOCK]
        of = pool.history[which]
        rows = HistoryRows(pool.ids[of], pool.content[of], pool.weights[of], pool.sizes[of])
        history = towers.encode_histories(np, params, rows)
        scores = towers.join(np, params, history, np.zeros_like(history)) @ items.T / tau + bias
        own = scores[np.arange(len(which)), pool.items[which]].copy()
        b, place = np.nonzero(pool.rows[of] >= 0)
        scores[b, pool.rows[of][b, place]] = -np.inf
        hits += int(((scores > own[:, None]).sum(axis=1) < _TOP).sum())
    return hits / len(held)
