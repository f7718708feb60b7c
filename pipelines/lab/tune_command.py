"""`queryloop lab tune`: what sharpness, floor, half-life and prior do, as curves."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.config import NightConfig
from pipelines.json_output import JsonOption, print_json
from pipelines.lab.asked import MEANING, policy_asked
from pipelines.lab.evaluate_command import (
    FirstOption,
    LastOption,
    period_asked,
)
from pipelines.lab.inputs import read_universe
from pipelines.lab.period import Period, sum_period
from pipelines.lab.policies import NAMED
from pipelines.lab.shaped import Shape, shape_of
from pipelines.lab.tuning import Point, TuneConfig, in_replay, in_world, tune_policy
from pipelines.lab.universe import Universe
from pipelines.night_options import FormatOption, among, asks_json
from pipelines.progress import told
from pipelines.store.warehouse import Warehouse
from pipelines.summary import wide_console
from pipelines.yaml_options import load_options


def lab_tune(  # noqa: PLR0913 (one option a decision)
    warehouse: Annotated[
        str | None, typer.Option("--warehouse", "-w", help="play in a world of its log's shape")
    ] = None,
    items: Annotated[str | None, typer.Option(help="replay: as of `lab replay`")] = None,
    outcomes: Annotated[str | None, typer.Option(help="replay: as of `lab replay`")] = None,
    start: Annotated[str | None, typer.Option(help="replay: as of `lab replay`")] = None,
    kuairec: Annotated[Path | None, typer.Option(help="replay KuaiRec's cut")] = None,
    policy: Annotated[
        str,
        typer.Option(
            help=f"{MEANING}; the log's own, or the default", autocompletion=among(*NAMED)
        ),
    ] = "",
    first: FirstOption = None,
    last: LastOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML with what is tried")] = None,
    users: Annotated[int | None, typer.Option(help="users of the world")] = None,
    seed: Annotated[int | None, typer.Option(help="the configuration's by default")] = None,
    format: FormatOption = "table",
    json: JsonOption = False,
) -> None:
    """Vary each option of a policy, by replay or in a world of a log's shape; print the curves.

    Example: queryloop lab tune --warehouse W --policy reward --users 500
    """
    json = asks_json(format, json)
    tried = TuneConfig()
    if config is not None:
        tried = load_options(TuneConfig, config.read_text(), str(config))[0]
    if users is not None:
        tried = replace(tried, users=users)
    given = [x is not None for x in (warehouse, outcomes, kuairec)]
    if sum(given) != 1 or (outcomes is not None and None in (items, start)):
        raise ValueError(
            "give --warehouse; or --items, --outcomes and --start of a replay; or --kuairec"
        )
    with told() as note:
        note("read the log")
        if warehouse is None:
            universe = _universe(items, outcomes, start, kuairec)
            where = {"users": len(universe.user_ids), "outcomes": len(universe.known.rows)}
            night, play = NightConfig(), in_replay(universe, tried)
        else:
            period, shape = _period_and_shape(Warehouse.open(warehouse), first, last)
            seed, where = period.nights[-1].seed if seed is None else seed, asdict(shape)
            night = replace(NightConfig(), selection=period.selection)
            play = in_world(shape.rules, tried, seed)
        asked = policy_asked(policy, night.selection) if policy else None
        night = night if asked is None else replace(night, selection=asked)
        points = tune_policy(play, night, tried, seed=seed or 0, note=note)
    if json:
        print_json({"shape": where, "config": tried, "rows": points})
    else:
        print_curves(points, where, wide_console(), replayed=warehouse is None)


def _period_and_shape(
    warehouse: Warehouse, first: str | None, last: str | None
) -> tuple[Period, Shape]:
    period = period_asked(warehouse, first, last, allow_gap=False)
    return period, shape_of(warehouse, period, sum_period(warehouse, period, [None]))


def _universe(
    items: str | None, outcomes: str | None, start: str | None, kuairec: Path | None
) -> Universe:
    if kuairec is None:
        assert items is not None
        assert outcomes is not None
        assert start is not None
        return read_universe(items, outcomes, start)
    from pipelines.lab.kuairec import KuaiRecOptions, kuairec_universe

    return kuairec_universe(kuairec, KuaiRecOptions())


def print_curves(
    points: list[Point], where: dict[str, Any], console: Console, *, replayed: bool
) -> None:
    """Every value of every option: the curve, not only its best."""
    console.width = max(console.width, 100)
    said = ", ".join(f"{name} {_rounded(value)}" for name, value in where.items())
    world = "in a replay of" if replayed else "in a world of the log's shape:"
    console.print(f"{world} {said}")
    table = Table(box=None, pad_edge=False)
    for column in (
        "option",
        "value",
        "per item" if replayed else "per draw",
        "95 %",
        "uplift %",
        "95 %",
        "",
    ):
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
