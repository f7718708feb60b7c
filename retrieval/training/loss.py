"""The retrieval loss: in-batch sampled softmax, each candidate corrected by its density.

A row's candidates are the positives of its batch, `uniform` items drawn evenly from the catalogue
and, as an option, items drawn evenly from the slice of the row's own condition. With Q_j the
expected number of times that item j is drawn,

    loss_b = -s_b+ + log( exp(s_b+) + sum_{j drawn, not masked} exp(s_bj) ),
    s_bj = logit_bj - log Q_j,

so that the sum over the draws is an unbiased estimate of the sum over the catalogue (Yi et al.,
RecSys 2019, with the whole mixture's density of Yang et al., WWW 2020, in place of the batch's).
Functions take the array namespace `xp`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LOW = -1e30  # of a masked logit: its exp is 0, its gradient too


def mixture_log_q(
    xp: Any, frequencies: Any, batch: int, uniform: int, catalogue: int, sliced: Any = 0.0
) -> Any:
    """`log Q = log(batch f + uniform / n + sliced)` of candidates, any shape.

    Args:
        xp: Array namespace.
        frequencies: f, the candidate's share of all positives.
        batch: Positives in a batch.
        uniform: Items drawn evenly.
        catalogue: n, items they are drawn from.
        sliced: Expected draws from the slice of the row's condition, `m [j in slice] / |slice|`.
    """
    return xp.log(batch * frequencies + uniform / catalogue + sliced)


def keep_mask(xp: Any, positives: Any, users: Any, candidates: Any, owners: Any) -> Any:
    """(B, N) bool: which candidates are negatives of which row.

    Not those that are the row's positive (accidental hits; the row's own place among them), nor
    other positives of the row's user.

    Args:
        xp: Array namespace.
        positives: (B,) item rows.
        users: (B,) user codes, at least 0.
        candidates: (N,) or (B, N) item rows.
        owners: (N,) user codes whose positive a candidate is, -1 for drawn ones.
    """
    other_item = candidates != positives[:, None]
    return xp.logical_and(other_item, owners != users[:, None])


def sampled_softmax(
    xp: Any, positive: Any, negatives: Any, kept: Any, fixed: Callable[[Any], Any]
) -> Any:
    """(B,) loss from corrected logits.

    Args:
        xp: Array namespace.
        positive: (B,).
        negatives: (B, N).
        kept: (B, N) bool, which count.
        fixed: Takes its argument out of the gradient; the greatest logit cancels out of the loss.
    """
    masked = xp.where(kept, negatives, _LOW)
    top = fixed(xp.maximum(masked.max(axis=1), positive))
    total = xp.exp(masked - top[:, None]).sum(axis=1) + xp.exp(positive - top)
    return xp.log(total) + top - positive


def alignment(xp: Any, vectors: Any, topic_rows: Any, topics: Any, temperature: float) -> Any:
    """(B,) cross-entropy of the condition's surest topic, given the query vector; 0 without one.

    `-log softmax_t(<u, t> / tau)` (an alignment loss between condition and conditional vector is
    future work of arXiv 2508.16793, adopted since).

    Args:
        xp: Array namespace.
        vectors: (B, e) unit rows u.
        topic_rows: (B, L) rows of `topics`, the surest first, -1 for none.
        topics: (t, e) unit rows.
        temperature: tau.
    """
    logits = vectors @ topics.T / temperature
    top = logits.max(axis=1, keepdims=True)
    log_total = xp.log(xp.exp(logits - top).sum(axis=1)) + top[:, 0]
    asked = xp.take_along_axis(logits, xp.maximum(topic_rows[:, :1], 0), axis=1)[:, 0]
    return xp.where(topic_rows[:, 0] >= 0, log_total - asked, 0.0)
