"""A row of the world counts once: duplicates are dropped, contradictions and late rows refused."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.schema import IntArray, group_offsets, ints
from profiling.tables import REJECTED


@dataclass(frozen=True)
class Admitted:
    """What became of the new rows.

    Attributes:
        rows: Those that count, in the order of their id.
        duplicates: How many repeated a row, id and content.
        rejected: REJECTED rows.
    """

    rows: pa.Table
    duplicates: int
    rejected: pa.Table


@dataclass(frozen=True)
class Refusal:
    """A reason to refuse rows: `mask` (n,) bool over the new rows."""

    mask: npt.NDArray[np.bool_]
    reason: str


def admit_rows(
    new: pa.Table,
    known: pa.Table,
    refusals: list[Refusal],
    *,
    source: str,
    id_column: str,
) -> Admitted:
    """Let every id in once (design, section 3, Time).

    A row whose id and `content_digest` are known, or come twice, is a duplicate. Where one id has
    several contents, the known one holds, among new ones the smallest digest; the others are
    refused. Duplicates of a refused row are refused with it.

    Args:
        new: Rows with `id_column`, `user_id` and `content_digest`.
        known: Rows already held, with `id_column` and `content_digest`.
        refusals: Further reasons, the first that holds is given.
        source: The table's name, for REJECTED.
        id_column: The column that must be unique.
    """
    order = np.lexsort((ints(new, "content_digest"), ints(new, id_column)))
    new = new.take(pa.array(order))
    ids, digests = ints(new, id_column), ints(new, "content_digest")
    reasons = np.full(len(ids), "", object)
    other = digests != _holding_digests(ids, digests, known, id_column)
    reasons[other] = f"{id_column} came with other content before; one content holds"
    for refusal in reversed(refusals):
        reasons[refusal.mask[order]] = refusal.reason
    refused = reasons != ""
    seen = np.isin(ids, ints(known, id_column)) if known.num_rows else np.zeros(len(ids), bool)
    again = np.zeros(len(ids), bool)
    again[1:] = (ids[1:] == ids[:-1]) & (digests[1:] == digests[:-1])
    duplicate = (seen | again) & ~refused
    return Admitted(
        rows=new.filter(pa.array(~refused & ~duplicate)),
        duplicates=int(duplicate.sum()),
        rejected=rejected_rows(new, refused, reasons, source=source, id_column=id_column),
    )


def _holding_digests(ids: IntArray, digests: IntArray, known: pa.Table, id_column: str) -> IntArray:
    """For every new row, sorted by (id, digest), the content that its id stands for."""
    bounds = group_offsets(ids)
    holding = np.repeat(digests[bounds[:-1]], np.diff(bounds))
    if known.num_rows and len(ids):
        order = np.argsort(ints(known, id_column), kind="stable")
        known_ids = ints(known, id_column)[order]
        places = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
        held = known_ids[places] == ids
        holding[held] = ints(known, "content_digest")[order][places[held]]
    return holding


def rejected_rows(
    rows: pa.Table,
    mask: npt.NDArray[np.bool_],
    reasons: npt.NDArray[np.object_],
    *,
    source: str,
    id_column: str,
) -> pa.Table:
    """REJECTED rows for those of `rows` where `mask`; `reasons` (n,) str is read there only."""
    refused = rows.filter(pa.array(mask))
    return REJECTED.build(
        {
            "source": pa.array([source] * refused.num_rows, pa.string()),
            "row": ints(refused, id_column),
            "user_id": ints(refused, "user_id"),
            "reason": pa.array(reasons[mask].tolist(), pa.string()),
            "raw": pa.array(
                [json.dumps(row, default=str) for row in refused.to_pylist()], pa.string()
            ),
        }
    )
