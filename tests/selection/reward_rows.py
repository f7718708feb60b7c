"""Profiles, records and worlds with known rates, for the tests of the reward's second pass."""

from typing import Any

import numpy as np
import pyarrow as pa

from profiling.decay import DAY_US
from profiling.items import Items
from profiling.schema import FloatArray, IntArray
from profiling.tables import PROFILES
from selection.rewards import RewardConfig
from selection.tables import REWARDS

NOW = 20_000 * DAY_US
CONFIG = RewardConfig()


def catalogue(vectors: dict[int, list[float]]) -> Items:
    ids = np.array(sorted(vectors), np.int64)
    n = len(ids)
    matrix = np.array([vectors[i] for i in ids], np.float32).reshape(n, -1)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return Items(
        ids, matrix, "v1", np.zeros(n + 1, np.int64), np.zeros(0, np.int64),
        np.zeros(0, np.float32), np.zeros(n, np.int64),
    )  # fmt: skip


NO_ITEMS = catalogue({0: [1.0, 0.0]})


def profile_rows(rows: list[dict[str, Any]]) -> pa.Table:
    full = {
        "user_id": 1, "cluster_id": 1, "medoid_item_id": 10, "item_ids": [10], "n_items": 1,
        "action_counts": [1, 2, 4], "importance": 1.0, "as_of": NOW, "first_at": NOW,
        "last_at": NOW, "lineage": "born", "from_cluster_ids": [], "n_born": 1, "cutoff": NOW,
        "embedding_version": "v1",
    }  # fmt: skip
    return pa.Table.from_pylist([full | row for row in rows], schema=PROFILES.arrow)


def reward_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """Records of whole impressions, all at the cut-off: `n` of them with `wins` of value 1."""
    full = {
        "user_id": 1, "surface": "home", "query_type": "item", "query_id": 10,
        "action_counts": [0, 0, 0], "draws": 0, "empty_draws": 0, "draw_w": 0.0, "drawn_w": 0.0,
        "as_of": NOW, "last_at": NOW,
    }  # fmt: skip
    made = []
    for row in rows:
        n, wins = row.pop("n", 1), row.pop("wins", 0)
        sums = {"w": n, "wy": wins, "w2": n, "w2y": wins, "w2y2": wins, "impressions": n}
        made.append(full | sums | row)
    return pa.Table.from_pylist(made, schema=REWARDS.arrow)


def world_profiles(users: int, clusters: int) -> pa.Table:
    """`clusters` singletons for each user; user u's cluster c holds the item u * clusters + c."""
    n = users * clusters
    item, user = np.arange(n), np.repeat(np.arange(users), clusters)
    row = profile_rows([{}])
    constant = {c: row[c].take(pa.array(np.zeros(n, np.int64))) for c in PROFILES.names}
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), pa.array(item))
    return PROFILES.build(
        constant
        | {
            "user_id": user,
            "cluster_id": np.tile(np.arange(clusters), users),
            "medoid_item_id": item,
            "item_ids": lists,
        }
    )


def world_rewards(
    rates: FloatArray,
    shown: int | IntArray,
    rng: np.random.Generator,
    *,
    days: float = 0.0,
    spread: float = 0.0,
) -> pa.Table:
    """REWARDS after `shown` impressions of every cluster, over the last `days`, decayed as usual.

    Args:
        rates: (users, clusters) true rates.
        shown: Impressions per cluster, one number or (users, clusters).
        rng: What the outcomes are drawn with.
        days: The impressions' ages are uniform in [0, days].
        spread: 0: outcomes are 0 or 1; else they are uniform in rate +- spread / 2.
    """
    users, clusters = rates.shape
    n = users * clusters
    row = np.repeat(np.arange(n), np.broadcast_to(shown, rates.shape).ravel())
    rate = rates.ravel()[row]
    y = rate + spread * (rng.random(len(row)) - 0.5) if spread else rng.random(len(row)) < rate
    age = rng.random(len(row)) * days
    x = np.exp2(-age / CONFIG.half_life_days)
    youngest = np.full(n, np.inf)
    np.minimum.at(youngest, row, age)
    youngest[np.isinf(youngest)] = 0.0
    count = np.bincount(row, minlength=n)
    back = np.exp2(youngest / CONFIG.half_life_days)  # sums are as of the latest impression
    as_of = NOW - np.round(youngest * DAY_US).astype(np.int64)
    none = pa.array([[0, 0, 0]], pa.list_(pa.int64())).take(pa.array(np.zeros(n, np.int64)))
    table = REWARDS.build(
        {
            "user_id": np.repeat(np.arange(users), clusters),
            "surface": pa.array(["home"]).take(pa.array(np.zeros(n, np.int64))),
            "query_type": pa.array(["item"]).take(pa.array(np.zeros(n, np.int64))),
            "query_id": np.arange(n),
            "w": np.bincount(row, x, n) * back,
            "wy": np.bincount(row, x * y, n) * back,
            "w2": np.bincount(row, x**2, n) * back**2,
            "w2y": np.bincount(row, x**2 * y, n) * back**2,
            "w2y2": np.bincount(row, (x * y) ** 2, n) * back**2,
            "impressions": count,
            "action_counts": none,
            "draws": np.zeros(n, np.int64),
            "empty_draws": np.zeros(n, np.int64),
            "draw_w": np.zeros(n),
            "drawn_w": np.zeros(n),
            "as_of": as_of,
            "last_at": as_of,
        }
    )
    return table.filter(pa.array(count > 0))
