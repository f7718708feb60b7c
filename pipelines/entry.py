"""Where `queryloop` begins: a question is answered without importing the night.

Everything that a night needs takes seconds to import. The commands of `QUICK` are in files that do
without; when one of them is called, the command line is made of it alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pipelines.failures import CommandGroup, quiet_beam

# Commands by the file that has a function of that name.
QUICK = {
    "sql": "pipelines.sql.command",
    "catalog": "pipelines.sql.command",
    "explain": "pipelines.explain.command",
}


def queryloop(
    debug: Annotated[
        bool, typer.Option("--debug", help="show tracebacks, and what Beam's runner logs")
    ] = False,
) -> None:
    """What holds for every command."""
    quiet_beam(not debug)


def new_app() -> typer.Typer:
    """A command line without commands."""
    app = typer.Typer(
        cls=CommandGroup,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Decides which of a user's interests query the candidate generator tonight, "
        "and learns from what came of it.",
    )
    app.callback()(queryloop)
    return app


def add_quick(app: typer.Typer, names: Sequence[str] = tuple(QUICK)) -> None:
    """Add commands of `QUICK`."""
    for name in names:
        app.command(name)(getattr(importlib.import_module(QUICK[name]), name))


def main() -> None:
    """Run the command line."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    if words[:1] and words[0] in QUICK:
        app = new_app()
        add_quick(app, [words[0]])
    else:
        from pipelines.cli import app
    app(prog_name="queryloop")
