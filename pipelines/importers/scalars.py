"""Ids, numbers, flags and text, a whole column at a time; a value that will not do is a fault."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.keys import KeyBook
from pipelines.importers.rejects import BoolArray, Fault, Parsed

_INT_MAX = str(np.iinfo(np.int64).max)
_INT = r"^-?(0|[1-9]\d{0,18})$"
_FLOAT = r"(?i)^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|^[+-]?(nan|inf|infinity)$"


def text_to_ints(raw: pa.Array) -> tuple[pa.Array, BoolArray]:
    """(n,) text to (n,) int64, null where it is none, and (n,) bool of these (null is not bad).

    Only the plain form counts: 007 and 7 are two ids, not one.
    """
    text = pc.utf8_trim_whitespace(raw)
    digits = pc.utf8_ltrim(text, "-")
    fits = pc.or_(
        pc.less(pc.utf8_length(digits), 19),
        pc.and_(pc.equal(pc.utf8_length(digits), 19), pc.less_equal(digits, _INT_MAX)),
    )
    good = pc.and_(pc.match_substring_regex(text, _INT), fits)
    values = pc.if_else(good, text, None).cast(pa.int64())
    return values, _newly_null(raw, values)


def text_to_floats(raw: pa.Array) -> tuple[pa.Array, BoolArray]:
    """(n,) text to (n,) float64, null where it is no number, and (n,) bool of these."""
    text = pc.utf8_trim_whitespace(raw)
    values = pc.if_else(pc.match_substring_regex(text, _FLOAT), text, None).cast(pa.float64())
    return values, _newly_null(raw, values)


def share_of_integers(raw: pa.Array) -> tuple[int, int]:
    """How many texts are integers, and how many there are."""
    values, _ = text_to_ints(raw)
    return len(values) - values.null_count, len(raw) - raw.null_count


def parse_ids(raw: pa.Array, kind: str, *, as_text: bool, book: KeyBook, where: str) -> Parsed:
    """(n,) ids to (n,) int64 >= 0: integers as they are, text by the keyed hash of `book`.

    Raises:
        ValueError: A type that is neither integers nor text.
    """
    if pa.types.is_null(raw.type):
        return Parsed(pa.nulls(len(raw), pa.int64()))
    if as_text and (pa.types.is_string(raw.type) or pa.types.is_integer(raw.type)):
        texts = raw.cast(pa.string())
        texts = pc.if_else(pc.equal(texts, ""), None, texts)
        return Parsed(book.ids_of(kind, texts))
    cure = f"no integer; if {kind} ids are text, say `ids: {{{kind}: text}}` in the mapping"
    parsed = parse_integers(raw, where, cure=cure)
    values = parsed.values
    negative = pc.fill_null(pc.less(values, 0), False).to_numpy(zero_copy_only=False)
    fault = Fault(negative, "an id must be 0 or more; number it anew or leave the row out")
    return Parsed(values, (*parsed.faults, fault))


def parse_integers(
    raw: pa.Array, where: str, *, cure: str = "it must be an integer; correct it"
) -> Parsed:
    """(n,) integers, whole floats or text to (n,) int64; others are a fault.

    Raises:
        ValueError: Another type.
    """
    kind = raw.type
    if pa.types.is_null(kind):
        return Parsed(pa.nulls(len(raw), pa.int64()))
    if pa.types.is_string(kind):
        values, bad = text_to_ints(raw)
    elif pa.types.is_uint64(kind):
        values = pc.if_else(pc.less_equal(raw, np.iinfo(np.int64).max), raw, None).cast(pa.int64())
        bad = _newly_null(raw, values)
    elif pa.types.is_integer(kind):
        values, bad = raw.cast(pa.int64()), np.zeros(len(raw), bool)
    elif pa.types.is_floating(kind):
        raw = pc.if_else(pc.is_nan(raw), None, raw)  # how pandas writes a null
        wide = raw.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(wide), wide), pc.less_equal(pc.abs(wide), 2.0**53))
        values = pc.if_else(whole, wide, None).cast(pa.int64())
        bad = _newly_null(raw, values)
    else:
        raise ValueError(f"{where} is {kind}, must be integers; store it so or map another column")
    return Parsed(values, (Fault(bad, cure),))


def parse_numbers(raw: pa.Array, where: str) -> Parsed:
    """(n,) numbers or text to (n,) float64.

    Raises:
        ValueError: Another type.
    """
    if pa.types.is_null(raw.type):
        return Parsed(pa.nulls(len(raw), pa.float64()))
    if pa.types.is_string(raw.type):
        values, bad = text_to_floats(raw)
        return Parsed(values, (Fault(bad, "it must be a number; correct it"),))
    if not (pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type)):
        raise ValueError(f"{where} is {raw.type}, must be numbers; store it so or map another")
    return Parsed(raw.cast(pa.float64(), safe=False))


def parse_flags(raw: pa.Array, where: str) -> Parsed:
    """(n,) bool, 0 and 1, or text of true, false, 0, 1 to (n,) bool.

    Raises:
        ValueError: Another type.
    """
    kind = raw.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_string(kind)):
        raise ValueError(f"{where} is {kind}, must be true or false; store it so or map another")
    words = pc.utf8_lower(raw.cast(pa.string()))
    yes = pc.is_in(words, pa.array(["true", "1"]))
    known = pc.or_(yes, pc.is_in(words, pa.array(["false", "0"])))
    values = pc.if_else(known, yes, None)
    return Parsed(values, (Fault(_newly_null(raw, values), "it must be true, false, 1 or 0"),))


def parse_text(raw: pa.Array, where: str) -> Parsed:
    """(n,) text or numbers to (n,) text.

    Raises:
        ValueError: A type with no plain text, as a list.
    """
    if pa.types.is_nested(raw.type) or pa.types.is_binary(raw.type):
        raise ValueError(f"{where} is {raw.type}, must be text; store it so or map another column")
    return Parsed(raw.cast(pa.string()))


def outside(values: pa.Array, low: float | None, high: float | None) -> Fault:
    """Values outside the closed range [low, high], NaN among them; nulls are not."""
    numbers = pc.fill_null(values.cast(pa.float64(), safe=False), low if low is not None else 0.0)
    array = numbers.to_numpy(zero_copy_only=False)
    mask = np.isnan(array)
    bounds = []
    if low is not None:
        mask |= array < low
        bounds.append(f">= {low:g}")
    if high is not None:
        mask |= array > high
        bounds.append(f"<= {high:g}")
    return Fault(mask, f"it must be {' and '.join(bounds) or 'a number'}; correct it")


def unknown_words(values: pa.Array, known: Sequence[str]) -> BoolArray:
    """(n,) bool: text that is none of `known`; null is not."""
    ok = pc.or_(pc.is_in(values, pa.array(list(known), pa.string())), pc.is_null(values))
    return np.asarray(ok.to_numpy(zero_copy_only=False)) ^ True


def _newly_null(raw: pa.Array, values: pa.Array) -> BoolArray:
    lost = pc.and_(pc.is_valid(raw), pc.is_null(values))
    return np.asarray(lost.to_numpy(zero_copy_only=False))
