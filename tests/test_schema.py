"""The ground all tables stand on: schemas, options, hashes, decay, the catalogue, actions."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiling.actions import (
    Action,
    action_codes,
    action_masks,
    check_actions,
    counts_list,
    counts_matrix,
    mask_flags,
    mask_values,
)
from profiling.decay import DAY_US, half_life_weights, importance_weights
from profiling.hashing import buckets_of, hash63, hash64, mix64, text_hash, uniforms, unit_interval
from profiling.items import Items
from profiling.options import check_options, option
from profiling.schema import (
    TIMESTAMP,
    Column,
    TableSchema,
    floats,
    group_offsets,
    ints,
    sort_rows,
)
from profiling.tables import ITEMS, TOPIC_LIST, TOPICS

ROWS = TableSchema(
    "ROWS",
    2,
    ("id",),
    (
        Column("id", pa.int64(), "the row", low=0),
        Column("at", TIMESTAMP, "when"),
        Column("share", pa.float64(), "part of the whole", nullable=True, low=0, high=1),
        Column("value", pa.float64(), "what it is worth"),
        Column("name", pa.string(), "for people", nullable=True),
        Column("added", pa.int32(), "new in version 2", low=1),
    ),
    lifts={"added": 7},
)


def rows(**changes: Any) -> pa.Table:
    columns = {
        "id": np.array([3, 1, 2]),
        "at": np.array([30, 10, 20]),
        "share": pa.array([0.25, None, 1.0]),
        "value": np.array([-1.0, 0.0, 2.5]),
        "name": pa.array(["c", None, "Müsli 🥣"]),
        "added": np.array([1, 2, 3], np.int32),
    }
    return pa.table(columns | changes)


# TableSchema


def test_a_built_table_has_the_schema_and_says_its_version() -> None:
    table = ROWS.build({name: rows()[name] for name in ROWS.names})
    assert table.schema.equals(ROWS.arrow, check_metadata=True)
    assert table.schema.metadata == {b"queryloop.table": b"ROWS", b"queryloop.version": b"2"}
    assert ROWS.empty().schema.equals(ROWS.arrow, check_metadata=True)


def test_columns_come_in_stored_order_and_extra_ones_are_dropped() -> None:
    mixed = rows(extra=np.zeros(3)).select(["extra", "name", "added", "value", "share", "at", "id"])
    checked = ROWS.check(mixed)
    assert checked.column_names == ROWS.names
    assert checked["id"].to_pylist() == [3, 1, 2]


def test_a_missing_column_is_named_with_place_meaning_and_cure() -> None:
    with pytest.raises(
        ValueError, match=r"f\.csv: ROWS has no column 'value' \(what it is wor"
    ) as e:
        ROWS.check(rows().drop_columns(["value"]), "f.csv")
    assert "it has id, at, share, name, added" in str(e.value)
    assert "Rename or map" in str(e.value)


def test_a_column_of_a_later_version_gets_its_default() -> None:
    lifted = ROWS.check(rows().drop_columns(["added"]))
    assert lifted["added"].to_pylist() == [7, 7, 7]
    assert lifted["added"].type == pa.int32()
    assert ROWS.check(rows().drop_columns(["added"]).slice(0, 0)).num_rows == 0


def test_null_is_refused_where_it_may_not_be_and_kept_where_it_may() -> None:
    assert ROWS.check(rows())["share"].null_count == 1
    with pytest.raises(ValueError, match=r"x: ROWS, row 2: value is null; .*what it is worth"):
        ROWS.check(rows(value=pa.array([0.0, 1.0, None])), "x")


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("id", pa.array(["1", "2", "3"]), "text is not converted"),
        ("id", pa.array(["1", "2", "3"], pa.large_string()), "text is not converted"),
        ("at", pa.array(["2024-01-01"] * 3), "text is not converted"),
        ("name", pa.array([1, 2, 3]), "text is not converted"),
        ("id", pa.array([1.5, 2.0, 3.0]), "truncated"),
        ("added", pa.array([1, 2, 1 << 40]), "not in range"),
        ("id", pa.array([[1], [2], [3]]), "Store it as int64"),
    ],
)
def test_a_wrong_type_is_named_and_text_is_never_parsed(
    name: str, values: pa.Array, problem: str
) -> None:
    with pytest.raises(ValueError, match=f"ROWS: column '{name}' is .*, must be ") as e:
        ROWS.check(rows(**{name: values}))
    assert problem in str(e.value)


def test_lossless_casts_are_done() -> None:
    table = ROWS.check(
        rows(
            id=pa.array([3, 1, 2], pa.uint8()),
            value=pa.array([-1, 0, 2], pa.int32()),
            name=pa.array(["c", None, "d"]).dictionary_encode(),
            at=pa.array([30, 10, 20], pa.timestamp("ms", "UTC")),
        )
    )
    assert table.schema.equals(ROWS.arrow)
    assert ints(table, "at").tolist() == [30_000, 10_000, 20_000]
    assert table["name"].to_pylist() == ["c", None, "d"]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("id", np.array([0, 5, -1]), r"row 2: id \(the row\) is -1, must be at least 0\."),
        ("share", pa.array([0.5, None, 1.5]), r"row 2: share .* is 1.5, must be at least 0 and at"),
        ("share", pa.array([None, math.nan, 0.5]), r"row 1: share .* is nan"),
        ("share", pa.array([math.nan] * 3), r"row 0: share .* is nan"),
        ("value", np.array([1.0, math.nan, 2.0]), r"row 1: value .* is nan, must be a number"),
        ("added", np.array([1, 0, 1], np.int32), r"row 1: added .* is 0, must be at least 1"),
    ],
)
def test_a_value_out_of_its_range_is_named(name: str, values: Any, message: str) -> None:
    table = ROWS.check(rows(**{name: values}))
    with pytest.raises(ValueError, match=f"here: ROWS, {message}"):
        ROWS.check_ranges(table, "here")


def test_ranges_are_closed_and_null_lies_in_every_range() -> None:
    ROWS.check_ranges(ROWS.check(rows(share=pa.array([0.0, None, 1.0]), id=np.array([0, 1, 2]))))
    ROWS.check_ranges(ROWS.check(rows(share=pa.nulls(3, pa.float64()))))
    ROWS.check_ranges(ROWS.empty())


def test_ranges_are_found_in_any_chunk() -> None:
    good = ROWS.check(rows())
    bad = ROWS.check(rows(share=pa.array([0.1, 0.2, -0.5])))
    with pytest.raises(ValueError, match="row 8: share"):
        ROWS.check_ranges(pa.concat_tables([good, good, bad]))


def test_of_width_fixes_the_vectors_and_nothing_else() -> None:
    narrow = ITEMS.of_width(3)
    vector = pa.list_(pa.float32(), 3)
    assert narrow.arrow.field("embedding").type == vector
    assert [n for n in narrow.names if n != "embedding"] == [
        n for n in ITEMS.names if ITEMS.arrow.field(n).type == narrow.arrow.field(n).type
    ]
    assert (narrow.name, narrow.version, narrow.key) == (ITEMS.name, ITEMS.version, ITEMS.key)
    table = pa.table({"topic_id": [1], "name": ["a"], "embedding": pa.array([[1.0, 2.0]])})
    with pytest.raises(ValueError, match=r"'embedding' is .*, must be fixed_size_list"):
        TOPICS.of_width(3).check(table)


def test_ints_and_floats_refuse_what_they_cannot_say() -> None:
    table = rows(day=pa.array([19000, 19001, 19002], pa.int32()).cast(pa.date32()))
    assert ints(table, "day").tolist() == [19000, 19001, 19002]
    assert np.isnan(floats(table, "share")).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="name has 1 nulls"):
        ints(table, "name")


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=20))
def test_sort_rows_and_group_offsets(pairs: list[tuple[int, int]]) -> None:
    table = pa.table(
        {
            "a": pa.array([a for a, _ in pairs], pa.int64()),
            "b": pa.array([b for _, b in pairs], pa.int64()),
        }
    )
    table = sort_rows(table, ("a", "b"))
    done = list(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True))
    assert done == sorted(pairs)
    bounds = group_offsets(table["a"].to_numpy()).tolist()
    runs = [{a for a, _ in done[i:j]} for i, j in pairwise(bounds)]
    assert [r.pop() for r in runs if len(r) == 1] == sorted({a for a, _ in pairs})
    assert (bounds[0], bounds[-1]) == (0, len(pairs))


# Options


@dataclasses.dataclass(frozen=True)
class Config:
    share: float = option(0.5, "a share", low=0, high=1)
    count: int = option(3, "how many", low=1)
    kind: str = option("a", "which", choices=("a", "b"))
    on: bool = option(True, "whether")

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.01}, "share must be <= 1, got 1.01"),
        ({"share": -0.5}, "share must be >= 0, got -0.5"),
        ({"share": math.nan}, "share must be a number, got nan"),
        ({"share": math.inf}, "share must be <= 1, got inf"),
        ({"count": 0}, "count must be >= 1, got 0"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_options_at_their_bounds_hold() -> None:
    assert Config(share=0, count=1, kind="b", on=False).share == 0
    assert Config(share=1.0).kind == "a"


# Hashes: these values are frozen. Rows lie in the buckets, and draws have the ids, that they gave.


def test_hashes_never_change() -> None:
    assert mix64([0, 1, 2**63 - 1]).tolist() == [
        16294208416658607535,  # the first output of splitmix64 seeded with 0, as published
        10451216379200822465,
        3055647633038352039,
    ]
    assert hash64(1, 2, 3).tolist() == [5631902732087738355]
    assert hash64("a", 7).tolist() == [1742695472024868762]
    assert hash64("", 0).tolist() == [7743488117342697348]
    assert text_hash("queryloop") == 11431724308941022560
    assert text_hash("queryloop", b"key") == 4463514923833597313
    assert hash63("x", 5).tolist() == [8672011333554252571]
    assert hash63("x", 5)[0] == hash64("x", 5)[0] >> np.uint64(1)


def test_buckets_never_change() -> None:
    assert buckets_of(np.arange(12), 16).tolist() == [0, 7, 9, 6, 5, 6, 2, 6, 4, 1, 5, 4]
    assert buckets_of([2**62, 2**63 - 1], 1024).tolist() == [48, 158]


def test_a_hash_goes_by_every_part_its_place_and_its_kind() -> None:
    hashes = [hash64(*parts)[0] for parts in [(1,), (1, 2), (2, 1), (1, 2, 0), ("1", 2), (1, "2")]]
    assert len(set(hashes)) == len(hashes)
    ids = np.arange(5)
    assert hash64("s", ids).tolist() == [hash64("s", int(i))[0] for i in ids]


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=50), st.integers(0, 12))
def test_doubling_the_buckets_splits_each_in_two(users: list[int], doublings: int) -> None:
    n = 1 << doublings
    before, after = buckets_of(users, n), buckets_of(users, 2 * n)
    assert ((after == before) | (after == before + n)).all()
    assert ((before >= 0) & (before < n)).all()


def test_buckets_are_even_and_a_power_of_two() -> None:
    counts = np.bincount(buckets_of(np.arange(64_000), 64), minlength=64)
    assert np.abs(counts - 1000).max() < 5 * math.sqrt(1000)  # Poisson, 5 standard errors
    for n in (0, 3, -4, 12):
        with pytest.raises(ValueError, match=f"power of two, got {n}"):
            buckets_of([1], n)


def test_uniforms_lie_within_0_and_1_and_are_even() -> None:
    drawn = uniforms("u", 3, np.arange(100_000))
    assert 0.0 < drawn.min() < drawn.max() < 1.0
    assert abs(drawn.mean() - 0.5) < 4 / math.sqrt(12 * 100_000)
    assert abs((drawn < 0.1).mean() - 0.1) < 4 * math.sqrt(0.09 / 100_000)
    edges = unit_interval(np.array([0, 2**64 - 1], np.uint64))
    assert edges.tolist() == [2.0**-54, 1.0 - 2.0**-53]


# Decay


def test_decay_by_hand() -> None:
    at, as_of = np.array([0, 5 * DAY_US, 10 * DAY_US]), 10 * DAY_US
    np.testing.assert_allclose(
        importance_weights(at, as_of, 0.01), [math.exp(-0.1), math.exp(-0.05), 1.0], rtol=1e-15
    )
    np.testing.assert_allclose(
        half_life_weights(at, as_of, 5.0), [2.0**-2, 2.0**-1, 1.0], rtol=1e-15
    )
    half_a_day = half_life_weights(np.array([DAY_US // 2]), DAY_US, 1.0)
    np.testing.assert_allclose(half_a_day, [math.sqrt(0.5)], rtol=1e-15)
    assert half_life_weights(as_of + DAY_US, as_of, 1.0) == 2.0  # an event after as_of weighs more


def test_decay_composes() -> None:
    at, middle, end = np.array([0, DAY_US]), 3 * DAY_US, 11 * DAY_US
    once = half_life_weights(at, end, 7.0)
    twice = half_life_weights(at, middle, 7.0) * half_life_weights(middle, end, 7.0)
    np.testing.assert_allclose(once, twice, rtol=1e-15)


# Items


def catalogue(ids: list[int], **changes: Any) -> pa.Table:
    n = len(ids)
    columns: dict[str, Any] = {
        "item_id": np.array(ids, np.int64),
        "embedding": pa.array(
            [[3.0 * i, 4.0 * i] for i in range(1, n + 1)], pa.list_(pa.float32(), 2)
        ),
        "embedding_version": ["v1"] * n,
        "topics": pa.array([[] for _ in ids], TOPIC_LIST),
        "created_at": pa.nulls(n, TIMESTAMP),
        "labels": [[] for _ in ids],
        "title": pa.nulls(n, pa.string()),
    }
    return ITEMS.of_width(2).build(columns | changes)


def topics(*lists: list[tuple[int, float]]) -> pa.Array:
    return pa.array(
        [[{"topic_id": t, "confidence": c} for t, c in pairs] for pairs in lists], TOPIC_LIST
    )


def test_items_are_sorted_unit_rows_found_by_id() -> None:
    items = Items.from_table(catalogue([9, 2, 5]))
    assert items.ids.tolist() == [2, 5, 9]
    np.testing.assert_allclose(items.vectors, [[0.6, 0.8]] * 3, rtol=1e-7)
    assert items.vectors.dtype == np.float32
    assert (items.width, items.version) == (2, "v1")
    assert items.rows_of([5, 4, 9, 2, 10, -1]).tolist() == [1, -1, 2, 0, -1, -1]
    assert items.rows_of([]).tolist() == []


def test_the_last_row_of_an_id_holds() -> None:
    table = catalogue(
        [1, 2, 1],
        embedding=pa.array([[1.0, 0.0], [0.0, 2.0], [0.0, -5.0]], pa.list_(pa.float32(), 2)),
        embedding_version=["old", "new", "new"],
        topics=topics([(1, 1.0)], [(2, 0.5)], [(3, 0.25), (2, 1.0)]),
        created_at=pa.array([7, None, 8], pa.int64()).cast(TIMESTAMP),
    )
    items = Items.from_table(table)
    assert items.ids.tolist() == [1, 2]
    assert items.version == "new"  # the old version is gone with its row
    assert items.vectors.tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert items.topic_offsets.tolist() == [0, 2, 3]
    assert items.topic_ids.tolist() == [3, 2, 2]
    assert items.topic_confidences.tolist() == [0.25, 1.0, 0.5]
    assert items.created_at.tolist() == [8, np.iinfo(np.int64).min]


def test_mixed_embedding_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="ITEMS mixes embedding versions a, b; import the whole"):
        Items.from_table(catalogue([1, 2], embedding_version=["b", "a"]))


def test_a_zero_vector_stays_zero() -> None:
    zero = pa.array([[0.0, 0.0], [0.0, 1e-30]], pa.list_(pa.float32(), 2))
    assert Items.from_table(catalogue([1, 2], embedding=zero)).vectors[0].tolist() == [0.0, 0.0]


def test_items_by_topic_lists_rows_ascending() -> None:
    items = Items.from_table(
        catalogue([30, 10, 20], topics=topics([(8, 1.0), (5, 1.0)], [(8, 0.1)], []))
    )
    ids, offsets, found = items.items_by_topic
    assert ids.tolist() == [5, 8]
    assert offsets.tolist() == [0, 1, 3]
    assert found.tolist() == [2, 0, 2]  # item 30 is row 2, item 10 is row 0


def test_an_empty_catalogue_knows_nothing() -> None:
    items = Items.from_table(ITEMS.empty())
    assert items.rows_of([1, 2]).tolist() == [-1, -1]
    assert [a.tolist() for a in items.items_by_topic] == [[], [0], []]


# Actions

ACTIONS = (Action("view", 0.75), Action("like", 0.5), Action("hate", -1.0, positive=False))


def test_action_codes_masks_and_values_by_hand() -> None:
    assert action_codes(pa.array(["like", "view", "share", None]), ACTIONS).tolist() == [
        1,
        0,
        -1,
        -1,
    ]
    lists = pa.chunked_array([pa.array([["view", "hate"], [], None, ["like", "like"]])])
    masks = action_masks(lists, ACTIONS)
    assert masks.tolist() == [0b101, 0, 0, 0b010]
    assert mask_values(masks, ACTIONS).tolist() == [0.75 - 1.0, 0.0, 0.0, 0.5]
    assert mask_flags(masks, 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_counts_survive_an_appended_action() -> None:
    counts = np.array([[3, 0, 1], [0, 0, 0]])
    stored = pa.chunked_array([counts_list(counts)])
    assert stored.to_pylist() == counts.tolist()
    np.testing.assert_array_equal(counts_matrix(stored, 3), counts)
    np.testing.assert_array_equal(counts_matrix(stored, 5), [[3, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    ragged = pa.chunked_array([pa.array([[1], []], pa.list_(pa.int64())), pa.array([[2, 3]])])
    np.testing.assert_array_equal(counts_matrix(ragged, 2), [[1, 0], [0, 0], [2, 3]])


def test_counts_of_a_slice_are_its_own() -> None:
    stored = pa.chunked_array([counts_list(np.arange(12).reshape(4, 3))]).slice(2, 1)
    assert counts_matrix(stored, 3).tolist() == [[6, 7, 8]]
    lists = pa.chunked_array([pa.array([["view"], ["like"], ["hate"]])]).slice(1, 2)
    assert action_masks(lists, ACTIONS).tolist() == [0b010, 0b100]


def test_lists_of_actions_that_cannot_be_used_are_refused() -> None:
    check_actions(ACTIONS)
    check_actions(tuple(Action(f"a{i}") for i in range(62)))
    for number in (0, 63):
        with pytest.raises(ValueError, match=f"1 to 62, got {number}"):
            check_actions(tuple(Action(f"a{i}") for i in range(number)))
    with pytest.raises(ValueError, match="got 'view' twice"):
        check_actions((*ACTIONS, Action("view")))
    with pytest.raises(ValueError, match="importance must be >= 0"):
        Action("x", importance=-1.0)
