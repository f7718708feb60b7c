"""The world of logged conditions: its rules hold, and a log tells what an item's topics do not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines.worlds.faceted import FIRST_NIGHT, SLOTS, FacetedWorld, Log, cutoff_of_night
from profiling.actions import DEFAULT_ACTIONS
from profiling.hashing import uniforms
from profiling.schema import FloatArray, IntArray, ints
from profiling.tables import HISTORY
from retrieval.pairs import make_pairs
from selection.tables import QUERIES

NIGHTS = 10


def small(facets: float) -> FacetedWorld:
    return FacetedWorld.create(500, 300, 6, facets=facets, seed=3)


@pytest.fixture(scope="module")
def world() -> FacetedWorld:
    return small(1.0)


@pytest.fixture(scope="module")
def log(world: FacetedWorld) -> Log:
    return world.log(NIGHTS)


def shares(world: FacetedWorld, user: int, topic: int) -> tuple[IntArray, FloatArray]:
    """Items of a topic and the probability that the user chooses each under it."""
    rows, ends = world.distribution(np.array([user]), topic)
    return rows, np.diff(ends[0], prepend=0.0) / ends[0, -1]


def test_tables_are_valid_and_the_same_again(world: FacetedWorld, log: Log) -> None:
    assert HISTORY.build({name: log.history[name] for name in HISTORY.names}).num_rows > 5000
    assert QUERIES.build({n: log.queries[n] for n in QUERIES.names}).num_rows == 500 * 10 * SLOTS
    assert len(np.unique(ints(log.history, "event_id"))) == log.history.num_rows
    again = small(1.0).log(NIGHTS)
    assert all(a.equals(b) for a, b in zip(log, again, strict=True))
    assert not small(0.0).log(NIGHTS).history.equals(log.history)


def test_users_choose_as_the_formula_says(world: FacetedWorld, log: Log) -> None:
    """The chance of what is chosen is, in the mean, that of a choice by the rule."""
    came = log.outcomes.join(log.queries.select(["draw_id", "cluster_id"]), "draw_id")
    came = came.join(log.history.select(["impression_id", "user_id", "item_id"]), "impression_id")
    came = came.sort_by("impression_id").slice(0, 1500)  # by hash
    found, expected, variance = 0.0, 0.0, 0.0
    for user, topic, item in zip(
        *(ints(came, n) for n in ("user_id", "cluster_id", "item_id")), strict=True
    ):
        rows, chances = shares(world, user - 1, topic - 1)
        found += chances[np.searchsorted(rows, item - 1001)]
        expected += (chances**2).sum()
        variance += (chances**3).sum() - (chances**2).sum() ** 2
    assert abs(found - expected) < 4 * np.sqrt(variance)


def test_without_facets_an_item_is_chosen_for_the_same_under_each_topic() -> None:
    for facets, same in ((0.0, True), (1.0, False)):
        world = small(facets)
        both = np.flatnonzero(world.carried[:, 0] & world.carried[:, 1])
        ratios = []
        for topic in (0, 1):
            rows, chances = shares(world, 7, topic)
            chosen = chances[np.searchsorted(rows, both)]
            ratios.append(chosen / chosen[0])
        assert np.allclose(*ratios) == same


def test_what_a_draw_brought_carries_its_condition_and_reaches_the_pairs(
    world: FacetedWorld, log: Log
) -> None:
    pairs = pairs_of(log)
    at, cutoffs = ints(pairs, "at"), ints(pairs, "cutoff")
    assert (at[cutoffs > cutoff_of_night(0)] >= cutoffs[cutoffs > cutoff_of_night(0)]).all()
    items, topics, known = logged(world, pairs)
    assert 0.4 < known.mean() < 0.8
    assert world.carried[items[known], topics[known]].all()
    before = at < cutoff_of_night(0)
    assert not known[before].any()  # nothing was drawn yet
    assert str(log.queries["run_date"][0]) < FIRST_NIGHT.isoformat()  # serves the first day


def test_counts_by_logged_topic_foretell_more_than_by_one_of_the_items_own() -> None:
    """The mechanism without a model: what is popular in a topic.

    By logged topics a topic's best are those chosen for it; by topics drawn from the item also
    those chosen for another. Where an item is the same under all its topics nothing is gained.
    """
    gains = {}
    for facets in (1.0, 0.0):
        world = small(facets)
        items, topics, known = logged(world, pairs_of(world.log(NIGHTS)))
        items, topics, late = items[known], topics[known], np.arange(known.sum()) % 2 == 1
        ends = np.cumsum(world.carried[items], axis=1)
        chance = uniforms(1, "topic", np.arange(len(items)))
        drawn = (ends <= chance[:, None] * ends[:, -1:]).sum(axis=1)
        by_log, by_item = (hits(items, given, topics, late, world) for given in (topics, drawn))
        gains[facets] = by_log - by_item
    assert gains[1.0] > 0.02  # .198 less .167
    assert abs(gains[0.0]) < 0.01


def hits(
    items: IntArray, given: IntArray, topics: IntArray, late: np.ndarray, world: FacetedWorld
) -> float:
    """Share of the late choices among the ten items most counted in their topic before."""
    counts = np.zeros(world.carried.shape)
    np.add.at(counts, (items[~late], given[~late]), 1)
    best = np.argsort(-counts, axis=0, kind="stable")[:10]
    return float((best[:, topics[late]] == items[late]).any(axis=0).mean())


def pairs_of(log: Log) -> pa.Table:
    cutoffs = np.array([cutoff_of_night(n) for n in range(NIGHTS + 1)])
    return make_pairs(*log, DEFAULT_ACTIONS, cutoffs=cutoffs)


def logged(world: FacetedWorld, pairs: pa.Table) -> tuple[IntArray, IntArray, np.ndarray]:
    """Item rows, logged topic rows, and where there is one."""
    lists = pairs["logged_topics"].to_pylist()
    topics = np.array([some[0] - 101 if some else -1 for some in lists])
    return world.items.rows_of(ints(pairs, "item_id")), topics, topics >= 0


@pytest.mark.parametrize(
    ("change", "told"), [({"facets": 1.5}, "facets"), ({"topics": 5}, "6 top")]
)
def test_worlds_that_cannot_be_are_refused(change: dict[str, float], told: str) -> None:
    given = {"users": 10, "items": 50, "topics": 8, "facets": 1.0, "seed": 0} | change
    with pytest.raises(ValueError, match=told):
        FacetedWorld.create(
            given["users"], given["items"], given["topics"], facets=given["facets"], seed=0
        )
