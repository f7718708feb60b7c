"""What all steps' transforms share: read a bucket's table, add a step's results and counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.progress import step_done
from pipelines.runners.buckets import Bucket
from pipelines.store.tables import SCHEMAS


@dataclass
class StepResult:
    """What a step makes of a bucket; the bucket that came in stays as it is, as Beam asks.

    Attributes:
        rows: Rows in and rows out of the step's main tables, for the books.
    """

    before: Bucket
    name: str
    tables: dict[str, pa.Table] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    sums: list[dict[str, Any]] = field(default_factory=list)
    rows: tuple[int, int] = (0, 0)
    seconds: float = 0.0

    def bucket(self) -> Bucket:
        """The bucket with what the step made; refused rows are added to those of earlier steps."""
        before, tables = self.before, dict(self.tables)
        if "REJECTED" in tables and "REJECTED" in before.tables:
            tables["REJECTED"] = pa.concat_tables([before.tables["REJECTED"], tables["REJECTED"]])
        step = {self.name: {"in": self.rows[0], "out": self.rows[1]}}
        return Bucket(
            before.number,
            before.tables | tables,
            before.counts | self.counts | step,
            before.seconds | {self.name: self.seconds},
            before.sums + self.sums,
        )


@contextmanager
def add_step(bucket: Bucket, name: str) -> Iterator[StepResult]:
    """Time a step and count its rows."""
    result = StepResult(bucket, name)
    started = time.perf_counter()
    yield result
    result.seconds = time.perf_counter() - started
    step_done(name, *result.rows)


def table_of(bucket: Bucket, name: str) -> pa.Table:
    """The bucket's table; empty where nothing was read or made."""
    found = bucket.tables.get(name)
    return SCHEMAS[name.rsplit(" ", 1)[-1]].empty() if found is None else found
