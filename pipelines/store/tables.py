"""Tables as Parquet files of a warehouse: schema by name, write in parts, read a part or all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import profiling.tables as profiling_tables
import retrieval.tables as retrieval_tables
import selection.tables as selection_tables
from pipelines.store.keys import KEYS
from pipelines.store.manifests import Part, StoredFile
from pipelines.store.storage import HashingSink, join, open_parquet_source, unique_name
from profiling.schema import TableSchema, ints

ROW_GROUP_ROWS = 1 << 20
MAX_FILE_BYTES = 256 << 20

_PASSING = ("HISTORIES", "PAIRS")  # made for one training or night, never stored

SCHEMAS: dict[str, TableSchema] = {
    value.name: value
    for module in (profiling_tables, selection_tables, retrieval_tables)
    for value in vars(module).values()
    if isinstance(value, TableSchema) and value.name not in _PASSING
} | {"KEYS": KEYS}


def schema_of(name: str, stored: pa.Schema | None = None) -> TableSchema:
    """The schema of table `name`; for ITEMS, with the vectors' width as `stored` has it.

    TOPICS are stored with an open width: their vectors may be null, and Arrow writes null vectors
    of a fixed width to Parquet but cannot read them back.
    """
    schema = SCHEMAS[name]
    if stored is not None and name == "ITEMS" and "embedding" in stored.names:
        vector = stored.field("embedding").type
        if pa.types.is_fixed_size_list(vector):
            return schema.of_width(vector.list_size)
    return schema


def encoding_of(schema: TableSchema, first: pa.Table) -> dict[str, Any]:
    """How a table is laid out in Parquet: fast to write and read, since state is rewritten nightly.

    Ids and floats hardly repeat, so only text goes through dictionaries; statistics are of the key
    columns, which queries select by. Half the time of Arrow's defaults, a tenth more bytes. A
    bucket's users span all ids, so statistics say nothing of who is in it: a Bloom filter does,
    and SQL about one user reads one bucket of each file.

    Args:
        schema: The table's.
        first: Rows of the first row group; the others are taken to have as many users.
    """
    text = [c.name for c in schema.columns if pa.types.is_string(c.type)]
    lists = [c.name for c in schema.columns if c.type == pa.list_(pa.string())]
    blooms = {}
    if "user_id" in schema.names:
        users = len(first["user_id"].unique())
        blooms["user_id"] = {"ndv": max(users, 1), "fpp": 0.01}
    return {
        "bloom_filter_options": blooms,
        "compression": "lz4",
        "use_dictionary": [*text, *(f"{name}.list.element" for name in lists)],
        "write_statistics": list(schema.key),
    }


class TableWriter:
    """Writes one table of one attempt: row groups in, `StoredFile` records out.

    A new file is begun when the present one has `max_bytes`. Nothing is visible until a
    manifest names it.
    """

    def __init__(
        self, root: str, name: str, stem: str, *, max_bytes: float = MAX_FILE_BYTES
    ) -> None:
        """Write below `root`/data/`name`, in files whose names begin with `stem`."""
        self._root, self._name, self._stem = root, name, stem
        self._max_bytes = max_bytes
        self._files: list[StoredFile] = []
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table, bucket: int, *, timed: bool = False) -> None:
        """Append rows of one bucket, at most `ROW_GROUP_ROWS` a row group.

        Args:
            table: Rows of the table, checked here.
            bucket: The users' bucket; -1 in landed files.
            timed: Note the first and last `at` of the rows, for landed files.
        """
        if table.num_rows == 0:
            return
        schema = schema_of(self._name, table.schema)
        table = schema.check(table, "write")
        schema.check_ranges(table, "write")
        groups = -(-table.num_rows // ROW_GROUP_ROWS)
        if self._writer is None:
            self._open()
        try:
            if self._writer is None:
                encoding = encoding_of(schema, table)
                self._writer = pq.ParquetWriter(self._sink, schema.arrow, **encoding)
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        except BaseException:
            self._sink.discard()
            raise
        at = ints(table, "at") if timed else None
        first, last = (0, 0) if at is None else (int(at.min()), int(at.max()))
        self._parts.append(Part(bucket, self._n_groups, groups, table.num_rows, first, last))
        self._n_groups += groups
        if self._sink.size >= self._max_bytes:
            self._finish_file()

    def finish(self) -> tuple[StoredFile, ...]:
        """Close; the records of all files, in the order written."""
        self._finish_file()
        return tuple(self._files)

    def discard(self) -> None:
        """Give up the file begun; no manifest will ever name it."""
        if self._writer is not None:
            self._sink.discard()

    def _open(self) -> None:
        self._path = f"data/{self._name}/{unique_name(self._stem)}.parquet"
        self._sink = HashingSink(join(self._root, self._path))
        self._parts: list[Part] = []
        self._n_groups = 0

    def _finish_file(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
            self._sink.close()
        except BaseException:
            self._sink.discard()
            raise
        rows = sum(p.rows for p in self._parts)
        self._files.append(
            StoredFile(self._path, rows, self._sink.size, self._sink.digest, tuple(self._parts))
        )
        self._writer = None


def write_table(root: str, name: str, table: pa.Table, stem: str) -> tuple[StoredFile, ...]:
    """Write a whole table that is not bucketed."""
    writer = TableWriter(root, name, stem)
    writer.write(table, -1)
    return writer.finish()


def read_files(
    root: str, name: str, files: Sequence[StoredFile], columns: Sequence[str] | None = None
) -> pa.Table:
    """All rows of the named files, in stored order; `columns` None means all, checked."""
    tables = [_read_groups(root, f, name, None, columns) for f in files]
    return concat(name, tables, columns)


def read_bucket(
    root: str,
    name: str,
    files: Iterable[StoredFile],
    bucket: int,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """The rows of one bucket."""
    tables = [
        _read_groups(root, f, name, range(p.row_group, p.row_group + p.row_groups), columns)
        for f in files
        for p in f.parts
        if p.bucket == bucket
    ]
    return concat(name, tables, columns)


def read_period(
    root: str,
    name: str,
    files: Iterable[StoredFile],
    period: tuple[int, int],
    columns: Sequence[str],
) -> pa.Table:
    """Rows of landed files, of the row groups with an event in the closed `period`."""
    tables = [
        _read_groups(root, f, name, range(p.row_group, p.row_group + p.row_groups), columns)
        for f in files
        for p in f.parts
        if p.first_at <= period[1] and p.last_at >= period[0]
    ]
    return concat(name, tables, columns)


def read_row_group(root: str, name: str, path: str, row_group: int) -> pa.Table:
    """One row group of a landed file."""
    with _undamaged(join(root, path)):
        table = _parquet(join(root, path)).read_row_group(row_group)
    return _checked(table, name, path, None)


def read_columns(root: str, path: str, row_group: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of one row group of a landed file, as they are stored."""
    with _undamaged(join(root, path)):
        return _parquet(join(root, path)).read_row_group(row_group, columns=list(columns))


