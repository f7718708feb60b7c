"""Are two runs the same? One digest per table, or where they differ and by how much.

Both look at rows in key order, never at files: row groups, file splits, buckets, compression,
dictionaries and the order of rows leave a digest as it is. Floats count by their bits, but -0.0 is
0.0 and there is one NaN; what lies under a null counts for nothing.

    digest(table) = blake2b(name, number of rows, per column: name, type, digest of its values)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.catalog.views import NIGHT_TABLES, chain_files
from pipelines.plan import SERVED
from pipelines.store.manifests import Manifest, StoredFile
from pipelines.store.tables import SCHEMAS, read_files
from pipelines.store.warehouse import Warehouse

Run = tuple[Warehouse, Manifest]
Files = Sequence[StoredFile]
Tell = Callable[[int, int], None]
BoolArray = npt.NDArray[np.bool_]

# Which night closed an impression is all that late files may change (design, section 3).
IGNORED: Mapping[str, tuple[str, ...]] = {"OUTCOMES": ("run_date",)}
# What late files must not change; draws made before they came are facts of another kind.
LATE_FILE_TABLES = ("HISTORY", "PROFILES", "OUTCOMES", "REWARDS")
# Sums in another order differ in their last bits.
RELATIVE = 1e-9
# Where a value is a difference of others, rounding of numbers around 1 is no difference.
ABSOLUTE = 1e-15


@dataclass(frozen=True)
class Difference:
    """How one table of two runs compares.

    Attributes:
        table: Its name.
        status: equal; close: floats equal to `RELATIVE`, all else exactly; or differs.
        ignored: Columns that differ and were told not to matter.
        detail: For people: the first row that differs, or the largest relative difference.
    """

    table: str
    status: str
    ignored: tuple[str, ...] = ()
    detail: str = ""

    @property
    def equal(self) -> bool:
        """Whether the runs agree on this table."""
        return self.status != "differs"

    def __str__(self) -> str:
        text = {"close": f"equal to {RELATIVE:g}"}.get(self.status, self.status)
        text += f" but for {', '.join(self.ignored)}" if self.ignored else ""
        return f"{self.table} {text}" + (f": {self.detail}" if self.detail else "")


def fingerprint(
    warehouse: Warehouse, manifest: Manifest, tell: Tell = lambda done, of: None
) -> dict[str, str]:
    """A digest per table of `manifest`: state as of that night, and what that night wrote.

    Args:
        warehouse: Where.
        manifest: The night.
        tell: Called with how many tables are done, of how many.
    """
    names = [name for name in sorted(manifest.tables) if name in SCHEMAS]
    found: dict[str, str] = {}
    for name in names:
        tell(len(found), len(names))
        found[name] = digest_table(read_files(warehouse.root, name, manifest.tables[name]), name)
    return found


def digest_table(table: pa.Table, name: str) -> str:
    """The digest, 32 hex digits, of rows of stored table `name`, in any order."""
    order = row_order(table, SCHEMAS[name].key)
    total = hashlib.blake2b(f"{name} {table.num_rows}".encode(), digest_size=16)
    for column in table.column_names:
        hasher = hashlib.blake2b(digest_size=16)
        array = _one_array(table[column]).take(order)
        _hash_values(hasher, array)
        total.update(f"\n{column} {_type_name(array.type)} ".encode() + hasher.digest())
    return total.hexdigest()


def compare(
    left: Run,
    right: Run,
    *,
    tables: Sequence[str] | None = None,
    ignore: Mapping[str, tuple[str, ...]] = IGNORED,
    tell: Tell = lambda done, of: None,
) -> list[Difference]:
    """Two runs, table by table: state as of the two nights, else all rows of their chains.

    Keys and whatever is no float must agree exactly, floats to `RELATIVE`.

    Args:
        left: A warehouse and one of its manifests.
        right: The other.
        tables: Which; all that either of the nights has, by default.
        ignore: Columns that may differ, by table.
        tell: Called with how many tables are done, of how many.
    """
    names = tables if tables is not None else sorted(left[1].tables | right[1].tables)
    names = [name for name in names if name in SCHEMAS]
    chains = left[0].chain(left[1]), right[0].chain(right[1])
    roots = left[0].root, right[0].root
    found: list[Difference] = []
    for name in names:
        tell(len(found), len(names))
        pairs = _pairs(name, *chains)
        found.append(
            _worst([_compare_files(name, roots, pair, ignore.get(name, ())) for pair in pairs])
        )
    return found


def compare_tables(
    name: str, left: pa.Table, right: pa.Table, *, ignore: Sequence[str] = ()
) -> Difference:
    """Rows of stored table `name`, in any order, as two runs have them."""
    key = SCHEMAS[name].key
    left, right = (t.take(row_order(t, key, ignore)) for t in (left, right))
    first = _first_other_key(left, right, [k for k in key if k not in ignore])
    if first is not None:
        return Difference(name, "differs", detail=_key_detail(first, left, right, key))
    ignored, largest, worst = [], 0.0, ""
    for column in left.column_names:
        pair = _one_array(left[column]), _one_array(right[column])
        bad, distance = _differing_rows(*pair)
        if column in ignore:
            ignored += [column] if distance or bad.any() else []
        elif bad.any():
            row = int(np.flatnonzero(bad)[0])
            values = " and ".join(repr(a[row].as_py()) for a in pair)
            detail = f"{int(bad.sum()):,} rows, first {_key_text(left, key, row)}: "
            return Difference(name, "differs", tuple(ignored), f"{detail}{column} is {values}")
        elif distance > largest:
            largest, worst = distance, column
    if not largest:
        return Difference(name, "equal", tuple(ignored))
    detail = f"largest relative difference {largest:.1e}, in {worst}"
    return Difference(name, "close", tuple(ignored), detail)


def row_order(table: pa.Table, key: Sequence[str], ignore: Sequence[str] = ()) -> pa.Array:
    """(n,) row numbers in key order; rows of one key by their other values, as text."""
    codes = [_order_codes(_one_array(table[k])) for k in key if k not in ignore]
    order = np.lexsort(codes[::-1]) if codes else np.arange(table.num_rows)
    same = np.ones(max(len(order) - 1, 0), bool)
    for code in codes:
        same &= code[order[1:]] == code[order[:-1]]
    if same.any():
        order = _break_ties(table, order, same, ignore)
    return pa.array(order)


def _break_ties(
    table: pa.Table, order: npt.NDArray[np.intp], same: BoolArray, ignore: Sequence[str]
) -> npt.NDArray[np.intp]:
    """`order` with runs of equal keys, `same` as their predecessor, sorted by whole row."""
    kept = table.select([c for c in table.column_names if c not in ignore])
    starts = np.flatnonzero(np.r_[True, ~same])
    order = order.copy()
    for start, end in zip(starts, np.r_[starts[1:], len(order)], strict=True):
        if end - start > 1:
            rows = order[start:end]
            texts = [repr(r) for r in kept.take(pa.array(rows)).to_pylist()]
            order[start:end] = rows[sorted(range(len(rows)), key=texts.__getitem__)]
    return order


def _pairs(name: str, left: list[Manifest], right: list[Manifest]) -> list[tuple[Files, Files]]:
    """The files of the two runs whose rows are to be compared with each other."""
    if name not in NIGHT_TABLES:
        return [(left[-1].tables.get(name, ()), right[-1].tables.get(name, ()))]
    nights = [{m.date: files for m, files in chain_files(c, name)} for c in (left, right)]
    if name in SERVED:  # every row belongs to its night: night by night takes less memory
        dates = sorted({*nights[0], *nights[1]})
        return [(nights[0].get(d, ()), nights[1].get(d, ())) for d in dates]
    everything = [[f for files in n.values() for f in files] for n in nights]
    return [(everything[0], everything[1])]


def _compare_files(
    name: str, roots: tuple[str, str], pair: tuple[Files, Files], ignore: Sequence[str]
) -> Difference:
    digests = [sorted(f.digest for f in files) for files in pair]
    if digests[0] == digests[1]:
        return Difference(name, "equal")
    left, right = (read_files(root, name, f) for root, f in zip(roots, pair, strict=True))
    return compare_tables(name, left, right, ignore=ignore)


def _worst(found: list[Difference]) -> Difference:
    """Of several parts of one table, the first that agrees least."""
    order = ("equal", "close", "differs")
    return max(found, key=lambda d: (order.index(d.status), len(d.ignored)))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, without dictionaries."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no chunks, or beyond 2 GiB of text
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array


def _order_codes(array: pa.Array) -> npt.NDArray[Any]:
    """(n,) numbers that sort as the values of a key column do."""
    if pa.types.is_string(array.type):
        encoded = array.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        ranks = np.empty(len(names), np.int64)
        ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
        return ranks[codes] if len(names) else np.zeros(len(array), np.int64)
    return _fixed(array)


def _fixed(array: pa.Array) -> npt.NDArray[Any]:
    """(n,) little-endian values of a column of fixed width, nulls as 0."""
    type_ = array.type
    if pa.types.is_boolean(type_):
        array = array.cast(pa.uint8())
    elif pa.types.is_date32(type_):
        array = array.cast(pa.int32())
    elif pa.types.is_timestamp(type_):
        array = array.cast(pa.int64())
    values = np.asarray(pc.fill_null(array, 0).to_numpy(zero_copy_only=False))
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values + 0.0)
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _hash_values(hasher: hashlib.blake2b, array: pa.Array) -> None:
    """Feed a column: which values are null, then lengths, then what is inside."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    hasher.update(np.packbits(valid).tobytes())
    if _is_list(array.type):
        hasher.update(_lengths(array).tobytes())
        _hash_values(hasher, array.flatten())
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            _hash_values(hasher, child)
    elif pa.types.is_string(array.type):
        texts = pc.fill_null(array, "").cast(pa.large_binary())
        offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :][: len(texts) + 1]
        hasher.update(np.diff(offsets).astype("<i8").tobytes())
        if len(texts) and offsets[-1] > offsets[0]:
            hasher.update(memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]])
    else:
        hasher.update(np.ascontiguousarray(_fixed(array)).data)


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def _lengths(array: pa.Array) -> npt.NDArray[np.int64]:
    """(n,) little-endian lengths of lists, null as 0."""
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False)).astype("<i8")


