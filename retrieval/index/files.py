"""Indexes as folders of .npy files and one index.json, opened memory-mapped. No pickle.

`index.json` is written last; it names the catalogue and the vectors that the index was made for,
and the size and BLAKE2b digest of every array. Opening maps the arrays copy-on-write: the processes
of a machine share one copy, and a page is read when a search needs it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from profiling.schema import IntArray
from retrieval.index.exact import ExactIndex
from retrieval.index.ivf import Cells, IvfIndex
from retrieval.index.planner import PlannedIndex, StreamCosts
from retrieval.index.scan import Slices
from retrieval.index.searches import ItemIndex, Lists

_FORMAT = "queryloop.index/1"
_CURE = "build it again from the catalogue and the model"
Arrays = dict[str, npt.NDArray[Any]]


def save_index(folder: Path, index: ItemIndex, source: str) -> None:
    """Write an index to a folder that is not there yet.

    Args:
        folder: Made here.
        index: Exact, IVF or planned.
        source: What made the vectors: a model's name, or an embedding version.

    Raises:
        FileExistsError: The folder is there.
        TypeError: An index of another kind.
    """
    exact, arrays, about = _parts(index)
    folder.mkdir(parents=True)
    about |= {
        "format": _FORMAT,
        "source": source,
        "width": int(exact.vectors.shape[1]),
        "items": len(exact.ids),
        "catalogue": catalogue_digest(exact.ids, exact.carried),
        "files": {name: _write(folder / f"{name}.npy", array) for name, array in arrays.items()},
    }
    (folder / "index.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def open_index(
    folder: Path, ids: IntArray, carried: Lists, *, width: int, source: str
) -> ItemIndex:
    """Open an index, memory-mapped, if it is for this catalogue and these vectors.

    Args:
        folder: What `save_index` wrote.
        ids: (n,) int64, the catalogue's item ids.
        carried: Lists, the topic ids of every item.
        width: Of the queries that will come.
        source: What made them, as given to `save_index`.

    Raises:
        ValueError: The folder holds no index, a damaged one, or one for something else.
    """
    about = _about(folder)
    for what, found, wanted in (
        ("format", about.get("format"), _FORMAT),
        ("vectors", about.get("source"), source),
        ("width", about.get("width"), width),
        ("catalogue", about.get("catalogue"), catalogue_digest(ids, carried)),
    ):
        if found != wanted:
            raise ValueError(f"{folder}: index of {what} {found!r}, wanted {wanted!r}: {_CURE}")
    arrays = {name: _read(folder / f"{name}.npy", note) for name, note in about["files"].items()}
    exact = ExactIndex(ids, arrays["vectors"], carried)
    if about["kind"] == "exact":
        return exact
    slices = Slices(arrays["cell_offsets"], arrays["cell_rows"], arrays["cell_vectors"])
    cells = Cells(slices, arrays["centres"], arrays["radii"])
    ivf = IvfIndex(exact, cells, about["z"], about["budget"])
    if about["kind"] == "ivf":
        return ivf
    return PlannedIndex(exact, ivf, StreamCosts(arrays["depths"], arrays["scored"]))


def catalogue_digest(ids: IntArray, carried: Lists) -> str:
    """A digest of item ids and their topics."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (ids, carried.offsets, carried.values):
        digest.update(np.ascontiguousarray(array, np.int64).data)
    return digest.hexdigest()


def _parts(index: ItemIndex) -> tuple[ExactIndex, Arrays, dict[str, Any]]:
    """The exact index within, arrays by name, and what else describes it."""
    if isinstance(index, ExactIndex):
        return index, {"vectors": index.vectors}, {"kind": "exact"}
    if isinstance(index, PlannedIndex):
        exact, arrays, about = _parts(index.ivf)
        costs = {"depths": index.costs.depths, "scored": index.costs.scored}
        return exact, arrays | costs, about | {"kind": "planned"}
    if isinstance(index, IvfIndex):
        slices, cells = index.cells.slices, index.cells
        arrays = {
            "vectors": index.exact.vectors,
            "cell_offsets": slices.offsets,
            "cell_rows": slices.rows,
            "cell_vectors": slices.vectors,
            "centres": cells.centres,
            "radii": cells.radii,
        }
        return index.exact, arrays, {"kind": "ivf", "z": index.z, "budget": index.budget}
    raise TypeError(f"{type(index).__name__} has no file format: save an exact, IVF or planned one")


def _write(path: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    np.save(path, array, allow_pickle=False)
    return {"bytes": path.stat().st_size, "blake2b": _digest(path)}


def _read(path: Path, note: dict[str, Any]) -> npt.NDArray[Any]:
    """Map an array whose file is as it was written; copy-on-write, since kernels want it so."""
    size = path.stat().st_size if path.exists() else 0
    if size != note["bytes"]:
        raise ValueError(f"{path} has {size} bytes, {note['bytes']} were written: {_CURE}")
    if _digest(path) != note["blake2b"]:
        raise ValueError(f"{path} has other content than was written: {_CURE}")
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no index.json: no finished index; {_CURE}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): {_CURE}") from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f"{path} is no index of format {_FORMAT!r}: {_CURE}")
    return about
