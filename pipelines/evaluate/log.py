"""The log of a warehouse around a cut-off, and the queries that the night there drew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import NightConfig
from pipelines.plan import open_items
from pipelines.store.manifests import Manifest
from pipelines.store.tables import read_files, read_period
from pipelines.store.warehouse import Warehouse
from profiling.actions import Actions
from profiling.items import Items
from profiling.schema import ints
from selection.queries import select_queries

_PAIR = ("user_id", "item_id")


@dataclass(frozen=True)
class EventLog:
    """What landed before an end.

    Attributes:
        positives: (user_id, item_id, at int64 microseconds, action, event_id) of engagements that
            count as liked.
        known: (user_id, item_id, at) of everything that a user was shown or engaged with; what was
            shown before the log begins, at an unknown time, stands at the least int64.
    """

    positives: pa.Table
    known: pa.Table

    def liked(self, first: int, end: int) -> pa.Table:
        """(user_id, item_id) of positives with `first <= at < end`."""
        at = self.positives["at"]
        inside = pc.and_(pc.greater_equal(at, first), pc.less(at, end))
        return self.positives.filter(inside).select(list(_PAIR))

    def met(self, end: int) -> pa.Table:
        """(user_id, item_id) of all that happened before `end`."""
        return self.known.filter(pc.less(self.known["at"], end)).select(list(_PAIR))


def read_log(warehouse: Warehouse, names: Sequence[str], end: int) -> EventLog:
    """Read what has landed with a time before `end`.

    Args:
        warehouse: Where.
        names: The actions that count as liked.
        end: Exclusive, microseconds.
    """
    period = (-(1 << 62), end - 1)
    columns = {"ENGAGEMENTS": (*_PAIR, "at", "action", "event_id"), "IMPRESSIONS": (*_PAIR, "at")}
    read = {
        name: pa.concat_tables(
            [
                read_period(warehouse.root, name, landing.tables.get(name, ()), period, wanted)
                for landing in warehouse.landings()
            ]
        )
        for name, wanted in columns.items()
    }
    exposures = [
        read_files(warehouse.root, "EXPOSURES", landing.tables.get("EXPOSURES", ()), _PAIR)
        for landing in warehouse.landings()
    ]
    engagements = _timed(read["ENGAGEMENTS"])
    liked = pc.is_in(engagements["action"], value_set=pa.array(list(names), pa.string()))
    always = pa.concat_tables(exposures)
    never = pa.repeat(pa.scalar(period[0], pa.int64()), always.num_rows)
    events = [engagements.select([*_PAIR, "at"]), _timed(read["IMPRESSIONS"])]
    return EventLog(
        positives=engagements.filter(liked),
        known=pa.concat_tables([*events, always.append_column("at", never)]),
    )


def liked_actions(actions: Actions, names: Sequence[str]) -> tuple[str, ...]:
    """The actions that count as liked: `names`, or all that are positive and worth something.

    Raises:
        ValueError: A name is not configured, or no action is positive.
    """
    known = [a.name for a in actions]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no action {name!r}; configured are {', '.join(known)}")
    found = tuple(names) or tuple(a.name for a in actions if a.positive and a.value > 0)
    if not found:
        raise ValueError("no configured action is positive and of value above 0; name one")
    return found


def night_queries(warehouse: Warehouse, date: dt.date, config: NightConfig) -> pa.Table:
    """The QUERIES that the night of `date` published, or would have drawn from its rewards.

    Raises:
        ValueError: The night was not run, or has no rewards yet.
    """
    manifest = warehouse.night(date)
    queries = warehouse.read("QUERIES", manifest)
    if queries.num_rows:
        return queries
    rewards = warehouse.read("CLUSTER_REWARDS", manifest)
    if not rewards.num_rows:
        raise ValueError(
            f"nothing to evaluate: the night of {date} in {warehouse.root} knows no interest of "
            "any user; choose a later day"
        )
    return select_queries(
        rewards,
        items_of(warehouse, manifest),
        config.selections,
        run_date=date,
        seed=config.seed,
        salt=config.draw_salt,
    )


def items_of(warehouse: Warehouse, manifest: Manifest) -> Items:
    """The catalogue that a night read."""
    return open_items(warehouse.root, manifest.catalogue["ITEMS"])


def _timed(table: pa.Table) -> pa.Table:
    place = table.column_names.index("at")
    return table.set_column(place, "at", pa.array(ints(table, "at")))
