"""The catalogue over a small warehouse whose every answer is known by hand."""

import datetime as dt
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pipelines.catalog import views as catalog
from pipelines.catalog.sql_text import identifier, quote
from pipelines.catalog.views import (
    catalog_sql,
    chain_files,
    open_session,
    query,
    query_rows,
    write_catalog,
)
from pipelines.landing import land
from pipelines.store.manifests import LandedGroup, Manifest
from pipelines.store.tables import SCHEMAS, write_table
from pipelines.store.warehouse import STATE_TABLES, Warehouse
from profiling.decay import DAY_US
from profiling.schema import Column

D1, D2, D3 = (dt.date(2024, 1, d) for d in (1, 2, 3))
HALF_LIFE = 30.0
CONFIG = {
    "actions": [
        {"name": "long_view", "value": 1.0, "positive": True},
        {"name": "like", "value": 0.5, "positive": True},
        {"name": 'it\'s "hate"', "value": -1.0, "positive": False},
    ],
    "rewards": {"half_life_days": HALF_LIFE},
    "outcomes": {"value_low": -1.0, "value_high": 1.0, "window_hours": 24.0, "lateness_hours": 0.0},
}


def end_of(date: dt.date) -> int:
    """The cut-off of that night, microseconds."""
    return ((date - dt.date(1970, 1, 1)).days + 1) * DAY_US


def rows(name: str, *given: dict) -> pa.Table:
    """Rows of a stored table; what is not given is null if it may be, else the least or empty."""
    schema = SCHEMAS[name]
    blank = {c.name: None if c.nullable else c.low or _zero(c.type) for c in schema.columns}
    filled = [blank | row for row in given]
    assert all(set(row) == set(blank) for row in filled)
    arrays = [pa.array([row[c.name] for row in filled], c.type) for c in schema.columns]
    return pa.table(arrays, names=schema.names)


def _zero(type_: pa.DataType) -> object:
    if pa.types.is_list(type_):
        return []
    if pa.types.is_string(type_):
        return ""
    return {"date32[day]": D1, "bool": False}.get(str(type_), 0)


def item(item_id: int, title: str | None) -> dict:
    return {"item_id": item_id, "title": title, "embedding": [1.0, 0.5], "embedding_version": "v"}


def interest(user: int, cluster: int, items: list[int], lineage="born", came_from=()) -> dict:
    return {
        "user_id": user, "cluster_id": cluster, "item_ids": items, "medoid_item_id": items[0],
        "n_items": len(items), "lineage": lineage, "from_cluster_ids": list(came_from),
        "action_counts": [len(items), 0, 0], "n_born": 3, "first_at": end_of(D1) - 2 * DAY_US,
    }  # fmt: skip


def standing(user: int, cluster: int, query_id: int, **more) -> dict:
    base = {
        "user_id": user, "surface": "home", "cluster_id": cluster, "query_type": "item",
        "query_id": query_id, "importance": 1.0, "prior_source": "user average", "reward": 0.1,
    }  # fmt: skip
    return base | more


def draw(date: dt.date, user: int, cluster: int, query_id: int, draw_id: int, p: float) -> dict:
    return {
        "run_date": date, "serve_date": date + dt.timedelta(1), "user_id": user, "surface": "home",
        "draw_id": draw_id, "cluster_id": cluster, "query_type": "item", "query_id": query_id,
        "propensity": p, "set_probability": p, "policy": "reward 1",
        "conditions": [{"topic_id": 5, "confidence": 0.5}],
    }  # fmt: skip


def outcome(date: dt.date, impression: int, draw_id: int, value: float, mask: int) -> dict:
    return {
        "run_date": date, "impression_id": impression, "draw_id": draw_id, "user_id": 7,
        "query_type": "item", "query_id": 10, "cluster_id": 1, "item_id": 13, "surface": "home",
        "value": value, "actions": mask, "credit": 1.0, "examination": 1.0, "at": end_of(D1),
        "attribution": "logged",
    }  # fmt: skip


