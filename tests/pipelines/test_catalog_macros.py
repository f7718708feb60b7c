"""The macros for analysts, over warehouses whose answers are known by hand."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest

from pipelines.catalog.views import query, query_rows
from pipelines.store.tables import write_table
from pipelines.store.warehouse import Warehouse
from tests.pipelines.test_catalog import (
    CONFIG,
    D1,
    D2,
    D3,
    NIGHTS,
    draw,
    end_of,
    interest,
    make,
    night,
    outcome,
    rows,
    standing,
)
from tests.pipelines.test_recipes import make_world


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    warehouse = make(str(tmp_path_factory.mktemp("macros") / "w"))

    def ask(sql: str, date: dt.date = D3) -> list[dict]:
        return json.loads(query(warehouse, sql, warehouse.night(date), format="json"))

    return ask


def test_lineage_looks_back_and_ahead(ask):
    def seen(cluster: int) -> list[tuple]:
        found = ask(f"FROM lineage(7, {cluster})")
        return [(r["run_date"][-1], r["relation"], r["steps"], r["cluster_id"]) for r in found]

    # 1 was split on the second night, into 1 and 3; on the third it took 2 in.
    assert seen(1) == [
        *(("1", "itself", 0, 1), ("1", "ancestor", 1, 2)),
        *(("2", "itself", 0, 1), ("2", "ancestor", 1, 2), ("2", "descendant", 1, 3)),
        *(("3", "itself", 0, 1), ("3", "descendant", 1, 3)),
    ]
    assert seen(3) == [("1", "ancestor", 1, 1), ("2", "itself", 0, 3), ("3", "itself", 0, 3)]
    assert seen(99) == []
    last = next(r for r in ask("FROM lineage(7, 1)") if r["run_date"] == "2024-01-03")
    assert (last["new_items"], last["lost_items"], last["title"]) == (1, 0, "Tart")


def test_starved_counts_the_nights_since_the_last_chance(ask):
    found = {(r["user_id"], r["cluster_id"]): r for r in ask("FROM starved(0)")}
    waiting = {key: (r["nights_waiting"], r["last_chance"]) for key, r in found.items()}
    assert waiting == {
        (7, 1): (2, "2024-01-02"),  # the day that the first night's draw was for
        (7, 3): (1, "2024-01-03"),  # the second night's draw has not closed
        (8, 1): (3, None),
    }
    assert [(r["user_id"], r["title"]) for r in ask("FROM starved(3)")] == [(8, "Chair")]
    assert ask("FROM starved(4)") == []


def test_calibration_sets_what_came_beside_what_was_predicted(ask):
    (row,) = ask("FROM calibration(1)")
    assert (row["draws"], row["users"], row["impressions"]) == (1, 1, 2)
    assert (row["predicted"], row["came"]) == (0.2, 0.0)
    assert row["low"] is None  # one user has no spread


def test_propensity_check_finds_what_cannot_be(ask, tmp_path):
    held = {r["what"]: r["holds"] for r in ask("FROM propensity_check('2024-01-01')")}
    # Of the lower half of the rewards nothing was drawn, which says nothing.
    assert held.pop("interests of reward quarter 1") is None
    assert set(held.values()) == {True}
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    wrong = [
        draw(D1, 7, 1, 10, 101, 0.5) | {"set_probability": 0.7},
        draw(D1, 7, 2, 12, 101, 0.0) | {"set_probability": 0.7, "slot": 3},
    ]
    files = {
        name: write_table(warehouse.root, name, rows(name, *given), "one")
        for name, given in (NIGHTS[D1] | {"QUERIES": wrong}).items()
    }
    warehouse.publish(night(warehouse, D1, None, files), None)
    sql = "SELECT what, found FROM propensity_check('2024-01-01') WHERE NOT holds ORDER BY what"
    found = json.loads(query(warehouse, sql, warehouse.head(), format="json"))
    told = {r["what"]: r["found"] for r in found if not r["what"].startswith("interests")}
    assert told == {
        "draw ids that two draws have": 1,
        "draws with a propensity outside (0, 1]": 1,
        "sets more probable than one of their members": 1,
        "sets with several probabilities, or slots that are not 0, 1, ...": 1,
    }


def test_one_impression_and_names(ask):
    (row,) = ask("FROM impression_story(1)")
    assert (row["query_title"], row["drawn_on"], row["reward_then"]) == ("Tart", "2024-01-01", 0.2)
    assert row["actions"] == ["long_view", "like"]
    assert ask("SELECT name_of('user', 7) AS name") == [{"name": "ann's"}]
    assert ask("SELECT name_of('user', 9) AS name") == [{"name": None}]
    assert ask("FROM feed_of(7)") == []


def test_an_action_that_is_none_is_named(ask):
    with pytest.raises(ValueError, match="no action buy; the table actions lists them"):
        ask("FROM arm_lift('buy')")
    (row,) = ask("SELECT * FROM item_rates('it''s \"hate\"')")
    assert (row["impressions"], row["rate"]) == (2, 0.5)


@pytest.fixture(scope="module")
def arms(tmp_path_factory) -> Warehouse:
    """A night on which 60 users in two arms saw 1 to 8 items each."""
    warehouse = Warehouse.create(str(tmp_path_factory.mktemp("arms") / "w"), "")
    rng, shown = np.random.default_rng(3), []
    for user in range(60):
        arm, taste = ("b", "a")[user % 2], rng.beta(2, 3)
        for _ in range(rng.integers(1, 9)):
            liked = rng.random() < taste
            more = {"user_id": user, "arm": arm, "credit": 0.5 + 0.5 * (user % 3 == 0)}
            shown.append(outcome(D2, len(shown), 1 + user, float(liked), int(liked)) | more)
    tables = {
        "OUTCOMES": shown,
        "PROFILES": [interest(7, 1, [10])],
        "CLUSTER_REWARDS": [standing(7, 1, 10)],
        "OPEN": [],
    }
    files = {
        name: write_table(warehouse.root, name, rows(name, *given), "one")
        for name, given in tables.items()
        if given
    }
    experiment = {"name": "x", "arms": [{"name": "b", "share": 0.5}, {"name": "a", "share": 0.5}]}
    made = night(warehouse, D2, None, files)
    made = type(made)(**(vars(made) | {"config": CONFIG | {"experiment": experiment}}))
    warehouse.publish(made, None)
    return warehouse


def test_arm_lift_compares_with_the_first_arm_of_the_configuration(arms):
    found = json.loads(query(arms, "FROM arm_lift('long_view')", arms.head(), format="json"))
    first, other = found
    assert (first["arm"], other["arm"], first["lift"]) == ("b", "a", None)
    assert first["users"] == other["users"] == 30
    assert other["difference"] == pytest.approx(other["rate"] - first["rate"])
    assert other["lift"] == pytest.approx(other["rate"] / first["rate"] - 1)
    assert first["impressions"] + other["impressions"] == arms.read("OUTCOMES").num_rows


def test_intervals_of_arms_are_those_that_resampling_users_gives(arms):
    found = json.loads(query(arms, "FROM arm_lift('value')", arms.head(), format="json"))
    outcomes = arms.read("OUTCOMES").to_pylist()
    rng, resampled = np.random.default_rng(0), {}
    for arm in ("b", "a"):
        users = sorted({o["user_id"] for o in outcomes if o["arm"] == arm})
        own = {u: [o for o in outcomes if o["user_id"] == u] for u in users}
        credit = np.array([sum(o["credit"] for o in own[u]) for u in users])
        worth = np.array([sum(o["credit"] * o["value"] for o in own[u]) for u in users])
        drawn = rng.integers(0, len(users), (4000, len(users)))
        resampled[arm] = worth[drawn].sum(1) / credit[drawn].sum(1)
    for row in found:
        half = (row["high"] - row["low"]) / 2
        assert half == pytest.approx(1.96 * resampled[row["arm"]].std(), rel=0.1)
    lifts = resampled["a"] / resampled["b"] - 1
    half = (found[1]["lift_high"] - found[1]["lift_low"]) / 2
    assert half == pytest.approx(1.96 * lifts.std(), rel=0.15)


def test_draws_per_request_are_calibrated_like_the_nights(tmp_path):
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    served = {
        "draw_id": 900, "user_id": 7, "surface": "home", "cluster_id": 1, "query_type": "item",
        "query_id": 10, "state_version": "2024-01-01/1", "at": end_of(D1) + 1, "request_id": "r",
    }  # fmt: skip
    shown = outcome(D2, 5, 900, 1.0, 1)
    parent = None
    for date, tables in {
        D1: {"CLUSTER_REWARDS": NIGHTS[D1]["CLUSTER_REWARDS"], "OPEN": NIGHTS[D1]["OPEN"]},
        D2: {"OUTCOMES": [shown], "SERVED_DRAWS": [served], "OPEN": NIGHTS[D2]["OPEN"]},
    }.items():
        files = {
            name: write_table(warehouse.root, name, rows(name, *given), str(date))
            for name, given in tables.items()
        }
        made = night(warehouse, date, parent, files)
        parent = warehouse.publish(made, parent and parent.number)
    (row,) = json.loads(query(warehouse, "FROM calibration(1)", warehouse.head(), format="json"))
    assert (row["draws"], row["predicted"], row["came"]) == (1, 0.2, 1.0)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Warehouse:
    """Five real nights of forty users."""
    return make_world(tmp_path_factory.mktemp("served") / "w")


def test_draws_carry_what_was_thought_of_their_interests(served):
    asked = """
        SELECT count(*) AS draws, count(*) FILTER (q.reward = c.reward) AS rewards,
               count(*) FILTER (q.prior_source = c.prior_source) AS sources
        FROM QUERIES AS q
        LEFT JOIN CLUSTER_REWARDS_ALL AS c USING (run_date, user_id, surface, cluster_id)"""
    (row,) = query_rows(served, asked, served.head()).to_pylist()
    assert row["draws"] == row["rewards"] == row["sources"] > 100


def test_who_is_starved_is_what_the_tables_say_row_by_row(served):
    """The definition, from OUTCOMES, CLOSED_DRAWS and QUERIES of all nights and their members."""
    nights = [m for m in served.chain(served.head()) if m.kind != "bootstrap"]
    last = nights[-1]
    day = dt.timedelta(days=1)

    def every(name: str) -> list[dict]:
        return [row for m in nights for row in served.read(name, m).to_pylist()]

    chances: dict[tuple, list[dt.date]] = {}  # by user, surface and query
    for o in every("OUTCOMES"):
        if o["query_id"] is not None:
            key = o["user_id"], o["surface"], o["query_id"]
            chances.setdefault(key, []).append(o["at"].date())
    closed = every("CLOSED_DRAWS")
    for d in closed:
        if d["state"] != "unserved":
            key = d["user_id"], d["surface"], d["query_id"]
            chances.setdefault(key, []).append((d["at"] - day).date())
    ended = {d["draw_id"] for d in closed}
    open_draws: dict[tuple, list[dt.date]] = {}  # by user, surface and interest
    for q in every("QUERIES"):
        if q["draw_id"] not in ended:
            key = q["user_id"], q["surface"], q["cluster_id"]
            open_draws.setdefault(key, []).append(q["serve_date"])
    profiles = {(p["user_id"], p["cluster_id"]): p for p in served.read("PROFILES").to_pylist()}
    slow = {}
    for c in served.read("CLUSTER_REWARDS", last).to_pylist():
        key = c["user_id"], c["surface"], c["cluster_id"]
        profile = profiles[c["user_id"], c["cluster_id"]]
        days = list(open_draws.get(key, []))
        for item in profile["item_ids"]:
            days += chances.get((c["user_id"], c["surface"], item), [])
        latest = max(days, default=None)
        since = latest or profile["first_at"].date()
        slow[key] = sum(m.date >= since for m in nights), latest
    found = query_rows(served, "FROM starved(0)", served.head()).to_pylist()
    keys = ("user_id", "surface", "cluster_id")
    assert slow == {
        tuple(r[k] for k in keys): (r["nights_waiting"], r["last_chance"]) for r in found
    }
    assert len({waits for waits, _ in slow.values()}) > 2
    never = query_rows(served, "FROM never_had_a_chance", served.head()).to_pylist()
    assert {tuple(r[k] for k in keys) for r in never} == {
        k for k, (_, at) in slow.items() if not at
    }


def publish(warehouse: Warehouse, nights: dict[dt.date, dict], **more: object) -> None:
    """Publish nights of these rows; `more` is of their configuration's outcomes."""
    parent = None
    for date, tables in nights.items():
        files = {
            name: write_table(warehouse.root, name, rows(name, *given), str(date))
            for name, given in tables.items()
            if given
        }
        made = night(warehouse, date, parent, files)
        config = CONFIG | {"outcomes": CONFIG["outcomes"] | more}
        made = type(made)(**(vars(made) | {"config": config}))
        parent = warehouse.publish(made, parent and parent.number)


