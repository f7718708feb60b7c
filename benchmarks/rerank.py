"""How fast a feed is made of its candidates: `python benchmarks/rerank.py`.

1,000 candidates to a feed of 100, d = 64, five spacing classes (a fifth of the items each, weight
.2, inverse kernel, window 12), diversity with window 12 and gamma .25, on one core: the compiled
rerank, the literal equation, a plain sort, MMR, and pyversity's SSD and MMR where it is installed
(`pip install pyversity`; it knows no spacing classes, so ours runs without them beside it). Then
growth with classes and window, and the whole step 6, tables in and table out, for feeds of 150 to
25. Times are of the processor, medians.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import datetime as dt
import json
import os
import statistics
from collections.abc import Callable
from time import process_time

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from profiling.items import Items, unit_rows
from retrieval.feed import FeedConfig, rerank_feed
from retrieval.spacing.classes import Source, Spacing, SpacingClass
from retrieval.spacing.diversity import Diversity
from retrieval.spacing.labels import ItemLabels, feed_spacing
from retrieval.spacing.terms import FeedSpacing, order_spaced
from retrieval.spacing.utility import Pool, order_by_relevance, order_greedily
from retrieval.tables import CANDIDATES
from selection.tables import QUERIES

try:
    import pyversity
except ImportError:
    pyversity = None

N, SIZE, WIDTH, CLASSES, WINDOW, GAMMA = 1000, 100, 64, 5, 12, 0.25
NIGHT = dt.date(2024, 3, 1)


def world(n: int, classes: int, window: int, gamma: float = GAMMA) -> tuple[Items, FeedSpacing]:
    """Items around 40 centres; the classes are topics, a fifth of the items each."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, WIDTH))[rng.integers(0, 40, n)]
    carries = rng.random((n, classes)) < 0.2
    rows, topics = np.nonzero(carries)
    items = Items(
        ids=np.arange(n),
        vectors=unit_rows((vectors + 0.7 * rng.normal(size=(n, WIDTH))).astype(np.float32)),
        version="v1",
        topic_offsets=np.r_[0, np.cumsum(carries.sum(axis=1))],
        topic_ids=topics,
        topic_confidences=np.ones(len(rows), np.float32),
        created_at=np.zeros(n, np.int64),
    )
    made = tuple(
        SpacingClass(f"c{k}", Source(topic=k), weight=0.2, window=window) for k in range(classes)
    )
    config = Spacing(Diversity(gamma=gamma, window=window), classes=made)
    return items, feed_spacing(config, items, ItemLabels(), {})


def one_pool(items: Items) -> Pool:
    """All items as the candidates of one feed."""
    n = len(items.ids)
    feeds = pa.table({"user_id": [1], "surface": ["home"], "arm": [""], "serve_date": [NIGHT]})
    relevance = np.random.default_rng(1).random(n)
    return Pool(np.array([0, n]), np.arange(n), relevance, feeds, items)


def ms(run: Callable[[], object], repeats: int) -> float:
    """Median processor milliseconds, after one run that compiles."""
    run()
    found = []
    for _ in range(repeats):
        start = process_time()
        run()
        found.append(process_time() - start)
    return statistics.median(found) * 1e3


def spaced_ms(classes: int, window: int, gamma: float = GAMMA) -> float:
    """Milliseconds of the compiled rerank of one feed."""
    items, spacing = world(N, classes, window, gamma)
    pool, norms = one_pool(items), spacing.norms
    terms = spacing.terms(pool.feeds)
    return ms(lambda: order_spaced(pool, SIZE, terms, spacing.config.joint_cap, norms), 51)


def mmr(relevance: np.ndarray, vectors: np.ndarray, size: int, share: float) -> list[int]:
    """Maximal marginal relevance (Carbonell, Goldstein 1998): similarity to the nearest placed."""
    nearest, left = np.full(len(relevance), -np.inf), np.ones(len(relevance), bool)
    chosen = [int(relevance.argmax())]
    left[chosen[0]] = False
    while len(chosen) < size:
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
        worth = np.where(left, (1 - share) * relevance - share * nearest, -np.inf)
        chosen.append(int(worth.argmax()))
        left[chosen[-1]] = False
    return chosen


def of_pyversity(pool: Pool, items: Items) -> dict[str, float]:
    """Milliseconds of its SSD and MMR; empty where it is not installed."""
    if pyversity is None:
        print("pyversity is not installed: `pip install pyversity` to see it beside ours")
        return {}

    def run(strategy: str) -> object:
        more = {"window": WINDOW} if strategy == "SSD" else {}
        return pyversity.diversify(
            embeddings=items.vectors, scores=pool.relevance, k=SIZE, diversity=0.5,
            strategy=getattr(pyversity.Strategy, strategy), **more,
        )  # fmt: skip

    return {f"pyversity {name}": ms(lambda n=name: run(n), 15) for name in ("SSD", "MMR")}  # type: ignore[misc]


