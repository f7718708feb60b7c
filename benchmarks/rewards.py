"""The reward run: ours on Beam, one DuckDB SQL statement, and idiomatic row-wise Beam.

    python benchmarks/rewards.py [--rows 20000000] [--keys 2000000] [--repeats 3]

Same Parquet in (OUTCOMES by bucket), same REWARDS columns out as Parquet, same keys. DuckDB gets as
many threads as ours has workers. Row-wise Beam is timed on a fifth of the users, ours beside it
on the same fifth, since it takes minutes on all. Nothing of the import, prior or roll-up is timed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.runners.buckets import Bucket, JobRecord, WriteTables
from pipelines.runners.shuffle import IntoBuckets
from pipelines.store.manifests import StoredFile
from pipelines.store.storage import join, read_bytes
from pipelines.store.tables import TableWriter, read_bucket, read_files
from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.hashing import buckets_of
from selection.rewards import RewardConfig, RewardInputs, tally_rewards
from selection.tables import CLOSED_DRAWS, OUTCOMES, REWARDS

BUCKETS = 64
COLUMNS = (
    "impression_id", "draw_id", "user_id", "query_type", "query_id", "at", "surface",
    "examination", "value", "actions", "credit",
)  # fmt: skip
CONFIG = RewardConfig()
NIGHT = 100 * DAY_US


def make_outcomes(root: str, rows: int, keys: int, seed: int = 7) -> tuple[StoredFile, ...]:
    """OUTCOMES of `rows` impressions: users with five queries each, 60 days, one in ten engaged."""
    rng = np.random.default_rng(seed)
    users = keys // 5
    by_bucket = buckets_of(np.arange(users), BUCKETS)
    writer, written = TableWriter(root, "OUTCOMES", "bench"), 0
    for bucket in range(BUCKETS):
        mine = np.flatnonzero(by_bucket == bucket)
        n = round(rows * len(mine) / users)
        who = np.sort(np.concatenate([mine, rng.choice(mine, n - len(mine))]))
        engaged = rng.random(n) < 0.1
        columns = {
            "impression_id": written + np.arange(n),
            "draw_id": rng.integers(1, 2**60, n),
            "run_date": pa.array(np.zeros(n, np.int32)).cast(pa.date32()),
            "user_id": who,
            "query_type": pa.repeat("item", n),
            "query_id": who * 5 + rng.integers(0, 5, n),
            "cluster_id": rng.integers(1, 6, n),
            "item_id": rng.integers(0, 200_000, n),
            "at": NIGHT - rng.integers(1, 60 * DAY_US, n),
            "surface": pa.repeat("home", n),
            "arm": pa.repeat("", n),
            "policy": pa.repeat("reward/1", n),
            "position": rng.integers(0, 25, n).astype(np.int32),
            "examination": np.ones(n),
            "value": engaged * 1.0,
            "actions": engaged.astype(np.int64),
            "credit": np.ones(n),
            "attribution": pa.repeat("logged", n),
            "propensity": rng.random(n),
        }
        writer.write(OUTCOMES.build(columns), bucket)
        written += n
    return writer.finish()


def read_outcomes(bucket: Bucket, root: str, files: tuple[StoredFile, ...]) -> Bucket:
    """The columns of OUTCOMES that a tally reads."""
    table = read_bucket(root, "OUTCOMES", files, bucket.number, COLUMNS)
    return Bucket(bucket.number, {"OUTCOMES": table})


def tally_bucket(bucket: Bucket) -> Bucket:
    """The night's own step 3 on one bucket."""
    inputs = RewardInputs(bucket.tables["OUTCOMES"], CLOSED_DRAWS.empty(), REWARDS.empty())
    rewards = tally_rewards(
        inputs, CONFIG, DEFAULT_ACTIONS, value_range=(0.0, 1.0), parent_cutoff=None
    )
    return Bucket(bucket.number, {"REWARDS": rewards})


def run_ours(root: str, files: tuple[StoredFile, ...], workers: int) -> pa.Table:
    """Our Beam job; returns what it wrote."""
    record = join(root, f"record-{time.monotonic_ns()}.json")
    options = PipelineOptions(
        [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
    )
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | IntoBuckets(root, BUCKETS)
            | "read" >> beam.Map(read_outcomes, root, files)
            | "tally" >> beam.Map(tally_bucket)
            | WriteTables(root, ("REWARDS",), "bench", record)
        )
    tables = JobRecord.from_json(read_bytes(record)).tables
    return read_files(root, "REWARDS", tables["REWARDS"], ("user_id", "query_id", "w", "wy"))


SQL = """
COPY (
  WITH rows AS (
    SELECT *, examination * credit AS x, epoch_us("at") AS t FROM read_parquet($files)
    WHERE query_type <> ''
  ), sums AS (
    SELECT user_id, surface, query_type, query_id, max("at") AS as_of, max(t) AS last_t,
      sum(x * exp2((t - $night) / $half_life)) AS w,
      sum(x * value * exp2((t - $night) / $half_life)) AS wy,
      sum(x * x * exp2(2 * (t - $night) / $half_life)) AS w2,
      sum(x * x * value * exp2(2 * (t - $night) / $half_life)) AS w2y,
      sum(x * x * value * value * exp2(2 * (t - $night) / $half_life)) AS w2y2,
      sum(CASE WHEN draw_id <> 0 THEN x * exp2((t - $night) / $half_life) END) AS drawn_w,
      count(*) AS impressions,
      sum(actions & 1) AS a0, sum((actions >> 1) & 1) AS a1, sum((actions >> 2) & 1) AS a2
    FROM rows GROUP BY ALL
  )
  SELECT user_id, surface, query_type, query_id,
    w * scale AS w, wy * scale AS wy, w2 * scale * scale AS w2, w2y * scale * scale AS w2y,
    w2y2 * scale * scale AS w2y2, impressions, [a0, a1, a2] AS action_counts,
    0 AS draws, 0 AS empty_draws, 0.0 AS draw_w, drawn_w * scale AS drawn_w, as_of, as_of AS last_at
  FROM (SELECT *, exp2(($night - last_t) / $half_life) AS scale FROM sums)
) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
"""


