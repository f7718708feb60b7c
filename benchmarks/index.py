"""The index and step 5, beside faiss, in one process: `python benchmarks/index.py`.

*Vectors of a trained item tower* are those of a factorisation that is trained here: 60,000 users
with five tastes out of 1,000 (Zipf .7, shares Dirichlet .7) engage 60 times each with 200,000
items, by lognormal popularity within a taste, 5 % at random; the log's truncated SVD of rank 64,
columns damped by the root of an item's engagements, gives the item rows, scaled to length 1; a
user's query is the scaled sum of what they engaged with.

k = 100; medians of RUNS; searches per second and core, by processor time, one thread each: two
processes do not disturb the ratio. 1 %: a topic of 2,000 items, neighbours of one another or drawn
at random. HNSW (M 16, efSearch 256) has an `IDSelectorBatch`. The last table is step 5 whole
(`retrieve_candidates`, 50 candidates a query, conditions = topics of the query item, what users
engaged with left out) on two threads over the items and users of `benchmarks/night.py`, by the
clock, and by processor time beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import datetime as dt
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, process_time
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, diags
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from benchmarks.night import draw_ids, favourite_items, make_items
from profiling.items import Items, unit_rows
from retrieval.candidates import RetrievalConfig, retrieve_candidates
from retrieval.index.exact import ExactIndex, Lists
from retrieval.index.ivf import IvfIndex, plain_searches
from retrieval.index.planner import measure
from selection.conditions import conditions_of
from selection.tables import QUERIES

N_ITEMS, WIDTH, K, RUNS = 200_000, 64, 100, 3
USERS, TASTES, EVENTS = 60_000, 1_000, 60
NIGHT = dt.date(2026, 1, 31)


def trained_tower() -> tuple[np.ndarray, np.ndarray]:
    """(n, d) item rows and (u, d) user queries; see the module."""
    rng = np.random.default_rng(0)
    chances = np.arange(1, TASTES + 1) ** -0.7
    chances /= chances.sum()
    taste_of = np.sort(rng.choice(TASTES, N_ITEMS, p=chances))
    bounds = np.searchsorted(taste_of, np.arange(TASTES + 1))
    mass = np.r_[0, np.cumsum(rng.lognormal(0, 1.2, N_ITEMS))]
    tastes = rng.choice(TASTES, (USERS, 5), p=chances)
    shares = np.cumsum(rng.dirichlet(np.full(5, 0.7), USERS), axis=1)
    users = np.repeat(np.arange(USERS), EVENTS)
    which = (rng.random(len(users))[:, None] > shares[users]).sum(axis=1).clip(0, 4)
    taste = tastes[users, which]
    low, high = mass[bounds[taste]], mass[bounds[taste + 1]]
    items = np.searchsorted(mass, low + rng.random(len(users)) * (high - low), side="right") - 1
    stray = rng.random(len(users)) < 0.05
    items = np.where(stray, rng.integers(0, N_ITEMS, len(users)), items.clip(0, N_ITEMS - 1))
    log = csr_matrix((np.ones(len(users), np.float32), (users, items)), (USERS, N_ITEMS))
    damped = log @ diags((1 / np.sqrt(np.asarray(log.sum(0)).ravel() + 5)).astype(np.float32))
    rows = randomized_svd(damped, WIDTH, n_iter=2, random_state=0)[2].T
    rows = unit_rows(np.ascontiguousarray(rows, np.float32))
    return rows, unit_rows(np.asarray(log @ rows, np.float32))


def rate(work: Callable[[], Any], n: int) -> tuple[float, Any]:
    """Searches per second and core, and the last result."""
    seconds = []
    for _ in range(RUNS):
        started = process_time()
        result = work()
        seconds.append(process_time() - started)
    return n / statistics.median(seconds), result


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    both = (len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True))
    return sum(both) / wanted.size


def brute_force(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of the K best among `rows` by float64 scores, rounded, ties by row."""
    scores = np.rint(queries.astype(float) @ vectors[rows].astype(float).T / 1e-6)
    return rows[np.argsort(-scores, axis=1, kind="stable")[:, :K]]


