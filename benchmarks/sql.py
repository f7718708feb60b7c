"""What `queryloop sql` takes on a warehouse of many users and nights, and what it would take whole.

    python benchmarks/sql.py [--users 100000] [--nights 14] [--warehouse W]

The command is run as a process of its own, as an analyst would; beside it the same statement in a
process that makes the whole catalogue first, as it was before. Without --warehouse one is made: 4
interests a user, 3 queries, 4 outcomes and 5 places of a feed a user and night.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # files here are named like packages

import argparse
import datetime as dt
import json
import resource
import statistics
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.manifests import Manifest
from pipelines.stored import SCHEMAS, write_table
from pipelines.warehouse import Warehouse
from profiling.decay import DAY_US

FIRST, CLUSTERS, DRAWS, SHOWN, ITEMS = dt.date(2024, 3, 1), 4, 3, 4, 20_000
QUESTIONS = [
    "SELECT 1",
    "SELECT * FROM cluster_rewards_now WHERE user_id = 77",
    "FROM reward_history(77)",
    "FROM lineage(77, 1)",
    "FROM feed_of(77)",
    "SELECT * FROM draws WHERE user_id = 77",
    "FROM accounting",
    "FROM arm_lift('long_view')",
    "FROM calibration(10)",
    "FROM average_weight",
    "FROM starved(7) LIMIT 20",
    "FROM propensity_check((SELECT run_date FROM settings))",
]
WHOLE = """\
import sys
from pipelines.catalog import open_session
from pipelines.answers import render
from pipelines.warehouse import Warehouse
opened = Warehouse.open(sys.argv[1])
with open_session(opened, opened.head()) as session:
    session.make(session.pieces)
    print(render(session.ask(sys.argv[2]), "table"))
