"""Statements answered on the catalogue, of which only what they name is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType

import duckdb
import pyarrow as pa

from pipelines.catalog.duckdb_files import register_files
from pipelines.catalog.pieces import Piece, needed

_HINT = "`SELECT * FROM catalogue` lists the views and what they say"


class CatalogSession:
    """A database in memory; what one statement makes, such as a TEMP TABLE, the next one sees.

    A piece of the catalogue is made when a statement first names it. Where DuckDB misses a name all
    the same (one that is built from texts, say), the whole catalogue is made and asked again, so
    the answer is that of the whole catalogue.
    """

    def __init__(self, root: str, pieces: Sequence[Piece]) -> None:
        """Over the pieces of the catalogue of the warehouse at `root`."""
        self.pieces = pieces
        self._made: set[int] = set()
        self._told: set[int] = set()
        self._connection = duckdb.connect()
        try:
            # Names in a statement are names of the catalogue, never Python variables of ours.
            self._connection.execute("SET python_enable_replacements = false")
            self._connection.execute("SET TimeZone = 'UTC'")
            # Stored files never change; a statement opens each for its view and for its rows.
            self._connection.execute("SET parquet_metadata_cache = true")
            register_files(self._connection, root)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CatalogSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the database."""
        self._connection.close()

    def ask(self, sql: str) -> pa.Table:
        """The rows of the last statement of `sql`; one that is no question gives no columns.

        Raises:
            ValueError: DuckDB refuses a statement, or a file is missing or damaged.
        """
        statements = self.statements(sql)
        if not statements:
            raise ValueError(f"the statement is empty; {_HINT}")
        return [self._ask(statement) for statement in statements][-1]

    def statements(self, sql: str) -> list[str]:
        """`sql` cut into its statements.

        Raises:
            ValueError: It is no SQL.
        """
        if not sql.strip():
            return []
        try:
            return [s.query for s in self._connection.extract_statements(sql)]
        except duckdb.Error as error:
            raise ValueError(f"{error}\n{_hint(error, sql)}") from error

    def _ask(self, statement: str) -> pa.Table:
        few = needed(self.pieces, statement)
        try:
            if few is None:
                self.make_all()
            else:
                self.make(few)
            try:
                return self._rows(statement)
            except (duckdb.CatalogException, duckdb.BinderException):
                if len(self._told) == len(self.pieces):
                    raise
            self.make_all()
            return self._rows(statement)
        except duckdb.Error as error:
            raise ValueError(f"{error}\n{_hint(error, statement)}") from error

    def make(self, pieces: Sequence[Piece]) -> None:
        """Make those pieces that are not there yet, in their order, without their comments."""
        missing = [piece for piece in pieces if id(piece) not in self._made]
        if missing:
            self._connection.execute("\n".join(piece.make for piece in missing))
            self._made.update(map(id, missing))

    def make_all(self) -> None:
        """Make the whole catalogue, comments too."""
        earlier = set(self._made)
        self.make(self.pieces)
        for piece in self.pieces:
            if id(piece) in self._told:
                continue
            try:
                self._connection.execute(piece.comments)
            except (duckdb.CatalogException, duckdb.BinderException):
                if id(piece) not in earlier:
                    raise  # else a statement has dropped it, or put something of its own there
            self._told.add(id(piece))

    def _rows(self, statement: str) -> pa.Table:
        parsed = self._connection.extract_statements(statement)[0]
        relation = self._connection.sql(statement)
        if relation is None:
            return pa.table({})
        rows = relation.to_arrow_table()  # this runs it
        asks = parsed.expected_result_type == [duckdb.ExpectedResultType.QUERY_RESULT]
        return rows if asks else pa.table({})


def _hint(error: duckdb.Error, sql: str) -> str:
    if isinstance(error, duckdb.IOException | duckdb.InvalidInputException):
        return "If the file is of the warehouse: restore it, or rebuild the nights that wrote it"
    if isinstance(error, duckdb.ParserException) and re.search(r"(?<![.\"])\bat\b", sql, re.I):
        return f'`at` is a keyword of DuckDB: write "at" with quotes, or table.at. {_HINT}'
    return _HINT
