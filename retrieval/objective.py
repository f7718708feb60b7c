"""One training step: the loss of a batch, its gradient, the update. The only file that compiles.

The training library is imported where it is used: whoever only serves does without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from retrieval import loss as losses
from retrieval import towers
from retrieval.batches import Batch
from retrieval.learning import TrainingConfig
from retrieval.towers import Floats, ItemRows, ModelConfig, Params


class World(NamedTuple):
    """What every step reads and none changes.

    Attributes:
        items: ItemRows of the whole catalogue, (n, ...).
        topic_rows: (t,) int32, 0 to t - 1.
        topic_content: (t, c).
        prior: (q, n, P) popularity at each cut-off.
        frequencies: (n,) share of all positives; the least is above 0.
        slice_sizes: (t,) items that carry each topic.
    """

    items: ItemRows
    topic_rows: Any
    topic_content: Any
    prior: Any
    frequencies: Any
    slice_sizes: Any


def batch_loss(
    xp: Any,
    params: Params,
    batch: Batch,
    world: World,
    config: TrainingConfig,
    model: ModelConfig,
    keep: Callable[[str, Any, float], Any],
) -> Any:
    """The mean loss of a batch, a scalar.

    Args:
        xp: Array namespace.
        params: Parameters.
        batch: The rows.
        world: What all batches share.
        config: Options.
        model: The shape.
        keep: `keep(name, array, rate)`: the array after dropout.
    """
    topics = towers.encode_topics(xp, params, world.topic_rows, world.topic_content)
    history = towers.encode_histories(xp, params, batch.history)
    history = keep("history", history, config.dropout)
    read = towers.read_context(xp, params, batch.context, topics)
    read = xp.concatenate(
        [keep("context", read[:, :-2], config.context_dropout), read[:, -2:]], axis=1
    )
    vectors = towers.join(xp, params, history, towers.encode_context(xp, params, read))
    negatives, kept, positive = _logits(xp, params, vectors, topics, batch, world, config, model)
    total = losses.sampled_softmax(xp, positive, negatives, kept)
    if config.alignment:
        aims = towers.unit(xp, topics @ params["topic_out"])
        rows = batch.context.topics
        aligned = losses.alignment(xp, vectors, rows, aims, model.temperature)
        total = total + config.alignment * aligned
    return (total * batch.weights).sum() / batch.weights.sum()


def _logits(
    xp: Any,
    params: Params,
    vectors: Any,
    topics: Any,
    batch: Batch,
    world: World,
    config: TrainingConfig,
    model: ModelConfig,
) -> tuple[Any, Any, Any]:
    """Corrected logits of (B, N) negatives, their mask, and of the (B,) positives."""
    candidates = xp.concatenate([batch.items, batch.drawn])
    rows = towers.encode_items(xp, params, _take(world.items, candidates), topics)
    logits = vectors @ rows.T / model.temperature
    logits = logits + _bias(xp, params, candidates, batch, world)
    size = len(batch.items)
    positive = xp.diagonal(logits[:, :size])
    owners = xp.concatenate([batch.users, xp.full(len(batch.drawn), -1, batch.users.dtype)])
    if not config.mask_same_user:
        owners = xp.full_like(owners, -1)
    kept = losses.keep_mask(xp, batch.items, batch.users, candidates, owners)
    if not config.log_q:
        return logits, kept, positive
    density = losses.mixture_log_q(
        xp, world.frequencies[candidates], size, len(batch.drawn), len(world.frequencies)
    )
    corrected = logits - density
    return corrected, kept, xp.diagonal(corrected[:, :size])


def _bias(xp: Any, params: Params, candidates: Any, batch: Batch, world: World) -> Any:
    """(B, N) the prior of each candidate at each row's cut-off."""
    prior = world.prior[:, candidates] @ params["prior_weights"]
    own = params["item_bias"][candidates]
    early = params["early_bias"][candidates]
    return xp.where(batch.early[:, None], early, own + prior[batch.cutoffs])


def _take(rows: ItemRows, which: Any) -> ItemRows:
    return ItemRows(*(a[which] for a in rows))


def compiled_step(
    optimiser: Any, world: World, config: TrainingConfig, model: ModelConfig, seed: int
) -> Callable[[Params, Any, Batch, int], tuple[Params, Any, Any]]:
    """`step(params, state, batch, number) -> params, state, loss`, compiled; the first two are
    given up to it.
    """
    import jax
    import jax.numpy as jnp
    import optax

    key = jax.random.key(seed)

    def step(
        params: Params, state: Any, batch: Batch, number: Any, shared: World
    ) -> tuple[Params, Any, Any]:
        def keep(name: str, array: Any, rate: float) -> Any:
            if rate == 0:
                return array
            place = jax.random.fold_in(jax.random.fold_in(key, number), len(name))
            kept = jax.random.bernoulli(place, 1 - rate, array.shape)
            return jnp.where(kept, array / (1 - rate), 0.0)

        def objective(params: Params) -> Any:
            return batch_loss(jnp, params, batch, shared, config, model, keep)

        value, gradient = jax.value_and_grad(objective)(params)
        changes, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, changes), state, value

    fast = jax.jit(step, donate_argnums=(0, 1))
    on_device = jax.tree.map(jnp.asarray, world)
    return lambda params, state, batch, number: fast(
        params, state, batch, np.int32(number), on_device
    )


_ = Floats
