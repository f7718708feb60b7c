import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.decay import DAY_US, HOUR_US
from profiling.items import Items, unit_rows
from profiling.schema import ints
from profiling.tables import HISTORY
from selection.attribution import credited_rows, inferred_credits, logged_credits
from selection.draws import DRAWS
from selection.tables import OPEN

WINDOW = 24 * HOUR_US


def nullable(values, type_=None):
    return pa.array(values, type_ or pa.int64())


def shown(rows):
    """(impression_id, user_id, item_id, at, draw_id) rows of OPEN."""
    n = len(rows)
    return OPEN.build(
        {
            "impression_id": nullable([r[0] for r in rows]),
            "user_id": nullable([r[1] for r in rows]),
            "item_id": nullable([r[2] for r in rows]),
            "at": np.array([r[3] for r in rows], np.int64),
            "surface": ["home"] * n,
            "request_id": pa.nulls(n, pa.string()),
            "position": pa.nulls(n, pa.int32()),
            "draw_id": nullable([r[4] if len(r) > 4 else None for r in rows]),
            "actions": pa.nulls(n, pa.int64()),
            "content_digest": list(range(n)),
        }
    )


def events(rows):
    """(user_id, item_id, at, impression_id, credited_id) rows of HISTORY."""
    n = len(rows)
    return HISTORY.build(
        {
            "user_id": nullable([r[0] for r in rows]),
            "event_id": list(range(n)),
            "item_id": nullable([r[1] for r in rows]),
            "action": pa.array([0] * n, pa.int16()),
            "at": np.array([r[2] for r in rows], np.int64),
            "impression_id": nullable([r[3] if len(r) > 3 else None for r in rows]),
            "credited_id": nullable([r[4] if len(r) > 4 else None for r in rows]),
            "content_digest": list(range(n)),
        }
    )


def credited(event, *impressions):
    """The impression_id that one event credits, None where none."""
    table = shown(impressions)
    row = credited_rows(events([event]), table, WINDOW)[0]
    return table["impression_id"][row].as_py() if row >= 0 else None


# --- engagements


def test_the_latest_impression_before_it_is_credited():
    early, late = (1, 7, 5, 100), (2, 7, 5, 200)
    assert credited((7, 5, 250), early, late) == 2
    assert credited((7, 5, 200), early, late) == 2  # at the same microsecond: shown, then clicked
    assert credited((7, 5, 199), early, late) == 1
    assert credited((7, 5, 99), early, late) is None
    assert credited((7, 5, 250), late, early) == 2


def test_of_two_at_once_the_larger_id_is_credited():
    assert credited((7, 5, 150), (4, 7, 5, 100), (3, 7, 5, 100)) == 4
    assert credited((7, 5, 150), (3, 7, 5, 100), (4, 7, 5, 100)) == 4


def test_the_window_is_closed_at_its_end():
    assert credited((7, 5, 100 + WINDOW), (1, 7, 5, 100)) == 1
    assert credited((7, 5, 101 + WINDOW), (1, 7, 5, 100)) is None


def test_only_that_user_and_item():
    assert credited((7, 5, 150), (1, 8, 5, 100), (2, 7, 6, 100)) is None


def test_a_logged_impression_is_the_only_one_credited():
    near, named = (1, 7, 5, 140), (2, 7, 5, 100)
    assert credited((7, 5, 150, 2), near, named) == 2
    assert credited((7, 5, 150, 9), near, named) is None  # one that is not here: no other takes it
    assert credited((8, 5, 150, 2), near, named) is None  # another user's
    assert credited((7, 5, 100 + WINDOW, 2), near, named) == 2
    assert credited((7, 5, 101 + WINDOW, 2), near, named) is None
    assert credited((7, 5, 90, 2), near, named) == 2  # the client's clock is behind


def test_an_engagement_is_used_once():
    assert credited((7, 5, 150, None, 1), (1, 7, 5, 100)) is None
    assert credited((7, 5, 150, 1, 1), (1, 7, 5, 100)) is None


def test_no_impressions_or_no_events():
    assert credited_rows(events([(7, 5, 150)]), shown([]), WINDOW).tolist() == [-1]
    assert credited_rows(events([]), shown([(1, 7, 5, 100)]), WINDOW).tolist() == []


