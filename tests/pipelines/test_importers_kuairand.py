"""The KuaiRand importer on a small synthetic folder of the same shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.importers.foreign import ForeignLog
from pipelines.importers.kuairand import read_kuairand
from profiling.actions import DEFAULT_ACTIONS, Action
from profiling.decay import HOUR_US
from profiling.hashing import hash63
from profiling.schema import ints
from profiling.tables import ENGAGEMENTS, EXPOSURES, ITEMS, REJECTED, TOPICS
from selection.tables import IMPRESSIONS

START_MS = 1_650_812_741_436


def _line(user: int, video: int, minute: int, **more: object) -> dict[str, object]:
    line = {
        "user_id": user,
        "video_id": video,
        "date": 20220425,
        "time_ms": START_MS + minute * 60_000,
        "is_like": 0,
        "is_hate": 0,
        "long_view": 0,
        "play_time_ms": 1_000,
        "tab": 1,
        "watch_ratio": 0.5,
        "author_id": 900 + video,
        "tag": "7",
        "upload_dt": "2022-04-10",
    }
    return line | more


LINES = [
    _line(1, 10, 0, long_view=1, is_like=1),
    _line(1, 11, 1),
    _line(2, 10, 2, is_hate=1),
    _line(2, 10, 2, is_hate=1),  # the line before in full
    _line(2, 12, 3, play_time_ms=5),
    _line(2, 12, 3, play_time_ms=6),  # the same impression, another content
    _line(3, 77, 4, tag="3,4"),  # a video without features
]
SEQUENCES = [
    {"user_id": 1, "watch_seq": [10, 11, 10], "like_seq": [11], "long_watch_seq": [10, 11]},
    {"user_id": 2, "watch_seq": [12], "like_seq": [], "long_watch_seq": [10, 11, 12]},
    {"user_id": 9, "watch_seq": [], "like_seq": [], "long_watch_seq": []},
]
FEATURES = [
    {"video_id": 10, "author_id": 900, "tag": "7", "upload_dt": "2022-04-10"},
    {"video_id": 11, "author_id": 901, "tag": "7,8", "upload_dt": "2022-04-09"},
    {"video_id": 12, "author_id": 901, "tag": "unknown", "upload_dt": "2022-04-11"},
    {"video_id": 13, "author_id": 999, "tag": "8", "upload_dt": "2022-04-11"},
    {"video_id": 14, "author_id": 998, "tag": "unknown", "upload_dt": "2022-04-11"},
]
SEQUENCE_TYPES = pa.schema(
    [("user_id", pa.int64())]
    + [(n, pa.list_(pa.int64())) for n in ("watch_seq", "like_seq", "long_watch_seq")]
)


def _write(
    folder: Path,
    lines: list[dict[str, object]] | None = None,
    sequences: list[dict[str, object]] | None = None,
    features: list[dict[str, object]] | None = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    lines = LINES if lines is None else lines
    half = (len(lines) + 1) // 2
    for name, part in (("a", lines[:half]), ("b", lines[half:])):
        if part:
            pq.write_table(pa.Table.from_pylist(part), folder / f"impressions_{name}.parquet")
    earlier = pa.Table.from_pylist(sequences or SEQUENCES, schema=SEQUENCE_TYPES)
    pq.write_table(earlier, folder / "user_sequences_to_0424.parquet")
    pq.write_table(pa.Table.from_pylist(features or FEATURES), folder / "item_features.parquet")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("kuairand") / "log")


@pytest.fixture(scope="module")
def log(source: Path) -> ForeignLog:
    return read_kuairand(source, DEFAULT_ACTIONS, width=4, seed=1)


def test_every_table_conforms_and_every_row_is_accounted_for(log: ForeignLog) -> None:
    schemas = (ITEMS.of_width(4), TOPICS.of_width(4), ENGAGEMENTS, IMPRESSIONS, EXPOSURES)
    assert set(log.tables) == {s.name for s in schemas}
    for schema in schemas:
        assert log.tables[schema.name].schema.equals(schema.arrow)
    assert log.rejected.schema.equals(REJECTED.arrow)
    assert log.tables["IMPRESSIONS"].num_rows + log.rejected.num_rows == len(LINES)
    assert log.tables["EXPOSURES"].num_rows == sum(len(s["watch_seq"]) for s in SEQUENCES)
    assert [s.rows for s in log.sources] == [4, 3, len(SEQUENCES), len(FEATURES)]
    assert log.starts_at == START_MS * 1000
    assert log.keys.num_rows == 0


def test_impressions_carry_id_actions_and_no_position(log: ForeignLog) -> None:
    rows = log.tables["IMPRESSIONS"]
    users, items, at = (ints(rows, n) for n in ("user_id", "item_id", "at"))
    np.testing.assert_array_equal(ints(rows, "impression_id"), hash63(users, items, at // 1000))
    for name in ("request_id", "position", "draw_id"):
        assert rows[name].null_count == rows.num_rows
    assert rows["actions"].null_count == 0
    done = {(u, i): a for u, i, a in zip(users, items, rows["actions"].to_pylist(), strict=True)}
    assert done[1, 10] == ["long_view", "like"]
    assert done[1, 11] == []
    assert done[2, 10] == ["hate"]
    assert set(rows["surface"].to_pylist()) == {"home"}


def test_duplicates_and_contradictions_are_handed_on_and_told_apart(log: ForeignLog) -> None:
    rows = log.tables["IMPRESSIONS"].to_pylist()
    content = {
        key: {r["content_digest"] for r in rows if (r["user_id"], r["item_id"]) == key}
        for key in ((2, 10), (2, 12))
    }
    ids = {r["impression_id"] for r in rows}
    assert len(ids) == len(LINES) - 2
    assert len(content[2, 10]) == 1
    assert len(content[2, 12]) == 2


def test_logged_actions_become_engagements_of_their_impression(log: ForeignLog) -> None:
    rows = [r for r in log.tables["ENGAGEMENTS"].to_pylist() if not r["synthetic"]]
    assert sorted((r["user_id"], r["item_id"], r["action"]) for r in rows) == [
        (1, 10, "like"),
        (1, 10, "long_view"),
        (2, 10, "hate"),
        (2, 10, "hate"),
    ]
    shown = {r["impression_id"]: r["at"] for r in log.tables["IMPRESSIONS"].to_pylist()}
    assert all(shown[r["impression_id"]] == r["at"] for r in rows)
    hates = [(r["event_id"], r["content_digest"]) for r in rows if r["action"] == "hate"]
    assert hates[0] == hates[1]
    assert len({r["event_id"] for r in rows}) == 3


def test_earlier_actions_are_synthetic_and_one_hour_apart_backwards(log: ForeignLog) -> None:
    table = log.tables["ENGAGEMENTS"]
    made = table.filter(table["synthetic"])
    assert made["impression_id"].null_count == made.num_rows
    hours = (START_MS * 1000 - ints(made, "at")) / HOUR_US
    rows = zip(
        ints(made, "user_id"), made["action"].to_pylist(), ints(made, "item_id"), hours, strict=True
    )
    assert sorted(rows) == [
        (1, "like", 11, 1.0),
        (1, "long_view", 10, 2.0),
        (1, "long_view", 11, 1.0),
        (2, "long_view", 10, 3.0),
        (2, "long_view", 11, 2.0),
        (2, "long_view", 12, 1.0),
    ]
    assert len(set(ints(made, "event_id"))) == made.num_rows


def test_exposures_keep_their_order(log: ForeignLog) -> None:
    rows = log.tables["EXPOSURES"]
    seen = [tuple(r.values()) for r in rows.to_pylist()]
    assert seen == [(1, 0, 10), (1, 1, 11), (1, 2, 10), (2, 0, 12)]


def test_items_have_tags_as_topics_and_unit_vectors(log: ForeignLog) -> None:
    items = {r["item_id"]: r for r in log.tables["ITEMS"].to_pylist()}
    assert sorted(items) == [10, 11, 12, 13, 14, 77]  # 77 is in the log only
    assert items[11]["topics"] == [
        {"topic_id": 7, "confidence": 0.5},
        {"topic_id": 8, "confidence": 0.5},
    ]
    assert items[12]["topics"] == []
    assert [t["topic_id"] for t in items[77]["topics"]] == [3, 4]
    assert items[10]["title"] == "video 10"
    assert str(items[11]["created_at"]) == "2022-04-09 00:00:00+00:00"
    vectors = np.array([r["embedding"] for r in items.values()], np.float64)
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1.0, atol=1e-6)
    topics = log.tables["TOPICS"]
    assert topics["topic_id"].to_pylist() == [3, 4, 7, 8]
    assert topics["name"].to_pylist()[0] == "tag 3"


def test_an_item_without_history_stands_with_its_tag_and_author(log: ForeignLog) -> None:
    items = {r["item_id"]: np.array(r["embedding"]) for r in log.tables["ITEMS"].to_pylist()}
    # 13 has tag 8 alone, whose only engaged item is 11; 14 has neither: the mean of the engaged.
    np.testing.assert_allclose(items[13], items[11], atol=1e-6)
    mean = items[10] + items[11] + items[12]
    np.testing.assert_allclose(items[14], mean / np.linalg.norm(mean), atol=1e-6)


def test_the_order_of_the_files_rows_does_not_matter(tmp_path: Path, log: ForeignLog) -> None:
    turned = _write(tmp_path / "x", LINES[::-1], SEQUENCES[::-1], FEATURES[::-1])
    again = read_kuairand(turned, DEFAULT_ACTIONS, width=4, seed=1)
    for name, table in log.tables.items():
        assert again.tables[name].equals(table), name


def test_an_excerpt_makes_the_same_synthetic_events(tmp_path: Path, log: ForeignLog) -> None:
    later = read_kuairand(_write(tmp_path / "x", LINES[4:]), DEFAULT_ACTIONS, width=4, seed=1)
    pair = ["event_id", "content_digest"]
    both = [t.filter(t["synthetic"]).select(pair) for t in _engagements(log, later)]
    assert both[0].equals(both[1])


def _engagements(*logs: ForeignLog) -> list[pa.Table]:
    return [log.tables["ENGAGEMENTS"] for log in logs]


def test_actions_that_the_log_lacks_are_said(source: Path) -> None:
    actions = (Action("like"), Action("purchase"))
    log = read_kuairand(source, actions, width=4)
    assert set(log.tables["ENGAGEMENTS"]["action"].to_pylist()) == {"like"}
    assert any("purchase" in note for note in log.notes)
    with pytest.raises(ValueError, match="none of the configured actions purchase"):
        read_kuairand(source, (Action("purchase"),))


BAD_LINES = [
    (_line(-5, 10, 9), "user_id is -5: it must be >= 0"),
    (_line(5, -1, 9), "video_id is -1"),
    (_line(5, 10, 9, user_id=None), "user_id is null"),
    (_line(5, 10, 9, time_ms=-3), "time_ms is -3: it must be >= 0"),
    (_line(5, 10, 90_000), "time_ms is"),
    (_line(5, 10, 9, is_like=2), "is_like is 2: it must be >= 0 and <= 1"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_is_rejected_with_file_row_and_reason(
    tmp_path: Path, line: dict[str, object], reason: str
) -> None:
    folder = _write(tmp_path / "x", [*LINES[:4], line, *LINES[4:]])
    log = read_kuairand(folder, DEFAULT_ACTIONS, width=4, now_us=(START_MS + 3_600_000) * 1000)
    assert log.tables["IMPRESSIONS"].num_rows == len(LINES)
    (row,) = log.rejected.to_pylist()
    assert reason in row["reason"]
    assert (row["source"], row["row"]) == ("impressions_b.parquet", 1)
    assert json.loads(row["raw"])["video_id"] == line["video_id"]
    assert row["user_id"] == line["user_id"]


def test_bad_items_and_sequences_are_rejected(tmp_path: Path) -> None:
    features = [*FEATURES, FEATURES[0] | {"tag": "9"}, FEATURES[1] | {"video_id": 15, "tag": "x"}]
    sequences = [*SEQUENCES, SEQUENCES[2] | {"user_id": 4, "like_seq": [-1]}]
    folder = _write(tmp_path / "x", LINES, sequences, features)
    log = read_kuairand(folder, DEFAULT_ACTIONS, width=4)
    found = {r["reason"].split(":")[0].split(";")[0] for r in log.rejected.to_pylist()}
    assert found == {"video_id comes twice with other content", "tag is 'x'", "like_seq is [-1]"}
    assert log.tables["ITEMS"]["item_id"].to_pylist() == [10, 11, 12, 13, 14, 77]


def test_no_good_line_stops_the_import(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no impression is good.*user_id is -1"):
        read_kuairand(_write(tmp_path / "x", [_line(-1, 10, 0)]), DEFAULT_ACTIONS)


@pytest.mark.parametrize(
    "name", ["impressions_a.parquet", "user_sequences_to_0424.parquet", "item_features.parquet"]
)
@pytest.mark.parametrize("damage", ["truncated", "empty", "no column", "no rows"])
def test_a_bad_file_stops_the_import_with_its_name(tmp_path: Path, name: str, damage: str) -> None:
    folder = _write(tmp_path / "x")
    path = folder / name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        table = pq.read_table(path)
        pq.write_table(table.drop([table.column_names[0]]) if damage == "no column"
                       else table.slice(0, 0), path)  # fmt: skip
    said = {
        "truncated": "truncated or damaged",
        "empty": "empty",
        "no column": "no column '(user_id|video_id)'",
        "no rows": "no rows",
    }
    with pytest.raises(ValueError, match=said[damage]) as error:
        read_kuairand(folder, DEFAULT_ACTIONS)
    assert name in str(error.value)


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_kuairand(tmp_path / "nowhere", DEFAULT_ACTIONS)
    folder = _write(tmp_path / "x")
    (folder / "item_features.parquet").unlink()
    with pytest.raises(ValueError, match=r"no file item_features\.parquet"):
        read_kuairand(folder, DEFAULT_ACTIONS)


def test_a_column_of_another_type_stops_the_import(tmp_path: Path) -> None:
    folder = _write(tmp_path / "x")
    path = folder / "impressions_a.parquet"
    table = pq.read_table(path)
    at = pc.cast(table["time_ms"], pa.timestamp("ms"))
    pq.write_table(table.set_column(table.column_names.index("time_ms"), "time_ms", at), path)
    with pytest.raises(ValueError, match=r"impressions_a.*time_ms is timestamp"):
        read_kuairand(folder, DEFAULT_ACTIONS)
