"""Models for tests that no training made: their content weights alone find something."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.models import Learners, ModelRecord, add_model
from pipelines.plan import cutoff_of
from pipelines.store.folders import Folder
from pipelines.store.warehouse import Warehouse
from profiling.items import Items
from retrieval.histories import HistoryConfig
from retrieval.model.towers import ModelConfig, initial_params
from retrieval.model.trained import TrainedModel
from tests.pipelines.small_world import items_table

SHAPE = ModelConfig(width=8, hidden=16)
HISTORIES = HistoryConfig(recent_items=20, clusters=4)


def untrained(
    items: Items | None = None, seed: int = 0, cutoff: int = 0, shape: ModelConfig = SHAPE
) -> TrainedModel:
    """A model of the small world's items, or of others."""
    items = items or Items.from_table(items_table())
    topics = np.unique(items.topic_ids)
    params = initial_params(shape, len(items.ids), len(topics), items.width, seed)
    rng = np.random.default_rng(seed)
    return TrainedModel(
        config=shape,
        params=params,
        item_ids=items.ids,
        topic_ids=topics,
        topic_content=rng.normal(size=(len(topics), items.width)).astype(np.float32),
        prior=rng.normal(size=(len(items.ids), len(params["prior_weights"]))).astype(np.float32),
        prior_unknown=np.zeros(len(params["prior_weights"]), np.float32),
        embedding_version=items.version,
        cutoff=cutoff,
        record={},
    )


def add(
    warehouse: Warehouse,
    date: dt.date,
    trained: TrainedModel | None = None,
    learners: Learners | None = None,
    histories: HistoryConfig = HISTORIES,
) -> ModelRecord:
    """Make a model of `date` visible."""
    trained = trained or untrained(cutoff=cutoff_of(date))
    draft = ModelRecord(
        number=0,
        folder=Folder("", ()),
        date=date,
        cutoff=cutoff_of(date),
        learners=learners or Learners(),
        manifest=1,
        parent=None,
        seed=0,
        embedding_version=trained.embedding_version,
        embedding_width=trained.content_width,
        catalogue="",
        histories=histories,
        config={},
        code="",
        report={},
    )
    with TemporaryDirectory() as place:
        trained.save(Path(place))
        return add_model(warehouse.root, Path(place), draft)