NIGHTS = {
    D1: {
        "PROFILES": [interest(7, 1, [10, 11]), interest(7, 2, [12]), interest(8, 1, [13])],
        "CLUSTER_REWARDS": [
            standing(7, 1, 10, reward=0.2, prior_source="observed", weight=1.0, importance=3.0),
            standing(7, 2, 12),
            standing(8, 1, 13),
        ],
        "QUERIES": [draw(D1, 7, 1, 10, 101, 0.5) | {"reward": 0.2, "prior_source": "observed"}],
        "OPEN": [{"impression_id": i, "user_id": 7, "item_id": 13} for i in (1, 2)],
    },
    D2: {
        "PROFILES": [
            interest(7, 1, [10], "continued", [1]),
            interest(7, 2, [12], "continued", [2]),
            interest(7, 3, [11], "split", [1]),
            interest(8, 1, [13]),
        ],
        "CLUSTER_REWARDS": [standing(7, c, q) for c, q in ((1, 10), (2, 12), (3, 11))]
        + [standing(8, 1, 13)],
        "QUERIES": [draw(D2, 7, 3, 11, 102, 0.25)],
        "OUTCOMES": [outcome(D2, 1, 101, 1.0, 0b011), outcome(D2, 2, 101, -1.0, 0b100)],
        "OPEN": [{"impression_id": 3, "user_id": 7, "item_id": 13}],
        "REJECTED": [{"source": "IMPRESSIONS", "row": 4, "reason": "late", "raw": "{}"}],
        "CLOSED_DRAWS": [
            {"draw_id": 101, "user_id": 7, "surface": "home", "state": "brought", "query_id": 10}
        ],
    },
    D3: {
        "PROFILES": [
            interest(7, 1, [10, 12], "merged", [1, 2]),
            interest(7, 3, [11], "continued", [3]),
            interest(8, 1, [13]),
        ],
        "CLUSTER_REWARDS": [
            standing(
                *(7, 1, 10), reward=0.3, prior_source="observed", weight=2.0, importance=3.0,
                last_chance=D2,
            ),
            standing(7, 3, 11),
            standing(8, 1, 13),
        ],
        "REWARDS": [
            {
                "user_id": 7, "surface": "home", "query_type": "item", "query_id": 10, "w": 4.0,
                "wy": 3.0, "w2": 8.0, "impressions": 5, "action_counts": [3, 2], "draws": 2,
                "draw_w": 2.0, "drawn_w": 3.0, "as_of": end_of(D3) - 15 * DAY_US,
            }
        ],
        "OPEN": [{"impression_id": 3, "user_id": 7, "item_id": 13}],
        # Served on an earlier night and named again, as by a replay.
        "QUERIES": [draw(D2, 7, 3, 11, 102, 0.25)],
    },
}  # fmt: skip
LANDED = {D1: (2, 0), D2: (3, 1), D3: (0, 0)}  # impressions, and duplicates among them


def make(root: str) -> Warehouse:
    warehouse = Warehouse.create(root, "")
    first = {
        "ITEMS": rows("ITEMS", item(10, "Tart"), item(11, "Old"), item(12, None)),
        "KEYS": rows("KEYS", {"kind": "user", "id": 7, "original": "ann's"}),
        "IMPRESSIONS": rows(
            "IMPRESSIONS",
            *({"impression_id": i, "user_id": 7, "item_id": 13, "surface": "home"} for i in (1, 2)),
        ),
        "EXPOSURES": rows("EXPOSURES", *({"user_id": 7, "ordinal": i} for i in range(4))),
        "REJECTED": rows("REJECTED", {"source": "a.csv", "row": 9, "reason": "no user"}),
    }
    second = {
        "ITEMS": rows("ITEMS", item(11, 'Ann\'s "sofa" \\ é'), item(13, "Chair")),
        "KEYS": rows("KEYS", {"kind": "user", "id": 7, "original": "ann's"}),
        "IMPRESSIONS": rows(
            "IMPRESSIONS",
            *({"impression_id": i, "user_id": 7, "item_id": 13} for i in (2, 3, 4)),
        ),
    }
    land(warehouse, first, source="a log", notes=["it's new"], starts_at=end_of(D1) - DAY_US)
    land(warehouse, second, source="another")
    parent, queries = None, None
    for date, tables in NIGHTS.items():
        files = {
            name: write_table(warehouse.root, name, rows(name, *given), str(date))
            for name, given in tables.items()
        }
        files["QUERIES"] = queries = files["QUERIES"] if date != D3 else queries
        parent = warehouse.publish(night(warehouse, date, parent, files), parent and parent.number)
    return warehouse


