from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from profiling.actions import Action, mask_values
from profiling.decay import HOUR_US
from profiling.schema import ints
from profiling.tables import HISTORY, REJECTED
from selection.outcomes import OutcomeConfig
from selection.tables import CLOSED_DRAWS, OPEN, OUTCOMES
from tests.selection.outcome_rows import (
    HATE,
    LIKE,
    START,
    VIEW,
    at,
    draw,
    event,
    impression,
    inputs,
    nullable,
    profile,
    run,
    table,
)


def only(update):
    assert update.outcomes.num_rows == 1
    return update.outcomes.to_pylist()[0]


# --- config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window_hours": -1.0}, "window_hours must be >= 0, got -1.0"),
        ({"lateness_hours": float("nan")}, "lateness_hours must be a number"),
        ({"threshold": 1.5}, "threshold must be <= 1, got 1.5"),
        ({"credit": "all"}, "credit must be one of slot_winner, equal, score, got 'all'"),
        ({"value_low": 1.0}, "value_low must be below value_high, got 1.0 and 1.0"),
        ({"examination": (1.0, 1.2)}, r"examination must be .* in \[0, 1\], got 1.2"),
    ],
)
def test_config_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        OutcomeConfig(**wrong)


def test_hours_may_be_fractions():
    config = OutcomeConfig(window_hours=0.5, lateness_hours=1 / 3)
    assert (config.window_us, config.lateness_us) == (HOUR_US // 2, HOUR_US // 3)


# --- closing


@pytest.mark.parametrize(
    ("actions", "horizon"),
    [(None, 10 + 48), (["like"], 10 + 24), ([], 10 + 24)],
)
def test_an_impression_closes_when_the_cutoff_reaches_its_horizon(actions, horizon):
    tables = inputs([impression(1, 10, actions=actions)])
    early = run(tables, horizon - 1e-6)
    assert (early.outcomes.num_rows, early.open.num_rows) == (0, 1)
    closed = run(tables, horizon)
    assert (closed.outcomes.num_rows, closed.open.num_rows) == (1, 0)
    later = run(inputs(open=early.open), horizon)
    assert later.outcomes.equals(closed.outcomes)


def test_what_an_outcome_copies():
    row = only(run(inputs([impression(1, 10, item=4, position=2, actions=["view"])])))
    assert row.pop("at").timestamp() == at(10) / 1e6
    assert row == {
        "impression_id": 1, "draw_id": 0, "run_date": START, "user_id": 7, "query_type": "",
        "query_id": None, "cluster_id": None, "item_id": 4, "surface": "home", "arm": "",
        "policy": "", "position": 2, "examination": 1.0, "value": 0.75, "actions": VIEW,
        "credit": 1.0, "attribution": "none", "propensity": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("actions", "bounds", "value"),
    [
        ([], (0, 1), 0.0),
        (["like"], (0, 1), 0.5),
        (["like", "view"], (0, 1), 1.0),
        (["like", "view"], (0, 2), 0.5 + 0.75),
        (["hate"], (0, 1), 0.0),
        (["hate", "like"], (-1, 1), 0.5 - 1),
    ],
)
def test_value_is_the_clipped_sum_of_actions(actions, bounds, value):
    config = OutcomeConfig(value_low=bounds[0], value_high=bounds[1])
    assert only(run(inputs([impression(1, 0, actions=actions)]), config=config))["value"] == value


def test_examination_by_position():
    rows = [impression(i, 0, position=p) for i, p in enumerate([0, 1, 2, 9, None])]
    update = run(inputs(rows), config=OutcomeConfig(examination=(1.0, 0.5, 0.25)))
    assert update.outcomes["examination"].to_pylist() == [1.0, 0.5, 0.25, 0.25, 1.0]
    assert run(inputs(rows)).outcomes["examination"].to_pylist() == [1.0] * 5


def test_a_value_has_the_same_bits_in_any_batch():
    actions = tuple(Action(f"a{i}", 0.1 * (i + 1)) for i in range(12))
    masks = np.arange(1, 4096, 7)
    alone = [mask_values(masks[i : i + 1], actions)[0] for i in range(len(masks))]
    assert mask_values(masks, actions).tolist() == alone


# --- admission


def rejected(update):
    return dict(
        zip(update.rejected["row"].to_pylist(), update.rejected["reason"].to_pylist(), strict=True)
    )


def test_what_is_refused():
    rows = [
        impression(1, 0, item=99),
        impression(2, 0, actions=["like", "sigh"]),
        impression(3, 0, actions=["like", None]),
        impression(4, 0),
    ]
    update = run(inputs(rows))
    assert update.outcomes["impression_id"].to_pylist() == [4]
    reasons = rejected(update)
    assert sorted(reasons) == [1, 2, 3]
    assert "item_id is not in ITEMS" in reasons[1]
    assert "configured are view, like, hate" in reasons[2]
    assert reasons[2] == reasons[3]


@pytest.mark.parametrize(("actions", "horizon"), [(None, 48), (["like"], 24)])
def test_a_row_is_late_when_its_horizon_ended_the_night_before(actions, horizon):
    tables = inputs([impression(1, 0, actions=actions)])
    update = run(tables, horizon + 24, parent=horizon)
    assert update.outcomes.num_rows == update.open.num_rows == 0
    assert "late" in rejected(update)[1]
    assert run(tables, horizon + 24, parent=horizon - 1e-6).outcomes.num_rows == 1


def test_duplicates_and_other_content():
    first = run(inputs([impression(1, 0, digest=1), impression(1, 0, digest=1)]), 24)
    assert (first.open.num_rows, first.duplicates) == (1, 1)
    again = [impression(1, 0, digest=1), impression(1, 3, digest=2)]
    second = run(inputs(again, open=first.open), 48, parent=24)
    assert (second.outcomes.num_rows, second.duplicates) == (1, 1)
    assert "other content" in rejected(second)[1]


def test_an_id_that_closed_last_night_does_not_open_again():
    """Its own actions closed it early; the same id without them would have a later horizon."""
    first = run(inputs([impression(1, 0, actions=["like"])]), 24)
    assert first.outcomes.num_rows == 1
    again = inputs([impression(1, 0, digest=2)], last_outcomes=first.outcomes)
    second = run(again, 48, parent=24)
    assert second.outcomes.num_rows == second.open.num_rows == 0
    assert "closed the night before" in rejected(second)[1]


def test_what_is_shown_at_the_cutoff_has_not_happened_yet():
    """Without window and lateness it closes on the next night, where it is not late."""
    config = OutcomeConfig(window_hours=0.0, lateness_hours=0.0)
    tables = inputs([impression(1, 24)])
    early = run(tables, 24, config=config)
    assert (early.outcomes.num_rows, early.open.num_rows) == (0, 1)
    held = run(inputs(open=early.open), 48, parent=24, config=config)
    assert run(tables, 48, parent=24, config=config).outcomes.equals(held.outcomes)
    assert held.outcomes.num_rows == 1


# --- engagements


def test_engagements_are_joined_and_marked():
    history = [
        event(1, 1, action=1), event(2, 2, action=2), event(3, 2, action=2), event(4, 1, item=1),
    ]  # fmt: skip
    log = table(HISTORY, history)
    shuffled = log.take([2, 0, 3, 1])
    update = run(inputs([impression(1, 0)], shuffled))
    assert only(update)["actions"] == LIKE | HATE
    assert update.history.schema.equals(HISTORY.arrow, check_metadata=True)
    assert update.history["credited_id"].to_pylist() == [1, 1, None, 1]
    assert update.history.drop_columns("credited_id").equals(shuffled.drop_columns("credited_id"))


def test_history_is_the_same_object_where_nothing_was_credited():
    log = table(HISTORY, [event(1, 1, item=2)])
    assert run(inputs([impression(1, 0)], log)).history is log


def test_an_engagement_waits_for_the_impression_it_belongs_to():
    """Two of one item: the click at 12 h is the second's, which closes a night later."""
    rows = [impression(1, 0), impression(2, 10)]
    log = [event(1, 12, action=1), event(2, 5, action=2)]
    first = run(inputs(rows, log), 48)
    assert only(first)["actions"] == HATE
    assert first.history["credited_id"].to_pylist() == [None, 1]
    second = run(inputs(open=first.open, history=first.history), 72, parent=48)
    assert only(second)["actions"] == LIKE
    assert second.history["credited_id"].to_pylist() == [2, 1]


def test_lines_with_their_own_actions_are_not_joined():
    rows = [impression(1, 0, actions=["view"]), impression(2, 1, actions=[])]
    log = [event(1, 2, action=1), event(2, 2, action=2, named=1), event(3, 2, action=2, named=2)]
    update = run(inputs(rows, log))
    assert update.outcomes["actions"].to_pylist() == [VIEW, 0]
    assert update.history["credited_id"].null_count == 3
    joined = run(inputs([*rows, impression(3, 0)], log))  # unnamed: the one that is joined
    assert joined.outcomes["actions"].to_pylist() == [VIEW, 0, LIKE]


# --- attribution


def test_logged_inferred_and_none():
    rows = [impression(1, 30, draw=5), impression(2, 30, item=3), impression(3, 30, item=4)]
    update = run(inputs(rows, draws=[draw(5)], past=[profile(7, 0, 24)]))
    columns = ["attribution", "draw_id", "query_id", "cluster_id", "propensity", "policy", "arm"]
    assert [tuple(r[c] for c in columns) for r in update.outcomes.to_pylist()] == [
        ("logged", 5, 55, 5, 0.5, "reward v1", "a"),
        ("inferred", 0, 0, 0, None, "", ""),
        ("none", 0, None, None, None, "", ""),
    ]


def test_a_profile_that_has_stood_since_before_the_impression_counts():
    row = only(run(inputs([impression(1, 30, item=3)], tonight=[profile(7, 0, 24)])))
    assert (row["attribution"], row["query_id"]) == ("inferred", 0)


def test_tonights_profile_does_not_know_yesterdays_impression():
    """The clicked item 3 is a medoid tonight. It must not find a home that item 4 does not find."""
    rows = [impression(1, 30, item=3), impression(2, 30, item=4)]
    log = [event(1, 31, item=3)]
    update = run(inputs(rows, log, tonight=[profile(7, 3, 48), profile(7, 4, 48)]), 96)
    assert update.outcomes["actions"].to_pylist() == [VIEW, 0]
    assert update.outcomes["attribution"].to_pylist() == ["none", "none"]


def test_an_unknown_draw_is_refused_when_its_impression_closes():
    rows = [impression(1, 0, draw=5), impression(2, 1, draw=6), impression(3, 2, draw=6)]
    log = [event(1, 3, named=1), event(2, 4, named=2)]
    tables = inputs(rows, log, draws=[draw(6), draw(5, user=8)])
    early = run(tables, 24)
    assert (early.open.num_rows, early.rejected.num_rows) == (3, 0)
    update = run(tables, 72)
    assert update.outcomes["impression_id"].to_pylist() == [2, 3]
    assert "draw_id 5 is no draw of user 7; land its SERVED_DRAWS" in rejected(update)[1]
    assert update.rejected["source"].to_pylist() == ["IMPRESSIONS"]
    assert update.history["credited_id"].to_pylist() == [None, 2]


def test_shared_credit_writes_a_row_per_draw_and_both_have_brought():
    part = pa.struct([("draw_id", pa.int64()), ("rank", pa.int32()), ("score", pa.float32())])
    lists = [[{"draw_id": d, "rank": 0, "score": s} for d, s in ((5, 0.75), (6, 0.25))]]
    feed = pa.table(
        {
            "user_id": nullable([7]), "draw_id": nullable([5]), "item_id": nullable([0]),
            "draws": pa.array(lists, pa.list_(part)),
        }
    )  # fmt: skip
    tables = inputs(
        [impression(1, 0, draw=5)], [event(1, 1)], [draw(5), draw(6), draw(9)], feed=feed
    )
    update = run(tables, 72, config=OutcomeConfig(credit="score"))
    rows = update.outcomes.to_pylist()
    assert [(r["draw_id"], r["query_id"], r["credit"]) for r in rows] == [
        (5, 55, 0.75), (6, 56, 0.25),
    ]  # fmt: skip
    assert [r["value"] for r in rows] == [0.75, 0.75]
    assert update.closed_draws["state"].to_pylist() == ["brought", "brought", "empty"]
    assert run(tables, 72).closed_draws["state"].to_pylist() == ["brought", "empty", "empty"]


def test_a_draw_closes_with_the_outcomes_of_two_nights():
    """Shown at 1 h it closes at 49 h, in the night of 72 h; its draw closes at 24 + 48 h."""
    tables = inputs([impression(1, 0, draw=5), impression(2, 23, draw=5)], draws=[draw(5), draw(6)])
    first = run(tables, 48)
    assert first.outcomes["impression_id"].to_pylist() == [1]
    assert first.closed_draws.num_rows == 0
    second = inputs(draws=[draw(5), draw(6)], last_outcomes=first.outcomes)
    closed = run(second, 72, parent=48).closed_draws
    assert closed["state"].to_pylist() == ["brought", "empty"]
    unseen = run(replace(second, last_outcomes=OUTCOMES.empty()), 72, parent=48).closed_draws
    assert unseen["state"].to_pylist() == ["unserved", "unserved"]


# --- the contract of every step


def random_inputs(seed=0, n_users=20):
    rng = np.random.default_rng(seed)
    n = 300
    draws = [draw(d, user=d % n_users, day=d % 4) for d in range(1, 60)]
    shown = [
        impression(
            i, float(rng.uniform(0, 96)), int(rng.integers(n_users)), int(rng.integers(7)),
            draw=int(rng.integers(1, 62)) if rng.random() < 0.5 else None,
            actions=["like"] if rng.random() < 0.3 else None,
        )
        for i in range(n)
    ]  # fmt: skip
    for row in shown[: n // 2]:
        row["draw_id"] = row["draw_id"] and row["user_id"] + 20 * int(rng.integers(1, 3))
    log = [
        event(i, float(rng.uniform(0, 96)), int(rng.integers(n_users)), int(rng.integers(6)))
        for i in range(400)
    ]
    past = [profile(u, int(rng.integers(6)), 24) for u in range(n_users)]
    return inputs(shown, log, draws, past)


NAMES = ("impressions", "open", "history", "draws", "profiles", "past_profiles", "last_outcomes")
SCHEMAS = {
    "outcomes": OUTCOMES, "open": OPEN, "closed_draws": CLOSED_DRAWS, "history": HISTORY,
    "rejected": REJECTED,
}  # fmt: skip


def test_schemas_and_something_of_everything():
    update = run(random_inputs(), 96)
    for name, schema in SCHEMAS.items():
        result = getattr(update, name)
        assert result.num_rows > 0, name
        assert result.schema.equals(schema.arrow, check_metadata=True), name
        if name != "history":
            assert result.equals(result.sort_by([(k, "ascending") for k in schema.key])), name
    assert set(update.outcomes["attribution"].to_pylist()) == {"logged", "inferred", "none"}
    assert set(update.closed_draws["state"].to_pylist()) == {"brought", "empty", "unserved"}
    assert update.history["credited_id"].null_count < update.history.num_rows
    assert (ints(update.outcomes, "run_date") == (START - date(1970, 1, 1)).days).all()


def test_order_of_rows_does_not_matter():
    tables, rng = random_inputs(), np.random.default_rng(1)
    once = run(tables, 96)
    mixed = {}
    for name in NAMES:
        rows = getattr(tables, name)
        mixed[name] = rows.take(rng.permutation(rows.num_rows))
    again = run(replace(tables, **mixed), 96)
    for name in ("outcomes", "open", "closed_draws", "rejected"):
        assert getattr(again, name).equals(getattr(once, name)), name
    key = [("event_id", "ascending")]
    assert again.history.sort_by(key).equals(once.history.sort_by(key))


def test_any_sharding_gives_the_same_rows():
    tables = random_inputs()
    whole = run(tables, 96)
    shards = []
    for part in range(5):
        held = {}
        for name in NAMES:
            rows = getattr(tables, name)
            held[name] = rows.filter(pa.array(ints(rows, "user_id") % 5 == part))
        shards.append(run(replace(tables, **held), 96))
    for name, schema in SCHEMAS.items():
        joined = pa.concat_tables([getattr(s, name) for s in shards])
        key = [(k, "ascending") for k in schema.key]
        assert joined.sort_by(key).equals(getattr(whole, name).sort_by(key)), name


def test_nothing_in_nothing_out():
    update = run(inputs(), 96, parent=72)
    for name, schema in SCHEMAS.items():
        assert getattr(update, name).num_rows == 0
        assert getattr(update, name).schema.equals(schema.arrow)
    assert update.duplicates == 0