def test_a_replay_that_changes_what_rewards_lean_on_loses_no_draw(tmp_path):
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    drawn = draw(D1, 7, 1, 10, 101, 0.5) | {"reward": 0.2, "prior_source": "global average"}
    tables = {"CLUSTER_REWARDS": [standing(7, 1, 10)], "QUERIES": [drawn], "OPEN": []}
    publish(warehouse, {D1: tables})
    asked = "SELECT prior_source, clusters, draws, share_of_draws FROM average_weight ORDER BY ALL"
    assert query_rows(warehouse, asked, warehouse.head()).to_pylist() == [
        {"prior_source": "global average", "clusters": 0, "draws": 1, "share_of_draws": 1.0},
        {"prior_source": "user average", "clusters": 1, "draws": 0, "share_of_draws": 0.0},
    ]


@pytest.mark.parametrize(
    ("hours", "first_open"), [(0, D2), (1, D1), (24, D1), (25, D1 - dt.timedelta(1))]
)
def test_draws_are_open_until_their_horizon_has_ended(tmp_path, hours, first_open):
    """A draw of the night D closes by the cut-off of D + 1 + the horizon; the last night is D2."""
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    night_of = {"CLUSTER_REWARDS": NIGHTS[D2]["CLUSTER_REWARDS"], "OPEN": []}
    publish(warehouse, {D1: night_of, D2: night_of}, window_hours=float(hours))
    (row,) = query_rows(warehouse, "SELECT first_open FROM settings", warehouse.head()).to_pylist()
    assert row["first_open"] == first_open