def night(warehouse: Warehouse, date: dt.date, parent: Manifest | None, files: dict) -> Manifest:
    landed, duplicates = LANDED[date]
    tables, before = NIGHTS[date], NIGHTS.get(date - dt.timedelta(1), {})
    counts = {
        "open_before": len(before.get("OPEN", [])),
        "landed": landed,
        "outcomes": len(tables.get("OUTCOMES", [])),
        "open_after": len(tables["OPEN"]),
        "rejected": len(tables.get("REJECTED", [])),
        "duplicates": duplicates,
    }
    group = LandedGroup(1, "IMPRESSIONS", "data/IMPRESSIONS/x.parquet", 0, landed)
    prior = {"surface": "home", "arm": "", "mean": 0.5, "strength": 9.0}
    return Manifest(
        number=0,
        parent=parent.number if parent else None,
        kind="night",
        head=True,
        date=date,
        cutoff=end_of(date),
        tables=files,
        inputs=(group,) if landed else (),
        catalogue=warehouse.catalogue(),
        config=CONFIG,
        config_digest="c",
        seed=1,
        embedding_version="v",
        counts={"impressions": counts},
        seconds={"a": 1.5, "b": 0.5},
        prior={"default": {"mean": 0.1, "strength": 20.0}, "rates": [prior]},
    )


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> Warehouse:
    # A quote, a space, a glob and a folder that looks like a Hive partition of one of our columns.
    return make(str(tmp_path_factory.mktemp("o'dd dir*[x]") / "user_id=3" / "w"))


@pytest.fixture(scope="module")
def ask(warehouse):
    def ask(sql: str, date: dt.date = D3) -> list[dict]:
        return json.loads(query(warehouse, sql, warehouse.night(date), format="json"))

    return ask


def test_every_stored_table_has_a_view(ask):
    names = {row["name"] for row in ask("FROM catalogue")}
    assert set(SCHEMAS) <= names
    assert {f"{n}_ALL" for n in catalog.HISTORY_TABLES} <= names
    told = set(STATE_TABLES) | set(catalog.NIGHT_TABLES) | set(catalog.LANDED_TABLES)
    assert told | {"ITEMS", "TOPICS", "KEYS"} == set(SCHEMAS)


def test_every_view_and_macro_is_documented_and_can_be_read(warehouse, tmp_path):
    write_catalog(warehouse, tmp_path / "f.duckdb", warehouse.head())
    with duckdb.connect(str(tmp_path / "f.duckdb"), read_only=True) as connection:
        for name, kind, comment in connection.execute("FROM catalogue").fetchall():
            assert comment, name
            if kind != "macro":
                connection.sql(f"SELECT * FROM {identifier(name)}").to_arrow_table()


@pytest.mark.parametrize("which", ["memory", "database"])
def test_no_view_table_or_column_lacks_a_comment(warehouse, tmp_path, which):
    asked = """
        SELECT table_name || '.' || column_name AS name FROM duckdb_columns()
        WHERE NOT internal AND coalesce(comment, '') = ''
        UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL
        UNION ALL SELECT table_name FROM duckdb_tables() WHERE NOT internal AND comment IS NULL
        UNION ALL SELECT function_name FROM duckdb_functions()
        WHERE NOT internal AND comment IS NULL"""
    if which == "memory":
        assert query_rows(warehouse, asked, warehouse.head()).to_pylist() == []
        return
    write_catalog(warehouse, tmp_path / "f.duckdb", warehouse.head())
    with duckdb.connect(str(tmp_path / "f.duckdb"), read_only=True) as connection:
        assert connection.execute(asked).fetchall() == []
        told = connection.execute("SELECT count(*) FROM duckdb_columns() WHERE NOT internal")
        assert told.fetchall()[0][0] > 400


