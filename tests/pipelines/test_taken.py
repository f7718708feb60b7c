"""What is collected or erased is gone for every reader, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import pipelines.nights as nights_module
from pipelines.catalog.views import query_rows
from pipelines.config import NightConfig, render_config
from pipelines.importers.command import import_tables
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import rebuild, run_night, run_nights
from pipelines.operate.collect import collect, plan_collection
from pipelines.operate.doctor import check_warehouse
from pipelines.operate.erase import erase, has_user, names_of, user_of
from pipelines.operate.fingerprint import digest_table, fingerprint
from pipelines.store.storage import list_tree
from pipelines.store.tables import SCHEMAS
from pipelines.store.taken import read_taken
from pipelines.store.warehouse import PublishConflict, Warehouse
from tests.pipelines.small_world import (
    day,
    engagements_table,
    foreign_impressions,
    items_table,
)

QUIET = RunOptions(progress=False)
NOW = 1_800_000_000_000_000


def tables(first: int, last: int) -> dict[str, pa.Table]:
    return {
        "ENGAGEMENTS": engagements_table(first, last),
        "IMPRESSIONS": foreign_impressions(first, last, own_actions=True),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights of four days; copy it to change it."""
    path = tmp_path_factory.mktemp("taken") / "w"
    config = render_config(NightConfig()).replace("nights: 35", "nights: 1", 1)
    warehouse = Warehouse.create(str(path), config, buckets=2)
    land(warehouse, {"ITEMS": items_table()} | tables(0, 3), source="log")
    run_nights(warehouse, [day(0), day(1), day(2)], QUIET)
    return path


@pytest.fixture
def warehouse(made: Path, tmp_path: Path) -> Warehouse:
    shutil.copytree(made, tmp_path / "w")
    return Warehouse.open(str(tmp_path / "w"))


def without(table: pa.Table, user: int) -> pa.Table:
    return table.filter(pc.invert(pc.fill_null(pc.equal(table["user_id"], user), False)))


def everything(warehouse: Warehouse) -> list[tuple[str, str, pa.Table]]:
    """Every user's table of every record."""
    landed = [(f"landing {x.number}", x.tables) for x in warehouse.landings()]
    nights = [(f"manifest {m.number}", m.tables) for m in warehouse.manifests()]
    return [
        (where, name, pq.read_table(Path(warehouse.root, file.path)))
        for where, stored in [*landed, *nights]
        for name, files in stored.items()
        if "user_id" in SCHEMAS[name].names
        for file in files
    ]


def test_an_erased_user_is_nowhere_and_all_others_are_where_they_were(warehouse: Warehouse) -> None:
    before, user = everything(warehouse), 7
    assert sum(len(t) - len(without(t, user)) for _, _, t in before) > 20
    found = erase(warehouse, user, NOW)
    assert found.found == ()
    after = everything(warehouse)
    assert [(w, n) for w, n, _ in after] == [(w, n) for w, n, _ in before]
    for (_, name, old), (where, _, new) in zip(before, after, strict=True):
        assert new.equals(without(old, user)), (where, name)
    assert sum(found.rows.values()) == sum(
        len(t) - len(without(t, user)) for t in {id(t): t for _, _, t in _once(before)}.values()
    )
    for path in Path(warehouse.root, "data").rglob("*.parquet"):
        rows = pq.read_table(path)
        assert (
            not pc.any(pc.equal(rows["user_id"], user)).as_py()
            if "user_id" in rows.column_names
            else True
        )
    assert check_warehouse(warehouse, NOW / 1e6).healthy


def _once(found: list[tuple[str, str, pa.Table]]) -> list[tuple[str, str, pa.Table]]:
    """A table that several nights name, once."""
    seen: dict[str, tuple[str, str, pa.Table]] = {}
    for where, name, rows in found:
        seen.setdefault(digest_table(rows, name) if name in SCHEMAS else where, (where, name, rows))
    return list(seen.values())


def test_nights_go_on_after_an_erasure_as_if_the_user_had_never_been(
    warehouse: Warehouse, made: Path
) -> None:
    user = 7
    erase(warehouse, user, NOW)
    erased = run_night(warehouse, day(3), QUIET)
    shutil.copytree(made, Path(warehouse.root).parent / "other")
    other = Warehouse.open(str(Path(warehouse.root).parent / "other"))
    whole = run_night(other, day(3), QUIET)
    for name in ("HISTORY", "PROFILES", "OUTCOMES", "REWARDS", "OPEN"):
        mine, theirs = warehouse.read(name, erased), without(other.read(name, whole), user)
        assert digest_table(mine, name) == digest_table(theirs, name), name


def test_sql_sees_the_erasure_at_once(warehouse: Warehouse) -> None:
    sql = "SELECT count(*) AS n FROM OUTCOMES WHERE user_id = 7"
    assert query_rows(warehouse, sql, warehouse.head())["n"][0].as_py() > 0
    erase(warehouse, 7, NOW)
    assert query_rows(warehouse, sql, warehouse.head())["n"][0].as_py() == 0


def test_rows_of_an_erased_user_do_not_land_again(warehouse: Warehouse) -> None:
    erase(warehouse, 7, NOW)
    landing = land(warehouse, tables(4, 4), source="a copy of the log")
    for name, files in landing.tables.items():
        landed = pq.read_table(Path(warehouse.root, files[0].path))
        assert landed.equals(without(landed, 7))
        assert landing.tables[name][0].rows == without(tables(4, 4)[name], 7).num_rows
    stones = read_taken(warehouse.root).tombstones
    assert len(stones) == 1
    assert "7" not in {*stones}


