"""One training step: the loss of a batch, its gradient, the update. The only file that compiles.

The training library is imported where it is used: whoever only serves does without it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from retrieval.model import towers
from retrieval.model.towers import ItemRows, ModelConfig, Params
from retrieval.training import loss as losses
from retrieval.training.batches import Batch
from retrieval.training.learning import TrainingConfig

_DROPOUTS = ("history", "context", "past")


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


class Setting(NamedTuple):
    """What a step is compiled for.

    Attributes:
        config: Options of the training.
        model: The shape of the model.
        keep: `keep(name, array, rate)`: the array after dropout.
        fixed: Takes its argument out of the gradient.
    """

    config: TrainingConfig
    model: ModelConfig
    keep: Callable[[str, Any, float], Any]
    fixed: Callable[[Any], Any]


class _Logits(NamedTuple):
    """Corrected logits of (B, N) negatives, which of them count, and of the (B,) positives."""

    negatives: Any
    kept: Any
    positives: Any


def batch_loss(xp: Any, params: Params, batch: Batch, world: World, setting: Setting) -> Any:
    """The mean loss of a batch, a scalar.

    Args:
        xp: Array namespace.
        params: Parameters.
        batch: The rows.
        world: What all batches share.
        setting: Options, dropout.
    """
    config, model = setting.config, setting.model
    topics = towers.encode_topics(xp, params, world.topic_rows, world.topic_content)
    past = setting.keep("past", batch.history.weights, config.past_dropout)
    history = towers.encode_histories(xp, params, batch.history._replace(weights=past))
    history = setting.keep("history", history, config.dropout)
    read = towers.read_context(xp, params, batch.context, topics)
    content = setting.keep("context", read[:, :-2], config.context_dropout)
    context = towers.encode_context(xp, params, xp.concatenate([content, read[:, -2:]], axis=1))
    vectors = towers.join(xp, params, history, context)
    logits = _logits(xp, params, (vectors, topics), batch, world, setting)
    if config.slice_negatives:
        logits = _with_slices(xp, params, (vectors, topics), batch, world, setting, logits)
    total = losses.sampled_softmax(
        xp, logits.positives, logits.negatives, logits.kept, setting.fixed
    )
    if config.alignment:
        aims = towers.unit(xp, topics @ params["topic_out"])
        rows = batch.context.topics
        aligned = losses.alignment(xp, vectors, rows, aims, model.temperature)
        total = total + config.alignment * aligned
    if config.bias_decay:
        own = params["item_bias"][xp.concatenate([batch.items, batch.drawn])]
        total = total + config.bias_decay * (own * own).mean()
    return total.mean()


def _logits(
    xp: Any,
    params: Params,
    encoded: tuple[Any, Any],
    batch: Batch,
    world: World,
    setting: Setting,
) -> _Logits:
    """Against the positives of the batch and the items drawn evenly."""
    config, (vectors, topics) = setting.config, encoded
    candidates = xp.concatenate([batch.items, batch.drawn])
    rows = towers.encode_items(xp, params, _take(world.items, candidates), topics)
    when, bias = _bias(xp, params, candidates, batch, world)
    if config.log_q and not config.slice_negatives:
        bias = bias - _log_q(xp, candidates, batch, world)
    # One product: a second array of (B, N) and a diagonal out of it double the step's time.
    left = xp.concatenate([vectors / setting.model.temperature, when], axis=1)
    right = xp.concatenate([rows, bias.T], axis=1)
    owners = xp.concatenate([batch.users, xp.full(len(batch.drawn), -1, batch.users.dtype)])
    if not config.mask_same_user:
        owners = xp.full_like(owners, -1)
    kept = losses.keep_mask(xp, batch.items, batch.users, candidates, owners)
    return _Logits(left @ right.T, kept, (left * right[: len(vectors)]).sum(axis=1))


def _with_slices(
    xp: Any,
    params: Params,
    encoded: tuple[Any, Any],
    batch: Batch,
    world: World,
    setting: Setting,
    logits: _Logits,
) -> _Logits:
    """With those drawn from the slice of each row's condition, all corrected by the new mixture."""
    vectors, topics = encoded
    candidates = xp.concatenate([batch.items, batch.drawn])
    flat = xp.maximum(batch.sliced, 0).reshape(-1)
    rows = towers.encode_items(xp, params, _take(world.items, flat), topics)
    rows = rows.reshape(*batch.sliced.shape, -1)
    when, bias = _bias(xp, params, flat, batch, world)
    bias = bias.T.reshape(*batch.sliced.shape, -1)
    added = xp.einsum("be,bme->bm", vectors, rows) / setting.model.temperature
    added = added + xp.einsum("bq,bmq->bm", when, bias)
    kept = xp.logical_and(batch.sliced >= 0, batch.sliced != batch.items[:, None])
    negatives, positives = logits.negatives, logits.positives
    if setting.config.log_q:
        negatives = negatives - _log_q(xp, candidates[None], batch, world)
        positives = positives - _log_q(xp, batch.items[:, None], batch, world)[:, 0]
        added = added - _log_q(xp, flat.reshape(batch.sliced.shape), batch, world)
    return _Logits(
        xp.concatenate([negatives, added], axis=1),
        xp.concatenate([logits.kept, kept], axis=1),
        positives,
    )


