"""Ward against scikit-learn, and users per second through the whole of `build_profiles`.

Run from the repository: `python benchmarks/ward.py`. One thread, by its own CPU clock, so a busy
machine disturbs little; what is compared alternates in one process. The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import json
import math
import os
import statistics
from time import thread_time

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.cluster import AgglomerativeClustering
from threadpoolctl import threadpool_limits

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.history import ProfileConfig, update_history
from profiling.items import Items, unit_rows
from profiling.profiles import ProfileInputs, build_profiles
from profiling.tables import ENGAGEMENTS, HISTORY, PAST_PROFILES, PROFILES
from profiling.ward import ward_labels_batch

WIDTH, ALPHA = 256, 1.1
USERS = {20: 400, 100: 100, 400: 20, 1000: 8}  # per round, by number of items
ROUNDS = 7
NOW = 1000 * DAY_US


def main() -> None:
    print(f"cores: {os.cpu_count()}, threads used: 1, d = {WIDTH}, alpha = {ALPHA}")
    print("items  ours us/user  sklearn us/user  ratio  clusters  whole tree: ours us/user  ratio")
    with threadpool_limits(1):
        ratios = {str(n): compare(n, users) for n, users in USERS.items()}
        rate = profile_rate()
    print(json.dumps({"sklearn_over_ours": ratios, "build_profiles_users_per_s_per_core": rate}))


def compare(n: int, users: int) -> float:
    """Median time of scikit-learn over ours for `users` users of `n` items each."""
    rng = np.random.default_rng(n)
    vectors = np.concatenate([interests(rng, n) for _ in range(users)])
    offsets, rows = np.arange(users + 1) * n, np.arange(users * n)
    ward_labels_batch(offsets[:2], rows[:n], vectors, ALPHA)  # compiled before it is timed
    ours, theirs, whole = [], [], []
    for _ in range(ROUNDS):
        start = thread_time()
        labels = ward_labels_batch(offsets, rows, vectors, ALPHA)
        ours.append(thread_time() - start)
        start = thread_time()
        partitions = [cluster_sklearn(vectors[k * n : (k + 1) * n]) for k in range(users)]
        theirs.append(thread_time() - start)
        start = thread_time()
        ward_labels_batch(offsets, rows, vectors, math.inf)
        whole.append(thread_time() - start)
    for k, partition in enumerate(partitions):
        check_same(labels[k * n : (k + 1) * n], partition)
    clusters = labels.reshape(users, n).max(1).mean() + 1
    a, b, c = (statistics.median(times) / users * 1e6 for times in (ours, theirs, whole))
    print(f"{n:5}  {a:12.1f}  {b:15.1f}  {b / a:5.1f}  {clusters:8.1f}  {c:25.1f}  {b / c:5.1f}")
    return round(b / a, 2)


def interests(rng: np.random.Generator, n: int) -> npt.NDArray[np.float32]:
    """(n, WIDTH) unit vectors around n / 6 centres: some n / 5 clusters at ALPHA."""
    centres = rng.normal(size=(max(2, n // 6), WIDTH))
    x = centres[rng.integers(len(centres), size=n)] + 0.9 * rng.normal(size=(n, WIDTH))
    return unit_rows(x.astype(np.float32))


def cluster_sklearn(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    model = AgglomerativeClustering(None, linkage="ward", distance_threshold=math.sqrt(ALPHA))
    labels: npt.NDArray[np.int64] = model.fit(vectors).labels_
    return labels


def check_same(ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> None:
    """Raise where two labellings are not one partition."""
    pairs = len(set(zip(ours.tolist(), theirs.tolist(), strict=True)))
    if not pairs == len(set(ours.tolist())) == len(set(theirs.tolist())):
        raise AssertionError("partitions differ")


def profile_rate(n_users: int = 4000) -> int:
    """Users per second and core, from HISTORY to PROFILES, at d = 64 and default options."""
    items, engagements = world(n_users)
    horizon, config = 2 * DAY_US, ProfileConfig()
    done = update_history(
        HISTORY.empty(),
        engagements,
        items,
        DEFAULT_ACTIONS,
        config,
        horizon_us=horizon,
        parent_cutoff=None,
    )
    empty = (PROFILES.empty(), PAST_PROFILES.empty())
    inputs = ProfileInputs(done.history, done.touched, *empty, items)
    times = []
    for _ in range(ROUNDS + 1):
        start = thread_time()
        profiles = build_profiles(
            inputs,
            config,
            DEFAULT_ACTIONS,
            now=NOW,
            cutoffs=np.empty(0, np.int64),
            horizon_us=horizon,
        ).profiles
        times.append(thread_time() - start)
    rate = round(n_users / statistics.median(times[1:]))
    print(
        f"build_profiles: {engagements.num_rows / n_users:.1f} engagements per user, d = 64, "
        f"{profiles.num_rows / n_users:.1f} clusters per user: {rate} users/s and core"
    )
    return rate


def world(n_users: int) -> tuple[Items, pa.Table]:
    """50,000 items of 300 topics; users of 8 topics with some 61 engagements, at most 500."""
    rng = np.random.default_rng(0)
    n_items, n_topics = 49_800, 300
    topics = np.repeat(np.arange(n_topics), n_items // n_topics)
    centres = rng.normal(size=(n_topics, 64))
    vectors = centres[topics] + 0.8 * rng.normal(size=(n_items, 64))
    items = Items(
        ids=np.arange(n_items) * 3 + 5,
        vectors=unit_rows(vectors.astype(np.float32)),
        version="v1",
        topic_offsets=np.zeros(n_items + 1, np.int64),
        topic_ids=np.empty(0, np.int64),
        topic_confidences=np.empty(0, np.float32),
        created_at=np.zeros(n_items, np.int64),
    )
    counts = np.clip(rng.lognormal(3.46, 1.2, n_users), 1, 500).astype(np.int64)
    users = np.repeat(np.arange(n_users), counts)
    n = len(users)
    liked = rng.integers(n_topics, size=(n_users, 8))[users, rng.integers(8, size=n)]
    rows = liked * (n_items // n_topics) + rng.integers(n_items // n_topics, size=n)
    engagements = ENGAGEMENTS.build(
        {
            "event_id": rng.permutation(n),
            "user_id": users,
            "item_id": items.ids[rows],
            "action": pa.repeat("long_view", n),
            "at": NOW - rng.integers(1, 80 * DAY_US, size=n),
            "impression_id": pa.nulls(n, pa.int64()),
            "synthetic": pa.repeat(False, n),
            "content_digest": np.arange(n),
        }
    )
    return items, engagements


if __name__ == "__main__":
    main()
