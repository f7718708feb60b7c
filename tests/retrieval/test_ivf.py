"""IVF, planner and streaming filter against the exact index and against plain search."""

import sys

import numpy as np
import pytest

from retrieval.index.exact import ExactIndex, Lists, Searches
from retrieval.index.ivf import IvfIndex, calibrate, plain_searches, promises_of, split
from retrieval.index.planner import (
    SLICE,
    STREAM,
    WHOLE,
    IndexConfig,
    PlannedIndex,
    StreamCosts,
    build_index,
    measure,
)
from retrieval.index.scan import near_kth
from tests.retrieval.test_index import (
    assert_same,
    catalogue,
    lists,
    plain_search,
    random_searches,
    random_world,
)

pytest.importorskip("faiss")


def clustered(n=3000, d=16, n_centres=40, n_topics=8, seed=0):
    """Items around centres, each with the topic of its centre and perhaps another."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(0, n_centres, n)
    vectors = rng.standard_normal((n_centres, d))[centre] + 0.4 * rng.standard_normal((n, d))
    other = rng.integers(0, n_topics, n)
    topics = [sorted({int(c) % n_topics, int(o)}) if o < 3 else [int(c) % n_topics]
              for c, o in zip(centre, other, strict=True)]  # fmt: skip
    return catalogue(vectors, topics)


@pytest.fixture(scope="module")
def world():
    items = clustered()
    exact = ExactIndex.over(items)
    return items, exact, IvfIndex.build(exact, 60, 0.95, 1.0, seed=3)


def recall(found, wanted):
    both = [np.intersect1d(a[a >= 0], b[b >= 0]) for a, b in zip(found, wanted, strict=True)]
    return sum(map(len, both)) / (wanted >= 0).sum()


def test_looking_into_every_cell_is_exact():
    items = random_world()
    searches = random_searches(items, n=120)
    exact = ExactIndex.over(items)
    everything = IvfIndex(exact, split(items.vectors, 20, 0), 1000.0, 1.0)
    for k in (1, 50, 2000):
        streamed = everything.stream(searches, k)
        assert_same(streamed.hits, plain_search(items, searches, k))
        assert not streamed.ended.any()


def test_calibrated_recall_holds_for_other_queries_and_scores_a_part(world):
    items, exact, ivf = world
    queries = plain_searches(items.vectors[np.random.default_rng(5).permutation(3000)[:300]])
    streamed = ivf.stream(queries, 100)
    assert recall(streamed.hits.rows, exact.search(queries, 100).rows) >= 0.94
    assert streamed.scored.mean() < 0.6 * len(items.ids)
    assert not streamed.ended.any()
    assert (streamed.hits.counts == 100).all()


def test_more_recall_asked_is_a_greater_z(world):
    items, exact, ivf = world
    z = [calibrate(exact, ivf.cells, items.vectors[:200], target) for target in (0.5, 0.9, 0.99)]
    assert z[0] < z[1] < z[2]


def test_filtered_stream_brings_k_of_the_condition_none_excluded_and_scores_as_exact(world):
    items, exact, ivf = world
    searches = random_searches(items, n=200, most_excluded=40)
    hits = ivf.search(searches, 20)
    wanted = exact.search(searches, 20)
    np.testing.assert_array_equal(hits.counts, wanted.counts)
    assert recall(hits.rows, wanted.rows) > 0.9
    scored = {}
    for i in range(200):
        excluded = searches.excluded.values[
            slice(*searches.excluded.offsets[searches.excluded_of[i] :][:2])
        ]
        assert not np.isin(hits.rows[i], excluded).any()
        scored |= {(i, row): s for row, s in zip(wanted.rows[i], wanted.scores[i], strict=True)}
    same = [
        scored[i, row] == score
        for i in range(200)
        for row, score in zip(hits.rows[i], hits.scores[i], strict=True)
        if (i, row) in scored
    ]
    assert len(same) > 1000
    assert all(same)


def test_same_bits_in_any_batch(world):
    items, _, ivf = world
    searches = random_searches(items, n=100, most_excluded=40)
    together = ivf.stream(searches, 20)
    for which in np.array_split(np.random.default_rng(2).permutation(100), 30):
        alone = ivf.stream(searches.take(which), 20)
        assert_same(alone.hits, type(alone.hits)(*(column[which] for column in together.hits)))
        np.testing.assert_array_equal(alone.scored, together.scored[which])


def test_same_seed_same_index(world):
    _, exact, ivf = world
    again = IvfIndex.build(exact, 60, 0.95, 1.0, seed=3)
    assert again.z == ivf.z
    np.testing.assert_array_equal(again.cells.slices.rows, ivf.cells.slices.rows)
    np.testing.assert_array_equal(again.cells.centres, ivf.cells.centres)


def test_a_promise_is_the_centres_score_and_z_radii(world):
    items, _, ivf = world
    found = promises_of(items.vectors[:5], ivf.cells, np.float32(2))
    wanted = items.vectors[:5] @ ivf.cells.centres + 2 * ivf.cells.radii
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_budget_ends_a_stream_says_so_and_the_planner_goes_on_exactly(world):
    items, exact, ivf = world
    rare = lists([[0]])
    everything_else = np.setdiff1d(np.arange(3000), items.items_by_topic[2][:200])
    n = 30
    searches = Searches(
        items.vectors[-n:], np.arange(n), rare, np.zeros(n, int), lists([everything_else.tolist()]),
        np.zeros(n, int),
    )  # fmt: skip
    thrifty = IvfIndex(exact, ivf.cells, ivf.z, 0.01)
    streamed = thrifty.stream(searches, 100)
    short = streamed.hits.counts < 100
    assert (streamed.ended & short).any()
    assert not (short & ~streamed.ended).any()
    always_streams = PlannedIndex(
        exact, thrifty, StreamCosts(np.array([1, 10**6]), np.array([-1e9, -1e9]))
    )
    asked = exact.asked(searches)
    assert (always_streams.plans(asked.conditions, 100) == STREAM).all()
    found, wanted = always_streams.search(searches, 100), exact.search(searches, 100)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    cut = streamed.ended & short
    np.testing.assert_array_equal(found.rows[cut], wanted.rows[cut])


def test_plans_follow_selectivity(world):
    items, exact, ivf = world
    sizes = exact.slice_sizes(lists([[0], [1], [-1], [0, 1], []]))
    topics, offsets, _ = items.items_by_topic
    assert sizes.tolist() == [offsets[1], offsets[2] - offsets[1], 0, offsets[2], 0]
    planned = PlannedIndex(exact, ivf, StreamCosts(np.array([10, 100]), np.array([5.0, 500.0])))
    conditions = lists([[], [0], [-1], list(range(len(topics)))])
    assert planned.plans(conditions, 10).tolist() == [STREAM, SLICE, SLICE, STREAM]
    dear = planned.costs._replace(scored=np.array([3000.0, 3000.0]))
    planned = PlannedIndex(exact, ivf, dear)
    assert planned.plans(conditions, 10).tolist() == [WHOLE, SLICE, SLICE, WHOLE]


def test_the_choice_between_exact_plans_changes_nothing(world, monkeypatch):
    items, exact, _ = world
    searches = random_searches(items, n=150, most_excluded=400)
    wanted = plain_search(items, searches, 30)
    for whole in (True, False):
        monkeypatch.setattr(
            exact, "plans_whole",
            lambda conditions, whole=whole: (np.diff(conditions.offsets) == 0) | whole,
        )  # fmt: skip
        assert_same(exact.search(searches, 30), wanted)


def test_a_planned_index_that_never_streams_is_exact(world):
    items, exact, ivf = world
    searches = random_searches(items, n=150, most_excluded=400)
    planned = PlannedIndex(exact, ivf, StreamCosts(np.array([1]), np.array([1e12])))
    assert_same(planned.search(searches, 30), plain_search(items, searches, 30))


def test_measured_costs_rise_with_depth(world):
    items, _, ivf = world
    costs = measure(ivf, items.vectors[:30])
    assert costs.depths.tolist() == [100, 400, 1600]
    assert (np.diff(costs.scored) > 0).all()


@pytest.mark.parametrize("kind", ["exact", "planned", "ivf"])
def test_odd_catalogues(kind):
    for vectors, topics in (
        (np.zeros((0, 3)), []),
        ([[0, 0, 0]], [[]]),  # an item without embedding
        ([[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], [[1], [], [1], [2, 2]]),
    ):
        items = catalogue(vectors, topics)
        n = len(items.ids)
        index = build_index(ExactIndex.over(items), IndexConfig(kind=kind, budget=1))
        searches = Searches(
            np.array([[1, 0, 0], [0, 0, 0]], np.float32), np.array([1, 0, 0, 0, 1, 0]),
            lists([[], [1], [7], [1, 2, 7], [2]]), np.array([0, 1, 2, 3, 4, 4]),
            lists([[], list(range(n))]), np.array([0, 0, 0, 0, 0, 1]),
        )  # fmt: skip
        for k in (1, 3, 50):
            assert_same(index.search(searches, k), plain_search(items, searches, k))
        none = searches.take(np.zeros(0, np.int64))
        assert index.search(none, 2).rows.shape == (0, 2)


def test_vectors_of_a_model_shorter_than_one_take_the_place_of_embeddings():
    items = random_world(n=90)
    rng = np.random.default_rng(4)
    tower = rng.standard_normal((90, 5)).astype(np.float32)
    tower /= np.linalg.norm(tower, axis=1).max() * 1.001
    exact = ExactIndex.over(items, tower)
    found = exact.search(plain_searches(tower[:7]), 90)
    model = catalogue(np.zeros((90, 5)), [[]] * 90)
    model.vectors[:] = tower
    assert_same(found, plain_search(model, plain_searches(tower[:7]), 90))


def test_a_topic_twice_in_a_condition_or_an_item_counts_once():
    items = catalogue([[1, 0], [0, 1], [1, 1]], [[4, 4], [4], [5, 4]])
    searches = Searches(
        items.vectors, np.zeros(1, int), lists([[4, 5, 4]]), np.zeros(1, int), lists([[1, 1]]),
        np.zeros(1, int),
    )  # fmt: skip
    hits = ExactIndex.over(items).search(searches, 3)
    assert hits.rows.tolist() == [[0, 2, -1]]


def test_refusals(monkeypatch):
    items = random_world(n=30)
    no_topics = Lists(np.zeros(31, np.int64), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="29 vectors for 30 items"):
        ExactIndex(items.ids, items.vectors[:29], no_topics)
    with pytest.raises(ValueError, match="ids must ascend"):
        ExactIndex(items.ids[::-1], items.vectors, no_topics)
    with pytest.raises(ValueError, match=r"target_recall must be <= 1, got 1\.5"):
        IndexConfig(target_recall=1.5)
    exact = ExactIndex.over(items)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert build_index(exact, IndexConfig()) is exact
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'queryloop\[retrieval\]'"):
        build_index(exact, IndexConfig(kind="planned"))


@pytest.mark.parametrize("n", [1, 7, 332])
def test_a_bound_below_the_kth_score_is_reached_by_k_and_close(n):
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=n).astype(np.float32).round(seed % 4)
        for k in {1, (n + 1) // 2, n}:
            kth = np.sort(values)[n - k]
            bound = near_kth(np.append(values, np.float32(9)), n, k)  # what lies behind is not read
            assert (values >= bound).sum() >= k
            assert kth - (values.max() - values.min()) / 2048 <= bound <= kth