def _log_q(xp: Any, candidates: Any, batch: Batch, world: World) -> Any:
    """Log density of candidates (N,), or (B, N) or (1, N) where slices are drawn from too."""
    n, m = len(world.frequencies), batch.sliced.shape[1]
    sliced: Any = 0.0
    if m:
        topic = batch.context.topics[:, :1]
        carried = (world.items.topics[candidates] == topic[:, :, None]).any(axis=-1)
        size = xp.maximum(world.slice_sizes[topic], 1.0)
        sliced = xp.where(xp.logical_and(topic >= 0, carried), m / size, 0.0)
    return losses.mixture_log_q(
        xp, world.frequencies[candidates], len(batch.items), len(batch.drawn), n, sliced
    )


def _bias(xp: Any, params: Params, candidates: Any, batch: Batch, world: World) -> Any:
    """(B, q + 1) which cut-off is whose, one 1 a row, and (q + 1, N) the candidates' prior then.

    The last cut-off is that of early positives, which have a bias apart.
    """
    timed = world.prior[:, candidates] @ params["prior_weights"] + params["item_bias"][candidates]
    table = xp.concatenate([timed, params["early_bias"][candidates][None]])
    row = xp.where(batch.early, len(timed), batch.cutoffs)
    return (row[:, None] == np.arange(len(table))).astype(np.float32), table


def _take(rows: ItemRows, which: Any) -> ItemRows:
    return ItemRows(*(a[which] for a in rows))


class Compiled(NamedTuple):
    """A compiled training step.

    Attributes:
        optimiser: Its `init(params)` makes the first state.
        step: `step(params, state, batch, number, rate, key, world) -> params, state, loss`;
            parameters and state are given up to it. `number` counts from 0, `rate` is its learning
            rate, float32, `key` is the seed's.
    """

    optimiser: Any
    step: Callable[[Params, Any, Batch, Any, Any, Any, World], tuple[Params, Any, Any]]


@lru_cache(maxsize=8)
def compiled_step(config: TrainingConfig, model: ModelConfig) -> Compiled:
    """The step of these options, compiled once a process, however many steps a training takes."""
    import jax
    import jax.numpy as jnp
    import optax

    decay = optax.add_decayed_weights(config.weight_decay)
    optimiser = optax.chain(optax.scale_by_adam(), decay)  # AdamW but for the rate

    def step(
        params: Params, state: Any, batch: Batch, number: Any, rate: Any, key: Any, world: World
    ) -> tuple[Params, Any, Any]:
        def keep(name: str, array: Any, share: float) -> Any:
            if share == 0:
                return array
            place = jax.random.fold_in(jax.random.fold_in(key, number), _DROPOUTS.index(name))
            kept = jax.random.bernoulli(place, 1 - share, array.shape)
            return jnp.where(kept, array / (1 - share), 0.0)

        setting = Setting(config, model, keep, jax.lax.stop_gradient)

        def objective(params: Params) -> Any:
            return batch_loss(jnp, params, batch, world, setting)

        value, gradient = jax.value_and_grad(objective)(params)
        changes, state = optimiser.update(gradient, state, params)
        changes = jax.tree.map(lambda change: -rate * change, changes)
        return optax.apply_updates(params, changes), state, value

    return Compiled(optimiser, jax.jit(step, donate_argnums=(0, 1)))


def on_device(tree: Any) -> Any:
    """Arrays of any tree where the compiled step reads them."""
    import jax

    return jax.tree.map(jax.numpy.asarray, tree)


def seed_key(seed: int) -> Any:
    """The key that dropout is drawn from."""
    import jax

    return jax.random.key(seed)