def step_tables(feeds: int, per_feed: int, n_items: int) -> tuple[pa.Table, pa.Table]:
    """CANDIDATES and QUERIES: three draws of `per_feed` / 3 items each."""
    rng = np.random.default_rng(2)
    draws, each = feeds * 3, per_feed // 3
    n = draws * each
    items = rng.integers(0, n_items // each, (draws, 1)) * each + np.arange(each)
    items = np.sort((items * 7919) % n_items, axis=1)
    scores = np.sort(rng.random((draws, each)).astype(np.float32))[:, ::-1]
    users = np.repeat(np.arange(feeds), 3)
    slots = np.tile(np.arange(3, dtype=np.int16), feeds)
    candidates = CANDIDATES.build(
        {
            "draw_id": np.repeat(np.arange(draws), each),
            "item_id": items.ravel(),
            "user_id": np.repeat(users, each),
            "surface": pa.repeat("home", n),
            "slot": np.repeat(slots, each),
            "score": scores.ravel(),
            "rank": np.tile(np.arange(each, dtype=np.int32), draws),
            "condition_matched": np.ones(n, bool),
        }
    )
    columns = {c.name: pa.nulls(draws, c.type).fill_null(0) if pa.types.is_integer(c.type)
               else np.ones(draws) for c in QUERIES.required}  # fmt: skip
    texts = {"surface": "home", "query_type": "item", "policy": "p", "arm": ""}
    columns |= {name: pa.repeat(text, draws) for name, text in texts.items()}
    columns |= {
        "run_date": pa.repeat(pa.scalar(NIGHT), draws),
        "serve_date": pa.repeat(pa.scalar(NIGHT + dt.timedelta(days=1)), draws),
        "user_id": users,
        "slot": slots,
        "draw_id": np.arange(draws),
        "conditions": pa.array([[]] * draws, QUERIES.arrow.field("conditions").type),
    }
    return candidates, QUERIES.build(columns)


def whole_step(feeds: int = 3000) -> dict[str, float]:
    """Feeds a second and core of `rerank_feed`, with and without spacing."""
    items, spacing = world(20_000, CLASSES, WINDOW)
    candidates, queries = step_tables(feeds, 150, 20_000)
    found = {}
    for name, given in (("five classes and diversity", spacing), ("by relevance alone", None)):

        def run(given: FeedSpacing | None = given) -> pa.Table:
            return rerank_feed(candidates, queries, items, FeedConfig(size=25), spacing=given)

        assert run().num_rows == feeds * 25
        found[name] = feeds / ms(run, 5) * 1e3
    return found


def main() -> None:
    threadpool_limits(1)
    print(f"{os.cpu_count()} cores; {N:,} candidates to {SIZE}, d = {WIDTH}, {CLASSES} classes, "
          f"window {WINDOW}, gamma {GAMMA}; processor ms a feed")  # fmt: skip
    items, spacing = world(N, CLASSES, WINDOW)
    pool = one_pool(items)
    terms, cap = spacing.terms(pool.feeds), spacing.config.joint_cap
    one, other = order_spaced(pool, SIZE, terms, cap), order_greedily(pool, SIZE, terms, cap)
    assert (one.chosen == other.chosen).all()  # the two are the same feed
    rows = {
        "compiled, diversity and five classes": spaced_ms(CLASSES, WINDOW),
        "compiled, diversity alone": spaced_ms(0, WINDOW),
        "literal equation, both": ms(lambda: order_greedily(pool, SIZE, terms, cap), 5),
        "plain sort": ms(lambda: order_by_relevance(pool, SIZE), 51),
        "MMR in NumPy": ms(lambda: mmr(pool.relevance, items.vectors, SIZE, 0.5), 15),
        **of_pyversity(pool, items),
    }
    for name, value in rows.items():
        print(f"{name:40} {value:9.3f}")
    growth = {f"{k} classes": spaced_ms(k, WINDOW) for k in (0, 1, 2, 5, 10, 20)}
    growth |= {f"window {w}": spaced_ms(CLASSES, w) for w in (3, 6, 12, 24)}
    growth |= {f"gamma {g:g}": spaced_ms(CLASSES, WINDOW, g) for g in (0.0, 0.1, 0.5, 1.0)}
    print("growth: " + ", ".join(f"{name} {value:.2f}" for name, value in growth.items()))
    speeds = whole_step()
    for name, speed in speeds.items():
        print(f"step 6, 150 to 25, {name:28} {speed:>9,.0f} feeds/s and core")
    ours = rows["compiled, diversity and five classes"]
    theirs = rows.get("pyversity SSD")
    report = {
        "ms_per_feed_1000_to_100": round(ours, 3),
        "pyversity_over_ours": None if theirs is None
        else round(theirs / rows["compiled, diversity alone"], 1),
        "naive_over_ours": round(rows["literal equation, both"] / ours, 1),
        "feeds_per_s_per_core": round(speeds["five classes and diversity"]),
    }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