def credited_by_hand(history, impressions, window):
    """The exact twin: every event against every impression."""
    rows = []
    for e in history:
        fits = [
            (i["at"], i["impression_id"], n)
            for n, i in enumerate(impressions)
            if e["credited_id"] is None
            and i["user_id"] == e["user_id"]
            and e["at"] <= i["at"] + window
            and (
                i["impression_id"] == e["impression_id"]
                if e["impression_id"] is not None
                else i["item_id"] == e["item_id"] and i["at"] <= e["at"]
            )
        ]
        rows.append(max(fits)[2] if fits else -1)
    return rows


small = st.integers(0, 2)
times = st.integers(0, 12)
impression_lists = st.lists(st.tuples(small, small, times), max_size=10)
event_lists = st.lists(
    st.tuples(small, small, times, st.none() | st.integers(0, 9), st.none() | st.just(1)),
    max_size=12,
)


@given(impressions=impression_lists, history=event_lists, window=st.integers(0, 6))
@settings(max_examples=80, deadline=None)
def test_crediting_equals_search_by_hand(impressions, history, window):
    table = shown([(i, *row) for i, row in enumerate(impressions)])
    log = events(history)
    plain = [
        [
            {**r, "at": a}
            for r, a in zip(t.drop_columns("at").to_pylist(), ints(t, "at").tolist(), strict=True)
        ]
        for t in (log, table)
    ]
    assert credited_rows(log, table, window).tolist() == credited_by_hand(*plain, window)


# --- draws


def draws(rows):
    """(draw_id, user_id) rows of DRAWS."""
    n = len(rows)
    table = DRAWS.build(
        {
            "draw_id": nullable([r[0] for r in rows]),
            "user_id": nullable([r[1] for r in rows]),
            "surface": ["home"] * n,
            "at": np.full(n, DAY_US),
            "per_request": [False] * n,
            "query_type": ["topic"] * n,
            "query_id": nullable([100 + r[0] for r in rows]),
            "cluster_id": nullable([200 + r[0] for r in rows]),
            "propensity": [r[0] / 100 for r in rows],
            "policy": ["reward v1"] * n,
            "arm": [f"arm {r[0]}" for r in rows],
        }
    )
    return table.sort_by([(k, "ascending") for k in DRAWS.key])


def feed(rows):
    """(user_id, draw_id, item_id, [(draw_id, score)]): the FEED columns that are read."""
    part = pa.struct([("draw_id", pa.int64()), ("rank", pa.int32()), ("score", pa.float32())])
    lists = [[{"draw_id": d, "rank": 0, "score": s} for d, s in r[3]] for r in rows]
    return pa.table(
        {
            "user_id": nullable([r[0] for r in rows]),
            "draw_id": nullable([r[1] for r in rows]),
            "item_id": nullable([r[2] for r in rows]),
            "draws": pa.array(lists, pa.list_(part)),
        }
    )


def shares(credits, row=0):
    rows = [r for r in credits.to_pylist() if r["row"] == row]
    assert len({r["draw_id"] for r in rows}) == len(rows)
    return {r["draw_id"]: r["credit"] for r in rows}


def test_the_draw_named_is_copied():
    credits, unknown = logged_credits(
        shown([(1, 7, 5, 100, None), (2, 7, 5, 100, 3)]), draws([(3, 7), (4, 7)]), None, "equal"
    )
    assert unknown.tolist() == []
    assert credits.to_pylist() == [
        {
            "row": 1, "draw_id": 3, "query_type": "topic", "query_id": 103, "cluster_id": 203,
            "arm": "arm 3", "policy": "reward v1", "propensity": 0.03, "credit": 1.0,
            "attribution": "logged",
        }
    ]  # fmt: skip


def test_a_draw_not_found_or_of_another_user_is_unknown():
    rows = [(1, 7, 5, 100, 9), (2, 7, 5, 100, 4), (3, 7, 5, 100, 3), (4, 8, 5, 100, 4)]
    credits, unknown = logged_credits(shown(rows), draws([(3, 7), (4, 8)]), None, "slot_winner")
    assert unknown.tolist() == [0, 1]
    assert credits["row"].to_pylist() == [2, 3]
    assert credits["draw_id"].to_pylist() == [3, 4]


