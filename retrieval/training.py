"""Training: passes over the pairs, checkpoints, progress, and the model that comes of it."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from profiling.items import Items
from retrieval import towers
from retrieval.batches import Batch, BatchMaker, Chunk, pools, slices_of
from retrieval.inputs import Catalogue, topic_content
from retrieval.learning import TrainingConfig
from retrieval.objective import World, compiled_step
from retrieval.popularity import Popularity
from retrieval.towers import ModelConfig
from retrieval.trained import TrainedModel

_AHEAD = 4  # batches made while a step runs
_EVERY = 50  # steps between two looks at the loss


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        step: Steps done, from 1.
        steps: Steps in all, as far as known.
        epoch: From 0.
        loss: Mean since the last report.
        recall: Of held-out positives, the share among the 100 best unseen; nan between epochs.
        seconds: Since training began.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    recall: float
    seconds: float


def train(
    source: Iterable[Chunk],
    items: Items,
    topics: pa.Table,
    config: TrainingConfig,
    model: ModelConfig,
    *,
    seed: int,
    cutoff: int,
    warm_start: TrainedModel | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainedModel:
    """Train a model on every positive before the cut-off."""
    return Training(source, items, topics, config, model, seed, cutoff).run(progress)


class Training:
    """One training."""

    def __init__(
        self,
        source: Iterable[Chunk],
        items: Items,
        topics: pa.Table,
        config: TrainingConfig,
        model: ModelConfig,
        seed: int,
        cutoff: int,
    ) -> None:
        self.config, self.model, self.seed, self.cutoff = config, model, seed, cutoff
        self.items = items
        self.topic_ids, self.topic_content = topic_content(topics, items.width)
        self.catalogue = Catalogue.of(items, items.ids, self.topic_ids)
        self.pool = next(pools(source, self.catalogue, self.topic_ids, model, config.pool_pairs))
        pool = self.pool
        self.cutoffs = np.unique(np.r_[pool.cutoffs, cutoff])
        popularity = Popularity.none(self.cutoffs, model.prior_days, len(items.ids))
        popularity.add(pool.items, pool.at, pool.early)
        self.prior = popularity.priors(config.prior_smoothing)
        weights = np.where(pool.early, config.early_weight, 1.0)
        self.train_rows = np.flatnonzero(weights > 0)
        counts = np.bincount(pool.items[self.train_rows], minlength=len(items.ids)).astype(float)
        self.frequencies = np.maximum(counts / counts.sum(), 1e-9).astype(np.float32)
        slices = slices_of(self.catalogue, len(self.topic_ids))
        topic_counts = np.zeros(len(self.topic_ids) + 1)
        np.add.at(topic_counts, self.catalogue.topics, counts[:, None])
        self.maker = BatchMaker(
            self.catalogue, config, topic_counts[:-1], slices, self.cutoffs, seed
        )
        self.world = World(
            self.catalogue.item_rows(slice(None)),
            np.arange(len(self.topic_ids), dtype=np.int32),
            self.topic_content,
            self.prior,
            self.frequencies,
            np.diff(slices.offsets).astype(np.float32),
        )

    def run(self, progress: Callable[[Progress], None] | None) -> TrainedModel:
        import jax
        import optax

        config = self.config
        per_epoch = max(1, len(self.train_rows) // config.batch_size)
        total = per_epoch * config.epochs
        rate = optax.warmup_cosine_decay_schedule(
            0.0,
            config.learning_rate,
            int(config.warmup_share * total),
            total,
            0.02 * config.learning_rate,
        )
        optimiser = optax.adamw(rate, weight_decay=config.weight_decay)
        params: Any = towers.initial_params(
            self.model, len(self.items.ids), len(self.topic_ids), self.items.width, self.seed
        )
        params = jax.tree.map(jax.numpy.asarray, params)
        state = optimiser.init(params)
        step = compiled_step(optimiser, self.world, config, self.model, self.seed)
        began, number, recent = perf_counter(), 0, []
        for epoch in range(config.epochs):
            order = self.maker.shuffled(self.pool, epoch)
            order = (
                order[np.isin(order, self.train_rows)]
                if len(self.train_rows) < len(order)
                else order
            )
            for batch in ahead(self.maker.batches(self.pool, order, epoch)):
                params, state, value = step(params, state, batch, number)
                number += 1
                recent.append(value)
            loss = float(np.mean([float(v) for v in recent]))
            recent = []
            if progress:
                progress(Progress(number, total, epoch, loss, math.nan, perf_counter() - began))
        return TrainedModel(
            config=self.model,
            params={k: np.asarray(v) for k, v in params.items()},
            item_ids=self.items.ids,
            topic_ids=self.topic_ids,
            topic_content=self.topic_content,
            prior=self.prior[-1],
            prior_unknown=self.prior[-1].min(axis=0),
            embedding_version=self.items.version,
            cutoff=self.cutoff,
            record={"seed": self.seed, "steps": number, "loss": loss},
        )


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, made in a thread while the one before is used."""
    waiting: queue.Queue[Any] = queue.Queue(_AHEAD)

    def fill() -> None:
        for batch in batches:
            waiting.put(batch)
        waiting.put(None)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    while (batch := waiting.get()) is not None:
        yield batch
    thread.join()
