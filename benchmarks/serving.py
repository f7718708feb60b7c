"""Draws per request: microseconds a draw, from memory and from SQLite, beside one without odds.

    python benchmarks/serving.py [--users 100000]

The alternative draws the same number of interests by NumPy's `Generator.choice` without
replacement: it needs no calibration and knows no propensity, which is what a later evaluation
lives on. All in one thread, one request after another, users in random order.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pipelines.export.formats import FORMATS
from selection.request_draws import RequestSampler, TableWeights, WeightState
from selection.weight_files import SqliteWeights
from selection.weights import WEIGHTS

STATE = WeightState(dt.date(2024, 3, 1), 7, "salt", "2024-03-01/1", ("home",))
REQUESTS, RUNS = 2000, 5


def weights(users: int) -> pa.Table:
    """WEIGHTS of users with 1 to 24 interests."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 25, users)
    n = int(sizes.sum())
    clusters = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    topics = [[{"topic_id": int(t), "confidence": 0.5}] for t in rng.integers(0, 60, n)]
    columns = {
        "user_id": np.repeat(np.arange(users), sizes),
        "surface": ["home"] * n,
        "cluster_id": clusters,
        "query_type": ["item"] * n,
        "query_id": rng.integers(0, 10**6, n),
        "weight": rng.random(n),
        "queries": np.full(n, 3, np.int32),
        "floor": np.full(n, 0.05),
        "policy": ["reward/0"] * n,
        "arm": [""] * n,
        "conditions": pa.array(topics, WEIGHTS.columns[-1].type),
    }
    return WEIGHTS.build(columns)


def microseconds(draw: Callable[[int, str], object], users: int) -> tuple[float, float]:
    """Median and 99th percentile over the requests, each the median of the runs."""
    order = np.random.default_rng(1).integers(0, users, REQUESTS).tolist()
    draw(order[0], "warm")
    runs = []
    for _ in range(RUNS):
        took = []
        for i, user in enumerate(order):
            start = time.perf_counter()
            draw(user, f"request {i}")
            took.append(time.perf_counter() - start)
        runs.append(np.percentile(took, [50, 99]) * 1e6)
    median, high = np.median(runs, axis=0)
    return float(median), float(high)


def without_odds(table: TableWeights) -> Callable[[int, str], object]:
    rng = np.random.default_rng(2)

    def draw(user: int, request_id: str) -> object:
        found = table.find(user, "home")
        assert found is not None
        values = np.array(found.weights)
        k = min(found.queries, len(values))
        return rng.choice(len(values), k, replace=False, p=values / values.sum())

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    users = parser.parse_args().users
    table = weights(users)
    start = time.perf_counter()
    held = TableWeights(table)
    loaded = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "weights.sqlite")
        FORMATS["sqlite"](path, WEIGHTS, table, lambda rows: None)
        samplers = {
            "memory": RequestSampler(held, STATE),
            "sqlite": RequestSampler(SqliteWeights(path), STATE),
        }
        cases: dict[str, Callable[[int, str], object]] = {
            name: lambda user, request, s=sampler: s.draw(user, "home", request)
            for name, sampler in samplers.items()
        }
        cases["choice, no odds"] = without_odds(held)
        cases["look-up alone"] = lambda user, request: held.find(user, "home")
        found = {name: microseconds(draw, users) for name, draw in cases.items()}
    print(f"{users:,} users, {table.num_rows:,} interests; in memory after {loaded:.2f} s")
    print(f"{'':<18}{'median us':>12}{'99 %':>12}{'draws/s':>12}")
    for name, (median, high) in found.items():
        print(f"{name:<18}{median:>12.0f}{high:>12.0f}{1e6 / median:>12,.0f}")
    print(json.dumps({"users": users, "loaded_s": loaded, "microseconds": found}))


if __name__ == "__main__":
    main()