def each_row_group(
    root: str, name: str, file: StoredFile, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The row groups of a file, one after the other; `columns` None means all."""
    with _undamaged(join(root, file.path)):
        source = _parquet(join(root, file.path))
        wanted = None if columns is None else list(columns)
        for group in range(source.num_row_groups):
            yield source.read_row_group(group, columns=wanted)


def filter_file(
    root: str, name: str, file: StoredFile, keep: Callable[[pa.Table], Any]
) -> StoredFile:
    """Write a file anew with the rows that `keep` ((n,) bool of a row group) says.

    Row groups keep their numbers, also where none of their rows is left: what names one, a night's
    inputs or a bucket's part, names the same one in the new file.
    """
    path = f"data/{name}/{unique_name('kept')}.parquet"
    sink, left = HashingSink(join(root, path)), []
    try:
        with _undamaged(join(root, file.path)):
            source = _parquet(join(root, file.path))
            schema, first = source.schema_arrow, source.read_row_group(0)
        encoding = encoding_of(schema_of(name, schema), first)
        with pq.ParquetWriter(sink, schema, **encoding) as writer:
            for rows in each_row_group(root, name, file):
                kept = rows.filter(pa.array(keep(rows)))
                left.append(kept.num_rows)
                writer.write_table(kept, row_group_size=ROW_GROUP_ROWS)
        sink.close()
    except BaseException:
        sink.discard()
        raise
    parts = tuple(
        replace(p, rows=sum(left[p.row_group : p.row_group + p.row_groups])) for p in file.parts
    )
    return StoredFile(path, sum(left), sink.size, sink.digest, parts)


def concat(name: str, tables: list[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
    """The tables' rows, one after the other; of no tables, no rows."""
    tables = [t for t in tables if t.num_rows]
    if not tables:
        empty = schema_of(name).empty()
        return empty.select(list(columns)) if columns is not None else empty
    return pa.concat_tables(tables)


def _read_groups(
    root: str, file: StoredFile, name: str, groups: range | None, columns: Sequence[str] | None
) -> pa.Table:
    wanted = None if columns is None else list(columns)
    with _undamaged(join(root, file.path)):
        source = _parquet(join(root, file.path))
        if groups is None:
            table = source.read(columns=wanted)
        else:
            table = source.read_row_groups(list(groups), columns=wanted)
    return _checked(table, name, file.path, columns)


def _checked(table: pa.Table, name: str, path: str, columns: Sequence[str] | None) -> pa.Table:
    version = int((table.schema.metadata or {}).get(b"queryloop.version", 1))
    if version > SCHEMAS[name].version:
        raise ValueError(
            f"{path}: {name} is of version {version}; this release reads up to version "
            f"{SCHEMAS[name].version}. Use the release that wrote it, or a later one."
        )
    if columns is not None:
        return table
    return schema_of(name, table.schema).check(table, path)


def stored_columns(path: str) -> list[str]:
    """The names of a stored file's columns; `path` is absolute or remote."""
    with _undamaged(path):
        return list(_footer(path).schema.to_arrow_schema().names)


def _parquet(path: str) -> pq.ParquetFile:
    """An open file of its own: two threads reading from one `ParquetFile` can wait for ever."""
    return pq.ParquetFile(open_parquet_source(path), metadata=_footer(path))


@lru_cache(maxsize=256)
def _footer(path: str) -> pq.FileMetaData:
    """A file's footer, read once a process: stored files never change."""
    return pq.read_metadata(open_parquet_source(path))


@contextmanager
def _undamaged(path: str) -> Iterator[None]:
    """What Arrow says of a file that is gone or damaged becomes an error that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read as Parquet ({problem}); the file is gone or damaged: restore "
            "it, or rebuild the nights that wrote it"
        ) from error
