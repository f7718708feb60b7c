"""A trained model as it is stored: a folder of `model.json` and one `.npy` an array, never pickle.

Workers map the arrays into memory. `model.json` comes last: without it a folder is no model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from profiling.schema import IntArray
from retrieval.model.checkpoint import SCHEMA, checked_head
from retrieval.model.towers import Floats, ModelConfig, Params, shapes

_FORMAT = "queryloop retrieval model"
_OWN_ARRAYS = ("item_ids", "topic_ids", "topic_content", "prior", "prior_unknown")
_SAMPLE = "sample_queries"  # older models have none
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TrainedModel:
    """What training leaves; complete without the items and topics it was trained on.

    Attributes:
        config: The shape.
        params: Arrays by name, float32.
        item_ids: (n,) int64 ascending, with an id embedding each.
        topic_ids: (t,) int64 ascending.
        topic_content: (t, c) float32, the vectors that topics had at training.
        prior: (n, P) float32 popularity of each item as of `cutoff`, standardised.
        prior_unknown: (P,) float32, of an item without record.
        embedding_version: Of the items' vectors.
        cutoff: Nothing from this time on was learned from, microseconds.
        record: What else is worth knowing: seed, steps, losses.
        sample_queries: (s, d) float32 as users ask without a condition; None: not known.
    """

    config: ModelConfig
    params: Params
    item_ids: IntArray
    topic_ids: IntArray
    topic_content: Floats
    prior: Floats
    prior_unknown: Floats
    embedding_version: str
    cutoff: int
    record: dict[str, float | int | str]
    sample_queries: Floats | None = None

    def save(self, folder: Path | str) -> None:
        """Write one array a file and `model.json`, which comes last.

        Raises:
            OSError: Naming the file; without its `model.json` the folder is no model.
        """
        _write_folder(Path(folder), self)

    @classmethod
    def load(cls, folder: Path | str) -> TrainedModel:
        """Open a folder that `save` wrote; arrays are memory-mapped.

        Raises:
            ValueError: No model, of another schema, truncated, or arrays that do not fit.
        """
        return _read_folder(Path(folder))

    @property
    def content_width(self) -> int:
        """c, the width of the vectors of items and topics."""
        return int(self.params["item_content"].shape[0])


def _write_folder(folder: Path, model: TrainedModel) -> None:
    """Write a model's arrays, then `model.json`: without it the folder is none."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(model, name) for name in _OWN_ARRAYS}
    arrays |= {f"param.{name}": np.asarray(a) for name, a in model.params.items()}
    if model.sample_queries is not None:
        arrays[_SAMPLE] = model.sample_queries
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    head = {
        "format": _FORMAT,
        "schema": SCHEMA,
        "config": asdict(model.config),
        "embedding_version": model.embedding_version,
        "cutoff": model.cutoff,
        "record": model.record,
        "arrays": {n: [str(a.dtype), list(a.shape)] for n, a in sorted(arrays.items())},
    }
    partial = folder / "model.json.partial"
    partial.write_text(json.dumps(head, indent=1, sort_keys=True))
    os.replace(partial, folder / "model.json")


def _read_folder(folder: Path) -> TrainedModel:
    """Read back what `write_folder` wrote, arrays memory-mapped and checked against the head."""
    try:
        head = json.loads((folder / "model.json").read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no model.json: it is no model, or not wholly written"
        ) from None
    except ValueError as error:
        raise ValueError(f"{folder}/model.json cannot be read ({error}): train again") from error
    config = checked_head(head, _FORMAT, f"{folder}/model.json")
    arrays = {name: _mapped(folder, name, *kind) for name, kind in head["arrays"].items()}
    params = {n.removeprefix("param."): a for n, a in arrays.items() if n.startswith("param.")}
    own = {name: arrays[name] for name in (*_OWN_ARRAYS, _SAMPLE) if name in arrays}
    _check_shapes(config, params, own, str(folder))
    return TrainedModel(
        config=config,
        params=params,
        embedding_version=head["embedding_version"],
        cutoff=head["cutoff"],
        record=head["record"],
        **own,
    )


def _mapped(folder: Path, name: str, dtype: str, shape: list[int]) -> npt.NDArray[Any]:
    path = folder / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r" if np.prod(shape) else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing, truncated or foreign ({error}): train again"
        ) from None
    if [str(array.dtype), list(array.shape)] != [dtype, shape]:
        raise ValueError(
            f"{path} holds {array.dtype} {list(array.shape)}, model.json says {dtype} {shape}: "
            "files of two models? Train again"
        )
    return array


def _check_shapes(config: ModelConfig, params: Arrays, own: Arrays, where: str) -> None:
    """Every array is there and has the shape that the config asks for."""
    absent = [name for name in _OWN_ARRAYS if name not in own]
    if absent or "item_content" not in params:
        raise ValueError(f"{where} lacks {', '.join(absent) or 'item_content'}: train again")
    n, t, c = len(own["item_ids"]), len(own["topic_ids"]), params["item_content"].shape[0]
    wanted = shapes(config, n, t, c)
    wanted_own = {"topic_content": (t, c), "prior": (n, len(config.prior_days) + 1)}
    if _SAMPLE in own:
        wanted_own[_SAMPLE] = (len(own[_SAMPLE]), config.width + 1)
    found = {name: a.shape for name, a in params.items()}
    found_own = {name: own[name].shape for name in wanted_own}
    for name, shape in (wanted | wanted_own).items():
        if (found | found_own).get(name) != shape:
            raise ValueError(
                f"{where}: {name} has shape {(found | found_own).get(name)}, the config asks for "
                f"{shape}: a model of other options? Train again"
            )
