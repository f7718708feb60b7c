"""What an importer returns: the rows of a foreign log in our tables, not yet landed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from profiling.schema import sort_rows
from profiling.tables import REJECTED


class SourceFile(NamedTuple):
    """A file that was read: its path as given, size, SHA-256 and rows."""

    path: str
    bytes: int
    digest: str
    rows: int


@dataclass(frozen=True)
class ForeignLog:
    """A foreign log in our tables.

    Attributes:
        tables: Table name to rows that conform to its schema, sorted by key. Rows that come twice
            are all there: the night counts duplicates and refuses contradictions.
        rejected: REJECTED; `row` counts the rows of data in the file, the first is 1.
        keys: KEYS of the text ids that were hashed.
        sources: The files that were read.
        starts_at: First moment of the impressions, int microseconds, None without impressions.
        notes: Lines for people: what was assumed and how vectors were made.
    """

    tables: dict[str, pa.Table]
    rejected: pa.Table
    keys: pa.Table
    sources: list[SourceFile]
    starts_at: int | None
    notes: list[str]


def all_rejected(parts: Sequence[pa.Table]) -> pa.Table:
    """REJECTED rows of all files, in key order."""
    return sort_rows(pa.concat_tables([REJECTED.empty(), *parts]), REJECTED.key)
