"""What the spacing classes do together: exposure, positions lost, how often each decided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.hashing import uniforms
from profiling.items import Items
from profiling.schema import FloatArray, IntArray, ints
from retrieval.spacing.terms import FeedSpacing
from retrieval.spacing.utility import BoolArray

JOINT = "spacing"  # the step under which all classes together are counted
MILLI = 1000  # utilities are counted in thousandths: counts are integers


def step_of(class_id: str) -> str:
    """The step under which a night counts what a class did."""
    return f"{JOINT} {class_id}"


def measured_users(user_ids: IntArray, share: float) -> BoolArray:
    """(n,) whether it is one of the users whose feeds are built without classes too: by hash."""
    found: BoolArray = uniforms("measure spacing", user_ids) < share
    return found


@dataclass(frozen=True)
class _Rows:
    """FEED as arrays: (r,) feed and user from 0, position, and (r, c) class marks."""

    feeds: IntArray
    users: IntArray
    positions: IntArray
    keys: IntArray
    marks: BoolArray

    @classmethod
    def of(cls, feed: pa.Table, items: Items, spacing: FeedSpacing) -> _Rows:
        positions = ints(feed, "position")
        feeds = np.cumsum(positions == 0) - 1
        users = np.unique(ints(feed, "user_id"), return_inverse=True)[1]
        rows = items.rows_of(ints(feed, "item_id"))
        return cls(feeds, users, positions, feeds * len(items.ids) + rows, spacing.members[rows])

    def adjacent(self) -> IntArray:
        """(c,) pairs of neighbours of one feed that are both of the class."""
        pairs = self.marks[1:] & self.marks[:-1] & (self.positions[1:] > 0)[:, None]
        found: IntArray = pairs.sum(axis=0)
        return found

    def by_user(self, values: npt.NDArray[Any]) -> FloatArray:
        """(u, c) sums of (r, c) values over each user's places."""
        n = int(self.users.max(initial=-1)) + 1
        columns = [np.bincount(self.users, column, n) for column in values.T]
        return np.stack(columns, axis=1) if columns else np.zeros((n, 0))


def measure_spacing(
    before: pa.Table, after: pa.Table, candidates: pa.Table, items: Items, spacing: FeedSpacing
) -> dict[str, dict[str, int]]:
    """Counts of every class that is switched on, and of all together.

    Args:
        before: FEED as it would be without any class, of all users or of some: the measured ones.
        after: FEED; both in key order.
        candidates: CANDIDATES of `after`.
        items: The catalogue.
        spacing: The classes.

    Returns:
        By step. Of all users: `candidates` and `labelled` of them (their ratio is the label rate),
        `placed` and `placed_labelled`, `decided` positions, `adjacent` pairs, `demotion_milli`. Of
        the measured ones, with and without spacing: `measured_placed`, `measured_labelled` against
        `placed_labelled_before`, `measured_adjacent` against `adjacent_before`, `positions_lost` by
        members (one that fell off the feed went to its end). `.._squares` are sums of squares over
        the measured users, for intervals.
    """
    labelled = spacing.members[items.rows_of(ints(candidates, "item_id"))].sum(axis=0)
    new = _Rows.of(after, items, spacing)
    ids = [c.id for c in spacing.config.works]
    demotion = _demotion(after, len(ids))
    who = np.unique(ints(before, "user_id"))
    mine = after.filter(np.isin(ints(after, "user_id"), who))
    users = {"users": int(new.users.max(initial=-1)) + 1, "measured_users": len(who)}
    columns = {
        "candidates": np.full(len(ids), candidates.num_rows),
        "labelled": labelled,
        "placed": np.full(len(ids), after.num_rows),
        "placed_labelled": new.marks.sum(axis=0),
        "adjacent": new.adjacent(),
        "decided": _decided(after, ids),
        "demotion_milli": np.rint(demotion.sum(axis=0) * MILLI),
        **_compared(_Rows.of(before, items, spacing), _Rows.of(mine, items, spacing)),
    }
    found = {
        step_of(one): users | {name: int(values[k]) for name, values in columns.items()}
        for k, one in enumerate(ids)
    }
    joint = _joint(demotion.sum(axis=1), spacing.config.joint_cap)
    found[JOINT] = users | joint | _given_up(before, mine)
    return found


