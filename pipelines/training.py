"""`queryloop train`: a model of everything up to a night, stored where later nights find it.

Pairs are made bucket by bucket and kept beside the training's checkpoint, under a digest of all
that decides the model: a training that broke off goes on from there. The model becomes visible by
one atomic create.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import NightConfig
from pipelines.models import (
    Learners,
    ModelRecord,
    NoModel,
    add_model,
    learners_of,
    model_for,
    models,
)
from pipelines.night import library_versions
from pipelines.pairs import StoredPairs, store_pairs
from pipelines.plan import catalogue_digest, open_items, open_topics
from pipelines.runners.workers import code_version
from pipelines.store.folders import Folder, check_folder, local_cache, open_folder
from pipelines.store.manifests import Manifest
from pipelines.store.storage import is_local, unique_name
from pipelines.store.warehouse import Warehouse
from retrieval.model.trained import TrainedModel

if TYPE_CHECKING:
    from retrieval.training.train import Progress

EXTRA = ("jax", "jaxlib", "optax")


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained, beyond the configuration.

    Attributes:
        seed: Of initial weights, order and negatives.
        fresh: Whether it begins anew instead of with the newest model before.
    """

    seed: int = 0
    fresh: bool = False


Report = Callable[["Progress"], None]


def train_models(
    warehouse: Warehouse,
    date: dt.date,
    config: NightConfig,
    options: TrainOptions,
    report: Report = lambda progress: None,
) -> list[ModelRecord]:
    """Train on everything up to the night of `date`: one model, or one an arm that learns alone.

    Args:
        warehouse: Where the night was run, and where the models go.
        date: The night.
        config: Experiment, actions, and the options of histories, model and training.
        options: The rest.
        report: Told how training goes.

    Raises:
        ValueError: The night was not run, there is nothing to learn from, the model to begin with
            does not fit, or the extra `retrieval` is not installed.
    """
    check_extra()
    manifest = warehouse.night(date)
    wanted = {
        learners_of(config.experiment, name): None
        for name, how in config.retrievals.items()
        if how.arm != "index"
    }
    if not wanted:
        raise ValueError("every arm asks the arm index, which needs no model; see retrieval.arm")
    return [train_model(warehouse, manifest, config, options, who, report) for who in wanted]


def train_model(
    warehouse: Warehouse,
    manifest: Manifest,
    config: NightConfig,
    options: TrainOptions,
    learners: Learners,
    report: Report = lambda progress: None,
) -> ModelRecord:
    """Train one model on the nights up to `manifest` and make it visible."""
    root = warehouse.root
    parent = None if options.fresh else _parent(root, manifest.cutoff, learners)
    work = _work_folder(warehouse, manifest, config, options, learners, parent)
    pairs = store_pairs(warehouse, manifest, config, config.histories, work, learners=learners)
    if not pairs.rows:
        raise ValueError(
            f"{root} has no positive engagement of {learners} up to {manifest.date} to learn from; "
            "import some, or see `actions`: one must be positive with a value above 0"
        )
    trained = _train(warehouse, manifest, config, options, parent, pairs, report)
    place = work / unique_name("model")
    trained.save(place)
    measured = trained.record | {"pairs": pairs.rows}
    draft = _draft(root, manifest, config, options, learners, parent, measured)
    made = add_model(root, place, draft)
    shutil.rmtree(work, ignore_errors=True)
    return made


def _train(
    warehouse: Warehouse,
    manifest: Manifest,
    config: NightConfig,
    options: TrainOptions,
    parent: ModelRecord | None,
    pairs: StoredPairs,
    report: Report,
) -> TrainedModel:
    """The model of these pairs, its checkpoint beside them."""
    from retrieval.training.train import TrainingInputs, train

    root, files = warehouse.root, manifest.catalogue
    inputs = TrainingInputs(
        pairs,
        open_items(root, files["ITEMS"]),
        open_topics(root, files["TOPICS"], files["ITEMS"]),
        np.array([m.cutoff for m in warehouse.chain(manifest)], np.int64),
        None if parent is None else _trained(root, parent),
    )
    try:
        return train(
            inputs,
            config.training,
            config.model,
            seed=options.seed,
            checkpoint=pairs.folder / "checkpoint.npz",
            progress=report,
        )
    except FloatingPointError as error:  # of a loss that is no number: an option to be mended
        raise ValueError(str(error)) from error


def _draft(
    root: str,
    manifest: Manifest,
    config: NightConfig,
    options: TrainOptions,
    learners: Learners,
    parent: ModelRecord | None,
    measured: Mapping[str, float | int | str],
) -> ModelRecord:
    """The record of a model that is not stored yet."""
    options_used = {"model": asdict(config.model), "training": asdict(config.training)}
    items = open_items(root, manifest.catalogue["ITEMS"])
    return ModelRecord(
        number=0,
        folder=Folder("", ()),
        date=manifest.date,
        cutoff=manifest.cutoff,
        learners=learners,
        manifest=manifest.number,
        parent=None if parent is None else parent.number,
        seed=options.seed,
        embedding_version=items.version,
        embedding_width=items.width,
        catalogue=catalogue_digest(manifest.catalogue),
        histories=config.histories,
        config=json.loads(json.dumps(options_used)),  # as it is read back
        code=code_version(),
        report=_report(measured),
        versions=library_versions(EXTRA),
    )


def check_extra() -> None:
    """Raise ValueError where the libraries that train are not installed."""
    try:
        import jax  # noqa: F401
        import optax  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"training needs {error.name}; pip install 'queryloop[retrieval]'"
        ) from error


def _report(measured: Mapping[str, float | int | str]) -> dict[str, float | int | str | None]:
    """As JSON has it: null where there was nothing to measure."""
    return {name: None if value != value else value for name, value in measured.items()}


def _parent(root: str, cutoff: int, learners: Learners) -> ModelRecord | None:
    try:
        return model_for(models(root), cutoff, learners)
    except NoModel:
        return None


def _trained(root: str, record: ModelRecord) -> TrainedModel:
    """The model to begin with, its files compared with its record."""
    try:
        check_folder(root, record.folder)
        return TrainedModel.load(open_folder(root, record.folder))
    except ValueError as error:
        raise ValueError(f"{error}; --fresh begins without it") from error


def _work_folder(
    warehouse: Warehouse,
    manifest: Manifest,
    config: NightConfig,
    options: TrainOptions,
    learners: Learners,
    parent: ModelRecord | None,
) -> Path:
    """On this machine, named by all that decides the model."""
    parts = [
        (warehouse.root, manifest.number, manifest.cutoff, options.seed, code_version()),
        warehouse.buckets,  # chunks of pairs and their order
        [asdict(part) for part in (learners, config.histories, config.model, config.training)],
        [asdict(action) for action in config.actions],
        None if parent is None else parent.folder.digest,
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    base = Path(warehouse.root, "staged") if is_local(warehouse.root) else local_cache()
    return base / f"train-{digest}"
