"""The two towers, defined once: every function takes the array namespace `xp`, NumPy or jax.numpy.

    item row   i = [v_i, b_i]                   v = id + content + topics, b = popularity
    query row  q = [u / tau, 1]                 u = head(history encoding, context encoding)
    logit      <q, i> = <u, v_i> / tau + b_i

Conventions: B rows of a batch; L places of a padded list; c the width of the content vectors; e the
width of embeddings and rows; h that of a history encoding. A row number of -1 means "none": its
embedding is zero, in both namespaces, since weights of such places are 0. Everything is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.hashing import uniforms
from profiling.options import FORBID_UNKNOWN, check_options, option

Params = dict[str, Any]  # arrays of `xp` by name
Floats = npt.NDArray[np.float32]
_TINY = 1e-6
# Spread of parameters before training; others 1 / sqrt(rows), vectors 0.
_BOUNDS = {
    "item_id": 0.05,
    "past_id": 0.05,
    "topic_id": 0.5,
    "item_content": 0.01,
    "past_content": 0.01,
    "topic_content": 0.01,
    "topic_out": 0.01,
    "history_linear": 0.01,
    "context_linear": 0.01,
    "head_history": 0.01,
    "head_context": 0.01,
    "history_out": 0.02,
    "context_out": 0.02,
    "head_out": 0.02,
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model; a change makes older models and checkpoints unreadable."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    width: int = option(64, "e: width of embeddings and of item vectors (ours)", low=2, high=1024)
    hidden: int = option(128, "h: width of the history encoding (ours)", low=2, high=4096)
    recency_days: tuple[float, ...] = option(
        (1.0, 7.0, 90.0), "half-lives of the means over recent items, days (ours)"
    )
    length_power: float = option(
        0.5, "a sum over n items is divided by n to this power; 1 is a mean (ours)", low=0, high=1
    )
    query_item: bool = option(True, "whether the query's item is part of the condition")
    temperature: float = option(0.07, "tau (Yi et al. 2019: .05 to .07)", low=0.001, high=10.0)
    prior_days: tuple[float, ...] = option(
        (1.0, 4.0, 90.0), "half-lives of the popularities in an item's prior, days (ours)"
    )

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("recency_days", "prior_days"):
            days = getattr(self, name)
            if not days or not all(0 < d < np.inf for d in days):
                raise ValueError(f"{name} must be half-lives above 0 days, got {list(days)}")


class ItemRows(NamedTuple):
    """What the item tower reads of B items.

    Attributes:
        ids: (B,) int32 rows of the id embedding, -1 where training did not know the item.
        content: (B, c) unit rows.
        topics: (B, L) int32 rows of the topic table, -1 beyond the item's topics.
        confidences: (B, L), 0 beyond.
    """

    ids: Any
    content: Any
    topics: Any
    confidences: Any


class HistoryRows(NamedTuple):
    """What the history path reads of B users, recent items and medoids in one list.

    Attributes:
        ids: (B, L) int32 rows of the id embedding, -1 for none or unknown.
        content: (B, K, c) content vectors pooled by `weights`.
        weights: (B, L, K) of each place in each of the K poolings, 0 beyond the list.
        sizes: (B, 2) log(1 + number) of recent items and of clusters.
    """

    ids: Any
    content: Any
    weights: Any
    sizes: Any


class ContextRows(NamedTuple):
    """The condition of B queries.

    Attributes:
        topics: (B, L) int32 rows of the topic table, -1 beyond.
        confidences: (B, L), 0 beyond.
        query_ids: (B,) int32 rows of the id embedding of the query's item.
        query_content: (B, c), zero where there is no query item.
    """

    topics: Any
    confidences: Any
    query_ids: Any
    query_content: Any


def shapes(
    config: ModelConfig, items: int, topics: int, content: int
) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter."""
    e, h = config.width, config.hidden
    pooled = (len(config.recency_days) + 1) * e + 2
    context = 2 * e + 2
    return {
        "item_id": (items, e),
        "item_content": (content, e),
        "item_bias": (items,),
        "prior_weights": (len(config.prior_days) + 1,),
        "early_bias": (items,),
        "topic_id": (topics, e),
        "topic_content": (content, e),
        "topic_out": (e, e),
        "past_id": (items, e),
        "past_content": (content, e),
        "history_linear": (pooled, h),
        "history_in": (pooled, h),
        "history_in_bias": (h,),
        "history_out": (h, h),
        "context_linear": (context, h),
        "context_in": (context, h),
        "context_in_bias": (h,),
        "context_out": (h, h),
        "head_history": (h, e),
        "head_context": (h, e),
        "head_in": (2 * h, h),
        "head_in_bias": (h,),
        "head_out": (h, e),
    }


def initial_params(
    config: ModelConfig, items: int, topics: int, content: int, seed: int
) -> dict[str, Floats]:
    """Parameters before training.

    Matrices that carry content, and topics of a condition, begin as identity: the first model
    looks for items whose content is near that of the past and, beside it, near the topics asked
    for. Ids and crossings begin small and even in +-a, by hash.
    """
    params = {}
    for name, shape in shapes(config, items, topics, content).items():
        bound = _BOUNDS.get(name, 0.0 if len(shape) == 1 else 1.0 / np.sqrt(max(shape[0], 1)))
        cells = int(np.prod(shape))
        drawn = (2 * uniforms("initial", name, seed, np.arange(cells)) - 1) * bound
        params[name] = drawn.reshape(shape).astype(np.float32)
    for name in ("item_content", "past_content", "topic_content", "topic_out", "head_history"):
        params[name] += np.eye(*params[name].shape, dtype=np.float32)
    e = config.width
    for start in range(0, len(config.recency_days) * e, e):
        block = params["history_linear"][start : start + e]
        block += np.eye(*block.shape, dtype=np.float32) / len(config.recency_days)
    params["context_linear"][:e] += np.eye(e, config.hidden, dtype=np.float32)
    params["head_context"] += np.eye(config.hidden, e, dtype=np.float32)
    params["prior_weights"] += np.float32(1.0 / len(config.prior_days))
    params["prior_weights"][-1] = 0
    return params