"""


def made(root: str, users: int, nights: int) -> Warehouse:
    """A warehouse whose nights wrote plausible rows; only what the questions read."""
    warehouse, parent = Warehouse.create(root, ""), None
    items = {"item_id": np.arange(ITEMS), "title": [f"item {i}" for i in range(ITEMS)]}
    catalogue = {"ITEMS": stored(warehouse, "ITEMS", items, ITEMS, "items")}
    for i in range(nights):
        date, rng = FIRST + dt.timedelta(days=i), np.random.default_rng(i)
        files = {
            name: stored(warehouse, name, columns, n, f"{date}")
            for name, (columns, n) in night_tables(date, i, users, rng).items()
        }
        parent = warehouse.publish(
            manifest(date, parent, files, catalogue), parent and parent.number
        )
    return warehouse


def night_tables(
    date: dt.date, i: int, users: int, rng: np.random.Generator
) -> dict[str, tuple[dict[str, Any], int]]:
    """Columns by table, and rows; a draw of one night is shown on the next."""
    user = np.repeat(np.arange(users), CLUSTERS)
    cluster = np.tile(np.arange(1, CLUSTERS + 1), users)
    medoid = (user * 7 + cluster) % ITEMS
    own = {"user_id": user, "cluster_id": cluster, "query_id": medoid, "medoid_item_id": medoid}
    own |= {"arm": in_arms(user), "query_type": ["item"] * len(user)}
    place = np.tile(np.arange(DRAWS), users)
    drawn = np.repeat(np.arange(users), DRAWS) * CLUSTERS + (place + i) % CLUSTERS
    ids = 1 + users * DRAWS * i + np.arange(users * DRAWS)
    query = {"run_date": [date] * len(ids), "slot": place, "draw_id": ids}
    query |= {"policy": ["p"] * len(ids)}
    query |= {"propensity": np.full(len(ids), DRAWS / CLUSTERS)}
    query |= {"set_probability": np.full(len(ids), 1 / CLUSTERS)}
    query |= {name: own[name][drawn] for name in ("user_id", "cluster_id", "query_id")}
    query |= {"arm": in_arms(user[drawn]), "query_type": ["item"] * len(ids)}
    shown = np.repeat(np.arange(users), SHOWN)
    feed = {"user_id": np.repeat(np.arange(users), 5), "position": np.tile(np.arange(5), users)}
    feed |= {"item_id": rng.integers(0, ITEMS, 5 * users), "run_date": [date] * 5 * users}
    feed |= {"draw_id": ids[np.repeat(np.arange(users), 5) * DRAWS]}
    members = medoid[:, None] + np.arange(5) * 11
    profiles = {"item_ids": pa.array(members.tolist(), pa.list_(pa.int64()))}
    profiles |= {"n_items": np.full(len(user), 5)}
    profiles |= {"lineage": ["continued" if i else "born"] * len(user)}
    rewards = {"reward": rng.random(len(user)) * 0.3, "importance": rng.random(len(user))}
    rewards |= {"prior_source": ["observed"] * len(user)}
    return {
        "PROFILES": (own | profiles, len(user)),
        "CLUSTER_REWARDS": (own | rewards, len(user)),
        "QUERIES": (query, len(ids)),
        "OUTCOMES": (outcomes(date, i, users, shown, rng), len(shown)),
        "FEED": (feed, 5 * users),
    }


def outcomes(
    date: dt.date, i: int, users: int, shown: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """What users saw of the first query of the night before."""
    n, cluster = len(shown), 1 + (i - 1) % CLUSTERS
    liked = (rng.random(n) < 0.1).astype(np.int64)
    return {
        "user_id": shown,
        "item_id": rng.integers(0, ITEMS, n),
        "impression_id": 1 + n * i + np.arange(n),
        "draw_id": 1 + users * DRAWS * (i - 1) + shown * DRAWS if i else np.zeros(n, np.int64),
        "query_id": (shown * 7 + cluster) % ITEMS,
        "cluster_id": np.full(n, cluster),
        "run_date": [date] * n,
        "value": liked.astype(np.float64),
        "actions": liked,
        "credit": np.ones(n),
        "examination": np.ones(n),
        "query_type": ["item"] * n,
        "attribution": ["logged"] * n,
        "arm": in_arms(shown),
    }


def in_arms(users: np.ndarray) -> list[str]:
    return np.array(["a", "b"])[users % 2].tolist()


def stored(warehouse: Warehouse, name: str, given: dict[str, Any], n: int, stem: str) -> Any:
    """A table written as nights do; what is not given is null if it may be, else 0, '' or empty."""
    given = {"surface": ["home"] * n} | given
    columns = {}
    for column in SCHEMAS[name].columns:
        if column.name in given:
            columns[column.name] = given[column.name]
        elif column.nullable:
            columns[column.name] = pa.nulls(n, column.type)
        else:
            columns[column.name] = pa.repeat(zero(column.type, column.low), n)
    return write_table(warehouse.root, name, SCHEMAS[name].build(columns), stem)


def zero(type_: pa.DataType, low: float | None) -> pa.Scalar:
    """The least or empty value of a type."""
    if pa.types.is_list(type_):
        return pa.scalar([0.5, 0.5] if pa.types.is_float32(type_.value_type) else [], type_)
    if pa.types.is_string(type_):
        return pa.scalar("")
    return pa.scalar(FIRST if pa.types.is_date(type_) else low or 0).cast(type_)


def manifest(date: dt.date, parent: Manifest | None, files: Any, catalogue: Any) -> Manifest:
    """A night's record."""
    return Manifest(
        number=0,
        parent=parent.number if parent else None,
        kind="night",
        head=True,
        date=date,
        cutoff=((date - dt.date(1970, 1, 1)).days + 1) * DAY_US,
        tables=files,
        inputs=(),
        catalogue=catalogue,
        config={
            "actions": [{"name": "long_view"}],
            "rewards": {"half_life_days": 30.0},
            "outcomes": {"value_low": 0.0, "value_high": 1.0},
            "experiment": {"arms": [{"name": "a"}, {"name": "b"}]},
        },
        config_digest="",
        seed=0,
        embedding_version="v",
        counts={"impressions": {"duplicates": 0}},
        seconds={"all": 1.0},
    )


def seconds(command: list[str], runs: int) -> tuple[float, float]:
    """Medians of a process: by the clock, and of all its processors, which other work leaves be."""
    clock, work = [], []
    for _ in range(runs):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        clock.append(time.perf_counter() - start)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(clock), statistics.median(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--warehouse", default=None)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = given.warehouse or made(f"{place}/w", given.users, given.nights).root
        found = {}
        print(f"{'clock':>8}{'cpu':>8}{'whole: clock':>14}{'cpu':>8}  statement")
        for question in QUESTIONS:
            ours = [sys.executable, "-m", "pipelines", "sql", "-w", root, question]
            whole = [sys.executable, "-c", WHOLE, root, question]
            found[question] = (*seconds(ours, given.runs), *seconds(whole, given.runs))
            a, b, c, d = found[question]
            print(f"{a:>8.2f}{b:>8.2f}{c:>14.2f}{d:>8.2f}  {question}", flush=True)
    print(json.dumps({"warehouse": given.warehouse, "users": given.users, "seconds": found}))


if __name__ == "__main__":
    main()
