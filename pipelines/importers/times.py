"""Times of any kind to int64 microseconds since 1970, UTC.

Arrow timestamps and dates of any unit, ISO 8601 text, or numbers whose unit is stated. A time
without a zone is UTC.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.rejects import Fault, Parsed
from pipelines.importers.scalars import text_to_floats
from profiling.schema import TIMESTAMP

UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1}  # microseconds in one
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<h>[01]\d|2[0-3]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d)(?:\.(?P<f>\d{1,9}))?)?)?"
    r"(?P<z>Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?$"
)
_FORM = "a time must look like 2022-04-25T07:30:00Z"
_LIMIT_US = 4e15  # the year 2096: past it a number was given with the wrong unit


def parse_times(raw: pa.Array, unit: str | None, where: str) -> Parsed:
    """(n,) raw times to (n,) timestamp("us", "UTC"); null stays null.

    Args:
        raw: The column as the file has it.
        unit: s, ms or us where the column holds numbers.
        where: File and column, for the error.

    Raises:
        ValueError: Numbers without a unit, or a type that is no time.
    """
    kind = raw.type
    if pa.types.is_timestamp(kind):
        return Parsed(raw.cast(TIMESTAMP, safe=False))
    if pa.types.is_date(kind):
        return Parsed(raw.cast(pa.timestamp("us")).cast(TIMESTAMP))
    if pa.types.is_null(kind):
        return Parsed(pa.nulls(len(raw), TIMESTAMP))
    is_text = pa.types.is_string(kind)
    if is_text and unit is None and not _looks_like_numbers(raw):
        return _parse_iso(raw)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"{where} is {kind}, no time; store it as a timestamp or map another")
    if unit is None:
        raise ValueError(
            f"{where} holds numbers, which do not say their unit; in the mapping give "
            "{column: ..., unit: s | ms | us}"
        )
    return _parse_numbers(raw, unit)


def _parse_numbers(raw: pa.Array, unit: str) -> Parsed:
    factor = UNITS_US[unit]
    if pa.types.is_string(raw.type):
        numbers, bad = text_to_floats(raw)  # exact for microseconds up to the year 2255
    else:
        numbers, bad = raw.cast(pa.float64(), safe=False), np.zeros(len(raw), bool)
    values = pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False) * factor
    far = ~(np.abs(values) < _LIMIT_US)
    fault = Fault(far & ~bad, f"as {unit} it is no time before 2096; state the right unit")
    nulls = pc.is_null(numbers).to_numpy(zero_copy_only=False) | far
    at = pa.array(np.rint(np.where(nulls, 0, values)).astype(np.int64), mask=nulls)
    return Parsed(
        at.cast(TIMESTAMP), (Fault(bad, f"it is no number of {_NAMES[unit]}; correct it"), fault)
    )


def _parse_iso(raw: pa.Array) -> Parsed:
    text = pc.utf8_trim_whitespace(raw)
    parts = pc.extract_regex(text, _ISO)
    day_text = pc.struct_field(parts, "day")
    day = pc.strptime(day_text, "%Y-%m-%d", "us", error_is_null=True)
    # strptime takes 30 February for 2 March
    day = pc.if_else(pc.equal(pc.strftime(day, "%Y-%m-%d"), day_text), day, None)
    us = _number(parts, "h") * 3600 + _number(parts, "m") * 60 + _number(parts, "s")
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(parts, "f"), 6, "0"), 0, 6)
    micros = us * 1_000_000 + _to_numbers(fraction) - _offset_us(pc.struct_field(parts, "z"))
    nulls = pc.is_null(day).to_numpy(zero_copy_only=False)
    days_us = pc.fill_null(day.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    bad = nulls & pc.is_valid(raw).to_numpy(zero_copy_only=False)
    values = pa.array(days_us + micros, mask=nulls).cast(TIMESTAMP)
    return Parsed(values, (Fault(bad, _FORM),))


def _offset_us(zone: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    digits = pc.replace_substring(zone, ":", "")
    minutes = _to_numbers(pc.utf8_slice_codeunits(digits, 1, 3)) * 60
    minutes = minutes + _to_numbers(pc.utf8_slice_codeunits(digits, 3, 5))
    sign = pc.fill_null(pc.starts_with(zone, "-"), False).to_numpy(zero_copy_only=False)
    return np.where(sign, -minutes, minutes) * 60_000_000


def _number(parts: pa.Array, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return _to_numbers(pc.struct_field(parts, name))


def _to_numbers(digits: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Text of digits to int64; empty or null gives 0."""
    filled = pc.if_else(pc.equal(pc.fill_null(digits, ""), ""), "0", digits)
    return np.asarray(filled.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)


def _looks_like_numbers(raw: pa.Array) -> bool:
    """Whether most of the text is a plain number: then its unit must be stated."""
    plain = pc.match_substring_regex(raw, r"^\s*-?\d{5,}(\.\d*)?\s*$")
    return bool(2 * (pc.sum(plain).as_py() or 0) > len(raw) - raw.null_count)