def encode_items(xp: Any, params: Params, rows: ItemRows, topic_table: Any) -> Any:
    """(B, e) unit rows: `id + content W + sum_t confidence_t topic_t W'`, normalised."""
    tagged = _pooled(xp, topic_table, rows.topics, rows.confidences) @ params["topic_out"]
    content = rows.content @ params["item_content"]
    return unit(xp, _looked_up(xp, params["item_id"], rows.ids) + content + tagged)


def encode_topics(xp: Any, params: Params, rows: Any, content: Any) -> Any:
    """(t, e) topic table: `id + content W`; rows -1 are topics that training did not know."""
    return _looked_up(xp, params["topic_id"], rows) + content @ params["topic_content"]


def item_bias(xp: Any, params: Params, ids: Any, prior: Any) -> Any:
    """(B,) learned bias plus weighted popularity; `prior` is (B, P) or (..., P)."""
    known = xp.where(ids >= 0, params["item_bias"][ids], 0.0)
    return known + prior @ params["prior_weights"]


def encode_histories(xp: Any, params: Params, rows: HistoryRows) -> Any:
    """(B, h): means over the past by age and importance, then a linear layer beside an MLP.

    Stored per user; it knows nothing of the condition.
    """
    looked_up = _looked_up(xp, params["past_id"], rows.ids)
    pooled = xp.matmul(xp.swapaxes(rows.weights, 1, 2), looked_up)
    pooled = pooled + rows.content @ params["past_content"]
    flat = xp.concatenate([pooled.reshape(pooled.shape[0], -1), rows.sizes], axis=1)
    return _block(xp, params, "history", flat)


def read_context(xp: Any, params: Params, rows: ContextRows, topic_table: Any) -> Any:
    """(B, 2e + 2): mean topic by confidence, the query item's past embedding, and which is there.

    This is what the context dropout falls on.
    """
    total = rows.confidences.sum(axis=1, keepdims=True)
    topics = _pooled(xp, topic_table, rows.topics, rows.confidences / xp.maximum(total, _TINY))
    asked = (rows.query_content**2).sum(axis=1, keepdims=True) > 0
    asked = xp.logical_or(asked, rows.query_ids[:, None] >= 0).astype(np.float32)
    query = _looked_up(xp, params["past_id"], rows.query_ids)
    query = query + rows.query_content @ params["past_content"]
    some = (total > 0).astype(np.float32)
    return xp.concatenate([topics, query, some, asked], axis=1)


def encode_context(xp: Any, params: Params, read: Any) -> Any:
    """(B, h) from `read_context`; a row without a condition is zero."""
    some = xp.maximum(read[:, -1:], read[:, -2:-1]) > 0
    return xp.where(some, _block(xp, params, "context", read), 0.0)


def join(xp: Any, params: Params, history: Any, context: Any) -> Any:
    """(B, e) unit rows u: the head over history encoding and context encoding."""
    both = xp.concatenate([history, context], axis=1)
    crossed = _gelu(xp, both @ params["head_in"] + params["head_in_bias"]) @ params["head_out"]
    straight = history @ params["head_history"] + context @ params["head_context"]
    return unit(xp, straight + crossed)


def unit(xp: Any, rows: Any) -> Any:
    """Rows at length 1; finite, with finite gradients, at zero."""
    squares = (rows * rows).sum(axis=-1, keepdims=True)
    return rows / xp.sqrt(squares + _TINY**2)


def recency_weights(
    ages: Floats, importances: Floats, config: ModelConfig, present: npt.NDArray[np.bool_]
) -> Floats:
    """(B, L, K) weights of recent items by each half-life, and of medoids by importance (last).

    `2^(-age / half_life) / n^length_power`; importance as its share.

    Args:
        ages: (B, R) days of the recent items.
        importances: (B, L - R) of the medoids.
        config: Half-lives.
        present: (B, L) whether there is an item at this place.
    """
    n_recent, k = ages.shape[1], len(config.recency_days)
    weights = np.zeros((*present.shape, k + 1), np.float32)
    here = present[:, :n_recent]
    length = np.maximum(here.sum(axis=1, keepdims=True), 1) ** config.length_power
    for i, half_life in enumerate(config.recency_days):
        weights[:, :n_recent, i] = here * np.exp2(-ages / half_life) / length
    shares = np.where(present[:, n_recent:], importances, 0)
    total = np.maximum(shares.sum(axis=1, keepdims=True), _TINY)
    weights[:, n_recent:, k] = shares / total
    return weights


def _looked_up(xp: Any, table: Any, rows: Any) -> Any:
    if len(table) == 0:  # a catalogue without topics
        return xp.zeros((*rows.shape, table.shape[1]), table.dtype)
    return xp.where((rows >= 0)[..., None], table[rows], 0.0)


def _pooled(xp: Any, table: Any, rows: Any, weights: Any) -> Any:
    return xp.einsum("bl,ble->be", weights, _looked_up(xp, table, rows))


def _block(xp: Any, params: Params, name: str, rows: Any) -> Any:
    hidden = _gelu(xp, rows @ params[f"{name}_in"] + params[f"{name}_in_bias"])
    return rows @ params[f"{name}_linear"] + hidden @ params[f"{name}_out"]


def _gelu(xp: Any, x: Any) -> Any:
    """The tanh form, spelled out so that both namespaces compute the same."""
    return 0.5 * x * (1.0 + xp.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))