def test_columns_carry_the_meanings_of_their_schema(ask):
    told = "SELECT comment FROM duckdb_columns() WHERE table_name = 'REWARDS' AND column_name = 'w'"
    (row,) = ask(told)
    (column,) = [c for c in SCHEMAS["REWARDS"].columns if c.name == "w"]
    assert row["comment"] == column.meaning


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_view_without_files_has_the_columns_and_types_of_its_schema(name, tmp_path):
    warehouse = Warehouse.create(str(tmp_path / "w"), "")
    empty = query_rows(warehouse, f"SELECT * FROM {identifier(name)}", None)
    (file,) = write_table(warehouse.root, name, rows(name, {}), "one")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        stored = connection.sql(f"FROM read_parquet({quote(f'{warehouse.root}/{file.path}')})")
        stored = stored.to_arrow_table()
    assert empty.num_rows == 0
    for column in SCHEMAS[name].names:
        assert empty.schema.field(column).type == stored.schema.field(column).type, column


def test_state_is_that_of_the_night_asked_for(ask):
    clusters = "SELECT cluster_id FROM PROFILES WHERE user_id = 7 ORDER BY 1"
    assert [r["cluster_id"] for r in ask(clusters, D1)] == [1, 2]
    assert [r["cluster_id"] for r in ask(clusters, D3)] == [1, 3]
    assert [r["n"] for r in ask("SELECT count(*) AS n FROM OUTCOMES", D1)] == [0]


def test_a_file_named_by_two_nights_counts_once(ask, warehouse):
    assert len(ask("FROM QUERIES")) == 2
    nights = chain_files(warehouse.chain(warehouse.head()), "QUERIES")
    assert [(m.date, len(files)) for m, files in nights] == [(D1, 1), (D2, 1), (D3, 0)]


def test_of_one_item_the_row_that_landed_last_holds(ask):
    titles = {r["item_id"]: r["title"] for r in ask("SELECT item_id, title FROM ITEMS")}
    assert titles == {10: "Tart", 11: 'Ann\'s "sofa" \\ é', 12: None, 13: "Chair"}


def test_landed_rows_are_shown_as_they_came(ask):
    found = ask("SELECT landing, count(*) AS n FROM IMPRESSIONS GROUP BY ALL ORDER BY 1")
    assert found == [{"landing": 1, "n": 2}, {"landing": 2, "n": 3}]
    refused = ask("SELECT landing, run_date, reason FROM REJECTED ORDER BY reason")
    assert refused == [
        {"landing": None, "run_date": "2024-01-02", "reason": "late"},
        {"landing": 1, "run_date": None, "reason": "no user"},
    ]
    assert len(ask("FROM KEYS")) == 1
    assert ask("SELECT id_of('user', 'ann''s') AS id") == [{"id": 7}]


def test_rewards_now_are_aged_to_the_cutoff(ask):
    (row,) = ask("FROM rewards_now")
    aged = 2.0 ** (-15.0 / HALF_LIFE)
    assert row["rate"] == pytest.approx(-1.0 + 2.0 * 3.0 / 4.0)
    assert row["weight"] == pytest.approx(4.0 * aged, rel=1e-12)
    assert row["weighted_y"] == pytest.approx(3.0 * aged, rel=1e-12)
    assert row["effective_n"] == pytest.approx(4.0**2 / 8.0)
    assert row["impressions_per_draw"] == pytest.approx(3.0 / 2.0)
    assert row["age_days"] == pytest.approx(15.0)
    assert row["title"] == "Tart"
    # Counted before the third action was configured.
    assert row["actions"] == {"long_view": 3, "like": 2}


