"""The training loop against a bare loop of the same compiled step, and KuaiRand-Pure whole.

Run from the repository: `python benchmarks/training.py [--kuairand W]`. The bare loop steps over
batches already in memory: what is missing to 1.0 is the making of batches, the looks at the loss
and the held-out recall. Rounds of both alternate in one process, the median of their ratios counts.
W is a local warehouse of the log whose nights were run; a copy of it is trained to 2022-05-04 with
the default options, and without it that figure is null. The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import datetime as dt
import json
import shutil
import statistics
import tempfile
from time import perf_counter
from typing import Any

import numpy as np

from pipelines.config import NightConfig
from pipelines.store.warehouse import Warehouse
from pipelines.training import TrainOptions, train_models
from profiling.decay import DAY_US
from profiling.items import Items, unit_rows
from profiling.tables import TOPICS
from retrieval.model.towers import ModelConfig
from retrieval.tables import HISTORIES, PAIRS
from retrieval.training.learning import TrainingConfig, learning_rates
from retrieval.training.objective import compiled_step, on_device, seed_key
from retrieval.training.pools import Chunk
from retrieval.training.train import Training, TrainingInputs

BATCHES = (1024, 4096)
ROUNDS, STEPS = 5, 25
N_ITEMS, N_TOPICS, WIDTH, N_USERS = 10_000, 50, 64, 60_000
CUTOFF = 1000 * DAY_US
KUAIRAND_DATE = dt.date(2022, 5, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kuairand", type=Path, help="warehouse of the KuaiRand-Pure log")
    source = parser.parse_args().kuairand
    shares = {}
    for size in BATCHES:
        rounds = [measure(size, round_) for round_ in range(ROUNDS)]
        bare, ours = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        shares[str(size)] = round(statistics.median(b / o for b, o in rounds), 3)
        print(
            f"batch {size}: bare loop {bare:.1f} ms a step, training {ours:.1f}:", shares[str(size)]
        )
    seconds = kuairand_seconds(source) if source else None
    if seconds:
        print(f"KuaiRand-Pure, default options, to 2022-05-04: {seconds:.0f} s")
    print(json.dumps({"share_of_bare_loop": shares, "kuairand_train_s": seconds}))


_made: dict[int, tuple[Training, Any]] = {}


def measure(size: int, round_: int) -> tuple[float, float]:
    """Milliseconds a step: the bare loop, then the training's own."""
    if size not in _made:
        config = TrainingConfig(batch_size=size, epochs=1, heldout_share=0.01, early_share=1.0)
        training = Training(world(size * STEPS), config, ModelConfig(), 0)
        _made[size] = training, compiled_step(training.config, training.model)
        training.run(None, lambda _: None)  # compiles
    training, compiled = _made[size]
    batches = [batch for _, batch in training.batches(0)]
    shared, key = on_device(training.world), seed_key(0)
    rates = learning_rates(training.config, training.steps)
    state = training.begin(compiled, None)
    params, optimiser = state.params, state.optimiser
    began = perf_counter()
    for number, batch in enumerate(batches):
        params, optimiser, loss = compiled.step(
            params, optimiser, batch, np.int32(number), rates[number], key, shared
        )
    loss.block_until_ready()
    bare = perf_counter() - began
    seen: list[float] = []
    training.run(None, lambda progress: seen.append(progress.seconds))
    return 1e3 * bare / len(batches), 1e3 * seen[-1] / len(batches)


def world(pairs: int) -> TrainingInputs:
    """Users of one history of 20 items each; positives of the same topic."""
    rng = np.random.default_rng(0)
    topic = rng.integers(N_TOPICS, size=N_ITEMS)
    vectors = rng.normal(size=(N_TOPICS, WIDTH))[topic] + rng.normal(size=(N_ITEMS, WIDTH))
    items = Items(
        ids=np.arange(N_ITEMS),
        vectors=unit_rows(vectors.astype(np.float32)),
        version="v1",
        topic_offsets=np.arange(N_ITEMS + 1),
        topic_ids=topic,
        topic_confidences=np.ones(N_ITEMS, np.float32),
        created_at=np.zeros(N_ITEMS, np.int64),
    )
    topics = TOPICS.build(
        {
            "topic_id": np.arange(N_TOPICS),
            "name": [str(t) for t in range(N_TOPICS)],
            "embedding": [None] * N_TOPICS,
        }
    )
    return TrainingInputs([_chunk(rng, pairs)], items, topics, np.array([CUTOFF, CUTOFF + DAY_US]))


def _chunk(rng: np.random.Generator, pairs: int) -> Chunk:
    users = np.arange(min(N_USERS, pairs))
    past = rng.integers(N_ITEMS, size=(len(users), 20))
    owner = np.sort(rng.integers(len(users), size=pairs))
    histories = HISTORIES.build(
        {
            "user_id": users,
            "cutoff": np.full(len(users), CUTOFF),
            "item_ids": past.tolist(),
            "ages": rng.exponential(5, past.shape).astype(np.float32).tolist(),
            "cluster_item_ids": past[:, :5].tolist(),
            "cluster_importances": np.ones((len(users), 5), np.float32).tolist(),
        }
    )
    none = [[]] * pairs
    positives = {
        "user_id": owner,
        "cutoff": np.full(pairs, CUTOFF),
        "item_id": rng.integers(N_ITEMS, size=pairs),
        "at": np.full(pairs, CUTOFF + 1),
        "query_item_id": [None] * pairs,
        "logged_topics": none,
        "logged_confidences": none,
    }
    return Chunk(histories, PAIRS.build(positives))


def kuairand_seconds(source: Path) -> float:
    """Seconds of `queryloop train`: pairs made, trained, model stored."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / "w")
        warehouse = Warehouse.open(str(Path(folder) / "w"))
        began = perf_counter()
        train_models(warehouse, KUAIRAND_DATE, NightConfig(), TrainOptions(fresh=True))
        return round(perf_counter() - began, 1)


if __name__ == "__main__":
    main()
