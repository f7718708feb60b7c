"""Bad rows leave with their file, row number and reason; good ones stay."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.importers.files import ReadFile
from profiling.tables import REJECTED

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """A reason to refuse rows.

    Attributes:
        mask: (n,) bool, the rows.
        cure: What the value must be, or what to do; said after the column and its value.
    """

    mask: BoolArray
    cure: str


@dataclass(frozen=True)
class Parsed:
    """A column after parsing: values (null where faulty), and what was wrong with the others."""

    values: pa.Array
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class ColumnFault:
    """A fault with the column it was found in: our name, and the values as the file has them."""

    column: str
    raw: pa.Array
    fault: Fault


def refuse_rows(
    read: ReadFile, faults: Sequence[ColumnFault], user_ids: pa.Array | None
) -> tuple[BoolArray, pa.Table]:
    """(n,) bool of the rows that stay, and REJECTED for the others; the first fault is given.

    Args:
        read: The file.
        faults: In order of precedence.
        user_ids: (n,) int64, null where unreadable; None where the table has no user.
    """
    first = np.full(read.rows.num_rows, len(faults))
    for place, found in reversed(list(enumerate(faults))):
        first[found.fault.mask] = place
    refused = np.flatnonzero(first < len(faults))
    reasons = [_reason(faults[first[row]], int(row)) for row in refused]
    return first == len(faults), rejected_at(read, refused, reasons, user_ids)


def rejected_at(
    read: ReadFile,
    rows: npt.NDArray[np.int64],
    reasons: Sequence[str],
    user_ids: pa.Array | None = None,
) -> pa.Table:
    """REJECTED for some rows of a file, each with its reason."""
    raw = read.rows.take(pa.array(rows)).to_pylist()
    users = pa.nulls(len(rows), pa.int64()) if user_ids is None else user_ids.take(pa.array(rows))
    return REJECTED.build(
        {
            "source": pa.repeat(read.name, len(rows)),
            "row": read.numbers[rows],
            "user_id": users,
            "reason": pa.array(list(reasons), pa.string()),
            "raw": pa.array([raw_json(row) for row in raw], pa.string()),
        }
    )


def malformed_rows(read: ReadFile) -> pa.Table:
    """REJECTED for the CSV lines with another number of cells than the header."""
    places = [place for place, _ in read.malformed]
    reason = f"the line has not the {len(read.names)} cells of the header; quote or complete it"
    return REJECTED.build(
        {
            "source": pa.repeat(read.name, len(places)),
            "row": np.array(places, np.int64),
            "user_id": pa.nulls(len(places), pa.int64()),
            "reason": pa.repeat(reason, len(places)),
            "raw": pa.array([raw_json({"line": text}) for _, text in read.malformed], pa.string()),
        }
    )


def null_faults(values: pa.Array, parsed: Parsed, meaning: str) -> Fault:
    """Nulls that no other fault explains, in a column that must have none."""
    mask = np.asarray(values.is_null().to_numpy(zero_copy_only=False))
    for fault in parsed.faults:
        mask = mask & ~fault.mask
    return Fault(mask, f"every row must have one ({meaning}); fill it in")


def raw_json(row: dict[str, Any]) -> str:
    """A row as JSON that any reader takes: NaN and infinities as text."""
    return json.dumps(_finite(row), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value


def _reason(found: ColumnFault, row: int) -> str:
    value = repr(found.raw[row].as_py())
    value = value if len(value) <= 80 else f"{value[:80]}..."
    return f"{found.column} is {value.replace('None', 'null')}: {found.fault.cure}"
