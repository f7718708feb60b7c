"""Positives by hand: which events, which cut-off, which query."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from retrieval.pairs import make_pairs
from retrieval.tables import PAIRS
from selection.tables import OUTCOMES, QUERIES
from tests.retrieval.test_histories import HATE, LIKE, LONG_VIEW, history

DAY = dt.date(2022, 4, 20)


def outcome(impression: int, draw: int, query: int | None, credit: float = 1.0) -> dict[str, Any]:
    return {
        "impression_id": impression,
        "draw_id": draw,
        "run_date": DAY,
        "user_id": 1,
        "query_type": "item" if query is not None else "",
        "query_id": query,
        "cluster_id": 0,
        "item_id": 5,
        "at": 0,
        "surface": "home",
        "arm": "",
        "policy": "p",
        "position": 0,
        "examination": 1.0,
        "value": 1.0,
        "actions": 1,
        "credit": credit,
        "attribution": "logged",
        "propensity": 0.5,
    }


def query(draw: int, topics: list[int]) -> dict[str, Any]:
    return {
        "run_date": DAY,
        "user_id": 1,
        "surface": "home",
        "slot": 0,
        "serve_date": DAY,
        "draw_id": draw,
        "cluster_id": 0,
        "query_type": "item",
        "query_id": 9,
        "weight": 1.0,
        "propensity": 0.5,
        "set_probability": 0.5,
        "policy": "p",
        "arm": "",
        "conditions": [{"topic_id": t, "confidence": 0.5} for t in topics],
    }


def pairs(events: Any, days: list[int], outcomes: Any = (), queries: Any = ()) -> list[Any]:
    table = history(events)
    impressions = pa.array([100 + i for i in range(len(events))], pa.int64())
    table = table.set_column(table.column_names.index("credited_id"), "credited_id", impressions)
    made = make_pairs(
        table,
        pa.Table.from_pylist(list(outcomes), OUTCOMES.arrow),
        pa.Table.from_pylist(list(queries), QUERIES.arrow),
        DEFAULT_ACTIONS,
        cutoffs=np.array(days, np.int64) * DAY_US,
    )
    assert made.schema.equals(PAIRS.arrow)
    return made.to_pylist()


def days_of(rows: list[Any]) -> list[tuple[int, int, int]]:
    zero = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return [(r["item_id"], (r["at"] - zero).days, (r["cutoff"] - zero).days) for r in rows]


def test_a_positive_is_the_first_event_of_user_and_item_after_its_cut_off() -> None:
    events = [
        (1, 5, LIKE, 4),
        (1, 5, LONG_VIEW, 3),  # the first of item 5
        (1, 6, HATE, 3),  # not positive
        (1, 7, LIKE, 5),  # at a cut-off: after it
        (1, 8, LIKE, 9),  # at the last cut-off: too late
    ]
    assert days_of(pairs(events, [2, 4, 5, 9])) == [(5, 3, 2), (7, 5, 5)]


def test_a_positive_before_the_first_cut_off_gets_that_one() -> None:
    assert days_of(pairs([(1, 5, LIKE, 1)], [3, 4])) == [(5, 1, 3)]


def test_the_logged_query_is_that_of_the_draw_with_most_credit() -> None:
    outcomes = [outcome(100, 7, 50, 0.4), outcome(100, 8, 60, 0.6), outcome(100, 0, 70, 0.9)]
    queries = [query(7, [1]), query(8, [2, 3])]
    (row,) = pairs([(1, 5, LIKE, 3)], [2, 4], outcomes, queries)
    assert row["query_item_id"] == 60
    assert row["logged_topics"] == [2, 3]
    assert row["logged_confidences"] == [0.5, 0.5]


def test_where_no_draw_is_known_nothing_is_logged() -> None:
    events = [(1, 5, LIKE, 3), (1, 6, LIKE, 3)]
    rows = pairs(events, [2, 4], [outcome(101, 7, 50)], [])
    assert [r["query_item_id"] for r in rows] == [None, 50]
    assert [r["logged_topics"] for r in rows] == [[], []]


@pytest.mark.parametrize("days", [[], [3, 3], [4, 2]])
def test_cut_offs_that_do_not_ascend_are_refused(days: list[int]) -> None:
    with pytest.raises(ValueError, match="cut-offs must be ascending and at least one"):
        pairs([(1, 5, LIKE, 3)], days)
