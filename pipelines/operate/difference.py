"""What changed between two nights: tables, rates, distributions, and whose queries, and why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.catalog.views import open_session
from pipelines.config import config_from_manifest
from pipelines.operate.forecast import Change, config_changes, version_changes
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse

_SQL = Path(__file__).with_name("difference.sql")


@dataclass(frozen=True)
class Measure:
    """A number on both nights; None where a night has none."""

    what: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Moved:
    """A user whose chances moved, and the interest that moved them most.

    Attributes:
        user_id: Who.
        surface: Where.
        moved: Half the sum over the user's interests of |share then - share now|, 0 to 1; a share
            is that of reward times importance.
        cluster_id: The interest whose share moved most.
        title: Of the interest's medoid.
        share_before: Its share.
        share_after: The same, now.
        why: In words.
    """

    user_id: int
    surface: str
    moved: float
    cluster_id: int
    title: str | None
    share_before: float
    share_after: float
    why: str


@dataclass(frozen=True)
class NightDiff:
    """What differs between two nights of a chain."""

    before: dt.date
    after: dt.date
    config: tuple[Change, ...]
    versions: tuple[Change, ...]
    rows: tuple[Measure, ...]
    rates: tuple[Measure, ...]
    distributions: Mapping[str, tuple[Measure, ...]]
    moved: tuple[Moved, ...]


def compare_nights(
    warehouse: Warehouse, before: dt.date, after: dt.date, *, users: int = 10
) -> NightDiff:
    """Compare two nights that readers of the head see.

    Args:
        warehouse: Which.
        before: A night.
        after: A later one.
        users: How many of those that moved most are named.

    Raises:
        ValueError: A night was not run, or `after` does not follow `before`.
    """
    if after <= before:
        raise ValueError(f"{after} does not follow {before}; give the earlier night first")
    old, new = warehouse.night(before), warehouse.night(after)
    statements = _statements(old, new, users)
    with open_session(warehouse, new) as session:
        found = {name: session.ask(sql).to_pylist() for name, sql in statements.items()}
    return NightDiff(
        before=before,
        after=after,
        config=config_changes(old.config, config_from_manifest(new)),
        versions=version_changes(old.versions, new.versions),
        rows=_rows(old, new),
        rates=tuple(_measures(found["rates"])),
        distributions={
            name: tuple(_measures([r for r in found["distributions"] if r["name"] == name]))
            for name in dict.fromkeys(r["name"] for r in found["distributions"])
        },
        moved=tuple(Moved(**row) for row in found["moved"]),
    )


def _statements(old: Manifest, new: Manifest, users: int) -> dict[str, str]:
    """The statements of difference.sql, by the name that a line `-- name` gives them."""
    text = _SQL.read_text()
    values = {"$before": f"DATE '{old.date}'", "$after": f"DATE '{new.date}'"}
    for name, value in (values | {"$users": str(int(users))}).items():
        text = text.replace(name, value)
    parts = text.split("\n-- ")[1:]
    return {part.split(":", 1)[0]: part.split("\n", 1)[1] for part in parts}


def _rows(old: Manifest, new: Manifest) -> tuple[Measure, ...]:
    def count(manifest: Manifest, name: str) -> float | None:
        files = manifest.tables.get(name)
        return None if files is None else float(sum(f.rows for f in files))

    names = sorted(old.tables.keys() | new.tables.keys())
    return tuple(Measure(name, count(old, name), count(new, name)) for name in names)


def _measures(rows: list[dict[str, Any]]) -> list[Measure]:
    return [Measure(str(r["what"]), r["before"], r["after"]) for r in rows]


__all__ = ["Measure", "Moved", "NightDiff", "compare_nights"]
