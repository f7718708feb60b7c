"""Step 1a: the new engagements join each user's history, which keeps what can still matter.

HISTORY holds events, not items, by (user_id, event_id). What is kept of a user is a function of the
user's own events and of the chain's cut-offs, and only ever shrinks as these grow. So events that
come in any number of parts, within their horizon, end in the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.actions import Actions, action_codes
from profiling.compiling import njit
from profiling.decay import DAY_US, HOUR_US
from profiling.intake import Refusal, admit_rows
from profiling.items import Items
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray, group_offsets, ints, sort_rows
from profiling.tables import HISTORY

BoolArray = npt.NDArray[np.bool_]
_KEY = ("user_id", "event_id")
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class ProfileConfig:
    """How profiles are made; every field changes results."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    alpha: float = option(
        2.0,
        "largest cost of a Ward merge, squared distance; a start: on KuaiRand some 4 clusters per "
        "user, where .4 left 90 % singletons",
        low=0.0,
    )
    window_days: float = option(
        90.0,
        "days counted back from the user's latest positive event (PinnerSage)",
        low=0.0,
        high=36_500.0,
    )
    max_items: int = option(
        500, "distinct items counted back from the latest positive event (ours)", low=1
    )
    importance_decay: float = option(
        0.01, "lambda per day: importance is sum exp(-lambda * age) (PinnerSage)", low=0.0
    )
    lineage_threshold: float = option(
        0.85,
        "least cosine of medoids that carries an interest on where no item does (UIC)",
        low=-1.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return round(self.window_days * DAY_US)


@dataclass(frozen=True)
class HistoryUpdate:
    """What became of the new engagements.

    Attributes:
        history: HISTORY rows.
        touched: Rows (user_id, since) int64: users with new positive events, ascending, and the
            earliest such `at` in microseconds.
        rejected: REJECTED rows.
        duplicates: How many repeated an event.
    """

    history: pa.Table
    touched: pa.Table
    rejected: pa.Table
    duplicates: int


def update_history(
    history: pa.Table,
    engagements: pa.Table,
    items: Items,
    actions: Actions,
    config: ProfileConfig,
    *,
    horizon_us: int,
    parent_cutoff: int | None,
) -> HistoryUpdate:
    """Admit new ENGAGEMENTS into HISTORY and drop what can matter no more.

    Refused are unknown items and actions, and events with `at + horizon <= parent_cutoff`.

    With `P = min(latest event of the user, parent_cutoff) - horizon`, every event since P is kept:
    tonight may still join it to an impression, or replay a version of the profile. Of positive
    events before P those are kept that a profile as of P or later can count: at most `window_days`
    before the latest of them, and not before the latest engagement with the `max_items`-th newest
    item among them. Other events before P are dropped.

    Args:
        history: HISTORY of some users.
        engagements: New ENGAGEMENTS of the same users, any order.
        items: The catalogue.
        actions: The configured actions.
        config: The window and the number of items.
        horizon_us: How long after its time an event may still come, microseconds.
        parent_cutoff: Cut-off of the night before; None (no such night): nothing is late.
    """
    history = _in_key_order(history)
    codes = action_codes(engagements["action"], actions)
    new = engagements.set_column(
        engagements.column_names.index("action"), "action", pa.array(codes)
    )
    again = pc.is_in(history["event_id"], value_set=new["event_id"].combine_chunks())
    admitted = admit_rows(
        engagements,
        history.filter(again),
        _refusals(new, items, horizon_us, parent_cutoff),
        source="ENGAGEMENTS",
        id_column="event_id",
    )
    rows = _history_rows(admitted.rows, actions)
    merged = pa.concat_tables([history, rows]).combine_chunks()
    if rows.num_rows and history.num_rows:
        merged = merged.take(pa.array(_merge_order(*_keys(history), *_keys(rows))))
    if merged.num_rows:
        kept = _kept(merged, actions, config, horizon_us, parent_cutoff)
        merged = merged if kept.all() else merged.filter(pa.array(kept))
    return HistoryUpdate(merged, _touched(rows, actions), admitted.rejected, admitted.duplicates)


def fading_rows(
    history: pa.Table,
    actions: Actions,
    config: ProfileConfig,
    *,
    horizon_us: int,
    parent_cutoff: int | None,
) -> IntArray:
    """(r,) places, ascending, of what `update_history` would drop if there were no new events.

    Args:
        history: HISTORY of some users, by user.
        actions: The configured actions.
        config: The window and the number of items.
        horizon_us: As for `update_history`.
        parent_cutoff: As for `update_history`.
    """
    kept = _kept(history, actions, config, horizon_us, parent_cutoff)
    return np.flatnonzero(~kept)


def positive_events(history: pa.Table, actions: Actions) -> BoolArray:
    """(n,) bool: whether the event's action makes its item part of the user's interests."""
    flags = np.array([a.positive for a in actions])
    positive: BoolArray = flags[ints(history, "action")]
    return positive


def _refusals(
    new: pa.Table, items: Items, horizon_us: int, parent_cutoff: int | None
) -> list[Refusal]:
    refusals = [
        Refusal(ints(new, "action") < 0, "action is not configured; add it to `actions`"),
        Refusal(
            items.rows_of(ints(new, "item_id")) < 0,
            "item_id is not in ITEMS; import the item and send the event again",
        ),
    ]
    if parent_cutoff is not None:
        late = ints(new, "at") + horizon_us <= parent_cutoff
        hours = horizon_us / HOUR_US
        reason = f"at is more than {hours:g} h before the last cut-off; raise `lateness_hours`"
        refusals.append(Refusal(late, reason))
    return refusals


def _history_rows(rows: pa.Table, actions: Actions) -> pa.Table:
    """Admitted ENGAGEMENTS as HISTORY rows, in key order."""
    columns = {name: rows[name] for name in HISTORY.names if name in rows.column_names}
    columns["action"] = pa.array(action_codes(rows["action"], actions))
    columns["credited_id"] = pa.nulls(rows.num_rows, pa.int64())
    return sort_rows(HISTORY.build(columns), _KEY)


def _touched(rows: pa.Table, actions: Actions) -> pa.Table:
    rows = rows.filter(pa.array(positive_events(rows, actions)))
    users, at = ints(rows, "user_id"), ints(rows, "at")
    starts = group_offsets(users)[:-1]
    since = np.minimum.reduceat(at, starts) if len(starts) else at
    return pa.table({"user_id": users[starts], "since": since})


def _kept(
    history: pa.Table,
    actions: Actions,
    config: ProfileConfig,
    horizon_us: int,
    parent_cutoff: int | None,
) -> BoolArray:
    """(n,) bool: which rows of a history in key order can still matter."""
    n = history.num_rows
    if parent_cutoff is None:
        return np.ones(n, np.bool_)
    kept: BoolArray = _keep_events(
        group_offsets(ints(history, "user_id")),
        ints(history, "at"),
        ints(history, "item_id"),
        positive_events(history, actions),
        (parent_cutoff, horizon_us, config.window_us, config.max_items),
    )
    return kept


@njit(cache=True, nogil=True)
def _keep_events(
    offsets: IntArray,
    at: IntArray,
    items: IntArray,
    positive: BoolArray,
    limits: tuple[int, int, int, int],
) -> BoolArray:
    """The rule of `update_history`; `limits`: parent cut-off, horizon, window, number of items."""
    cutoff, horizon, window, max_items = limits
    kept = np.ones(len(at), np.bool_)
    for u in range(len(offsets) - 1):
        low, high = offsets[u], offsets[u + 1]
        latest = at[low:high].max()
        pivot = min(latest, cutoff) - horizon
        places = np.empty(high - low, np.int64)
        count, last = 0, _NEVER
        for e in range(low, high):
            if positive[e] and at[e] < pivot:
                places[count] = e
                count += 1
                last = max(last, at[e])
        since = _NEVER
        if count:
            since = max(last - window, _time_of_item(at, items, places[:count], max_items))
        for e in range(low, high):
            kept[e] = at[e] >= pivot or (positive[e] and at[e] >= since)
    return kept


@njit(cache=True, nogil=True)
def _time_of_item(at: IntArray, items: IntArray, places: IntArray, rank: int) -> int:
    """Time of the latest event with the `rank`-th newest distinct item; the least int if fewer."""
    if len(places) < rank:
        return _NEVER
    order = np.argsort(-at[places])
    seen = set([items[places[0]]])
    seen.clear()
    for k in order:
        seen.add(items[places[k]])
        if len(seen) == rank:
            return int(at[places[k]])
    return _NEVER


@njit(cache=True, nogil=True)
def read_back(
    bounds: IntArray, at: IntArray, items: IntArray, window: int, max_items: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Each user's events from the latest back, until the window ends or `max_items` are seen.

    So importance counts the engagements up to the one that brings in the last of the distinct
    items. Events of equal time are read by descending event id.

    Args:
        bounds: (u + 1,) int64; user u has the events `bounds[u]:bounds[u + 1]`, by event id.
        at: (e,) int64 microseconds.
        items: (e,) int64 item ids.
        window: Microseconds counted back from the user's latest event.
        max_items: Distinct items at most.

    Returns:
        (e,) place of each event's item among the items found, -1 where the event does not count;
        (m,) items found, by user and ascending id; (u + 1,) bounds of the users in them.
    """
    members, found = np.full(len(at), -1, np.int64), np.empty(len(at), np.int64)
    offsets = np.zeros(len(bounds), np.int64)
    for u in range(len(bounds) - 1):
        low, high = bounds[u], bounds[u + 1]
        newest = np.argsort(at[low:high], kind="mergesort")[::-1]
        code, distinct = _item_codes(items[low:high])
        place, n_seen = np.full(len(distinct), -1), 0
        for e in newest:
            if at[low + e] < at[low + newest[0]] - window or n_seen == max_items:
                break
            n_seen += place[code[e]] < 0
            place[code[e]] = 0
            members[low + e] = code[e]
        count = offsets[u]
        for c in range(len(distinct)):
            if place[c] == 0:
                place[c], found[count] = count, distinct[c]
                count += 1
        for e in range(low, high):
            if members[e] >= 0:
                members[e] = place[members[e]]
        offsets[u + 1] = count
    return members, found[: offsets[-1]], offsets


@njit(cache=True, nogil=True)
def _item_codes(items: IntArray) -> tuple[IntArray, IntArray]:
    """(n,) place of each item among the distinct ones, and these ascending."""
    order = np.argsort(items)
    code, distinct = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
    count = -1
    for k in range(len(order)):
        item = items[order[k]]
        if k == 0 or item != distinct[count]:
            count += 1
            distinct[count] = item
        code[order[k]] = count
    return code, distinct[: count + 1]


def _keys(table: pa.Table) -> tuple[IntArray, IntArray]:
    return ints(table, "user_id"), ints(table, "event_id")


def _in_key_order(history: pa.Table) -> pa.Table:
    users, events = _keys(history)
    ascending = (users[1:] > users[:-1]) | ((users[1:] == users[:-1]) & (events[1:] > events[:-1]))
    return history if ascending.all() else sort_rows(history, _KEY)


@njit(cache=True, nogil=True)
def _merge_order(
    users_a: IntArray, events_a: IntArray, users_b: IntArray, events_b: IntArray
) -> IntArray:
    """Places that put two tables in key order, laid end to end, into one key order."""
    n_a, n_b = len(users_a), len(users_b)
    order = np.empty(n_a + n_b, np.int64)
    a = b = 0
    for place in range(n_a + n_b):
        first = b == n_b or (
            a < n_a
            and (
                users_a[a] < users_b[b] or (users_a[a] == users_b[b] and events_a[a] <= events_b[b])
            )
        )
        order[place] = a if first else n_a + b
        a += first
        b += not first
    return order