@pytest.mark.parametrize(
    ("rule", "scores", "expected"),
    [
        ("slot_winner", [(3, 0.9), (4, 0.3)], {3: 1.0}),
        ("equal", [(3, 0.9), (4, 0.3)], {3: 1 / 2, 4: 1 / 2}),
        ("score", [(3, 0.75), (4, 0.25)], {3: 0.75, 4: 0.25}),
        ("score", [(3, 0.5), (4, 0.25), (5, 0.25)], {3: 0.5, 4: 0.25, 5: 0.25}),
        ("score", [(3, 0.5), (4, -0.5)], {3: 1.0}),  # a negative score earns nothing
        ("score", [(3, 0.0), (4, -0.5)], {3: 1 / 2, 4: 1 / 2}),  # none earns: equally
        ("score", [(3, float("nan")), (4, 0.5)], {4: 1.0}),
        ("equal", [(3, 0.5), (9, 0.5)], {3: 1.0}),  # 9 is not known
        ("equal", [(3, 0.5), (6, 0.5)], {3: 1.0}),  # 6 is another user's
        ("equal", [(3, 0.5), (3, 0.1), (4, 0.1)], {3: 1 / 2, 4: 1 / 2}),
        ("equal", [], {3: 1.0}),
    ],
)
def test_credit_by_rule(rule, scores, expected):
    known = draws([(3, 7), (4, 7), (5, 7), (6, 8)])
    credits, _ = logged_credits(shown([(1, 7, 5, 100, 3)]), known, feed([(7, 3, 5, scores)]), rule)
    assert shares(credits) == expected


def test_the_feed_slot_is_that_of_user_draw_and_item():
    """Without a feed row of its own the draw named takes all."""
    known = draws([(3, 7), (4, 7)])
    both = [(3, 0.5), (4, 0.5)]
    others = feed([(8, 3, 5, both), (7, 4, 5, both), (7, 3, 6, both)])
    impressions = shown([(1, 7, 5, 100, 3), (2, 7, 6, 100, 3)])
    credits, _ = logged_credits(impressions, known, others, "equal")
    assert shares(credits, 0) == {3: 1.0}
    assert shares(credits, 1) == {3: 1 / 2, 4: 1 / 2}


scored = st.lists(st.tuples(st.integers(1, 8), st.floats(-1, 1, width=32)), max_size=8)


@given(slots=st.lists(scored, min_size=1, max_size=5), rule=st.sampled_from(["equal", "score"]))
@settings(max_examples=60, deadline=None)
def test_credit_sums_to_one(slots, rule):
    n = len(slots)
    impressions = shown([(i, 7, i, 100, 1) for i in range(n)])
    known = draws([(d, 7) for d in range(1, 7)])
    log = feed([(7, 1, i, slot) for i, slot in enumerate(slots)])
    credits, _ = logged_credits(impressions, known, log, rule)
    sums = np.bincount(ints(credits, "row"), credits["credit"].to_numpy(), minlength=n)
    np.testing.assert_allclose(sums, 1.0, rtol=0, atol=1e-12)
    assert credits["credit"].to_numpy().min() > 0
    for i in range(n):
        alone, _ = logged_credits(impressions.slice(i, 1), known, log, rule)
        assert shares(alone) == shares(credits, i)


# --- interests


def catalogue(vectors):
    """Items 0 ... n - 1."""
    array = np.array(vectors, np.float32)
    n = len(array)
    nothing = np.zeros(0, np.int64)
    return Items(
        ids=np.arange(n),
        vectors=unit_rows(array),
        version="v1",
        topic_offsets=np.zeros(n + 1, np.int64),
        topic_ids=nothing,
        topic_confidences=nothing.astype(np.float32),
        created_at=np.zeros(n, np.int64),
    )


def versions(rows):
    """(user_id, cutoff, medoid_item_id, cluster_id): the PROFILES columns that are read."""
    names = ("user_id", "cutoff", "medoid_item_id", "cluster_id")
    table = pa.table({n: nullable([r[i] for r in rows]) for i, n in enumerate(names)})
    return table.set_column(1, "cutoff", table["cutoff"].cast(pa.timestamp("us", "UTC")))


def angle(degrees):
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


# Item i is at 10 * i degrees.
FAN = catalogue([angle(10 * i) for i in range(10)])


def inferred(impression, *rows, threshold=0.85, items=FAN):
    """(attribution, query_id, cluster_id) of one impression."""
    credits = inferred_credits(shown([impression]), versions(rows), items, threshold)
    row = credits.to_pylist()[0]
    assert (row["draw_id"], row["credit"], row["propensity"]) == (0, 1.0, None)
    assert row["query_type"] == {"inferred": "item", "none": ""}[row["attribution"]]
    return row["attribution"], row["query_id"], row["cluster_id"]


