"""Steps 1 and 2 over the due users alone give what they give over all."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.history import ProfileConfig, fading_rows, update_history
from profiling.profiles import ProfileInputs, build_profiles
from profiling.schema import ints
from profiling.tables import HISTORY, PAST_PROFILES, PROFILES
from selection.draws import draws_of
from selection.outcomes import OutcomeConfig, OutcomeInputs, attribute_outcomes
from selection.settled import DueInputs, due_queries, due_users, of_users, replace_users
from selection.tables import IMPRESSIONS, OPEN, OUTCOMES, QUERIES, SERVED_DRAWS
from tests.profiling.engagement_rows import engagements
from tests.selection.outcome_rows import ACTIONS, CONFIG, ITEMS, START, at, impression, table

SHORT = ProfileConfig(alpha=1.0, window_days=2.0, max_items=3)
NIGHTS, USERS = 7, 5
STATE = ("HISTORY", "PROFILES", "PAST_PROFILES", "OPEN", "OUTCOMES")
EMPTY = {s.name: s.empty() for s in (HISTORY, PROFILES, PAST_PROFILES, OPEN, OUTCOMES)}
NAMES = tuple(a.name for a in ACTIONS)

user_ids, item_ids = st.integers(0, USERS - 1), st.integers(0, 5)
hours = st.integers(0, 24 * 5 - 1)
did = st.tuples(hours, user_ids, item_ids, st.sampled_from(NAMES), st.booleans())
own = st.none() | st.lists(st.sampled_from(NAMES), unique=True)
shown = st.tuples(hours, user_ids, item_ids, st.none() | st.integers(0, 1), own, st.booleans())


def landing_night(hour, late):
    """A day's rows land with its night, or one night late, which the horizon allows."""
    return hour // 24 + late


def queries(night):
    """Two draws a user, ids by night, user and slot."""
    rows = [(u, s) for u in range(USERS) for s in range(2)]
    n = len(rows)
    date = START + timedelta(days=night)
    return QUERIES.build(
        {
            "run_date": pa.array([date] * n),
            "user_id": [u for u, _ in rows],
            "surface": ["home"] * n,
            "slot": pa.array([s for _, s in rows], pa.int16()),
            "serve_date": pa.array([date + timedelta(days=1)] * n),
            "draw_id": [draw_id(night, u, s) for u, s in rows],
            "cluster_id": [1] * n,
            "query_type": ["item"] * n,
            "query_id": [s for _, s in rows],
            "weight": [1.0] * n,
            "propensity": [0.5] * n,
            "set_probability": [0.5] * n,
            "policy": [""] * n,
            "arm": [""] * n,
            "conditions": pa.array([[]] * n, QUERIES.arrow.field("conditions").type),
        }
    )


def draw_id(night, user, slot):
    return 1 + slot + 2 * (user + USERS * (night + 1))


def run_night(state, rows, night, *, items=ITEMS, split):
    """Steps 1 and 2 over all users, or over the due ones."""
    now = at(24 * (night + 1))
    cutoffs = [at(24 * (k + 1)) for k in range(night)]
    parent = cutoffs[-1] if cutoffs else None
    done, seen = rows
    draws = pa.concat_tables([queries(k) for k in range(-1, night)])
    horizon = CONFIG.window_us + CONFIG.lateness_us
    whole, users = state, np.arange(USERS)
    if split:
        due = DueInputs(
            done, seen, state["OPEN"], state["PROFILES"], state["PAST_PROFILES"], items.version
        )
        users = due_users(due, CONFIG, now=now)
        faded = fading_rows(
            state["HISTORY"], ACTIONS, SHORT, horizon_us=horizon, parent_cutoff=parent
        )
        ours = {n: state[n].filter(of_users(state[n], users)) for n in ("HISTORY", "PROFILES")}
        state = state | ours
        draws = due_queries(draws, users, CONFIG, now=now, parent_cutoff=parent)
    update = update_history(
        state["HISTORY"], done, items, ACTIONS, SHORT, horizon_us=horizon, parent_cutoff=parent
    )
    profiles = build_profiles(
        ProfileInputs(
            update.history, update.touched, state["PROFILES"], state["PAST_PROFILES"], items
        ),
        SHORT, ACTIONS, now=now, cutoffs=np.array(cutoffs, np.int64), horizon_us=horizon,
    )  # fmt: skip
    inputs = OutcomeInputs(
        seen, state["OPEN"], update.history, draws_of(draws, SERVED_DRAWS.empty()), None,
        profiles.profiles, profiles.past_profiles, items, state["OUTCOMES"],
    )  # fmt: skip
    outcomes = attribute_outcomes(
        inputs, CONFIG, ACTIONS, now=now, run_date=START + timedelta(days=night),
        parent_cutoff=parent,
    )  # fmt: skip
    made = {
        "HISTORY": outcomes.history, "PROFILES": profiles.profiles,
        "PAST_PROFILES": profiles.past_profiles, "OPEN": outcomes.open,
        "OUTCOMES": outcomes.outcomes, "CLOSED_DRAWS": outcomes.closed_draws,
        "REJECTED": pa.concat_tables([update.rejected, outcomes.rejected]),
    }  # fmt: skip
    if split:
        made["HISTORY"] = replace_users(whole["HISTORY"], users, made["HISTORY"], faded)
        made["PROFILES"] = replace_users(whole["PROFILES"], users, made["PROFILES"])
    return made, users


