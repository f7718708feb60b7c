"""The three files of a replay: items with embeddings, outcomes, and what was shown at first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.importers.files import ReadFile, find_files, read_file, require_columns
from pipelines.importers.lists import as_vectors, common_width, parse_embeddings
from pipelines.importers.rejects import Parsed
from pipelines.importers.scalars import parse_integers, parse_numbers
from pipelines.lab.universe import Universe
from profiling.items import Items, unit_rows
from profiling.schema import IntArray

_IDS = ("user_id", "item_id")


def read_universe(items: str, outcomes: str, start: str) -> Universe:
    """A universe from files, folders or globs of Parquet or CSV.

    Args:
        items: item_id and embedding (a list, or text such as `[0.1 0.2]`).
        outcomes: user_id, item_id and value.
        start: user_id and item_id.

    Raises:
        ValueError: A file cannot be read, or a row of it cannot be used; names file, row and cure.
    """
    return Universe.of(
        read_items(items),
        read_rows(outcomes, (*_IDS, "value"), "what each user would do, from 0 to 1"),
        read_rows(start, _IDS, "what each user was shown at the beginning"),
    )


def read_items(path: str) -> Items:
    """The catalogue, topics and all else left out: a replay holds no query to a condition."""
    read = [_read(file, ("item_id", "embedding"), "the catalogue") for file, _ in find_files(path)]
    width = common_width([as_vectors(r.array("embedding"), f"{path}: embedding") for r in read])
    ids, vectors = [], []
    for file in read:
        where = f"{file.source.path}: embedding"
        vectors.append(_good(parse_embeddings(file.array("embedding"), width, where), where))
        ids.append(_good(*_column(file, "item_id")))
    flat = np.concatenate([v.flatten().to_numpy(zero_copy_only=False) for v in vectors])
    item_ids = np.concatenate([np.asarray(i, np.int64) for i in ids])
    return items_of(item_ids, flat.reshape(len(item_ids), -1), path)


def read_rows(path: str, columns: tuple[str, ...], meaning: str) -> pa.Table:
    """Rows of ids and values; a row that cannot be read is an error, not left out."""
    parts = []
    for file, _ in find_files(path):
        read = _read(file, columns, meaning)
        parts.append(pa.table({name: _good(*_column(read, name)) for name in columns}))
    return pa.concat_tables(parts)


def _read(path: Path, columns: tuple[str, ...], meaning: str) -> ReadFile:
    read = read_file(path, columns)
    require_columns(read, columns, f"It is to hold {meaning}; rename the column, or add it.")
    if read.malformed:
        place, text = read.malformed[0]
        raise ValueError(
            f"{path}, row {place}: {text!r} has another number of cells than the header; mend it"
        )
    return read


def _column(read: ReadFile, name: str) -> tuple[Parsed, str]:
    where = f"{read.source.path}: {name}"
    if name == "value":
        return parse_numbers(read.array(name), where), where
    cure = "a replay's ids are integers; number yours, alike in all its files"
    return parse_integers(read.array(name), where, cure=cure), where


def _good(parsed: Parsed, where: str) -> pa.Array:
    """The values; the first that cannot be read is an error."""
    for fault in parsed.faults:
        if fault.mask.any():
            row = int(np.flatnonzero(fault.mask)[0]) + 1
            raise ValueError(f"{where}, row {row}: {fault.cure}")
    if parsed.values.null_count:
        row = int(np.flatnonzero(parsed.values.is_null().to_numpy(zero_copy_only=False))[0]) + 1
        raise ValueError(f"{where}, row {row}: there is no value; fill it or leave the row out")
    return parsed.values


def items_of(item_ids: IntArray, vectors: npt.NDArray[np.float32], source: str) -> Items:
    """A catalogue of vectors alone.

    Raises:
        ValueError: An item comes twice.
    """
    order = np.argsort(item_ids, kind="stable")
    again = np.flatnonzero(np.diff(item_ids[order]) == 0)
    if len(again):
        raise ValueError(f"{source}: item {item_ids[order][again[0]]} comes twice; keep one row")
    n = len(item_ids)
    return Items(
        ids=item_ids[order].astype(np.int64),
        vectors=unit_rows(vectors[order].astype(np.float32)),
        version=source,
        topic_offsets=np.zeros(n + 1, np.int64),
        topic_ids=np.zeros(0, np.int64),
        topic_confidences=np.zeros(0, np.float32),
        created_at=np.full(n, np.iinfo(np.int64).min),
    )
