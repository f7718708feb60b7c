"""Step 5 by hand, against a plain twin, and under sharding."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.items import Items, unit_rows
from retrieval.candidates import RetrievalConfig, carries_topic, retrieve_candidates
from retrieval.index.exact import SCORE_STEP, ExactIndex, Lists
from retrieval.tables import CANDIDATES
from selection.tables import QUERIES

DAY = dt.date(2022, 4, 20)


def catalogue(vectors, topics, ids):
    lengths = [len(some) for some in topics]
    flat = [topic for some in topics for topic in some]
    return Items(
        ids=np.asarray(ids, np.int64),
        vectors=unit_rows(np.asarray(vectors, np.float32)),
        version="v1",
        topic_offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        topic_ids=np.array(flat, np.int64),
        topic_confidences=np.ones(len(flat), np.float32),
        created_at=np.zeros(len(lengths), np.int64),
    )


def queries_of(draws):
    """QUERIES from (user, slot, draw, item, topics) and, if another, surface and query type."""
    full = [(*draw, "home", "item")[:7] if len(draw) == 5 else draw for draw in draws]
    rows = [
        {
            "run_date": DAY,
            "user_id": user,
            "surface": surface,
            "slot": slot,
            "serve_date": DAY + dt.timedelta(days=1),
            "draw_id": draw,
            "cluster_id": 0,
            "query_type": query_type,
            "query_id": item,
            "weight": 1.0,
            "propensity": 1.0,
            "set_probability": 1.0,
            "policy": "p",
            "arm": "",
            "conditions": [{"topic_id": topic, "confidence": 1.0} for topic in topics],
        }
        for user, slot, draw, item, topics, surface, query_type in full
    ]
    return pa.Table.from_pylist(rows, QUERIES.arrow)


def seen_of(pairs):
    return pa.table(
        {
            "user_id": pa.array([user for user, _ in pairs], pa.int64()),
            "item_id": pa.array([item for _, item in pairs], pa.int64()),
        }
    )


# Ten items at 0, 10, ... 90 degrees, ids 100, 101, ...; even ones carry topic 1, odd ones topic 2.
ANGLES = np.deg2rad(np.arange(10) * 10)
DIAL = catalogue(
    np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]), [[1 + i % 2] for i in range(10)],
    np.arange(100, 110),
)  # fmt: skip


def retrieve(queries, seen=(), items=DIAL, **options):
    config = RetrievalConfig(**options)
    return retrieve_candidates(queries, seen_of(seen), ExactIndex.over(items), items, config)


def by_rank(table, draw):
    rows = [row for row in table.to_pylist() if row["draw_id"] == draw]
    return sorted(rows, key=lambda row: row["rank"])


def items_of(table, draw):
    return [row["item_id"] for row in by_rank(table, draw)]


def test_slice_by_hand():
    table = retrieve(queries_of([(5, 0, 11, 100, [1])]), candidates_per_query=3)
    rows = by_rank(table, 11)
    assert [row["item_id"] for row in rows] == [102, 104, 106]
    assert [row["rank"] for row in rows] == [0, 1, 2]
    expected = np.cos(np.deg2rad([20, 40, 60]))
    np.testing.assert_allclose([row["score"] for row in rows], expected, atol=SCORE_STEP)
    assert all(row["condition_matched"] for row in rows)
    assert {(row["user_id"], row["surface"], row["slot"]) for row in rows} == {(5, "home", 0)}


def test_without_condition_the_match_is_still_told():
    table = retrieve(queries_of([(5, 0, 11, 100, [1])]), candidates_per_query=3, condition="none")
    rows = by_rank(table, 11)
    assert [row["item_id"] for row in rows] == [101, 102, 103]
    assert [row["condition_matched"] for row in rows] == [False, True, False]


def test_seen_items_and_the_users_own_queries_stay_out():
    queries = queries_of([(5, 0, 11, 100, []), (5, 1, 12, 102, []), (6, 0, 13, 100, [])])
    seen = [(5, 101), (5, 104), (5, 101), (7, 103), (5, 999)]
    table = retrieve(queries, seen, candidates_per_query=2)
    assert items_of(table, 11) == [103, 105]
    assert items_of(table, 12) == [103, 105]
    assert items_of(table, 13) == [101, 102]
    assert not any(table["condition_matched"].to_pylist())  # no query has a condition


def test_an_exhausted_slice_is_filled_from_the_catalogue():
    # of topic 2 only 101 and 103 are unseen, farther from 109 than 108, 106, 104
    seen = [(5, 105), (5, 107)]
    queries = queries_of([(5, 0, 11, 109, [2]), (5, 1, 12, 100, [1])])
    table = retrieve(queries, seen, candidates_per_query=4)
    rows = by_rank(table, 11)
    assert [row["item_id"] for row in rows] == [103, 101, 108, 106]
    assert [row["condition_matched"] for row in rows] == [True, True, False, False]
    assert [row["rank"] for row in rows] == [0, 1, 2, 3]
    assert items_of(table, 12) == [102, 104, 106, 108]
    held = retrieve(queries, seen, candidates_per_query=4, fill=False)
    assert items_of(held, 11) == [103, 101]


def test_a_condition_that_no_item_carries():
    queries = queries_of([(5, 0, 11, 100, [77])])
    assert items_of(retrieve(queries, candidates_per_query=2), 11) == [101, 102]
    assert retrieve(queries, fill=False).num_rows == 0


def test_every_draw_has_its_own_quota():
    queries = queries_of([(5, slot, 20 + slot, 100, [1]) for slot in range(3)])
    table = retrieve(queries, candidates_per_query=2)
    assert [items_of(table, 20 + slot) for slot in range(3)] == [[102, 104]] * 3


def test_queries_that_cannot_be_asked_bring_nothing():
    queries = queries_of([(5, 0, 11, 12345, [1]), (5, 1, 12, 100, [1], "home", "topic")])
    assert retrieve(queries).equals(CANDIDATES.empty())
    both = pa.concat_tables([queries, queries_of([(5, 2, 13, 100, [1])])])
    assert set(retrieve(both)["draw_id"].to_pylist()) == {13}


def test_empty_in_empty_out():
    assert retrieve(QUERIES.empty(), [(5, 101)]).equals(CANDIDATES.empty())
    nothing = catalogue(np.zeros((0, 2)), [], [])
    assert retrieve(queries_of([(5, 0, 11, 100, [1])]), items=nothing).num_rows == 0


def test_options_are_checked():
    with pytest.raises(ValueError, match="candidates_per_query must be >= 1, got 0"):
        RetrievalConfig(candidates_per_query=0)
    with pytest.raises(ValueError, match="condition must be one of slice, none, got 'soft'"):
        RetrievalConfig(condition="soft")


def test_carries_topic_by_hand():
    topics = Lists(np.array([0, 0, 2]), np.array([1, 9]))
    which, rows = np.array([0, 1, 1]), np.array([0, 0, 1])
    assert carries_topic(DIAL, topics, which, rows).tolist() == [False, True, False]


def world(seed=0, n_items=200, n_users=25):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (n_items, 4)) + np.array([0, 0, 0, 0.5])
    topics = [rng.choice(8, rng.integers(0, 3), replace=False) for _ in range(n_items)]
    items = catalogue(vectors, topics, np.cumsum(rng.integers(1, 9, n_items)))
    draws = rng.permutation(n_users * 6) + 1
    queries = []
    for user in range(n_users):
        for place in range(6):
            surface = "home" if place < 3 else "related"
            item = rng.choice(items.ids) if rng.random() < 0.9 else 10**9
            conditions = rng.choice(9, rng.integers(0, 4), replace=False)
            draw = draws[user * 6 + place]
            queries.append((user, place % 3, draw, item, conditions, surface, "item"))
    seen = [(user, item) for user in range(n_users) for item in rng.choice(items.ids, 60)]
    return items, queries_of(queries), seen


def plain_candidates(queries, seen, items, k):
    """The twin of the default config: one draw at a time, on Python sets."""
    carried = [
        set(items.topic_ids[items.topic_offsets[i] : items.topic_offsets[i + 1]].tolist())
        for i in range(len(items.ids))
    ]
    place = {int(item): i for i, item in enumerate(items.ids)}
    queries = queries.to_pylist()
    out = set()
    for query in queries:
        if query["query_id"] not in place:
            continue
        user = query["user_id"]
        banned = {item for who, item in seen if who == user}
        banned |= {other["query_id"] for other in queries if other["user_id"] == user}
        topics = {topic["topic_id"] for topic in query["conditions"]}
        vector = items.vectors[place[query["query_id"]]].astype(np.float64)
        scores = np.rint(items.vectors.astype(np.float64) @ vector / SCORE_STEP)
        order = sorted(
            (bool(topics) and not carried[i] & topics, -scores[i], int(items.ids[i]))
            for i in range(len(items.ids))
            if int(items.ids[i]) not in banned
        )
        for rank, (other, score, item) in enumerate(order[:k]):
            matched = bool(topics) and not other
            out.add((query["draw_id"], item, rank, round(-score), matched))
    return out


@pytest.mark.parametrize("k", [3, 40, 500])
def test_equals_the_plain_twin(k):
    items, queries, seen = world()
    table = retrieve(queries, seen, items, candidates_per_query=k)
    found = {
        (
            row["draw_id"],
            row["item_id"],
            row["rank"],
            round(row["score"] / SCORE_STEP),
            row["condition_matched"],
        )
        for row in table.to_pylist()
    }
    assert len(found) == table.num_rows
    assert found == plain_candidates(queries, seen, items, k)


def test_any_sharding_and_any_order_give_the_same_table():
    items, queries, seen = world(seed=1)
    whole = retrieve(queries, seen, items, candidates_per_query=30)
    users = queries["user_id"].to_numpy()
    parts = []
    for user in np.unique(users):
        mine = [pair for pair in seen if pair[0] == user]
        rows = queries.filter(pa.array(users == user))
        parts.append(retrieve(rows, mine, items, candidates_per_query=30))
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())
    order = np.random.default_rng(2).permutation(queries.num_rows)
    shuffled = retrieve(queries.take(order), seen[::-1], items, candidates_per_query=30)
    assert shuffled.combine_chunks().equals(whole.combine_chunks())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from(["slice", "none"]), st.booleans())
def test_invariants(seed, k, condition, fill):
    items, queries, seen = world(seed, n_items=40, n_users=3)
    seen = seen[::3]
    table = retrieve(queries, seen, items, candidates_per_query=k, condition=condition, fill=fill)
    banned = set(seen) | {(q["user_id"], q["query_id"]) for q in queries.to_pylist()}
    rows = table.to_pylist()
    assert not banned & {(row["user_id"], row["item_id"]) for row in rows}
    keys = [(row["user_id"], row["draw_id"], row["item_id"]) for row in rows]
    assert keys == sorted(set(keys))
    for draw in {row["draw_id"] for row in rows}:
        mine = by_rank(table, draw)
        assert [row["rank"] for row in mine] == list(range(len(mine)))
        assert len(mine) <= k
        order = [
            (condition == "slice" and not row["condition_matched"], -row["score"], row["item_id"])
            for row in mine
        ]
        assert order == sorted(order)
