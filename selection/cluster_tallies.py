"""Step 3, second pass: the records of queries, gathered by tonight's clusters.

Records are keyed by query. A query counts for the cluster that holds its item tonight; one that
left the history for the user's nearest medoid, if near enough, else it is kept apart and fades.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.decay import DAY_US, half_life_weights
from profiling.items import Items
from profiling.schema import (
    TIMESTAMP,
    Column,
    IntArray,
    TableSchema,
    floats,
    group_offsets,
    ints,
    sort_rows,
)
from profiling.tables import F64, I64, PROFILES, TEXT
from selection.keys import name_codes, name_column, sort_keys
from selection.membership import clusters_of
from selection.rewards import NEVER, SUMS, RewardConfig, last_times
from selection.tables import DATE

# In memory only: REWARDS by cluster, as of the cut-off.
CLUSTER_TALLIES = TableSchema(
    "CLUSTER_TALLIES",
    1,
    ("user_id", "surface", "cluster_id"),
    (
        Column("user_id", I64, "whose"),
        Column("surface", TEXT, "where"),
        Column("cluster_id", I64, "the interest"),
        *(Column(s, F64, "as in REWARDS, decayed to the cut-off", low=0) for s in SUMS),
        Column("impressions", I64, "outcomes ever counted here", low=0),
        Column("draws", I64, "draws ever closed here", low=0),
        Column("last_at", TIMESTAMP, "latest impression here", nullable=True),
        Column("last_chance", DATE, "latest day of an impression or a closed draw", nullable=True),
    ),
)


def roll_up_tallies(
    rewards: pa.Table,
    profiles: pa.Table,
    items: Items,
    config: RewardConfig,
    *,
    now: int,
    surfaces: Sequence[str],
) -> pa.Table:
    """CLUSTER_TALLIES: a row per user, surface and cluster, zeros where there is no record.

    Args:
        rewards: REWARDS of the bucket; queries that are no items count for no cluster.
        profiles: PROFILES of the bucket, tonight's.
        items: The catalogue, for queries that left the history.
        config: Half-life, threshold; records decayed below `prune_below` count as none.
        now: The cut-off, microseconds.
        surfaces: Where to; records of other surfaces are left out.
    """
    profiles, names = in_key_order(profiles), sorted(set(surfaces))
    rewards = rewards.filter(pc.equal(rewards["query_type"], pa.scalar("item")))
    surface = name_codes(rewards["surface"], names)
    keys = np.stack([surface, ints(rewards, "query_id")], axis=1)
    users, keys, order = sort_keys(ints(rewards, "user_id"), keys)
    bounds = group_offsets(ints(profiles, "user_id"))
    clusters = clusters_of(users, keys[:, 1], profiles, items, config.threshold)
    kept = (clusters >= 0) & (keys[:, 0] >= 0)
    order, clusters, surface = order[kept], clusters[kept], keys[kept, 0]
    # A user's rows lie together, surface after surface.
    user = np.searchsorted(bounds, clusters, side="right") - 1
    rows = bounds[user] * (len(names) - 1) + surface * np.diff(bounds)[user] + clusters
    columns = _sums_by_row(rewards, order, rows, len(names) * profiles.num_rows, config, now)
    of_profile, codes = cluster_layout(bounds, len(names))
    return CLUSTER_TALLIES.build(
        {
            "user_id": ints(profiles, "user_id")[of_profile],
            "surface": name_column(codes, names),
            "cluster_id": ints(profiles, "cluster_id")[of_profile],
            **columns,
        }
    )


def _sums_by_row(
    rewards: pa.Table,
    order: IntArray,
    rows: IntArray,
    n: int,
    config: RewardConfig,
    now: int,
) -> dict[str, npt.NDArray[np.generic] | pa.Array[Any]]:
    """CLUSTER_TALLIES but for its key: the records `order` added to the (n,) `rows`, in order."""
    decay = half_life_weights(ints(rewards, "as_of"), now, config.half_life_days)[order]
    columns: dict[str, npt.NDArray[np.generic] | pa.Array[Any]] = {}
    for s in SUMS:
        values = floats(rewards, s)[order] * (decay**2 if s.startswith("w2") else decay)
        weight = floats(rewards, "draw_w" if s == "draw_w" else "w")[order] * decay
        alive = np.where(weight >= config.prune_below, values, 0.0)
        columns[s] = np.bincount(rows, alive, minlength=n)
    for c in ("impressions", "draws"):
        counts = np.zeros(n, np.int64)
        np.add.at(counts, rows, ints(rewards, c)[order])
        columns[c] = counts
    last_at = _latest(last_times(rewards)[order], rows, n)
    chance = _latest(_chance_days(rewards)[order], rows, n)
    return columns | {
        "last_at": pa.array(last_at, mask=last_at == NEVER).cast(TIMESTAMP),
        "last_chance": pa.array(chance, mask=chance == NEVER).cast(pa.int32()).cast(DATE),
    }


def _chance_days(rewards: pa.Table) -> IntArray:
    """(n,) int64 days since 1970: of the latest impression, or that the latest closed draw was for.

    A draw closes as of the end of its day, which is the next day's first moment.
    """
    as_of = ints(rewards, "as_of")
    return np.where(as_of == last_times(rewards), as_of, as_of - 1) // DAY_US


def _latest(times: IntArray, rows: IntArray, n: int) -> IntArray:
    """(n,) int64: the greatest of the `times` that go to each row, NEVER where none does."""
    latest = np.full(n, NEVER, np.int64)
    np.maximum.at(latest, rows, times)
    return latest


def in_key_order(profiles: pa.Table) -> pa.Table:
    """PROFILES by key; what is in order already is not copied."""
    users, clusters = ints(profiles, "user_id"), ints(profiles, "cluster_id")
    rising = users[1:] > users[:-1]
    rising |= (users[1:] == users[:-1]) & (clusters[1:] > clusters[:-1])
    return profiles if rising.all() else sort_rows(profiles, PROFILES.key)


def cluster_layout(bounds: IntArray, n_surfaces: int) -> tuple[IntArray, IntArray]:
    """For every row by (user, surface, cluster): its row of PROFILES, and its surface's code.

    Args:
        bounds: (u + 1,) int64 bounds of the users in PROFILES.
        n_surfaces: How many there are.
    """
    sizes = np.repeat(np.diff(bounds), n_surfaces)
    starts = np.repeat(bounds[:-1], n_surfaces)
    ends = np.cumsum(sizes)
    rows = np.arange(int(sizes.sum())) - np.repeat(ends - sizes - starts, sizes)
    codes = np.tile(np.arange(n_surfaces), len(bounds) - 1)
    return rows, np.repeat(codes, sizes)
