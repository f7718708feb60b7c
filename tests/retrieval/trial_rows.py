"""Small trials: items on a circle, histories by hand."""

import numpy as np
import pyarrow as pa

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.history import ProfileConfig
from retrieval.evaluation.clusterings import Histories
from retrieval.index.exact import Lists
from tests.retrieval.evaluation_rows import catalogue


def on_circle(*degrees):
    """Items 100, 101, ... at these angles of the plane."""
    angles = np.radians(np.array(degrees, np.float64))
    return catalogue([[1]] * len(degrees), np.c_[np.cos(angles), np.sin(angles)])


def events_of(rows):
    """(user, item, day[, action]) in the order of their event ids."""
    full = [(*row, "long_view")[:4] for row in rows]
    users, items, days, actions = zip(*full, strict=True)
    return pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "event_id": np.arange(len(rows)),
            "item_id": pa.array(items, pa.int64()),
            "at": (np.array(days) * DAY_US).astype(np.int64),
            "action": pa.array(actions),
        }
    )


def histories_of(rows, items, **options):
    """Histories of `events_of(rows)`."""
    return Histories.of(events_of(rows), items, ProfileConfig(**options), DEFAULT_ACTIONS)


def lists(*some):
    """Lists of item rows or ids."""
    offsets = np.cumsum([0, *map(len, some)]).astype(np.int64)
    return Lists(offsets, np.array([v for one in some for v in one], np.int64))


def many(seed=0, n_items=60, n_users=25, width=5):
    """A random catalogue in bunches, and histories of 1 to 20 events."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, width))
    vectors = centres[rng.integers(6, size=n_items)] + 0.3 * rng.normal(size=(n_items, width))
    items = catalogue([[1]] * n_items, vectors)
    rows = [
        (user, 100 + int(rng.integers(n_items)), float(rng.uniform(0, 80)))
        for user in range(n_users)
        for _ in range(rng.integers(1, 21))
    ]
    return items, histories_of(rows, items)
