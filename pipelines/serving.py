"""What step 5 asks tonight, decided before the night begins: arm by arm, which model and index.

The driver checks the model, encodes the catalogue once, and stores what the workers open
memory-mapped: only paths travel. What it made is kept under a digest of all that decides it, so
that the next night over the same catalogue finds it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipelines.folders import Folder, check_folder, folder_from, open_folder, store_folder
from pipelines.manifests import StoredFile, reading, to_json
from pipelines.models import ModelRecord, NoModel, learners_of, model_for, models
from pipelines.plan import NightPlan, catalogue_digest, open_items, open_topics
from pipelines.storage import create_exclusive, exists, join, read_bytes, unique_name
from pipelines.workers import code_version
from profiling.items import Items
from retrieval.candidates import RetrievalConfig
from retrieval.index import ExactIndex
from retrieval.model import RetrievalModel

ITEM_ROWS = "item_rows.npy"


@dataclass(frozen=True)
class ArmServing:
    """How one arm of tonight's users is served.

    Attributes:
        config: Its options, `auto` decided.
        model: What it asks; None for the arm index.
        index: The catalogue as this model encodes it.
        fell_back: Why the arm index serves although a model was to; '' where none was.
    """

    config: RetrievalConfig
    model: ModelRecord | None = None
    index: Folder | None = None
    fell_back: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        number = None if self.model is None else self.model.number
        return {"arm": self.config.arm, "model": number, "fell_back": self.fell_back}


Serving = Mapping[str, ArmServing]  # by arm of the experiment; '' without one


def plan_serving(plan: NightPlan) -> Serving:
    """Decide, and prepare what the workers open.

    Raises:
        ValueError: A model cannot be used, or an arm asks for one that is not there, and its
            options do not say that the night may go on without.
    """
    return {name: _serve_arm(plan, name, c) for name, c in plan.config.retrievals.items()}


def serving_digest(serving: Serving) -> str:
    """Of what decides the candidates beyond the plan: hex, '' where no model does."""
    used = {n: s.model.folder.digest for n, s in serving.items() if s.model is not None}
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()[:8] if used else ""


def _serve_arm(plan: NightPlan, name: str, config: RetrievalConfig) -> ArmServing:
    if config.arm == "index":
        return ArmServing(config)
    try:
        learners = learners_of(plan.config.experiment, name)
        found = model_for(models(plan.root), plan.cutoff, learners, config.model)
        index = prepare_index(plan.root, found, plan.catalogue["ITEMS"], plan.catalogue["TOPICS"])
        return ArmServing(config.settled(learned=True), found, index)
    except NoModel as error:
        if config.arm == "auto":
            return ArmServing(config.settled(learned=False))
        problem: Exception = error
    except (ValueError, OSError) as error:
        problem = error
    if config.fall_back:
        return ArmServing(replace(config, arm="index"), fell_back=str(problem))
    raise ValueError(
        f"retrieval by a model{f' for arm {name!r}' if name else ''}: {problem}; or set "
        "retrieval.fall_back to go on with the arm index"
    ) from problem


def prepare_index(
    root: str,
    model: ModelRecord,
    items_files: tuple[StoredFile, ...],
    topics_files: tuple[StoredFile, ...],
) -> Folder:
    """The catalogue as `model` encodes it, made once.

    Raises:
        ValueError: The model is damaged, or of another embedding or catalogue.
    """
    check_folder(root, model.folder)
    files = {"ITEMS": items_files, "TOPICS": topics_files}
    text = f"{model.folder.digest} {catalogue_digest(files)} {code_version()}"
    record = join(root, "indexes", hashlib.sha256(text.encode()).hexdigest()[:16] + ".json")
    if not exists(record):
        opened = open_model(root, model.folder, items_files, topics_files)
        items = open_items(root, items_files)
        _check_known(model, opened, items)
        with tempfile.TemporaryDirectory() as place:
            np.save(Path(place, ITEM_ROWS), opened.encode_items(items))
            folder = store_folder(root, join("indexes", unique_name("index")), Path(place))
        create_exclusive(record, to_json(folder))  # whoever was first made the same
    with reading(record):
        return folder_from(json.loads(read_bytes(record)))


def _check_known(record: ModelRecord, model: RetrievalModel, items: Items) -> None:
    if not (items.rows_of(model.item_ids) >= 0).any():
        raise ValueError(
            f"{record} knows none of the {len(items.ids):,} items: it is of another catalogue; "
            "train one on this warehouse with `queryloop train`"
        )


@lru_cache(maxsize=4)
def open_model(
    root: str,
    folder: Folder,
    items_files: tuple[StoredFile, ...],
    topics_files: tuple[StoredFile, ...],
) -> RetrievalModel:
    """A model bound to the catalogue, memory-mapped, once a process.

    From then on a matrix product has one thread, as in `open_index`.
    """
    threadpool_limits(1, user_api="blas")
    items, topics = open_items(root, items_files), open_topics(root, topics_files, items_files)
    return RetrievalModel.load(open_folder(root, folder), items, topics)


@lru_cache(maxsize=4)
def open_index(root: str, files: tuple[StoredFile, ...], folder: Folder | None) -> ExactIndex:
    """The index over the catalogue, once a process: the items' own vectors, or a model's.

    From then on a matrix product has one thread: buckets run side by side, and threads of OpenBLAS
    that wait for each other on busy cores took four times as long.
    """
    threadpool_limits(1, user_api="blas")
    items = open_items(root, files)
    if folder is None:
        return ExactIndex.over(items)
    rows = np.load(open_folder(root, folder) / ITEM_ROWS, mmap_mode="r")
    return ExactIndex.over(items, rows)
