"""`queryloop lab gate`: exit 0 if a policy keeps every bound, else 1 with the reasons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.json_output import JsonOption, print_json
from pipelines.lab.asked import LOGGED
from pipelines.lab.evaluate_command import (
    AgainstOption,
    FirstOption,
    GapOption,
    LastOption,
    PolicyOption,
    period_asked,
)
from pipelines.lab.evaluation import evaluate_policy, report_of
from pipelines.lab.gate import Check, GateConfig, check_policy
from pipelines.night_options import FormatOption, WarehouseOption, asks_json
from pipelines.progress import counting_bar
from pipelines.store.warehouse import Warehouse
from pipelines.yaml_options import load_options

FAILED = 1  # exit status; 2 is a command that could not be run


def lab_gate(  # noqa: PLR0913 (one option a decision)
    warehouse: WarehouseOption,
    policy: PolicyOption,
    first: FirstOption = None,
    last: LastOption = None,
    against: AgainstOption = LOGGED,
    allow_gap: GapOption = False,
    config: Annotated[Path | None, typer.Option(help="YAML with the gate's bounds")] = None,
    margin: Annotated[
        float | None, typer.Option(help="least lower bound of the relative uplift")
    ] = None,
    format: FormatOption = "table",
    json: JsonOption = False,
) -> None:
    """May this policy ship? Exits 1 and says why where the log does not show that it may.

    Example: queryloop lab gate --warehouse W --policy thompson --margin 0.01
    """
    json = asks_json(format, json)
    bounds = GateConfig()
    if config is not None:
        bounds = load_options(GateConfig, config.read_text(), str(config))[0]
    if margin is not None:
        bounds = replace(bounds, margin=margin)
    opened = Warehouse.open(warehouse)
    period = period_asked(opened, first, last, allow_gap=allow_gap)
    with counting_bar("buckets") as tell:
        found = evaluate_policy(opened, period, policy, against, tell)
    checks = check_policy(found, bounds)
    passed = all(check.passed for check in checks)
    if json:
        record = {"passed": passed, "checks": checks, "bounds": bounds}
        print_json(record | {"evaluation": report_of(found)})
    else:
        print_checks(checks, f"{policy} against {against}", Console(highlight=False))
    if not passed:
        raise typer.Exit(FAILED)


def print_checks(checks: list[Check], title: str, console: Console) -> None:
    """A row a bound, then the verdict with its reasons."""
    console.width = max(console.width, 110)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("bound", "found", "allowed", "", "of"):
        table.add_column(column, justify="right" if column in ("found", "allowed") else "left")
    for c in checks:
        verdict = "kept" if c.passed else "FAILS"
        table.add_row(c.name, f"{c.found:,.4g}", f"{c.allowed:,.4g}", verdict, c.meaning)
    console.print(table)
    failed = [
        f"{c.name} is {c.found:,.4g}, allowed {c.allowed:,.4g}" for c in checks if not c.passed
    ]
    console.print("does not ship: " + "; ".join(failed) if failed else "may ship", markup=False)
