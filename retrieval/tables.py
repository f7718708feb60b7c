"""The tables that retrieval writes."""

from __future__ import annotations

import pyarrow as pa

from profiling.schema import Column, TableSchema
from profiling.tables import F32, F64, I16, I32, I64, TEXT
from selection.tables import DATE

DRAW_LIST = pa.list_(pa.struct([("draw_id", I64), ("rank", I32), ("score", F32)]))
TEXTS = pa.list_(TEXT)
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
        Column("score", F32, "cosine to the query, rounded before ordering"),
        Column("rank", I32, "place in the draw's list, from 0", low=0),
        Column("condition_matched", pa.bool_(), "whether it carries a topic of the condition"),
    ),
)

FEED = TableSchema(
    "FEED",
    2,
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
        Column("spacing_classes", TEXTS, "the spacing classes that the item is of"),
        Column("decided_by", TEXTS, "classes without which another item would stand here"),
    ),
    lifts={"spacing_classes": [], "decided_by": []},
)
