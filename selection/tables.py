"""IMPRESSIONS and SERVED_DRAWS of the world, and the tables that selection writes."""

from __future__ import annotations

import pyarrow as pa

from profiling.schema import TIMESTAMP, Column, TableSchema
from profiling.tables import F64, I16, I32, I64, TEXT, TOPIC_LIST

DATE = pa.date32()

_IMPRESSION_COLUMNS = (
    Column("impression_id", I64, "the impression, unique", low=0),
    Column("user_id", I64, "to whom", low=0),
    Column("item_id", I64, "what was shown", low=0),
    Column("at", TIMESTAMP, "when, UTC"),
    Column("surface", TEXT, "where: home, related, ..."),
    Column("request_id", TEXT, "the request that it answered", nullable=True),
    Column("position", I32, "place in the feed, from 0", nullable=True, low=0),
    Column("draw_id", I64, "the draw that brought it; null in foreign logs", nullable=True),
)

IMPRESSIONS = TableSchema(
    "IMPRESSIONS",
    1,
    ("impression_id",),
    (
        *_IMPRESSION_COLUMNS,
        Column(
            "actions",
            pa.list_(TEXT),
            "what the user did, where the log line says so; null: joined from ENGAGEMENTS",
            nullable=True,
        ),
        Column("content_digest", I64, "hash of the whole source row; tells duplicates apart"),
    ),
)

OPEN = TableSchema(
    "OPEN",
    1,
    ("user_id", "impression_id"),
    (
        *_IMPRESSION_COLUMNS,
        Column("actions", I64, "bit mask of configured actions; null: to be joined", nullable=True),
        Column("content_digest", I64, "as in IMPRESSIONS"),
    ),
)

