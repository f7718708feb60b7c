"""What a night would do and why, before it runs: new rows, changed settings, users, time."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import NightConfig
from pipelines.config_files import config_of
from pipelines.models import NoModel, learners_of, model_for, models
from pipelines.night import library_versions, staged
from pipelines.nights import check_next
from pipelines.operate.status import Waiting, bytes_of, waiting_rows
from pipelines.plan import NightPlan, open_items, plan_night
from pipelines.store.manifests import LandedGroup, Manifest, Tables
from pipelines.store.storage import list_names
from pipelines.store.tables import read_columns
from pipelines.store.warehouse import Warehouse
from profiling.schema import FloatArray

ABSENT = "absent"
_NIGHTS = 14  # past nights that an estimate looks at


@dataclass(frozen=True)
class Change:
    """A setting that is not what it was on the night before."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Estimate:
    """Seconds that the night may take, by past nights; None where there are none to go by.

    Attributes:
        seconds: By the rows that land on it.
        low: A tenth of the past nights took less against their estimate.
        high: A tenth took more.
        nights: How many were looked at.
    """

    seconds: float | None
    low: float | None
    high: float | None
    nights: int


@dataclass(frozen=True)
class Forecast:
    """What a night would do.

    Attributes:
        date: The night.
        kind: night; replay, of an earlier night with all that follow it.
        replays: The nights that would run again, oldest first.
        problem: Why it would be refused; '' where it would run.
        new: Landed rows that it would consume.
        landings: Imports that brought them.
        users: That have new rows.
        known_users: With interests as of the night before; None before the first night.
        catalogue: Files of ITEMS and TOPICS that the night before did not have.
        embedding: Change of the embedding version: every profile is built anew.
        config: Changed options.
        new_options: How many are new in this release, at their defaults.
        versions: Changed versions of code and libraries.
        retrieval: How each arm would be served.
        finished: Jobs that an attempt with the same input and settings has finished.
        reads: Bytes of state that it goes on from.
        estimate: Of its time.
    """

    date: dt.date
    kind: str
    replays: tuple[dt.date, ...]
    problem: str
    new: tuple[Waiting, ...]
    landings: tuple[int, ...]
    users: int
    known_users: int | None
    catalogue: tuple[str, ...]
    embedding: Change | None
    config: tuple[Change, ...]
    new_options: int
    versions: tuple[Change, ...]
    retrieval: Mapping[str, str]
    finished: tuple[str, ...]
    reads: int
    estimate: Estimate


def forecast(warehouse: Warehouse, date: dt.date, *, allow_gap: bool = False) -> Forecast:
    """Say what `queryloop night --date` would do with what has landed and is configured now.

    Raises:
        ValueError: The configuration cannot be used, or there is no catalogue.
    """
    config, head = config_of(warehouse), warehouse.head()
    chain = warehouse.chain(head)
    again = [m for m in chain if m.kind != "bootstrap" and m.date >= date]
    given = again[0] if again and again[0].date == date else None
    parent = warehouse.manifest(given.parent) if given and given.parent else head
    problem = "" if given else _refusal(warehouse, head, date, allow_gap=allow_gap)
    plan = plan_night(
        warehouse,
        config,
        date,
        None if given and given.parent is None else parent,
        kind="replay" if given else "night",
        cutoff=given.cutoff if given else None,
        given=given,
    )
    before = given or (head if head and head.kind != "bootstrap" else None)
    changed = config_changes(before.config, config) if before else ()
    new = new_options(changed)
    rows = sum(g.rows for g in plan.inputs)
    jobs = list_names(staged(plan))
    return Forecast(
        date=date,
        kind=plan.kind,
        replays=tuple(m.date for m in again) if given else (),
        problem=problem,
        new=waiting_rows(plan.inputs, warehouse.landings()),
        landings=tuple(sorted({g.landing for g in plan.inputs})),
        users=len(users_of(warehouse.root, plan.inputs)),
        known_users=_known_users(warehouse, parent),
        catalogue=_new_files(plan.catalogue, before.catalogue if before else {}),
        embedding=_embedding(plan, before),
        config=tuple(c for c in changed if c not in new),
        new_options=len(new),
        versions=version_changes(before.versions, library_versions()) if before else (),
        retrieval={} if given else _retrieval(plan),
        finished=tuple(j.removesuffix(".json") for j in jobs if j.endswith(".json")),
        reads=bytes_of(plan.state),
        estimate=estimate([m for m in chain if m.kind == "night"], rows, max(len(again), 1)),
    )


