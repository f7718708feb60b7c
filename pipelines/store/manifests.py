"""What a warehouse's JSON records say: manifests of nights, landings of imports, staged jobs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from profiling.decay import HOUR_US

FORMAT = 1  # of the warehouse's layout; a reader refuses any other


@dataclass(frozen=True)
class Part:
    """A run of row groups of one file: a bucket of a stored table, or a day of a landed one."""

    bucket: int
    row_group: int
    row_groups: int
    rows: int
    first_at: int = 0
    last_at: int = 0


@dataclass(frozen=True)
class StoredFile:
    """A Parquet file of the warehouse; `path` is relative to its root."""

    path: str
    rows: int
    bytes: int
    digest: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class LandedGroup:
    """One row group of a landed file: the unit in which a night takes its input."""

    landing: int
    table: str
    path: str
    row_group: int
    rows: int


Tables = dict[str, tuple[StoredFile, ...]]


@dataclass(frozen=True)
class Landing:
    """What one import brought; immutable.

    Attributes:
        number: Its place in the warehouse's sequence of imports.
        source: What was imported, for people.
        tables: Files by table.
        starts_at: The first impression, microseconds; None without impressions.
        sources: Path, size, digest and rows of the imported files.
        notes: What the importer had to decide.
        replaces: Whether its ITEMS hold instead of all before: vectors of another model.
    """

    number: int
    source: str
    tables: Tables
    starts_at: int | None
    sources: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    replaces: bool = False
    format: int = FORMAT


@dataclass(frozen=True)
class Manifest:
    """One published night; immutable.

    Attributes:
        number: Its place in the warehouse's sequence of manifests.
        parent: The manifest whose state it went on from.
        kind: bootstrap, night, replay (of an earlier night, on a branch) or rebuild (a check).
        head: Whether its publication moves the readers' head to it.
        date: The night; for a bootstrap, the day before the first night.
        cutoff: Exclusive, microseconds: everything before it has happened.
        tables: Files by table: the state as of the cut-off, and what this night wrote.
        inputs: The landed row groups that it consumed.
        catalogue: Files of ITEMS and TOPICS that it read, in landing order.
        counts: Rows in, out, rejected, open by step.
        seconds: Of work by step, summed over buckets; by the clock, `job 1` to `job 3` and `all`.
        prior: The fitted prior, as JSON.
        slopes: `selection.evidence.Slopes` that it fitted for the next night, as JSON; None where
            no arm leans on evidence.
        model: Numbers of the models that its candidates are from; None where there were none.
        retrieval: By arm of the experiment, '' without one: the arm of step 5 that served it, the
            number of its model, and why it fell back to the arm index, '' where it did not.
    """

    number: int
    parent: int | None
    kind: str
    head: bool
    date: dt.date
    cutoff: int
    tables: Tables
    inputs: tuple[LandedGroup, ...]
    catalogue: Tables
    config: Mapping[str, Any]
    config_digest: str
    seed: int
    embedding_version: str
    counts: Mapping[str, Mapping[str, int]]
    seconds: dict[str, float]
    prior: Mapping[str, Any] | None = None
    slopes: Mapping[str, Any] | None = None
    model: str | None = None
    runner: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def horizon_us(self) -> int:
        """`OutcomeConfig.horizon_us` of the configuration that it ran with."""
        hours = (self.config["outcomes"][name] for name in ("window_hours", "lateness_hours"))
        return sum(round(h * HOUR_US) for h in hours)


def to_json(record: Any) -> bytes:
    """A record as JSON, keys sorted, one line a field."""
    return json.dumps(asdict(record), default=str, sort_keys=True, indent=1).encode() + b"\n"


def manifest_from_json(content: bytes, where: str) -> Manifest:
    """Read back what `to_json` wrote.

    Raises:
        ValueError: The record is of another format of the warehouse, or damaged.
    """
    with reading(where):
        raw = _record(content, where)
        raw["date"] = dt.date.fromisoformat(raw["date"])
        raw["tables"] = tables_from(raw["tables"])
        raw["catalogue"] = tables_from(raw["catalogue"])
        raw["inputs"] = tuple(LandedGroup(**g) for g in raw["inputs"])
        return Manifest(**raw)


def landing_from_json(content: bytes, where: str) -> Landing:
    """Read back what `to_json` wrote; errors as `manifest_from_json`."""
    with reading(where):
        raw = _record(content, where)
        raw["tables"] = tables_from(raw["tables"])
        return Landing(**raw | {"sources": tuple(raw["sources"]), "notes": tuple(raw["notes"])})


def tables_from(raw: Mapping[str, Any]) -> Tables:
    """Files by table, from plain JSON."""
    return {name: tuple(file_from(f) for f in files) for name, files in raw.items()}


def file_from(raw: Mapping[str, Any]) -> StoredFile:
    """A `StoredFile` from plain JSON."""
    return StoredFile(**{**raw, "parts": tuple(Part(**p) for p in raw["parts"])})


class FormatError(ValueError):
    """A record of another version of the warehouse."""


def check_format(number: Any, where: str) -> None:
    """Raise FormatError where a record is of another version of the warehouse."""
    if number != FORMAT:
        raise FormatError(
            f"{where} is of warehouse format {number!r}; this version reads {FORMAT}. "
            "Use the release that wrote it, or make a new warehouse and import again."
        )


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Any error of a record that does not say what it should becomes one that names it."""
    try:
        yield
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is damaged ({error!r}); restore it from a backup") from error


def _record(content: bytes, where: str) -> dict[str, Any]:
    raw = dict(json.loads(content))
    check_format(raw["format"], where)
    return raw
