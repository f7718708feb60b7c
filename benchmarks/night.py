"""What a night costs: the first one, the next one, and the rebuild of it, on a log of N users.

    python benchmarks/night.py --users 100000 [1000000 ...] [--model] [--spacing] [--log DIR]

The log has the shape of a real one: 61 engagements per user on average over 90 days, tail to 500;
200,000 items of width 64; 500 topics, Zipf 1, one or two per item; 5 % of users active on a day,
20 impressions each, carrying the draw_ids of a QUERIES table published as night 0. It is written
once below `--log` and used again. First night: all engagements and twenty days of impressions
at once. Following night: one more day. Rebuild: steps 1 to 3 at the same cut-off, from raw events.
Exactly 30 % of the users engaged within `serve_active_days`, the active of every day among them,
and are served: with `--model` by the arm `cr_filter` of a model of the default shape, whose weights
are drawn instead of trained, which costs a night the same; with `--spacing` by feeds with diversity
and five spacing classes, the most frequent topics.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import datetime as dt
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.limits import show_limits
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import rebuild, run_night
from pipelines.plan import cutoff_of, open_items
from pipelines.store.manifests import Manifest
from pipelines.store.tables import TableWriter
from pipelines.store.warehouse import Warehouse
from pipelines.summary import account
from profiling.decay import DAY_US, HOUR_US
from profiling.hashing import buckets_of, hash63
from profiling.items import unit_rows
from profiling.tables import ENGAGEMENTS, ITEMS
from retrieval.index.planner import IndexConfig
from selection.tables import IMPRESSIONS, QUERIES
from tests.pipelines.small_models import add as add_model
from tests.pipelines.small_models import untrained

NIGHT_0 = dt.date(2026, 1, 31)
DAYS = 20  # of impressions that land at once
HISTORY_DAYS = 90
N_ITEMS, WIDTH, N_TOPICS = 200_000, 64, 500
ACTIVE, SHOWN, DRAWS = 0.05, 20, 3
CONFIG = NightConfig(draw_days=HISTORY_DAYS + DAYS + 10)
SPACING = "diversity: {gamma: 0.2, window: 12}\nclasses:\n" + "".join(
    f"- {{id: topic_{k}, source: {{topic: {k}}}, window: 12, weight: 0.2}}\n" for k in range(5)
)


def first_night() -> dt.date:
    """The last of the twenty days."""
    return NIGHT_0 + dt.timedelta(days=DAYS)


def make_items(rng: np.random.Generator) -> pa.Table:
    """ITEMS: a vector near the centre of their first topic; topics by Zipf 1."""
    chances = 1.0 / np.arange(1, N_TOPICS + 1)
    topics = rng.choice(N_TOPICS, (N_ITEMS, 2), p=chances / chances.sum())
    centres = rng.normal(size=(N_TOPICS, WIDTH))
    vectors = centres[topics[:, 0]] + 0.7 * rng.normal(size=(N_ITEMS, WIDTH))
    flat = unit_rows(vectors.astype(np.float32)).reshape(-1)
    second = (rng.random(N_ITEMS) < 0.5) & (topics[:, 0] != topics[:, 1])
    kept = np.stack([np.ones(N_ITEMS, bool), second], axis=1)
    ids = pa.array(topics[kept])
    parts = pa.StructArray.from_arrays(
        [ids, pa.array(np.ones(len(ids), np.float32))], ["topic_id", "confidence"]
    )
    offsets = np.r_[0, np.cumsum(1 + second)].astype(np.int32)
    schema = ITEMS.of_width(WIDTH)
    return schema.build(
        {
            "item_id": np.arange(N_ITEMS),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), WIDTH),
            "embedding_version": pa.repeat("v1", N_ITEMS),
            "topics": pa.ListArray.from_arrays(pa.array(offsets), parts),
            "created_at": pa.nulls(N_ITEMS, pa.timestamp("us", "UTC")),
            "labels": pa.array([[]] * N_ITEMS, schema.arrow.field("labels").type),
            "title": pa.nulls(N_ITEMS, pa.string()),
        }
    )


def favourite_items(users: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Item of a user's place: some ten neighbourhoods of the catalogue each."""
    home = hash63("home", users, places % 10) % N_ITEMS
    return (home // 400 * 400 + hash63("item", users, places) % 400) % N_ITEMS


def served_users(users: int) -> np.ndarray:
    """The 30 % who engaged lately, and of whom the active of every day are."""
    return np.sort(np.random.default_rng(30).permutation(users)[: users * 3 // 10])


def make_engagements(users: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    """ENGAGEMENTS a day: 90 days to night 0 for 30 % of the users, the rest stopped 30 days ago."""
    counts = np.minimum(np.maximum(rng.lognormal(3.7, 0.95, users), 1), 500).astype(np.int64)
    counts = np.maximum(1, (counts * 61.0 / counts.mean()).astype(np.int64))
    counts = np.minimum(counts, 500)
    served = np.zeros(users, bool)
    served[served_users(users)] = True
    who = np.repeat(np.arange(users), counts)
    place = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts)
    age = (rng.random(len(who)) * (HISTORY_DAYS - 40)).astype(np.float32) + 40
    age = np.where(served[who], rng.random(len(who)) * HISTORY_DAYS, age)
    age = np.where(served[who] & (place == 0), 0.5, age)  # whoever is served came lately
    end = cutoff_of(NIGHT_0)
    at = end - 1 - (age * DAY_US).astype(np.int64)
    order = np.argsort(at, kind="stable")
    bounds = np.searchsorted(at[order], end - np.arange(HISTORY_DAYS + 1, -1, -1) * DAY_US)
    for low, high in pairwise(bounds.tolist()):
        rows = np.sort(order[low:high])
        yield engagements_of(who[rows], favourite_items(who[rows], place[rows]), at[rows], rows)


def engagements_of(
    users: np.ndarray, items: np.ndarray, at: np.ndarray, numbers: np.ndarray
) -> pa.Table:
    """ENGAGEMENTS, all `long_view`."""
    n = len(users)
    ids = hash63("event", numbers)
    return ENGAGEMENTS.build(
        {
            "event_id": ids,
            "user_id": users,
            "item_id": items,
            "action": pa.repeat("long_view", n),
            "at": at,
            "impression_id": pa.nulls(n, pa.int64()),
            "synthetic": np.zeros(n, bool),
            "content_digest": ids,
        }
    )


def make_day(users: int, i: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """IMPRESSIONS and the ENGAGEMENTS they brought on day i after night 0."""
    rng = np.random.default_rng([seed, i])
    active = np.sort(rng.choice(served_users(users), round(users * ACTIVE), replace=False))
    who = np.repeat(active, SHOWN)
    n = len(who)
    slot = rng.integers(0, DRAWS, n)
    start = cutoff_of(NIGHT_0) + (i - 1) * DAY_US
    at = start + np.repeat((rng.random(len(active)) * 22 * HOUR_US).astype(np.int64), SHOWN)
    at += np.tile(np.arange(SHOWN), len(active)) * 1_000_000
    ids = hash63("shown", who, at)
    item = (favourite_items(who, slot) // 400 * 400 + rng.integers(0, 400, n)) % N_ITEMS
    draws = np.where(rng.random(n) < 0.97, draw_ids(who, slot), 0)
    shown = IMPRESSIONS.build(
        {
            "impression_id": ids,
            "user_id": who,
            "item_id": item,
            "at": at,
            "surface": pa.repeat("home", n),
            "request_id": pa.nulls(n, pa.string()),
            "position": np.tile(np.arange(SHOWN, dtype=np.int32), len(active)),
            "draw_id": pa.array(draws, mask=draws == 0),
            "actions": pa.nulls(n, pa.list_(pa.string())),
            "content_digest": ids,
        }
    )
    did = np.flatnonzero(rng.random(n) < 0.1)
    numbers = (1 << 40) + i * (1 << 32) + did
    return shown, engagements_of(who[did], item[did], at[did] + HOUR_US // 2, numbers)


def draw_ids(users: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The draw of night 0 of a user and slot."""
    return hash63("draw", users, slots)


def write_log(folder: Path, users: int, seed: int) -> None:
    """The whole log as Parquet, a file a day; written aside, then named."""
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    pq.write_table(make_items(rng), aside / "items.parquet")
    for i, table in enumerate(make_engagements(users, rng)):
        pq.write_table(table, aside / f"history-{i:02d}.parquet")
    for i in range(1, DAYS + 2):
        shown, did = make_day(users, i, seed)
        pq.write_table(shown, aside / f"impressions-{i:02d}.parquet")
        pq.write_table(did, aside / f"engagements-{i:02d}.parquet")
    aside.rename(folder)


def publish_night_0(warehouse: Warehouse, users: int) -> Manifest:
    """QUERIES of night 0: three draws a user, served for weeks."""
    writer = TableWriter(warehouse.root, "QUERIES", "night-0")
    buckets = buckets_of(np.arange(users), warehouse.buckets)
    for bucket in range(warehouse.buckets):
        who = np.repeat(np.flatnonzero(buckets == bucket), DRAWS)
        slot = np.tile(np.arange(DRAWS), len(who) // DRAWS)
        columns = {
            "run_date": pa.repeat(pa.scalar(NIGHT_0), len(who)),
            "user_id": who,
            "surface": pa.repeat("home", len(who)),
            "slot": slot.astype(np.int16),
            "serve_date": pa.repeat(pa.scalar(NIGHT_0 + dt.timedelta(days=1)), len(who)),
            "draw_id": draw_ids(who, slot),
            "cluster_id": slot + 1,
            "query_type": pa.repeat("item", len(who)),
            "query_id": favourite_items(who, slot),
            "weight": np.ones(len(who)),
            "propensity": np.full(len(who), 0.5),
            "set_probability": np.full(len(who), 0.1),
            "policy": pa.repeat("counts/0", len(who)),
            "arm": pa.repeat("", len(who)),
            "conditions": pa.array([[]] * len(who), QUERIES.arrow.field("conditions").type),
            "reward": np.full(len(who), 0.3),
            "prior_source": pa.repeat("global average", len(who)),
        }
        writer.write(QUERIES.build(columns), bucket)
    night_0 = Manifest(
        number=0, parent=None, kind="bootstrap", head=True, date=NIGHT_0,
        cutoff=cutoff_of(NIGHT_0) - (HISTORY_DAYS + 2) * DAY_US,  # before all events: none is late
        tables={"QUERIES": writer.finish()}, inputs=(), catalogue=warehouse.catalogue(),
        config=json.loads(json.dumps(asdict(CONFIG))), config_digest=CONFIG.digest, seed=0,
        embedding_version="v1", counts={}, seconds={},
    )  # fmt: skip
    return warehouse.publish(night_0, None)


class PeakMemory:
    """Largest sum of resident memory over this process and its children, sampled."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, resident_bytes(os.getpid()))


def resident_bytes(pid: int) -> int:
    """Anonymous and mapped memory in use by a process and its children."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(c)) for c in children)


@contextmanager
def timed(what: str, users: int, seconds: dict[str, float]) -> Iterator[None]:
    """Note and print how long the block took."""
    started = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - started
    print(f"{what:<28} {seconds[what]:8.1f} s {users / seconds[what]:12,.0f} users/s", flush=True)


def land_days(warehouse: Warehouse, log: Path, names: list[str]) -> None:
    """Land the named files, one import each."""
    for name in names:
        kind = {"i": "IMPRESSIONS", "e": "ENGAGEMENTS", "h": "ENGAGEMENTS"}[name[0]]
        table = pq.read_table(log / f"{name}.parquet")
        land(warehouse, {kind: table}, source=name)


def new_warehouse(users: int, work: Path, *, model: bool, spaced: bool) -> Warehouse:
    """An empty one, of some 4,000 users a bucket; a model is asked by the cheapest plan."""
    buckets = 1 << max(4, math.ceil(math.log2(users / 4000)))
    text = SPACING if spaced else ""
    root = str(work / f"w{users}")
    config = replace(CONFIG, index=IndexConfig(kind="planned")) if model else CONFIG
    return Warehouse.create(root, render_config(config), buckets=buckets, spacing_text=text)


def add_drawn_model(warehouse: Warehouse) -> None:
    """Night 0's model: the default shape, weights drawn."""
    items = open_items(warehouse.root, warehouse.catalogue()["ITEMS"])
    model = untrained(items, cutoff=cutoff_of(NIGHT_0), shape=CONFIG.model)
    add_model(warehouse, NIGHT_0, model, histories=CONFIG.histories)


def measure(
    users: int, log: Path, warehouse: Warehouse, run: RunOptions, cores: int, *, model: bool
) -> dict[str, float]:
    """All three nights of one size."""
    seconds: dict[str, float] = {}
    with timed("import", users, seconds):
        land(warehouse, {"ITEMS": pq.read_table(log / "items.parquet")}, source="items")
        publish_night_0(warehouse, users)
        land_days(warehouse, log, sorted(p.stem for p in log.glob("history-*")))
        land_days(warehouse, log, [f"engagements-{i:02d}" for i in range(1, DAYS + 1)])
        land_days(warehouse, log, [f"impressions-{i:02d}" for i in range(1, DAYS + 1)])
    if model:
        add_drawn_model(warehouse)
    with timed("first night", users, seconds):
        first = run_night(warehouse, first_night(), run, allow_gap=True)
    show(first)
    night_0 = warehouse.manifest(first.parent or 0)
    show_limits(warehouse, first, night_0, cores)
    last = f"{DAYS + 1:02d}"
    land_days(warehouse, log, [f"engagements-{last}", f"impressions-{last}"])
    with timed("following night", users, seconds):
        following = run_night(
            warehouse, first_night() + dt.timedelta(days=1), replace(run, until="rewards")
        )
    show(following)
    show_limits(warehouse, following, first, cores)
    rebuilt: list[Manifest] = []
    with timed("rebuild", users, seconds):
        rebuild(warehouse, following.date, run, report=rebuilt.append)
    seconds["following, steps 1-3"] = following.seconds["job 1"]
    seconds["rebuild, steps 1-3"] = sum(m.seconds["job 1"] for m in rebuilt)
    return seconds


def show(manifest: Manifest) -> None:
    """Where the time went, and that the rows add up."""
    for step, spent in manifest.seconds.items():
        print(f"    {step:<26} {spent:8.1f} s")
    print("   ", account(manifest).replace("\n", "\n    "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[100_000])
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "night-log")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", action="store_true", help="retrieval by a two-tower model")
    parser.add_argument("--spacing", action="store_true", help="diversity and five classes on")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    mode = f"--direct_num_workers={asked.workers}", "--direct_running_mode=multi_threading"
    run = RunOptions(beam_args=mode if asked.workers > 1 else (), progress=False)
    results = {}
    with PeakMemory() as memory:
        for users in asked.users:
            log = asked.log / f"{users}-served"
            if not log.exists():
                write_log(log, users, seed=11)
            work = asked.work or Path(tempfile.mkdtemp(prefix="night-bench-"))
            warehouse = new_warehouse(users, work, model=asked.model, spaced=asked.spacing)
            results[users] = measure(users, log, warehouse, run, asked.workers, model=asked.model)
            shutil.rmtree(work)
    users, last = asked.users[-1], results[asked.users[-1]]
    first = {u: r["import"] + r["first night"] for u, r in results.items()}
    line = {
        "users": users,
        "first_s": round(first[users], 1),
        "following_s": round(last["following, steps 1-3"], 1),
        "rebuild_s": round(last["rebuild, steps 1-3"], 1),
        "following_over_rebuild": round(
            last["following, steps 1-3"] / last["rebuild, steps 1-3"], 3
        ),
        "peak_rss_gb": round(memory.peak / 1e9, 2),
    }
    if len(results) > 1:
        x, y = np.log(list(first)), np.log(list(first.values()))
        line["slope"] = round(float(np.polyfit(x, y, 1)[0]), 3)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