def slices_beside_hnsw(vectors: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """1 % selectivity."""
    hnsw = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction = 64
    hnsw.add(vectors)
    share = N_ITEMS // 100
    near = np.sort(np.argsort(-(vectors @ vectors[7]))[:share])
    spread = np.sort(np.random.default_rng(1).permutation(N_ITEMS)[:share])
    topics = np.zeros((N_ITEMS, 2), bool)
    topics[near, 0] = topics[spread, 1] = True
    carried = Lists(np.r_[0, np.cumsum(topics.sum(1))], np.nonzero(topics)[1])
    exact = ExactIndex(np.arange(N_ITEMS), vectors, carried)
    found = {}
    for topic, rows in enumerate((near, spread)):
        searches = plain_searches(queries)._replace(
            conditions=Lists(np.array([0, 1]), np.array([topic]))
        )
        exact.search(searches.take(np.arange(9)), K)
        ours, hits = rate(lambda s=searches: exact.search(s, K), len(queries))
        limits = faiss.SearchParametersHNSW(sel=faiss.IDSelectorBatch(rows), efSearch=256)
        theirs, (_, rows_found) = rate(
            lambda p=limits: hnsw.search(queries, K, params=p), len(queries)
        )
        wanted = brute_force(vectors, queries, rows)
        name = ("neighbours", "at random")[topic]
        found[name] = {
            "exact_recall": recall(hits.rows, wanted),
            "slice_over_hnsw": ours / theirs,
            "hnsw_recall": recall(rows_found, wanted),
        }
        print(
            f"1 %, {name:<10} slice {ours:8.0f}/s   HNSW {theirs:8.0f}/s", found[name], flush=True
        )
    return {
        "exact_recall": min(f["exact_recall"] for f in found.values()),
        "slice_over_hnsw": min(f["slice_over_hnsw"] for f in found.values()),
        "hnsw_recall": max(f["hnsw_recall"] for f in found.values()),
    }


def ivf_beside_flat(vectors: np.ndarray, queries: np.ndarray, sample: np.ndarray) -> dict:
    """Without a condition: flat, faiss's own IVF at the same recall, ours, and our exact scan."""
    n = len(queries)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    flat_rate, (_, best) = rate(lambda: flat.search(queries, K), n)
    print(f"{'faiss flat':<14} {flat_rate:8.0f}/s", flush=True)
    free = Lists(np.zeros(N_ITEMS + 1, np.int64), np.zeros(0, np.int64))
    exact = ExactIndex(np.arange(N_ITEMS), vectors, free)
    asked = plain_searches(queries)
    exact.search(asked.take(np.arange(9)), K)
    ours, hits = rate(lambda: exact.search(asked, K), n)
    wanted = brute_force(vectors, queries[:200], np.arange(N_ITEMS))
    exact_recall = recall(hits.rows[:200], wanted)
    print(f"{'whole, exact':<14} {ours:8.0f}/s recall {exact_recall:.4f}", flush=True)
    whole_item_ns = 1e9 / ours / N_ITEMS
    ivf = IvfIndex.build(exact, 0, 0.99, 0.5, sample)
    ivf.search(asked.take(np.arange(9)), K)
    ours, streamed = rate(lambda: ivf.stream(asked, K), n)
    found = recall(streamed.hits.rows, best)
    scored = streamed.scored.mean()
    print(f"{'IVF':<14} {ours:8.0f}/s recall {found:.4f}, {scored:.0f} items scored, z {ivf.z}; "
          f"an item {1e9 / ours / (scored + len(ivf.cells.radii)) / whole_item_ns:.1f} times one "
          "of the whole scan")  # fmt: skip
    print(f"{'':<14} items scored by depth", dict(zip(*measure(ivf, sample[:64]), strict=True)))
    theirs = faiss.index_factory(WIDTH, "IVF1024,Flat", faiss.METRIC_INNER_PRODUCT)
    theirs.train(vectors)
    theirs.add(vectors)
    for theirs.nprobe in (8, 16, 24, 32, 48, 64):
        faiss_rate, (_, rows) = rate(lambda: theirs.search(queries, K), n)
        print(f"{'faiss IVF':<14} {faiss_rate:8.0f}/s recall {recall(rows, best):.4f}, "
              f"nprobe {theirs.nprobe}", flush=True)  # fmt: skip
        if recall(rows, best) >= 0.99:
            break
    return {"exact_recall": exact_recall, "ivf_over_flat": ours / flat_rate, "ivf_recall": found}


def step_world(users: np.ndarray, items: Items) -> tuple[pa.Table, pa.Table]:
    """QUERIES, three a user, and what the users engaged with: 61 items each on average."""
    who, slot = np.repeat(users, 3), np.tile(np.arange(3), len(users))
    asked, n = favourite_items(who, slot), len(who)
    texts = {"surface": "home", "query_type": "item", "policy": "counts/0", "arm": ""}
    queries = QUERIES.build(
        {name: pa.repeat(text, n) for name, text in texts.items()}
        | {name: np.ones(n) for name in ("weight", "propensity", "set_probability")}
        | {
            "run_date": pa.repeat(pa.scalar(NIGHT), n),
            "serve_date": pa.repeat(pa.scalar(NIGHT + dt.timedelta(days=1)), n),
            "user_id": who,
            "slot": slot.astype(np.int16),
            "draw_id": draw_ids(who, slot),
            "cluster_id": slot + 1,
            "query_id": asked,
            "conditions": conditions_of(asked, items),
        }
    )
    rng = np.random.default_rng(users[:1])
    counts = np.minimum(rng.lognormal(3.7, 0.9, len(users)) + 1, 500).astype(np.int64)
    owners = np.repeat(users, counts)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return queries, pa.table({"user_id": owners, "item_id": favourite_items(owners, places)})


def step_rate() -> float:
    """Queries per second of the whole step, two threads, four buckets of 4,000 users."""
    items = Items.from_table(make_items(np.random.default_rng(11)))
    index, config = ExactIndex.over(items), RetrievalConfig()
    parts = [step_world(np.arange(4000) * 4 + bucket, items) for bucket in range(4)]
    n = sum(queries.num_rows for queries, _ in parts)
    retrieve_candidates(parts[0][0].slice(0, 99), parts[0][1], index, items, config)
    by_clock, by_processor = [], []
    for _ in range(RUNS):
        started, spent = perf_counter(), process_time()
        with ThreadPoolExecutor(2) as threads:
            tables = list(
                threads.map(lambda p: retrieve_candidates(*p, index, items, config), parts)
            )
        by_clock.append(n / (perf_counter() - started))
        by_processor.append(n / (process_time() - spent))
    rows = sum(table.num_rows for table in tables)
    print(f"{'step 5':<14} {statistics.median(by_clock):8.0f} queries/s by the clock, "
          f"{2 * statistics.median(by_processor):.0f} were both cores ours; "
          f"{rows / n:.1f} candidates a query")  # fmt: skip
    return statistics.median(by_clock)


def main() -> None:
    threadpool_limits(1)
    vectors, users = trained_tower()
    faiss.omp_set_num_threads(1)
    order = np.random.default_rng(1).permutation(USERS)
    queries, sample = users[order[:4096]], users[order[10_000:12_000]]
    line = ivf_beside_flat(vectors, queries, sample)
    sliced = slices_beside_hnsw(vectors, queries[:1000])
    line |= sliced | {"exact_recall": min(line["exact_recall"], sliced["exact_recall"])}
    line["step_queries_per_s"] = step_rate()
    print(json.dumps({name: round(value, 4) for name, value in line.items()}))


if __name__ == "__main__":
    main()
