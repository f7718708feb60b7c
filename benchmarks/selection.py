"""How fast queries are drawn: `python benchmarks/selection.py`.

Times the whole of `select_queries` (CLUSTER_REWARDS in, QUERIES out) for users with 20 clusters,
rewards Gamma(1), policy `reward`, beta 1, floor .05, 5 drawn, inclusion probabilities calibrated to
1e-10. Beside it the same sampler written plainly in NumPy, one user at a time, without tables.
Per core: users over the processor time of all threads together.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import json
import os
import statistics
from collections.abc import Callable
from datetime import date
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pyarrow as pa

from profiling.items import Items
from profiling.schema import FloatArray
from selection.policies import SelectionConfig
from selection.queries import select_queries
from selection.sampling import inclusion_targets
from selection.tables import CLUSTER_REWARDS

CLUSTERS, DRAWN, FLOOR = 20, 5, 0.05
NIGHT = date(2024, 3, 1)


def world(n_users: int, n_items: int = 20_000) -> tuple[pa.Table, Items]:
    """CLUSTER_REWARDS of users with CLUSTERS clusters each, and items of two topics each."""
    rng = np.random.default_rng(0)
    n = n_users * CLUSTERS
    items = Items(
        ids=np.arange(n_items),
        vectors=np.zeros((n_items, 1), np.float32),
        version="v1",
        topic_offsets=np.arange(n_items + 1) * 2,
        topic_ids=rng.integers(0, 300, 2 * n_items),
        topic_confidences=rng.random(2 * n_items).astype(np.float32),
        created_at=np.zeros(n_items, np.int64),
    )
    columns: dict[str, Any] = {c.name: np.ones(n) for c in CLUSTER_REWARDS.required}
    texts = {"surface": "home", "arm": "", "query_type": "item", "prior_source": "observed"}
    columns |= {name: pa.repeat(pa.scalar(text), n) for name, text in texts.items()}
    columns |= {
        "user_id": np.repeat(np.arange(n_users), CLUSTERS),
        "cluster_id": np.tile(np.arange(CLUSTERS), n_users),
        "query_id": rng.integers(0, n_items, n),
        "importance": rng.gamma(1.0, size=n),
        "actions": rng.integers(1, 20, n),
        "reward": rng.gamma(1.0, size=n),
        "posterior_a": rng.gamma(1.0, size=n) + 0.1,
        "posterior_b": rng.gamma(1.0, size=n) + 20.0,
    }
    return CLUSTER_REWARDS.build(columns), items


def plain_draw(targets: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    """One user's set as in the paper (Chen, Dempster, Liu 1994), calibrated to 1e-10; pi of all."""
    n, weights = len(targets), targets / (1.0 - targets)
    for _ in range(500):
        prefix, suffix = np.zeros((n + 1, k + 1)), np.zeros((n + 1, k + 1))
        prefix[0, 0] = suffix[n, 0] = 1.0
        for i in range(n):
            prefix[i + 1] = prefix[i] + weights[i] * np.r_[0.0, prefix[i, :-1]]
            j = n - 1 - i
            suffix[j] = suffix[j + 1] + weights[j] * np.r_[0.0, suffix[j + 1, :-1]]
        within = (prefix[:-1, :k] * suffix[1:, k - 1 :: -1][:, :k]).sum(1)
        pi = weights * within / prefix[n, k]
        if np.abs(pi - targets).max() <= 1e-10:
            break
        weights *= targets * (1.0 - pi) / (pi * (1.0 - targets))
    left = k
    for i in range(n):
        if left and rng.random() < weights[i] * suffix[i + 1, left - 1] / suffix[i, left]:
            left -= 1
    return np.asarray(pi)


def timed(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median processor seconds and wall seconds of `run`, after one run that compiles."""
    run()
    cpu, wall = [], []
    for _ in range(repeats):
        start = process_time(), perf_counter()
        run()
        cpu.append(process_time() - start[0])
        wall.append(perf_counter() - start[1])
    return statistics.median(cpu), statistics.median(wall)


def main(n_users: int = 100_000) -> None:
    print(f"{os.cpu_count()} cores; {n_users:,} users, {CLUSTERS} clusters each, {DRAWN} drawn")
    table, items = world(n_users)
    speeds: dict[str, float] = {}
    for policy, size in (("reward", n_users), ("reward_importance", n_users), ("thompson", 4_000)):
        config = {"": SelectionConfig(policy=policy, beta=1.0, floor=FLOOR, queries=DRAWN)}
        rows = table.slice(0, min(size, n_users) * CLUSTERS)

        def run(rows: pa.Table = rows, config: dict[str, SelectionConfig] = config) -> pa.Table:
            return select_queries(rows, items, config, run_date=NIGHT, seed=1, salt="")

        cpu, wall = timed(run, 7)
        users = rows.num_rows // CLUSTERS
        speeds[policy] = users / cpu
        print(
            f"{policy:18} {users / cpu:>9,.0f} users/s and core"
            f" ({cpu / users * 1e6:.2f} us a user), {users / wall:,.0f} users/s by the clock"
        )
    plain_users = 200
    weights = table["reward"].to_numpy()[: plain_users * CLUSTERS]
    bounds = np.arange(plain_users + 1) * CLUSTERS
    k, floor = np.full(plain_users, DRAWN), np.full(plain_users, FLOOR)
    targets = inclusion_targets(bounds, weights, k, floor).reshape(plain_users, CLUSTERS)

    def plain() -> FloatArray:
        rng = np.random.default_rng(0)
        return np.array([plain_draw(t, DRAWN, rng) for t in targets])

    cpu, _ = timed(plain, 3)
    ratio = speeds["reward"] * cpu / plain_users
    plain_speed = plain_users / cpu
    print(f"{'plain NumPy':18} {plain_speed:>9,.0f} users/s and core, sampler alone: {ratio:.0f} x")
    report = {
        "users_per_s_per_core": round(speeds["reward"]),
        "reward_importance_users_per_s_per_core": round(speeds["reward_importance"]),
        "thompson_users_per_s_per_core": round(speeds["thompson"]),
        "plain_numpy_users_per_s_per_core": round(plain_speed),
        "times_plain_numpy": round(ratio, 1),
        "cores": os.cpu_count(),
        "users": n_users,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
