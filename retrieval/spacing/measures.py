"""What the spacing classes do together: exposure, positions lost, how often each decided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiling.items import Items
from profiling.schema import FloatArray, IntArray, ints
from retrieval.spacing.terms import FeedSpacing
from retrieval.spacing.utility import BoolArray

JOINT = "spacing"  # the step under which all classes together are counted
MILLI = 1000  # utilities are counted in thousandths: counts are integers


def step_of(class_id: str) -> str:
    """The step under which a night counts what a class did."""
    return f"{JOINT} {class_id}"


@dataclass(frozen=True)
class _Rows:
    """FEED as arrays: (r,) feed from 0, position, and (r, c) class marks."""

    feeds: IntArray
    positions: IntArray
    keys: IntArray
    marks: BoolArray

    @classmethod
    def of(cls, feed: pa.Table, items: Items, spacing: FeedSpacing) -> _Rows:
        positions = ints(feed, "position")
        feeds = np.cumsum(positions == 0) - 1
        rows = items.rows_of(ints(feed, "item_id"))
        return cls(feeds, positions, feeds * len(items.ids) + rows, spacing.members[rows])

    def adjacent(self) -> IntArray:
        """(c,) pairs of neighbours of one feed that are both of the class."""
        pairs = self.marks[1:] & self.marks[:-1] & (self.positions[1:] > 0)[:, None]
        found: IntArray = pairs.sum(axis=0)
        return found


def measure_spacing(
    before: pa.Table, after: pa.Table, candidates: pa.Table, items: Items, spacing: FeedSpacing
) -> dict[str, dict[str, int]]:
    """Counts of every class that is switched on, and of all together.

    Args:
        before: FEED as it would be without any class.
        after: FEED; both of the same users, in key order.
        candidates: CANDIDATES of both.
        items: The catalogue.
        spacing: The classes.

    Returns:
        By step: `candidates` and `labelled` of them (their ratio is the label rate), `placed` and
        `placed_labelled`, the same without spacing, `positions_lost` by members (one that fell off
        the feed went to its end), `decided` positions, `adjacent` pairs, `demotion_milli`.
    """
    old, new = _Rows.of(before, items, spacing), _Rows.of(after, items, spacing)
    labelled = spacing.members[items.rows_of(ints(candidates, "item_id"))].sum(axis=0)
    lost = _positions_lost(old, new)
    ids = [c.id for c in spacing.config.works]
    decided, demotion = _decided(after, ids), _demotion(after, len(ids))
    columns = {
        "candidates": np.full(len(ids), candidates.num_rows),
        "labelled": labelled,
        "placed": np.full(len(ids), after.num_rows),
        "placed_labelled": new.marks.sum(axis=0),
        "placed_labelled_before": old.marks.sum(axis=0),
        "adjacent": new.adjacent(),
        "adjacent_before": old.adjacent(),
        "positions_lost": (old.marks * lost[:, None]).sum(axis=0),
        "decided": decided,
        "demotion_milli": np.rint(demotion.sum(axis=0) * MILLI),
    }
    found = {
        step_of(one): {name: int(values[k]) for name, values in columns.items()}
        for k, one in enumerate(ids)
    }
    found[JOINT] = {
        **_joint(demotion.sum(axis=1), spacing.config.joint_cap),
        "gained_before_milli": int(np.rint(gained(before).sum() * MILLI)),
        "gained_milli": int(np.rint(gained(after).sum() * MILLI)),
    }
    return found


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
