"""A night's health on the terminal: some lines after the night, all figures when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.config_files import config_of
from pipelines.health.alarms import HealthConfig, night_alarms
from pipelines.health.figures import MEANINGS, record_health
from pipelines.health.records import Alarm, Figure, Health
from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import NightOption, WarehouseOption, night_run
from pipelines.progress import told
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.summary import wide_console

_SHARES = ("engaged", "waiting", "prior", "late", "refused", "unattributed")


def check_health(
    warehouse: Warehouse, manifest: Manifest, config: HealthConfig
) -> tuple[Health, list[Alarm]]:
    """Measure and store a night's health, and say what rings."""
    healths = record_health(warehouse, manifest, config.nights)
    return healths[-1], night_alarms(warehouse, manifest, healths, config)


def after_night(console: Console, warehouse: Warehouse, manifest: Manifest) -> list[Alarm]:
    """Measure, store and print the health of the night just published; what rings."""
    config = config_of(warehouse).health
    found, alarms = check_health(warehouse, manifest, config)
    for line in [*health_lines(found), *map(str, alarms)]:
        console.print(line, highlight=False, markup=False)
    if config.report:
        write_report(warehouse, manifest, Path(config.report) / f"{manifest.date}.html")
    return alarms


def health(
    warehouse: WarehouseOption,
    date: NightOption = None,
    json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 where an alarm rings")] = False,
) -> None:
    """Say how the loop does: rates, chances, spread, priors, calibration, and what rings.

    Example: queryloop health --warehouse W --date 2022-05-08
    """
    opened = Warehouse.open(warehouse)
    with told() as note:
        note("measure the night")
        found, alarms = check_health(opened, night_run(opened, date), config_of(opened).health)
    if json:
        print_json(asdict(found) | {"alarms": alarms})
    else:
        show_figures(wide_console(), found)
        for alarm in alarms:
            print(alarm)
    if strict and alarms:
        raise typer.Exit(1)


def report(
    warehouse: WarehouseOption,
    out: Annotated[Path, typer.Option(help="HTML file to write")],
    date: NightOption = None,
    json: JsonOption = False,
) -> None:
    """Write one HTML page about a night, to be read offline, on a phone too.

    Example: queryloop report --warehouse W --date 2022-05-08 --out night.html
    """
    opened = Warehouse.open(warehouse)
    manifest = night_run(opened, date)
    with told() as note:
        note("draw the night")
        write_report(opened, manifest, out)
    if json:
        print_json({"night": manifest.date, "report": out})
    else:
        print(f"wrote {out}")


def write_report(warehouse: Warehouse, manifest: Manifest, out: Path) -> None:
    """The report of a night as a file."""
    # Drawing is imported here: no other command needs it, and it takes half a second.
    from pipelines.health.page import night_report
    from pipelines.pages.report import render_report

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_report(night_report(warehouse, manifest)), encoding="utf-8")


def health_lines(found: Health) -> list[str]:
    """What a night says of the loop after its books, a line a subject."""
    sample = "" if found.share == 1.0 else f" (of {found.share:.0%} of the users)"
    lines = [
        _line("value per impression", [f for f in found.of("rate") if f.n], with_interval),
        _line("predicted and came", found.of("calibration"), _promise),
        _line("never shown", found.of("waiting"), lambda f: _waits(f, found)),
        _line("rewards lean on", found.of("prior"), short),
        _line("drawn to promised", found.of("draws"), with_interval),
        _line("impressions", [f for n in ("unattributed", "late") for f in found.of(n)], _named),
    ]
    return [f"health{sample}:"] + [f"  {line}" for line in lines if line]


def show_figures(console: Console, found: Health) -> None:
    """Every figure in a table."""
    share = "" if found.share == 1.0 else f", of {found.share:.1%} of the users"
    table = Table(title=f"night of {found.date}{share}", title_justify="left", box=None)
    for name in ("figure", "surface", "arm", "of", "value", "95 % interval", "expected", "rows"):
        right = name in ("value", "expected", "rows")
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    for f in found.figures:
        expected = "" if f.expected is None else f"{f.expected:.4g}"
        cells = (f.name, f.surface, f.arm, f.part, short(f), interval(f), expected, f"{f.n:,}")
        table.add_row(*map(escape, cells))
    console.print(table)
    for name in dict.fromkeys(f.name for f in found.figures):
        console.print(f"{name}: {MEANINGS[name]}", style="dim")


def short(f: Figure) -> str:
    """The value: a share in percent, other numbers with four digits."""
    if f.value is None:
        return "unknown"
    return f"{f.value:.1%}" if f.name in _SHARES else f"{f.value:.4g}"


def interval(f: Figure) -> str:
    """'0.31 to 0.35', '' without one."""
    return "" if f.low is None or f.high is None else f"{f.low:.4g} to {f.high:.4g}"


def with_interval(f: Figure) -> str:
    """'0.33 (0.31 to 0.35)'."""
    bounds = interval(f)
    return f"{short(f)} ({bounds})" if bounds else short(f)


def _promise(f: Figure) -> str:
    return f"{f.expected or 0.0:.4g}, {with_interval(f)}"


def _waits(f: Figure, found: Health) -> str:
    days = [g.value for g in found.of("waiting days") if g.key[1:] == f.key[1:]]
    wait = f", half of them for {days[0]:.1f} days" if days and days[0] is not None else ""
    return f"{short(f)} of {f.n:,} interests{wait}"


def _named(f: Figure) -> str:
    return f"{f.name} {short(f)}"


def _line(what: str, figures: Sequence[Figure], tell: Callable[[Figure], str]) -> str:
    parts = [": ".join(p for p in (_who(f), tell(f)) if p) for f in figures]
    return f"{what}: {'; '.join(parts)}" if parts else ""


def _who(f: Figure) -> str:
    """Whose, without the surface; a policy without its digest."""
    return ", ".join(p for p in (f.arm, f.part.split("/")[0]) if p)
