"""The operators' commands: before, during and after a night."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.importers.command import clock
from pipelines.night_options import WarehouseOption, night_asked, parse_date
from pipelines.nights import run_night
from pipelines.operate.collect import collect, plan_collection
from pipelines.operate.difference import compare_nights
from pipelines.operate.doctor import (
    CLEAN_AFTER_HOURS,
    Checkup,
    check_machine,
    check_warehouse,
    clean,
)
from pipelines.operate.erase import erase as erase_user
from pipelines.operate.erase import user_of
from pipelines.operate.forecast import forecast
from pipelines.operate.metrics import render_metrics
from pipelines.operate.reshard import plan_reshard
from pipelines.operate.reshard import reshard as reshard_users
from pipelines.operate.status import next_night, nights_of, staged_nights, status_of
from pipelines.operate.validation import validate
from pipelines.operate.views import (
    as_json,
    show_checkup,
    show_collection,
    show_difference,
    show_erasure,
    show_forecast,
    show_nights,
    show_resharding,
    show_status,
    show_validation,
)
from pipelines.progress import counting_bar
from pipelines.summary import show_night, wide_console
from pipelines.warehouse import Warehouse

JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object instead of tables")]


def status(warehouse: WarehouseOption, json: JsonOption = False) -> None:
    """Say where a warehouse stands: the newest night, what waits, what broke off.

    Example: queryloop status --warehouse W
    """
    _tell(status_of(Warehouse.open(warehouse)), show_status, json=json)


def nights(
    warehouse: WarehouseOption,
    every: Annotated[bool, typer.Option("--all", help="branches and checks too")] = False,
    json: JsonOption = False,
) -> None:
    """List the nights with their rows and durations, oldest first.

    Example: queryloop nights --warehouse W --all
    """
    _tell(nights_of(Warehouse.open(warehouse), every=every), show_nights, json=json)


def plan(
    warehouse: WarehouseOption,
    date: Annotated[str | None, typer.Option(help="the night; the next one by default")] = None,
    allow_gap: Annotated[bool, typer.Option(help="as of `queryloop night`")] = False,
    json: JsonOption = False,
) -> None:
    """Say what a night would do and why, without running it; exit 2 where it would be refused.

    Example: queryloop plan --warehouse W --date 2022-05-08
    """
    opened = Warehouse.open(warehouse)
    night = _next(opened) if date is None else parse_date(date)
    found = forecast(opened, night, allow_gap=allow_gap)
    _tell(found, show_forecast, json=json)
    if found.problem:
        raise typer.Exit(2)


def resume(warehouse: WarehouseOption) -> None:
    """Go on with the night that broke off, from its last finished job.

    Example: queryloop resume --warehouse W
    """
    opened = Warehouse.open(warehouse)
    begun = staged_nights(opened.root)
    if not begun:
        print("nothing broke off; `queryloop status` says what is next")
        return
    for night in sorted({s.date for s in begun}):
        found = forecast(opened, night)
        jobs = ", ".join(found.finished) or "none of this input and configuration"
        print(f"{night}: finished jobs: {jobs}")
        made = run_night(opened, night)
        show_night(wide_console(), made)


def diff(
    first: Annotated[str, typer.Argument(help="a night, YYYY-MM-DD")],
    second: Annotated[str, typer.Argument(help="a later one")],
    warehouse: WarehouseOption,
    users: Annotated[int, typer.Option(help="users named of those that moved most", min=0)] = 10,
    json: JsonOption = False,
) -> None:
    """Compare two nights: tables, rates, distributions, and whose queries changed and why.

    Example: queryloop diff 2022-05-07 2022-05-08 --warehouse W
    """
    found = compare_nights(
        Warehouse.open(warehouse), parse_date(first), parse_date(second), users=users
    )
    _tell(found, show_difference, json=json)


def doctor(
    warehouse: Annotated[
        str | None, typer.Option("--warehouse", "-w", help="look at it too, file by file")
    ] = None,
    quick: Annotated[bool, typer.Option(help="sizes of files alone, not every byte")] = False,
    clean_: Annotated[
        bool, typer.Option("--clean", help="remove files older than a day that no record names")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check this machine, and a warehouse against its records; exit 1 where something is broken.

    Example: queryloop doctor --warehouse W --clean
    """
    found = Checkup(tuple(check_machine()))
    if warehouse is not None:
        opened = Warehouse.open(warehouse)
        with counting_bar("files") as tell:
            seen = check_warehouse(opened, clock() / 1e6, quick=quick, tell=tell)
        found = Checkup((*found.findings, *seen.findings), seen.strays)
    _tell(found, show_checkup, json=json)
    if clean_ and warehouse is not None:
        removed = clean(opened, found.strays, CLEAN_AFTER_HOURS)
        typer.echo(f"removed {removed:,} files", err=json)
    if not found.healthy:
        raise typer.Exit(1)


