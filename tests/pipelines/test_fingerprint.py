"""Digests see rows and nothing else; comparisons say where two runs differ, and by how much."""

import datetime as dt
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.operate.fingerprint import (
    LATE_FILE_TABLES,
    compare,
    compare_tables,
    digest_table,
    fingerprint,
    row_order,
)
from pipelines.store.manifests import Manifest
from pipelines.store.tables import SCHEMAS, TableWriter, write_table
from pipelines.store.warehouse import STATE_TABLES, Warehouse

DAYS = [dt.date(2024, 1, d) for d in (1, 2, 3)]


def profiles(n: int, users: int = 50) -> pa.Table:
    """(n,) PROFILES with every kind of column: lists, floats, text, times."""
    at = np.arange(n)
    lists = pa.array([list(range(i % 4)) for i in range(n)], pa.list_(pa.int64()))
    moments = at * 1_000_000
    return SCHEMAS["PROFILES"].build({
        "user_id": at % users, "cluster_id": at // users, "medoid_item_id": at * 7,
        "item_ids": lists, "n_items": np.ones(n, np.int32), "action_counts": lists,
        "importance": at / 3.0, "as_of": moments, "first_at": moments, "last_at": moments,
        "lineage": pa.array([("born", "é", "")[i % 3] for i in range(n)], pa.string()),
        "from_cluster_ids": lists, "n_born": at + 1, "cutoff": moments,
        "embedding_version": pa.array(["v"] * n, pa.string()),
    })  # fmt: skip


def outcomes(date: dt.date, impressions: list[int], value: float = 0.5) -> pa.Table:
    """OUTCOMES that the night of `date` wrote; nullable columns are null in every second row."""
    n = len(impressions)
    null = np.arange(n) % 2 == 1
    columns = {c.name: np.zeros(n) for c in SCHEMAS["OUTCOMES"].columns if c.type == pa.float64()}
    text = {c.name: [""] * n for c in SCHEMAS["OUTCOMES"].columns if c.type == pa.string()}
    return SCHEMAS["OUTCOMES"].build({
        **columns, **text, "impression_id": np.array(impressions), "draw_id": np.zeros(n),
        "run_date": [date] * n, "user_id": np.array(impressions) % 3,
        "query_id": pa.array(np.arange(n), mask=null), "cluster_id": pa.nulls(n, pa.int64()),
        "item_id": np.arange(n), "at": np.arange(n), "value": np.full(n, value),
        "position": pa.array(np.arange(n), pa.int32(), mask=null), "actions": np.arange(n),
        "propensity": pa.array(np.full(n, 0.5), mask=null),
    })  # fmt: skip


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    return table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))


@pytest.mark.parametrize("name", ["PROFILES", "OUTCOMES"])
def test_order_chunks_slices_and_dictionaries_leave_a_digest(name):
    table = profiles(300) if name == "PROFILES" else outcomes(DAYS[0], list(range(300)))
    expected = digest_table(table, name)
    assert digest_table(shuffled(table, 1), name) == expected
    chunks = [table.slice(0, 1), table.slice(1, 0), table.slice(1, 98), table.slice(99)]
    assert digest_table(pa.concat_tables(chunks), name) == expected
    both = pa.concat_tables([table, table]).combine_chunks()
    assert digest_table(both.slice(300), name) == expected
    text = [c for c in table.column_names if table[c].type == pa.string()]
    for column in text:
        place = table.column_names.index(column)
        coded = shuffled(table, 2).set_column(
            place, column, shuffled(table, 2)[column].dictionary_encode()
        )
        assert digest_table(coded, name) == expected


def changed(table: pa.Table, column: str, values: list) -> pa.Table:
    field = table.schema.field(column)
    return table.set_column(table.column_names.index(column), field, pa.array(values, field.type))


@pytest.mark.parametrize("column", SCHEMAS["PROFILES"].names)
def test_every_column_counts(column):
    table = profiles(60)
    values = table[column].to_pylist()
    one = {
        "item_ids": [9], "action_counts": [], "from_cluster_ids": [0, 0],
        "lineage": "other", "embedding_version": "w", "importance": 1e9,
    }  # fmt: skip
    other = one.get(column, table[column][59].as_py())
    if isinstance(other, dt.datetime):
        other += dt.timedelta(microseconds=1)
    elif isinstance(other, int):
        other += 1
    values[1] = other
    assert digest_table(changed(table, column, values), "PROFILES") != digest_table(
        table, "PROFILES"
    )
    found = compare_tables("PROFILES", table, changed(table, column, values))
    assert found.status == "differs"


