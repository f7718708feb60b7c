"""What the importer of tables does with bad rows, bad files and bad mappings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiling.schema import ints
from tests.pipelines.import_files import (
    DRAW,
    EVENT,
    ITEM,
    SHOWN,
    parquet_file,
    read,
    read_one,
    refused_rows,
    text_file,
)

BAD_EVENTS = [
    ({"user_id": -4}, "user_id is -4: an id must be 0 or more"),
    ({"user_id": None}, "user_id is null: every row must have one (who); fill it in"),
    ({"item_id": None}, "item_id is null"),
    ({"action": "buy"}, "action is 'buy': the configured actions are long_view, like, hate"),
    ({"action": None}, "action is null"),
    ({"at": "1969-12-31T23:59:59Z"}, "a time must not be before 1970"),
    ({"at": "2200-01-01"}, "at is '2200-01-01': it is in the future: now is 2024-10-04T"),
    ({"at": "yesterday"}, "at is 'yesterday': a time must look like 2022-04-25T07:30:00Z"),
    ({"at": "2021-02-30"}, "at is '2021-02-30': a time must look like"),
    ({"event_id": -1}, "event_id is -1"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_EVENTS)
def test_a_bad_event_is_rejected(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    base = {"event_id": 1} | EVENT
    log = read_one(tmp_path, "ENGAGEMENTS", base, base | change, base)
    ((row, said),) = refused_rows(log)
    assert row == 2
    assert reason in said
    assert log.tables["ENGAGEMENTS"].num_rows == 2
    raw = json.loads(log.rejected["raw"][0].as_py())
    assert raw[next(iter(change))] == next(iter(change.values()))


NAN, INF = float("nan"), float("inf")
BAD_ITEMS = [
    ({"embedding": [1.0]}, "a vector must have 2 numbers"),
    ({"embedding": [1.0, 2.0, 3.0]}, "a vector must have 2 numbers"),
    ({"embedding": [NAN, 1.0]}, "finite numbers only"),
    ({"embedding": [1.0, INF]}, "finite numbers only"),
    ({"embedding": [1.0, 1e39]}, "finite numbers only"),
    ({"embedding": [1.0, None]}, "finite numbers only"),
    ({"embedding": [0.0, 0.0]}, "must not be zero"),
    ({"embedding": []}, "a vector must have 2 numbers"),
    ({"embedding": None}, "embedding is null: every row must have one (content vector"),
    ({"item_id": -1}, "item_id is -1"),
    ({"topics": [{"topic_id": 1, "confidence": 1.5}]}, "a confidence must be >= 0 and <= 1"),
    ({"topics": [{"topic_id": 1, "confidence": NAN}]}, "a confidence must be >= 0 and <= 1"),
    ({"topics": [{"topic_id": -1, "confidence": 1.0}]}, "an id must be 0 or more"),
    ({"topics": [{"topic_id": None, "confidence": 1.0}]}, "a topic_id must not be null"),
    ({"labels": [{"label": "gore", "score": -0.5}]}, "a score must be >= 0 and <= 1"),
    ({"created_at": "soon"}, "created_at is 'soon'"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_ITEMS)
def test_a_bad_item_is_rejected(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    base = ITEM | {
        "topics": [{"topic_id": 1, "confidence": 0.5}],
        "labels": [{"label": "gore", "score": 0.5}],
        "created_at": "1950-06-01",
    }
    log = read_one(tmp_path, "ITEMS", base, base | {"item_id": 2}, base | {"item_id": 3} | change)
    ((row, said),) = refused_rows(log)
    assert row == 3
    assert reason in said
    assert log.tables["ITEMS"]["item_id"].to_pylist() == [1, 2]
    json.loads(log.rejected["raw"][0].as_py(), parse_constant=pytest.fail)


BAD_CELLS = [
    ("x,1,like,2022-04-25", "user_id is 'x': no integer"),
    ("007,1,like,2022-04-25", "user_id is '007': no integer"),
    ("9223372036854775808,1,like,2022-04-25", "no integer"),
    (",1,like,2022-04-25", "user_id is null"),
    ("1,1,like", "the line has not the 4 cells of the header"),
    ("1,1,like,2022-04-25,5", "the line has not the 4 cells of the header"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CELLS)
def test_a_bad_csv_line_is_rejected(tmp_path: Path, line: str, reason: str) -> None:
    good = "1,1,like,2022-04-25\n"
    text = f"user_id,item_id,action,at\n{good}{line}\n{good}{good}-2,1,like,2022-04-25\n"
    log = read({"ENGAGEMENTS": text_file(tmp_path / "e.csv", text)})
    refused = refused_rows(log)
    assert [row for row, _ in refused] == [2, 5]
    assert reason in refused[0][1]
    assert log.tables["ENGAGEMENTS"].num_rows == 3


def test_a_draws_probability_lies_in_its_range(tmp_path: Path) -> None:
    rows = [DRAW | {"propensity": p, "draw_id": i + 1} for i, p in enumerate((0.0, 1.0, 1.1, NAN))]
    log = read_one(tmp_path, "SERVED_DRAWS", *rows, DRAW | {"draw_id": 0})
    assert ints(log.tables["SERVED_DRAWS"], "draw_id").tolist() == [1, 2]
    assert [row for row, _ in refused_rows(log)] == [3, 4, 5]


def test_two_texts_with_one_hash_stop_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.importers.keys.hash_id", lambda text, key: np.int64(7))
    with pytest.raises(ValueError, match="item ids 'a' and 'b' have the same hash 7"):
        read_one(tmp_path, "ITEMS", ITEM | {"item_id": "a"}, ITEM | {"item_id": "b"})


def test_a_missing_column_is_named_with_the_cure(tmp_path: Path) -> None:
    row = {k: v for k, v in EVENT.items() if k != "at"} | {"when": 1}
    said = r"engagements\.parquet: no column 'at'; it has user_id, .*when.*engagements: \{at:"
    with pytest.raises(ValueError, match=said):
        read_one(tmp_path, "ENGAGEMENTS", row)


WRONG_TYPES = [
    ("ENGAGEMENTS", EVENT | {"user_id": [1]}, "user_id is list"),
    ("ENGAGEMENTS", EVENT | {"user_id": True}, "user_id is bool"),
    ("ENGAGEMENTS", EVENT | {"at": 1_650_000_000}, "numbers, which do not say their unit"),
    ("ENGAGEMENTS", EVENT | {"at": "1650000000"}, "numbers, which do not say their unit"),
    ("ENGAGEMENTS", EVENT | {"at": True}, "at is bool, no time"),
    ("ENGAGEMENTS", EVENT | {"action": ["like"]}, "action is list"),
    ("ITEMS", ITEM | {"embedding": 1.0}, "embedding is double, must be a list of floats"),
    ("ITEMS", ITEM | {"embedding": ["a"]}, "must be a list of floats"),
    ("ITEMS", ITEM | {"topics": 1.5}, "topics is double"),
    ("ITEMS", ITEM | {"topics": [{"id": 1}]}, "name the fields so"),
    ("IMPRESSIONS", SHOWN | {"actions": 3}, "actions is int64"),
]


@pytest.mark.parametrize(("table", "row", "said"), WRONG_TYPES)
def test_a_type_that_will_not_do_stops_the_import(
    tmp_path: Path, table: str, row: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read_one(tmp_path, table, row)
    assert f"{table.lower()}.parquet" in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "e.parquet", [EVENT] * 50)
    path.write_bytes(path.read_bytes()[:200])
    damaged = parquet_file(tmp_path / "d.parquet", [EVENT | {"user_id": i} for i in range(999)])
    body = bytearray(damaged.read_bytes())
    body[4:900] = bytes(896)  # the footer is whole, the pages are not
    damaged.write_bytes(body)
    cases = {
        path: "truncated or damaged",
        damaged: "truncated or damaged",
        text_file(tmp_path / "empty.csv", ""): "is empty",
        text_file(tmp_path / "head.csv", "user_id,item_id,action,at\n"): "no rows",
        text_file(tmp_path / "e.json", "{}"): r"\.json is not a known format",
        tmp_path / "gone.parquet": "no such file, folder or glob",
    }
    (tmp_path / "latin.csv").write_bytes(b"user_id,item_id,action,at\n1,1,\xe9,2022-01-01\n")
    cases[tmp_path / "latin.csv"] = "cannot be read as CSV in UTF-8"
    for bad, said in cases.items():
        with pytest.raises(ValueError, match=said) as error:
            read({"ENGAGEMENTS": bad})
        assert bad.name in str(error.value)
    twice = text_file(tmp_path / "twice.csv", "user_id,user_id\n1,2\n")
    with pytest.raises(ValueError, match="two columns are named 'user_id'"):
        read({"ENGAGEMENTS": twice})
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="the folder has no file"):
        read({"ENGAGEMENTS": tmp_path / "none"})
    with pytest.raises(ValueError, match="USERS is no table to import"):
        read({"USERS": path})


BAD_MAPPINGS = [
    ("views:\n  a: b\n", r"line 1: 'views' is not known; use items"),
    ("items:\n  item_id: a\n  colour: b\n", r"line 3: 'colour' is not known; use item_id"),
    ("items:\n  item_id: {from: a}\n", r"line 2: 'from' is not known; use column"),
    ("items:\n  item_id: a\n  item_id: b\n", r"line 3: 'item_id' comes twice"),
    ("items:\n  item_id: {unit: s}\n", r"line 2: give either `column` or `constant`, got unit"),
    ("items:\n  item_id:\n", r"line 2: give a column"),
    ("engagements:\n  at: {column: t, unit: h}\n", r"line 2: a unit is s, ms, us, got 'h'"),
    ("items:\n  topics: {column: t, delimiter: ''}\n", r"line 2: the delimiter is empty"),
    ("ids: {user: number}\n", r"line 1: ids are `text` or `integer`, got 'number'"),
    ("ids: {person: text}\n", r"line 1: 'person' is not known; use user"),
    ("items: 3\n", "line 1: must be `key: value` lines"),
    ("- a\n", "must be `key: value` lines"),
    ("a: [\n", "not YAML"),
]


@pytest.mark.parametrize(("text", "said"), BAD_MAPPINGS)
def test_a_bad_mapping_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    mapping = text_file(tmp_path / "m.yaml", text)
    with pytest.raises(ValueError, match=said) as error:
        read_one(tmp_path, "ITEMS", ITEM, mapping=mapping)
    assert "m.yaml" in str(error.value)


def test_a_mapping_to_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    mapping = text_file(tmp_path / "m.yaml", "items:\n  title: name\n")
    with pytest.raises(ValueError, match="no column 'name'"):
        read_one(tmp_path, "ITEMS", ITEM, mapping=mapping)
    with pytest.raises(ValueError, match="no such mapping file"):
        read_one(tmp_path, "ITEMS", ITEM, mapping=tmp_path / "gone.yaml")