def users_of(root: str, groups: Sequence[LandedGroup]) -> pa.Array:
    """Users with a row in landed row groups, ascending: their id column alone is read."""
    if not groups:
        return pa.array([], pa.int64())
    ids = [read_columns(root, g.path, g.row_group, ["user_id"])["user_id"] for g in groups]
    unique = pc.unique(pa.chunked_array([c for column in ids for c in column.chunks], pa.int64()))
    return unique.sort()


def config_changes(before: Mapping[str, Any], config: NightConfig) -> tuple[Change, ...]:
    """Options whose value differs, by their path in queryloop.yaml."""
    after = json.loads(json.dumps(asdict(config), default=str))
    return _changes(_flat(dict(before)), _flat(after))


def new_options(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Of `changes`, options that a release brought: absent before, now at their defaults."""
    defaults = {c.name: c.after for c in config_changes({}, NightConfig())}
    return tuple(c for c in changes if c.before == ABSENT and defaults.get(c.name) == c.after)


def version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """Versions that differ."""
    return _changes(dict(before), dict(after))


def estimate(nights: Sequence[Manifest], rows: int, times: int = 1) -> Estimate:
    """Seconds of a night that takes `rows` new rows, `times` over, by the line of past nights.

    Time is `a + b rows` with a and b not negative: the state costs what it costs, new rows add to
    it (Theil 1950, Sen 1968). The tenth and ninetieth percentile of what past nights took against
    the line give the range.
    """
    nights = [m for m in nights if m.seconds.get("all")][-_NIGHTS:]
    if not nights:
        return Estimate(None, None, None, 0)
    took = np.array([m.seconds["all"] for m in nights])
    came = np.array([sum(g.rows for g in m.inputs) for m in nights], float)
    line = _line(came, took)
    ratio = took / (line[0] + line[1] * came)
    seconds = times * float(line[0] + line[1] * rows)
    return Estimate(
        seconds, seconds * float(ratio.min()), seconds * float(ratio.max()), len(nights)
    )


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """`a + b x` with a, b >= 0: the median of all pairs' slopes, so that no odd night moves it."""
    rise, run = np.subtract.outer(y, y), np.subtract.outer(x, x)
    slopes = rise[run > 0] / run[run > 0]
    slope = max(float(np.median(slopes)), 0.0) if len(slopes) else 0.0
    start = float(np.median(y - slope * x))
    if start < 0:  # through the origin
        return 0.0, float(np.median(y / np.maximum(x, 1.0)))
    return start, slope


def _refusal(warehouse: Warehouse, head: Manifest | None, date: dt.date, *, allow_gap: bool) -> str:
    try:
        check_next(warehouse, head, date, allow_gap=allow_gap)
    except ValueError as error:
        return str(error)
    return ""


def _known_users(warehouse: Warehouse, parent: Manifest | None) -> int | None:
    if parent is None:
        return None
    return len(pc.unique(warehouse.read("PROFILES", parent, ["user_id"])["user_id"]))


def _new_files(now: Tables, before: Mapping[str, Any]) -> tuple[str, ...]:
    known = {f.path for files in before.values() for f in files}
    return tuple(f.path for files in now.values() for f in files if f.path not in known)


def _embedding(plan: NightPlan, before: Manifest | None) -> Change | None:
    if before is None:
        return None
    version = open_items(plan.root, plan.catalogue["ITEMS"]).version
    if version == before.embedding_version:
        return None
    return Change("embedding_version", before.embedding_version, version)


def _retrieval(plan: NightPlan) -> dict[str, str]:
    """By arm: what would serve it; nothing is prepared for it yet."""
    found, records = {}, models(plan.root)
    for name, config in plan.config.retrievals.items():
        try:
            if config.arm == "index":
                raise NoModel("")
            learners = learners_of(plan.config.experiment, name)
            model = model_for(records, plan.cutoff, learners, config.model)
            found[name] = f"{config.settled(learned=True).arm}, {model}"
        except NoModel as error:
            fine = config.arm in ("auto", "index") or config.fall_back
            found[name] = "index, no model" if fine else f"refused: {error}"
        except ValueError as error:
            found[name] = "index" if config.fall_back else f"refused: {error}"
    return found


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Leaves by dotted path; items of a list by their name where they have one."""
    if isinstance(value, dict):
        pairs = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        pairs = [(f"[{v.get('name', v.get('id', i))}]", v) for i, v in enumerate(value)]
    else:
        return {path: json.dumps(value)}
    found: dict[str, str] = {}
    for name, part in pairs:
        found |= _flat(part, f"{path}.{name}" if path and name[0] != "[" else path + name)
    return found


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    names = list(dict.fromkeys([*before, *after]))
    return tuple(
        Change(n, before.get(n, ABSENT), after.get(n, ABSENT))
        for n in names
        if before.get(n) != after.get(n)
    )


__all__ = ["Change", "Estimate", "Forecast", "estimate", "forecast"]
