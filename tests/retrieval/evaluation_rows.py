"""Small held-out sets: a catalogue of six items in three topics, and queries by hand."""

import datetime as dt

import numpy as np
import pyarrow as pa

from profiling.items import Items, unit_rows
from selection.tables import QUERIES

DAY = dt.date(2022, 4, 20)


def catalogue(topics, vectors=None, confidences=None):
    """Items 100, 101, ... with these lists of topics."""
    n, lengths = len(topics), [len(some) for some in topics]
    flat = np.array([topic for some in topics for topic in some], np.int64)
    sure = np.ones(len(flat)) if confidences is None else np.concatenate(confidences)
    return Items(
        ids=np.arange(100, 100 + n),
        vectors=unit_rows(np.asarray(np.eye(n) if vectors is None else vectors, np.float32)),
        version="v1",
        topic_offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        topic_ids=flat,
        topic_confidences=sure.astype(np.float32),
        created_at=np.zeros(n, np.int64),
    )


SIX = catalogue([[1], [1], [2], [2], [2, 3], [3]])


def queries_of(rows):
    """QUERIES from (user, slot, query item, topics of the condition[, surface])."""
    full = [(*row, "home")[:5] for row in rows]
    return pa.Table.from_pylist(
        [
            {
                "run_date": DAY,
                "user_id": user,
                "surface": surface,
                "slot": slot,
                "serve_date": DAY + dt.timedelta(days=1),
                "draw_id": 1000 * user + 10 * slot + len(surface),
                "cluster_id": slot,
                "query_type": "item",
                "query_id": item,
                "weight": 1.0,
                "propensity": 1.0,
                "set_probability": 1.0,
                "policy": "p",
                "arm": "",
                "conditions": [{"topic_id": topic, "confidence": 1.0} for topic in topics],
            }
            for user, slot, item, topics, surface in full
        ],
        QUERIES.arrow,
    )


def pairs_of(pairs):
    """(user_id, item_id) rows."""
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return pa.table(
        {"user_id": pa.array(users, pa.int64()), "item_id": pa.array(items, pa.int64())}
    )