def _type_name(type_: pa.DataType) -> str:
    """The type's name; a fixed width of lists is in their lengths."""
    if _is_list(type_):
        return f"list<{_type_name(type_.value_type)}>"
    if pa.types.is_struct(type_):
        return f"struct<{', '.join(f'{f.name}: {_type_name(f.type)}' for f in type_)}>"
    return str(type_)


def _differing_rows(left: pa.Array, right: pa.Array) -> tuple[BoolArray, float]:
    """(n,) rows beyond the tolerance, and the largest relative difference of the others."""
    valid = left.is_valid().to_numpy(zero_copy_only=False)
    bad = valid != right.is_valid().to_numpy(zero_copy_only=False)
    if _is_list(left.type):
        lengths = _lengths(left)
        bad |= lengths != _lengths(right)
        if bad.any():
            return bad, 0.0
        inner, distance = _differing_rows(left.flatten(), right.flatten())
        rows = np.repeat(np.arange(len(bad)), lengths)
        bad[rows[inner]] = True
        return bad, distance
    if pa.types.is_struct(left.type):
        distances = [0.0]
        for a, b in zip(left.flatten(), right.flatten(), strict=True):
            inner, distance = _differing_rows(a, b)
            bad |= inner
            distances.append(distance)
        return bad, max(distances)
    if pa.types.is_floating(left.type):
        inner, distance = _far(_fixed(left), _fixed(right))
        return bad | inner, distance
    other = pc.fill_null(pc.not_equal(left, right), False)
    return bad | other.to_numpy(zero_copy_only=False), 0.0


