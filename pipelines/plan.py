"""What one night reads, decided before anything runs: its parent, cut-off, new rows and draws."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig
from pipelines.store.manifests import LandedGroup, Manifest, StoredFile, Tables
from pipelines.store.tables import read_files
from pipelines.store.taken import read_taken
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US
from profiling.items import Items
from profiling.schema import ints
from profiling.tables import TOPICS, VECTOR
from selection.evidence import Slopes

EPOCH = dt.date(1970, 1, 1)
# Facts once published: carried over, never redrawn.
SERVED = ("QUERIES", "ENCODINGS", "CANDIDATES", "FEED")


def package_version() -> str:
    """The installed version of Queryloop."""
    try:
        return version("queryloop")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"


def cutoff_of(date: dt.date) -> int:
    """The end of day `date`, UTC, exclusive, in microseconds."""
    return ((date - EPOCH).days + 1) * DAY_US


def date_of(at: int) -> dt.date:
    """The UTC day of a moment in microseconds."""
    return EPOCH + dt.timedelta(days=at // DAY_US)


@dataclass(frozen=True)
class NightPlan:
    """Everything that the steps of one night are told; travels to the workers.

    Attributes:
        kind: As in the manifest.
        cutoff: Exclusive, microseconds.
        cutoffs: Cut-offs of the ancestors, ascending.
        inputs: New rows: landed row groups.
        state: The parent's tables.
        nearby: Tables of single nights that the steps need: draws that may still be shown or
            closed, the feeds that showed them, and the parent's outcomes.
        past_outcomes: OUTCOMES of the ancestors within `evidence.days`.
        catalogue: Files of ITEMS and TOPICS.
        given: Tables that were served already and are carried over as they are.
        given_retrieval: How, as in the manifest that served them.
        erasures: How many users had been erased when it was planned.
        slopes: Of the evidence, as the parent fitted them; None: as configured.
    """

    root: str
    buckets: int
    kind: str
    date: dt.date
    cutoff: int
    parent: int | None
    cutoffs: tuple[int, ...]
    config: NightConfig
    inputs: tuple[LandedGroup, ...]
    state: Tables
    nearby: Tables
    past_outcomes: tuple[StoredFile, ...]
    catalogue: Tables
    given: Tables
    given_retrieval: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    erasures: int = 0
    slopes: Slopes | None = None

    @property
    def parent_cutoff(self) -> int | None:
        """The cut-off of the night before; None on the first."""
        return self.cutoffs[-1] if self.cutoffs else None

    @property
    def digest(self) -> str:
        """Of all that decides the result: names the staged jobs that a rerun may go on from."""
        parts = [
            package_version(),
            self.kind,
            self.date.isoformat(),
            self.cutoff,
            self.parent,
            self.config.digest,
            [asdict(g) for g in self.inputs],
            catalogue_digest(self.catalogue),
            self.buckets,
            *([self.erasures] if self.erasures else []),
        ]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]

    @property
    def stem(self) -> str:
        """Names what this plan's attempts write: its day and digest."""
        return f"{self.date}-{self.digest}"


