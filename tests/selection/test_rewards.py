from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.actions import Action
from profiling.decay import DAY_US
from profiling.schema import floats, ints
from selection.rewards import RewardConfig, RewardInputs, merge_rewards, tally_rewards
from selection.tables import CLOSED_DRAWS, OUTCOMES, REWARDS

ACTIONS = (Action("click"), Action("save", 2.0), Action("hide", -1.0, positive=False))
CONFIG = RewardConfig()
RANGE = (-1.0, 3.0)
T0 = 20_000 * DAY_US
SUMS = ("w", "wy", "w2", "w2y", "w2y2", "draw_w", "drawn_w")
seeds = st.integers(0, 2**32 - 1)


def outcomes(rows: list[dict[str, Any]]) -> pa.Table:
    full = {
        "draw_id": 0, "run_date": 20_001, "user_id": 1, "query_type": "item", "query_id": 7,
        "cluster_id": 0, "item_id": 5, "at": T0, "surface": "home", "arm": "", "policy": "",
        "position": 0, "examination": 1.0, "value": 0.0, "actions": 0, "credit": 1.0,
        "attribution": "logged", "propensity": None,
    }  # fmt: skip
    rows = [{"impression_id": i} | full | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist(rows, schema=OUTCOMES.arrow)


def closed(rows: list[dict[str, Any]]) -> pa.Table:
    full = {
        "user_id": 1, "surface": "home", "query_type": "item", "query_id": 7, "at": T0,
        "state": "brought", "propensity": 0.5, "policy": "", "arm": "",
    }  # fmt: skip
    rows = [{"draw_id": 1 + i} | full | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist(rows, schema=CLOSED_DRAWS.arrow)


def random_outcomes(rng: np.random.Generator, n: int) -> pa.Table:
    rows = [
        {
            "impression_id": int(i), "draw_id": int(rng.integers(0, 3)),
            "user_id": int(rng.integers(0, 4)), "surface": ["home", "related"][rng.integers(2)],
            "query_type": ["item", "topic", ""][rng.choice(3, p=[0.7, 0.2, 0.1])],
            "query_id": int(rng.integers(0, 3)), "at": T0 + int(rng.integers(0, 60 * DAY_US)),
            "examination": float(rng.random()), "credit": float(rng.choice([1.0, 0.5])),
            "value": float(rng.uniform(*RANGE)), "actions": int(rng.integers(0, 8)),
        }
        for i in rng.permutation(n)
    ]  # fmt: skip
    for row in rows:
        row["query_id"] = row["query_id"] if row["query_type"] else None
    return outcomes(rows)


def random_draws(rng: np.random.Generator, n: int) -> pa.Table:
    return closed(
        [
            {
                "user_id": int(rng.integers(0, 4)), "query_id": int(rng.integers(0, 4)),
                "at": T0 + int(rng.integers(0, 60)) * DAY_US,
                "state": ["brought", "empty", "unserved"][rng.integers(3)],
            }
            for _ in range(n)
        ]
    )  # fmt: skip


def tally(
    new: pa.Table,
    draws: pa.Table | None = None,
    last: pa.Table | None = None,
    parent_cutoff: int | None = None,
) -> pa.Table:
    inputs = RewardInputs(
        new,
        CLOSED_DRAWS.empty() if draws is None else draws,
        REWARDS.empty() if last is None else last,
    )
    return tally_rewards(inputs, CONFIG, ACTIONS, value_range=RANGE, parent_cutoff=parent_cutoff)


def slow_tally(new: pa.Table, draws: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The definition, event by event."""
    events: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for o, at in zip(new.to_pylist(), ints(new, "at"), strict=True):
        if o["query_type"]:
            key = (o["user_id"], o["surface"], o["query_type"], o["query_id"])
            events[key].append((int(at), o))
    for d, at in zip(draws.to_pylist(), ints(draws, "at"), strict=True):
        if d["state"] != "unserved":
            key = (d["user_id"], d["surface"], d["query_type"], d["query_id"])
            events[key].append((int(at), d))
    tallies = {}
    for key, rows in events.items():
        as_of = max(at for at, _ in rows)
        row: dict[str, Any] = dict.fromkeys(SUMS, 0.0) | {"as_of": as_of, "last_at": None}
        row |= {"impressions": 0, "draws": 0, "empty_draws": 0, "action_counts": [0] * 3}
        for at, e in rows:
            decay = 2.0 ** (-(as_of - at) / DAY_US / CONFIG.half_life_days)
            if "state" in e:
                row["draws"] += 1
                row["empty_draws"] += e["state"] == "empty"
                row["draw_w"] += decay
                continue
            x = e["examination"] * e["credit"] * decay
            y = (e["value"] - RANGE[0]) / (RANGE[1] - RANGE[0])
            row["w"], row["wy"] = row["w"] + x, row["wy"] + x * y
            row["w2"], row["w2y"] = row["w2"] + x * x, row["w2y"] + x * x * y
            row["w2y2"] += x * x * y * y
            row["drawn_w"] += x if e["draw_id"] else 0.0
            row["impressions"] += 1
            row["last_at"] = max(at, row["last_at"] or at)
            for a in range(3):
                row["action_counts"][a] += (e["actions"] >> a) & 1
        tallies[key] = row
    return tallies


def assert_close(a: pa.Table, b: pa.Table) -> None:
    exact = [c for c in REWARDS.names if c not in SUMS]
    assert a.select(exact).to_pylist() == b.select(exact).to_pylist()
    for s in SUMS:
        np.testing.assert_allclose(floats(a, s), floats(b, s), rtol=1e-9, atol=1e-12, err_msg=s)


def halves(table: pa.Table, rng: np.random.Generator, n: int) -> list[pa.Table]:
    part = rng.integers(0, n, table.num_rows)
    return [table.filter(pa.array(part == i)) for i in range(n)]


def test_by_hand() -> None:
    new = outcomes(
        [
            {"at": T0, "value": 3.0, "examination": 0.5, "actions": 0b011, "draw_id": 9},
            {"at": T0 + 30 * DAY_US, "value": 1.0, "credit": 0.25, "actions": 0b101},
        ]
    )
    draws = closed([{"at": T0 + 60 * DAY_US, "state": "empty"}, {"at": T0 + 30 * DAY_US}])
    (row,) = tally(new, draws).to_pylist()
    first, second = 0.5 / 4, 0.25 / 2  # two and one half-lives before the last draw
    assert row["w"] == pytest.approx(first + second, rel=1e-12)
    assert row["wy"] == pytest.approx(first * 1.0 + second * 0.5, rel=1e-12)
    assert row["w2"] == pytest.approx(first**2 + second**2, rel=1e-12)
    assert row["w2y"] == pytest.approx(first**2 + second**2 * 0.5, rel=1e-12)
    assert row["w2y2"] == pytest.approx(first**2 + second**2 * 0.5**2, rel=1e-12)
    assert row["draw_w"] == pytest.approx(1 + 1 / 2, rel=1e-12)
    assert row["drawn_w"] == pytest.approx(first, rel=1e-12)
    assert (row["impressions"], row["draws"], row["empty_draws"]) == (2, 2, 1)
    assert row["action_counts"] == [2, 1, 1]
    assert row["last_at"].timestamp() == (T0 + 30 * DAY_US) / 1e6
    assert row["as_of"].timestamp() == (T0 + 60 * DAY_US) / 1e6


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(0, 120))
def test_equals_the_slow_twin(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    new, draws = random_outcomes(rng, n), random_draws(rng, n // 4)
    slow = slow_tally(new, draws)
    got = tally(new, draws)
    keys = list(zip(*(got[c].to_pylist() for c in REWARDS.key), strict=True))
    assert keys == sorted(slow)
    for i, key in enumerate(keys):
        for s in SUMS:
            assert floats(got, s)[i] == pytest.approx(slow[key][s], rel=1e-12, abs=1e-15)
        for c in ("impressions", "draws", "empty_draws", "action_counts"):
            assert got[c][i].as_py() == slow[key][c]
        assert got["as_of"].cast(pa.int64())[i].as_py() == slow[key]["as_of"]
        assert got["last_at"].cast(pa.int64())[i].as_py() == slow[key]["last_at"]


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_order_of_rows_and_other_users_change_no_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, draws, last = (
        random_outcomes(rng, 90),
        random_draws(rng, 20),
        tally(random_outcomes(rng, 60)),
    )
    whole = tally(new, draws, last)
    assert whole.equals(tally(*(t.take(rng.permutation(t.num_rows)) for t in (new, draws, last))))
    for user in range(4):
        own = [t.filter(pa.array(ints(t, "user_id") == user)) for t in (new, draws, last, whole)]
        assert tally(*own[:3]).equals(own[3])


@settings(max_examples=15, deadline=None)
@given(seed=seeds, nights=st.integers(1, 5))
def test_night_by_night_equals_all_at_once(seed: int, nights: int) -> None:
    rng = np.random.default_rng(seed)
    new, draws = random_outcomes(rng, 120), random_draws(rng, 30)
    rewards = REWARDS.empty()
    for part, closing in zip(halves(new, rng, nights), halves(draws, rng, nights), strict=True):
        rewards = tally(part, closing, rewards)
    assert_close(rewards, tally(new, draws))


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_merge_three_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, draws = random_outcomes(rng, 40), random_draws(rng, 10)
    once = tally(new, draws)
    singles = [tally(new.slice(i, 1)) for i in range(40)] + [tally(new[:0], draws)]
    total = REWARDS.empty()
    for single in singles:
        total = merge_rewards(total, single, CONFIG)
    assert_close(total, once)
    a, b, c = (tally(part) for part in halves(new, rng, 3))
    left = merge_rewards(merge_rewards(a, b, CONFIG), c, CONFIG)
    assert_close(left, merge_rewards(a, merge_rewards(b, c, CONFIG), CONFIG))
    assert_close(left, merge_rewards(c, merge_rewards(b, a, CONFIG), CONFIG))
    assert merge_rewards(left, REWARDS.empty(), CONFIG).equals(left)


def test_empty_in_empty_out() -> None:
    assert tally(OUTCOMES.empty()).equals(REWARDS.empty())
    assert merge_rewards(REWARDS.empty(), REWARDS.empty(), CONFIG).num_rows == 0


def test_untouched_rows_stay_as_they_are() -> None:
    last = tally(random_outcomes(np.random.default_rng(5), 80))
    assert tally(OUTCOMES.empty(), None, last, T0 + 60 * DAY_US).equals(last)


def test_unattributed_outcomes_and_unserved_draws_enter_nothing() -> None:
    new = outcomes([{"query_type": "", "query_id": None, "cluster_id": None}])
    assert tally(new, closed([{"state": "unserved"}])).num_rows == 0


def test_a_draw_that_brought_nothing_leaves_no_impression() -> None:
    (row,) = tally(OUTCOMES.empty(), closed([{"state": "empty"}])).to_pylist()
    assert (row["w"], row["draw_w"], row["impressions"], row["last_at"]) == (0.0, 1.0, 0, None)


def test_pruned_below_the_threshold_at_the_parent_cutoff() -> None:
    last = tally(outcomes([{"examination": 0.5}]))
    half_lives = np.log2(0.5 / CONFIG.prune_below)
    at_the_edge = T0 + int(half_lives * CONFIG.half_life_days * DAY_US)
    assert tally(OUTCOMES.empty(), None, last, at_the_edge - 1).num_rows == 1
    assert tally(OUTCOMES.empty(), None, last, at_the_edge + DAY_US).num_rows == 0
    assert tally(OUTCOMES.empty(), None, last, None).num_rows == 1
    drawn = tally(outcomes([{"examination": 1e-9}]), closed([{}]))  # its draws keep it
    assert tally(OUTCOMES.empty(), None, drawn, T0 + DAY_US).num_rows == 1


def test_a_pruned_row_is_forgotten_before_new_ones_are_added() -> None:
    last = tally(outcomes([{"value": 3.0}]))
    new = outcomes([{"at": T0 + 1000 * DAY_US}])
    (row,) = tally(new, None, last, T0 + 999 * DAY_US).to_pylist()
    assert (row["impressions"], row["w"], row["wy"]) == (1, 1.0, 0.25)


def test_actions_may_be_appended() -> None:
    last = tally(outcomes([{"actions": 0b111}]))
    inputs = RewardInputs(outcomes([{"actions": 0b1010}]), CLOSED_DRAWS.empty(), last)
    more = (*ACTIONS, Action("share"))
    got = tally_rewards(inputs, CONFIG, more, value_range=RANGE, parent_cutoff=None)
    assert got["action_counts"].to_pylist() == [[1, 2, 1, 1]]


def test_values_outside_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside value_range \(-1, 3\)"):
        tally(outcomes([{"value": 3.5}]))
    with pytest.raises(ValueError, match="value_range must rise"):
        tally_rewards(
            RewardInputs(OUTCOMES.empty(), CLOSED_DRAWS.empty(), REWARDS.empty()),
            CONFIG,
            ACTIONS,
            value_range=(1.0, 1.0),
            parent_cutoff=None,
        )


def test_config_names_the_field() -> None:
    with pytest.raises(ValueError, match=r"half_life_days must be >= 0\.01, got 0"):
        RewardConfig(half_life_days=0)
