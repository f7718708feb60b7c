"""Step 2 over several nights: counted once, whatever the order in which rows land."""

from datetime import timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.tables import HISTORY, REJECTED
from selection.outcomes import OutcomeConfig, OutcomeUpdate, attribute_outcomes
from selection.tables import CLOSED_DRAWS, OPEN, OUTCOMES
from tests.selection.outcome_rows import (
    ACTIONS,
    CONFIG,
    START,
    at,
    draw,
    event,
    impression,
    inputs,
    profile,
    table,
)

users, item_ids = st.integers(0, 2), st.integers(0, 2)
hours = st.integers(0, 95).map(lambda q: q * 0.75)
own_actions = st.none() | st.lists(st.sampled_from(["view", "like", "hate"]), unique=True)
shown_rows = st.lists(
    st.tuples(hours, users, item_ids, st.none() | st.integers(1, 6), own_actions),
    min_size=1,
    max_size=10,
)
done_rows = st.lists(
    st.tuples(hours, users, item_ids, st.integers(0, 2), st.none() | st.integers(0, 10)),
    max_size=12,
)
configs = st.builds(
    OutcomeConfig,
    window_hours=st.sampled_from([0.0, 1.5, 24.0, 36.0]),
    lateness_hours=st.sampled_from([0.0, 12.5, 24.0, 48.0]),
)
ALL_DRAWS = [draw(d, user=d % 3, day=d % 4) for d in range(1, 6)]  # draw 6 is not known
PAST = [profile(u, u + 3, 24) for u in range(3)]


def draw_is_unknown(row):
    known = {(d["draw_id"], d["user_id"]) for d in ALL_DRAWS}
    return row["draw_id"] is not None and (row["draw_id"], row["user_id"]) not in known


def made(shown, done):
    impressions = [
        impression(i, h, u, x, draw=d, actions=a) for i, (h, u, x, d, a) in enumerate(shown)
    ]
    log = [event(i, h, u, x, a, n) for i, (h, u, x, a, n) in enumerate(done)]
    return impressions, log


def cutoffs_for(config):
    last = 96 + config.window_hours + config.lateness_hours
    return [at(24.0 * d) for d in range(1, int(last / 24) + 3)]


def arrivals(rows, cutoffs, lateness_us, delays):
    """The night each row lands: any from the first whose cut-off is past it, within lateness."""
    nights = []
    for row, delay in zip(rows, delays, strict=True):
        first = next(n for n, c in enumerate(cutoffs) if c > row["at"])
        last = next(n for n, c in enumerate(cutoffs) if c >= row["at"] + lateness_us)
        nights.append(first + delay % (max(last, first) - first + 1))
    return nights


def simulate(impressions, log, config, delays, again=False) -> list[OutcomeUpdate]:
    """Every night; engagements land in HISTORY, impressions in IMPRESSIONS, by their delay."""
    cutoffs = cutoffs_for(config)
    landed = arrivals(impressions, cutoffs, config.lateness_us, delays[: len(impressions)])
    known = arrivals(log, cutoffs, config.lateness_us, delays[len(delays) - len(log) :])
    update = OutcomeUpdate(
        OUTCOMES.empty(), OPEN.empty(), CLOSED_DRAWS.empty(), HISTORY.empty(), REJECTED.empty(), 0
    )
    updates = []
    for night, now in enumerate(cutoffs):
        events = [e for e, k in zip(log, known, strict=True) if k == night]
        rows = [i for i, n in zip(impressions, landed, strict=True) if n == night]
        if again:
            rows += [i for i, n in zip(impressions, landed, strict=True) if n == night - 1]
        tables = inputs(
            rows,
            pa.concat_tables([update.history, table(HISTORY, events)]),
            ALL_DRAWS,
            PAST,
            open=update.open,
            last_outcomes=update.outcomes,
        )
        before = update.open.num_rows + len(rows)
        update = attribute_outcomes(
            tables,
            config,
            ACTIONS,
            now=now,
            run_date=START + timedelta(days=night),
            parent_cutoff=cutoffs[night - 1] if night else None,
        )
        closed = len(set(update.outcomes["impression_id"].to_pylist()))
        kept = update.open.num_rows + update.rejected.num_rows + update.duplicates
        assert before == closed + kept
        updates.append(update)
    return updates


def all_rows(updates, name, *without):
    joined = pa.concat_tables([getattr(u, name) for u in updates]).drop_columns(list(without))
    return sorted(joined.to_pylist(), key=str)


@given(shown=shown_rows, done=done_rows, config=configs, data=st.data())
@settings(max_examples=40, deadline=None)
def test_arrival_within_lateness_does_not_matter(shown, done, config, data):
    impressions, log = made(shown, done)
    n = len(impressions) + len(log)
    delays = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    at_once, split = (simulate(impressions, log, config, d) for d in ([0] * n, delays))
    assert all_rows(split, "outcomes", "run_date") == all_rows(at_once, "outcomes", "run_date")
    assert all_rows(split, "rejected") == all_rows(at_once, "rejected")
    assert all_rows(split, "closed_draws") == all_rows(at_once, "closed_draws")

    cutoffs = cutoffs_for(config)
    refused = {r["row"] for r in all_rows(split, "rejected")}
    assert refused == {i["impression_id"] for i in impressions if draw_is_unknown(i)}
    for row in impressions:  # counted once, on the first night that reaches its horizon
        window = 0 if row["actions"] is not None else config.window_us
        horizon = row["at"] + window + config.lateness_us
        due = next(n for n, c in enumerate(cutoffs) if c >= horizon and c > row["at"])
        closed = [
            night
            for night, update in enumerate(split)
            for id_ in update.outcomes["impression_id"].to_pylist()
            if id_ == row["impression_id"]
        ]
        assert closed == ([] if row["impression_id"] in refused else [due])


@given(shown=shown_rows, config=configs)
@settings(max_examples=15, deadline=None)
def test_a_file_that_lands_twice_changes_nothing(shown, config):
    impressions, _ = made(shown, [])
    delays = [0] * len(impressions)
    once, twice = (simulate(impressions, [], config, delays, again=a) for a in (False, True))
    assert all_rows(once, "outcomes") == all_rows(twice, "outcomes")
    more = sum(u.duplicates + u.rejected.num_rows for u in twice)
    assert more == sum(u.rejected.num_rows for u in once) + len(impressions)


@given(shown=shown_rows, done=done_rows, flipped=done_rows)
@settings(max_examples=25, deadline=None)
def test_what_users_did_changes_neither_closing_nor_attribution(shown, done, flipped):
    results = []
    for log, swap in ((done, None), (flipped, ["hate"])):
        rows = [(*r[:4], r[4] if swap is None or r[4] is None else swap) for r in shown]
        impressions, events = made(rows, log)
        updates = simulate(impressions, events, CONFIG, [0] * (len(rows) + len(log)))
        results.append(updates)
    one, other = results
    assert all_rows(one, "outcomes", "value", "actions") == all_rows(
        other, "outcomes", "value", "actions"
    )
    assert all_rows(one, "closed_draws") == all_rows(other, "closed_draws")
