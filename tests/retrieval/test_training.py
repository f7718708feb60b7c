"""Training from end to end on a tiny world, and what may go wrong in it."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retrieval.index.exact import Lists
from retrieval.model import checkpoint as checkpoints
from retrieval.model.serving import RetrievalModel
from retrieval.model.towers import ModelConfig
from retrieval.model.trained import TrainedModel
from retrieval.training import objective
from retrieval.training.learning import TrainingConfig, learning_rates
from retrieval.training.objective import compiled_step
from retrieval.training.pools import Chunk
from retrieval.training.train import Progress, Training, train
from tests.retrieval.model_world import CUTOFFS, MODEL, N_USERS, TRAINING, catalogue, chunk, inputs

pytest.importorskip("jax")
pytest.importorskip("optax")


def same(left: TrainedModel, right: TrainedModel) -> bool:
    return all((left.params[name] == right.params[name]).all() for name in left.params)


def begun(training: Training) -> Any:
    """Its state before the first step."""
    return training.begin(compiled_step(training.config, training.model), None)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 7), (0.25, 40), (1.0, 5), (0.05, 1)])
def test_the_rate_is_the_kept_library_s_warm_up_and_cosine(warmup: float, steps: int) -> None:
    import optax

    config = replace(TRAINING, learning_rate=0.3, warmup_share=warmup)
    warm = int(warmup * steps)
    theirs = optax.warmup_cosine_decay_schedule(
        0.0 if warm else 0.3, 0.3, warm, max(steps, warm + 1), 0.02 * 0.3
    )
    found = learning_rates(config, steps)
    assert found == pytest.approx([float(theirs(i)) for i in range(steps)], rel=1e-5, abs=1e-9)


@pytest.fixture(scope="module")
def trained() -> tuple[TrainedModel, list[Progress]]:
    seen: list[Progress] = []
    return train(inputs(), TRAINING, MODEL, seed=5, progress=seen.append), seen


def test_training_lowers_the_loss_and_reports_it(
    trained: tuple[TrainedModel, list[Progress]],
) -> None:
    model, seen = trained
    assert [p.step for p in seen if not np.isnan(p.recall)] == [5, 10, 15, 20]
    assert {p.steps for p in seen} == {20}
    assert seen[-1].loss < seen[0].loss - 0.1
    assert 0 <= seen[-1].recall <= 1
    assert model.cutoff == CUTOFFS[-1]
    assert model.record["steps"] == 20
    assert model.record["heldout_recall_100"] == seen[-1].recall


def test_a_training_of_another_number_of_steps_compiles_nothing_anew(
    trained: tuple[TrainedModel, list[Progress]], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[int] = []
    monkeypatch.setattr(objective, "batch_loss", lambda *args: traced.append(1))
    fewer = train(inputs(source=[chunk(range(N_USERS // 2))]), TRAINING, MODEL, seed=5)
    assert fewer.record["steps"] < trained[0].record["steps"]
    assert traced == []


def test_a_model_keeps_how_users_ask_it(trained: tuple[TrainedModel, list[Progress]]) -> None:
    sample = trained[0].sample_queries
    assert sample is not None
    model = RetrievalModel(trained[0], catalogue())
    histories = pa.concat_tables(c.histories for c in inputs().source)
    n = histories.num_rows
    assert sample.shape == (n, MODEL.width + 1)  # all of them: fewer than are kept at most
    free = Lists(np.zeros(n + 1, np.int64), np.zeros(0, np.int64))
    none = np.zeros(0, np.float32)
    asked = model.encode_queries(model.encode_histories(histories), free, none, np.full(n, -1))
    np.testing.assert_allclose(sample, asked, atol=1e-5)
    assert len(np.unique(sample, axis=0)) > n / 2


def test_one_seed_gives_one_model_and_another_another(
    trained: tuple[TrainedModel, list[Progress]],
) -> None:
    config = TRAINING
    assert same(trained[0], train(inputs(), config, MODEL, seed=5))
    assert not same(trained[0], train(inputs(), config, MODEL, seed=6))


def test_a_source_that_is_read_pool_by_pool_is_asked_again_every_epoch() -> None:
    class Source:
        asked = 0

        def __iter__(self) -> Any:
            self.asked += 1
            return iter([chunk(range(24)), chunk(range(24, 48))])

    source = Source()
    training = Training(inputs(source=source), replace(TRAINING, pool_pairs=100), MODEL, 0)
    assert len(training.steps_of_pool) == 2
    batches = list(training.batches(0))
    assert len(batches) == training.steps == 4 * sum(training.steps_of_pool)
    assert source.asked == 1 + 4
    rest = list(training.batches(3))
    assert len(rest) == training.steps - 3
    for (_, left), (_, right) in zip(batches[3:], rest, strict=True):
        assert (left.items == right.items).all()
        assert (left.drawn == right.drawn).all()


def test_a_training_that_broke_off_goes_on_to_the_same_model(
    tmp_path: Path, trained: tuple[TrainedModel, list[Progress]]
) -> None:
    config, file = TRAINING, tmp_path / "checkpoint.npz"

    def stop(progress: Progress) -> None:
        if progress.step == 10 and not np.isnan(progress.recall):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(inputs(), config, MODEL, seed=5, checkpoint=file, progress=stop)
    seen: list[Progress] = []
    resumed = train(inputs(), config, MODEL, seed=5, checkpoint=file, progress=seen.append)
    assert seen[0].step > 10
    assert same(resumed, trained[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, "its seed is 5, this one's 6"),
        ({"config": replace(TRAINING, learning_rate=0.5)}, "its training is"),
        ({"model": replace(MODEL, hidden=16)}, "its config is"),
        ({"inputs": inputs(cutoffs=np.r_[CUTOFFS, CUTOFFS[-1] + 1])}, "its cutoff is"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "checkpoint.npz"
    given = {"inputs": inputs(), "config": TRAINING, "model": MODEL, "seed": 5}
    first = Training(given["inputs"], given["config"], given["model"], given["seed"])  # type: ignore[arg-type]
    first.keep(begun(first), file)
    given |= changes
    other = Training(given["inputs"], given["config"], given["model"], given["seed"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        other.run(file, lambda _: None)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "another schema", "a parameter short"])
def test_a_checkpoint_that_cannot_be_read_says_so(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "checkpoint.npz"
    training = Training(inputs(), TRAINING, MODEL, 5)
    training.keep(begun(training), file)
    arrays, head = checkpoints.read_checkpoint(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
        message = "is truncated or no checkpoint"
    elif damage == "foreign":
        np.savez(file, weights=np.zeros(3))
        message = "is truncated or no checkpoint"
    elif damage == "another schema":
        file.write_bytes(file.read_bytes().replace(b'"schema": 1', b'"schema": 7'))
        message = "truncated or no checkpoint|schema 7, this version reads 1"
    else:
        del arrays["param.item_id"]
        checkpoints.write_checkpoint(file, arrays, head)
        message = r"param.item_id is None, must be \(60, 8\)"
    with pytest.raises(ValueError, match=message) as error:
        training.run(file, lambda _: None)
    assert str(file) in str(error.value)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "checkpoint.npz"
    head = {"config": {}, "step": 1}
    checkpoints.write_checkpoint(file, {"a": np.arange(3)}, head)
    before = file.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left.*the one before is kept"):
        checkpoints.write_checkpoint(file, {"a": np.arange(9)}, head)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.npz"
    training = Training(inputs(), TRAINING, MODEL, 5)
    training.keep(begun(training), file)
    before = file.read_bytes()
    broken = Training(inputs(), TRAINING, MODEL, 5)
    broken.world.items.content[7] = np.nan
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1: training stops"):
        broken.run(file, lambda _: None)
    assert file.read_bytes() == before


def test_no_pairs_at_all_are_an_error() -> None:
    empty = Chunk(chunk().histories, chunk().pairs.slice(0, 0))
    for source in ([], [empty]):
        with pytest.raises(ValueError, match="there is no pair to learn from"):
            train(inputs(source=source), TRAINING, MODEL, seed=0)


def test_fewer_pairs_than_a_batch_are_repeated() -> None:
    config = replace(TRAINING, epochs=1, batch_size=64)
    training = Training(inputs(source=[chunk(range(4))]), config, MODEL, 0)
    assert training.steps == 1
    (_, batch), *rest = training.batches(0)
    assert len(batch.items) == 64
    assert not rest


def test_a_warm_start_takes_over_what_both_know(
    trained: tuple[TrainedModel, list[Progress]],
) -> None:
    before = trained[0]
    more = catalogue(66)
    training = Training(inputs(items=more, warm_start=before), TRAINING, MODEL, 9)
    params = begun(training).params
    assert (params["item_id"][:60] == before.params["item_id"]).all()
    assert np.asarray(params["item_id"])[60:].any()
    assert (params["head_in"] == before.params["head_in"]).all()


@pytest.mark.parametrize(
    ("model", "items", "message"),
    [
        (replace(MODEL, hidden=16), catalogue(), "to start from has the options"),
        (MODEL, catalogue(version="v2"), "reads item vectors 'v1' of width 6, ITEMS has 'v2'"),
        (MODEL, catalogue(width=5), "of width 6, ITEMS has 'v1' of width 5"),
    ],
)
def test_a_warm_start_of_another_shape_is_refused(
    trained: tuple[TrainedModel, list[Progress]], model: ModelConfig, items: Any, message: str
) -> None:
    training = Training(inputs(items=items, warm_start=trained[0]), TRAINING, model, 0)
    with pytest.raises(ValueError, match=message):
        training.run(None, lambda _: None)


def test_options_of_training_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"none_share must be <= 1, got 1\.5"):
        TrainingConfig(none_share=1.5)
