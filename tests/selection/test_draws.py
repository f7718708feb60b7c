from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.decay import DAY_US, HOUR_US
from profiling.schema import ints
from selection.draws import DRAWS, close_draws, draws_of, latest_rows, match_rows
from selection.tables import CLOSED_DRAWS, OUTCOMES, QUERIES, SERVED_DRAWS

RUN = date(2024, 3, 1)
RUN_DAY = (RUN - date(1970, 1, 1)).days
SERVE_END = (RUN_DAY + 2) * DAY_US  # drawn on D, served on D + 1, which ends at the start of D + 2
HORIZON = 48 * HOUR_US


def queries(rows):
    """(draw_id, user_id, surface) rows of QUERIES."""
    n = len(rows)
    return QUERIES.build(
        {
            "run_date": pa.array([RUN] * n, pa.date32()),
            "user_id": [r[1] for r in rows],
            "surface": [r[2] for r in rows],
            "slot": pa.array(range(n), pa.int16()),
            "serve_date": pa.array([date(2024, 3, 2)] * n, pa.date32()),
            "draw_id": [r[0] for r in rows],
            "cluster_id": [10 + r[0] for r in rows],
            "query_type": ["item"] * n,
            "query_id": [100 + r[0] for r in rows],
            "weight": [1.0] * n,
            "propensity": [0.5] * n,
            "set_probability": [0.25] * n,
            "policy": ["reward v1"] * n,
            "arm": ["a"] * n,
            "conditions": pa.array([[]] * n, QUERIES.arrow.field("conditions").type),
        }
    )


def served(rows):
    """(draw_id, user_id, surface, at, digest) rows of SERVED_DRAWS."""
    n = len(rows)
    return SERVED_DRAWS.build(
        {
            "draw_id": [r[0] for r in rows],
            "user_id": [r[1] for r in rows],
            "request_id": ["r"] * n,
            "at": np.array([r[3] for r in rows], np.int64),
            "surface": [r[2] for r in rows],
            "cluster_id": [10 + r[0] for r in rows],
            "query_type": ["topic"] * n,
            "query_id": [r[4] for r in rows],
            "propensity": [0.4] * n,
            "set_probability": [0.2] * n,
            "policy": ["live"] * n,
            "arm": [""] * n,
            "state_version": ["s"] * n,
            "content_digest": [r[4] for r in rows],
        }
    )


def outcomes(rows):
    """(user_id, draw_id) rows of OUTCOMES."""
    n = len(rows)
    return OUTCOMES.build(
        {
            "impression_id": list(range(n)),
            "draw_id": [r[1] for r in rows],
            "run_date": pa.array([RUN] * n, pa.date32()),
            "user_id": [r[0] for r in rows],
            "query_type": ["item"] * n,
            "query_id": pa.nulls(n, pa.int64()),
            "cluster_id": pa.nulls(n, pa.int64()),
            "item_id": [1] * n,
            "at": np.zeros(n, np.int64),
            "surface": ["home"] * n,
            "arm": [""] * n,
            "policy": [""] * n,
            "position": pa.nulls(n, pa.int32()),
            "examination": [1.0] * n,
            "value": [0.0] * n,
            "actions": [0] * n,
            "credit": [1.0] * n,
            "attribution": ["logged"] * n,
            "propensity": pa.nulls(n, pa.float64()),
        }
    )


def close(draws, shown, now=SERVE_END + HORIZON, parent=None):
    return close_draws(draws, outcomes(shown), horizon_us=HORIZON, now=now, parent_cutoff=parent)


def states(closed):
    return dict(zip(closed["draw_id"].to_pylist(), closed["state"].to_pylist(), strict=True))


NO_SERVED = SERVED_DRAWS.empty()


def test_a_draw_is_for_a_day_that_ends_at_midnight():
    late_evening = 20 * DAY_US - 1
    draws = draws_of(
        queries([(3, 7, "home")]),
        served([(4, 7, "home", late_evening, 1), (5, 7, "home", 20 * DAY_US, 1)]),
    )
    assert draws.schema.equals(DRAWS.arrow)
    assert draws["draw_id"].to_pylist() == [3, 4, 5]
    assert ints(draws, "at").tolist() == [SERVE_END, 20 * DAY_US, 21 * DAY_US]
    assert draws["per_request"].to_pylist() == [False, True, True]
    assert draws["query_type"].to_pylist() == ["item", "topic", "topic"]
    assert draws["query_id"].to_pylist() == [103, 1, 1]


def test_one_draw_per_user_and_id():
    """The night's draw holds; among served ones the smallest digest; users are kept apart."""
    both = served(
        [(3, 7, "home", 0, 1), (4, 7, "home", 0, 9), (4, 7, "home", 0, 2), (4, 8, "home", 0, 5)]
    )
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        draws = draws_of(queries([(3, 7, "home")]), both.take(order))
        assert draws.select(["user_id", "draw_id", "query_id"]).to_pylist() == [
            {"user_id": 7, "draw_id": 3, "query_id": 103},
            {"user_id": 7, "draw_id": 4, "query_id": 2},
            {"user_id": 8, "draw_id": 4, "query_id": 5},
        ]


