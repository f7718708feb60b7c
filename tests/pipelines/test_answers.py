"""Answers as JSON, CSV and text, over every type that DuckDB has."""

import csv
import io
import json

import duckdb
import pyarrow as pa
import pytest

from pipelines.catalog.answers import FORMATS, render


def text(sql: str, format: str) -> str:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")  # whatever the session shows times in
        return render(connection.sql(sql).to_arrow_table(), format)


def ask(sql: str) -> list[dict]:
    return json.loads(text(sql, "json"))


def test_json_is_valid_whatever_the_types():
    (row,) = ask("""
        SELECT 9007199254740993 AS big, sum(170141183460469231731687303715884105727) AS huge,
               1.25 AS decimal, 'nan'::DOUBLE AS nan, '-inf'::DOUBLE AS inf, 0.1::FLOAT AS float,
               NULL AS nothing, DATE '2024-02-29' AS day, TIME '01:02:03' AS time,
               TIMESTAMP '2024-01-01 10:00:00.5' AS local,
               TIMESTAMPTZ '2024-01-01 10:00:00+02' AS at,
               [1, NULL] AS list, [NULL, []::INTEGER[], [3]] AS nested, [1, 2]::INTEGER[2] AS fixed,
               {'a': DATE '2024-01-01', 'b': {'c': 'q"'}} AS struct,
               NULL::STRUCT(a INTEGER) AS none, NULL::MAP(VARCHAR, INTEGER) AS no,
               MAP {'k"': [TIMESTAMPTZ '2024-01-01 00:00:00+00']} AS map,
               MAP {DATE '2024-01-01': 1} AS dates, MAP {} AS empty,
               'é' AS text, 'x'::BLOB AS bytes, 'b'::ENUM ('a', 'b') AS enum, true AS yes,
               uuid() IS NOT NULL AS id, INTERVAL 1 DAY AS span, '{"a": 1}'::JSON AS json,
               TIMESTAMP 'infinity' AS forever, 1 AS a, 2 AS a
        """)
    assert row["big"] == 9007199254740993
    assert row["huge"] == 170141183460469231731687303715884105727
    assert (row["decimal"], row["nan"], row["inf"], row["float"]) == (1.25, None, None, 0.1)
    assert (row["nothing"], row["day"], row["time"]) == (None, "2024-02-29", "01:02:03")
    assert row["local"] == "2024-01-01T10:00:00.500000"
    assert row["at"] == "2024-01-01T08:00:00Z"
    assert (row["list"], row["nested"], row["fixed"]) == ([1, None], [None, [], [3]], [1, 2])
    assert row["struct"] == {"a": "2024-01-01", "b": {"c": 'q"'}}
    assert row["map"] == {'k"': ["2024-01-01T00:00:00Z"]}
    assert (row["dates"], row["empty"], row["no"]) == ({"2024-01-01": 1}, {}, None)
    assert (row["none"], row["text"], row["bytes"], row["enum"]) == (None, "é", "78", "b")
    assert (row["yes"], row["id"], row["json"]) == (True, True, '{"a": 1}')
    assert (row["a"], row["a:1"], row["forever"]) == (1, 2, "infinity")


def test_maps_and_lists_keep_their_rows():
    found = ask("""
        SELECT i, CASE WHEN i % 3 <> 0 THEN MAP {i: [i, NULL]} END AS m,
               CASE WHEN i % 2 = 0 THEN range(i) END AS l
        FROM range(4000) AS t(i) WHERE i > 2995 ORDER BY i LIMIT 6 OFFSET 1
        """)
    for row in found:
        i = row["i"]
        assert row["m"] == ({str(i): [i, None]} if i % 3 else None)
        assert row["l"] == (list(range(i)) if i % 2 == 0 else None)


def test_answers_without_rows_or_columns():
    assert text("SELECT 1 AS a WHERE false", "json") == "[]"
    assert text("SELECT 1 AS a WHERE false", "csv") == "a"
    assert json.loads(render(pa.table({}), "json")) == []
    assert text("SELECT 1 AS a WHERE false", "table").endswith("(0 rows)")


def test_csv_and_table():
    sql = "SELECT 'a,\"b' AS text, NULL AS n, [1, 2] AS l, 0.1 + 0.2::DOUBLE AS x, true AS y"
    (row,) = csv.DictReader(io.StringIO(text(sql, "csv")))
    assert row == {"text": 'a,"b', "n": "", "l": "[1, 2]", "x": "0.30000000000000004", "y": "true"}
    lines = text("SELECT 7 AS seven, 'é' AS text", "table").split("\n")
    assert lines == ["seven  text", "-----  ----", "    7  é", "(1 row)"]
    assert set(FORMATS) == {"table", "json", "csv"}


def test_long_cells_are_cut_but_in_the_last_column():
    lines = text("SELECT repeat('a', 80) AS a, repeat('b', 80) AS b", "table").split("\n")
    assert lines[2] == "a" * 59 + "…  " + "b" * 80


def test_chunks_are_put_together():
    chunks = pa.chunked_array([[1], [], [None, 3]], pa.int64())
    assert render(pa.table({"a": chunks}), "csv") == 'a\n1\n""\n3'


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="format must be one of table, json, csv, got 'xml'"):
        render(pa.table({}), "xml")
