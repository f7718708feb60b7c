"""WEIGHTS: all that a draw needs of a night, for servers that draw per request."""

from __future__ import annotations

from profiling.schema import Column, TableSchema
from profiling.tables import F64, I32, I64, TEXT, TOPIC_LIST

WEIGHTS = TableSchema(
    "WEIGHTS",
    1,
    ("user_id", "surface", "cluster_id"),
    (
        Column("user_id", I64, "for whom", low=0),
        Column("surface", TEXT, "where"),
        Column("cluster_id", I64, "the interest"),
        Column("query_type", TEXT, "'item'"),
        Column("query_id", I64, "what a draw of it asks with"),
        Column("weight", F64, "selection weight, floor and calibration not yet in it", low=0),
        Column("queries", I32, "draws per request, of all interests together", low=1),
        Column("floor", F64, "share of the draws spread evenly over the interests", low=0, high=1),
        Column("policy", TEXT, "policy name and version"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
        Column("conditions", TOPIC_LIST, "topics that retrieval is held to, with confidence"),
    ),
)
