"""The nights of a warehouse whose draws can be evaluated, and their sums, bucket by bucket."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import config_from_manifest
from pipelines.store.manifests import Manifest, StoredFile
from pipelines.store.tables import read_bucket
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US
from selection.off_policy import LoggedNight, UserSums, add_users, sum_log
from selection.policies import SelectionConfig

Tell = Callable[[int, int], None]
_QUERIES = (
    "user_id", "surface", "cluster_id", "draw_id", "propensity", "set_probability",
)  # fmt: skip
_OUTCOMES = ("user_id", "draw_id", "value", "credit")
# What a value is: where it changes in between, values are not of one kind.
_OF_VALUE = ("actions", "value_low", "value_high", "credit")
_OF_SERVING = ("retrieval", "index", "histories", "model", "feed", "spacing")


@dataclass(frozen=True)
class Period:
    """What is evaluated.

    Attributes:
        nights: Manifests of the nights, by date.
        outcomes: Files of OUTCOMES that their draws may be in.
        notes: What was left out or changed in between, in sentences.
    """

    nights: tuple[Manifest, ...]
    outcomes: tuple[StoredFile, ...]
    notes: tuple[str, ...]

    @property
    def selection(self) -> SelectionConfig:
        """The selection of the newest night, of its first arm."""
        return next(iter(config_from_manifest(self.nights[-1]).selections.values()))


def find_period(
    warehouse: Warehouse, first: dt.date, last: dt.date, *, allow_gap: bool = False
) -> Period:
    """The nights from `first` to `last` with draws whose horizon has ended.

    Raises:
        ValueError: There is no night, one is missing, no draw has ended or brought anything that is
            logged with it, or what a value is has changed in between.
    """
    if last < first:
        raise ValueError(f"--to {last} lies before --from {first}; give the earlier one first")
    head = warehouse.head()
    chain = [m for m in warehouse.chain(head) if m.kind != "bootstrap"]
    if head is None or not chain:
        raise ValueError(f"{warehouse.root} has no night yet; run `queryloop night` first")
    nights = [m for m in chain if first <= m.date <= last]
    notes = _check_gaps(nights, (first, last), chain, allow_gap=allow_gap)
    nights, more = _with_draws(nights, head)
    outcomes = tuple(
        f for m in chain if m.date > nights[0].date for f in m.tables.get("OUTCOMES", ())
    )
    changed = _changes(nights)
    return Period(tuple(nights), outcomes, (*notes, *more, *changed))


def default_period(warehouse: Warehouse, nights: int) -> tuple[dt.date, dt.date]:
    """The last `nights` nights whose horizon has ended.

    Raises:
        ValueError: There is none.
    """
    head = warehouse.head()
    chain = [m for m in warehouse.chain(head) if m.kind != "bootstrap"]
    drew = [m for m in chain if m.tables.get("QUERIES")]
    ended = [] if head is None else [m for m in drew if _ended(m, head)]
    if not ended:
        raise ValueError(
            f"{warehouse.root} has no night whose draws have ended; run more nights first"
        )
    return ended[-nights:][0].date, ended[-1].date


def sum_period(
    warehouse: Warehouse,
    period: Period,
    policies: Sequence[SelectionConfig | None],
    tell: Tell = lambda done, of: None,
) -> UserSums:
    """The sums of the period's log for `policies`, a bucket at a time on every core.

    Args:
        warehouse: Where the log is.
        period: Its nights.
        policies: What is evaluated; None is the log's own.
        tell: Called with how many buckets are done, of how many.

    Raises:
        ValueError: No outcome names a draw.
    """
    configs = {m.config_digest: config_from_manifest(m) for m in period.nights}
    nights = [
        _Night(m, configs[m.config_digest].selections, configs[m.config_digest].draw_salt)
        for m in period.nights
    ]

    def of_bucket(bucket: int) -> tuple[UserSums, int, int]:
        rows = read_bucket(warehouse.root, "OUTCOMES", period.outcomes, bucket, _OUTCOMES)
        drawn = rows.filter(pc.greater(rows["draw_id"], 0))
        log = [night.read(warehouse, bucket) for night in nights]
        return sum_log(log, drawn, policies), rows.num_rows, drawn.num_rows

    parts = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        for part in pool.map(of_bucket, range(warehouse.buckets)):
            parts.append(part)
            tell(len(parts), warehouse.buckets)
    _check_draws(warehouse, sum(p[1] for p in parts), sum(p[2] for p in parts))
    return add_users([p[0] for p in parts], len(policies))


@dataclass(frozen=True)
class _Night:
    manifest: Manifest
    selections: Mapping[str, SelectionConfig]
    salt: str

    def read(self, warehouse: Warehouse, bucket: int) -> LoggedNight:
        def table(name: str, columns: Sequence[str] | None = None) -> pa.Table:
            files = self.manifest.tables.get(name, ())
            return read_bucket(warehouse.root, name, files, bucket, columns)

        return LoggedNight(
            queries=table("QUERIES", _QUERIES),
            cluster_rewards=table("CLUSTER_REWARDS"),
            run_date=self.manifest.date,
            selections=self.selections,
            seed=self.manifest.seed,
            salt=self.salt,
        )


def _check_gaps(
    nights: list[Manifest],
    asked: tuple[dt.date, dt.date],
    chain: list[Manifest],
    *,
    allow_gap: bool,
) -> list[str]:
    first, last = asked
    known = {m.date for m in nights}
    days = [first + dt.timedelta(days=i) for i in range((last - first).days + 1)]
    missing = [d.isoformat() for d in days if d not in known]
    if not missing:
        return []
    which = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    if nights and allow_gap:
        return [f"{len(missing)} nights of the range were not run: {which}"]
    raise ValueError(
        f"{len(missing)} of the {len(days)} nights asked for were not run: {which}; nights run: "
        f"{chain[0].date} to {chain[-1].date}. Choose a range without gaps"
        + (", or pass --allow-gap" if nights else "")
    )


def _with_draws(nights: list[Manifest], head: Manifest) -> tuple[list[Manifest], list[str]]:
    """The nights whose draws count, and what was left out."""
    drew = [m for m in nights if m.tables.get("QUERIES") and m.tables.get("CLUSTER_REWARDS")]
    ended = [m for m in drew if _ended(m, head)]
    if not ended:
        why = (
            f"their horizons end after the head's cut-off, the end of {head.date}: run more nights"
            if drew
            else "they drew no queries, or kept no rewards: run them to the queries"
        )
        raise ValueError(f"no draw of these {len(nights)} nights can be evaluated: {why}")
    notes = []
    if len(drew) < len(nights):
        notes.append(f"{len(nights) - len(drew)} nights drew no queries and are left out")
    if len(ended) < len(drew):
        notes.append(
            f"{len(drew) - len(ended)} nights are left out: what their draws brought is not all "
            f"known at the end of {head.date}"
        )
    served = sum(f.rows for m in ended for f in m.tables.get("SERVED_DRAWS", ()))
    if served:
        notes.append(f"{served:,} draws made per request are left out: they kept no state")
    return ended, notes


def _ended(manifest: Manifest, head: Manifest) -> bool:
    """Whether the day that the night's draws were for, and the horizon after it, are over."""
    return manifest.cutoff + DAY_US + head.horizon_us <= head.cutoff


