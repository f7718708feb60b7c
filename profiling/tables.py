"""Tables of the world that profiling reads first, those it writes, and REJECTED, which all write.

Vectors are declared with an open width; `ITEMS.of_width(d)` fixes it for a warehouse.
"""

from __future__ import annotations

import pyarrow as pa

from profiling.schema import TIMESTAMP, Column, TableSchema

I64, I32, I16, F64, F32 = pa.int64(), pa.int32(), pa.int16(), pa.float64(), pa.float32()
TEXT, VECTOR = pa.string(), pa.list_(F32)
TOPIC_LIST = pa.list_(pa.struct([("topic_id", I64), ("confidence", F32)]))
LABEL_LIST = pa.list_(pa.struct([("label", TEXT), ("score", F32)]))

ITEMS = TableSchema(
    "ITEMS",
    1,
    ("item_id",),
    (
        Column("item_id", I64, "the item", low=0),
        Column("embedding", VECTOR, "content vector, made a unit vector on read"),
        Column("embedding_version", TEXT, "the model that made the vector; versions never mix"),
        Column("topics", TOPIC_LIST, "its topics with confidence in [0, 1]"),
        Column("created_at", TIMESTAMP, "when it was made", nullable=True),
        Column("labels", LABEL_LIST, "sensitive-class labels with score in [0, 1]"),
        Column("title", TEXT, "for people to read", nullable=True),
    ),
)

TOPICS = TableSchema(
    "TOPICS",
    1,
    ("topic_id",),
    (
        Column("topic_id", I64, "the topic", low=0),
        Column("name", TEXT, "for people to read"),
        Column("embedding", VECTOR, "its vector in the items' space", nullable=True),
    ),
)

ENGAGEMENTS = TableSchema(
    "ENGAGEMENTS",
    1,
    ("event_id",),
    (
        Column("event_id", I64, "the event, unique", low=0),
        Column("user_id", I64, "who", low=0),
        Column("item_id", I64, "with what", low=0),
        Column("action", TEXT, "a configured action"),
        Column("at", TIMESTAMP, "when, UTC"),
        Column("impression_id", I64, "the impression it came of, where known", nullable=True),
        Column("synthetic", pa.bool_(), "whether an importer had to make up its time"),
        Column("content_digest", I64, "hash of the whole source row; tells duplicates apart"),
    ),
)

EXPOSURES = TableSchema(
    "EXPOSURES",
    1,
    ("user_id", "ordinal"),
    (
        Column("user_id", I64, "who", low=0),
        Column("ordinal", I32, "place in the user's earlier exposures, oldest first", low=0),
        Column("item_id", I64, "what was shown before the log begins, at an unknown time", low=0),
    ),
)

HISTORY = TableSchema(
    "HISTORY",
    1,
    ("user_id", "event_id"),
    (
        Column("user_id", I64, "who"),
        Column("event_id", I64, "the engagement"),
        Column("item_id", I64, "with what"),
        Column("action", I16, "code: place in the configured actions", low=0),
        Column("at", TIMESTAMP, "when"),
        Column("impression_id", I64, "the impression it came of, where logged", nullable=True),
        Column("credited_id", I64, "the impression that step 2 credited with it", nullable=True),
        Column("content_digest", I64, "as in ENGAGEMENTS"),
    ),
)

_PROFILE_COLUMNS = (
    Column("user_id", I64, "whose interest"),
    Column("cluster_id", I64, "its id, kept over nights by lineage, unique per user, never reused"),
    Column("medoid_item_id", I64, "its central member"),
    Column("item_ids", pa.list_(I64), "its members, ascending"),
    Column("n_items", I32, "number of members", low=1),
    Column("action_counts", pa.list_(I64), "engagements by action, in the configured order"),
    Column("importance", F64, "sum of exp(-lambda * age_days) over engagements, at as_of", low=0),
    Column("as_of", TIMESTAMP, "the user's latest positive engagement; importance is of then"),
    Column("first_at", TIMESTAMP, "first engagement that counts"),
    Column("last_at", TIMESTAMP, "last engagement that counts"),
    Column("lineage", TEXT, "born, continued, merged or split"),
    Column("from_cluster_ids", pa.list_(I64), "the clusters of the version before it came from"),
    Column("n_born", I64, "clusters born to this user so far: the next id", low=1),
    Column("cutoff", TIMESTAMP, "cut-off of the first night that could build this version"),
    Column("embedding_version", TEXT, "whose vectors it was clustered by"),
)

PROFILES = TableSchema("PROFILES", 1, ("user_id", "cluster_id"), _PROFILE_COLUMNS)

# Versions that a later night replaced but that an event or impression still open may refer to.
PAST_PROFILES = TableSchema(
    "PAST_PROFILES", 1, ("user_id", "cutoff", "cluster_id"), _PROFILE_COLUMNS
)

REJECTED = TableSchema(
    "REJECTED",
    1,
    ("source", "row", "reason"),
    (
        Column("source", TEXT, "file or table the row came from"),
        Column("row", I64, "row number in the file, or the id where a night refused it"),
        Column("user_id", I64, "whose row, where that could be read", nullable=True),
        Column("reason", TEXT, "why, with the value and the cure"),
        Column("raw", TEXT, "the row as JSON"),
    ),
)