def test_the_nearest_medoid_above_the_threshold():
    assert inferred((1, 7, 4, 100), (7, 50, 0, 1), (7, 50, 5, 2), (7, 50, 6, 3)) == (
        "inferred", 5, 2,
    )  # fmt: skip
    cos_30 = round(np.cos(np.radians(30)), 6)
    assert inferred((1, 7, 3, 100), (7, 50, 0, 1), threshold=cos_30) == ("inferred", 0, 1)
    assert inferred((1, 7, 3, 100), (7, 50, 0, 1), threshold=cos_30 + 1e-6) == ("none", None, None)
    assert inferred((1, 7, 4, 100), (7, 50, 0, 1)) == ("none", None, None)  # cos 40 degrees = .77


def test_ties_go_to_the_smaller_medoid():
    for rows in ([(7, 50, 5, 1), (7, 50, 3, 2)], [(7, 50, 3, 2), (7, 50, 5, 1)]):
        assert inferred((1, 7, 4, 100), *rows) == ("inferred", 3, 2)


def test_the_newest_profile_that_is_not_later_than_the_impression():
    past, newer, tonight = (7, 50, 0, 1), (7, 90, 5, 2), (7, 101, 4, 3)
    assert inferred((1, 7, 4, 100), past, newer, tonight) == ("inferred", 5, 2)
    assert inferred((1, 7, 4, 90), tonight, newer, past) == ("inferred", 5, 2)
    assert inferred((1, 7, 4, 89), past, newer, tonight) == ("none", None, None)
    assert inferred((1, 7, 4, 49), past, newer, tonight) == ("none", None, None)
    # The newest version counts alone: what an older one had nearer is no interest any more.
    assert inferred((1, 7, 0, 100), past, newer) == ("none", None, None)


def test_tonights_profile_would_leak():
    """The item clicked is a medoid tonight; the profile of before does not know it."""
    tonight = (7, 101, 4, 3)
    assert inferred((1, 7, 4, 100), tonight) == ("none", None, None)
    assert inferred((1, 7, 4, 101), tonight) == ("inferred", 4, 3)


def test_other_users_and_unknown_items_give_none():
    assert inferred((1, 7, 4, 100), (8, 50, 4, 1)) == ("none", None, None)
    assert inferred((1, 7, 4, 100)) == ("none", None, None)
    assert inferred((1, 7, 99, 100), (7, 50, 4, 1)) == ("none", None, None)
    assert inferred((1, 7, 4, 100), (7, 50, 99, 1), (7, 50, 5, 2)) == ("inferred", 5, 2)
    assert inferred_credits(shown([]), versions([]), FAN, 0.85).num_rows == 0


def test_impressions_with_a_draw_are_passed_over():
    rows = shown([(1, 7, 4, 100, 3), (2, 7, 4, 100)])
    assert inferred_credits(rows, versions([]), FAN, 0.85)["row"].to_pylist() == [1]


@pytest.mark.parametrize("width", [1, 3, 4, 7, 64])
def test_nearest_equals_a_matrix_product_and_any_batch(width):
    rng = np.random.default_rng(width)
    items = catalogue(rng.normal(size=(200, width)))
    medoids = np.sort(rng.choice(200, (20, 6)), axis=1)
    rows = [(u, 50, int(m), c) for u in range(20) for c, m in enumerate(medoids[u])]
    log = shown([(i, i % 20, int(x), 100) for i, x in enumerate(rng.integers(0, 200, 100))])
    credits = inferred_credits(log, versions(rows), items, -1.0)
    vectors = items.vectors.astype(np.float64)
    item_ids, users = ints(log, "item_id"), ints(log, "user_id")
    cosines = np.round(np.einsum("id,ikd->ik", vectors[item_ids], vectors[medoids[users]]), 6)
    best = np.argmax(cosines, axis=1)  # the first of equals: medoids ascend
    assert ints(credits, "query_id").tolist() == medoids[users, best].tolist()
    shuffled = versions(rows).take(rng.permutation(120))
    parts = [inferred_credits(log.slice(i, 1), shuffled, items, 0.5) for i in range(100)]
    whole = inferred_credits(log, versions(rows), items, 0.5).drop_columns("row")
    assert pa.concat_tables(parts).drop_columns("row").equals(whole)
