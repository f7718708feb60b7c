"""Closed-loop replay: against the night itself, by hand, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import NightConfig, render_config
from pipelines.lab.loop import ACTION, day_of, loop_config
from pipelines.lab.policies import policy_named
from pipelines.lab.replay import ORACLE, Replayed, ReplayOptions, neighbours_of, replay
from pipelines.lab.replay_measures import concentration, policy_rows, summarise
from pipelines.lab.universe import Asked, Universe
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.plan import cutoff_of
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US
from profiling.hashing import hash63, uniforms
from profiling.history import ProfileConfig
from profiling.items import Items
from profiling.schema import ints, sort_rows
from profiling.tables import ENGAGEMENTS, ITEMS
from selection.tables import IMPRESSIONS, QUERIES

N_ITEMS, N_USERS, WIDTH = 60, 12, 4
CONFIG = NightConfig(profiles=ProfileConfig(alpha=0.6))
OPTIONS = ReplayOptions(("counts", "evidence"), nights=3, queries=2, per_query=2, seeds=1)


def items_table() -> pa.Table:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(N_ITEMS, WIDTH)).astype(np.float32)
    return ITEMS.of_width(WIDTH).build(
        {
            "item_id": np.arange(N_ITEMS),
            "embedding": pa.array(list(vectors), pa.list_(pa.float32(), WIDTH)),
            "embedding_version": ["v1"] * N_ITEMS,
            "topics": pa.array([[]] * N_ITEMS, ITEMS.arrow.field("topics").type),
            "created_at": pa.nulls(N_ITEMS, pa.timestamp("us", "UTC")),
            "labels": pa.array([[]] * N_ITEMS, ITEMS.arrow.field("labels").type),
            "title": pa.nulls(N_ITEMS, pa.string()),
        }
    )


def known_table(users: int = N_USERS) -> pa.Table:
    """Every user's 30 items, about half of them liked."""
    user, nth = np.repeat(np.arange(users), 30), np.tile(np.arange(30), users)
    item = (nth * 2 + user % 2) % N_ITEMS
    liked = uniforms("replay test", user, item) < 0.5
    return pa.table({"user_id": user, "item_id": item, "value": liked.astype(float)})


def start_table(known: pa.Table, n: int = 6) -> pa.Table:
    first = np.arange(known.num_rows) % 30 < n
    return known.filter(pa.array(first)).select(["user_id", "item_id"])


@pytest.fixture(scope="module")
def universe() -> Universe:
    known = known_table()
    return Universe.of(Items.from_table(items_table()), known, start_table(known))


def run(universe: Universe, policy: str, seed: int = 0, **options: Any) -> Replayed:
    around = neighbours_of(universe.items, CONFIG.evidence.neighbours)
    selection = None if policy == ORACLE else policy_named(policy).selection
    how = replace(OPTIONS, **options)
    return replay(universe, around, policy, selection, CONFIG, how, seed=seed)


# Against the night


def world_tables(universe: Universe, places: np.ndarray, draws: Any, night: int) -> dict[str, Any]:
    """What a world lands for the known outcomes `places`, shown in this order on day `night`."""
    users = universe.user_ids[universe.users_of[places]]
    items = universe.items.ids[universe.known.rows[places]]
    liked = universe.known.values[places] > 0.5
    first = np.searchsorted(users, users)
    at = cutoff_of(day_of(night)) - DAY_US // 2 + 1_000_000 * (np.arange(len(users)) - first)
    n, ids = len(users), hash63("i", users, items)
    impressions = IMPRESSIONS.build(
        {
            "impression_id": ids, "user_id": users, "item_id": items, "at": at,
            "surface": ["home"] * n, "request_id": pa.nulls(n, pa.string()),
            "position": np.arange(n) - first, "draw_id": draws,
            "actions": pa.array([[ACTION] if x else [] for x in liked], pa.list_(pa.string())),
            "content_digest": ids,
        }
    )  # fmt: skip
    k = int(liked.sum())
    engagements = ENGAGEMENTS.build(
        {
            "event_id": hash63("e", users[liked], items[liked]), "user_id": users[liked],
            "item_id": items[liked], "action": [ACTION] * k, "at": at[liked],
            "impression_id": pa.nulls(k, pa.int64()), "synthetic": np.zeros(k, bool),
            "content_digest": ids[liked],
        }
    )  # fmt: skip
    return {"IMPRESSIONS": impressions, "ENGAGEMENTS": engagements}