SERVED_DRAWS = TableSchema(
    "SERVED_DRAWS",
    1,
    ("draw_id",),
    (
        Column("draw_id", I64, "the draw", low=1),
        Column("user_id", I64, "for whom", low=0),
        Column("request_id", TEXT, "the request it was made for"),
        Column("at", TIMESTAMP, "when"),
        Column("surface", TEXT, "where"),
        Column("cluster_id", I64, "the interest"),
        Column("query_type", TEXT, "what query_id is: item, topic, ..."),
        Column("query_id", I64, "what retrieval was asked with"),
        Column("propensity", F64, "inclusion probability of the cluster", low=0, high=1),
        Column("set_probability", F64, "probability of the whole set", low=0, high=1),
        Column("policy", TEXT, "policy name and version"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
        Column("state_version", TEXT, "the rewards that the draw was made from"),
        Column("content_digest", I64, "hash of the whole source row"),
    ),
)

OUTCOMES = TableSchema(
    "OUTCOMES",
    1,
    ("user_id", "impression_id", "draw_id"),
    (
        Column("impression_id", I64, "the impression"),
        Column("draw_id", I64, "the draw that is credited, 0 if none"),
        Column("run_date", DATE, "the night that wrote the row"),
        Column("user_id", I64, "to whom"),
        Column("query_type", TEXT, "'' where not attributed"),
        Column("query_id", I64, "the query that brought it", nullable=True),
        Column("cluster_id", I64, "the interest it came from, as of then", nullable=True),
        Column("item_id", I64, "what was shown"),
        Column("at", TIMESTAMP, "when"),
        Column("surface", TEXT, "where"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
        Column("policy", TEXT, "policy name and version, '' where no draw is known"),
        Column("position", I32, "place in the feed", nullable=True),
        Column("examination", F64, "probability that the user looked", low=0, high=1),
        Column("value", F64, "weighted sum of its actions, clipped"),
        Column("actions", I64, "bit mask of the configured actions"),
        Column("credit", F64, "share of the impression; sums to 1 over its rows", low=0, high=1),
        Column("attribution", TEXT, "logged, inferred or none"),
        Column("propensity", F64, "of the draw, where known", nullable=True, low=0, high=1),
    ),
)

CLOSED_DRAWS = TableSchema(
    "CLOSED_DRAWS",
    1,
    ("user_id", "draw_id"),
    (
        Column("draw_id", I64, "a draw whose horizon ended"),
        Column("user_id", I64, "for whom"),
        Column("surface", TEXT, "where"),
        Column("query_type", TEXT, "what query_id is"),
        Column("query_id", I64, "the query"),
        Column("at", TIMESTAMP, "end of the day it was for"),
        Column("state", TEXT, "brought (an impression), empty, or unserved: the user never came"),
        Column("propensity", F64, "inclusion probability", low=0, high=1),
        Column("policy", TEXT, "policy name and version"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
    ),
)

REWARDS = TableSchema(
    "REWARDS",
    1,
    ("user_id", "surface", "query_type", "query_id"),
    (
        Column("user_id", I64, "whose"),
        Column("surface", TEXT, "where"),
        Column("query_type", TEXT, "what query_id is"),
        Column("query_id", I64, "the query"),
        Column("w", F64, "sum of weights (examination * credit), decayed to as_of", low=0),
        Column("wy", F64, "sum of weight * y, y = (value - lo) / (hi - lo)", low=0),
        Column("w2", F64, "sum of squared weights: decays twice as fast", low=0),
        Column("w2y", F64, "sum of squared weight * y", low=0),
        Column("w2y2", F64, "sum of squared weight * y^2", low=0),
        Column("impressions", I64, "outcomes ever counted here", low=0),
        Column("action_counts", pa.list_(I64), "by action, in the configured order"),
        Column("draws", I64, "draws ever closed here", low=0),
        Column("empty_draws", I64, "of these, draws that brought no impression", low=0),
        Column("draw_w", F64, "draws closed, decayed to as_of", low=0),
        Column("drawn_w", F64, "weight of the impressions that draws brought, decayed", low=0),
        Column("as_of", TIMESTAMP, "latest event here; the sums are of then"),
        Column("last_at", TIMESTAMP, "latest impression here", nullable=True),
    ),
)

ITEM_RATES = TableSchema(
    "ITEM_RATES",
    1,
    ("surface", "arm", "item_id"),
    (
        Column("surface", TEXT, "where"),
        Column("arm", TEXT, "arm of an isolated experiment, '' if all are pooled"),
        Column("item_id", I64, "what was shown"),
        Column("w", F64, "sum of weights over all users, decayed to as_of", low=0),
        Column("wy", F64, "sum of weight * y, y = (value - lo) / (hi - lo)", low=0),
        Column("impressions", I64, "outcomes ever counted here", low=0),
        Column("as_of", TIMESTAMP, "latest event here; the sums are of then"),
    ),
)

CLUSTER_REWARDS = TableSchema(
    "CLUSTER_REWARDS",
    3,
    ("user_id", "surface", "cluster_id"),
    (
        Column("user_id", I64, "whose"),
        Column("surface", TEXT, "where"),
        Column("cluster_id", I64, "the interest"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
        Column("query_type", TEXT, "'item'"),
        Column("query_id", I64, "tonight's medoid: what a draw of it asks with"),
        Column("importance", F64, "as in PROFILES: shares are what counts", low=0),
        Column("actions", I64, "positive engagements: the weight of the policy `counts`", low=0),
        Column("weight", F64, "sum of weights, decayed to the cut-off", low=0),
        Column("effective_n", F64, "Kish: (sum w)^2 / sum w^2", low=0),
        Column("raw_rate", F64, "value per impression; null without a record", nullable=True),
        Column("reward", F64, "shrunk value per impression"),
        Column("low", F64, "95 % interval"),
        Column("high", F64, "95 % interval"),
        Column("prior_source", TEXT, "observed, evidence, user average or global average"),
        Column("prior_mean", F64, "what the rate shrinks to, in value units"),
        Column("prior_strength", F64, "k: impressions that the prior is worth", low=0),
        Column("posterior_a", F64, "Beta posterior of y, for Thompson sampling", low=0),
        Column("posterior_b", F64, "Beta posterior of y", low=0),
        Column("draws", F64, "closed draws, decayed to the cut-off", low=0),
        Column("reward_per_draw", F64, "shrunk impressions per draw * reward", nullable=True),
        Column("prior", TEXT, "what the arm leans on: average, or evidence"),
        Column(
            "own_evidence",
            F64,
            "h: what the user did with items like the query; null without `prior: evidence`",
            nullable=True,
        ),
        Column(
            "item_evidence",
            F64,
            "G: what everyone did with the items around it; null without `prior: evidence`",
            nullable=True,
        ),
        Column(
            "last_chance",
            DATE,
            "last day of an impression or of a closed draw for a user who came; null: none",
            nullable=True,
        ),
    ),
    lifts={"prior": "average", "own_evidence": None, "item_evidence": None, "last_chance": None},
)

QUERIES = TableSchema(
    "QUERIES",
    2,
    ("run_date", "user_id", "surface", "slot"),
    (
        Column("run_date", DATE, "the night that drew it"),
        Column("user_id", I64, "for whom"),
        Column("surface", TEXT, "where"),
        Column("slot", I16, "place among the user's draws, from 0", low=0),
        Column("serve_date", DATE, "the day it is for: run_date + 1"),
        Column("draw_id", I64, "opaque; the serving system echoes it", low=1),
        Column("cluster_id", I64, "the interest"),
        Column("query_type", TEXT, "'item'"),
        Column("query_id", I64, "what retrieval is asked with"),
        Column("weight", F64, "selection weight, floor and calibration not yet in it", low=0),
        Column("propensity", F64, "inclusion probability of the cluster", low=0, high=1),
        Column("set_probability", F64, "probability of the whole set", low=0, high=1),
        Column("policy", TEXT, "policy name and version"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
        Column("conditions", TOPIC_LIST, "topics that retrieval is held to, with confidence"),
        Column("reward", F64, "of the interest when it was drawn", nullable=True),
        Column("prior_source", TEXT, "what that reward leaned on", nullable=True),
    ),
    lifts={"reward": None, "prior_source": None},
)
