"""New rows go to the bucket of their user, through files: only their names travel with Beam.

A landed row group is split into one Arrow file with one record batch per bucket; a bucket then
reads its batches from all of them. So memory is bounded by the row groups and buckets in flight on
any runner, and a row is moved once. The files lie with the plan's staged records and go with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.runners.buckets import Bucket
from pipelines.runners.workers import CheckWorkers
from pipelines.store.manifests import LandedGroup
from pipelines.store.storage import HashingSink, join, open_parquet_source, unique_name
from pipelines.store.tables import concat, read_row_group
from profiling.hashing import buckets_of
from profiling.schema import ints

Split = tuple[str, str, int]  # table, Arrow file, record batch


@dataclass
class IntoBuckets(beam.PTransform):
    """Landed row groups -> every bucket, with its new rows.

    Every bucket comes out, also one without new rows: time passes for its users too.

    Attributes:
        root: The warehouse.
        n_buckets: How many.
        landed: What is new; often nothing.
        folder: Where the files between lie.
    """

    root: str
    n_buckets: int
    landed: tuple[LandedGroup, ...] = ()
    folder: str = ""

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Split the new rows, and gather the names of the splits by bucket."""
        if not self.landed:
            buckets = start | "buckets" >> beam.Create(range(self.n_buckets))
            return buckets | CheckWorkers(self.root) | beam.Map(Bucket)
        splits = (
            start
            | "landed row groups" >> beam.Create(list(self.landed))
            | "check splitters" >> CheckWorkers(self.root)
            | "split" >> beam.FlatMap(split_landed, self.root, self.n_buckets, self.folder)
        )
        every = (
            start
            | "every bucket" >> beam.Create(range(self.n_buckets))
            | "nothing new" >> beam.Map(nothing_new)
        )
        return (
            (splits, every)
            | "both" >> beam.Flatten()
            | "by bucket" >> beam.GroupByKey()
            | "check gatherers" >> CheckWorkers(self.root)
            | "gather" >> beam.Map(gather_bucket)
        )


def split_landed(
    group: LandedGroup, root: str, n_buckets: int, folder: str
) -> Iterator[tuple[int, Split]]:
    """Write the rows of one landed row group by bucket; yields where each bucket's lie."""
    table = read_row_group(root, group.table, group.path, group.row_group)
    buckets = buckets_of(ints(table, "user_id"), n_buckets)
    order = np.argsort(buckets, kind="stable")
    bounds = np.searchsorted(buckets[order], np.arange(n_buckets + 1))
    path = join(folder, f"{unique_name(group.table)}.arrow")
    found = np.flatnonzero(np.diff(bounds)).tolist()
    splits = [table.take(pa.array(order[bounds[b] : bounds[b + 1]])) for b in found]
    write_batches(path, splits)
    for batch, b in enumerate(found):
        yield b, (group.table, path, batch)


def write_batches(path: str, tables: list[pa.Table]) -> None:
    """An Arrow file of one record batch a table."""
    sink, options = HashingSink(path), pa.ipc.IpcWriteOptions(compression="lz4")
    try:
        with pa.ipc.new_file(sink, tables[0].schema, options=options) as writer:
            for table in tables:
                writer.write_batch(table.combine_chunks().to_batches()[0])
        sink.close()
    except BaseException:
        sink.discard()
        raise


def nothing_new(number: int) -> tuple[int, Split]:
    """A bucket's number, with no rows."""
    return number, ("", "", 0)


def gather_bucket(keyed: tuple[int, Iterable[Split]]) -> Bucket:
    """One bucket of many splits; the steps sort, so the order of the splits does not matter."""
    number, splits = keyed
    tables: dict[str, list[pa.Table]] = {}
    for name, path, batch in splits:
        if name:
            rows = pa.ipc.open_file(open_parquet_source(path)).get_batch(batch)
            tables.setdefault(name, []).append(pa.Table.from_batches([rows]))
    return Bucket(number, {name: concat(name, found) for name, found in tables.items()})
