import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.actions import Action
from profiling.decay import DAY_US, HOUR_US
from profiling.history import ProfileConfig, positive_events, read_back, update_history
from profiling.items import Items
from profiling.tables import HISTORY
from tests.profiling.engagement_rows import engagements

ACTIONS = (Action("like"), Action("hate", -1.0, positive=False))
CONFIG = ProfileConfig(window_days=10.0, max_items=3)
HORIZON = 2 * DAY_US
DAY_100 = 100 * DAY_US


def items(n=20):
    return Items(
        ids=np.arange(n),
        vectors=np.eye(n, dtype=np.float32),
        version="v1",
        topic_offsets=np.zeros(n + 1, np.int64),
        topic_ids=np.empty(0, np.int64),
        topic_confidences=np.empty(0, np.float32),
        created_at=np.zeros(n, np.int64),
    )


def update(history, rows, parent=None, config=CONFIG):
    return update_history(
        history,
        engagements(rows),
        items(),
        ACTIONS,
        config,
        horizon_us=HORIZON,
        parent_cutoff=parent,
    )


def test_rows_come_in_by_user_and_event():
    rows = [(5, 2, 1, "like", 30), (9, 1, 2, "hate", 10), (3, 2, 4, "hate", 20)]
    done = update(HISTORY.empty(), rows)
    assert done.history.schema == HISTORY.arrow
    assert done.history["event_id"].to_pylist() == [9, 3, 5]
    assert done.history["action"].to_pylist() == [1, 1, 0]
    assert done.history["credited_id"].null_count == 3
    assert done.touched.to_pylist() == [{"user_id": 2, "since": 30}]
    assert positive_events(done.history, ACTIONS).tolist() == [False, False, True]


def test_new_rows_are_merged_into_the_old_in_key_order():
    first = update(HISTORY.empty(), [(k, k % 3, k, "like", 10 * k) for k in (1, 4, 7, 8)])
    done = update(first.history, [(k, k % 3, k, "like", 10 * k) for k in (0, 2, 3, 5, 6)])
    keys = list(
        zip(done.history["user_id"].to_pylist(), done.history["event_id"].to_pylist(), strict=True)
    )
    assert keys == [(0, 0), (0, 3), (0, 6), (1, 1), (1, 4), (1, 7), (2, 2), (2, 5), (2, 8)]
    assert done.history["at"].cast(pa.int64()).to_pylist() == [10 * e for _, e in keys]
    assert done.touched["since"].to_pylist() == [0, 20]


def test_what_is_refused_and_why():
    parent = DAY_100
    late, in_time = parent - HORIZON, parent - HORIZON + 1
    rows = [
        (1, 1, 1, "like", late),
        (2, 1, 1, "like", in_time),
        (3, 1, 999, "like", parent),
        (4, 1, 1, "stare", parent),
    ]
    done = update(HISTORY.empty(), rows, parent)
    assert done.history["event_id"].to_pylist() == [2]
    reasons = dict(
        zip(done.rejected["row"].to_pylist(), done.rejected["reason"].to_pylist(), strict=True)
    )
    assert set(reasons) == {1, 3, 4}
    assert "48 h" in reasons[1]
    assert "not in ITEMS" in reasons[3]
    assert "not configured" in reasons[4]


def test_nothing_is_late_without_a_night_before():
    assert update(HISTORY.empty(), [(1, 1, 1, "like", 0)]).rejected.num_rows == 0


def test_duplicates_are_counted_and_touch_nobody():
    row = (1, 1, 1, "like", DAY_100)
    first = update(HISTORY.empty(), [row])
    done = update(first.history, [row, row], DAY_100 + DAY_US)
    assert done.duplicates == 2
    assert done.touched.num_rows == 0
    assert done.history.equals(first.history)


def test_credit_given_before_is_kept():
    first = update(HISTORY.empty(), [(1, 1, 1, "like", DAY_100)]).history
    place = first.column_names.index("credited_id")
    credited = first.set_column(place, "credited_id", pa.array([77], pa.int64()))
    done = update(credited, [(2, 1, 2, "like", DAY_100 + 1)])
    assert done.history["credited_id"].to_pylist() == [77, None]


