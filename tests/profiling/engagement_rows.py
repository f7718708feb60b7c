"""ENGAGEMENTS from short rows."""

import numpy as np
import pyarrow as pa

from profiling.tables import ENGAGEMENTS


def engagements(rows):
    """ENGAGEMENTS of (event_id, user_id, item_id, action, at)."""
    event, user, item, action, at = zip(*rows, strict=True) if rows else [()] * 5
    return ENGAGEMENTS.build(
        {
            "event_id": np.array(event, np.int64),
            "user_id": np.array(user, np.int64),
            "item_id": np.array(item, np.int64),
            "action": pa.array(action, pa.string()),
            "at": np.array(at, np.int64),
            "impression_id": pa.nulls(len(rows), pa.int64()),
            "synthetic": pa.array([False] * len(rows), pa.bool_()),
            "content_digest": np.array(event, np.int64) * 7,
        }
    )
