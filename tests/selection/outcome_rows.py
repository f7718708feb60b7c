"""Rows for the tests of step 2."""

from datetime import date

import numpy as np
import pyarrow as pa

from profiling.actions import Action
from profiling.decay import DAY_US, HOUR_US
from profiling.items import Items, unit_rows
from profiling.tables import HISTORY, PAST_PROFILES, PROFILES
from selection.draws import DRAWS
from selection.outcomes import OutcomeConfig, OutcomeInputs, attribute_outcomes
from selection.tables import IMPRESSIONS, OPEN, OUTCOMES

ACTIONS = (Action("view", 0.75), Action("like", 0.5), Action("hate", -1.0, positive=False))
VIEW, LIKE, HATE = 1, 2, 4  # their bits
START = date(2024, 3, 1)
ZERO = (START - date(1970, 1, 1)).days * DAY_US
CONFIG = OutcomeConfig()


def nullable(values, type_=None):
    return pa.array(values, type_ or pa.int64())


def at(hours):
    return ZERO + round(hours * HOUR_US)


def impression(id_, hours, user=7, item=0, draw=None, actions=None, position=None, digest=0):
    return {
        "impression_id": id_, "user_id": user, "item_id": item, "at": at(hours),
        "surface": "home", "request_id": None, "position": position, "draw_id": draw,
        "actions": actions, "content_digest": digest,
    }  # fmt: skip


def event(id_, hours, user=7, item=0, action=0, named=None):
    return {
        "user_id": user, "event_id": id_, "item_id": item, "action": action, "at": at(hours),
        "impression_id": named, "credited_id": None, "content_digest": 0,
    }  # fmt: skip


def draw(id_, user=7, day=0):
    return {
        "draw_id": id_, "user_id": user, "surface": "home", "at": ZERO + (day + 1) * DAY_US,
        "per_request": False, "query_type": "item", "query_id": 50 + id_, "cluster_id": id_,
        "propensity": 0.5, "policy": "reward v1", "arm": "a",
    }  # fmt: skip


def profile(user, medoid, hours):
    return {
        "user_id": user, "cluster_id": medoid, "medoid_item_id": medoid, "item_ids": [medoid],
        "n_items": 1, "action_counts": [1, 0, 0], "importance": 1.0, "as_of": at(hours),
        "first_at": at(hours), "last_at": at(hours), "lineage": "born", "from_cluster_ids": [],
        "n_born": 1, "cutoff": at(hours), "embedding_version": "v1",
    }  # fmt: skip


def table(schema, rows):
    return schema.build(
        {c.name: pa.array([r[c.name] for r in rows], c.type) for c in schema.columns}
    )


ITEMS = Items(
    ids=np.arange(6),
    vectors=unit_rows(np.eye(6, 3, dtype=np.float32) + np.eye(6, 3, -3, dtype=np.float32)),
    version="v1",
    topic_offsets=np.zeros(7, np.int64),
    topic_ids=np.zeros(0, np.int64),
    topic_confidences=np.zeros(0, np.float32),
    created_at=np.zeros(6, np.int64),
)  # items 0 and 3, 1 and 4, 2 and 5 have the same vector; others are orthogonal


def inputs(impressions=(), history=(), draws=(), past=(), tonight=(), **given_):
    return OutcomeInputs(
        impressions=table(IMPRESSIONS, impressions),
        open=given_.get("open", OPEN.empty()),
        history=history if isinstance(history, pa.Table) else table(HISTORY, history),
        draws=table(DRAWS, draws),
        feed=given_.get("feed"),
        profiles=table(PROFILES, tonight),
        past_profiles=table(PAST_PROFILES, past),
        items=ITEMS,
        last_outcomes=given_.get("last_outcomes", OUTCOMES.empty()),
    )


def run(tables, hours=240.0, parent=None, config=CONFIG):
    return attribute_outcomes(
        tables,
        config,
        ACTIONS,
        now=at(hours),
        run_date=START,
        parent_cutoff=None if parent is None else at(parent),
    )
