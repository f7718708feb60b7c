"""Any log whose Parquet or CSV files follow our column names, or are mapped to them.

Rows of REJECTED count the rows of data in their file, the first is 1. What the user did in a log
line of IMPRESSIONS (`actions`) is attributed, but a profile only knows ENGAGEMENTS: give those too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.catalogue import one_row_per_id
from pipelines.importers.columns import (
    ID_KINDS,
    Reading,
    check_columns,
    conform,
    missing_ids,
    raw_column,
    wanted_columns,
)
from pipelines.importers.files import ReadFile, find_files, plain, read_file
from pipelines.importers.foreign import ForeignLog, all_rejected
from pipelines.importers.keys import KINDS, KeyBook
from pipelines.importers.lists import (
    DELIMITER,
    TOPIC_FIELDS,
    as_pairs,
    as_vectors,
    common_width,
    is_list,
)
from pipelines.importers.mapping import SCHEMAS, TableMapping, known_columns, read_mapping
from pipelines.importers.rejects import malformed_rows
from pipelines.importers.scalars import share_of_integers
from pipelines.store.keys import KEYS
from profiling.actions import Actions
from profiling.schema import ints, sort_rows

_TOPICS = ("topic", "ITEMS")  # where ids stand in lists
Reads = dict[str, list[ReadFile]]
Note = Callable[[str], None]


def read_tables(  # noqa: PLR0913 (one input each)
    paths: Mapping[str, str | Path],
    actions: Actions,
    *,
    mapping: Path | TableMapping | None = None,
    hash_key: bytes,
    now_us: int,
    known_keys: pa.Table | None = None,
    width: int | None = None,
    note: Note = lambda text: None,
) -> ForeignLog:
    """Read tables of the world.

    Args:
        paths: ITEMS, TOPICS, ENGAGEMENTS, IMPRESSIONS or SERVED_DRAWS to a file, folder or glob.
        actions: The configured actions; a row with another is REJECTED.
        mapping: Which of their columns is which of ours, or the file that says it.
        hash_key: The warehouse's key for text ids.
        now_us: Events after it are REJECTED, int microseconds.
        known_keys: KEYS of the warehouse: its kinds stay text, collisions with it are errors.
        width: Of the vectors; by default that of most.
        note: Told what is being done.

    Raises:
        ValueError: A file is missing, empty, truncated, of another format, without rows, or lacks a
            column; a column is of a type that will not do; two text ids have one hash.
    """
    mapping = read_mapping(mapping) if isinstance(mapping, Path) else mapping or TableMapping()
    known = KEYS.empty() if known_keys is None else known_keys
    reads = _read_all(paths, mapping, note)
    reading = Reading(
        actions=actions,
        mapping=mapping,
        book=KeyBook(hash_key, known),
        text_kinds=frozenset(k for k in KINDS if _is_text(k, reads, mapping, known)),
        width=_width(reads, mapping) if width is None else width,
        now_us=now_us,
    )
    return _conform_all(reads, reading, note)


def _conform_all(reads: Reads, reading: Reading, note: Note) -> ForeignLog:
    notes = {f"{kind} ids are text: hashed, originals in KEYS" for kind in reading.text_kinds}
    tables: dict[str, pa.Table] = {}
    rejected: list[pa.Table] = []
    for name, files in reads.items():
        note(f"check {name}, {sum(read.rows.num_rows for read in files):,} rows")
        tables[name], refused, said = _read_table(name, files, reading)
        rejected += refused
        notes.update(said)
    return ForeignLog(
        tables=tables,
        rejected=all_rejected(rejected),
        keys=reading.book.table(),
        sources=[read.source for files in reads.values() for read in files],
        starts_at=_first_moment(tables),
        notes=sorted(notes),
    )


def _read_table(
    name: str, files: list[ReadFile], reading: Reading
) -> tuple[pa.Table, list[pa.Table], list[str]]:
    """Rows of all files in key order, REJECTED, and lines for people."""
    schema = SCHEMAS[name]
    parts = [conform(read, name, reading) for read in files]
    rejected = [refused for _, refused in parts] + [malformed_rows(read) for read in files]
    notes = [n for n in (missing_ids(name, read, reading.mapping) for read in files) if n]
    if name not in ("ITEMS", "TOPICS"):
        rows = pa.concat_tables([part.rows for part, _ in parts])
        return sort_rows(rows, (*schema.key, "content_digest")), rejected, notes
    merged = one_row_per_id([part for part, _ in parts], schema.key[0])
    if merged.duplicates:
        notes.append(f"{merged.duplicates:,} rows of {name} repeat another in full: kept once")
    return merged.rows, rejected + merged.rejected, notes


def _read_all(paths: Mapping[str, str | Path], mapping: TableMapping, note: Note) -> Reads:
    unknown = sorted(set(paths) - set(SCHEMAS))
    if unknown:
        raise ValueError(f"{unknown[0]} is no table to import; give {', '.join(SCHEMAS)}")
    reads: Reads = {}
    for table in (name for name in SCHEMAS if name in paths):
        wanted = wanted_columns(table, mapping)
        reads[table] = []
        for path, name in find_files(paths[table]):
            note(f"read {path}")
            reads[table].append(read_file(path, wanted, name))
        for read in reads[table]:
            check_columns(read, table, mapping)
    return reads


def _width(reads: Reads, mapping: TableMapping) -> int:
    """The width of most item vectors, else of most topic vectors, at least 1."""
    for table in ("ITEMS", "TOPICS"):
        vectors = []
        for read in reads.get(table, []):
            raw = raw_column(read, table, "embedding", mapping)
            if raw is not None:
                vectors.append(as_vectors(raw, f"{read.source.path}: {table}.embedding"))
        if common_width(vectors):
            return common_width(vectors)
    return 1


def _is_text(kind: str, reads: Reads, mapping: TableMapping, known: pa.Table) -> bool:
    """Whether ids of a kind are hashed: one answer for all columns, so that they match.

    In this order: what the mapping says; text if the warehouse has such KEYS; integers if a file
    holds them as integers; text if a Parquet file holds them as text; in CSV, text if most are no
    integers. A draw is ours and an integer: as text it is judged as in CSV.
    """
    if kind in mapping.ids:
        return mapping.ids[kind] == "text"
    if kind in known["kind"].unique().to_pylist():
        return True
    columns = [
        column
        for table, files in reads.items()
        for read in files
        for column in _columns_of(kind, read, table, mapping)
    ]
    if any(pa.types.is_integer(a.type) or pa.types.is_floating(a.type) for _, a in columns):
        return False
    texts = [(loose, a) for loose, a in columns if pa.types.is_string(a.type)]
    if any(not loose for loose, _ in texts):
        return True
    counts = [share_of_integers(a) for _, a in texts]
    return 2 * sum(n for n, _ in counts) < sum(total for _, total in counts)


def _columns_of(
    kind: str, read: ReadFile, table: str, mapping: TableMapping
) -> list[tuple[bool, pa.Array]]:
    """The ids of a kind in a file; True beside them where text may stand for integers."""
    found = []
    for name in (n for n in known_columns(table) if ID_KINDS.get(n) == kind):
        raw = raw_column(read, table, name, mapping)
        if raw is not None:
            found.append((read.is_csv or kind == "draw", raw))
    raw = raw_column(read, table, "topics", mapping) if (kind, table) == _TOPICS else None
    if raw is not None:
        delimiter = mapping.column(table, "topics").delimiter or DELIMITER
        pairs = as_pairs(raw, TOPIC_FIELDS, delimiter, f"{read.source.path}: {table}.topics")
        topics = plain(pc.struct_field(pc.list_flatten(pairs), TOPIC_FIELDS[0]))
        found.append((not is_list(raw.type), topics))
    return found


def _first_moment(tables: dict[str, pa.Table]) -> int | None:
    rows = tables.get("IMPRESSIONS")
    return int(ints(rows, "at").min()) if rows is not None and rows.num_rows else None