def test_with_the_policy_that_made_a_log_the_logs_choices_come_back(
    universe: Universe, tmp_path: Path
) -> None:
    """Nights on Beam, served by a world that shows what the queries bring, are what is replayed."""
    selection = replace(policy_named("evidence").selection, queries=OPTIONS.queries)
    config = loop_config(CONFIG, selection, seed=5)
    warehouse = Warehouse.create(str(tmp_path / "w"), render_config(config), buckets=1)
    land(warehouse, {"ITEMS": items_table()}, source="items")
    seen, replayed = universe.start.copy(), run(universe, "evidence", seed=5)
    places, draws = np.flatnonzero(seen), pa.nulls(int(seen.sum()), pa.int64())
    for night in range(2):
        land(warehouse, world_tables(universe, places, draws, night), source=f"day {night}")
        made = run_night(warehouse, day_of(night), RunOptions(until="queries", progress=False))
        served = sort_rows(warehouse.read("QUERIES", made), QUERIES.key)
        theirs = replayed.queries.filter(
            pa.array(ints(replayed.queries, "run_date") == ints(served, "run_date")[0])
        )
        assert served.num_rows > N_USERS
        for name in served.column_names:
            assert served[name].to_pylist() == theirs[name].to_pylist(), (night, name)
        bounds = np.searchsorted(ints(served, "user_id"), np.arange(N_USERS + 1))
        asked = Asked(bounds, universe.items.rows_of(ints(served, "query_id")))
        brought = universe.bring(seen, asked, OPTIONS.per_query)
        rows, _ = np.nonzero(brought >= 0)
        places = brought[brought >= 0]
        draws = served["draw_id"].take(pa.array(rows))
        seen[places] = True
        assert replayed.shown[night].sum() == len(places)


def test_seeds_change_the_draws_and_nothing_else(universe: Universe) -> None:
    one, again, other = (run(universe, "counts", seed) for seed in (1, 1, 2))
    assert one.queries.equals(again.queries)
    assert (one.values == again.values).all()
    first = [q.filter(pa.array(ints(q, "run_date") == 19723)) for q in (one.queries, other.queries)]
    assert {len(set(q["draw_id"].to_pylist())) for q in first} == {first[0].num_rows}
    assert first[0]["draw_id"].to_pylist() != first[1]["draw_id"].to_pylist()
    assert first[0]["cluster_id"].to_pylist() != first[1]["cluster_id"].to_pylist()
    for q, p in zip(*(rows.to_pylist() for rows in first), strict=True):  # the chances are the same
        if (q["user_id"], q["cluster_id"]) == (p["user_id"], p["cluster_id"]):
            assert (q["weight"], q["propensity"]) == (p["weight"], p["propensity"])
    assert (run(universe, "oracle", 1).values == run(universe, "oracle", 2).values).all()


# By hand

LINE = [[1.0, 0.0], [0.96, 0.28], [0.8, 0.6], [0.6, 0.8], [0.28, 0.96], [0.0, 1.0]]


def line_universe() -> Universe:
    """Six items on a quarter circle; users 1 to 3 began at one end, at both, and with a dislike."""
    rows = [(1, i, v) for i, v in enumerate([1, 0, 1, 1, 0, 0])]
    rows += [(2, i, v) for i, v in enumerate([1, 1, 0, 0, 0, 1])]
    rows += [(3, 0, 0.0), (3, 1, 1.0)]
    known = pa.table(
        {
            n: [float(r[k]) if k == 2 else r[k] for r in rows]
            for k, n in enumerate(("user_id", "item_id", "value"))
        }
    )
    start = pa.table({"user_id": [1, 2, 2, 3], "item_id": [0, 0, 5, 0]})
    n = len(LINE)
    items = Items(
        np.arange(n), np.array(LINE, np.float32), "v", np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(n, np.int64),
    )  # fmt: skip
    return Universe.of(items, known, start)


def test_three_users_and_two_nights_by_hand() -> None:
    # User 1 likes item 0 alone, so item 0 asks: it brings 1, a dislike, then 2. User 2 likes 0 and
    # 5 and has both asked, every night: they bring 1 and 4, then, item 1 being liked too, item 1
    # or 0 brings 2 and 5 brings 3. User 3 disliked all there was: nothing can be asked.
    got = run(line_universe(), "counts", nights=2, queries=2, per_query=1)
    assert got.shown.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert got.values.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert got.exposures.tolist() == [0, 2, 2, 1, 1, 0]
    assert got.draws.tolist() == [3, 3]
    assert got.idle.tolist() == [1, 1]
    assert got.dry.tolist() == [0, 0]
    assert got.empty.tolist() == [0, 0]