def test_cluster_rewards_now_say_what_was_drawn(ask):
    sql = "SELECT * FROM cluster_rewards_now WHERE user_id = 7 ORDER BY cluster_id"
    one, three = ask(sql, D2)[0], ask(sql, D2)[2]
    assert (one["drawn"], three["drawn"], three["propensity"]) == (False, True, 0.25)
    assert three["title"] == 'Ann\'s "sofa" \\ é'
    shares = [r["importance_share"] for r in ask(sql, D3)]
    assert shares == [0.75, 0.25]


def test_history_follows_an_interest_through_its_lineage(ask):
    found = {
        (r["interest"], r["run_date"], r["cluster_id"], r["steps_back"])
        for r in ask("SELECT * FROM reward_history(7)")
    }
    one, two, three = "2024-01-01", "2024-01-02", "2024-01-03"
    assert found == {
        (1, one, 1, 0), (1, two, 1, 0), (1, three, 1, 0),
        (1, one, 2, 1), (1, two, 2, 1),  # merged into 1 on the third night
        (3, two, 3, 0), (3, three, 3, 0),
        (3, one, 1, 1),  # split from 1 on the second night: what 1 did later is not its own
    }  # fmt: skip
    assert ask("FROM reward_history(99)") == []


def test_history_shows_what_each_night_closed(ask):
    sql = "SELECT * FROM cluster_history WHERE user_id = 7 AND cluster_id = 1 ORDER BY run_date"
    history = ask(sql)
    assert [r["impressions"] for r in history] == [0, 2, 0]
    assert history[1]["rate"] == pytest.approx((1.0 - 1.0) / 2)
    assert [r["drawn"] for r in history] == [True, False, False]
    assert [r["lineage"] for r in history] == ["born", "continued", "merged"]


def test_who_never_had_a_chance_and_since_when(ask):
    (row,) = ask("FROM never_had_a_chance")
    assert (row["user_id"], row["cluster_id"], row["title"]) == (8, 1, "Chair")
    assert row["first_at"].startswith("2023-12-31")
    # On the first night cluster 2 had none either; an interest drawn tonight has one.
    first = ask("SELECT user_id, cluster_id FROM never_had_a_chance ORDER BY 1", D1)
    assert first == [{"user_id": 7, "cluster_id": 2}, {"user_id": 8, "cluster_id": 1}]


def test_what_the_average_weight_did(ask):
    found = ask("SELECT * FROM average_weight WHERE run_date = DATE '2024-01-01' ORDER BY 4")
    observed, average = found
    assert (observed["prior_source"], observed["clusters"], observed["draws"]) == ("observed", 1, 1)
    assert observed["share_of_clusters"] == pytest.approx(1 / 3)
    assert observed["share_of_draws"] == 1.0
    assert (observed["impressions"], observed["rate"]) == (2, 0.0)
    assert (average["clusters"], average["draws"], average["rate"]) == (2, 0, None)
    assert average["mean_reward"] == pytest.approx(0.1)


def test_draws_that_do_not_say_what_they_promised_go_by_their_nights_rewards(ask):
    found = ask("SELECT draw_id, per_request, reward, prior_source FROM promised ORDER BY draw_id")
    assert [tuple(r.values()) for r in found] == [
        (101, False, 0.2, "observed"),  # written down
        (102, False, 0.1, "user average"),  # from CLUSTER_REWARDS of the second night
    ]
    (row,) = ask(
        "SELECT draws, share_of_draws FROM average_weight "
        "WHERE run_date = DATE '2024-01-02' AND draws > 0"
    )
    assert row == {"draws": 1, "share_of_draws": 1.0}


def test_draws_against_their_probabilities(ask):
    found = ask(
        "SELECT * FROM draw_check WHERE run_date = DATE '2024-01-01' ORDER BY reward_quarter"
    )
    # User 8 was not drawn for at all, so is not asked about.
    assert [(r["clusters"], r["draws"], r["stand_for"]) for r in found] == [
        (1, 0, 0.0),  # up to the first quartile
        (1, 1, 2.0),  # between the median and the third
    ]
    assert [r["reward_quarter"] for r in found] == [1, 3]
    assert found[1]["standard_error"] == pytest.approx(math.sqrt(0.5 / 0.5**2))
    assert found[1]["z"] == pytest.approx((1 / 0.5 - 1) / math.sqrt(0.5 / 0.5**2))
    (bin_,) = ask("SELECT * FROM draw_bins WHERE run_date = DATE '2024-01-02'")
    assert (bin_["propensity_from"], bin_["stand_for"]) == (0.2, 4.0)


