"""Users in buckets: state is read where it lies, results are written, a job leaves one record.

The element of every pipeline is a `Bucket`: all tables of a fixed share of the users, as Arrow.
Nothing here knows what a step does.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.progress import step_done
from pipelines.store.manifests import Tables, tables_from
from pipelines.store.storage import create_exclusive
from pipelines.store.tables import TableWriter, read_bucket


@dataclass
class Bucket:
    """All rows of one bucket of users.

    Attributes:
        number: The bucket.
        tables: By name; a step adds what it makes.
        counts: Rows by step, for the books.
        seconds: By step.
        sums: What a fit over all users needs of this bucket, as plain rows.
    """

    number: int
    tables: dict[str, pa.Table] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sums: list[dict[str, Any]] = field(default_factory=list)


class BucketCoder(beam.coders.Coder):
    """Arrow IPC: a slice travels as its own bytes, not as the table it was cut from."""

    def encode(self, bucket: Bucket) -> bytes:
        """Bytes of a bucket."""
        header = {"names": list(bucket.tables)} | {
            k: getattr(bucket, k) for k in ("number", "counts", "seconds", "sums")
        }
        blocks = [json.dumps(header).encode(), *map(_to_ipc, bucket.tables.values())]
        return b"".join(struct.pack("<q", len(b)) + b for b in blocks)

    def decode(self, encoded: bytes) -> Bucket:
        """Back."""
        blocks, place = [], 0
        while place < len(encoded):
            (size,) = struct.unpack_from("<q", encoded, place)
            blocks.append(memoryview(encoded)[place + 8 : place + 8 + size])
            place += 8 + size
        header = json.loads(bytes(blocks[0]))
        tables = [pa.ipc.open_stream(b).read_all() for b in blocks[1:]]
        named = dict(zip(header.pop("names"), tables, strict=True))
        return Bucket(tables=named, **header)

    def is_deterministic(self) -> bool:
        """Never used as a key."""
        return False


beam.coders.registry.register_coder(Bucket, BucketCoder)


def _to_ipc(table: pa.Table) -> bytes:
    if table.get_total_buffer_size() > 2 * table.nbytes:  # IPC writes lists of a slice whole
        table = table.take(np.arange(table.num_rows))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@dataclass
class ReadTables(beam.PTransform):
    """Add stored tables to every bucket, each read from where it lies.

    Attributes:
        root: The warehouse.
        stored: Files by the name under which the bucket gets them: `OUTCOMES` or, for tables of
            another night beside this one's, `last OUTCOMES`.
        columns: Of tables of which not all are needed, by the same name.
    """

    root: str
    stored: Tables
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One read a bucket and table."""
        return buckets | "read tables" >> beam.Map(
            read_tables, self.root, self.stored, self.columns
        )


def read_tables(
    bucket: Bucket,
    root: str,
    stored: Tables,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> Bucket:
    """The bucket with the stored tables' rows; a new bucket, as Beam asks."""
    chosen = columns or {}
    found = {
        name: read_bucket(root, name.rsplit(" ", 1)[-1], files, bucket.number, chosen.get(name))
        for name, files in stored.items()
    }
    return Bucket(bucket.number, bucket.tables | found, bucket.counts, bucket.seconds, bucket.sums)


@dataclass
class WriteTables(beam.PTransform):
    """Write the named tables of every bucket; the job's record says what was written.

    Files have attempt-unique names. Only what passes the final grouping enters the record, so a
    retried or zombie worker can never add a row.
    """

    root: str
    names: tuple[str, ...]
    stem: str
    record_path: str

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """Write, gather the records, write the one record of the job."""
        return (
            buckets
            | "write tables" >> beam.ParDo(_WriteTables(self.root, self.names, self.stem))
            | "one record" >> beam.GroupByKey()
            | "write record" >> beam.Map(write_record, self.record_path)
        )


class _WriteTables(beam.DoFn):
    """One file a table and bundle; yields (0, JSON) records."""

    def __init__(self, root: str, names: tuple[str, ...], stem: str) -> None:
        self._root, self._names, self._stem = root, names, stem

    def start_bundle(self) -> None:
        self._writers = {n: TableWriter(self._root, n, self._stem) for n in self._names}

    def process(self, bucket: Bucket) -> Iterator[tuple[int, str]]:
        started = time.perf_counter()
        with self._whole():
            for name, writer in self._writers.items():
                if name in bucket.tables:
                    writer.write(bucket.tables[name], bucket.number)
        seconds = bucket.seconds | {"write": time.perf_counter() - started}
        step_done("write", 0, 0)
        book = {"bucket": bucket.number, "counts": bucket.counts, "seconds": seconds}
        yield 0, json.dumps(book | {"sums": bucket.sums})

    def finish_bundle(self) -> Iterator[WindowedValue]:
        with self._whole():
            finished = {name: writer.finish() for name, writer in self._writers.items()}
        for name, written in finished.items():
            files = [asdict(f) for f in written]
            if files:
                record = (0, json.dumps({"table": name, "files": files}))
                window = GlobalWindow()
                yield WindowedValue(record, window.max_timestamp(), [window])

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Where one table cannot be written, the files begun of all are given up."""
        try:
            yield
        except BaseException:
            for writer in self._writers.values():
                writer.discard()
            raise


def write_record(keyed: tuple[int, Iterable[str]], path: str) -> str:
    """The job's one record: files by table, books by bucket. The first attempt's holds."""
    books: list[Any] = []
    files: list[Any] = []
    for record in map(json.loads, keyed[1]):
        (files if "table" in record else books).append(record)
    tables: dict[str, list[Any]] = {}
    for record in sorted(
        files, key=lambda r: min(p["bucket"] for f in r["files"] for p in f["parts"])
    ):
        tables.setdefault(record["table"], []).extend(record["files"])
    books.sort(key=lambda b: b["bucket"])
    create_exclusive(path, json.dumps({"tables": tables, "books": books}).encode())
    return path


@dataclass(frozen=True)
class JobRecord:
    """What a finished job left.

    Attributes:
        tables: Files by table.
        books: Counts, seconds and sums of every bucket, in bucket order.
        clock: Seconds it took, 0 where an earlier attempt had finished it.
    """

    tables: Tables
    books: list[dict[str, Any]]
    clock: float = 0.0

    @classmethod
    def from_json(cls, content: bytes) -> JobRecord:
        """Read back what `write_record` wrote."""
        raw = json.loads(content)
        return cls(tables_from(raw["tables"]), raw["books"])

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by step, summed over the buckets."""
        total: dict[str, dict[str, int]] = {}
        for book in self.books:
            for step, counts in book["counts"].items():
                into = total.setdefault(step, {})
                for what, rows in counts.items():
                    into[what] = into.get(what, 0) + rows
        return total

    def seconds(self) -> dict[str, float]:
        """Seconds of work by step, summed over the buckets."""
        total: dict[str, float] = {}
        for book in self.books:
            for step, spent in book["seconds"].items():
                total[step] = total.get(step, 0.0) + spent
        return total
