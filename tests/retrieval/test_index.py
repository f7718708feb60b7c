"""The index against numpy dot and argsort, one query at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.items import Items, unit_rows
from retrieval.index.exact import (
    SCORE_STEP,
    ExactIndex,
    Hits,
    Lists,
    Searches,
)
from retrieval.index.scan import Best, Work, _offer, write_hits


def lists(rows):
    lengths = [len(row) for row in rows]
    return Lists(
        np.r_[0, np.cumsum(lengths)].astype(np.int64),
        np.array([value for row in rows for value in row], np.int64),
    )


def catalogue(vectors, topics, ids=None):
    vectors = unit_rows(np.asarray(vectors, np.float32))
    n = len(vectors)
    carried = lists(topics)
    return Items(
        ids=np.arange(n) * 7 + 3 if ids is None else np.asarray(ids),
        vectors=vectors,
        version="v1",
        topic_offsets=carried.offsets,
        topic_ids=carried.values,
        topic_confidences=np.ones(len(carried.values), np.float32),
        created_at=np.zeros(n, np.int64),
    )


def random_world(n=900, d=16, n_topics=12, seed=0):
    """A catalogue with many exact and many near duplicates."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((n // 3, d))
    noise = rng.standard_normal((n // 3, d)) * 1e-6
    vectors = np.concatenate([base, base + noise, base])
    topics = [rng.choice(n_topics, rng.integers(0, 4), replace=False) for _ in vectors]
    return catalogue(vectors, topics)


def random_searches(items, n=300, n_users=20, seed=1, most_excluded=400):
    rng = np.random.default_rng(seed)
    conditions = [[], [0], [3, 5], [1, 2, 4], [99], [0, 99], [11]]
    excluded = [rng.choice(len(items.ids), rng.integers(0, most_excluded)) for _ in range(n_users)]
    vector_rows = rng.choice(len(items.ids), 40)
    return Searches(
        vectors=items.vectors[vector_rows],
        vector_of=rng.integers(0, len(vector_rows), n),
        conditions=lists(conditions),
        condition_of=rng.integers(0, len(conditions), n),
        excluded=lists(excluded),
        excluded_of=rng.integers(0, n_users, n),
    )


def values_of(some, which):
    return some.values[some.offsets[which] : some.offsets[which + 1]]


def plain_search(items, searches, k):
    """The twin: float64 dot, rounding, a full sort; one search at a time."""
    n = len(searches.vector_of)
    hits = Hits(np.full((n, k), -1), np.zeros((n, k), np.float32), np.zeros(n, int))
    owners = np.repeat(np.arange(len(items.ids)), np.diff(items.topic_offsets))
    for i in range(n):
        query = searches.vectors[searches.vector_of[i]].astype(np.float64)
        scores = np.rint(items.vectors.astype(np.float64) @ query / SCORE_STEP)
        allowed = np.ones(len(items.ids), bool)
        topics = values_of(searches.conditions, searches.condition_of[i])
        if len(topics):
            allowed[:] = False
            allowed[owners[np.isin(items.topic_ids, topics)]] = True
        allowed[values_of(searches.excluded, searches.excluded_of[i])] = False
        rows = np.flatnonzero(allowed)
        rows = rows[np.lexsort((items.ids[rows], -scores[rows]))][:k]
        hits.rows[i, : len(rows)] = rows
        hits.scores[i, : len(rows)] = scores[rows] * SCORE_STEP
        hits.counts[i] = len(rows)
    return hits


def assert_same(found, wanted):
    for name in Hits._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


@pytest.mark.parametrize("k", [1, 50, 2000])
@pytest.mark.parametrize("most_excluded", [1, 400, 5000])
def test_equals_plain_search(k, most_excluded):
    items = random_world()
    searches = random_searches(items, n=120, most_excluded=most_excluded)
    found = ExactIndex.over(items).search(searches, k)
    assert found.counts.max() > 0
    assert_same(found, plain_search(items, searches, k))


def test_same_bits_in_any_batch():
    items = random_world(seed=2)
    searches = random_searches(items, seed=3)
    index = ExactIndex.over(items)
    together = index.search(searches, 20)
    order = np.random.default_rng(4).permutation(len(searches.vector_of))

    def part(which):
        return index.search(
            searches._replace(
                vector_of=searches.vector_of[which],
                condition_of=searches.condition_of[which],
                excluded_of=searches.excluded_of[which],
            ),
            20,
        )

    shuffled = part(order)
    assert_same(Hits(*(column[order] for column in together)), shuffled)
    for i in order[:60]:
        assert_same(part(np.array([i])), Hits(*(column[i : i + 1] for column in together)))


def test_more_vectors_in_a_slice_than_one_block_holds():
    rng = np.random.default_rng(5)
    items = catalogue(rng.standard_normal((600, 8)), [[1]] * 600)
    n = 600
    searches = Searches(
        vectors=items.vectors,
        vector_of=rng.permutation(np.repeat(np.arange(n), 2)),
        conditions=lists([[1]]),
        condition_of=np.zeros(2 * n, np.int64),
        excluded=lists([[], list(range(0, 600, 2))]),
        excluded_of=rng.integers(0, 2, 2 * n),
    )
    found = ExactIndex.over(items).search(searches, 5)
    assert_same(found, plain_search(items, searches, 5))


def ask(items, vector, k, topics=(), excluded=()):
    searches = Searches(
        vectors=unit_rows(np.array([vector], np.float32)),
        vector_of=np.zeros(1, np.int64),
        conditions=lists([topics]),
        condition_of=np.zeros(1, np.int64),
        excluded=lists([excluded]),
        excluded_of=np.zeros(1, np.int64),
    )
    return ExactIndex.over(items).search(searches, k)


def test_by_hand():
    # (3, 4) / 5 has cosine 3/5 to the first axis and 4/5 to the second
    items = catalogue([[1, 0], [0, 1], [3, 4], [-1, 0]], [[1], [2], [1, 2], []])
    hits = ask(items, [1, 0], 4)
    assert hits.rows[0].tolist() == [0, 2, 1, 3]
    np.testing.assert_allclose(hits.scores[0], [1, 3 / 5, 0, -1], atol=1e-7)
    assert ask(items, [1, 0], 4, topics=[2]).rows[0].tolist() == [2, 1, -1, -1]
    assert ask(items, [1, 0], 4, topics=[1, 2]).rows[0].tolist() == [0, 2, 1, -1]
    assert ask(items, [1, 0], 2, topics=[1], excluded=[0]).rows[0].tolist() == [2, -1]
    assert ask(items, [1, 0], 1, excluded=[0]).rows[0].tolist() == [2]


def test_nothing_left():
    items = catalogue([[1, 0], [0, 1]], [[1], [1]])
    for hits in (
        ask(items, [1, 0], 3, topics=[8]),
        ask(items, [1, 0], 3, excluded=[0, 1]),
        ask(items, [1, 0], 3, topics=[1], excluded=[1, 0, 0]),
    ):
        assert hits.counts.tolist() == [0]
        assert hits.rows.tolist() == [[-1, -1, -1]]
        assert hits.scores.tolist() == [[0, 0, 0]]


def test_equal_scores_by_item_id():
    items = catalogue([[1, 1]] * 9 + [[1, 0]], [[]] * 10)
    assert ask(items, [2, 2], 4, excluded=[1]).rows[0].tolist() == [0, 2, 3, 4]


def test_scores_nearer_than_a_step_are_equal():
    angles = np.array([2e-4, 1e-4, 0.0])  # cosines 1 - 2e-8, 1 - 5e-9 and 1: all round to 1
    items = catalogue(np.column_stack([np.cos(angles), np.sin(angles)]), [[]] * 3)
    hits = ask(items, [1, 0], 3)
    assert hits.rows[0].tolist() == [0, 1, 2]
    assert hits.scores[0].tolist() == [1, 1, 1]


def test_a_zero_vector_scores_zero():
    items = catalogue([[0, 0], [-1, 0], [1, 0]], [[]] * 3)
    assert ask(items, [1, 0], 3).rows[0].tolist() == [2, 0, 1]


def test_read_only_vectors_as_of_a_mapped_file():
    items = random_world(n=30)
    searches = random_searches(items, n=20, most_excluded=5)
    wanted = ExactIndex.over(items).search(searches, 4)
    items.vectors.flags.writeable = False
    assert_same(ExactIndex.over(items).search(searches, 4), wanted)


def test_empty_catalogue_and_no_searches():
    empty = catalogue(np.zeros((0, 2)), [])
    assert ask(empty, [1, 0], 3).counts.tolist() == [0]
    items = catalogue([[1, 0]], [[]])
    none = np.zeros(0, np.int64)
    searches = Searches(np.zeros((0, 2), np.float32), none, lists([[]]), none, lists([[]]), none)
    assert ExactIndex.over(items).search(searches, 3).rows.shape == (0, 3)


def test_refusals():
    items = catalogue([[1, 0]], [[]])
    with pytest.raises(ValueError, match="queries are 3 numbers wide, the index 2"):
        ask(items, [1, 0, 0], 1)
    searches = Searches(
        np.array([[2, 0]], np.float32), np.zeros(1, int), lists([[]]), np.zeros(1, int),
        lists([[]]), np.zeros(1, int),
    )  # fmt: skip
    with pytest.raises(ValueError, match="query 0 has length 2, must be 1"):
        ExactIndex.over(items).search(searches, 1)
    with pytest.raises(ValueError, match="query 0 has length nan"):
        ExactIndex.over(items).search(searches._replace(vectors=searches.vectors * np.nan), 1)
    items.vectors[0] = np.nan
    with pytest.raises(ValueError, match="item row 0 has length nan"):
        ExactIndex.over(items)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(-2, 2), min_size=3, max_size=3), st.sets(st.integers(0, 3))),
        min_size=1,
        max_size=30,
    ),
    st.lists(
        st.tuples(st.integers(0, 29), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 29))),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 12),
)
def test_equals_plain_search_on_lattices_full_of_ties(rows, asked, k):
    items = catalogue([vector for vector, _ in rows], [sorted(topics) for _, topics in rows])
    n = len(rows)
    searches = Searches(
        vectors=items.vectors,
        vector_of=np.array([row % n for row, _, _ in asked]),
        conditions=lists([sorted(topics) for _, topics, _ in asked]),
        condition_of=np.arange(len(asked)),
        excluded=lists([[row % n for row in excluded] for _, _, excluded in asked]),
        excluded_of=np.arange(len(asked)),
    )
    assert_same(ExactIndex.over(items).search(searches, k), plain_search(items, searches, k))


def test_any_error_that_float32_allows_changes_nothing():
    # the proven bound is d * 2^-24 for unit vectors; the kernels reckon with twice that
    rng = np.random.default_rng(6)
    base = rng.random(64)
    items = catalogue(base + rng.standard_normal((400, 64)) * 3e-3, [[]] * 400)
    query, k, rows = items.vectors[:1], 5, np.arange(400)
    exact = items.vectors.astype(np.float64) @ query[0].astype(np.float64)
    wanted = np.lexsort((rows, -np.rint(exact / SCORE_STEP)))[:k]
    zero, free = np.zeros(1, np.int64), lists([[]])
    searches = Searches(query, zero, free, zero, free, zero)
    asked = ExactIndex.over(items).asked(searches)
    for _ in range(50):
        wrong = (exact + rng.choice([-1, 1], 400) * 64 * 2.0**-24).astype(np.float32)
        work = Work(items.vectors, asked, Best.empty(1, k), k)
        _offer(rows, wrong, rows, work, 0, -1)
        assert work.best.counts[0] < 400  # it does leave some out
        hits = Hits.none(1, k)
        write_hits(work, zero, hits)
        assert hits.rows[0].tolist() == wanted.tolist()