def test_who_has_seen_everything_stops_and_is_counted() -> None:
    got = run(line_universe(), "counts", nights=5, queries=2, per_query=2)
    assert got.shown.sum(axis=0).tolist() == [5, 4, 0]
    assert got.dry.tolist()[:2] == [0, 1]  # user 2 had four left, user 1 five
    assert got.dry[-1] == 2
    assert got.idle.tolist() == [1] * 5
    assert got.draws[-1] == 0


def test_what_queries_bring_equals_brute_force(universe: Universe) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, N_USERS)
    asked = Asked(np.r_[0, np.cumsum(counts)], rng.integers(0, N_ITEMS, counts.sum()))
    got = universe.bring(universe.start, asked, 5)
    for user in range(N_USERS):
        own = np.arange(universe.known.bounds[user], universe.known.bounds[user + 1])
        left = [p for p in own if not universe.start[p]]
        for d in range(asked.bounds[user], asked.bounds[user + 1]):
            query = universe.items.vectors[asked.rows[d]].astype(float)
            near = {
                p: round(float(query @ universe.items.vectors[universe.known.rows[p]]), 6)
                for p in left
            }
            want = sorted(left, key=lambda p: (-near[p], p))[:5]
            assert got[d].tolist() == want + [-1] * (5 - len(want))
            left = [p for p in left if p not in want]


def test_the_oracle_takes_the_best_query_of_all_each_time(universe: Universe) -> None:
    clusters = Asked(np.arange(N_USERS + 1) * 5, np.arange(N_USERS * 5) % N_ITEMS)
    best = universe.best_queries(universe.start, clusters, 1, 2)[:, 0]
    for user in range(N_USERS):
        worth = []
        for c in range(5 * user, 5 * user + 5):
            bounds = np.r_[np.zeros(user + 1, np.int64), np.ones(N_USERS - user, np.int64)]
            places = universe.bring(universe.start, Asked(bounds, clusters.rows[c : c + 1]), 2)[0]
            worth.append(universe.known.values[places[places >= 0]].sum())
        assert best[user] == 5 * user + int(np.argmax(worth))


# Measures


def made_run(policy: str, values: list[float], seed: int = 0) -> Replayed:
    one, n = np.ones(1, np.int64), len(values)
    return Replayed(
        policy, seed, np.array([values]), np.full((1, n), 2), np.array([n, n]), one, one, one, one,
        pa.table({}),
    )  # fmt: skip


def test_uplift_is_paired_over_users_and_seeds() -> None:
    rng = np.random.default_rng(1)
    level = rng.random(400) * 2  # users differ far more than the policies do
    runs = [made_run("counts", (level * 0.9).tolist(), s) for s in (0, 1)]
    runs += [made_run("reward", (level * 0.99).tolist(), s) for s in (0, 1)]
    counts, reward = policy_rows(runs, ["counts", "reward"], 1)
    assert reward["mean"] == pytest.approx(level.mean() * 0.99 / 2)
    assert [reward[k] for k in ("uplift_pct", "low", "high")] == pytest.approx([10.0] * 3)
    assert (counts["uplift_pct"], counts["low"], counts["high"]) == (0.0, 0.0, 0.0)
    assert reward["draws"] == 2


def test_concentration_by_hand() -> None:
    assert concentration(np.array([3, 3, 3, 3])) == pytest.approx((0.0, 0.25))
    assert concentration(np.array([0, 0, 0, 12])) == pytest.approx((0.75, 1.0))
    assert concentration(np.array([1, 3])) == pytest.approx((0.25, 0.75))
    assert np.isnan(concentration(np.zeros(3, np.int64))).all()


# The command


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    known = known_table()
    tables = {"items": items_table(), "outcomes": known, "start": start_table(known)}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return {name: str(tmp_path / f"{name}.parquet") for name in tables}


def call(files: dict[str, str], *more: str) -> Any:
    args = [part for name, path in files.items() for part in (f"--{name}", path)]
    return CliRunner().invoke(app, ["lab", "replay", *args, "--nights", "2", "--seeds", "1", *more])


def test_json_is_one_object_with_a_row_per_policy(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(files, "--policies", "evidence,oracle", "--format", "json", "--out", str(out))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["policy"] for row in found["rows"]] == ["counts", "evidence", "oracle"]
    for row in found["rows"]:
        assert row["low"] <= row["uplift_pct"] <= row["high"]
        assert 0 <= row["mean"] <= 1
    assert found["rows"][2]["mean"] >= found["rows"][0]["mean"]
    assert json.loads((out / "replay.json").read_text()) == found
    users, nights = (pq.read_table(out / f"{n}.parquet") for n in ("users", "nights"))
    assert users["value"].to_numpy().sum() == pytest.approx(nights["value"].to_numpy().sum())
    assert nights.num_rows == 6
    page = (out / "replay.html").read_text()
    assert "<svg" in page
    assert "evidence" in page


