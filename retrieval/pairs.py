"""What the model learns from: a user's first engagement with an item, and what brought it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiling.actions import Actions
from profiling.history import positive_events
from profiling.schema import IntArray, group_offsets, ints, sort_rows
from retrieval.tables import PAIRS


def make_pairs(
    history: pa.Table,
    outcomes: pa.Table,
    queries: pa.Table,
    actions: Actions,
    *,
    cutoffs: IntArray,
) -> pa.Table:
    """The positives of some users before the last cut-off.

    A positive is the first event of a user and an item whose action is positive and of value above
    0: later ones have the item in their own history, and serving leaves engaged items out. Its
    cut-off is the latest one up to its time. A positive before the first cut-off gets that one,
    with a history of which it is a member; training takes every positive out of its own history.

    The query is known where step 2 credited a draw with the impression that the event came of;
    the condition where that draw is among `queries`. Where several draws share the impression, the
    one with most credit counts, ties to the smaller id.

    Args:
        history: HISTORY of these users, any order.
        outcomes: Their OUTCOMES, of any nights; empty where none.
        queries: Their QUERIES, of any nights; empty where none.
        actions: The configured actions.
        cutoffs: Nightly cut-offs, ascending, microseconds; positives from the last on are left out.

    Returns:
        PAIRS in key order.

    Raises:
        ValueError: No cut-off, or not ascending.
    """
    if len(cutoffs) == 0 or np.any(np.diff(cutoffs) <= 0):
        raise ValueError(f"cut-offs must be ascending and at least one, got {list(cutoffs)}")
    worth = np.array([a.positive and a.value > 0 for a in actions])
    good = positive_events(history, actions) & worth[ints(history, "action")]
    events = history.filter(pa.array(good & (ints(history, "at") < cutoffs[-1])))
    events = sort_rows(events, ("user_id", "item_id", "at", "event_id"))
    keys = np.rec.fromarrays([ints(events, "user_id"), ints(events, "item_id")])
    events = events.take(pa.array(group_offsets(keys)[:-1]))
    at = ints(events, "at")
    before = np.maximum(np.searchsorted(cutoffs, at, side="right") - 1, 0)
    query_items, topics, confidences = _logged(events, outcomes, queries)
    return PAIRS.build(
        {
            "user_id": events["user_id"],
            "cutoff": np.asarray(cutoffs, np.int64)[before],
            "item_id": events["item_id"],
            "at": at,
            "query_item_id": query_items,
            "logged_topics": topics,
            "logged_confidences": confidences,
        }
    )


def _logged(events: pa.Table, outcomes: pa.Table, queries: pa.Table) -> tuple[Any, Any, Any]:
    """Each event's query item, condition topics and confidences, null or empty where unknown."""
    outcomes = outcomes.filter(pc.greater(outcomes["draw_id"], 0))
    outcomes = outcomes.sort_by(
        [("impression_id", "ascending"), ("credit", "descending"), ("draw_id", "ascending")]
    )
    outcomes = outcomes.take(pa.array(group_offsets(ints(outcomes, "impression_id"))[:-1]))
    impressions = pc.coalesce(events["credited_id"], events["impression_id"])
    place = pc.index_in(impressions, value_set=outcomes["impression_id"].combine_chunks())
    is_item = pc.equal(outcomes["query_type"], "item").combine_chunks()
    items = pc.if_else(is_item, outcomes["query_id"].combine_chunks(), pa.scalar(None, pa.int64()))
    draws = outcomes["draw_id"].combine_chunks().take(place.combine_chunks())
    row = pc.index_in(draws, value_set=queries["draw_id"].combine_chunks())
    conditions = queries["conditions"].combine_chunks().take(row)
    offsets = np.r_[0, np.cumsum(pc.fill_null(pc.list_value_length(conditions), 0))]
    ends = pa.array(offsets.astype(np.int32))
    parts = conditions.flatten()
    topics, confidences = (pa.ListArray.from_arrays(ends, parts.field(i)) for i in (0, 1))
    return items.take(place.combine_chunks()), topics, confidences
