"""Closed-loop replay: what would a policy have earned, where every outcome is known?

Night after night the policy draws queries by the night's own steps (`loop`), each query brings the
nearest items that its user has not seen, and what is observed is the truth. Nothing is estimated;
only users are a sample. The user's universe runs dry, though: a policy that finds the good items
first has the others left, so late nights say less than early ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig
from pipelines.lab.loop import Loop, LoopState, Shown, choose, learn, loop_config
from pipelines.lab.policies import NAMED, check_policy, policy_named
from pipelines.lab.universe import Asked, Universe
from profiling.items import Items
from profiling.options import check_options, option
from profiling.schema import FloatArray, IntArray, ints, sort_rows
from profiling.tables import PROFILES
from retrieval.index.exact import ExactIndex
from retrieval.neighbours import nearest_items
from selection.policies import SelectionConfig
from selection.tables import QUERIES

ORACLE, REFERENCE = "oracle", "counts"


@dataclass(frozen=True)
class ReplayOptions:
    """A replay."""

    policies: tuple[str, ...] = option(
        ("counts", "reward_importance", "thompson", "evidence", "oracle", "uniform"),
        "by name; `counts`, which the others are compared with, is always among them",
    )
    nights: int = option(10, "nights that draw queries", low=1, high=1000)
    queries: int = option(3, "queries of a user and night (PinnerSage: 3)", low=1, high=1000)
    per_query: int = option(1, "items that a query brings", low=1, high=1000)
    seeds: int = option(3, "replays of every policy, each with draws of its own", low=1, high=1000)
    liked_from: float = option(
        0.5, "value from which an item joins its user's interests (ours)", low=0.0, high=1.0
    )
    start_counts: bool = option(
        True,
        "whether what was shown at the beginning counts as impressions for the evidence, or only "
        "as engagements",
    )
    first_nights: int = option(5, "nights that are reported apart", low=1)

    def __post_init__(self) -> None:
        check_options(self)
        for name in self.policies:
            check_policy(name, (*NAMED, ORACLE))

    @property
    def names(self) -> tuple[str, ...]:
        """The policies, each once, `counts` first."""
        return tuple(dict.fromkeys((REFERENCE, *self.policies)))


@dataclass(frozen=True)
class Replayed:
    """What one policy did with one seed.

    Attributes:
        values: (nights, u) float64 sums of the outcomes by night and user.
        shown: (nights, u) int64 items shown.
        exposures: (n,) int64 by item of the catalogue.
        draws: (nights,) int64 queries drawn.
        empty: (nights,) int64 of these, queries that brought nothing.
        dry: (nights,) int64 users with no known outcome left before the night: they stopped.
        idle: (nights,) int64 other users without an interest, whom no query can be drawn for.
        queries: QUERIES of all nights; empty for the oracle.
    """

    policy: str
    seed: int
    values: FloatArray
    shown: IntArray
    exposures: IntArray
    draws: IntArray
    empty: IntArray
    dry: IntArray
    idle: IntArray
    queries: pa.Table = field(repr=False)


def replay_all(
    universe: Universe,
    config: NightConfig,
    options: ReplayOptions,
    note: Callable[[str], None] = lambda text: None,
) -> list[Replayed]:
    """Every policy with every seed.

    Args:
        universe: Items, users, outcomes, and what was shown at the beginning.
        config: Of the night, but for what a replay decides (`loop_config`).
        options: Policies and sizes.
        note: Told what is being done.
    """
    around = neighbours_of(universe.items, config.evidence.neighbours)
    runs = []
    for name in options.names:
        selection = None if name == ORACLE else policy_named(name).selection
        for seed in range(options.seeds):
            note(f"{name}, seed {seed + 1} of {options.seeds}")
            runs.append(replay(universe, around, name, selection, config, options, seed=seed))
    return runs


def neighbours_of(items: Items, k: int) -> IntArray:
    """The items around each item, as `prepare_neighbours` of the night finds them."""
    return nearest_items(items, ExactIndex.over(items), k)


def replay(
    universe: Universe,
    neighbours: IntArray,
    policy: str,
    selection: SelectionConfig | None,
    config: NightConfig,
    options: ReplayOptions,
    *,
    seed: int,
) -> Replayed:
    """One policy with one seed; arguments as in `replay_all`.

    `policy` only names it; `selection` is what it does, None: the oracle.
    """
    oracle = selection is None
    selection = replace(selection or SelectionConfig(), queries=options.queries)
    loop = Loop(
        universe.items, loop_config(config, selection, seed), neighbours, options.start_counts
    )
    u, nights = len(universe.user_ids), options.nights
    counts = {n: np.zeros(nights, np.int64) for n in ("draws", "empty", "dry", "idle")}
    values, shown = np.zeros((nights, u)), np.zeros((nights, u), np.int64)
    exposures, seen = np.zeros(len(universe.items.ids), np.int64), universe.start.copy()
    day = _shown(universe, np.flatnonzero(seen), options.liked_from)
    state, drawn = LoopState(), [QUERIES.empty()]
    for night in range(nights):
        state = learn(loop, state, day, night)
        left = np.bincount(universe.users_of[~seen], minlength=u)
        if oracle:
            asked = _oracle(universe, seen, state.profiles, options)
        else:
            chosen = choose(loop, state, night)
            queries = _of_users(chosen.queries, universe.user_ids[left > 0])
            state = replace(state, queries=queries, slopes=chosen.slopes)
            drawn.append(queries)
            asked = _asked(universe, queries)
        places = universe.bring(seen, asked, options.per_query)
        draws, _ = np.nonzero(places >= 0)
        found = places[places >= 0]
        day = _shown(universe, found, options.liked_from, None if oracle else draws)
        seen[found] = True
        users = universe.users_of[found]
        values[night] = np.bincount(users, universe.known.values[found], minlength=u)
        shown[night] = np.bincount(users, minlength=u)
        exposures += np.bincount(universe.known.rows[found], minlength=len(exposures))
        counts["draws"][night] = len(places)
        counts["empty"][night] = int((places[:, 0] < 0).sum())
        counts["dry"][night] = int((left == 0).sum())
        counts["idle"][night] = int(((left > 0) & (np.diff(asked.bounds) == 0)).sum())
    return Replayed(
        policy, seed, values, shown, exposures, **counts, queries=pa.concat_tables(drawn)
    )


def _shown(
    universe: Universe, places: IntArray, liked_from: float, draws: IntArray | None = None
) -> Shown:
    """What was shown, as the next night learns it."""
    values = universe.known.values[places]
    return Shown(
        user_ids=universe.user_ids[universe.users_of[places]],
        item_ids=universe.items.ids[universe.known.rows[places]],
        values=values,
        liked=(values >= liked_from) & (values > 0),
        draws=np.full(len(places), -1, np.int64) if draws is None else draws,
    )


def _of_users(queries: pa.Table, users: IntArray) -> pa.Table:
    """The queries of users who go on."""
    return queries.filter(pa.array(np.isin(ints(queries, "user_id"), users)))


def _asked(universe: Universe, queries: pa.Table) -> Asked:
    """QUERIES, sorted by key, as the universe is asked."""
    bounds = np.searchsorted(ints(queries, "user_id"), _edges(universe.user_ids))
    return Asked(bounds.astype(np.int64), universe.items.rows_of(ints(queries, "query_id")))


def _oracle(
    universe: Universe, seen: np.ndarray, profiles: pa.Table, options: ReplayOptions
) -> Asked:
    """The queries of who knows tonight's outcomes."""
    profiles = sort_rows(profiles, PROFILES.key)
    bounds = np.searchsorted(ints(profiles, "user_id"), _edges(universe.user_ids))
    medoids = universe.items.rows_of(ints(profiles, "medoid_item_id"))
    clusters = Asked(bounds.astype(np.int64), medoids)
    best = universe.best_queries(seen, clusters, options.queries, options.per_query)
    taken = best >= 0
    starts = np.r_[0, np.cumsum(taken.sum(axis=1))].astype(np.int64)
    return Asked(starts, medoids[best[taken]])


def _edges(user_ids: IntArray) -> IntArray:
    """(u + 1,) values that part sorted ids into those of each user."""
    return np.r_[user_ids, np.iinfo(np.int64).max]