def plan_night(  # noqa: PLR0913 (one keyword a decision)
    warehouse: Warehouse,
    config: NightConfig,
    date: dt.date,
    parent: Manifest | None,
    *,
    kind: str = "night",
    cutoff: int | None = None,
    inputs: Sequence[LandedGroup] | None = None,
    catalogue: Tables | None = None,
    given: Manifest | None = None,
) -> NightPlan:
    """Decide what the night of `date` reads, going on from `parent`.

    Args:
        warehouse: Where.
        config: What it runs with.
        date: The night.
        parent: The night before it, None on the first.
        kind: As in the manifest.
        cutoff: The end of `date` by default.
        inputs: All that landed and is not consumed, by default; a rebuild gives what was consumed.
        catalogue: All that landed, by default.
        given: This night's manifest, if it was run before: what it served is carried over.

    Raises:
        ValueError: There is no catalogue, or the configuration reorders stored action codes.
    """
    cutoff = cutoff_of(date) if cutoff is None else cutoff
    chain = warehouse.chain(parent)
    if inputs is None:
        consumed = {(g.path, g.row_group) for m in chain for g in m.inputs}
        inputs = warehouse.pending(consumed, cutoff)
    catalogue = warehouse.catalogue() if catalogue is None else catalogue
    if not catalogue["ITEMS"]:
        raise ValueError(f"{warehouse.root} has no ITEMS; import a catalogue first")
    if parent is not None:
        _check_codes(parent, config)
    return NightPlan(
        root=warehouse.root,
        buckets=warehouse.buckets,
        kind=kind,
        date=date,
        cutoff=cutoff,
        parent=parent.number if parent else None,
        cutoffs=tuple(m.cutoff for m in chain),
        config=config,
        inputs=tuple(inputs),
        state=parent.tables if parent else {},
        nearby=_nearby(chain, config, cutoff),
        past_outcomes=_files(
            [m for m in chain if m.cutoff > cutoff - config.evidence.days * DAY_US], "OUTCOMES"
        ),
        slopes=Slopes(**parent.slopes) if parent and parent.slopes else None,
        catalogue=catalogue,
        given={} if given is None else {n: f for n, f in given.tables.items() if n in SERVED},
        given_retrieval={} if given is None else given.retrieval,
        erasures=read_taken(warehouse.root).erasures,
    )


def _nearby(chain: list[Manifest], config: NightConfig, cutoff: int) -> Tables:
    """Draws, feeds and outcomes of the nights that open impressions and draws may refer to."""
    reach = cutoff - config.horizon_us - (config.draw_days + 2) * DAY_US
    nights = [m for m in chain if m.cutoff >= reach]
    names = ["QUERIES", "SERVED_DRAWS"]
    if config.outcomes.credit != "slot_winner":
        names.append("FEED")
    found = {name: _files(nights, name) for name in names}
    found["earlier SERVED_DRAWS"] = found.pop("SERVED_DRAWS")
    return found | {"last OUTCOMES": _files(chain[-1:], "OUTCOMES")}


def _files(nights: list[Manifest], name: str) -> tuple[StoredFile, ...]:
    return tuple(f for m in nights for f in m.tables.get(name, ()))


def _check_codes(parent: Manifest, config: NightConfig) -> None:
    before = [a["name"] for a in parent.config["actions"]]
    now = [a.name for a in config.actions]
    if now[: len(before)] != before:
        raise ValueError(
            f"actions were {', '.join(before)} and are now {', '.join(now)}: stored codes are "
            "places in this list; append new actions to it and keep the others where "
            "they were, or begin a new warehouse with `queryloop init`"
        )


def catalogue_digest(catalogue: Tables) -> str:
    """Of the files of ITEMS and TOPICS, hex."""
    parts = {name: [f.digest for f in files] for name, files in catalogue.items()}
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=2)
def open_items(root: str, files: tuple[StoredFile, ...]) -> Items:
    """The catalogue as arrays, once a process."""
    return Items.from_table(read_files(root, "ITEMS", files))


@lru_cache(maxsize=2)
def open_topics(
    root: str, files: tuple[StoredFile, ...], items_files: tuple[StoredFile, ...]
) -> pa.Table:
    """TOPICS by ascending id, once a process, those among them that only items name.

    Where an id comes twice, the later row holds.
    """
    topics = read_files(root, "TOPICS", files)
    named = np.unique(open_items(root, items_files).topic_ids)
    missing = np.setdiff1d(named, ints(topics, "topic_id"))
    nameless = {
        "topic_id": missing,
        "name": pa.array([""] * len(missing), pa.string()),
        "embedding": pa.nulls(len(missing), VECTOR),
    }
    topics = pa.concat_tables([topics, TOPICS.build(nameless)])
    ids = ints(topics, "topic_id")
    _, last = np.unique(ids[::-1], return_index=True)
    return topics.take(pa.array(len(ids) - 1 - last))