def test_open_draws_per_request_are_chances_of_their_day(tmp_path):
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    per_request = {
        "user_id": 7, "surface": "home", "query_type": "item", "request_id": "r",
        "state_version": "2024-01-01/1",
    }  # fmt: skip
    served = [  # on the night D3, with 24 hours, what was drawn on the day D2 has closed
        per_request | {"draw_id": 901, "cluster_id": 1, "query_id": 10, "at": end_of(D3) - 1},
        per_request | {"draw_id": 902, "cluster_id": 3, "query_id": 11, "at": end_of(D2) - 1},
    ]
    last = {name: NIGHTS[D3][name] for name in ("PROFILES", "OPEN")}
    last |= {
        "CLUSTER_REWARDS": [standing(7, 1, 10), standing(7, 3, 11)],
        "SERVED_DRAWS": served,
    }
    publish(warehouse, {D3: last})
    found = query_rows(warehouse, "FROM starved(0)", warehouse.head()).to_pylist()
    assert {r["cluster_id"]: (r["nights_waiting"], r["last_chance"]) for r in found} == {
        1: (1, D3),
        3: (1, None),  # since before the first night
    }
    never = query_rows(warehouse, "FROM never_had_a_chance", warehouse.head()).to_pylist()
    assert [r["cluster_id"] for r in never] == [3]


def test_what_was_shown_without_weight_had_a_chance(tmp_path):
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    shown = standing(7, 1, 10, last_chance=D1)  # weight 0: an examination of 0
    old = standing(7, 3, 11, weight=2.0)  # written before chances were
    publish(warehouse, {D3: NIGHTS[D3] | {"CLUSTER_REWARDS": [shown, old], "QUERIES": []}})
    assert query_rows(warehouse, "FROM never_had_a_chance", warehouse.head()).num_rows == 0
    (row,) = query_rows(warehouse, "FROM starved(0)", warehouse.head()).to_pylist()
    assert (row["cluster_id"], row["last_chance"]) == (1, D1)