def test_the_table_names_every_policy(files: dict[str, str]) -> None:
    done = call(files, "--policies", "thompson")
    assert done.exit_code == 0, done.output
    assert all(word in done.stdout for word in ("counts", "thompson", "first 2 nights"))


def changed(path: str, **columns: Any) -> str:
    table = pq.read_table(path)
    for name, change in columns.items():
        values = change(table[name].to_pylist())
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("outcomes", "value", 1.5, "outcomes, row 0: the value of user 0 and item 0 is 1.5, must"),
        ("outcomes", "value", float("nan"), "is nan, must be from 0 to 1"),
        ("outcomes", "item_id", 999, "outcomes, row 0: item 999 is not among the 60 items"),
        ("outcomes", "item_id", 2, "outcomes, row 1: user 0 and item 2 come twice"),
        ("start", "item_id", 59, "start, row 0: item 59 is not in the universe of user 0"),
        ("start", "user_id", 77, "start, row 0: item 0 is not in the universe of user 77"),
        ("items", "item_id", 1, "item 1 comes twice"),
    ],
)
def test_bad_rows_are_named_with_the_cure(
    name: str, column: str, value: Any, message: str, files: dict[str, str]
) -> None:
    changed(files[name], **{column: lambda old: [value, *old[1:]]})
    done = call(files)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_policy_that_does_not_exist_names_the_nearest(files: dict[str, str]) -> None:
    done = call(files, "--policies", "counts,thomson")
    assert done.exit_code == 2
    assert "there is no policy 'thomson'; the nearest is 'thompson'" in done.stderr


def test_a_missing_column_and_a_missing_value_are_named(files: dict[str, str]) -> None:
    table = pq.read_table(files["start"])
    pq.write_table(table.rename_columns(["user", "item_id"]), files["start"])
    assert "no column 'user_id'" in call(files).stderr
    pq.write_table(table, files["start"])
    changed(files["outcomes"], value=lambda old: [*old[:-1], None])
    assert "value, row 360: there is no value" in call(files).stderr


def test_csv_is_read_too(files: dict[str, str], tmp_path: Path) -> None:
    known = known_table()
    lines = [
        f"{u},{i},{v}"
        for u, i, v in zip(*(known[c].to_pylist() for c in known.column_names), strict=True)
    ]
    (tmp_path / "o.csv").write_text("\n".join(["user_id,item_id,value", *lines]) + "\n")
    want = call(files, "--policies", "counts", "--format", "json").stdout
    got = call(
        files | {"outcomes": str(tmp_path / "o.csv")}, "--policies", "counts", "--format", "json"
    ).stdout
    assert json.loads(got) == json.loads(want)


def test_a_summary_needs_no_user_to_be_shown_anything(universe: Universe) -> None:
    quiet = replace(made_run("counts", [0.0]), shown=np.zeros((1, 1), np.int64))
    options = ReplayOptions(("counts",), nights=1, seeds=1)
    found = summarise([quiet], options, users=1)
    assert found["rows"][0]["mean"] is None


def test_options_are_tuned_by_replay(files: dict[str, str], tmp_path: Path) -> None:
    tried = tmp_path / "tried.yaml"
    tried.write_text(
        "nights: 2\nfirst: 0\nseeds: 1\nbeta: [1, 2]\nhalf_life_days: []\nfloor: [1]\n"
    )
    args = [part for name, path in files.items() for part in (f"--{name}", path)]
    said = CliRunner().invoke(
        app, ["lab", "tune", *args, "--config", str(tried), "--format", "json"]
    )
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["shape"] == {"users": N_USERS, "outcomes": 30 * N_USERS}
    rows = {(row["option"], row["value"]): row for row in found["rows"]}
    own = json.loads(
        call(files, "--policies", "reward_importance,uniform", "--format", "json").stdout
    )
    means = {row["policy"]: row["mean"] for row in own["rows"]}
    assert rows["beta", 2.0]["mean"]["value"] == pytest.approx(means["reward_importance"], rel=0.02)
    assert rows["beta", 2.0]["uplift"]["value"] == 0.0
    assert rows["floor", 1.0]["mean"]["value"] == pytest.approx(means["uniform"], rel=0.02)


def test_tuning_wants_one_place_to_play(files: dict[str, str]) -> None:
    said = CliRunner().invoke(app, ["lab", "tune", "--outcomes", files["outcomes"]])
    assert said.exit_code == 2
    assert "give --warehouse; or --items" in said.output
