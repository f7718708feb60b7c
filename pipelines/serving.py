"""What step 5 asks tonight, decided before the night begins: arm by arm, which model and index.

The driver checks the model, encodes the catalogue once, and stores what the workers open
memory-mapped: only paths travel. What it made is kept under a digest of all that decides it, so
that the next night over the same catalogue finds it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from pipelines.models import ModelRecord, NoModel, learners_of, model_for, models
from pipelines.plan import NightPlan, catalogue_digest, open_items, open_topics
from pipelines.runners.workers import code_version
from pipelines.store.folders import Folder, check_folder, made_once, open_folder
from pipelines.store.manifests import StoredFile
from profiling.items import Items
from retrieval.candidates import RetrievalConfig
from retrieval.index import files as index_files
from retrieval.index.exact import ExactIndex
from retrieval.index.files import save_index
from retrieval.index.planner import build_index
from retrieval.index.searches import ItemIndex, Lists, Vectors
from retrieval.model.serving import RetrievalModel

Files = tuple[StoredFile, ...]


@dataclass(frozen=True)
class ArmServing:
    """How one arm of tonight's users is served.

    Attributes:
        config: Its options, `auto` decided.
        model: What it asks; None for the arm index.
        index: Over the catalogue as this model encodes it; None: made from ITEMS where it is used.
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
    """Of what decides the candidates beyond the plan: '-' and hex, '' where no model does."""
    used = {n: s.model.folder.digest for n, s in serving.items() if s.model is not None}
    return "-" + hashlib.sha256(json.dumps(used).encode()).hexdigest()[:8] if used else ""


def _serve_arm(plan: NightPlan, name: str, config: RetrievalConfig) -> ArmServing:
    if config.arm == "index":
        return _without_model(plan, config)
    try:
        learners = learners_of(plan.config.experiment, name)
        found = model_for(models(plan.root), plan.cutoff, learners, config.model)
        index = prepare_index(plan, found)
        return ArmServing(config.settled(learned=True), found, index)
    except NoModel as error:
        if config.arm == "auto":
            return _without_model(plan, config.settled(learned=False))
        problem: Exception = error
    except (ValueError, OSError) as error:
        problem = error
    if config.fall_back:
        return _without_model(plan, replace(config, arm="index"), str(problem))
    raise ValueError(
        f"retrieval by a model{f' for arm {name!r}' if name else ''}: {problem}; or set "
        "retrieval.fall_back to go on with the arm index"
    ) from problem


def _without_model(plan: NightPlan, config: RetrievalConfig, why: str = "") -> ArmServing:
    """The arm index; an exact one is made by the workers, from ITEMS, as fast as it is opened."""
    index = None if plan.config.index.kind == "exact" else prepare_index(plan, None)
    return ArmServing(config, index=index, fell_back=why)


def prepare_index(plan: NightPlan, model: ModelRecord | None) -> Folder:
    """The index over tonight's catalogue, as `model` encodes it or by its own vectors, made once.

    Raises:
        ValueError: The model is damaged, or of another embedding or catalogue; or the kind of index
            needs the extra `retrieval`, which is not installed.
    """
    root, config = plan.root, plan.config.index
    if model is not None:
        check_folder(root, model.folder)
    parts = [_source(plan, model), catalogue_digest(plan.catalogue), asdict(config), code_version()]

    def fill(place: Path) -> None:
        items = open_items(root, plan.catalogue["ITEMS"])
        exact = ExactIndex.over(items, None if model is None else _item_rows(plan, model, items))
        index = index_over(exact, plan, _sample_queries(plan, model))
        save_index(place, index, _source(plan, model))

    return made_once(root, "indexes", parts, "index", fill)


def index_over(exact: ExactIndex, plan: NightPlan, sample: Vectors | None = None) -> ItemIndex:
    """The configured kind of index over the items of `exact`.

    Raises:
        ValueError: It needs the extra `retrieval`, which is not installed.
    """
    config = plan.config.index
    try:
        return build_index(exact, config, sample, seed=plan.config.seed)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"index.kind {config.kind} needs {error.name}; pip install 'queryloop[retrieval]' "
            "where the night is started, or set it to exact"
        ) from error


def _source(plan: NightPlan, model: ModelRecord | None) -> str:
    """What made the vectors of an index."""
    if model is not None:
        return f"model {model.folder.digest}"
    return f"embedding {open_items(plan.root, plan.catalogue['ITEMS']).version}"


def _sample_queries(plan: NightPlan, record: ModelRecord | None) -> Vectors | None:
    """What an approximate index is calibrated by: how users ask the model.

    The arm index asks with items, and so does who knows no better: an older model.
    """
    return None if record is None else open_model(plan, record).trained.sample_queries


def _item_rows(plan: NightPlan, record: ModelRecord, items: Items) -> Vectors:
    model = open_model(plan, record)
    if not (items.rows_of(model.item_ids) >= 0).any():
        raise ValueError(
            f"{record} knows none of the {len(items.ids):,} items: it is of another catalogue; "
            "train one on this warehouse with `queryloop train`"
        )
    return model.encode_items(items)


def open_model(plan: NightPlan, record: ModelRecord) -> RetrievalModel:
    """A model bound to tonight's catalogue, memory-mapped, once a process."""
    catalogue = plan.catalogue
    return _opened_model(plan.root, record.folder, catalogue["ITEMS"], catalogue["TOPICS"])


@lru_cache(maxsize=4)
def _opened_model(root: str, folder: Folder, items: Files, topics: Files) -> RetrievalModel:
    _one_thread()
    bound = open_items(root, items), open_topics(root, topics, items)
    return RetrievalModel.load(open_folder(root, folder), *bound)


def open_index(plan: NightPlan, arm: ArmServing) -> ItemIndex:
    """What an arm searches, once a process: stored and memory-mapped, or made from ITEMS."""
    files = plan.catalogue["ITEMS"]
    encoded = open_items(plan.root, files) if arm.model is None else open_model(plan, arm.model)
    return _opened_index(plan.root, files, arm.index, encoded.width, _source(plan, arm.model))


@lru_cache(maxsize=4)
def _opened_index(
    root: str, files: Files, folder: Folder | None, width: int, source: str
) -> ItemIndex:
    _one_thread()
    items = open_items(root, files)
    if folder is None:
        return ExactIndex.over(items)
    carried = Lists(items.topic_offsets, items.topic_ids)
    place = open_folder(root, folder)
    return index_files.open_index(place, items.ids, carried, width=width, source=source)


def _one_thread() -> None:
    """From now on a matrix product of this process has one thread.

    Buckets run side by side, and threads of OpenBLAS that wait for each other on busy cores took
    four times as long. Numba's products are SciPy's, whose library must be loaded to be limited.
    """
    importlib.import_module("scipy.linalg.cython_blas")
    threadpool_limits(1, user_api="blas")
