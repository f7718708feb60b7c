"""KEYS: the original ids of imported rows."""

from __future__ import annotations

from profiling.schema import Column, TableSchema
from profiling.tables import I64, TEXT

KEYS = TableSchema(
    "KEYS",
    1,
    ("kind", "id"),
    (
        Column("kind", TEXT, "user, item, topic, event, impression or draw"),
        Column("id", I64, "63-bit keyed hash of the original", low=0),
        Column("original", TEXT, "the string id of the source"),
    ),
)
