"""`queryloop lab ...`: replay, evaluate and compare policies before one ships."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from pipelines.lab.policies import NAMED

lab_app = typer.Typer(
    no_args_is_help=True, help="Which policy earns its keep, shown before it ships."
)


@lab_app.callback()
def lab() -> None:
    """What holds for every command of the lab."""


@lab_app.command("policies")
def policies() -> None:
    """List the policies that the other commands take by name."""
    table = Table(box=None, pad_edge=False)
    for column in ("policy", "weighs an interest by", "floor"):
        table.add_column(column)
    for name, policy in NAMED.items():
        table.add_row(name, policy.meaning, f"{policy.selection.floor:g}")
    Console(highlight=False).print(table)