def landed(done, seen, night):
    """What lands on a night, of rows of the whole log."""
    events = [
        (k, u, x, name, at(h))
        for k, (h, u, x, name, late) in enumerate(done)
        if landing_night(h, late) == night
    ]
    rows = [
        impression(k, h, u, x, draw_id(h // 24 - 1, u, s) if s is not None else None, own_actions)
        for k, (h, u, x, s, own_actions, late) in enumerate(seen)
        if landing_night(h, late) == night
    ]
    return engagements(events), table(IMPRESSIONS, rows)


@given(
    done=st.lists(did, max_size=30),
    seen=st.lists(shown, max_size=20),
    new_vectors=st.none() | st.integers(1, NIGHTS - 1),
)
@settings(max_examples=15, deadline=None)
def test_only_due_users_change(done, seen, new_vectors):
    every, ours = EMPTY, EMPTY
    for night in range(NIGHTS):
        items = ITEMS
        if new_vectors is not None and night >= new_vectors:
            items = replace(ITEMS, version="v2")
        rows = landed(done, seen, night)
        every, _ = run_night(every, rows, night, items=items, split=False)
        ours, _ = run_night(ours, rows, night, items=items, split=True)
        for name, rows_of_all in every.items():
            assert ours[name].equals(rows_of_all), (night, name)


def test_a_user_is_due_while_something_is_open_and_settled_after():
    done, seen = [(3, 0, 1, "view", False)], [(2, 0, 1, 0, None, False)]
    state, due = EMPTY, []
    for night in range(6):
        state, users = run_night(state, landed(done, seen, night), night, split=True)
        due.append(users.tolist())
    # It lands, closes two nights later, and nothing of it is left to do.
    assert due == [[0], [], [0], [], [], []]
    assert state["HISTORY"]["credited_id"].to_pylist() == [0]


def test_events_of_settled_users_fade():
    done = [(1, 0, 1, "hate", False), (2, 1, 1, "view", False), (60, 0, 2, "hate", False)]
    state, due, held = EMPTY, [], []
    for night in range(5):
        state, users = run_night(state, landed(done, [], night), night, split=True)
        due.append(users.tolist())
        held.append(state["HISTORY"]["event_id"].to_pylist())
    # The first event fades a night after the one that moved the latest, without new rows.
    assert due == [[0, 1], [], [0], [], []]
    assert held == [[0, 1], [0, 1], [0, 2, 1], [2, 1], [2, 1]]


def test_queries_of_settled_users_come_where_they_close():
    draws = pa.concat_tables([queries(k) for k in range(4)])
    kept = due_queries(draws, np.array([2]), CONFIG, now=at(24 * 4), parent_cutoff=at(24 * 3))
    nights = {(q["run_date"] - START).days for q in kept.to_pylist() if q["user_id"] != 2}
    assert nights == {0}  # served on day 1, over at its end, horizon 48 hours
    assert kept.filter(of_users(kept, np.array([2]))).num_rows == 8


def test_replaced_users_may_come_go_and_change():
    whole = pa.table({"user_id": [1, 1, 3, 5, 5], "x": [[1], [2], [], None, [5]]})
    rows = pa.table({"user_id": [0, 3, 3, 9], "x": pa.array([[10], [11], None, [12]])})
    made = replace_users(whole, np.array([0, 3, 5, 9]), rows)
    assert made["user_id"].to_pylist() == [0, 1, 1, 3, 3, 9]
    assert made["x"].to_pylist() == [[10], [1], [2], [11], None, [12]]
    assert all(a <= b for a, b in pairwise(ints(made, "user_id")))
    assert replace_users(whole.slice(0, 0), np.array([0]), rows.slice(0, 1)).num_rows == 1
    nobody = np.array([], np.int64)
    assert replace_users(whole, nobody, rows.slice(0, 0)).equals(whole)
    faded = replace_users(whole, np.array([3]), rows.slice(1, 2), np.array([1, 2, 4]))
    assert faded["x"].to_pylist() == [[1], [11], None, None]


def test_a_config_without_lateness_still_closes_on_time():
    quick = OutcomeConfig(window_hours=0.0, lateness_hours=0.0)
    seen = table(IMPRESSIONS, [impression(1, 30, 4, actions=[])])
    due = DueInputs(
        engagements([]), seen, OPEN.empty(), PROFILES.empty(), PAST_PROFILES.empty(), "v1"
    )
    users = due_users(due, quick, now=at(48))
    assert users.tolist() == [4]
