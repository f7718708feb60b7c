"""Reading one foreign file, Parquet or CSV: the columns asked for, or one error with a cure.

A bad file stops the import; a bad row does not. So CSV cells are read as text, to be parsed row by
row (`scalars`, `times`, `lists`), and CSV lines with too few or too many cells are kept apart.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from pipelines.importers.foreign import SourceFile
from profiling.schema import IntArray

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".csv.gz")


@dataclass(frozen=True)
class ReadFile:
    """Rows of one file.

    Attributes:
        source: Path, size, digest and rows.
        name: How REJECTED names the file.
        names: All its columns.
        rows: Those columns that were asked for and are there; CSV cells are text, empty is null.
        numbers: (n,) int64, the place of each row in the file, from 1.
        is_csv: Whether `rows` are text.
        malformed: CSV lines with another number of cells than the header: (place, text).
    """

    source: SourceFile
    name: str
    names: tuple[str, ...]
    rows: pa.Table
    numbers: IntArray
    is_csv: bool
    malformed: tuple[tuple[int, str], ...] = ()

    def array(self, column: str) -> pa.Array:
        """A column in one piece, without dictionary or large offsets."""
        return plain(self.rows[column])


def find_files(path: str | Path) -> list[tuple[Path, str]]:
    """(path, name for REJECTED) of a file, of the data files under a folder, or of a glob.

    Raises:
        ValueError: Nothing is there.
    """
    given = Path(path)
    if given.is_file():
        return [(given, given.name)]
    if given.is_dir():
        found = [p for p in sorted(given.rglob("*")) if _is_data(p, given)]
        if not found:
            raise ValueError(f"{given}: the folder has no file in {', '.join(PARQUET + CSV)}")
        return [(p, p.relative_to(given).as_posix()) for p in found]
    matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    if not any(p.is_file() for p in matches):
        raise ValueError(f"{path}: no such file, folder or glob; give one that exists")
    return [(p, p.name) for p in matches if p.is_file()]


def read_file(path: Path, columns: Collection[str] | None, name: str | None = None) -> ReadFile:
    """Read those of `columns` that the file has (None: all).

    Raises:
        ValueError: The file is missing, empty, truncated, of another format, or has no rows. The
            message names the file, what is wrong and what would do.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give one that exists")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes); write or copy it again")
    lower = path.name.lower()
    if not lower.endswith(PARQUET + CSV):
        raise ValueError(
            f"{path}: {path.suffix or 'no suffix'} is not a known format; "
            f"give a file in {', '.join(PARQUET + CSV)}"
        )
    is_csv = lower.endswith(CSV)
    try:
        read = _read_csv if is_csv else _read_parquet
        names, rows, malformed = read(path, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(_unreadable(path, size, is_csv, error)) from None
    if rows.num_rows + len(malformed) == 0:
        raise ValueError(f"{path}: the file has columns but no rows; leave it out or fill it")
    total = rows.num_rows + len(malformed)
    numbers = np.setdiff1d(np.arange(1, total + 1), [place for place, _ in malformed])
    source = SourceFile(str(path), size, _sha256(path), total)
    return ReadFile(
        source, name or path.name, names, rows, numbers.astype(np.int64), is_csv, malformed
    )


def require_columns(read: ReadFile, columns: Iterable[str], why: str) -> None:
    """Raise ValueError where a column is missing; `why` says what it is needed for and the cure."""
    missing = [c for c in columns if c not in read.names]
    if missing:
        raise ValueError(
            f"{read.source.path}: no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(read.names)}. {why}"
        )


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array; dictionaries are decoded, and text is `string` whatever its offsets."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def _read_parquet(path: Path, columns: Collection[str] | None) -> Any:
    with pq.ParquetFile(path) as file:
        names = tuple(file.schema_arrow.names)
        _check_distinct(path, names)
        wanted = [n for n in names if columns is None or n in columns]
        rows = file.read(columns=wanted)
        if not wanted:
            rows = pa.table({"": pa.nulls(file.metadata.num_rows)})
    return names, rows, ()


def _read_csv(path: Path, columns: Collection[str] | None) -> Any:
    """Every cell as text; a line with another number of cells is kept as it stands."""
    serial = pcsv.ReadOptions(use_threads=False)  # only so are lines numbered
    skip = pcsv.ParseOptions(invalid_row_handler=lambda row: "skip", newlines_in_values=True)
    with pcsv.open_csv(path, read_options=serial, parse_options=skip) as head:
        names = tuple(head.schema.names)
    _check_distinct(path, names)
    malformed: list[tuple[int, str]] = []

    def keep_apart(row: Any) -> str:
        malformed.append((row.number - 1, row.text))
        return "skip"

    rows = pcsv.read_csv(
        path,
        read_options=serial,
        parse_options=pcsv.ParseOptions(invalid_row_handler=keep_apart, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    keep = [n for n in names if columns is None or n in columns]
    return names, rows.select(keep) if keep else rows.select([0]), tuple(malformed)


def _check_distinct(path: Path, names: tuple[str, ...]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{path}: two columns are named {twice[0]!r}; rename one")


def _unreadable(path: Path, size: int, is_csv: bool, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path}: no permission to read it; change its mode or owner"
    if is_csv:
        problem = str(error).splitlines()[0]
        return f"{path}: cannot be read as CSV in UTF-8: {problem}. Write it again"
    return (
        f"{path}: cannot be read as Parquet; its {size} bytes are truncated or damaged. "
        "Copy or write it again"
    )


def _is_data(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    hidden = any(p.startswith((".", "_")) for p in parts)
    return path.is_file() and not hidden and path.name.lower().endswith(PARQUET + CSV)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
