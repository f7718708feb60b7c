"""The floor under each step of a night: what this machine needs for the work that no way avoids.

Rates are measured on one core, on files and shapes of the night itself, medians of five: decoding
and encoding its Parquet, float32 matrix products (BLAS), sorting int64 keys, copying memory. The
work is counted from what the night read and wrote. What a step takes beyond its floor goes into all
else: joins, groupings, copies between Arrow and NumPy, cache misses.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pipelines.night import CHOSEN, LEARNED, SERVED, STEPS
from pipelines.plan import open_items
from pipelines.store.manifests import Manifest, StoredFile
from pipelines.store.storage import join
from pipelines.store.tables import encoding_of, read_bucket, schema_of
from pipelines.store.warehouse import Warehouse
from profiling.schema import ints

PRODUCT = (64, 64, 4096)  # queries of a block x width x items of a slice


@dataclass(frozen=True)
class Machine:
    """One core at its best, in units a second."""

    decoded: float  # bytes of Parquet
    encoded: float  # bytes of Parquet
    products: float  # multiply-adds of float32
    sorted: float  # int64 keys
    copied: float  # bytes of memory


@dataclass(frozen=True)
class Work:
    """What a step cannot do without."""

    decoded: float = 0
    encoded: float = 0
    products: float = 0
    sorted: float = 0
    copied: float = 0

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Core seconds by kind of work."""
        return {
            "Parquet decode": self.decoded / machine.decoded,
            "Parquet encode": self.encoded / machine.encoded,
            "BLAS": self.products / machine.products,
            "sort": self.sorted / machine.sorted,
            "memory": self.copied / machine.copied,
        }


def rate(units: float, act: Callable[[], object], runs: int = 5) -> float:
    """Units a second, the median of `runs`."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return units / statistics.median(seconds)


def measure_machine(root: str, name: str, file: StoredFile) -> Machine:
    """Rates of one core; `file` is a stored one of table `name`, to read and write."""
    path, rng = join(root, file.path), np.random.default_rng(0)
    groups = list(range(min(8, pq.ParquetFile(path).num_row_groups)))

    def read() -> pa.Table:
        return pq.ParquetFile(path).read_row_groups(groups, use_threads=False)

    table = read()
    size = file.bytes * table.num_rows / file.rows
    encoding = encoding_of(schema_of(name, table.schema), table)
    n, width, m = PRODUCT
    left, right = rng.random((n, width), np.float32), rng.random((width, m), np.float32)
    keys = rng.integers(0, 1 << 62, 1_000_000)
    source, target = np.zeros(1 << 25), np.zeros(1 << 25)
    with threadpool_limits(1):
        return Machine(
            decoded=rate(size, read),
            encoded=rate(size, lambda: pq.write_table(table, io.BytesIO(), **encoding)),
            products=rate(100 * n * width * m, lambda: [left @ right for _ in range(100)]),
            sorted=rate(len(keys), lambda: np.sort(keys)),
            copied=rate(2 * source.nbytes, lambda: np.copyto(target, source)),
        )


def work_of(warehouse: Warehouse, night: Manifest, before: Manifest) -> dict[str, Work]:
    """What the steps of `night`, which went on from `before`, cannot do without."""
    items = open_items(warehouse.root, night.catalogue["ITEMS"])
    landed = {f.path: f for x in warehouse.landings() for files in x.tables.values() for f in files}
    new_rows = sum(g.rows for g in night.inputs)
    new_bytes = sum(landed[g.path].bytes * g.rows / landed[g.path].rows for g in night.inputs)
    served = ("QUERIES", "HISTORY")
    works = {
        "build_profiles": Work(
            products=gram_products(warehouse, night, before) * items.width,
            sorted=sum(g.rows for g in night.inputs if g.table == "ENGAGEMENTS"),
        ),
        "attribute_outcomes": Work(sorted=new_rows),
        "tally_rewards": Work(sorted=night.counts["tally_rewards"]["in"]),
        "job 1": Work(
            decoded=stored_bytes(before, LEARNED) + new_bytes, encoded=stored_bytes(night, LEARNED)
        ),
        "job 2": Work(
            decoded=stored_bytes(night, ("PROFILES", "REWARDS")),
            encoded=stored_bytes(night, CHOSEN),
        ),
    }
    if "FEED" in night.tables:
        cells = scored_cells(warehouse, night)
        candidates = night.counts["rerank_feed"]["in"]
        works["retrieve_candidates"] = Work(products=cells * items.width, copied=2 * 4 * cells)
        works["rerank_feed"] = Work(sorted=candidates)
        works["job 3"] = Work(
            decoded=stored_bytes(night, served), encoded=stored_bytes(night, SERVED)
        )
    return works


def stored_bytes(night: Manifest, names: tuple[str, ...]) -> float:
    """Bytes of a night's tables."""
    return float(sum(f.bytes for name in names for f in night.tables.get(name, ())))


