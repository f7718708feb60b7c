"""A tiny world to train in: users of one taste each, items of one topic each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from profiling.decay import DAY_US
from profiling.hashing import uniforms
from profiling.items import Items, unit_rows
from profiling.tables import TOPICS
from retrieval.model.towers import ModelConfig, initial_params
from retrieval.model.trained import TrainedModel
from retrieval.tables import HISTORIES, PAIRS
from retrieval.training.learning import TrainingConfig
from retrieval.training.pools import Chunk
from retrieval.training.train import TrainingInputs

N_ITEMS, N_TOPICS, N_USERS, WIDTH = 60, 4, 48, 6
CUTOFFS = np.array([10, 11, 12], np.int64) * DAY_US
MODEL = ModelConfig(width=8, hidden=12, recency_days=(1.0, 30.0), prior_days=(1.0, 30.0))
TRAINING = TrainingConfig(
    epochs=4, batch_size=32, uniform_negatives=16, heldout_share=0.1, early_share=0.5
)


def catalogue(n: int = N_ITEMS, version: str = "v1", width: int = WIDTH) -> Items:
    """Items 0, 3, 6, ... of topic 100 + (row modulo 4), every fifth also of the next one."""
    rows = np.arange(n)
    main = rows % N_TOPICS
    lists = [
        [t, (t + 1) % N_TOPICS] if r % 5 == 0 else [t] for r, t in zip(rows, main, strict=True)
    ]
    centres = np.eye(N_TOPICS, width)[main]
    noise = uniforms("noise", np.arange(n * width)).reshape(n, width) - 0.5
    return Items(
        ids=rows * 3,
        vectors=unit_rows((centres + noise).astype(np.float32)),
        version=version,
        topic_offsets=np.r_[0, np.cumsum([len(some) for some in lists])].astype(np.int64),
        topic_ids=np.concatenate(lists).astype(np.int64) + 100,
        topic_confidences=np.concatenate([np.full(len(s), 1 / len(s)) for s in lists]).astype(
            np.float32
        ),
        created_at=np.zeros(n, np.int64),
    )


def topics_table(ids: list[int] | None = None, vectors: dict[int, Any] | None = None) -> pa.Table:
    """TOPICS, without vectors unless given."""
    ids = [100 + t for t in range(N_TOPICS)] if ids is None else ids
    return TOPICS.build(
        {
            "topic_id": np.array(ids, np.int64),
            "name": [f"topic {i}" for i in ids],
            "embedding": pa.array([(vectors or {}).get(i) for i in ids], pa.list_(pa.float32())),
        }
    )


def chunk(users: range = range(N_USERS)) -> Chunk:
    """Each user likes one topic: four items at the first cut-off, one more at each later one."""
    histories, pairs = [], []
    for user in users:
        items = _liked(user)
        for q, cutoff in enumerate(CUTOFFS[:2].tolist()):
            past = items[: 4 + q][::-1]
            histories.append((user, cutoff, past, [1.0 + i for i in range(len(past))]))
        for place, item in enumerate(items):
            early = place < 4
            cutoff = CUTOFFS[max(0, min(1, place - 4))]
            at = CUTOFFS[0] - DAY_US if early else cutoff + 5
            logged = [100 + user % N_TOPICS] if place == 5 else []
            pairs.append((user, cutoff, item, at, items[0] if logged else None, logged))
    return Chunk(_histories(histories), _pairs(pairs))


def inputs(**changes: Any) -> TrainingInputs:
    """What `train` reads."""
    given: dict[str, Any] = {
        "source": [chunk(range(24)), chunk(range(24, N_USERS))],
        "items": catalogue(),
        "topics": topics_table(),
        "cutoffs": CUTOFFS,
    }
    return TrainingInputs(**(given | changes))


def untrained(seed: int = 0, items: Items | None = None) -> TrainedModel:
    """A model of `catalogue()` as it is before training."""
    items = catalogue() if items is None else items
    n = len(items.ids)
    params = initial_params(MODEL, n, N_TOPICS, items.width, seed)
    prior = uniforms("prior", np.arange(n * 3)).reshape(n, 3).astype(np.float32)
    return TrainedModel(
        config=MODEL,
        params=params,
        item_ids=items.ids,
        topic_ids=np.arange(100, 100 + N_TOPICS),
        topic_content=np.zeros((N_TOPICS, items.width), np.float32),
        prior=prior,
        prior_unknown=np.full(3, -2, np.float32),
        embedding_version=items.version,
        cutoff=int(CUTOFFS[-1]),
        record={"seed": seed},
    )


def _liked(user: int) -> list[int]:
    """Six items of the user's topic, the popular ones more often."""
    rows = np.arange(N_ITEMS)[np.arange(N_ITEMS) % N_TOPICS == user % N_TOPICS]
    order = np.argsort(uniforms("liked", user, rows) ** (1.0 / (1 + rows % 3)))[::-1]
    return [int(row) * 3 for row in rows[order][:6]]


def _histories(rows: list[Any]) -> pa.Table:
    users, cutoffs, items, ages = zip(*rows, strict=True)
    return HISTORIES.build(
        {
            "user_id": np.array(users),
            "cutoff": np.array(cutoffs),
            "item_ids": list(items),
            "ages": list(ages),
            "cluster_item_ids": [some[:1] for some in items],
            "cluster_importances": [[2.0] for _ in items],
        }
    )


def _pairs(rows: list[Any]) -> pa.Table:
    users, cutoffs, items, at, queries, topics = zip(*rows, strict=True)
    return PAIRS.build(
        {
            "user_id": np.array(users),
            "cutoff": np.array(cutoffs),
            "item_id": np.array(items),
            "at": np.array(at),
            "query_item_id": pa.array(queries, pa.int64()),
            "logged_topics": list(topics),
            "logged_confidences": [[1.0] * len(some) for some in topics],
        }
    )