def test_draws_and_outcomes_have_names(ask):
    first, second = ask("SELECT * FROM draws ORDER BY draw_id")
    assert (first["title"], first["state"], first["impressions"]) == ("Tart", "brought", 2)
    assert (second["state"], second["impressions"], second["topic_ids"]) == (None, 0, [5])
    liked, hated = ask("SELECT * FROM outcomes_named ORDER BY impression_id")
    assert liked["actions"] == ["long_view", "like"]
    assert hated["actions"] == ['it\'s "hate"']
    assert (liked["item_title"], liked["query_title"]) == ("Chair", "Tart")


def test_the_books_balance(ask):
    books = ask("SELECT * FROM accounting ORDER BY run_date")
    columns = ("open_before", "landed", "outcomes", "open_after", "rejected", "duplicates")
    assert [tuple(b[c] for c in columns) for b in books] == [
        (0, 2, 0, 2, 0, 0), (2, 3, 2, 1, 1, 1), (1, 0, 0, 1, 0, 0)
    ]  # fmt: skip
    assert [b["difference"] for b in books] == [0, 0, 0]
    assert all(b["as_counted"] for b in books)
    exposures, impressions = ask("SELECT * FROM exposures_accounted ORDER BY table_name")
    assert (exposures["table_name"], exposures["landed"], exposures["difference"]) == (
        "EXPOSURES", 4, 0
    )  # fmt: skip
    assert (impressions["landed"], impressions["counted"], impressions["difference"]) == (5, 3, 0)


def test_books_that_do_not_balance_are_seen(warehouse, tmp_path):
    head = warehouse.head()
    lost = {**head.tables, "OPEN": ()}
    (row,) = json.loads(
        query(
            warehouse,
            "SELECT difference, as_counted FROM accounting WHERE manifest = 9",
            replace(head, number=9, tables=lost),
            format="json",
        )
    )
    assert row == {"difference": 1, "as_counted": False}


def test_small_tables_of_what_the_manifests_say(ask):
    assert [r["seconds"] for r in ask("SELECT seconds FROM nights")] == [2.0, 2.0, 2.0]
    actions = {r["name"]: r["value"] for r in ask("FROM actions")}
    assert actions == {"long_view": 1.0, "like": 0.5, 'it\'s "hate"': -1.0}
    fitted = ask("SELECT surface, mean FROM prior WHERE run_date = DATE '2024-01-03' ORDER BY 1")
    assert fitted == [{"surface": "home", "mean": 0.5}, {"surface": None, "mean": 0.1}]
    assert ask("SELECT notes FROM landings ORDER BY landing")[0] == {"notes": ["it's new"]}
    assert ask("SELECT cutoff FROM settings")[0] == {"cutoff": "2024-01-04T00:00:00Z"}


@pytest.mark.parametrize("other", [0, 1])
def test_the_database_is_for_reading_and_may_be_moved(warehouse, tmp_path, other):
    out = tmp_path / "it's here" / "f.duckdb"
    write_catalog(warehouse, out, warehouse.head())
    write_catalog(warehouse, out, warehouse.night(D1 if other else D3))
    assert not out.stat().st_mode & 0o222
    assert [p.name for p in out.parent.iterdir()] == ["f.duckdb"]
    moved = out.rename(tmp_path / "g.duckdb")
    with duckdb.connect(str(moved), read_only=True) as connection:
        counted = connection.execute("SELECT count(*) FROM reward_history(7)").fetchall()
        assert counted == [(2,) if other else (8,)]
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {quote(str(moved))} AS f (READ_ONLY)")
        assert connection.execute("SELECT count(*) FROM f.draws").fetchall()[0][0] == 2 - other
    # The version that DuckDB 1.2 and later read; 2.0's own is higher.
    with moved.open("rb") as source:
        assert int.from_bytes(source.read(20)[12:], "little") <= 65


