"""ENGAGEMENTS from short rows, and the profiles of a first night."""

import numpy as np
import pyarrow as pa

from profiling.history import update_history
from profiling.profiles import ProfileInputs, build_profiles
from profiling.tables import ENGAGEMENTS, HISTORY, PAST_PROFILES, PROFILES


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


def first_profiles(events, items, config, actions, now):
    """PROFILES of the first night, at cut-off `now`, from ENGAGEMENTS."""
    done = update_history(
        HISTORY.empty(), events, items, actions, config, horizon_us=0, parent_cutoff=None
    )
    inputs = ProfileInputs(
        done.history, done.touched, PROFILES.empty(), PAST_PROFILES.empty(), items
    )
    nights = np.empty(0, np.int64)
    return build_profiles(inputs, config, actions, now=now, cutoffs=nights, horizon_us=0).profiles
