"""The catalogue cut into its tables, views and macros, and which of them a statement needs.

Making a view makes DuckDB look into the files below it; all of them together take longer than most
answers. A statement needs what it names, what that stands on, and so on: a name in SQL is written
out, so looking for words can only find too much. What asks for the catalogue itself needs all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from pipelines.catalog.sql_text import identifier, quote

_WORD = re.compile(r"\w+")
# In scripts of ours a table follows FROM or JOIN; many of their names are names of columns too.
_READS = re.compile(r"(?<=\bFROM )\w+|(?<=\bJOIN )\w+|\w+(?=\()")
_MAKES = r"^CREATE OR REPLACE (?:VIEW|MACRO) (?P<name>\w+)"
_TELLS = r"^COMMENT ON (?:VIEW|MACRO TABLE|MACRO|COLUMN) (?P<on>\w+)"
_BEGINS = re.compile(f"{_MAKES}|{_TELLS}", re.M)
# Words of a statement that asks what there is: any piece may be in the answer.
_ASKS_FOR_ALL = {
    *("show", "describe", "desc", "summarize", "pragma", "information_schema", "catalogue"),
    *("sqlite_master", "sqlite_schema", "query", "query_table"),
}
_SYSTEM = ("duckdb_", "pg_", "pragma_")


@dataclass(frozen=True)
class Piece:
    """One table, view or macro of the catalogue.

    Attributes:
        name: As a statement would name it.
        write: Gives the SQL that makes it, and that which says what it and its columns mean. It is
            called when that is first needed: most statements need few pieces.
        alone: Whether it stands on no other piece.
    """

    name: str
    write: Callable[[], tuple[str, str]]
    alone: bool = False

    @cached_property
    def _written(self) -> tuple[str, str]:
        return self.write()

    @property
    def make(self) -> str:
        """SQL that makes it."""
        return self._written[0]

    @property
    def comments(self) -> str:
        """SQL that says what it and its columns mean, for clients and `catalogue`."""
        return self._written[1]

    @property
    def sql(self) -> str:
        """All of it."""
        return "\n".join(text for text in self._written if text)

    @cached_property
    def stands_on(self) -> frozenset[str]:
        """Names that it reads from or calls, in lower case; those of its own WITH among them."""
        return frozenset(name.lower() for name in _READS.findall(self.make))


def template_pieces(text: str) -> list[Piece]:
    """The pieces of a script of ours, in its order; a COMMENT belongs to the piece it is on."""
    starts = [m.start() for m in _BEGINS.finditer(text)]
    makes: dict[str, list[str]] = {}
    comments: dict[str, list[str]] = {}
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        found = _BEGINS.match(text, start)
        assert found is not None
        kept = makes if found["name"] else comments
        body = re.sub(r"\n\n+--.*\Z", "", text[start:stop], flags=re.S).rstrip()
        kept.setdefault(found["name"] or found["on"], []).append(body)
    return [
        Piece(name, partial(_joined, made, comments.get(name, ()))) for name, made in makes.items()
    ]


def _joined(made: Sequence[str], comments: Sequence[str]) -> tuple[str, str]:
    return "\n".join(made), "\n".join(comments)


def comment_sql(kind: str, name: str, meaning: str, columns: Mapping[str, str]) -> str:
    """COMMENT statements of a VIEW or TABLE and of its columns."""
    lines = [f"COMMENT ON {kind} {identifier(name)} IS {quote(meaning)};"]
    for column, text in columns.items():
        place = f"{identifier(name)}.{identifier(column)}"
        lines.append(f"COMMENT ON COLUMN {place} IS {quote(text)};")
    return "\n".join(lines)


def needed(pieces: Sequence[Piece], sql: str) -> list[Piece] | None:
    """The pieces that `sql` may name, directly or through others, in order; None: all of them."""
    words = frozenset(_WORD.findall(sql.lower()))
    if words & _ASKS_FOR_ALL or any(w.startswith(_SYSTEM) for w in words):
        return None
    by_name: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_name.setdefault(piece.name.lower(), []).append(piece)
    found: set[str] = set()
    open_ = _named(words, by_name)
    while open_:
        name = open_.pop()
        found.add(name)
        for piece in by_name[name]:
            if not piece.alone:
                open_ |= _named(piece.stands_on, by_name) - found
    return [p for p in pieces if p.name.lower() in found]


def _named(words: Iterable[str], by_name: Mapping[str, list[Piece]]) -> set[str]:
    return {w for w in words if w in by_name}
