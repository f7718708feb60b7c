"""What the evidence prior costs a night: `python benchmarks/evidence.py --users 50000`.

Seconds of processor time, medians: h and G of every query beside the same sums with a NumPy product
for each user; a bucket's part of ITEM_RATES beside one DuckDB statement; and the items around each
item, which are found once a catalogue.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from profiling.decay import DAY_US
from profiling.items import Items, unit_rows
from profiling.schema import FloatArray
from retrieval.index.exact import ExactIndex
from retrieval.neighbours import nearest_items
from selection.evidence import (
    EvidenceConfig,
    EvidenceInputs,
    QueryGroups,
    ShownItems,
    item_evidence,
    own_evidence,
)
from selection.item_rates import tally_item_rates
from selection.rewards import RewardConfig
from selection.tables import ITEM_RATES, OUTCOMES

NOW, WIDTH, CLUSTERS, SHOWN = 20_000 * DAY_US, 64, 5, 60
CONFIG = EvidenceConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    items = catalogue(args.items, rng)
    groups, shown = asked(args.users, items, rng)
    outcomes = outcome_table(args.users, items, rng)
    arms = np.full(outcomes.num_rows, "")
    index = ExactIndex.over(items)
    near = nearest_items(items, index, CONFIG.neighbours)
    rates = tally_item_rates(outcomes, arms, RewardConfig(), value_range=(0.0, 1.0))
    inputs = EvidenceInputs(frozenset({""}), outcomes, ITEM_RATES.check(rates), near)
    few = min(2000, args.users)
    assert np.allclose(
        own_evidence(groups, shown, items, CONFIG)[: few * CLUSTERS],
        by_user(groups, shown, items, few),
    )
    seconds = {
        "h": timed(lambda: own_evidence(groups, shown, items, CONFIG), args.runs),
        "h by a NumPy product a user": timed(lambda: by_user(groups, shown, items, few), args.runs)
        * args.users
        / few,
        "G": timed(lambda: item_evidence(groups, inputs, items, NOW, 30.0), args.runs),
        "ITEM_RATES of the outcomes": timed(
            lambda: tally_item_rates(outcomes, arms, RewardConfig(), value_range=(0.0, 1.0)),
            args.runs,
        ),
        "the same in DuckDB": timed(lambda: in_duckdb(outcomes), args.runs),
        "items around each item, once": timed(
            lambda: nearest_items(items, index, CONFIG.neighbours), args.runs
        ),
    }
    print(
        f"{args.users:,} users, {CLUSTERS} queries and {SHOWN} impressions each, {args.items:,} "
        f"items x {WIDTH}; seconds of processor time, medians of {args.runs}"
    )
    for name, spent in seconds.items():
        print(f"  {name:<34}{spent:8.2f}")
    users = args.users / (seconds["h"] + seconds["G"])
    print(f"  users a second and core {users:,.0f}")
    result = {"users": args.users, "items": args.items, "users_per_second": round(users)}
    print(json.dumps(result | {"seconds": {n: round(s, 3) for n, s in seconds.items()}}))


def timed(call: Callable[[], Any], runs: int) -> float:
    call()  # compiles
    spent = []
    for _ in range(runs):
        started = time.process_time()
        call()
        spent.append(time.process_time() - started)
    return statistics.median(spent)


def catalogue(n: int, rng: np.random.Generator) -> Items:
    return Items(
        np.arange(n),
        unit_rows(rng.normal(size=(n, WIDTH)).astype(np.float32)),
        "v1",
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
        np.zeros(n, np.int64),
    )


def asked(users: int, items: Items, rng: np.random.Generator) -> tuple[QueryGroups, ShownItems]:
    n, names = users * CLUSTERS, np.full(users, "")
    groups = QueryGroups(
        bounds=np.arange(users + 1) * CLUSTERS,
        users=np.arange(users),
        surfaces=np.zeros(users, np.int64),
        surface_names=["home"],
        arms=names,
        fits=names,
        queries=rng.integers(0, len(items.ids), n),
        mean=np.full(n, 0.1),
        user_mean=rng.uniform(0.05, 0.2, n),
    )
    total = users * SHOWN
    shown = ShownItems(
        np.arange(users + 1) * SHOWN,
        rng.integers(0, len(items.ids), total),
        rng.uniform(0.3, 1.0, total),
        (rng.random(total) < 0.1).astype(np.float64),
    )
    return groups, shown


def by_user(groups: QueryGroups, shown: ShownItems, items: Items, users: int) -> FloatArray:
    """The h of the first users, a matrix product each."""
    found = np.empty(users * CLUSTERS)
    vectors = items.vectors.astype(np.float64)
    for u in range(users):
        mine = slice(u * CLUSTERS, (u + 1) * CLUSTERS)
        seen = slice(shown.bounds[u], shown.bounds[u + 1])
        queries, rows = groups.queries[mine], shown.rows[seen]
        near = np.maximum(vectors[queries] @ vectors[rows].T, 0.0) ** 2
        near *= (queries[:, None] != rows) * shown.weights[seen]
        above = near @ shown.values[seen] + groups.user_mean[mine]
        found[mine] = above / (near.sum(axis=1) + 1.0)
    return found


def outcome_table(users: int, items: Items, rng: np.random.Generator) -> pa.Table:
    """A night's outcomes: eight of every user."""
    n = users * 8
    texts = {c: pa.repeat("", n) for c in ("query_type", "arm", "policy", "attribution")}
    nulls = {"query_id": pa.int64(), "cluster_id": pa.int64(), "position": pa.int32()}
    return OUTCOMES.build(
        {
            **texts,
            **{c: pa.nulls(n, kind) for c, kind in nulls.items()},
            "propensity": pa.nulls(n, pa.float64()),
            "impression_id": np.arange(n),
            "draw_id": np.zeros(n, np.int64),
            "run_date": pa.array(np.zeros(n, np.int32)).cast(pa.date32()),
            "user_id": np.repeat(np.arange(users), 8),
            "item_id": items.ids[(len(items.ids) * rng.random(n) ** 3).astype(np.int64)],
            "at": NOW - rng.integers(0, DAY_US, n),
            "surface": pa.repeat("home", n),
            "examination": np.ones(n),
            "value": (rng.random(n) < 0.1).astype(np.float64),
            "actions": np.zeros(n, np.int64),
            "credit": np.ones(n),
        }
    )


def in_duckdb(outcomes: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.register("outcomes", outcomes)
        return connection.sql(
            'SELECT surface, item_id, count(*), max("at"), sum(examination * credit * value * '
            "pow(2, -epoch(CAST('2024-10-04' AS TIMESTAMPTZ) - \"at\") / 2592000)) "
            "FROM outcomes GROUP BY ALL ORDER BY ALL"
        ).to_arrow_table()


if __name__ == "__main__":
    main()
