"""The kernels that a first night needs last, compiled beside it by a second process.

Numba compiles one kernel at a time in a process. On a machine where nothing is compiled yet, half
of the demo's minute is that; so another process fills the cache from the other end: steps 4 to 6
on a handful of rows. Nobody waits for it, and no row depends on it.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from profiling.items import Items, unit_rows
from profiling.tables import ITEMS
from retrieval.candidates import RetrievalConfig, retrieve_candidates
from retrieval.feed import FeedConfig, rerank_feed
from retrieval.index.exact import ExactIndex
from selection.conditional_poisson import draw_groups
from selection.queries import SelectionConfig, select_queries
from selection.tables import CLUSTER_REWARDS

USERS, CLUSTERS, WIDTH = 4, 4, 8
NIGHT = dt.date(2024, 1, 1)


@contextmanager
def compiling_ahead() -> Iterator[None]:
    """While the block runs, compile in a second process, unless the cache was filled before."""
    stats = draw_groups.stats
    if any(Path(stats.cache_path).glob(f"*{draw_groups.py_func.__name__}*.nbi")):
        yield
        return
    quiet = subprocess.DEVNULL
    code = f"from {__name__} import compile_last_steps; compile_last_steps()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def compile_last_steps() -> pa.Table:
    """Run steps 4 to 6; the FEED of all users, so that it can be seen that they ran."""
    items, selections = _items(), {"": SelectionConfig()}
    queries = select_queries(_cluster_rewards(), items, selections, run_date=NIGHT, seed=0, salt="")
    seen = pa.table({"user_id": np.arange(USERS), "item_id": np.arange(USERS)})
    index = ExactIndex.over(items)
    candidates = retrieve_candidates(queries, seen, index, items, RetrievalConfig())
    return rerank_feed(candidates, queries, items, FeedConfig())


def _items() -> Items:
    n = USERS * CLUSTERS
    vectors = unit_rows(np.random.default_rng(0).normal(size=(n, WIDTH)).astype(np.float32))
    schema = ITEMS.of_width(WIDTH)
    topics = [[{"topic_id": i % 3, "confidence": 1.0}] for i in range(n)]
    columns = {
        "item_id": np.arange(n),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), WIDTH),
        "embedding_version": pa.repeat("ahead", n),
        "topics": pa.array(topics, schema.arrow.field("topics").type),
        "created_at": pa.nulls(n, pa.timestamp("us", "UTC")),
        "labels": pa.array([[]] * n, schema.arrow.field("labels").type),
        "title": pa.nulls(n, pa.string()),
    }
    return Items.from_table(schema.build(columns))


def _cluster_rewards() -> pa.Table:
    n = USERS * CLUSTERS
    places = np.arange(n)
    columns = {c.name: np.full(n, 0.5) for c in CLUSTER_REWARDS.required}
    columns |= {
        "user_id": places // CLUSTERS,
        "surface": pa.repeat("home", n),
        "cluster_id": places % CLUSTERS + 1,
        "arm": pa.repeat("", n),
        "query_type": pa.repeat("item", n),
        "query_id": places,
        "actions": places + 1,
        "prior_source": pa.repeat("observed", n),
    }
    return CLUSTER_REWARDS.build(columns)
