"""Step 4: which interests query the candidate generator tonight, with what probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.compiling import njit
from profiling.hashing import UIntArray, hash64
from profiling.items import Items
from profiling.schema import FloatArray, IntArray, ints
from selection.conditions import conditions_of
from selection.policies import SelectionConfig, policy_version, policy_weights
from selection.sampling import DrawRequest, Sets, draw_ids, draw_keys, sample_sets
from selection.tables import CLUSTER_REWARDS, QUERIES
from selection.weights import WEIGHTS

__all__ = ["SelectionConfig", "Weighed", "select_queries", "weigh_clusters", "weigh_queries"]

_COLUMNS = (  # of CLUSTER_REWARDS, that weights and queries are made of
    *("user_id", "surface", "cluster_id", "arm", "query_type", "query_id", "importance"),
    *("actions", "weight", "reward", "prior_source"),
    *("posterior_a", "posterior_b", "reward_per_draw"),
)


def select_queries(
    cluster_rewards: pa.Table,
    items: Items,
    selections: Mapping[str, SelectionConfig],
    *,
    run_date: date,
    seed: int,
    salt: str,
) -> pa.Table:
    """Draw each user's queries on each surface, for the day after `run_date`.

    A policy weighs the clusters, conditional Poisson sampling draws `queries` of them with
    inclusion probabilities as the weights and the floor want them, a hash deals the slots.
    A user's rows depend on that user's rows alone.

    Args:
        cluster_rewards: CLUSTER_REWARDS of many users, surfaces and arms, in any order.
        items: The catalogue: a query's topics become its conditions.
        selections: Config by arm; '' where there is no experiment.
        run_date: The night.
        seed: Of the warehouse.
        salt: Of the experiment.

    Returns:
        QUERIES, sorted by key.

    Raises:
        ValueError: A column is missing or wrong, an arm has no config, a cluster comes twice, or a
            weight is not finite.
    """
    weighed = weigh_clusters(cluster_rewards, selections, run_date=run_date, seed=seed, salt=salt)
    sets = sample_sets(
        weighed.offsets, weighed.weights, weighed.draws, weighed.floors, weighed.keys
    )
    return _queries(_Drawn(weighed, sets), items, run_date)


def weigh_clusters(
    cluster_rewards: pa.Table,
    selections: Mapping[str, SelectionConfig],
    *,
    run_date: date,
    seed: int,
    salt: str,
) -> Weighed:
    """What the draw of `select_queries` is made from; arguments and errors as there.

    Another policy's chances are computed from this too: they are those that its night would have
    drawn with.
    """
    rows = CLUSTER_REWARDS.check(cluster_rewards, "select_queries").select(list(_COLUMNS))
    groups = _Groups.of(rows)
    chosen = _configs(groups, selections)
    request = DrawRequest(seed, 0, run_date, "", salt)
    keys = draw_keys(request, groups.users, groups.surface_hashes)
    return Weighed(groups, chosen, keys, _weights(groups, chosen, keys))


def weigh_queries(
    cluster_rewards: pa.Table,
    items: Items,
    selections: Mapping[str, SelectionConfig],
    *,
    run_date: date,
    seed: int,
    salt: str,
) -> pa.Table:
    """What `select_queries` draws from, for draws per request: arguments and errors as there.

    Returns:
        WEIGHTS, sorted by key: a row an interest, drawn or not.
    """
    weighed = weigh_clusters(cluster_rewards, selections, run_date=run_date, seed=seed, salt=salt)
    groups, by_arm = weighed.groups, weighed.configs.by_arm
    sizes = np.diff(groups.offsets)
    arms = np.repeat(weighed.configs.arms, sizes)
    query_ids = ints(groups.rows, "query_id")
    configs = [config for _, config in by_arm]
    limits = np.array([c.topics for c in configs], np.int64)[arms]
    return WEIGHTS.build(
        {
            "user_id": ints(groups.rows, "user_id"),
            "surface": _texts(groups.surface_names, np.repeat(groups.surfaces, sizes)),
            "cluster_id": ints(groups.rows, "cluster_id"),
            "query_type": groups.rows["query_type"],
            "query_id": query_ids,
            "weight": weighed.weights,
            "queries": np.repeat(weighed.draws, sizes).astype(np.int32),
            "floor": np.repeat(weighed.floors, sizes),
            "policy": _texts([policy_version(c) for c in configs], arms),
            "arm": _texts([name for name, _ in by_arm], arms),
            "conditions": conditions_of(query_ids, items, limits),
        }
    )


@dataclass(frozen=True)
class _Groups:
    """CLUSTER_REWARDS by user and surface.

    Attributes:
        rows: (n,) rows sorted by (user, surface, cluster).
        offsets: (g + 1,) int64 bounds of the groups.
        surfaces: (g,) int64 places in `surface_names`.
        surface_names: Ascending.
    """

    rows: pa.Table
    offsets: IntArray
    surfaces: IntArray
    surface_names: list[str]

    @classmethod
    def of(cls, rows: pa.Table) -> _Groups:
        """Sort where needed, and find the bounds.

        Raises:
            ValueError: A user has a cluster twice on a surface.
        """
        codes, names = _text_codes(rows["surface"])
        users, clusters = ints(rows, "user_id"), ints(rows, "cluster_id")
        if not _is_sorted(users, codes, clusters):
            order = np.lexsort((clusters, codes, users))
            rows, codes, users, clusters = (
                rows.take(order),
                codes[order],
                users[order],
                clusters[order],
            )
        offsets, twice = _bounds(users, codes, clusters)
        if twice >= 0:
            raise ValueError(
                f"select_queries: CLUSTER_REWARDS has user {users[twice]}, surface "
                f"{names[codes[twice]]!r}, cluster {clusters[twice]} twice; roll up once per key"
            )
        return cls(rows, offsets, codes[offsets[:-1]], names)

    @cached_property
    def users(self) -> IntArray:
        """(g,) int64."""
        return ints(self.rows, "user_id")[self.offsets[:-1]]

    @cached_property
    def surface_hashes(self) -> UIntArray:
        """(g,) uint64."""
        names = [hash64(name)[0] for name in self.surface_names]
        return np.array(names, np.uint64)[self.surfaces]


@dataclass(frozen=True)
class _Configs:
    """Which config each group is drawn by: (name, config) of the arms there are, (g,) places."""

    by_arm: list[tuple[str, SelectionConfig]]
    arms: IntArray


@dataclass(frozen=True)
class Weighed:
    """The clusters of every user and surface, weighed by the policy of the user's arm.

    Attributes:
        groups: CLUSTER_REWARDS by user and surface.
        configs: The arms, and the groups'.
        keys: (g,) uint64 of `sampling.draw_keys`.
        weights: (n,) float64, floor and calibration not yet in them.
    """

    groups: _Groups
    configs: _Configs
    keys: UIntArray
    weights: FloatArray

    @property
    def rows(self) -> pa.Table:
        """(n,) rows of CLUSTER_REWARDS, sorted by (user, surface, cluster)."""
        return self.groups.rows

    @property
    def offsets(self) -> IntArray:
        """(g + 1,) int64 bounds of the groups."""
        return self.groups.offsets

    @cached_property
    def draws(self) -> IntArray:
        """(g,) int64 draws wanted."""
        return np.array([c.queries for _, c in self.configs.by_arm], np.int64)[self.configs.arms]

    @cached_property
    def floors(self) -> FloatArray:
        """(g,) float64."""
        return np.array([c.floor for _, c in self.configs.by_arm], np.float64)[self.configs.arms]


@dataclass(frozen=True)
class _Drawn:
    """All that a query is made of."""

    weighed: Weighed
    sets: Sets

    @cached_property
    def group(self) -> IntArray:
        """(d,) int64 group of each draw."""
        return np.repeat(np.arange(len(self.sets.offsets) - 1), np.diff(self.sets.offsets))

    @cached_property
    def slots(self) -> IntArray:
        """(d,) int64."""
        return np.arange(len(self.group)) - self.sets.offsets[self.group]


def _configs(groups: _Groups, selections: Mapping[str, SelectionConfig]) -> _Configs:
    codes, names = _text_codes(groups.rows["arm"])
    arms = codes[groups.offsets[:-1]]
    unknown = [name for name in names if name not in selections]
    if unknown:
        raise ValueError(
            f"select_queries: arm {unknown[0]!r} has no selection; there are "
            f"{', '.join(repr(name) for name in selections)}. '' stands for no experiment."
        )
    mixed = np.flatnonzero(_differs(codes, groups.offsets))
    if len(mixed):
        raise ValueError(
            f"select_queries: user {groups.users[mixed[0]]} is in several arms; a user has one"
        )
    return _Configs([(name, selections[name]) for name in names], arms)


def _weights(groups: _Groups, chosen: _Configs, keys: UIntArray) -> FloatArray:
    """(n,) policy weights, arm by arm."""
    if len(chosen.by_arm) == 1:
        return policy_weights(groups.rows, groups.offsets, chosen.by_arm[0][1], keys)
    sizes = np.diff(groups.offsets)
    weights = np.empty(groups.rows.num_rows)
    for place, (_, config) in enumerate(chosen.by_arm):
        own = chosen.arms == place
        mask = np.repeat(own, sizes)
        bounds = np.r_[0, np.cumsum(sizes[own])].astype(np.int64)
        weights[mask] = policy_weights(groups.rows.filter(mask), bounds, config, keys[own])
    return weights


def _queries(drawn: _Drawn, items: Items, run_date: date) -> pa.Table:
    weighed, sets = drawn.weighed, drawn.sets
    groups, by_arm = weighed.groups, weighed.configs.by_arm
    group, n = drawn.group, len(drawn.group)
    arms = weighed.configs.arms[group]
    query_ids = ints(groups.rows, "query_id")[sets.rows]
    limits = np.array([config.topics for _, config in by_arm], np.int64)[arms]
    return QUERIES.build(
        {
            "run_date": pa.repeat(pa.scalar(run_date), n),
            "user_id": groups.users[group],
            "surface": _texts(groups.surface_names, groups.surfaces[group]),
            "slot": drawn.slots,
            "serve_date": pa.repeat(pa.scalar(run_date + timedelta(days=1)), n),
            "draw_id": draw_ids(weighed.keys[group], drawn.slots),
            "cluster_id": ints(groups.rows, "cluster_id")[sets.rows],
            **{c: groups.rows[c].take(sets.rows) for c in ("query_type", "reward", "prior_source")},
            "query_id": query_ids,
            "weight": weighed.weights[sets.rows],
            "propensity": sets.propensities[sets.rows],
            "set_probability": sets.set_probabilities[group],
            "policy": _texts([policy_version(config) for _, config in by_arm], arms),
            "arm": _texts([name for name, _ in by_arm], arms),
            "conditions": conditions_of(query_ids, items, limits),
        }
    )


def _text_codes(column: pa.ChunkedArray[Any]) -> tuple[IntArray, list[str]]:
    """(n,) texts to int64 places in their ascending list: by runs, of which there are few."""
    runs = pc.call_function("run_end_encode", [column.combine_chunks()])
    values = runs.values.dictionary_encode()
    names = values.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    ranks = np.empty(len(names), np.int64)
    ranks[order] = np.arange(len(names))
    lengths = np.diff(runs.run_ends.to_numpy(), prepend=0)
    codes = np.repeat(ranks[values.indices.to_numpy()], lengths)
    return codes.astype(np.int64, copy=False), [names[i] for i in order]


def _texts(names: list[str], places: IntArray) -> pa.Array[Any]:
    return pa.array(names, pa.string()).take(places)


def _differs(codes: IntArray, offsets: IntArray) -> npt.NDArray[np.bool_]:
    """(g,) whether a group's codes are not all equal."""
    changes = np.flatnonzero(np.diff(codes)) + 1
    mixed = np.zeros(len(offsets) - 1, bool)
    inside = changes[~np.isin(changes, offsets)] if len(changes) else changes
    mixed[np.searchsorted(offsets, inside, side="right") - 1] = True
    return mixed


@njit(cache=True, nogil=True)
def _is_sorted(users: IntArray, surfaces: IntArray, clusters: IntArray) -> bool:
    for i in range(1, len(users)):
        if users[i] != users[i - 1]:
            in_order = users[i] > users[i - 1]
        elif surfaces[i] != surfaces[i - 1]:
            in_order = surfaces[i] > surfaces[i - 1]
        else:
            in_order = clusters[i] >= clusters[i - 1]
        if not in_order:
            return False
    return True


@njit(cache=True, nogil=True)
def _bounds(users: IntArray, surfaces: IntArray, clusters: IntArray) -> tuple[IntArray, int]:
    """Bounds of the runs of equal (user, surface); a row that repeats the one before, or -1."""
    bounds, count, twice = np.zeros(len(users) + 1, np.int64), 0, -1
    for i in range(1, len(users)):
        if users[i] != users[i - 1] or surfaces[i] != surfaces[i - 1]:
            count += 1
            bounds[count] = i
        elif clusters[i] == clusters[i - 1]:
            twice = i
    if len(users) > 0:
        count += 1
        bounds[count] = len(users)
    return bounds[: count + 1].copy(), twice