def run_duckdb(root: str, files: tuple[StoredFile, ...], threads: int) -> pa.Table:
    """One SQL statement; returns what it wrote. DuckDB has no exp2, so a macro names pow(2, x)."""
    out = join(root, f"duckdb-{time.monotonic_ns()}.parquet")
    with duckdb.connect(config={"threads": threads}) as connection:
        connection.execute("CREATE MACRO exp2(x) AS pow(2.0, x)")
        parameters = {
            "files": [join(root, f.path) for f in files],
            "night": NIGHT,
            "half_life": CONFIG.half_life_days * DAY_US,
        }
        connection.execute(SQL.format(out=out), parameters)
    return pq.read_table(out, columns=["user_id", "query_id", "w", "wy"])


class SumRewards(beam.CombineFn):
    """What one writes first: a sum per key, row by row."""

    def create_accumulator(self) -> list[float]:
        return [0.0] * 10

    def add_input(self, sums: list[float], row: dict[str, Any]) -> list[float]:
        age = (NIGHT - row["at"]) / (CONFIG.half_life_days * DAY_US)
        x, y = row["examination"] * row["credit"] * 2.0**-age, row["value"]
        terms = (x, x * y, x * x, x * x * y, x * x * y * y, x * (row["draw_id"] != 0), 1)
        flags = (row["actions"] >> i & 1 for i in range(3))
        return [a + b for a, b in zip(sums, (*terms, *flags), strict=True)]

    def merge_accumulators(self, parts: Iterable[list[float]]) -> list[float]:
        return [sum(column) for column in zip(*parts, strict=True)]

    def extract_output(self, sums: list[float]) -> list[float]:
        return sums


def read_rows(bucket: int, root: str, files: tuple[StoredFile, ...]) -> Iterator[Any]:
    """Keyed rows, as dicts."""
    table = read_bucket(root, "OUTCOMES", files, bucket, COLUMNS)
    table = table.set_column(5, "at", table["at"].cast(pa.int64()))
    for row in table.to_pylist():
        yield (row["user_id"], row["surface"], row["query_type"], row["query_id"]), row


def run_rowwise(root: str, files: tuple[StoredFile, ...]) -> None:
    """Row-wise Beam with a CombineFn, to Parquet."""
    schema = pa.schema(
        [("user_id", pa.int64()), ("query_id", pa.int64()), ("sums", pa.list_(pa.float64()))]
    )

    def as_record(key: tuple[int, str, str, int], sums: list[float]) -> dict[str, Any]:
        return {"user_id": key[0], "query_id": key[3], "sums": sums}

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create(range(BUCKETS))
            | beam.FlatMap(read_rows, root, files)
            | beam.CombinePerKey(SumRewards())
            | beam.MapTuple(as_record)
            | beam.io.WriteToParquet(join(root, f"rowwise-{time.monotonic_ns()}"), schema)
        )


def check_equal(ours: pa.Table, theirs: pa.Table) -> None:
    """Same keys, same sums."""
    key = [("user_id", "ascending"), ("query_id", "ascending")]
    ours, theirs = ours.sort_by(key), theirs.sort_by(key)
    for name in ("user_id", "query_id", "w", "wy"):
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), rtol=1e-9)


def alternate(repeats: int, *runs: Callable[[], object]) -> list[float]:
    """Median seconds of each, run in turn."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, spent in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run()
            spent.append(time.perf_counter() - started)
    return [statistics.median(s) for s in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    workers = os.cpu_count() or 1
    root = tempfile.mkdtemp(prefix="rewards-bench-")
    try:
        files = make_outcomes(root, asked.rows, asked.keys)
        size = sum(f.bytes for f in files)
        print(f"{workers} cores, {asked.rows:,} impressions, {size / 1e9:.2f} GB of Parquet")
        ours = run_ours(root, files, workers)
        check_equal(ours, run_duckdb(root, files, workers))
        print(f"{ours.num_rows:,} keys; both give the same sums to 1e-9")
        ours_s, duckdb_s = alternate(
            asked.repeats,
            lambda: run_ours(root, files, workers),
            lambda: run_duckdb(root, files, workers),
        )
        print(f"ours {ours_s:.2f} s, DuckDB {duckdb_s:.2f} s (medians of {asked.repeats})")
        fifth = make_outcomes(root, asked.rows // 5, asked.keys // 5, seed=8)
        small_s, rowwise_s = alternate(
            1, lambda: run_ours(root, fifth, workers), lambda: run_rowwise(root, fifth)
        )
        print(f"a fifth: ours {small_s:.2f} s, row-wise Beam {rowwise_s:.2f} s")
    finally:
        shutil.rmtree(root)
    result = {
        "ours_over_duckdb": round(ours_s / duckdb_s, 2),
        "rowwise_beam_over_ours": round(rowwise_s / small_s, 1),
        "ours_s": round(ours_s, 2),
        "duckdb_s": round(duckdb_s, 2),
        "cores": workers,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