def check_input(
    warehouse: WarehouseOption,
    date: Annotated[str | None, typer.Option(help="the night; the next one by default")] = None,
    json: JsonOption = False,
) -> None:
    """Hold a night's input against the nights before it; exit 1 where it looks otherwise.

    Example: queryloop validate --warehouse W --date 2022-05-08
    """
    opened = Warehouse.open(warehouse)
    found = validate(opened, _next(opened) if date is None else parse_date(date))
    _tell(found, show_validation, json=json)
    if found.anomalies:
        raise typer.Exit(1)


def gc(
    warehouse: WarehouseOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    json: JsonOption = False,
) -> None:
    """Delete what old nights need no longer, by `retention` in queryloop.yaml.

    Example: queryloop gc --warehouse W --dry-run
    """
    opened = Warehouse.open(warehouse)
    found = plan_collection(opened) if dry_run else collect(opened, clock())
    _tell(found, show_collection, json=json)


def erase(
    warehouse: WarehouseOption,
    user: Annotated[str, typer.Option(help="the user: an id, or the name that an import had")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    json: JsonOption = False,
) -> None:
    """Take a user out of everything the warehouse keeps, and search all of it for what is left.

    Example: queryloop erase --warehouse W --user 4711 --yes
    """
    opened = Warehouse.open(warehouse)
    user_id = user_of(opened, user)
    if not yes:
        typer.confirm(f"erase user {user_id} from {opened.root}? it cannot be undone", abort=True)
    with counting_bar("files") as tell:
        found = erase_user(opened, user_id, clock(), tell)
    _tell(found, show_erasure, json=json)
    if found.found:
        raise typer.Exit(1)


def reshard(
    warehouse: WarehouseOption,
    buckets: Annotated[int, typer.Option(help="user buckets from now on, a power of two")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what it takes")] = False,
    json: JsonOption = False,
) -> None:
    """Put the users into another number of buckets: every night's tables are written anew.

    A bucket is what a worker has in memory at a time, and there is no use for more workers than
    buckets. No row changes. Broken off, run it again.

    Example: queryloop reshard --warehouse W --buckets 64 --dry-run
    """
    opened = Warehouse.open(warehouse)
    if dry_run:
        found = plan_reshard(opened, buckets)
    else:
        with counting_bar("files") as tell:
            found = reshard_users(opened, buckets, clock(), tell)
    _tell(found, show_resharding, json=json)


def metrics(
    warehouse: WarehouseOption,
    date: Annotated[str | None, typer.Option(help="that night; the newest by default")] = None,
) -> None:
    """Print a night's books as OpenMetrics text; `queryloop night --metrics FILE` writes it.

    Example: queryloop metrics --warehouse W
    """
    opened = Warehouse.open(warehouse)
    print(render_metrics(night_asked(opened, date)), end="")


COMMANDS: dict[str, Callable[..., None]] = {
    "plan": plan,
    "status": status,
    "nights": nights,
    "resume": resume,
    "diff": diff,
    "doctor": doctor,
    "validate": check_input,
    "metrics": metrics,
    "gc": gc,
    "erase": erase,
    "reshard": reshard,
}


def _tell(found: Any, show: Callable[[Console, Any], None], *, json: bool) -> None:
    if json:
        print(as_json(found))
    else:
        show(wide_console(), found)


def _next(warehouse: Warehouse) -> dt.date:
    night = next_night(warehouse.head(), warehouse.landings())
    if night is None:
        raise ValueError(f"nothing has landed in {warehouse.root}; run `queryloop import` first")
    return night


__all__ = ["COMMANDS"]