def test_no_draws():
    draws = draws_of(QUERIES.empty(), NO_SERVED)
    assert draws.num_rows == 0
    assert close(draws, []).schema.equals(CLOSED_DRAWS.arrow)


keys = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=12)


@given(held=keys, wanted=keys)
@settings(max_examples=60, deadline=None)
def test_matching_equals_search_by_hand(held, wanted):
    held_at, wanted_at = [np.array([r[2] for r in t], np.int64) for t in (held, wanted)]
    columns = [[np.array([r[i] for r in t], np.int64) for i in (0, 1)] for t in (held, wanted)]
    first = [next((i for i, h in enumerate(held) if h[:2] == w[:2]), -1) for w in wanted]
    assert match_rows(*columns).tolist() == first
    latest = [
        max(
            ((h[2], i) for i, h in enumerate(held) if h[:2] == w[:2] and h[2] <= w[2]),
            default=(0, -1),
        )[1]
        for w in wanted
    ]
    assert latest_rows(columns[0], held_at, columns[1], wanted_at).tolist() == latest


def test_states_of_a_draw():
    """User 7 saw what draw 1 brought; user 8 never came; user 9 saw other surface only."""
    draws = draws_of(
        queries(
            [
                (1, 7, "home"),
                (2, 7, "home"),
                (3, 7, "related"),
                (4, 8, "home"),
                (5, 9, "home"),
                (6, 9, "related"),
            ]
        ),
        NO_SERVED,
    )
    closed = close(draws, [(7, 1), (9, 6), (8, 0)])
    assert states(closed) == {
        1: "brought", 2: "empty", 3: "unserved", 4: "unserved", 5: "unserved", 6: "brought",
    }  # fmt: skip
    row = closed.filter(pa.array([True] + [False] * 5)).to_pylist()[0]
    assert (row["user_id"], row["query_id"], row["propensity"]) == (7, 101, 0.5)
    assert ints(closed, "at").tolist() == [SERVE_END] * 6


def test_a_draw_id_seen_by_another_user_brings_nothing():
    draws = draws_of(queries([(1, 7, "home"), (2, 8, "home")]), NO_SERVED)
    assert states(close(draws, [(8, 1)])) == {1: "unserved", 2: "unserved"}


def test_another_night_says_nothing_of_this_one():
    tonight = draws_of(queries([(1, 7, "home")]), NO_SERVED)
    at = pa.array([SERVE_END + DAY_US]).cast(tonight["at"].type)
    other = DRAWS.check(tonight.set_column(3, "at", at).set_column(0, "draw_id", pa.array([2])))
    closed = close(pa.concat_tables([tonight, other]), [(7, 2)])
    assert states(closed) == {1: "unserved"}


def test_draws_per_request_form_their_own_night():
    same_day = SERVE_END - HOUR_US
    draws = draws_of(
        queries([(1, 7, "home")]),
        served([(2, 7, "home", same_day, 1), (3, 7, "home", same_day - HOUR_US, 1)]),
    )
    assert states(close(draws, [(7, 2)])) == {1: "unserved", 2: "brought", 3: "empty"}


@pytest.mark.parametrize(
    ("now", "parent", "closes"),
    [
        (SERVE_END + HORIZON, None, True),
        (SERVE_END + HORIZON - 1, None, False),
        (SERVE_END + HORIZON, SERVE_END + HORIZON - 1, True),
        (SERVE_END + HORIZON + DAY_US, SERVE_END + HORIZON, False),
    ],
)
def test_a_draw_closes_when_the_cutoff_reaches_its_horizon(now, parent, closes):
    draws = draws_of(queries([(1, 7, "home")]), NO_SERVED)
    assert close(draws, [], now, parent).num_rows == int(closes)


@given(
    gaps=st.lists(st.integers(1, 3 * DAY_US), min_size=1, max_size=8), start=st.integers(0, DAY_US)
)
@settings(max_examples=30, deadline=None)
def test_a_draw_closes_once_over_any_nights(gaps, start):
    draws = draws_of(queries([(1, 7, "home"), (2, 8, "home")]), NO_SERVED)
    cutoffs = [SERVE_END + start, *(SERVE_END + start + np.cumsum(gaps)).tolist()]
    cutoffs.append(cutoffs[-1] + HORIZON)
    parents = [None, *cutoffs[:-1]]
    counts = [close(draws, [], n, p).num_rows for n, p in zip(cutoffs, parents, strict=True)]
    first = next(i for i, c in enumerate(cutoffs) if c >= SERVE_END + HORIZON)
    assert counts == [2 * (i == first) for i in range(len(cutoffs))]


def test_order_and_company_do_not_matter():
    rows = [(i, i % 5, ("home", "related")[i % 2]) for i in range(1, 31)]
    draws = draws_of(queries(rows), NO_SERVED)
    shown = [(i % 5, i) for i in range(1, 31, 7)]
    closed = close(draws, shown)
    assert set(closed["state"].to_pylist()) == {"brought", "empty", "unserved"}
    shuffled = draws.take(np.random.default_rng(0).permutation(30))
    assert close(shuffled, shown[::-1]).equals(closed)
    users = ints(draws, "user_id")
    parts = [
        close(draws.filter(pa.array(users == u)), [s for s in shown if s[0] == u]) for u in range(5)
    ]
    assert pa.concat_tables(parts).equals(closed)