def test_what_is_kept():
    # Latest event: day 100. The cut-off before lies later, so P = day 100 - 2 days = day 98.
    day = [(100, 9, "hate"), (98, 8, "hate"), (97, 7, "hate"), (97, 1, "like"), (90, 2, "like")]
    day += [(88, 1, "like"), (87, 3, "like"), (86.9, 4, "like")]
    rows = [(k, 1, item, a, round(d * DAY_US)) for k, (d, item, a) in enumerate(day)]
    timely = update(HISTORY.empty(), rows).history
    # All of the last two days; before, likes from day 97 - 10 on.
    kept = update(timely, [], DAY_100 + HOUR_US, ProfileConfig(window_days=10.0)).history
    assert kept["event_id"].to_pylist() == [0, 1, 3, 4, 5, 6]
    # With 2 items at most: items 1 (day 97) and 2 (day 90); nothing before day 90.
    few = ProfileConfig(window_days=10.0, max_items=2)
    kept = update(timely, [], DAY_100 + HOUR_US, few).history
    assert kept["event_id"].to_pylist() == [0, 1, 3, 4]


def test_what_tonight_may_still_join_is_kept():
    # A hate two days before the last cut-off can still be joined to an impression of that hour.
    parent = DAY_100
    rows = [(1, 1, 1, "hate", parent - HORIZON + 1), (2, 1, 1, "like", parent + DAY_US - 1)]
    done = update(HISTORY.empty(), rows, parent)
    assert done.history["event_id"].to_pylist() == [1, 2]


def kept_plainly(rows, parent, config):
    """The retention rule of one user, read out plainly."""
    pivot = min(max(at for *_, at in rows), parent) - HORIZON
    before = [r for r in rows if r[4] < pivot and r[3] == "like"]
    last_at = {}
    for _, _, item, _, at in before:
        last_at[item] = max(at, last_at.get(item, at))
    newest = sorted(last_at.values(), reverse=True)
    since = max(
        [newest[0] - config.window_us, *newest[config.max_items - 1 :][:1]] if newest else [0]
    )
    return sorted(r[0] for r in rows if r[4] >= pivot or (r in before and r[4] >= since))


@st.composite
def event_lists(draw, days=20):
    """Events of two users over `days` days before day 100, by hours."""
    n = draw(st.integers(1, 40))
    hours = [draw(st.integers(0, 24 * days - 1)) for _ in range(n)]
    return [
        (
            k,
            draw(st.integers(0, 1)),
            draw(st.integers(0, 6)),
            draw(st.sampled_from(["like", "like", "hate"])),
            DAY_100 - 1 - h * HOUR_US,
        )
        for k, h in enumerate(hours)
    ]


@settings(max_examples=60, deadline=None)
@given(rows=event_lists())
def test_retention_by_its_plain_twin(rows):
    everything = update(HISTORY.empty(), rows).history
    kept = update(everything, [], DAY_100).history
    expected = []
    for user in (0, 1):
        own = [r for r in rows if r[1] == user]
        expected += kept_plainly(own, DAY_100, CONFIG) if own else []
    assert kept["event_id"].to_pylist() == expected


@settings(max_examples=60, deadline=None)
@given(rows=event_lists(days=8), delays=st.lists(st.integers(0, 47), min_size=40, max_size=40))
def test_events_in_parts_end_in_the_same_rows(rows, delays):
    nights = [DAY_100 + (k - 8) * DAY_US for k in range(1, 12)]

    def run(delay_hours):
        history, parent = HISTORY.empty(), DAY_100 - 8 * DAY_US
        for now in nights:
            arrived = [
                r
                for r, d in zip(rows, delay_hours, strict=False)
                if now - DAY_US <= r[4] + d * HOUR_US < now
            ]
            done = update(history, [r for r in arrived if r[4] < now], parent)
            assert done.rejected.num_rows == 0
            history, parent = done.history, now
        return history

    assert run(delays).equals(run([0] * 40))


def test_reading_back_stops_at_the_window_and_at_the_last_item():
    at = np.array([0, 5, 10, 20, 20, 30], np.int64)
    item = np.array([7, 7, 8, 9, 7, 8], np.int64)
    bounds = np.array([0, 6])
    members, found, offsets = read_back(bounds, at, item, 100, 5)
    assert found.tolist() == [7, 8, 9]
    assert members.tolist() == [0, 0, 1, 2, 0, 1]
    assert offsets.tolist() == [0, 3]
    # Two items: 8 at 30, then 7 at 20 (of equal times the larger event first), and no further.
    members, found, _ = read_back(bounds, at, item, 100, 2)
    assert (found.tolist(), members.tolist()) == ([7, 8], [-1, -1, -1, -1, 0, 1])
    # Ten back from 30, inclusive.
    members, found, _ = read_back(bounds, at, item, 10, 5)
    assert (found.tolist(), members.tolist()) == ([7, 8, 9], [-1, -1, -1, 2, 0, 1])


def test_options_are_checked():
    with pytest.raises(ValueError, match="max_items must be >= 1, got 0"):
        ProfileConfig(max_items=0)
