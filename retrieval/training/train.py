"""Training: passes over the pairs, checkpoints, progress, and the model that comes of it.

    trained = train(TrainingInputs(source, items, topics, cutoffs), config, model, seed=0)

The source is asked again every epoch, unless its pairs fit into one pool. With one seed, and on one
machine, training twice gives the same model, also where the second was resumed in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from profiling.items import Items
from profiling.schema import FloatArray, IntArray
from retrieval.model.checkpoint import read_checkpoint, write_checkpoint
from retrieval.model.inputs import Catalogue, topic_content
from retrieval.model.serving import RetrievalModel
from retrieval.model.towers import ModelConfig, Params, initial_params
from retrieval.model.trained import TrainedModel
from retrieval.training.ahead import made_ahead
from retrieval.training.asking import sample_queries
from retrieval.training.batches import Batch, BatchMaker, slices_of
from retrieval.training.heldout import heldout_recall
from retrieval.training.learning import TrainingConfig, learning_rates
from retrieval.training.objective import Compiled, World, compiled_step, on_device, seed_key
from retrieval.training.pools import Chunk, Pool, pools
from retrieval.training.popularity import Popularity
from retrieval.training.warm_start import warm_params

_LOOK = 20  # steps between two looks at the loss, each of which waits for the step
_LEAST = 1e-9  # share of positives of an item that has none


@dataclass(frozen=True)
class TrainingInputs:
    """What `train` reads.

    Attributes:
        source: Chunks of users, iterated again every epoch in the same order.
        items: The catalogue; every item of it gets an id embedding.
        topics: TOPICS.
        cutoffs: The ascending nightly cut-offs that the pairs' are of, microseconds; the last one
            is that of the training: no positive from then on.
        warm_start: A model to go on from.
    """

    source: Iterable[Chunk]
    items: Items
    topics: pa.Table
    cutoffs: IntArray
    warm_start: TrainedModel | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        epoch: The running one, from 0.
        loss: Mean since the last report.
        recall: Of held-out positives, the share among the 100 best; nan but after an epoch.
        seconds: Since the first step began.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    recall: float
    seconds: float


@dataclass
class _State:
    """What changes while training; a checkpoint holds it.

    Attributes:
        params: Parameters.
        optimiser: The optimiser's state.
        step: Steps done.
        losses: Of the steps since the last look.
        recalls: The held-out recall after each epoch.
    """

    params: Params
    optimiser: Any
    step: int = 0
    losses: list[Any] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)


def train(
    inputs: TrainingInputs,
    config: TrainingConfig,
    model: ModelConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> TrainedModel:
    """A model of every positive in the source.

    Args:
        inputs: Pairs, catalogue, topics, cut-offs.
        config: Options of the training.
        model: The shape of the model.
        seed: Of the first parameters, order, conditions, negatives and dropout.
        checkpoint: A file written after every epoch; where it is there, training goes on from it.
        progress: Told of every look at the loss.

    Raises:
        ValueError: No pairs; a checkpoint or warm start of another shape, seed or catalogue.
        FloatingPointError: The loss is no number, with the step; the checkpoint stays.
        OSError: The checkpoint cannot be written.
    """
    return Training(inputs, config, model, seed).run(checkpoint, progress)


class Training:
    """One training; what is known before its first step."""

    def __init__(
        self, inputs: TrainingInputs, config: TrainingConfig, model: ModelConfig, seed: int
    ) -> None:
        self.inputs, self.config, self.model, self.seed = inputs, config, model, seed
        items = inputs.items
        if not model.query_item:
            self.config = config = replace(config, query_source="none")
        self.topic_ids, self.topic_content = topic_content(inputs.topics, items.width)
        self.catalogue = Catalogue.of(items, items.ids, self.topic_ids)
        slices = slices_of(self.catalogue, len(self.topic_ids))
        self.maker = BatchMaker(
            self.catalogue, config, np.diff(slices.offsets), slices, inputs.cutoffs, seed
        )
        self._only: Pool | None = None
        self.steps_of_pool: list[int] = []
        popularity, counts = self._counted()
        self.prior = popularity.priors(config.prior_smoothing)
        self.world = World(
            items=self.catalogue.item_rows(slice(None)),
            topic_rows=np.arange(len(self.topic_ids), dtype=np.int32),
            topic_content=self.topic_content,
            prior=self.prior,
            frequencies=np.maximum(counts / counts.sum(), _LEAST).astype(np.float32),
            slice_sizes=np.diff(slices.offsets).astype(np.float32),
        )

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.config.epochs * sum(self.steps_of_pool)

    def _counted(self) -> tuple[Popularity, FloatArray]:
        """One pass: positives by item and cut-off, by item, and the steps of every pool."""
        n, cutoffs = len(self.inputs.items.ids), self.inputs.cutoffs
        popularity = Popularity.none(cutoffs, self.model.prior_days, n)
        counts = np.zeros(n)
        for pool in self._read():
            known = ~self.maker.held_out(pool)
            popularity.add(pool.items[known].astype(np.int64), pool.at[known], pool.early[known])
            counts += np.bincount(pool.items, self.maker.expected(pool), minlength=n)
            self.steps_of_pool.append(self.maker.steps(pool))
            self._only = pool
        if counts.sum() == 0:
            raise ValueError(
                "there is no pair to learn from: no positive engagement before the cut-off has an "
                "item of the catalogue; import engagements, or train to a later date"
            )
        if len(self.steps_of_pool) > 1:
            self._only = None
        return popularity, counts

    def pools(self) -> Iterator[Pool]:
        """The pools of one epoch."""
        return iter([self._only]) if self._only is not None else self._read()

    def _read(self) -> Iterator[Pool]:
        size = self.config.pool_pairs
        return pools(self.inputs.source, self.catalogue, self.topic_ids, self.model, size)

    def batches(self, done: int) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) of all steps but the first `done`."""
        for epoch in range(self.config.epochs):
            if done >= sum(self.steps_of_pool):
                done -= sum(self.steps_of_pool)
                continue
            for pool, steps in zip(self.pools(), self.steps_of_pool, strict=True):
                for batch in self.maker.batches(pool, epoch, min(done, steps)):
                    yield epoch, batch
                done -= min(done, steps)

    def run(self, checkpoint: Path | None, progress: Callable[[Progress], None]) -> TrainedModel:
        """Train, from the checkpoint on where there is one."""
        compiled = compiled_step(self.config, self.model)
        rates = learning_rates(self.config, self.steps)
        state = self.begin(compiled, checkpoint)
        shared, key = on_device(self.world), seed_key(self.seed)
        began, per_epoch, losses = perf_counter(), sum(self.steps_of_pool), [math.nan]
        for epoch, batch in made_ahead(self.batches(state.step)):
            state.params, state.optimiser, loss = compiled.step(
                state.params,
                state.optimiser,
                batch,
                np.int32(state.step),
                rates[state.step],
                key,
                shared,
            )
            state.step += 1
            state.losses.append(loss)
            ends = state.step % per_epoch == 0
            if ends or state.step % _LOOK == 0:
                losses.append(_looked_at(state))
                recall = math.nan
                if ends:
                    recall = heldout_recall(
                        next(self.pools()), self.maker, self.trained(state, losses[-1])
                    )
                    state.recalls.append(recall)
                    self.keep(state, checkpoint)
                progress(
                    Progress(
                        state.step, self.steps, epoch, losses[-1], recall, perf_counter() - began
                    )
                )
        trained = self.trained(state, losses[-1])
        bound = RetrievalModel(trained, self.inputs.items, self.inputs.topics)
        return replace(trained, sample_queries=sample_queries(next(self.pools()), bound))

    def trained(self, state: _State, loss: float) -> TrainedModel:
        """The model as it stands."""
        return TrainedModel(
            config=self.model,
            params={name: np.asarray(array) for name, array in state.params.items()},
            item_ids=self.inputs.items.ids,
            topic_ids=self.topic_ids,
            topic_content=self.topic_content,
            prior=self.prior[-1],
            prior_unknown=np.full(
                self.prior.shape[2], np.log(self.config.prior_smoothing), np.float32
            ),
            embedding_version=self.inputs.items.version,
            cutoff=int(self.inputs.cutoffs[-1]),
            record={
                "seed": self.seed,
                "steps": state.step,
                "loss": loss,
                "heldout_recall_100": state.recalls[-1] if state.recalls else math.nan,
            },
        )

    def begin(self, compiled: Compiled, checkpoint: Path | None) -> _State:
        """The first state, or that of the checkpoint."""
        items = self.inputs.items
        params: Params = initial_params(
            self.model, len(items.ids), len(self.topic_ids), items.width, self.seed
        )
        if self.inputs.warm_start is not None:
            params = warm_params(params, self.model, items, self.topic_ids, self.inputs.warm_start)
        params = on_device(params)
        state = _State(params, compiled.optimiser.init(params))
        if checkpoint is not None and checkpoint.exists():
            self._resume(state, checkpoint)
        return state

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in with the training that goes on from it."""
        return {
            "config": asdict(self.model),
            "training": asdict(self.config),
            "seed": self.seed,
            "items": len(self.inputs.items.ids),
            "embedding_version": self.inputs.items.version,
            "cutoff": int(self.inputs.cutoffs[-1]),
            "steps": self.steps,
        }

    def keep(self, state: _State, checkpoint: Path | None) -> None:
        """Write the checkpoint."""
        if checkpoint is None:
            return
        import jax

        arrays = {f"param.{name}": np.asarray(a) for name, a in state.params.items()}
        leaves = jax.tree.leaves(state.optimiser)
        arrays |= {f"optimiser.{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        head = self._identity() | {"step": state.step, "recalls": state.recalls}
        write_checkpoint(checkpoint, arrays, head)

    def _resume(self, state: _State, checkpoint: Path) -> None:
        import jax

        arrays, head = read_checkpoint(checkpoint)
        for name, wanted in self._identity().items():
            found = head.get(name)
            if found != _as_json(wanted):
                raise ValueError(
                    f"{checkpoint} is of another training: its {name} is {found!r}, this one's "
                    f"{_as_json(wanted)!r}; delete it to begin anew"
                )
        state.params = {
            name: jax.numpy.asarray(_fitting(arrays, f"param.{name}", array, checkpoint))
            for name, array in state.params.items()
        }
        leaves, tree = jax.tree.flatten(state.optimiser)
        state.optimiser = jax.tree.unflatten(
            tree,
            [
                jax.numpy.asarray(_fitting(arrays, f"optimiser.{i}", leaf, checkpoint))
                for i, leaf in enumerate(leaves)
            ],
        )
        state.step, state.recalls = head["step"], head["recalls"]


def _looked_at(state: _State) -> float:
    """The mean loss since the last look; raises where one is no number."""
    losses = np.array([float(loss) for loss in state.losses])
    wrong = np.flatnonzero(~np.isfinite(losses))
    if len(wrong):
        step = state.step - len(losses) + int(wrong[0]) + 1
        raise FloatingPointError(
            f"the loss is {losses[wrong[0]]} at step {step}: training stops, the last checkpoint "
            "and the last model stay; lower `learning_rate` or raise `temperature`"
        )
    state.losses.clear()
    return float(losses.mean())


def _fitting(arrays: Mapping[str, Any], name: str, like: Any, where: Path) -> Any:
    found = arrays.get(name)
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(
            f"{where}: {name} is {None if found is None else found.shape}, must be {like.shape}: "
            "delete it to begin anew"
        )
    return found


def _as_json(value: Any) -> Any:
    """Tuples as the lists that JSON makes of them."""
    if isinstance(value, dict):
        return {k: _as_json(v) for k, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, list | tuple) else value
