"""`queryloop lab tune`: what sharpness, floor, half-life and prior do, as curves."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.lab.asked import MEANING, policy_asked
from pipelines.lab.evaluate_command import (
    FirstOption,
    LastOption,
    period_asked,
)
from pipelines.lab.period import sum_period
from pipelines.lab.shaped import shape_of
from pipelines.lab.tuning import Point, TuneConfig, tune_policy
from pipelines.night_options import WarehouseOption, check_format
from pipelines.warehouse import Warehouse
from pipelines.yaml_options import load_options


def lab_tune(  # noqa: PLR0913 (one option a decision)
    warehouse: WarehouseOption,
    policy: Annotated[str, typer.Option(help=f"{MEANING}; the log's own")] = "",
    first: FirstOption = None,
    last: LastOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML with what is tried")] = None,
    users: Annotated[int | None, typer.Option(help="users of the world")] = None,
    seed: Annotated[int | None, typer.Option(help="the configuration's by default")] = None,
    format: Annotated[str, typer.Option(help="table or json")] = "table",
) -> None:
    """Vary each option of a policy in a world of the log's own shape, and print the curves."""
    check_format(format)
    tried = TuneConfig()
    if config is not None:
        tried = load_options(TuneConfig, config.read_text(), str(config))[0]
    if users is not None:
        tried = replace(tried, users=users)
    opened = Warehouse.open(warehouse)
    period = period_asked(opened, first, last, allow_gap=False)
    night = period.selection
    selection = policy_asked(policy, night) if policy else None
    shape = shape_of(opened, period, sum_period(opened, period, [None]))
    console = Console(stderr=True)
    points = tune_policy(
        shape.rules,
        night if selection is None else selection,
        tried,
        seed=period.nights[-1].seed if seed is None else seed,
        note=lambda text: console.print(text, style="dim") if sys.stderr.isatty() else None,
    )
    if format == "json":
        rows = [asdict(point) for point in points]
        print(json.dumps({"shape": asdict(shape), "config": asdict(tried), "rows": rows}))
    else:
        print_curves(points, asdict(shape), Console(highlight=False))


def print_curves(points: list[Point], shape: dict[str, Any], console: Console) -> None:
    """Every value of every option: the curve, not only its best."""
    console.width = max(console.width, 100)
    said = ", ".join(f"{name} {_rounded(value)}" for name, value in shape.items())
    console.print(f"in a world of the log's shape: {said}")
    table = Table(box=None, pad_edge=False)
    for column in ("option", "value", "per draw", "95 %", "uplift %", "95 %", ""):
        table.add_column(column, justify="left" if column == "option" else "right")
    for p in points:
        gain = p.uplift
        table.add_row(
            p.option,
            _rounded(p.value),
            f"{p.mean.value:.4f}",
            f"{p.mean.low:.4f}..{p.mean.high:.4f}",
            f"{100 * gain.value:+.1f}",
            f"{100 * gain.low:+.1f}..{100 * gain.high:+.1f}",
            "as it is" if p.as_it_is else "",
        )
    console.print(table)
    console.print(
        "Each option alone, the others as they are; one world is not yours: confirm a gain by "
        "`queryloop lab evaluate` and `lab gate` on your log.",
        style="dim",
    )


def _rounded(value: Any) -> str:
    if isinstance(value, tuple):
        return "..".join(_rounded(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
