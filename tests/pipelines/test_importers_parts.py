"""The parts of the importers: digests, keys, times, lists and item vectors."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers.digests import column_hashes, row_digests
from pipelines.importers.embeddings import co_engagement_vectors, place_without_history
from pipelines.importers.keys import KeyBook, hash_id
from pipelines.importers.lists import any_in_list, split_text
from pipelines.importers.rejects import raw_json
from pipelines.importers.scalars import text_to_floats, text_to_ints
from pipelines.importers.times import parse_times
from profiling.hashing import text_hash

CELL = st.none() | st.integers(-(2**63), 2**63 - 1)
TYPES = [
    (pa.int64(), CELL),
    (pa.string(), st.none() | st.text(max_size=4)),
    (pa.float64(), st.none() | st.floats()),
    (pa.list_(pa.int64()), st.none() | st.lists(CELL, max_size=3)),
    (pa.list_(pa.string()), st.none() | st.lists(st.text(max_size=2), max_size=3)),
]


@pytest.mark.parametrize(("kind", "cells"), TYPES)
@given(data=st.data())
def test_a_row_hashes_as_it_does_alone(
    kind: pa.DataType, cells: st.SearchStrategy[object], data: st.DataObject
) -> None:
    values = data.draw(st.lists(cells, min_size=1, max_size=8))
    whole = column_hashes(pa.array(values, kind))
    alone = [column_hashes(pa.array([v], kind))[0] for v in values]
    np.testing.assert_array_equal(whole, np.array(alone))
    split = pa.chunked_array([pa.array(values[:3], kind), pa.array(values[3:], kind)])
    np.testing.assert_array_equal(column_hashes(split), whole)


@given(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=12))
def test_lists_hash_alike_only_if_they_are_alike(lists: list[list[int]]) -> None:
    hashes = column_hashes(pa.array(lists, pa.list_(pa.int64()))).tolist()
    assert len(set(hashes)) == len({tuple(x) for x in lists})


def test_width_and_encoding_do_not_matter_but_null_and_order_do() -> None:
    ints8, ints64 = pa.array([1, 2], pa.int8()), pa.array([1, 2], pa.int64())
    np.testing.assert_array_equal(column_hashes(ints8), column_hashes(ints64))
    text = pa.array(["a", None, "a"])
    np.testing.assert_array_equal(column_hashes(text), column_hashes(text.dictionary_encode()))
    zero = column_hashes(pa.array([0, None]))
    assert zero[0] != zero[1]
    signed = column_hashes(pa.array([0.0, -0.0, 1.5]))
    assert signed[0] == signed[1] != signed[2]
    a, b = pa.array([1]), pa.array([2])
    assert row_digests([a, b])[0] != row_digests([b, a])[0]
    fixed = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    open_ = pa.array([[1.0, 2.0]], pa.list_(pa.float64()))
    assert column_hashes(fixed)[0] == column_hashes(open_)[0]


def test_text_ids_are_63_bits_of_the_keyed_hash() -> None:
    book = KeyBook(b"k")
    ids = book.ids_of("user", pa.array(["u", None, "v", "u"])).to_pylist()
    assert ids == [int(text_hash("u", b"k")) >> 1, None, int(text_hash("v", b"k")) >> 1, ids[0]]
    assert KeyBook(b"other").ids_of("user", pa.array(["u"]))[0].as_py() != ids[0]
    assert book.table()["original"].to_pylist() == [
        t for _, t in sorted(zip((ids[0], ids[2]), "uv", strict=True))
    ]
    with pytest.raises(ValueError, match="1 to 64 bytes, got 0"):
        KeyBook(b"")


def test_a_collision_with_an_earlier_import_is_an_error() -> None:
    known = pa.table({"kind": ["user"], "id": [int(hash_id("u", b"k"))], "original": ["other"]})
    book = KeyBook(b"k", known)
    book.ids_of("item", pa.array(["u"]))  # another kind may have it
    book.table()
    book.ids_of("user", pa.array(["u"]))
    with pytest.raises(ValueError, match="'other' and 'u' have the same hash"):
        book.table()


NAIVE = datetime.datetime.fromisoformat
MOMENT = st.datetimes(NAIVE("1900-01-01T00:00:00"), NAIVE("2090-01-01T00:00:00"))


@given(MOMENT, st.integers(-14 * 60, 14 * 60), st.sampled_from("T "))
def test_iso_text_is_read_as_python_reads_it(
    moment: datetime.datetime, minutes: int, between: str
) -> None:
    zone = datetime.timezone(datetime.timedelta(minutes=minutes))
    aware = moment.replace(tzinfo=zone)
    zulu = moment.replace(tzinfo=datetime.UTC)
    texts = [aware.isoformat(between), moment.isoformat(between), moment.date().isoformat()]
    parsed = parse_times(pa.array(texts), None, "here")
    day = datetime.datetime.combine(moment.date(), datetime.time(), datetime.UTC)
    assert parsed.values.to_pylist() == [aware, zulu, day]
    assert not any(f.mask.any() for f in parsed.faults)


def test_times_of_every_unit_are_the_same_moment() -> None:
    micros = 1_650_812_741_436_000
    columns = [
        (pa.array([micros * 1000]).cast(pa.timestamp("ns")), None),
        (pa.array([micros // 1000]).cast(pa.timestamp("ms", "Asia/Shanghai")), None),
        (pa.array([micros]), "us"),
        (pa.array([micros // 1000]), "ms"),
        (pa.array([str(micros // 1000)]), "ms"),
        (pa.array([micros / 1e6]), "s"),
    ]
    for raw, unit in columns:
        values = parse_times(raw, unit, "here").values
        assert values.type == pa.timestamp("us", "UTC")
        assert values.cast(pa.int64()).to_pylist() == [micros]


def test_a_number_with_the_wrong_unit_is_a_fault() -> None:
    parsed = parse_times(pa.array([1_650_812_741_436, 5]), "s", "here")
    assert [f.mask.tolist() for f in parsed.faults] == [[False, False], [True, False]]


@given(st.lists(st.none() | st.text("0123456789-.e x", max_size=6) | CELL.map(str), max_size=9))
def test_numbers_in_text_are_what_python_takes_them_for(texts: list[str | None]) -> None:
    values, bad = text_to_ints(pa.array(texts, pa.string()))
    for text, value, is_bad in zip(texts, values.to_pylist(), bad, strict=True):
        if value is not None:
            assert int(str(text)) == value
        assert is_bad == (text is not None and value is None)
        plain = text is not None and text.strip().lstrip("-").isdigit()
        if plain and str(int(str(text))) == str(text).strip() and abs(int(str(text))) < 2**63:
            assert value is not None
    numbers, bad = text_to_floats(pa.array(texts, pa.string()))
    for text, value, is_bad in zip(texts, numbers.to_pylist(), bad, strict=True):
        if value is not None:
            assert float(str(text)) == value
        assert is_bad == (text is not None and value is None)


def test_delimited_text_becomes_lists() -> None:
    lists = split_text(pa.array(["a| b ", "", None, "|c|"]), "|")
    assert lists.to_pylist() == [["a", "b"], [], None, ["c"]]
    hit = any_in_list(np.array([False, True, False]), np.array([0, 2, 1]))
    assert hit.tolist() == [False, True, False]


def test_raw_rows_are_json_for_any_reader() -> None:
    row = {"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": None}, "e": b"x"}
    assert json.loads(raw_json(row)) == {
        "a": "nan",
        "b": ["inf", 1.0],
        "c": {"d": None},
        "e": "b'x'",
    }


def _tastes(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """60 users of two tastes: items 0 to 9 are engaged by the one half, 10 to 19 by the other."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(60), 5)
    items = rng.integers(0, 10, len(users)) + 10 * (users % 2)
    return users, items