def test_floats_count_by_their_bits_but_for_zero_and_nan():
    def digest(values: list[float | None]) -> str:
        table = changed(profiles(3), "importance", values)
        return digest_table(table, "PROFILES")

    other_nan = float(np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0])
    assert digest([-0.0, np.nan, 1.0]) == digest([0.0, other_nan, 1.0])
    assert digest([0.0, 0.0, 1.0]) != digest([0.0, 0.0, np.nextafter(1.0, 2.0)])
    assert digest([0.0, None, 1.0]) != digest([0.0, 0.0, 1.0])


def test_what_lies_under_a_null_counts_for_nothing():
    def digest(values: list[int]) -> str:
        table = outcomes(DAYS[0], [1, 2, 3])
        hidden = pa.array(np.array(values), mask=np.array([False, True, False]))
        place = table.column_names.index("query_id")
        return digest_table(table.set_column(place, "query_id", hidden), "OUTCOMES")

    assert digest([1, 7, 2]) == digest([1, 8, 2])
    assert digest([1, 7, 2]) != digest([1, 7, 3])


def test_lists_are_not_mistaken_for_their_flat_values():
    lists = [[[1, 2], [], [3]], [[1], [2], [3]], [[1, 2], [3], []]]
    tables = [changed(profiles(3), "item_ids", values) for values in lists]
    assert len({digest_table(t, "PROFILES") for t in tables}) == 3
    texts = [["ab", "c", ""], ["a", "bc", ""], ["ab", "", "c"]]
    tables = [changed(profiles(3), "lineage", values) for values in texts]
    assert len({digest_table(t, "PROFILES") for t in tables}) == 3


def test_structs_count_to_their_fields():
    def digest(topics: list[list[dict]]) -> str:
        n = len(topics)
        blank = {c.name: np.zeros(n) for c in SCHEMAS["QUERIES"].columns}
        text = {c.name: [""] * n for c in SCHEMAS["QUERIES"].columns if c.type == pa.string()}
        dates = {"run_date": [DAYS[0]] * n, "serve_date": [DAYS[1]] * n}
        conditions = pa.array(topics, SCHEMAS["QUERIES"].arrow.field("conditions").type)
        slots = {"slot": np.arange(n, dtype=np.int16), "conditions": conditions}
        table = SCHEMAS["QUERIES"].build(blank | text | dates | slots)
        assert digest_table(shuffled(table, 3), "QUERIES") == digest_table(table, "QUERIES")
        return digest_table(table, "QUERIES")

    one, other = {"topic_id": 1, "confidence": 0.5}, {"topic_id": 1, "confidence": 0.25}
    assert len({digest([[one], [other]]), digest([[one, other], []]), digest([[one], [one]])}) == 3


def test_rows_of_one_key_are_ordered_by_the_rest():
    raws = ["{b}", "{a}", "{c}"]
    table = SCHEMAS["REJECTED"].build({
        "source": ["s"] * 3, "row": np.array([4, 4, 3]), "user_id": pa.array([1, None, 1]),
        "reason": ["late"] * 3, "raw": raws,
    })  # fmt: skip
    expected = digest_table(table, "REJECTED")
    for seed in range(4):
        assert digest_table(shuffled(table, seed), "REJECTED") == expected
        assert compare_tables("REJECTED", table, shuffled(table, seed)).status == "equal"


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "b", "é"])), max_size=12))
@settings(max_examples=60, deadline=None)
def test_row_order_is_pythons(keys):
    users, surfaces = (list(part) for part in zip(*keys, strict=True)) if keys else ([], [])
    table = pa.table({
        "user_id": pa.array(users, pa.int64()), "surface": pa.array(surfaces, pa.string())
    })  # fmt: skip
    order = row_order(table, ("user_id", "surface")).to_pylist()
    assert sorted(order) == list(range(len(keys)))
    assert [keys[i] for i in order] == sorted(keys)


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=1, max_size=8),
    st.sampled_from([1e-12, 1e-7]),
)
@settings(max_examples=100, deadline=None)
def test_floats_agree_to_a_billionth(values, relative):
    table = changed(profiles(len(values)), "importance", values)
    moved = [v * (1 + relative) for v in values]
    found = compare_tables("PROFILES", table, changed(table, "importance", moved))
    far = [
        not (a == b or (np.isnan(a) and np.isnan(b)))
        and not abs(a - b) <= 1e-9 * max(abs(a), abs(b))
        and not abs(a - b) <= 1e-15
        for a, b in zip(values, moved, strict=True)
    ]
    # A finite float may overflow to infinity: then the two are not alike.
    far = [f or np.isinf(b) != np.isinf(a) for f, a, b in zip(far, values, moved, strict=True)]
    assert (found.status == "differs") == any(far)
    same = all(a == b or np.isnan(a) for a, b in zip(values, moved, strict=True))
    assert (found.status == "equal") == same