def _far(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[BoolArray, float]:
    """(n,) pairs further apart than `RELATIVE`, and the largest relative difference of the rest."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    scale = np.maximum(np.abs(a), np.abs(b))
    far = ~same & ~((gap <= RELATIVE * scale) & np.isfinite(scale)) & ~(gap <= ABSOLUTE)
    rest = gap[~far & ~same] / scale[~far & ~same]
    return far, float(rest.max()) if len(rest) else 0.0


def _first_other_key(left: pa.Table, right: pa.Table, key: Sequence[str]) -> int | None:
    """The first row, in key order, at which the keys are not the same; None if all are."""
    n = min(left.num_rows, right.num_rows)
    other = np.zeros(n, bool)
    for column in key:
        a, b = (_one_array(t[column].slice(0, n)) for t in (left, right))
        other |= _differing_rows(a, b)[0]
    if other.any():
        return int(np.flatnonzero(other)[0])
    return None if left.num_rows == right.num_rows else n


def _key_detail(row: int, left: pa.Table, right: pa.Table, key: Sequence[str]) -> str:
    """Which row one of the two has alone: the smaller key."""
    keys = [
        tuple(t[k][row].as_py() for k in key) if row < t.num_rows else None for t in (left, right)
    ]
    only_left = keys[1] is None or (keys[0] is not None and keys[0] < keys[1])
    side, table = ("left", left) if only_left else ("right", right)
    counts = f"{left.num_rows:,} rows and {right.num_rows:,}"
    return f"{counts}; only the {side} has {_key_text(table, key, row)}"


def _key_text(table: pa.Table, key: Sequence[str], row: int) -> str:
    return ", ".join(f"{k} {table[k][row].as_py()}" for k in key)