def gram_products(warehouse: Warehouse, night: Manifest, before: Manifest) -> float:
    """Pairs of items of one user, over users with new events: Ward's Gram matrices.

    Counted in an eighth of the buckets.
    """
    sample = range(0, warehouse.buckets, 8)
    pairs = 0.0
    for bucket in sample:
        files = night.tables["HISTORY"]
        rows = read_bucket(warehouse.root, "HISTORY", files, bucket, ["user_id", "at"])
        users, n_items = np.unique(ints(rows, "user_id"), return_counts=True)
        fresh = np.unique(ints(rows, "user_id")[ints(rows, "at") >= before.cutoff])
        pairs += float((n_items[np.isin(users, fresh)].astype(float) ** 2).sum())
    return pairs * warehouse.buckets / len(sample)


def scored_cells(warehouse: Warehouse, night: Manifest) -> float:
    """Scores of every draw with the items of its condition's slices."""
    items = open_items(warehouse.root, night.catalogue["ITEMS"])
    topics, offsets, _ = items.items_by_topic
    conditions = warehouse.read("QUERIES", night, ["conditions"])["conditions"].combine_chunks()
    asked = conditions.flatten().field("topic_id").to_numpy(zero_copy_only=False)
    sizes = np.diff(offsets)
    places = np.minimum(np.searchsorted(topics, asked), len(topics) - 1)
    return float(sizes[places][topics[places] == asked].sum())


def show_limits(warehouse: Warehouse, night: Manifest, before: Manifest, cores: int) -> None:
    """Print core seconds and floor of each step; a job's own line is its reading and writing."""
    file = max(night.tables["HISTORY"], key=lambda f: f.bytes)
    machine = measure_machine(warehouse.root, "HISTORY", file)
    print(
        f"    one core: Parquet decode {machine.decoded / 1e6:.0f} MB/s, encode "
        f"{machine.encoded / 1e6:.0f} MB/s; BLAS {2 * machine.products / 1e9:.0f} GFLOP/s; "
        f"sort {machine.sorted / 1e6:.0f} M keys/s; memory {machine.copied / 1e9:.1f} GB/s"
    )
    works = work_of(warehouse, night, before)
    read, written = (sum(getattr(w, k) for w in works.values()) for k in ("decoded", "encoded"))
    print(f"    read {read / 1e9:.2f} GB of Parquet, written {written / 1e9:.2f} GB")
    print(f"    {'step':<26} {'core s':>8} {'floor':>8}  by")
    for name, work in works.items():
        spent, title = night.seconds.get(name, 0.0), name
        if name.startswith("job"):
            steps = STEPS[name[-1]]
            spent = cores * spent - sum(night.seconds.get(step, 0.0) for step in steps)
            title = f"{name}, read, write, wait"
        parts = {k: s for k, s in work.seconds(machine).items() if s >= 0.005}
        by = ", ".join(f"{k} {s:.2f}" for k, s in parts.items())
        print(f"    {title:<26} {spent:8.1f} {sum(parts.values()):8.1f}  {by}")