def _changes(nights: list[Manifest]) -> list[str]:
    """What changed in the configuration between the nights, in sentences.

    Raises:
        ValueError: What a value is has changed.
    """
    notes = []
    for before, after in pairwise(nights):
        if before.config_digest == after.config_digest:
            continue
        changed = [c for c in _OF_VALUE if _of_value(before, c) != _of_value(after, c)]
        if changed:
            raise ValueError(
                f"{', '.join(changed)} changed between the nights {before.date} and {after.date}: "
                "values before and after are not of one kind. End the range with the one, or begin "
                "it with the other"
            )
        serving = [c for c in _OF_SERVING if before.config.get(c) != after.config.get(c)]
        if serving:
            notes.append(
                f"{', '.join(serving)} changed on {after.date}: the value is a mean over what was "
                "served before and after"
            )
        if any(before.config.get(c) != after.config.get(c) for c in ("selection", "experiment")):
            notes.append(f"the log's own policy changed on {after.date}; each night is its own")
    return notes


def _of_value(manifest: Manifest, name: str) -> Any:
    if name == "actions":
        return {a["name"]: a["value"] for a in manifest.config["actions"] if a["value"]}
    return manifest.config["outcomes"][name]


def _check_draws(warehouse: Warehouse, outcomes: int, drawn: int) -> None:
    if drawn:
        return
    what = f"none of its {outcomes:,} outcomes names a draw" if outcomes else "it has no outcomes"
    raise ValueError(
        f"{warehouse.root}: {what} in these nights, so nothing is known of what a draw brought, or "
        "with what probability. A log of another system without draw_id and propensities cannot be "
        "evaluated: serve the queries of `queryloop night` and echo their draw_id in IMPRESSIONS, "
        "or import SERVED_DRAWS with the propensities that they were drawn with"
    )
