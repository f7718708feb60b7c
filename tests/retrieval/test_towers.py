"""The forward pass: NumPy equals jax, gradients equal differences, -1 is nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from retrieval.model import towers
from retrieval.model.towers import ContextRows, HistoryRows, ItemRows, ModelConfig
from retrieval.training.batches import Batch
from retrieval.training.learning import TrainingConfig
from retrieval.training.objective import Setting, batch_loss
from retrieval.training.train import Training
from tests.retrieval.model_world import MODEL, TRAINING, catalogue, inputs

ALL_OPTIONS = TrainingConfig(
    epochs=1,
    batch_size=16,
    uniform_negatives=8,
    slice_negatives=3,
    alignment=0.3,
    bias_decay=0.2,
    none_share=0.3,
    heldout_share=0.0,
)


def setting(config: TrainingConfig) -> Setting:
    return Setting(config, MODEL, lambda name, array, rate: array, lambda x: x)


def first_batch(config: TrainingConfig) -> tuple[Training, Batch]:
    training = Training(inputs(), config, MODEL, 0)
    return training, next(training.batches(0))[1]


def params_of(training: Training, dtype: Any = np.float32) -> dict[str, Any]:
    """Parameters with nothing at 0, so that every path counts."""
    n, t = len(training.inputs.items.ids), len(training.topic_ids)
    shapes = towers.shapes(MODEL, n, t, training.inputs.items.width)
    rng = np.random.default_rng(3)
    return {name: rng.normal(0, 0.4, shape).astype(dtype) for name, shape in shapes.items()}


@lru_cache
def compiled(config: TrainingConfig) -> Any:
    """Loss and gradient by parameters, of (params, batch, world)."""
    jax = pytest.importorskip("jax")
    of = setting(config)
    return jax.jit(jax.value_and_grad(lambda p, b, w: batch_loss(jax.numpy, p, b, w, of)))


@pytest.mark.parametrize("config", [TRAINING, ALL_OPTIONS])
def test_numpy_and_jax_compute_the_same_loss(config: TrainingConfig) -> None:
    training, batch = first_batch(config)
    params = params_of(training)
    plain = batch_loss(np, params, batch, training.world, setting(config))
    value, _ = compiled(config)(params, batch, training.world)
    assert float(value) == pytest.approx(float(plain), rel=1e-5)


def test_numpy_and_jax_encode_the_same_rows() -> None:
    jax = pytest.importorskip("jax")
    training, batch = first_batch(TRAINING)
    params = params_of(training)
    world = training.world

    def rows(xp: Any) -> tuple[Any, ...]:
        table = towers.encode_topics(xp, params, world.topic_rows, world.topic_content)
        items = towers.encode_items(xp, params, world.items, table)
        histories = towers.encode_histories(xp, params, batch.history)
        read = towers.read_context(xp, params, batch.context, table)
        context = towers.encode_context(xp, params, read)
        return items, histories, context, towers.join(xp, params, histories, context)

    for plain, other in zip(rows(np), jax.jit(lambda: rows(jax.numpy))(), strict=True):
        assert plain.dtype == np.float32
        np.testing.assert_allclose(np.asarray(other), plain, rtol=5e-5, atol=5e-6)


def test_the_gradient_of_the_loss_is_that_of_finite_differences() -> None:
    training, batch = first_batch(ALL_OPTIONS)
    params = params_of(training)
    _, gradient = compiled(ALL_OPTIONS)(params, batch, training.world)
    wide = {name: a.astype(np.float64) for name, a in params.items()}

    def value(name: str, place: int, step: float) -> float:
        moved = wide | {name: wide[name].copy()}
        moved[name].reshape(-1)[place] += step
        return float(batch_loss(np, moved, batch, training.world, setting(ALL_OPTIONS)))

    for name, array in gradient.items():
        flat = np.asarray(array).reshape(-1)
        for place in {int(np.abs(flat).argmax()), len(flat) // 2}:
            slope = (value(name, place, 1e-5) - value(name, place, -1e-5)) / 2e-5
            assert flat[place] == pytest.approx(slope, rel=2e-3, abs=2e-5), name


def test_an_empty_history_and_no_condition_give_finite_gradients() -> None:
    training, batch = first_batch(TRAINING)
    nothing = batch._replace(
        history=HistoryRows(
            np.full_like(batch.history.ids, -1), *(0 * a for a in batch.history[1:])
        ),
        context=ContextRows(
            np.full_like(batch.context.topics, -1),
            0 * batch.context.confidences,
            np.full_like(batch.context.query_ids, -1),
            0 * batch.context.query_content,
        ),
    )
    for params in (params_of(training), {k: 0 * v for k, v in params_of(training).items()}):
        loss, gradient = compiled(TRAINING)(params, nothing, training.world)
        assert np.isfinite(loss)
        assert all(np.isfinite(np.asarray(g)).all() for g in gradient.values())


def test_row_minus_one_is_nothing_even_where_the_last_row_is_something() -> None:
    training, _ = first_batch(TRAINING)
    params = params_of(training)
    nobody = ItemRows(
        np.array([-1]), np.zeros((1, 6), np.float32), np.array([[-1]]), np.ones((1, 1), np.float32)
    )
    table = np.ones((4, 8), np.float32)
    assert not towers.encode_items(np, params, nobody, table).any()
    assert towers.item_bias(np, params, np.array([-1]), np.zeros((1, 3), np.float32)) == 0


def test_recent_items_weigh_by_age_and_medoids_by_importance() -> None:
    config = ModelConfig(recency_days=(1.0, 4.0), length_power=0.5)
    present = np.array([[True, True, False, True, True]])
    weights = towers.recency_weights(
        np.array([[0.0, 2.0, 0.0]], np.float32), np.array([[3.0, 1.0]], np.float32), config, present
    )
    root = np.sqrt(2)
    expected = [[1 / root, 1 / root, 0], [0.25 / root, 2**-0.5 / root, 0], [0, 0, 0]]
    np.testing.assert_allclose(weights[0, :3], expected, rtol=1e-6)
    np.testing.assert_allclose(weights[0, 3:], [[0, 0, 0.75], [0, 0, 0.25]], rtol=1e-6)


def test_the_first_model_looks_for_content_near_the_past() -> None:
    items = catalogue()
    params = towers.initial_params(MODEL, len(items.ids), 4, items.width, 0)
    again = towers.initial_params(MODEL, len(items.ids), 4, items.width, 0)
    assert all((params[name] == again[name]).all() for name in params)
    other = towers.initial_params(MODEL, len(items.ids), 4, items.width, 1)
    assert (params["item_id"] != other["item_id"]).mean() > 0.99
    content = items.vectors @ params["item_content"]
    assert ((content @ content.T).argmax(axis=1) == np.arange(60)).mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be >= 0.001"),
        ({"width": 1}, "width must be >= 2"),
        ({"recency_days": ()}, r"recency_days must be half-lives above 0 days, got \[\]"),
        ({"prior_days": (1.0, -2.0)}, "prior_days must be half-lives above 0 days"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)
