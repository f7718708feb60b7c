"""The interactive prompt of `queryloop sql`, and statements from a pipe."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipelines.catalog.session import CatalogSession
from pipelines.sql.answers import ask, check_answer, give_answer

HISTORY = Path("~/.queryloop_history")
_HISTORY_LINES = 1000
_FIRST, _MORE = "queryloop> ", "      ...> "
_HELP = """\
A statement ends with a semicolon and may have several lines.
  .tables [WORD]   tables, views and macros (whose name has WORD), and what they say
  .columns NAME    columns of a table or view, and what they say
  .format FORMAT   table, csv or json
  .help            this
  .quit            leave; so does the end of input (Ctrl-D). Ctrl-C gives up a statement"""
_TABLES = "SELECT kind, name, comment FROM catalogue WHERE contains(lower(name), {word})"
_COLUMNS = """\
SELECT column_name, data_type, comment FROM duckdb_columns()
WHERE NOT internal AND lower(table_name) = {word} ORDER BY column_index"""


class Prompt:
    """Reads statements line by line, answers each, and goes on after an error."""

    def __init__(self, session: CatalogSession, format: str, what: str) -> None:
        """Answer from `session` in `format`; `what` says over which tables, for people."""
        self._session, self._format, self._what = session, format, what

    def run(self, read: Callable[[str], str] = input) -> None:
        """Until `.quit` or the end of input; `read` shows a prompt and gives a line."""
        check_answer(self._format, None, terminal=True)
        print(f"Queryloop over {self._what}. `.help` says what there is; statements end with ;")
        with _Editing(self._names()):
            self._loop(read)

    def _loop(self, read: Callable[[str], str]) -> None:
        text = ""
        while True:
            try:
                line = read(_MORE if text else _FIRST)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                text = ""
                continue
            if not text and line.strip().startswith("."):
                if not self._command(*line.split()):
                    return
                continue
            text = f"{text}\n{line}" if text else line
            if not text.strip():
                text = ""
            elif sqlite3.complete_statement(text):  # knows texts and comments that hold a semicolon
                self._answer(text)
                text = ""

    def _command(self, name: str, *words: str) -> bool:
        """One of the dot commands; False to leave."""
        word = "'" + (words[0] if words else "").lower().replace("'", "''") + "'"
        if name in (".quit", ".exit"):
            return False
        if name == ".tables":
            self._answer(_TABLES.format(word=word))
        elif name == ".columns" and words:
            self._answer(_COLUMNS.format(word=word))
        elif name == ".format" and words:
            try:
                check_answer(words[0], None, terminal=True)
                self._format = words[0]
            except ValueError as error:
                print(error)
        else:
            print(_HELP if name == ".help" else f"{' '.join([name, *words])}: see .help")
        return True

    def _answer(self, text: str) -> None:
        try:
            for statement in self._session.statements(text):
                rows = ask(self._session, statement)
                if rows.num_columns:
                    give_answer(rows, self._format, None)
        except ValueError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print("given up")

    def _names(self) -> list[str]:
        return [piece.name for piece in self._session.pieces]


def run_piped(session: CatalogSession, text: str, format: str, out: Path | None) -> None:
    """Answer every statement of `text` in turn; the first error ends it.

    Raises:
        ValueError: A statement is refused, there is none, or several answers are to go where only
            one can: into a file, or a stream of Parquet.
    """
    statements = session.statements(text)
    if not statements:
        raise ValueError("no statement given, nor any on standard input; try 'FROM catalogue'")
    single = out is not None or format == "parquet"
    answers = []
    for statement in statements:
        rows = ask(session, statement)
        if not rows.num_columns:
            continue
        answers.append(rows)
        if not single:
            give_answer(rows, format, None)
    if single:
        if len(answers) != 1:
            raise ValueError(
                f"{len(answers)} of the statements give rows; a file holds the rows of one: "
                "leave one SELECT, after what it stands on"
            )
        give_answer(answers[0], format, out)


class _Editing:
    """Line editing, completion of names, and a history kept between sessions, where there are."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __enter__(self) -> None:
        with suppress(ImportError):  # not on every build of Python
            import readline

            with suppress(OSError):
                readline.read_history_file(HISTORY.expanduser())
            readline.set_history_length(_HISTORY_LINES)
            readline.set_completer(self._complete)
            readline.parse_and_bind("tab: complete")

    def __exit__(self, *error: object) -> None:
        with suppress(ImportError, OSError):  # a home that cannot be written to keeps no history
            import readline

            readline.write_history_file(HISTORY.expanduser())

    def _complete(self, text: str, place: int) -> str | None:
        found = [name for name in self._names if name.lower().startswith(text.lower())]
        return found[place] if place < len(found) else None
