"""What the user tower knows of a user at a cut-off: newest items with their age, and interests.

Training asks for a history at the nightly cut-off before each positive, serving for one at
tonight's: both by this function, so that the model meets nothing at serving that training could
not have shown it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.actions import Actions
from profiling.compiling import njit
from profiling.decay import DAY_US
from profiling.history import positive_events
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray, floats, group_offsets, ints, sort_rows
from retrieval.tables import HISTORIES


@dataclass(frozen=True)
class HistoryConfig:
    """How much of a user's past the model reads."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    recent_items: int = option(
        50, "distinct items counted back from the cut-off (ours)", low=1, high=1000
    )
    clusters: int = option(10, "most important interests read (ours)", low=0, high=100)

    def __post_init__(self) -> None:
        check_options(self)


def build_histories(
    history: pa.Table,
    profiles: pa.Table,
    wanted: pa.Table,
    actions: Actions,
    config: HistoryConfig,
) -> pa.Table:
    """The history of each wanted user at each wanted cut-off.

    An event counts where it is positive and `at < cutoff`; an item engaged twice stands where it
    was last engaged with. Interests are those of the user's newest profile version with a cut-off
    up to the wanted one. A user without either gets empty lists.

    Args:
        history: HISTORY of these users, any order; others are ignored.
        profiles: PROFILES, or several versions of them (PAST_PROFILES), any order.
        wanted: Rows (user_id, cutoff), any order; one that comes twice is one.
        actions: The configured actions.
        config: Options.

    Returns:
        HISTORIES, one row per wanted (user_id, cutoff), in key order.
    """
    wanted = wanted.select(["user_id", "cutoff"]).group_by(["user_id", "cutoff"]).aggregate([])
    wanted = sort_rows(wanted, ("user_id", "cutoff"))
    users, cutoffs = ints(wanted, "user_id"), ints(wanted, "cutoff")
    offsets, items, ages = _recent(history, users, cutoffs, actions, config.recent_items)
    cluster_offsets, clusters = _interests(profiles, users, cutoffs, config.clusters)
    return HISTORIES.build(
        {
            "user_id": users,
            "cutoff": cutoffs,
            "item_ids": _lists(offsets, items),
            "ages": _lists(offsets, ages),
            "cluster_item_ids": _lists(cluster_offsets, ints(clusters, "medoid_item_id")),
            "cluster_importances": _lists(
                cluster_offsets, floats(clusters, "importance").astype(np.float32)
            ),
        }
    )


def _recent(
    history: pa.Table, users: IntArray, cutoffs: IntArray, actions: Actions, limit: int
) -> tuple[IntArray, IntArray, npt.NDArray[np.float32]]:
    """Offsets by wanted row, item ids and ages in days, newest first."""
    known = pc.is_in(history["user_id"], value_set=pa.array(np.unique(users)))
    history = history.filter(pc.and_(known, pa.array(positive_events(history, actions))))
    history = sort_rows(history, ("user_id", "at", "event_id"))
    owners, at = ints(history, "user_id"), ints(history, "at")
    starts = np.searchsorted(owners, users)
    ends = np.searchsorted(owners, users, side="right")
    offsets, places = _newest_distinct(starts, ends, cutoffs, at, ints(history, "item_id"), limit)
    ages = (np.repeat(cutoffs, np.diff(offsets)) - at[places]) / DAY_US
    return offsets, ints(history, "item_id")[places], ages.astype(np.float32)


@njit(cache=True, nogil=True)
def _newest_distinct(
    starts: IntArray, ends: IntArray, cutoffs: IntArray, at: IntArray, items: IntArray, limit: int
) -> tuple[IntArray, IntArray]:
    """Places of the newest `limit` distinct items before each cut-off, newest first."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    total = 0
    for row in range(len(starts)):
        total += min(ends[row] - starts[row], limit)
    places = np.empty(total, np.int64)
    count = 0
    for row in range(len(starts)):
        first = count
        for place in range(ends[row] - 1, starts[row] - 1, -1):
            if at[place] >= cutoffs[row]:
                continue
            if count - first == limit:
                break
            again = False
            for earlier in places[first:count]:
                again |= items[earlier] == items[place]
            if not again:
                places[count] = place
                count += 1
        offsets[row + 1] = count
    return offsets, places[:count]


def _interests(
    profiles: pa.Table, users: IntArray, cutoffs: IntArray, limit: int
) -> tuple[IntArray, pa.Table]:
    """Offsets by wanted row, and the rows of PROFILES that hold there, most important first."""
    columns = ["user_id", "cutoff", "importance", "medoid_item_id"]
    order = [(c, "descending" if c == "importance" else "ascending") for c in columns]
    profiles = profiles.select(columns).sort_by(order)
    owners, since = ints(profiles, "user_id"), ints(profiles, "cutoff")
    bounds = group_offsets(np.rec.fromarrays([owners, since]))
    version = _newest_version(owners[bounds[:-1]], since[bounds[:-1]], users, cutoffs)
    known = version >= 0
    starts = np.where(known, bounds[version], 0)
    lengths = np.where(known, np.minimum(bounds[version + 1] - bounds[version], limit), 0)
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return offsets, profiles.take(pa.array(places))


@njit(cache=True, nogil=True)
def _newest_version(
    owners: IntArray, since: IntArray, users: IntArray, cutoffs: IntArray
) -> IntArray:
    """The place of each wanted row's version, -1 if none; both sides ascending by both keys."""
    found = np.full(len(users), -1, np.int64)
    place = 0
    for row in range(len(users)):
        while place < len(owners) and (
            owners[place] < users[row]
            or (owners[place] == users[row] and since[place] <= cutoffs[row])
        ):
            place += 1
        if place > 0 and owners[place - 1] == users[row]:
            found[row] = place - 1
    return found


def _lists(offsets: IntArray, values: npt.NDArray[np.generic]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
