"""Where an answer goes: to the terminal, a pipe or a file, as text or as Parquet."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.catalog.answers import FORMATS, render
from pipelines.catalog.session import CatalogSession
from pipelines.logs import shows_bars
from pipelines.store.storage import unique_name

ANSWER_FORMATS = (*FORMATS, "parquet")


def check_answer(format: str, out: Path | None, *, terminal: bool) -> None:
    """Raise ValueError where an answer cannot go there in that format."""
    if format not in ANSWER_FORMATS:
        raise ValueError(f"format must be one of {', '.join(ANSWER_FORMATS)}, got {format!r}")
    if format == "parquet" and out is None and terminal:
        raise ValueError("Parquet is no text for a terminal; give --out FILE or redirect: > FILE")


def ask(session: CatalogSession, statement: str) -> pa.Table:
    """The answer to a statement; on a terminal something turns until it is there."""
    if not shows_bars():
        return session.ask(statement)
    from pipelines.progress import told  # drawing takes a moment to import

    with told() as note:
        note("asking")
        return session.ask(statement)


def give_answer(rows: pa.Table, format: str, out: Path | None) -> None:
    """Write an answer to `out`, which appears whole or not at all, else to standard output."""
    if out is None and format != "parquet":
        print(render(rows, format))
        return
    content = _as_parquet(rows) if format == "parquet" else f"{render(rows, format)}\n".encode()
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name("." + unique_name(out.name))
    try:
        aside.write_bytes(content)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


def _as_parquet(rows: pa.Table) -> bytes:
    """The rows with their types.

    Raises:
        ValueError: Two columns have one name, or there is none: Parquet cannot tell them apart.
    """
    names = rows.column_names
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not names:
        problem = f"two columns are named {twice[0]!r}" if twice else "the statement gives no rows"
        raise ValueError(f"{problem}: Parquet holds columns by name; name them with AS")
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