def test_the_first_difference_is_named():
    table = profiles(120, users=40)
    values = table["importance"].to_pylist()
    values[83], values[45] = 1.0, 15.0 * (1 + 1e-12)  # users 3 and 5
    found = compare_tables("PROFILES", table, shuffled(changed(table, "importance", values), 5))
    assert not found.equal
    expected = f"1 rows, first user_id 3, cluster_id 2: importance is {83 / 3} and 1.0"
    assert found.detail == expected
    assert str(found) == f"PROFILES differs: {expected}"


def test_a_row_that_one_side_lacks_is_named():
    table = profiles(120, users=40)
    fewer = pa.concat_tables([table.slice(0, 83), table.slice(84)])
    text = "only the left has user_id 3, cluster_id 2"
    assert compare_tables("PROFILES", table, fewer).detail == f"120 rows and 119; {text}"
    detail = compare_tables("PROFILES", fewer, table).detail
    assert detail == f"119 rows and 120; {text.replace('left', 'right')}"
    last = compare_tables("PROFILES", table.slice(0, 119), table).detail
    assert last == "119 rows and 120; only the right has user_id 39, cluster_id 2"
    assert compare_tables("PROFILES", table.slice(0, 0), table).status == "differs"
    assert compare_tables("PROFILES", table.slice(0, 0), table.slice(5, 0)).status == "equal"


def test_a_list_that_differs_is_found_in_its_row():
    table = profiles(8)
    values = table["item_ids"].to_pylist()
    values[7] = [0, 1, 3]
    found = compare_tables("PROFILES", table, changed(table, "item_ids", values))
    assert (
        found.detail == "1 rows, first user_id 7, cluster_id 0: item_ids is [0, 1, 2] and [0, 1, 3]"
    )
    values[7] = [0, 1]
    found = compare_tables("PROFILES", table, changed(table, "item_ids", values))
    assert "item_ids is [0, 1, 2] and [0, 1]" in found.detail


def make(root: str, nights: list[dict[str, pa.Table]], *, files: int = 1) -> Warehouse:
    """A warehouse of these nights; tables are cut into `files` files of small row groups."""
    warehouse = Warehouse.create(root, "")
    parent = None
    for date, tables in zip(DAYS, nights, strict=False):
        stored = {name: cut(warehouse.root, name, t, files) for name, t in tables.items()}
        manifest = Manifest(
            0, parent, "night", True, date, 0, stored, (), {}, {}, "", 0, "v", {}, {}
        )
        parent = warehouse.publish(manifest, parent).number
    return warehouse


