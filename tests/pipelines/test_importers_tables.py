"""The importer of tables: any log that follows our names or is mapped to them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from pipelines.importers.keys import hash_id
from profiling.schema import ints
from profiling.tables import ENGAGEMENTS, ITEMS, REJECTED, TOPICS
from selection.tables import IMPRESSIONS, SERVED_DRAWS
from tests.pipelines.import_files import (
    DRAW,
    EVENT,
    ITEM,
    KEY,
    SHOWN,
    parquet_file,
    read,
    read_one,
    refused_rows,
    text_file,
)

UTC = datetime.UTC


def test_parquet_files_with_our_names_conform(tmp_path: Path) -> None:
    log = read(
        {
            "ITEMS": parquet_file(tmp_path / "i.parquet", [ITEM]),
            "TOPICS": parquet_file(tmp_path / "t.parquet", [{"topic_id": 3, "name": "films"}]),
            "ENGAGEMENTS": parquet_file(tmp_path / "e.parquet", [EVENT]),
            "IMPRESSIONS": parquet_file(tmp_path / "s.parquet", [SHOWN]),
            "SERVED_DRAWS": parquet_file(tmp_path / "d.parquet", [DRAW]),
        }
    )
    for schema in (ITEMS, TOPICS, ENGAGEMENTS, IMPRESSIONS, SERVED_DRAWS):
        table = log.tables[schema.name]
        assert table.schema.equals(schema.of_width(2).arrow), schema.name
        assert table.num_rows == 1
    assert log.rejected.num_rows == 0
    assert log.rejected.schema.equals(REJECTED.arrow)
    shown = log.tables["IMPRESSIONS"].to_pylist()[0]
    assert shown["actions"] is None
    assert shown["surface"] == "home"
    assert log.starts_at == ints(log.tables["IMPRESSIONS"], "at")[0]
    assert log.tables["SERVED_DRAWS"]["query_type"].to_pylist() == ["item"]
    assert [s.rows for s in log.sources] == [1] * 5


CSV_ITEMS = "item_id,embedding,topics,title\n1,0.5 0.5,3|4,first\n2,[1.0; 0.0],,\n"
CSV_EVENTS = "user_id,item_id,action,at,event_id\n7,1,like,2022-04-25 01:00:00,11\n"


def test_csv_and_parquet_of_the_same_rows_are_the_same_rows(tmp_path: Path) -> None:
    text_file(tmp_path / "items.csv", CSV_ITEMS)
    events = text_file(tmp_path / "events.csv", CSV_EVENTS)
    items = [
        {"item_id": 1, "embedding": [0.5, 0.5], "topics": [3, 4], "title": "first"},
        {"item_id": 2, "embedding": [1.0, 0.0], "topics": [], "title": None},
    ]
    at = datetime.datetime(2022, 4, 25, 1, tzinfo=UTC)
    event = {"user_id": 7, "item_id": 1, "action": "like", "at": at, "event_id": 11}
    text = read({"ITEMS": tmp_path / "items.csv", "ENGAGEMENTS": events})
    binary = read(
        {
            "ITEMS": parquet_file(tmp_path / "items.parquet", items),
            "ENGAGEMENTS": parquet_file(tmp_path / "events.parquet", [event]),
        }
    )
    for name, table in text.tables.items():
        assert table.equals(binary.tables[name]), name
    assert text.rejected.num_rows == 0


def test_text_ids_are_hashed_alike_everywhere_and_kept(tmp_path: Path) -> None:
    log = read(
        {
            "ITEMS": parquet_file(
                tmp_path / "i.parquet", [ITEM | {"item_id": "film", "topics": ["x"]}]
            ),
            "TOPICS": parquet_file(tmp_path / "t.parquet", [{"topic_id": "x", "name": "X"}]),
            "ENGAGEMENTS": text_file(
                tmp_path / "e.csv", "user_id,item_id,action,at\nann,film,like,2022-04-25\n"
            ),
        }
    )
    film, ann, x = (int(hash_id(t, KEY)) for t in ("film", "ann", "x"))
    assert ints(log.tables["ITEMS"], "item_id")[0] == film
    assert ints(log.tables["ENGAGEMENTS"], "item_id")[0] == film
    assert log.tables["ITEMS"]["topics"].to_pylist() == [[{"topic_id": x, "confidence": 1.0}]]
    assert log.tables["TOPICS"]["topic_id"].to_pylist() == [x]
    assert log.keys.to_pylist() == [
        {"kind": "item", "id": film, "original": "film"},
        {"kind": "topic", "id": x, "original": "x"},
        {"kind": "user", "id": ann, "original": "ann"},
    ]


def test_one_kind_of_id_is_text_or_integer_everywhere(tmp_path: Path) -> None:
    lines = [f"1{i},{item},like,2022-04-25\n" for i, item in enumerate(("5", "x", "6"))]
    events = text_file(tmp_path / "e.csv", "user_id,item_id,action,at\n" + "".join(lines))
    log = read({"ENGAGEMENTS": events})
    assert sorted(ints(log.tables["ENGAGEMENTS"], "item_id")) == [5, 6]
    assert refused_rows(log) == [
        (
            2,
            "item_id is 'x': no integer; "
            "if item ids are text, say `ids: {item: text}` in the mapping",
        )
    ]
    said = text_file(tmp_path / "m.yaml", "ids: {item: text}\n")
    assert read({"ENGAGEMENTS": events}, mapping=said).tables["ENGAGEMENTS"].num_rows == 3
    earlier = pa.table({"kind": ["item"], "id": [3], "original": ["z"]})
    again = read({"ENGAGEMENTS": events}, known_keys=earlier)
    assert set(again.keys["original"].to_pylist()) == {"5", "6", "x"}


def test_draws_echoed_as_text_stay_the_integers_they_are(tmp_path: Path) -> None:
    draw = 9_223_372_036_854_775_807
    log = read_one(tmp_path, "IMPRESSIONS", SHOWN | {"draw_id": str(draw)})
    assert ints(log.tables["IMPRESSIONS"], "draw_id")[0] == draw
    assert log.keys.num_rows == 0


def test_a_mapping_renames_and_fills_in(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "ratings.parquet", [{"uid": 4, "movie": 5, "ts": 1_650_000_000}])
    mapping = text_file(
        tmp_path / "m.yaml",
        "engagements:\n  user_id: uid\n  item_id: movie\n"
        "  at: {column: ts, unit: s}\n  action: {constant: like}\n",
    )
    log = read({"ENGAGEMENTS": path}, mapping=mapping)
    (row,) = log.tables["ENGAGEMENTS"].to_pylist()
    assert (row["user_id"], row["item_id"], row["action"]) == (4, 5, "like")
    assert ints(log.tables["ENGAGEMENTS"], "at")[0] == 1_650_000_000 * 1_000_000


def test_ids_are_made_where_the_file_has_none(tmp_path: Path) -> None:
    log = read_one(tmp_path, "ENGAGEMENTS", EVENT, EVENT, EVENT | {"item_id": 2})
    made = ints(log.tables["ENGAGEMENTS"], "event_id")
    assert len(made) == 3
    assert len(set(made)) == 2
    assert any("no event_id" in note for note in log.notes)
    shown = read_one(
        tmp_path, "IMPRESSIONS", {k: v for k, v in SHOWN.items() if k != "impression_id"}
    )
    assert ints(shown.tables["IMPRESSIONS"], "impression_id")[0] > 0
    with_id = read_one(tmp_path, "ENGAGEMENTS", EVENT | {"event_id": 8})
    assert ints(with_id.tables["ENGAGEMENTS"], "event_id")[0] == 8
    assert not any("event_id" in note for note in with_id.notes)


def test_other_content_has_another_digest(tmp_path: Path) -> None:
    rows = [SHOWN, SHOWN, SHOWN | {"surface": "related"}]
    log = read_one(tmp_path, "IMPRESSIONS", *[{"surface": "home"} | r for r in rows])
    digests = ints(log.tables["IMPRESSIONS"], "content_digest")
    assert len(digests) == 3
    assert len(set(digests)) == 2


def test_actions_of_a_line_are_lists_or_text(tmp_path: Path) -> None:
    lists = read_one(
        tmp_path,
        "IMPRESSIONS",
        *[SHOWN | {"impression_id": i, "actions": a} for i, a in enumerate(([], ["like"], None))],
    )
    assert lists.tables["IMPRESSIONS"]["actions"].to_pylist() == [[], ["like"], None]
    text = (
        "impression_id,user_id,item_id,at,actions\n1,1,1,2022-04-25,like|hate\n2,1,1,2022-04-25,\n"
    )
    log = read({"IMPRESSIONS": text_file(tmp_path / "s.csv", text)})
    assert log.tables["IMPRESSIONS"]["actions"].to_pylist() == [["like", "hate"], []]


def test_an_item_twice_keeps_the_smallest_digest(tmp_path: Path) -> None:
    other = ITEM | {"embedding": [4.0, 3.0]}
    first = read_one(tmp_path, "ITEMS", ITEM, other, ITEM)
    turned = read_one(tmp_path, "ITEMS", other, ITEM, ITEM)
    assert first.tables["ITEMS"].equals(turned.tables["ITEMS"])
    kept = first.tables["ITEMS"]["embedding"].to_pylist()[0]
    refused = {json.loads(r["raw"])["embedding"][0] for r in first.rejected.to_pylist()}
    assert kept[0] not in refused
    assert first.tables["ITEMS"].num_rows == 1
    repeats = 3 - 1 - first.rejected.num_rows
    assert any(f"{repeats} rows of ITEMS repeat" in n for n in first.notes) == (repeats > 0)
    (tmp_path / "parts").mkdir()
    for i, row in enumerate((ITEM, other)):
        parquet_file(tmp_path / "parts" / f"{i}.parquet", [row])
    apart = read({"ITEMS": tmp_path / "parts"})
    assert apart.tables["ITEMS"].equals(first.tables["ITEMS"])


def test_a_folder_and_a_glob_are_all_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    (folder / "day=1").mkdir(parents=True)
    parquet_file(folder / "day=1" / "a.parquet", [EVENT])
    parquet_file(folder / "b.parquet", [EVENT | {"user_id": -2}])
    text_file(folder / "_SUCCESS", "")
    log = read({"ENGAGEMENTS": folder})
    assert log.tables["ENGAGEMENTS"].num_rows == 1
    assert log.rejected["source"].to_pylist() == ["b.parquet"]
    assert {Path(s.path).name for s in log.sources} == {"a.parquet", "b.parquet"}
    assert len(read({"ENGAGEMENTS": f"{folder}/**/*.parquet"}).sources) == 2


def test_the_width_is_that_of_most_vectors_or_as_given(tmp_path: Path) -> None:
    rows = [ITEM | {"item_id": i, "embedding": [1.0] * w} for i, w in enumerate((3, 2, 3, 2, 2))]
    log = read_one(tmp_path, "ITEMS", *rows)
    assert log.tables["ITEMS"]["item_id"].to_pylist() == [1, 3, 4]
    given = read_one(tmp_path, "ITEMS", *rows, width=3)
    assert given.tables["ITEMS"]["item_id"].to_pylist() == [0, 2]


def test_large_csv_goes_through_several_blocks(tmp_path: Path) -> None:
    n = 60_000
    rows = pa.table(
        {
            "user_id": np.arange(n),
            "item_id": np.arange(n) % 7,
            "action": np.where(np.arange(n) % 1000 == 999, "buy", "like"),
            "at": pa.array(np.full(n, "2022-04-25T01:00:00Z")),
        }
    )
    pcsv.write_csv(rows, tmp_path / "e.csv")
    log = read({"ENGAGEMENTS": tmp_path / "e.csv"})
    assert log.rejected["row"].to_pylist() == list(range(1000, n + 1, 1000))
    table = log.tables["ENGAGEMENTS"]
    assert table.num_rows == n - n // 1000
    assert (np.diff(ints(table, "event_id")) > 0).all()
