"""The tables that retrieval writes."""

from __future__ import annotations

import pyarrow as pa

from profiling.schema import TIMESTAMP, Column, TableSchema
from profiling.tables import F32, F64, I16, I32, I64, TEXT, VECTOR
from selection.tables import DATE

DRAW_LIST = pa.list_(pa.struct([("draw_id", I64), ("rank", I32), ("score", F32)]))
PENALTY_LIST = pa.list_(pa.struct([("spacing_class", TEXT), ("penalty", F64)]))

CANDIDATES = TableSchema(
    "CANDIDATES",
    1,
    ("user_id", "draw_id", "item_id"),
    (
        Column("draw_id", I64, "the draw that retrieved it"),
        Column("item_id", I64, "the candidate"),
        Column("user_id", I64, "for whom"),
        Column("surface", TEXT, "where"),
        Column("slot", I16, "slot of the draw", low=0),
        Column("score", F32, "inner product with the query, rounded before ordering"),
        Column("rank", I32, "place in the draw's list, from 0", low=0),
        Column("condition_matched", pa.bool_(), "whether it carries a topic of the condition"),
    ),
)

ENCODINGS = TableSchema(
    "ENCODINGS",
    1,
    ("run_date", "user_id"),
    (
        Column("run_date", DATE, "the night that made it"),
        Column("user_id", I64, "whose history"),
        Column("model", I64, "number of the model that read it", low=1),
        Column("encoding", VECTOR, "what a request needs of the history; any condition joins it"),
    ),
)

FEED = TableSchema(
    "FEED",
    1,
    ("run_date", "user_id", "surface", "position"),
    (
        Column("run_date", DATE, "the night that built it"),
        Column("user_id", I64, "for whom"),
        Column("surface", TEXT, "where"),
        Column("position", I32, "place in the feed, from 0", low=0),
        Column("serve_date", DATE, "the day it is for: run_date + 1"),
        Column("item_id", I64, "what to show"),
        Column("draw_id", I64, "the draw whose slot it took"),
        Column("draws", DRAW_LIST, "every draw that retrieved it, with rank and score"),
        Column("relevance", F64, "f(r): min-max per feed", low=0, high=1),
        Column("diversity", F64, "what the diversity term added"),
        Column("penalties", PENALTY_LIST, "the ledger: penalty of every spacing class"),
        Column("config_version", TEXT, "digest of the feed's config"),
    ),
)

HISTORIES = TableSchema(
    "HISTORIES",
    1,
    ("user_id", "cutoff"),
    (
        Column("user_id", I64, "whose history"),
        Column("cutoff", TIMESTAMP, "what happened before it, exclusive"),
        Column("item_ids", pa.list_(I64), "engaged items, each once, newest first"),
        Column("ages", pa.list_(F32), "age of each at the cut-off", "days"),
        Column("cluster_item_ids", pa.list_(I64), "medoids, by falling importance"),
        Column("cluster_importances", pa.list_(F32), "their importance, as in PROFILES"),
    ),
)

PAIRS = TableSchema(
    "PAIRS",
    1,
    ("user_id", "item_id"),
    (
        Column("user_id", I64, "who"),
        Column("cutoff", TIMESTAMP, "the history's: the last nightly cut-off up to the positive"),
        Column("item_id", I64, "the positive: with what the user engaged"),
        Column("at", TIMESTAMP, "when, for the first time"),
        Column("query_item_id", I64, "the query that brought it, where logged", nullable=True),
        Column("logged_topics", pa.list_(I64), "the condition of that query; empty: none known"),
        Column("logged_confidences", pa.list_(F32), "confidence of each of these topics"),
    ),
)