def test_two_readers_share_a_database(warehouse, tmp_path):
    out = tmp_path / "f.duckdb"
    write_catalog(warehouse, out, warehouse.head())
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print(c.execute("
    code += "'SELECT count(*) FROM PROFILES').fetchall())"
    with duckdb.connect(str(out), read_only=True) as connection:
        done = subprocess.run(
            [sys.executable, "-c", code, str(out)], capture_output=True, text=True
        )
        assert done.stdout == "[(3,)]\n", done.stderr
        assert connection.execute("SELECT count(*) FROM PROFILES").fetchall() == [(3,)]


def test_nothing_but_a_database_is_replaced(warehouse, tmp_path):
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.txt is there and is no DuckDB database"):
        write_catalog(warehouse, precious, warehouse.head())
    assert precious.read_text() == "years of work"


def test_the_script_can_be_run_twice(warehouse):
    with duckdb.connect() as connection:
        for _ in range(2):
            connection.execute(catalog_sql(warehouse, warehouse.head()))
        assert connection.execute("SELECT count(*) FROM draws").fetchall() == [(2,)]


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nothing", "SELECT 1 +", "SELECT 'a"])
def test_errors_name_the_problem_and_the_cure(warehouse, sql):
    with pytest.raises(ValueError, match=r"Error.*[\s\S]*FROM catalogue"):
        query(warehouse, sql, warehouse.head())


def test_the_column_that_is_a_keyword(warehouse):
    with pytest.raises(ValueError, match='`at` is a keyword of DuckDB: write "at" with quotes'):
        query(warehouse, "SELECT max(at) FROM OUTCOMES", warehouse.head())
    query(warehouse, 'SELECT "at", o.at FROM OUTCOMES AS o', warehouse.head())


def test_names_of_python_are_no_names_of_sql(warehouse):
    manifest = rows("KEYS", {})  # a name that a statement might have, here and in query_rows
    assert manifest.num_rows == 1
    with pytest.raises(ValueError, match="manifest does not exist"):
        query(warehouse, "SELECT * FROM manifest", warehouse.head())


@pytest.mark.parametrize("table", ["PROFILES", "CLUSTER_REWARDS", "QUERIES"])  # two have grown
@pytest.mark.parametrize("left", [None, b"PAR1 and then nothing more"])
def test_a_file_that_is_gone_or_cut_is_named(warehouse, table, left):
    head = warehouse.head()
    (file,) = head.tables[table]
    path = f"data/{table}/{'gone' if left is None else 'cut'}.parquet"
    if left is not None:
        Path(warehouse.root, path).write_bytes(left)
    broken = replace(head, parent=None, tables={table: (replace(file, path=path),)})
    with open_session(warehouse, broken) as session:
        with pytest.raises(ValueError, match=r"(?s)(gone|cut)\.parquet.*restore") as refused:
            session.ask(f"SELECT count(user_id) FROM {table}")
        assert path in str(refused.value)
        assert session.ask("SELECT 42 AS n").to_pylist() == [{"n": 42}]  # what does not need it


def test_older_files_give_the_declared_default(warehouse, monkeypatch):
    schema = SCHEMAS["REJECTED"]
    added = Column("level", pa.string(), "how bad")
    lifted = replace(
        schema, version=2, columns=(*schema.columns, added), lifts={"level": "it's bad"}
    )
    monkeypatch.setitem(SCHEMAS, "REJECTED", lifted)
    found = query_rows(warehouse, "SELECT level FROM REJECTED", warehouse.head())
    assert found["level"].to_pylist() == ["it's bad", "it's bad"]


def test_an_unknown_format_is_refused(warehouse):
    with pytest.raises(ValueError, match="format must be one of table, json, csv, got 'xml'"):
        query(warehouse, "SELECT 1", None, format="xml")
