"""Values, names and types as SQL text: nothing else enters a statement of ours."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from profiling.schema import TIMESTAMP

_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.date32(): "DATE",
    TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
}


@dataclass(frozen=True)
class Moment:
    """A time, microseconds since 1970 UTC."""

    at: int


def quote(value: Any) -> str:
    """A value as a SQL literal.

    Raises:
        TypeError: It has no literal.
    """
    if value is None or isinstance(value, bool):
        return "NULL" if value is None else str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}::DOUBLE" if math.isfinite(value) else f"'{value}'::DOUBLE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, dt.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, Moment):
        return f"make_timestamptz({value.at})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(quote(v) for v in value)}]"
    raise TypeError(f"{value!r} has no SQL literal")


def identifier(text: str) -> str:
    """A name of a table, view or column, quoted."""
    return '"' + text.replace('"', '""') + '"'


def sql_type(type_: pa.DataType) -> str:
    """The type that DuckDB reads a stored column of Arrow type `type_` as."""
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return sql_type(type_.value_type) + "[]"
    if pa.types.is_struct(type_):
        fields = [f"{identifier(f.name)} {sql_type(f.type)}" for f in type_]
        return f"STRUCT({', '.join(fields)})"
    return _TYPES[type_]


def table_sql(name: str, columns: dict[str, str], rows: Sequence[Sequence[Any]]) -> str:
    """Statements that make a small table of `rows`; `columns` are SQL types by name."""
    declared = ", ".join(f"{identifier(c)} {type_}" for c, type_ in columns.items())
    statement = f"CREATE OR REPLACE TABLE {identifier(name)} ({declared});"
    if not rows:
        return statement
    values = ",\n".join(f"({', '.join(quote(v) for v in row)})" for row in rows)
    return f"{statement}\nINSERT INTO {identifier(name)} VALUES\n{values};"
