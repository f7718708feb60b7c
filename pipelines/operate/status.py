"""Where a warehouse stands: its newest night, what waits for the next, and what broke off."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.config import ConfigError
from pipelines.config_files import config_of
from pipelines.models import models
from pipelines.plan import cutoff_of, date_of
from pipelines.store.manifests import LandedGroup, Landing, Manifest, Part, Tables
from pipelines.store.storage import join, list_tree
from pipelines.store.warehouse import EVENT_TABLES, Warehouse


@dataclass(frozen=True)
class Waiting:
    """Landed rows of one table that no night has consumed.

    Attributes:
        table: Which.
        rows: How many.
        first: Day of the first of their row groups.
        last: Day of the last.
    """

    table: str
    rows: int
    first: dt.date
    last: dt.date


@dataclass(frozen=True)
class Night:
    """One manifest, in a line.

    Attributes:
        manifest: Its number.
        parent: The one before it.
        kind: bootstrap, night, replay or rebuild.
        date: The night.
        impressions: Landed on it.
        engagements: Landed on it.
        outcomes: Closed on it.
        rejected: Rows refused, of both.
        queries: Drawn.
        feed: Places of the feeds.
        model: Numbers of the models that served it; None: the arm index.
        config: Digest of the configuration.
        seconds: By the clock.
        on_chain: Whether readers of the head see it.
    """

    manifest: int
    parent: int | None
    kind: str
    date: dt.date
    impressions: int
    engagements: int
    outcomes: int
    rejected: int
    queries: int
    feed: int
    model: str | None
    config: str
    seconds: float
    on_chain: bool


@dataclass(frozen=True)
class Staged:
    """A night that broke off, or runs now.

    Attributes:
        folder: Below `staged`.
        date: The night.
        jobs: Finished ones, which a rerun with the same input and configuration goes on from.
    """

    folder: str
    date: dt.date
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """Where a warehouse stands.

    Attributes:
        root: The warehouse.
        buckets: Of users.
        landings: Imports.
        head: The newest night; None before the first manifest.
        next_night: What `queryloop night --date` takes next; None where nothing has landed.
        waiting: Landed rows that no night has consumed.
        staged: Nights that broke off, or run now.
        models: Trained so far.
        newest_model: Its number and night, '' without one.
        config_problem: Why the configuration cannot be used; '' where it can.
        config_changed: Whether it differs from what the head ran with.
        bytes: Of the head's tables.
    """

    root: str
    buckets: int
    landings: int
    head: Night | None
    next_night: dt.date | None
    waiting: tuple[Waiting, ...]
    staged: tuple[Staged, ...]
    models: int
    newest_model: str
    config_problem: str
    config_changed: bool
    bytes: int


def status_of(warehouse: Warehouse) -> Status:
    """Look at the records alone; no table is read."""
    head, landings = warehouse.head(), warehouse.landings()
    chain = warehouse.chain(head)
    waiting = waiting_groups(warehouse, chain)
    trained = models(warehouse.root)
    problem, changed = "", False
    try:
        digest = config_of(warehouse).digest
        changed = head is not None and digest != head.config_digest
    except (ConfigError, ValueError) as error:
        problem = str(error)
    return Status(
        root=warehouse.root,
        buckets=warehouse.buckets,
        landings=len(landings),
        head=None if head is None else night_line(head, {m.number for m in chain}),
        next_night=next_night(head, landings),
        waiting=waiting_rows(waiting, landings),
        staged=staged_nights(warehouse.root),
        models=len(trained),
        newest_model=str(trained[-1]) if trained else "",
        config_problem=problem,
        config_changed=changed,
        bytes=bytes_of(head.tables) if head else 0,
    )


def nights_of(warehouse: Warehouse, *, every: bool = False) -> list[Night]:
    """The chain of the head, oldest first; with `every`, branches and checks too."""
    chain = warehouse.chain(warehouse.head())
    numbers = {m.number for m in chain}
    shown = warehouse.manifests() if every else chain
    return [night_line(m, numbers) for m in shown]


def night_line(manifest: Manifest, chain: set[int]) -> Night:
    """What a manifest says, in a line; `chain` are the numbers that the head's readers see."""
    counts = manifest.counts
    impressions, engagements = counts.get("impressions", {}), counts.get("engagements", {})
    rows = {name: sum(f.rows for f in files) for name, files in manifest.tables.items()}
    return Night(
        manifest=manifest.number,
        parent=manifest.parent,
        kind=manifest.kind,
        date=manifest.date,
        impressions=impressions.get("landed", 0),
        engagements=engagements.get("landed", 0),
        outcomes=impressions.get("outcomes", 0),
        rejected=impressions.get("rejected", 0) + engagements.get("rejected", 0),
        queries=rows.get("QUERIES", 0),
        feed=rows.get("FEED", 0),
        model=manifest.model,
        config=manifest.config_digest,
        seconds=manifest.seconds.get("all", 0.0),
        on_chain=manifest.number in chain,
    )


def next_night(head: Manifest | None, landings: Sequence[Landing]) -> dt.date | None:
    """The night that would go on from `head`."""
    if head is not None:
        return head.date + dt.timedelta(days=1)
    firsts = [p.first_at for landing in landings for p in _parts(landing.tables)]
    return date_of(min(firsts)) if firsts else None


def waiting_groups(warehouse: Warehouse, chain: Sequence[Manifest]) -> list[LandedGroup]:
    """Landed row groups that no night of `chain` has consumed, of whatever day."""
    consumed = {(g.path, g.row_group) for m in chain for g in m.inputs}
    return warehouse.pending(consumed, cutoff_of(dt.date.max - dt.timedelta(days=366)))


def waiting_rows(groups: Iterable[LandedGroup], landings: Sequence[Landing]) -> tuple[Waiting, ...]:
    """Rows of `groups` by table, with the days that they span."""
    spans = {
        (file.path, group): (part.first_at, part.last_at)
        for landing in landings
        for name in EVENT_TABLES
        for file in landing.tables.get(name, ())
        for part in file.parts
        for group in range(part.row_group, part.row_group + part.row_groups)
    }
    by_table: dict[str, list[LandedGroup]] = {}
    for group in groups:
        by_table.setdefault(group.table, []).append(group)
    return tuple(
        Waiting(
            table=name,
            rows=sum(g.rows for g in found),
            first=date_of(min(spans[g.path, g.row_group][0] for g in found)),
            last=date_of(max(spans[g.path, g.row_group][1] for g in found)),
        )
        for name, found in sorted(by_table.items())
    )


def staged_nights(root: str) -> tuple[Staged, ...]:
    """Nights with work that no manifest names yet."""
    jobs: dict[str, list[str]] = {}
    for file in list_tree(join(root, "staged")):
        folder, _, name = file.path.partition("/")
        if not folder[0].isdigit():  # of a training
            continue
        done = jobs.setdefault(folder, [])
        if name.endswith(".json") and not name.startswith("."):
            done.append(name.removesuffix(".json"))
    return tuple(
        Staged(folder, dt.date.fromisoformat(folder[:10]), tuple(done))
        for folder, done in sorted(jobs.items())
    )


def bytes_of(tables: Tables) -> int:
    """Of all files."""
    return sum(f.bytes for files in tables.values() for f in files)


def _parts(tables: Tables) -> list[Part]:
    return [p for name in EVENT_TABLES for f in tables.get(name, ()) for p in f.parts]