def test_a_night_that_ran_while_a_user_was_erased_is_not_published(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_night = nights_module.plan_night

    def plan_then_erase(*args: object, **options: object) -> object:
        plan = plan_night(*args, **options)  # type: ignore[arg-type]
        erase(warehouse, 7, NOW)
        return plan

    monkeypatch.setattr(nights_module, "plan_night", plan_then_erase)
    with pytest.raises((PublishConflict, ValueError)):
        run_night(warehouse, day(3), QUIET)
    monkeypatch.undo()
    night = run_night(warehouse, day(3), QUIET)
    assert 7 not in warehouse.read("PROFILES", night)["user_id"].to_pylist()


def test_a_user_known_by_name_is_erased_from_keys_and_refused_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()), buckets=2)
    items = items_table().select(["item_id", "embedding", "embedding_version"])
    pq.write_table(items, tmp_path / "items.parquet")
    lines = [{"user_id": u, "item_id": i, "action": "like", "at": at} for u, i, at in _LINES]
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "e.parquet")
    given = {"ITEMS": str(tmp_path / "items.parquet"), "ENGAGEMENTS": str(tmp_path / "e.parquet")}
    import_tables(warehouse, given, None)
    assert "  rejected 1 of e.parquet: at is 'no time at all'" in capsys.readouterr().out
    ann = user_of(warehouse, "annabelle")
    assert names_of(warehouse, ann) == {"annabelle", str(ann)}
    found = erase(warehouse, ann, NOW)
    assert found.found == ()
    assert found.rows["KEYS"] == 1
    assert found.rows["REJECTED"] == 1
    kept = b"".join(Path(warehouse.root, f.path).read_bytes() for f in list_tree(warehouse.root))
    assert b"annabelle" not in kept
    assert user_of(warehouse, "bob") > 0
    with pytest.raises(ValueError, match="no import knew a user 'annabelle'"):
        user_of(warehouse, "annabelle")
    import_tables(warehouse, given, None)
    said = capsys.readouterr().out
    assert "2 rows of users who were erased: left out" in said
    assert "annabelle" not in said
    assert " rejected " not in said


def test_a_first_import_without_a_usable_engagement_stops(tmp_path: Path) -> None:
    """Else the bootstrap records actions that are not the log's, and no night would run."""
    warehouse = Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()), buckets=2)
    line = {"user_id": 1, "item_id": 1, "action": "cook", "at": "2024-03-01T10:00:00Z"}
    pq.write_table(pa.Table.from_pylist([line]), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=r"no row of ENGAGEMENTS .* landed\. rejected 1 of e\.par"):
        import_tables(warehouse, {"ENGAGEMENTS": str(tmp_path / "e.parquet")}, None)
    assert (warehouse.head(), warehouse.landings()) == (None, [])


_LINES = [
    ("annabelle", "1", "2024-03-01T10:00:00Z"),
    ("bob", "2", "2024-03-01T11:00:00Z"),
    ("annabelle", "3", "no time at all"),
]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"user": "annabelle"}, True),
        ({"u": 5}, True),
        ({"user": "annabella", "n": 55}, False),
        ("no json {", False),
    ],
)
def test_a_refused_row_is_searched_by_its_values(raw: object, found: bool) -> None:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    rows = pa.table({"user_id": pa.nulls(1, pa.int64()), "raw": [text]})
    assert has_user(rows, "REJECTED", 5, frozenset({"5", "annabelle"})).tolist() == [found]


def test_collection_leaves_the_newest_night_whole_and_what_later_nights_read(
    warehouse: Warehouse, made: Path
) -> None:
    head = warehouse.head()
    assert head is not None
    before = fingerprint(warehouse, head)
    planned = plan_collection(warehouse)
    found = collect(warehouse, NOW)
    assert found == planned
    assert found.files > 0
    assert all(not Path(warehouse.root, path).exists() for path in found.paths)
    assert fingerprint(warehouse, head) == before
    old = warehouse.night(day(1)).tables
    assert {"QUERIES", "PROFILES", "CLUSTER_REWARDS", "OUTCOMES"} <= {
        n for n, f in old.items() if f
    }
    assert not any(
        old.get(n) for n in ("HISTORY", "OPEN", "REWARDS", "CANDIDATES", "PAST_PROFILES")
    )
    assert check_warehouse(warehouse, NOW / 1e6).healthy
    shutil.copytree(made, Path(warehouse.root).parent / "other")
    other = Warehouse.open(str(Path(warehouse.root).parent / "other"))
    mine, theirs = (run_night(w, day(3), QUIET) for w in (warehouse, other))
    assert fingerprint(warehouse, mine) == fingerprint(other, theirs)
    assert collect(warehouse, NOW).nights == 1
    assert np.isin(day(3), [m.date for m in warehouse.chain(warehouse.head())])


def test_a_rebuild_of_a_collected_night_agrees_or_says_what_is_gone(warehouse: Warehouse) -> None:
    collect(warehouse, NOW)
    rebuilt = rebuild(warehouse, day(2), QUIET)
    head = warehouse.head()
    assert head is not None
    for name in ("HISTORY", "PROFILES", "REWARDS"):
        assert warehouse.read(name, rebuilt).num_rows == warehouse.read(name, head).num_rows
