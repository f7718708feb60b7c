"""The learned arms of a study: models trained up to the cut-off, bound to the catalogue of then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig
from pipelines.evaluate.arms import Engine
from pipelines.evaluate.contest import Note
from pipelines.models import Learners
from pipelines.pairs import StoredPairs, store_pairs
from pipelines.plan import open_items, open_topics
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from profiling.schema import IntArray
from retrieval.encoders import ModelEncoder, encode_users
from retrieval.model.serving import RetrievalModel


class Learner:
    """Trains models on what a warehouse knew at one night."""

    def __init__(
        self,
        warehouse: Warehouse,
        manifest: Manifest,
        config: NightConfig,
        user_ids: IntArray,
        folder: Path,
        note: Note,
    ) -> None:
        """Bind.

        Args:
            warehouse: Where the nights are.
            manifest: The last one that is learned from; users are encoded as of it.
            config: Actions, and the options of histories, model and training.
            user_ids: Who will ask.
            folder: On this machine, for the pairs.
            note: Told how far a training is.
        """
        self._warehouse, self._manifest, self._config = warehouse, manifest, config
        self._folder, self._note = folder, note
        self._user_ids = pa.array(user_ids)
        root, files = warehouse.root, manifest.catalogue
        self._items = open_items(root, files["ITEMS"])
        self._topics = open_topics(root, files["TOPICS"], files["ITEMS"])
        self._pairs: StoredPairs | None = None

    def train(self, seed: int, changes: Mapping[str, Any]) -> Engine:
        """Train with the warehouse's options but for `changes`, and encode items and users.

        Raises:
            ValueError: There is nothing to learn from.
        """
        from retrieval.training.train import Progress, TrainingInputs, train

        def tell(at: Progress) -> None:
            self._note(f"train, seed {seed}: step {at.step:,} of {at.steps:,}, loss {at.loss:.3f}")

        cutoffs = [m.cutoff for m in self._warehouse.chain(self._manifest)]
        trained = train(
            TrainingInputs(
                self._stored_pairs(),
                self._items,
                self._topics,
                np.array(cutoffs, np.int64),
            ),
            replace(self._config.training, **changes),
            self._config.model,
            seed=seed,
            progress=tell,
        )
        return self.engine(RetrievalModel(trained, self._items, self._topics))

    def engine(self, model: RetrievalModel) -> Engine:
        """A model with the items and users of the study encoded."""
        encodings = encode_users(
            model,
            self._warehouse.read("HISTORY", self._manifest),
            self._warehouse.read("PROFILES", self._manifest),
            self._user_ids,
            self._config.actions,
            self._config.histories,
            cutoff=self._manifest.cutoff,
        )
        return Engine(model.encode_items(self._items), ModelEncoder(model, encodings))

    def _stored_pairs(self) -> StoredPairs:
        """Made once, for all trainings."""
        if self._pairs is None:
            self._note("make the training pairs")
            self._pairs = store_pairs(
                self._warehouse,
                self._manifest,
                self._config,
                self._config.histories,
                self._folder,
                learners=Learners(),
            )
        return self._pairs