def test_items_of_one_taste_lie_together() -> None:
    users, items = _tastes()
    vectors = co_engagement_vectors(users, items, 22, width=8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(vectors[:20], axis=1), 1.0, atol=1e-6)
    assert not vectors[20:].any()  # never engaged
    cosine = vectors[:20] @ vectors[:20].T
    off = ~np.eye(10, dtype=bool)
    within = (cosine[:10, :10][off].mean() + cosine[10:, 10:][off].mean()) / 2
    assert within > 0.1
    np.testing.assert_allclose(cosine[:10, 10:], 0.0, atol=1e-6)


def test_vectors_do_not_depend_on_order_repeats_or_user_names() -> None:
    users, items = _tastes()
    vectors = co_engagement_vectors(users, items, 20, width=8, seed=0)
    order = np.random.default_rng(1).permutation(len(users))
    twice = np.r_[order, order[:50]]
    again = co_engagement_vectors(users[twice] + 1000, items[twice], 20, width=8, seed=0)
    np.testing.assert_array_equal(vectors, again)


def test_vectors_factorise_the_ppmi_matrix() -> None:
    # Users {0, 1}, {0, 1}, {2, 3}: C_01 = 2, C_23 = 1, so PPMI_01 = log(2 / (2 p_1)) and so on.
    users, items = np.array([1, 1, 2, 2, 3, 3]), np.array([0, 1, 0, 1, 2, 3])
    p = np.array([2.0, 2.0, 1.0, 1.0]) ** 0.75
    p /= p.sum()
    ppmi = np.zeros((4, 4))
    ppmi[0, 1] = ppmi[1, 0] = np.log(1 / p[0])
    ppmi[2, 3] = ppmi[3, 2] = np.log(1 / p[2])
    u, s, _ = np.linalg.svd(ppmi)
    exact = u * np.sqrt(s)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    vectors = co_engagement_vectors(users, items, 4, width=4, seed=0)
    np.testing.assert_allclose(vectors @ vectors.T, exact @ exact.T, atol=1e-5)


def test_narrow_worlds_and_no_history_still_give_unit_vectors() -> None:
    none = np.zeros(0, np.int64)
    empty = co_engagement_vectors(none, none, 3, width=4, seed=0)
    assert empty.shape == (3, 4)
    placed = place_without_history(empty, [(none, none)])
    np.testing.assert_array_equal(placed.vectors, np.eye(4, dtype=np.float32)[[0, 0, 0]])
    assert (placed.engaged, placed.placed, placed.central) == (0, 0, 3)


def test_an_item_is_placed_at_the_mean_of_its_groups_means() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0, 0], [0, 0]], np.float32)
    tags = (np.array([0, 1, 2, 3]), np.array([5, 5, 6, 5]))  # item 3 has tag 5: mean (.5, .5)
    authors = (np.array([2, 3, 4]), np.array([8, 8, 9]))  # and the author of item 2: (0, 1)
    placed = place_without_history(vectors, [tags, authors])
    want = np.array([0.25, 0.75]) / np.hypot(0.25, 0.75)
    np.testing.assert_allclose(placed.vectors[3], want, atol=1e-6)
    np.testing.assert_allclose(placed.vectors[4], np.array([1, 2]) / np.sqrt(5), atol=1e-6)
    np.testing.assert_array_equal(placed.vectors[:3], vectors[:3])
    assert (placed.engaged, placed.placed, placed.central) == (3, 1, 1)
