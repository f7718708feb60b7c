"""One row per id: an item (or topic) that comes twice in one import."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.importers.digests import row_digests
from pipelines.importers.files import ReadFile
from pipelines.importers.rejects import rejected_at
from profiling.schema import IntArray, ints


@dataclass(frozen=True)
class CataloguePart:
    """Conforming rows of one file, and where they stand in it.

    Attributes:
        read: The file.
        rows: The rows, with their id column.
        places: (n,) int64, their index in `read.rows`.
    """

    read: ReadFile
    rows: pa.Table
    places: IntArray


@dataclass(frozen=True)
class Catalogue:
    """The rows that hold, in the order of their id; REJECTED for the others; exact repeats."""

    rows: pa.Table
    rejected: list[pa.Table]
    duplicates: int


def one_row_per_id(parts: list[CataloguePart], id_column: str) -> Catalogue:
    """Of rows with one id the one with the smallest content digest holds.

    Rows equal to it are duplicates, rows of other content are REJECTED.
    """
    rows = pa.concat_tables([p.rows for p in parts])
    ids, digests = ints(rows, id_column), row_digests([rows[n] for n in rows.column_names])
    file = np.repeat(np.arange(len(parts)), [p.rows.num_rows for p in parts])
    order = np.lexsort((file, digests, ids))
    new_id = np.r_[True, ids[order][1:] != ids[order][:-1]][: len(order)]
    holding = digests[order][np.maximum.accumulate(np.where(new_id, np.arange(len(order)), 0))]
    other = np.zeros(len(order), bool)
    other[order] = digests[order] != holding
    rejected = []
    reason = f"{id_column} comes twice with other content; one content holds, keep one row"
    starts = np.cumsum([0] + [p.rows.num_rows for p in parts])
    for part, start in zip(parts, starts[:-1], strict=True):
        bad = part.places[other[start : start + part.rows.num_rows]]
        rejected.append(rejected_at(part.read, bad, [reason] * len(bad)))
    duplicates = len(order) - int(new_id.sum()) - int(other.sum())
    return Catalogue(rows.take(pa.array(order[new_id])), rejected, duplicates)
