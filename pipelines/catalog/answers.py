"""The rows of a query as text: JSON, CSV, or a table for people.

JSON and CSV hold dates and times in ISO 8601 (times that know their zone in UTC, with a Z),
integers of any size in full, null where a float is not finite (JSON has no such numbers), bytes in
hex.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

_WIDEST = 60  # characters of a cell in a table; the last column is never cut


def check_format(format: str) -> None:
    """Raise ValueError where `render` knows no such format."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")


def render(rows: pa.Table, format: str) -> str:
    """Rows as text; `format` is one of `FORMATS`."""
    check_format(format)
    return FORMATS[format](_names(rows.column_names), _rows(rows))


def plain(array: pa.Array) -> list[Any]:
    """The values as what JSON knows: None, bool, int, float, str, list and dict."""
    type_ = array.type
    if isinstance(type_, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_dictionary(type_):
        return plain(array.dictionary_decode())
    if pa.types.is_map(type_):
        return _maps(array)
    if _is_list(type_):
        return _cut_up(plain(array.flatten()), array.value_lengths().to_pylist())
    if pa.types.is_struct(type_):
        return _structs(array)
    if pa.types.is_timestamp(type_):
        return _times(array)
    if pa.types.is_float32(type_):  # the shortest text that is this float32, not its double
        values = array.to_pylist()
        return [_scalar(None if v is None else float(str(np.float32(v)))) for v in values]
    return [_scalar(v) for v in array.to_pylist()]


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def _cut_up(flat: list[Any], lengths: list[int | None]) -> list[Any]:
    """The values of the valid rows' lists, one after the other, as lists; null rows are None."""
    found: list[Any] = []
    at = 0
    for length in lengths:
        found.append(None if length is None else flat[at : at + length])
        at += length or 0
    return found


def _maps(array: pa.MapArray) -> list[Any]:
    """Maps as dicts, keys as text."""
    offsets = array.offsets.to_pylist()
    span = slice(offsets[0], offsets[-1])
    entries = list(zip(plain(array.keys[span]), plain(array.items[span]), strict=True))
    lengths = np.diff(offsets).tolist()
    valid = array.is_valid().to_pylist()
    return [
        {_text(key): value for key, value in row} if ok else None
        for ok, row in zip(valid, _cut_up(entries, lengths), strict=True)
    ]


def _structs(array: pa.StructArray) -> list[Any]:
    names = _names([f.name for f in array.type])
    parts = [plain(part) for part in array.flatten()]
    valid = array.is_valid().to_pylist()
    rows = zip(*parts, strict=True) if parts else ((),) * len(valid)
    return [
        dict(zip(names, row, strict=True)) if ok else None
        for ok, row in zip(valid, rows, strict=True)
    ]


def _times(array: pa.TimestampArray) -> list[str | None]:
    """ISO 8601, to the microsecond where there are any; no time-zone data base is needed."""
    zone = "Z" if array.type.tz else ""
    if array.type.unit != "us":  # DuckDB's own are; a cast imports much
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    naive = array.view(pa.int64())
    epoch = dt.datetime(1970, 1, 1)  # noqa: DTZ001 (the zone is written beside it)
    found = []
    for at in naive.to_pylist():
        try:
            moment = None if at is None else epoch + dt.timedelta(microseconds=at)
            found.append(None if moment is None else moment.isoformat() + zone)
        except OverflowError:  # DuckDB's years go further, and to infinity
            found.append("infinity" if at and at > 0 else "-infinity")
    return found


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _names(names: Sequence[str]) -> list[str]:
    """Names of their own: of several columns `a`, the later ones are `a:1`, `a:2`."""
    found: list[str] = []
    for name in names:
        again, unique = 0, name
        while unique in found:
            again += 1
            unique = f"{name}:{again}"
        found.append(unique)
    return found


def _rows(rows: pa.Table) -> list[tuple[Any, ...]]:
    columns = [[v for chunk in column.chunks for v in plain(chunk)] for column in rows.columns]
    return list(zip(*columns, strict=True))


def _as_json(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """A JSON array, one row a line."""
    lines = [
        json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False)
        for row in rows
    ]
    return "[" + ",\n".join(lines) + "]"


def _as_csv(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """RFC 4180 with a header; null is empty, nested values are JSON."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell(v, "") for v in row] for row in rows])
    return sink.getvalue().rstrip("\n")


def _as_table(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Columns in line, numbers to the right; long cells are cut."""
    cells = [[_one_line(_cell(v, "null")) for v in row] for row in rows]
    cells = [[*map(_cut, row[:-1]), *row[-1:]] for row in cells]
    widths = [max([len(n), *(len(row[i]) for row in cells)]) for i, n in enumerate(names)]
    right = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(names))]

    def line(values: Sequence[str]) -> str:
        columns = zip(values, widths, right, strict=True)
        return "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in columns).rstrip()

    count = f"({len(rows):,} {'row' if len(rows) == 1 else 'rows'})"
    return "\n".join(
        [line(names), line(["-" * min(w, _WIDEST) for w in widths]), *map(line, cells), count]
    )


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _cell(value: Any, null: str) -> str:
    if value is None:
        return null
    if isinstance(value, float):
        return f"{value:.6g}" if null else repr(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)


FORMATS: dict[str, Callable[[Sequence[str], Sequence[tuple[Any, ...]]], str]] = {
    "table": _as_table,
    "json": _as_json,
    "csv": _as_csv,
}
