"""Whatever a value holds, it stays a value in SQL."""

import datetime as dt
import math

import duckdb
import pyarrow as pa
import pytest

from pipelines.catalog.sql_text import Moment, identifier, quote, sql_type, table_sql

DAY = dt.date(2024, 2, 29)


def test_text_stays_text():
    nasty = "a'; DROP TABLE x; --"
    with duckdb.connect() as connection:
        for value in [nasty, "", "''", "\\'", 'a"b', None, True, 7, -0.5, [nasty, "b"], DAY]:
            (row,) = connection.execute(f"SELECT {quote(value)}").fetchall()
            assert row == (value,)
        connection.execute(f"CREATE TABLE {identifier(nasty)} (a INTEGER)")
        assert connection.execute("SHOW TABLES").fetchall() == [(nasty,)]
        (row,) = connection.execute(f"SELECT {quote(math.inf)}, {quote(math.nan)}").fetchall()
        assert row[0] == math.inf
        assert math.isnan(row[1])
    with pytest.raises(TypeError, match="has no SQL literal"):
        quote(object())


def test_types_of_columns():
    assert sql_type(pa.list_(pa.float32(), 8)) == "FLOAT[]"
    assert sql_type(pa.list_(pa.struct([("a b", pa.int64())]))) == 'STRUCT("a b" BIGINT)[]'


def test_small_tables_hold_their_rows():
    rows = [("a'b", None, 1.5), ("", Moment(1_500_000), None)]
    columns = {"na'me": "VARCHAR", "at": "TIMESTAMP WITH TIME ZONE", "x": "DOUBLE"}
    with duckdb.connect() as connection:
        connection.execute(table_sql('t"x', columns, rows))
        names = identifier("na'me"), identifier('t"x')
        found = connection.execute('SELECT {}, epoch_us("at"), x FROM {}'.format(*names))
        assert found.fetchall() == [("a'b", None, 1.5), ("", 1_500_000, None)]
        connection.execute(table_sql("none", columns, []))
        assert connection.execute("SELECT count(*) FROM none").fetchall() == [(0,)]