def cut(root: str, name: str, table: pa.Table, files: int) -> tuple:
    """Parts of a shuffled table as bucketed files."""
    if files == 1:
        return write_table(root, name, table, "one")
    found = []
    for i in range(files):
        part = shuffled(table, 9).slice(i * table.num_rows // files)
        part = part.slice(0, (i + 1) * table.num_rows // files - i * table.num_rows // files)
        writer = TableWriter(root, name, "cut")
        writer.write(part.slice(0, 3), 0)
        writer.write(part.slice(3), 1)
        found += writer.finish()
    return tuple(found)


@pytest.fixture
def nights() -> list[dict[str, pa.Table]]:
    return [
        {"PROFILES": profiles(50), "OUTCOMES": outcomes(DAYS[0], [1, 2, 3])},
        {"PROFILES": profiles(90), "OUTCOMES": outcomes(DAYS[1], [4, 5])},
    ]


def test_a_fingerprint_does_not_see_files(nights, tmp_path):
    one = make(str(tmp_path / "one"), nights)
    four = make(str(tmp_path / "four"), nights, files=4)
    assert fingerprint(one, one.head()) == fingerprint(four, four.head())
    assert list(fingerprint(one, one.head())) == ["OUTCOMES", "PROFILES"]
    first = fingerprint(one, one.night(DAYS[0]))
    assert first["PROFILES"] == digest_table(profiles(50), "PROFILES")
    assert first["OUTCOMES"] != fingerprint(one, one.head())["OUTCOMES"]


def test_outcomes_of_all_nights_agree_whichever_night_wrote_them(nights, tmp_path):
    one = make(str(tmp_path / "one"), nights)
    late = [dict(n) for n in nights]
    late[0]["OUTCOMES"] = outcomes(DAYS[0], [1, 2, 3]).slice(0, 1)
    rest = outcomes(DAYS[0], [1, 2, 3]).slice(1)
    moved = changed(rest, "run_date", [DAYS[1]] * 2)
    late[1]["OUTCOMES"] = pa.concat_tables([moved, outcomes(DAYS[1], [4, 5])])
    other = make(str(tmp_path / "late"), late)
    runs = (one, one.head()), (other, other.head())
    found, unchanged = compare(*runs)
    assert (found.table, found.status, found.ignored) == ("OUTCOMES", "equal", ("run_date",))
    assert str(found) == "OUTCOMES equal but for run_date"
    assert (str(unchanged), unchanged.ignored) == ("PROFILES equal", ())
    (strict,) = compare(*runs, tables=["OUTCOMES"], ignore={})
    assert strict.status == "differs"
    assert "run_date" in strict.detail


def test_sums_in_another_order_are_close(nights, tmp_path):
    one = make(str(tmp_path / "one"), nights)
    other = [dict(n) for n in nights]
    importance = nights[1]["PROFILES"]["importance"].to_numpy() * (1 + 3e-12)
    other[1]["PROFILES"] = changed(nights[1]["PROFILES"], "importance", importance.tolist())
    two = make(str(tmp_path / "two"), other)
    (found,) = compare((one, one.head()), (two, two.head()), tables=["PROFILES"])
    assert found.equal
    assert str(found).startswith("PROFILES equal to 1e-09: largest relative difference 3.")
    assert str(found).endswith("in importance")
    assert fingerprint(one, one.head())["PROFILES"] != fingerprint(two, two.head())["PROFILES"]


def test_a_table_that_one_run_lacks_differs(nights, tmp_path):
    one = make(str(tmp_path / "one"), nights)
    head = one.head()
    none = replace(head, tables={"OUTCOMES": head.tables["OUTCOMES"]})
    outcome, profile = compare((one, head), (one, none))
    assert (outcome.status, profile.status) == ("equal", "differs")


def test_the_tables_of_the_late_file_rule_exist():
    assert set(LATE_FILE_TABLES) <= set(SCHEMAS)
    assert set(STATE_TABLES) <= set(SCHEMAS)


def test_what_was_served_is_compared_night_by_night(tmp_path):
    def queries(date: dt.date, propensity: float) -> pa.Table:
        columns = {c.name: np.zeros(2) for c in SCHEMAS["QUERIES"].columns}
        columns |= {c: ["a", "a"] for c in ("surface", "query_type", "policy", "arm")}
        columns |= {"run_date": [date] * 2, "serve_date": [date] * 2, "slot": np.arange(2)}
        columns["draw_id"] = np.arange(1, 3)
        columns["conditions"] = pa.array(
            [[]] * 2, SCHEMAS["QUERIES"].arrow.field("conditions").type
        )
        return SCHEMAS["QUERIES"].build(columns | {"propensity": np.array([0.5, propensity])})

    def night(i: int, propensity: float) -> dict[str, pa.Table]:
        return {"QUERIES": queries(DAYS[i], propensity)}

    runs = []
    for name, last in (("one", 0.5), ("two", 0.5), ("three", 0.6)):
        first = [night(0, 0.5), night(1, last), night(2, 0.5)]
        made = make(str(tmp_path / name), first, files=2 if name == "two" else 1)
        runs.append((made, made.head()))
    assert [d.status for d in compare(runs[0], runs[1])] == ["equal"]
    (found,) = compare(runs[0], runs[2])
    assert found.detail == (
        "1 rows, first run_date 2024-01-02, user_id 0, surface a, slot 1: propensity is 0.5 and 0.6"
    )
    shorter = runs[0][0].night(DAYS[1])
    (missing,) = compare(runs[0], (runs[0][0], shorter))
    assert "only the left has run_date 2024-01-03" in missing.detail
