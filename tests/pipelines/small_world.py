"""A small feed log, the same on every run: items in topics, users with tastes, two kinds of log."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from pipelines.plan import cutoff_of
from profiling.decay import DAY_US, HOUR_US
from profiling.hashing import hash63, uniforms
from profiling.tables import ENGAGEMENTS, ITEMS
from selection.tables import IMPRESSIONS

FIRST = dt.date(2024, 3, 1)
WIDTH = 8
N_ITEMS, N_TOPICS, N_USERS = 120, 6, 40


def day(i: int) -> dt.date:
    """Day i of the log."""
    return FIRST + dt.timedelta(days=i)


def start_of(i: int) -> int:
    """Its first microsecond."""
    return cutoff_of(day(i)) - DAY_US


def items_table() -> pa.Table:
    """ITEMS: a topic centre with noise each."""
    rng = np.random.default_rng(5)
    topics = np.arange(N_ITEMS) % N_TOPICS
    centres = rng.normal(size=(N_TOPICS, WIDTH))
    vectors = centres[topics] + 0.3 * rng.normal(size=(N_ITEMS, WIDTH))
    return ITEMS.of_width(WIDTH).build(
        {
            "item_id": np.arange(N_ITEMS),
            "embedding": pa.array(list(vectors.astype(np.float32)), pa.list_(pa.float32(), WIDTH)),
            "embedding_version": ["v1"] * N_ITEMS,
            "topics": [[{"topic_id": int(t), "confidence": 1.0}] for t in topics],
            "created_at": pa.nulls(N_ITEMS, pa.timestamp("us", "UTC")),
            "labels": [[] for _ in range(N_ITEMS)],
            "title": [f"item {i}" for i in range(N_ITEMS)],
        }
    )


def engagements_table(first: int, last: int, per_user: int = 4) -> pa.Table:
    """ENGAGEMENTS of days `first` to `last`: some users, some items, all three actions."""
    rows = [
        (user, i, k)
        for i in range(first, last + 1)
        for user in range(N_USERS)
        for k in range(per_user)
        if uniforms("e", user, i, k)[0] < 0.4
    ]
    users, days, places = (np.array(c, np.int64) for c in zip(*rows, strict=True))
    draw = uniforms("item", users, days, places)
    action = np.array(["long_view", "like", "hate"])[
        np.searchsorted([0.6, 0.9], uniforms("a", users, days, places))
    ]
    columns = {
        "event_id": hash63("event", users, days, places),
        "user_id": users,
        "item_id": ((users * 7) % N_ITEMS + (draw * 30).astype(np.int64)) % N_ITEMS,
        "action": action.tolist(),
        "at": start_of(0)
        + days * DAY_US
        + (uniforms("t", users, days, places) * DAY_US).astype(int),
        "impression_id": pa.nulls(len(users), pa.int64()),
        "synthetic": np.zeros(len(users), bool),
        "content_digest": hash63("event", users, days, places),
    }
    return ENGAGEMENTS.build(columns)


def foreign_impressions(first: int, last: int, *, own_actions: bool) -> pa.Table:
    """IMPRESSIONS without draws; with `own_actions` the lines say what the user did."""
    rows = [
        (user, i, k)
        for i in range(first, last + 1)
        for user in range(N_USERS)
        for k in range(5)
        if uniforms("i", user, i, k)[0] < 0.5
    ]
    users, days, places = (np.array(c, np.int64) for c in zip(*rows, strict=True))
    n, draw = len(users), uniforms("shown", users, days, places)
    done = [["long_view"] if u < 0.3 else [] for u in uniforms("did", users, days, places)]
    return IMPRESSIONS.build(
        {
            "impression_id": hash63("impression", users, days, places),
            "user_id": users,
            "item_id": ((users * 7) % N_ITEMS + (draw * 40).astype(np.int64)) % N_ITEMS,
            "at": start_of(0)
            + days * DAY_US
            + (uniforms("ti", users, days, places) * DAY_US).astype(int),
            "surface": ["home"] * n,
            "request_id": pa.nulls(n, pa.string()),
            "position": pa.nulls(n, pa.int32()),
            "draw_id": pa.nulls(n, pa.int64()),
            "actions": done if own_actions else pa.nulls(n, pa.list_(pa.string())),
            "content_digest": hash63("impression", users, days, places),
        }
    )


def serve(feed: pa.Table, i: int, n_shown: int = 8) -> tuple[pa.Table, pa.Table]:
    """What users see and do on day i of a FEED: two of three come; they like even items."""
    feed = feed.filter(pa.array(feed["position"].to_numpy() < n_shown))
    users, items = feed["user_id"].to_numpy(), feed["item_id"].to_numpy()
    feed = feed.filter(pa.array(uniforms("comes", users, i) < 0.67))
    users, items = feed["user_id"].to_numpy(), feed["item_id"].to_numpy()
    position = feed["position"].to_numpy().astype(np.int64)
    at = start_of(i) + (uniforms("hour", users, i) * 20 * HOUR_US).astype(int) + position * 1000
    n = len(users)
    impression_ids = hash63("served", users, i, position)
    impressions = IMPRESSIONS.build(
        {
            "impression_id": impression_ids,
            "user_id": users,
            "item_id": items,
            "at": at,
            "surface": feed["surface"],
            "request_id": pa.nulls(n, pa.string()),
            "position": position.astype(np.int32),
            "draw_id": feed["draw_id"],
            "actions": pa.nulls(n, pa.list_(pa.string())),
            "content_digest": impression_ids,
        }
    )
    did = (uniforms("acts", users, i, position) < 0.3) & (items % 2 == 0)
    event_ids = hash63("acted", users[did], i, position[did])
    engagements = ENGAGEMENTS.build(
        {
            "event_id": event_ids,
            "user_id": users[did],
            "item_id": items[did],
            "action": ["long_view"] * int(did.sum()),
            "at": at[did] + HOUR_US,
            "impression_id": pa.nulls(int(did.sum()), pa.int64()),
            "synthetic": np.zeros(int(did.sum()), bool),
            "content_digest": event_ids,
        }
    )
    return impressions, engagements
