"""What a stored table is: columns with meaning, unit and range, and a version.

Every table is declared once, as a `TableSchema`, in the `tables.py` of the package that
writes it. `TableSchema.check` is the one gate: tables pass it where they are read and where they
are written, nowhere between. `check_ranges` looks at the values, where they are written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TIMESTAMP = pa.timestamp("us", "UTC")
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, meaning, unit, and the closed range its values lie in."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TableSchema:
    """A stored table.

    Attributes:
        name: The table's name, as everywhere in the project.
        version: Raised by one with every change of the columns.
        key: The columns that name a row; stored rows are sorted by them.
        columns: In stored order.
        lifts: For a column added after version 1, the value that rows of older versions get.
    """

    name: str
    version: int
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    lifts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema; its metadata carries the table's name and version."""
        return pa.schema(
            [pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns],
            metadata={"queryloop.table": self.name, "queryloop.version": str(self.version)},
        )

    @property
    def names(self) -> list[str]:
        """Column names in stored order."""
        return [c.name for c in self.columns]

    @property
    def required(self) -> list[Column]:
        """The columns that rows of every version have: those that `build` must be given."""
        return [c for c in self.columns if c.name not in self.lifts]

    def empty(self) -> pa.Table:
        """A table of no rows."""
        return self.arrow.empty_table()

    def of_width(self, width: int) -> TableSchema:
        """The same table with vectors of `width` float32 instead of an open width."""
        vector = pa.list_(pa.float32(), width)
        columns = [
            replace(c, type=vector) if c.type == pa.list_(pa.float32()) else c for c in self.columns
        ]
        return replace(self, columns=tuple(columns))

    def build(self, columns: Mapping[str, Any]) -> pa.Table:
        """A table from arrays by column name, checked.

        Args:
            columns: (n,) arrays by name: NumPy (int64 microseconds for times) or Arrow. One that a
                later version added may be left out: its default holds.
        """
        given = [c for c in self.columns if c.name in columns or c.name not in self.lifts]
        arrays = [_as_arrow(columns[c.name], c.type) for c in given]
        return self.check(pa.table(arrays, names=[c.name for c in given]))

    def check(self, table: pa.Table, where: str = "") -> pa.Table:
        """The table with exactly these columns, in this order and of these types.

        Extra columns are dropped; a column that a later version added gets its declared default.

        Raises:
            ValueError: A column is missing, of another type, or null where it must not be. The
                message names the place, the column and the cure.
        """
        place = f"{where}: {self.name}" if where else self.name
        arrays = [self._checked_column(table, c, place) for c in self.columns]
        return pa.Table.from_arrays(arrays, schema=self.arrow)

    def check_ranges(self, table: pa.Table, where: str = "") -> None:
        """Every value lies in its column's declared range; NaN lies in none.

        Args:
            table: Rows that passed `check`.
            where: The place, for the message.

        Raises:
            ValueError: Naming the place, row, column, value and range.
        """
        place = f"{where}: {self.name}" if where else self.name
        for column in self.columns:
            bad = _first_outside(table[column.name], column)
            if bad is not None:
                raise ValueError(
                    f"{place}, row {bad}: {column.name} ({column.meaning}) is "
                    f"{table[column.name][bad].as_py()!r}, must be {_range_text(column)}."
                )

    def _checked_column(self, table: pa.Table, column: Column, place: str) -> pa.ChunkedArray:
        if column.name not in table.column_names:
            if column.name in self.lifts:
                value = pa.scalar(self.lifts[column.name], column.type)
                return pa.chunked_array([pa.repeat(value, table.num_rows)])
            raise ValueError(
                f"{place} has no column {column.name!r} ({column.meaning}); it has "
                f"{', '.join(table.column_names)}. Rename or map the column."
            )
        array = table[column.name]
        if array.type != column.type:
            array = _cast(array, column, place)
        if not column.nullable and array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy())[0])
            raise ValueError(
                f"{place}, row {row}: {column.name} is null; it must be {column.meaning}."
            )
        return array


def _cast(array: pa.ChunkedArray, column: Column, place: str) -> pa.ChunkedArray:
    """Lossless casts only; text is never parsed into numbers."""
    is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    wants_text = pa.types.is_string(column.type)
    if is_text != wants_text and not pa.types.is_dictionary(array.type):
        problem = "text is not converted"
    else:
        try:
            return array.cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problem = str(error)
    raise ValueError(
        f"{place}: column {column.name!r} is {array.type}, must be {column.type}: {problem}. "
        f"Store it as {column.type} ({column.meaning})."
    )


def _first_outside(array: pa.ChunkedArray, column: Column) -> int | None:
    """The first row whose value is out of the column's range, or NaN."""
    if column.low is None and column.high is None and not pa.types.is_floating(column.type):
        return None
    low = -math.inf if column.low is None else column.low
    high = math.inf if column.high is None else column.high
    before = 0
    for chunk in array.chunks:  # NumPy: a tenth of pc.min_max's time, and NaN shows
        values = chunk.drop_null().to_numpy(zero_copy_only=False)
        if len(values) and not (low <= values.min() and values.max() <= high):
            valid = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
            return before + int(valid[~((values >= low) & (values <= high))][0])
        before += len(chunk)
    return None


def _range_text(column: Column) -> str:
    low = [] if column.low is None else [f"at least {column.low:g}"]
    high = [] if column.high is None else [f"at most {column.high:g}"]
    return " and ".join(low + high) or "a number"


def _as_arrow(values: Any, type_: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and pa.types.is_timestamp(type_):
        return pa.array(values.astype(np.int64, copy=False)).cast(type_)
    if isinstance(values, np.ndarray) and values.dtype != object:
        return pa.array(values).cast(type_)
    return pa.array(values, type_)


def ints(table: pa.Table, name: str) -> IntArray:
    """Column `name` as (n,) int64; times come as microseconds since 1970, nulls are an error."""
    column = table[name]
    if column.null_count:
        raise ValueError(f"{name} has {column.null_count} nulls where none may be")
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return np.ascontiguousarray(column.cast(pa.int64()).to_numpy())


def floats(table: pa.Table, name: str) -> FloatArray:
    """Column `name` as (n,) float64; null becomes NaN."""
    return np.ascontiguousarray(table[name].cast(pa.float64()).to_numpy())


def sort_rows(table: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Rows in key order: steps sort before they add, so sums are the same on any runner."""
    if table.num_rows < 2:
        return table
    return table.sort_by([(k, "ascending") for k in key])


def group_offsets(sorted_keys: npt.NDArray[Any]) -> IntArray:
    """(g + 1,) int64 bounds of the runs of equal values in (n,) sorted keys; [0] when empty."""
    if len(sorted_keys) == 0:
        return np.zeros(1, np.int64)
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    return np.r_[starts, len(sorted_keys)].astype(np.int64)
