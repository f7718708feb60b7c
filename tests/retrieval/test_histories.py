"""Histories by hand, against a plain twin, and cut at the cut-off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.schema import TIMESTAMP
from profiling.tables import HISTORY, PROFILES
from retrieval.histories import HistoryConfig, build_histories

LONG_VIEW, LIKE, HATE = 0, 1, 2


def history(events: list[tuple[int, int, int, int]]) -> pa.Table:
    """HISTORY from (user, item, action, day)."""
    users, items, actions, days = (
        (list(c) for c in zip(*events, strict=True)) if events else [[]] * 4
    )
    n = len(events)
    return HISTORY.build(
        {
            "user_id": np.array(users, np.int64),
            "event_id": np.arange(n),
            "item_id": np.array(items, np.int64),
            "action": np.array(actions, np.int16),
            "at": np.array(days, np.int64) * DAY_US,
            "impression_id": pa.nulls(n, pa.int64()),
            "credited_id": pa.nulls(n, pa.int64()),
            "content_digest": np.zeros(n, np.int64),
        }
    )


def profiles(rows: list[tuple[int, int, int, float]]) -> pa.Table:
    """PROFILES from (user, cut-off day, medoid, importance)."""
    made: list[dict[str, Any]] = [
        {
            "user_id": user,
            "cluster_id": i,
            "medoid_item_id": medoid,
            "item_ids": [medoid],
            "n_items": 1,
            "action_counts": [1, 0, 0],
            "importance": importance,
            "as_of": 0,
            "first_at": 0,
            "last_at": 0,
            "lineage": "born",
            "from_cluster_ids": [],
            "n_born": i + 1,
            "cutoff": day * DAY_US,
            "embedding_version": "v1",
        }
        for i, (user, day, medoid, importance) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, PROFILES.arrow) if made else PROFILES.empty()


def wanted(rows: list[tuple[int, int]]) -> pa.Table:
    users = np.array([u for u, _ in rows], np.int64)
    days = pa.array(np.array([d for _, d in rows], np.int64) * DAY_US).cast(TIMESTAMP)
    return pa.table({"user_id": users, "cutoff": days})


def build(events: Any, rows: Any, asked: Any, **options: int) -> list[dict[str, Any]]:
    config = HistoryConfig(**options)
    table = build_histories(history(events), profiles(rows), wanted(asked), DEFAULT_ACTIONS, config)
    return table.to_pylist()


def test_a_history_holds_what_came_before_its_cut_off_newest_first() -> None:
    events = [(1, 5, LONG_VIEW, 2), (1, 6, LIKE, 3), (1, 5, LIKE, 4), (1, 7, LONG_VIEW, 5)]
    (row,) = build(events, [], [(1, 5)])
    assert row["item_ids"] == [5, 6]  # item 5 stands where it was last engaged with; day 5 is not
    assert row["ages"] == [1.0, 2.0]
    assert row["cluster_item_ids"] == []


def test_negative_actions_are_no_history() -> None:
    (row,) = build([(1, 5, HATE, 2), (1, 6, LIKE, 2)], [], [(1, 9)])
    assert row["item_ids"] == [6]


def test_interests_are_those_of_the_newest_version_up_to_the_cut_off() -> None:
    rows = [(1, 3, 10, 1.0), (1, 5, 20, 1.0), (1, 5, 30, 4.0), (2, 4, 40, 1.0)]
    got = build([], rows, [(1, 2), (1, 3), (1, 4), (1, 5), (1, 9), (2, 9), (3, 9)])
    assert [r["cluster_item_ids"] for r in got] == [[], [10], [10], [30, 20], [30, 20], [40], []]
    assert got[3]["cluster_importances"] == [4.0, 1.0]


def test_limits_cut_the_oldest_items_and_the_least_interests() -> None:
    events = [(1, i, LIKE, i) for i in range(1, 6)]
    rows = [(1, 5, 10, 1.0), (1, 5, 20, 3.0), (1, 5, 30, 2.0)]
    (row,) = build(events, rows, [(1, 9)], recent_items=2, clusters=2)
    assert row["item_ids"] == [5, 4]
    assert row["cluster_item_ids"] == [20, 30]


def test_a_pair_asked_for_twice_is_one_row_and_rows_come_in_key_order() -> None:
    got = build([(1, 5, LIKE, 1)], [], [(2, 3), (1, 3), (2, 3), (1, 2)])
    assert [(r["user_id"], r["cutoff"].day) for r in got] == [(1, 3), (1, 4), (2, 4)]
    assert got[2]["item_ids"] == []


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2), st.integers(0, 6))),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), min_size=1, max_size=6),
    st.integers(1, 3),
)
def test_histories_equal_the_plain_definition(events: Any, asked: Any, limit: int) -> None:
    for row, (user, day) in zip(
        build(events, [], asked, recent_items=limit), sorted(set(asked)), strict=True
    ):
        seen: dict[int, int] = {}
        mine = [(d, i, item) for i, (u, item, a, d) in enumerate(events) if u == user and a != HATE]
        for d, _, item in sorted(mine, reverse=True):
            if d < day and item not in seen and len(seen) < limit:
                seen[item] = d
        assert row["item_ids"] == list(seen)
        assert row["ages"] == [float(day - d) for d in seen.values()]


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="recent_items must be >= 1, got 0"):
        HistoryConfig(recent_items=0)
