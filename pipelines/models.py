"""Models of a warehouse: what was trained, on what, up to when; and which one a night may use.

    W/models/000001.json    a record; numbered, immutable; names the files and their digests
    W/models/NAME/...       the files of one model

A record is created exclusively, as a night's manifest is: nothing of a training that broke off can
be seen.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.plan import date_of
from pipelines.store.folders import Folder, folder_from, store_folder
from pipelines.store.manifests import FORMAT, check_format, reading, to_json
from pipelines.store.records import next_record, record_paths
from pipelines.store.storage import create_exclusive, join, read_bytes, unique_name
from retrieval.histories import HistoryConfig
from selection.experiments import Experiment


@dataclass(frozen=True)
class Learners:
    """Whose engagements a model learned from: all users, or one arm of an isolated experiment."""

    experiment: str = ""
    arm: str = ""

    def __str__(self) -> str:
        return f"arm {self.arm!r} of experiment {self.experiment!r}" if self.arm else "all users"


def learners_of(experiment: Experiment | None, arm: str) -> Learners:
    """Whose engagements the model of an arm learns from; '' without an experiment."""
    if experiment is None or experiment.learning == "shared":
        return Learners()
    return Learners(experiment.salt or experiment.name, arm)


@dataclass(frozen=True)
class ModelRecord:
    """One trained model; immutable.

    Attributes:
        number: Its place in the warehouse's sequence of models.
        folder: Its files.
        date: The night up to which it learned.
        cutoff: Of that night: exclusive, microseconds. No event from then on was seen.
        learners: Whose engagements.
        manifest: The night's manifest, whose chain was read.
        parent: The model it was warm-started from.
        seed: Of the training.
        embedding_version: Of the items' vectors it was trained on.
        embedding_width: Their width.
        catalogue: Digest of the ITEMS it was trained on.
        histories: How much of a user's past it reads.
        config: The other options it was trained with.
        code: Version and digest of the code that trained it.
        report: What training measured.
    """

    number: int
    folder: Folder
    date: dt.date
    cutoff: int
    learners: Learners
    manifest: int
    parent: int | None
    seed: int
    embedding_version: str
    embedding_width: int
    catalogue: str
    histories: HistoryConfig
    config: Mapping[str, Any]
    code: str
    report: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __str__(self) -> str:
        return f"model {self.number} of {self.date}"


class NoModel(ValueError):
    """There is no model that the night might use; the normal state of the first weeks."""


def models(root: str) -> list[ModelRecord]:
    """Every model of the warehouse, oldest first."""
    return [_read(path) for path in record_paths(root, "models")]


def add_model(root: str, source: Path, draft: ModelRecord) -> ModelRecord:
    """Store the files of local folder `source` and make the model visible: one atomic create.

    Args:
        root: The warehouse.
        source: The model's files.
        draft: Its record; number and folder are given here.
    """
    path = join("models", unique_name(str(draft.date)))
    stored = replace(draft, folder=store_folder(root, path, source))
    while True:
        number, path = next_record(root, "models", record_paths(root, "models"))
        numbered = replace(stored, number=number)
        if create_exclusive(path, to_json(numbered)):
            return numbered


def model_for(
    records: Sequence[ModelRecord], cutoff: int, learners: Learners, number: int = 0
) -> ModelRecord:
    """The model that a night uses.

    Args:
        records: All of the warehouse, oldest first.
        cutoff: The night's, microseconds.
        learners: Whose engagements it must have learned from.
        number: The one that the configuration names; 0: the newest that has seen nothing of what
            happened from `cutoff` on.

    Raises:
        NoModel: None is named, and there is none that the night might use.
        ValueError: The one named does not exist, learned from other users, or was trained past the
            cut-off.
    """
    if not number:
        fit = [r for r in records if r.learners == learners and r.cutoff <= cutoff]
        if not fit:
            raise NoModel(
                f"no model has learned from {learners} up to {date_of(cutoff - 1)} or before; "
                f"run `queryloop train --date {date_of(cutoff - 1)}`"
            )
        return max(fit, key=lambda r: (r.cutoff, r.number))
    named = next((r for r in records if r.number == number), None)
    if named is None:
        known = ", ".join(str(r.number) for r in records) or "none"
        raise ValueError(f"there is no model {number}, only: {known}; correct retrieval.model")
    if named.learners != learners:
        raise ValueError(
            f"{named} learned from {named.learners}, this night needs one of {learners}: nothing "
            "may leak between isolated arms; train one for them, or set learning to shared"
        )
    if named.cutoff > cutoff:
        raise ValueError(
            f"{named} was trained past the cut-off of the night of {date_of(cutoff - 1)}: it has "
            "seen what this night must not know; name an earlier one in retrieval.model, or 0"
        )
    return named


def _read(path: str) -> ModelRecord:
    with reading(path):
        raw = dict(json.loads(read_bytes(path)))
        check_format(raw["format"], path)
        raw["folder"] = folder_from(raw["folder"])
        raw["date"] = dt.date.fromisoformat(raw["date"])
        raw["learners"] = Learners(**raw["learners"])
        raw["histories"] = HistoryConfig(**raw["histories"])
        return ModelRecord(**raw)