def _compared(old: _Rows, new: _Rows) -> dict[str, FloatArray | IntArray]:
    """(c,) counts of the measured users, with spacing and without."""
    lost = old.by_user(old.marks * _positions_lost(old, new)[:, None])
    gap = old.by_user(old.marks) - new.by_user(new.marks)
    return {
        "measured_placed": np.full(old.marks.shape[1], len(new.positions)),
        "measured_labelled": new.marks.sum(axis=0),
        "placed_labelled_before": old.marks.sum(axis=0),
        "labelled_squares": (gap**2).sum(axis=0),
        "measured_adjacent": new.adjacent(),
        "adjacent_before": old.adjacent(),
        "positions_lost": lost.sum(axis=0),
        "positions_lost_squares": (lost**2).sum(axis=0),
    }


def _given_up(before: pa.Table, after: pa.Table) -> dict[str, int]:
    """What relevance and diversity the classes cost the measured users, in thousandths."""
    _, old = np.unique(ints(before, "user_id"), return_inverse=True)
    _, new = np.unique(ints(after, "user_id"), return_inverse=True)
    worth = np.bincount(old, gained(before)), np.bincount(new, gained(after))
    return {
        "gained_before_milli": int(np.rint(worth[0].sum() * MILLI)),
        "gained_milli": int(np.rint(worth[1].sum() * MILLI)),
        "given_up_milli_squares": int(np.rint(((worth[0] - worth[1]) ** 2).sum() * MILLI**2)),
    }


def margin(total: float, squares: float, measured: int, users: int) -> float:
    """Half of the 95 % interval of a sum over all users, of which some were measured, by hash.

    `1.96 N sqrt((1 - n / N) s^2 / n)`: sampling without replacement; 0 where all were measured.

    Args:
        total: The sum over the measured users.
        squares: The sum of the squares.
        measured: n, how many they are; of fewer than two nothing can be said: nan.
        users: N.
    """
    if measured == users:
        return 0.0
    if measured < 2:
        return math.nan
    variance = max(squares - total**2 / measured, 0.0) / (measured - 1)
    return 1.96 * users * math.sqrt((1 - measured / users) * variance / measured)


def _joint(demotion: FloatArray, cap: float) -> dict[str, int]:
    """Counts of what all classes together took off each of (r,) places."""
    return {
        "placed": len(demotion),
        "demoted": int((demotion > 0).sum()),
        "capped": int((demotion > cap * (1 - 1e-9)).sum()),
        "demotion_milli": int(np.rint(demotion.sum() * MILLI)),
    }


def gained(feed: pa.Table) -> FloatArray:
    """(r,) float64: relevance and diversity of every position; what spacing gives up is of this."""
    return np.asarray(feed["relevance"].to_numpy()) + np.asarray(feed["diversity"].to_numpy())


def _positions_lost(before: _Rows, after: _Rows) -> IntArray:
    """(r,) by how many positions each item of `before` fell; to the feed's end where it left."""
    lengths = np.bincount(before.feeds) if len(before.feeds) else np.zeros(0, np.int64)
    order = np.argsort(after.keys)
    places = np.searchsorted(after.keys, before.keys, sorter=order).clip(max=max(len(order) - 1, 0))
    there = order[places] if len(order) else places
    stayed = after.keys[there] == before.keys
    now: IntArray = np.where(stayed, after.positions[there], lengths[before.feeds])
    return now - before.positions


def _decided(feed: pa.Table, ids: list[str]) -> IntArray:
    """(c,) positions that each class decided."""
    names = pc.list_flatten(feed["decided_by"])
    counted = {v["values"]: v["counts"] for v in pc.value_counts(names).to_pylist()}
    return np.array([counted.get(one, 0) for one in ids], np.int64)


def _demotion(feed: pa.Table, classes: int) -> FloatArray:
    """(r, c) the ledger of FEED; terms of others come after our classes."""
    flat = pc.list_flatten(feed["penalties"]).combine_chunks()
    values = np.asarray(flat.field("penalty").to_numpy(zero_copy_only=False))
    return (
        values.reshape(feed.num_rows, -1)[:, :classes] if feed.num_rows else np.zeros((0, classes))
    )
