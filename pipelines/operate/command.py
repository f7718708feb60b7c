"""The operators' commands: before, during and after a night.

What they run is imported when they run: their options are known at once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import (
    WarehouseOption,
    date_option,
    night_asked,
    nights_run,
    nights_to_run,
    parse_date,
)

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.store.warehouse import Warehouse

Found = TypeVar("Found")
NextOption = Annotated[
    str | None,
    typer.Option(help="the night; the next one by default", autocompletion=nights_to_run),
]


def status(warehouse: WarehouseOption, json: JsonOption = False) -> None:
    """Say where a warehouse stands: the newest night, what waits, what broke off.

    Example: queryloop status --warehouse W
    """
    from pipelines.operate.status import status_of
    from pipelines.operate.views import show_status

    _tell(status_of(_open(warehouse)), show_status, json=json)


def nights(
    warehouse: WarehouseOption,
    every: Annotated[bool, typer.Option("--all", help="branches and checks too")] = False,
    json: JsonOption = False,
) -> None:
    """List the nights with their rows and durations, oldest first.

    Example: queryloop nights --warehouse W --all
    """
    from pipelines.operate.status import nights_of
    from pipelines.operate.views import show_nights

    _tell(nights_of(_open(warehouse), every=every), show_nights, json=json)


def plan(
    warehouse: WarehouseOption,
    date: NextOption = None,
    allow_gap: Annotated[bool, typer.Option(help="as of `queryloop night`")] = False,
    json: JsonOption = False,
) -> None:
    """Say what a night would do and why, without running it; exit 2 where it would be refused.

    Example: queryloop plan --warehouse W --date 2022-05-08
    """
    from pipelines.operate.forecast import forecast
    from pipelines.operate.views import show_forecast

    opened = _open(warehouse)
    night = _next(opened) if date is None else parse_date(date)
    found = _made("look at what waits", lambda: forecast(opened, night, allow_gap=allow_gap))
    _tell(found, show_forecast, json=json)
    if found.problem:
        raise typer.Exit(2)


def resume(warehouse: WarehouseOption, json: JsonOption = False) -> None:
    """Go on with the night that broke off, from its last finished job.

    With --json a line is printed after each night; none where nothing broke off.

    Example: queryloop resume --warehouse W
    """
    from pipelines.night import RunOptions
    from pipelines.night_command import After, run_and_tell
    from pipelines.operate.forecast import forecast
    from pipelines.operate.status import staged_nights

    opened = _open(warehouse)
    nights = sorted({s.date for s in staged_nights(opened.root)})
    if not nights:
        typer.echo("nothing broke off; `queryloop status` says what is next", err=json)
    for night in nights:
        found = forecast(opened, night)
        jobs = ", ".join(found.finished) or "none of this input and configuration"
        typer.echo(f"{night}: finished jobs: {jobs}", err=json)
        run_and_tell(opened, [night], RunOptions(), After(json=json))


def diff(
    first: Annotated[str, typer.Argument(help="a night, YYYY-MM-DD", autocompletion=nights_run)],
    second: Annotated[str, typer.Argument(help="a later one", autocompletion=nights_run)],
    warehouse: WarehouseOption,
    users: Annotated[int, typer.Option(help="users named of those that moved most", min=0)] = 10,
    json: JsonOption = False,
) -> None:
    """Compare two nights: tables, rates, distributions, and whose queries changed and why.

    Example: queryloop diff 2022-05-07 2022-05-08 --warehouse W
    """
    from pipelines.operate.difference import compare_nights
    from pipelines.operate.views import show_difference

    opened, days = _open(warehouse), (parse_date(first), parse_date(second))
    found = _made("compare", lambda: compare_nights(opened, *days, users=users))
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
    from pipelines.clock import clock
    from pipelines.operate.doctor import (
        CLEAN_AFTER_HOURS,
        Checkup,
        check_machine,
        check_warehouse,
        clean,
    )
    from pipelines.operate.views import show_checkup
    from pipelines.progress import counting_bar

    found = Checkup(tuple(check_machine()))
    if warehouse is not None:
        opened = _open(warehouse)
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
    date: NextOption = None,
    json: JsonOption = False,
) -> None:
    """Hold a night's input against the nights before it; exit 1 where it looks otherwise.

    Example: queryloop validate --warehouse W --date 2022-05-08
    """
    from pipelines.operate.validation import validate
    from pipelines.operate.views import show_validation

    opened = _open(warehouse)
    night = _next(opened) if date is None else parse_date(date)
    found = _made("look at the input", lambda: validate(opened, night))
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
    from pipelines.clock import clock
    from pipelines.operate.collect import collect, plan_collection
    from pipelines.operate.views import show_collection

    opened = _open(warehouse)
    find = plan_collection if dry_run else partial(collect, now=clock())
    found = _made("look for what is old", lambda: find(opened))
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
    from pipelines.clock import clock
    from pipelines.operate.erase import erase as erase_user
    from pipelines.operate.erase import user_of
    from pipelines.operate.views import show_erasure
    from pipelines.progress import counting_bar

    opened = _open(warehouse)
    user_id = user_of(opened, user)
    if not yes:
        known_as = user if user == str(user_id) else f"{user} ({user_id})"
        typer.confirm(f"erase user {known_as} from {opened.root}? it cannot be undone", abort=True)
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
    from pipelines.clock import clock
    from pipelines.operate.reshard import plan_reshard
    from pipelines.operate.reshard import reshard as reshard_users
    from pipelines.operate.views import show_resharding
    from pipelines.progress import counting_bar

    opened = _open(warehouse)
    if dry_run:
        found = plan_reshard(opened, buckets)
    else:
        with counting_bar("files") as tell:
            found = reshard_users(opened, buckets, clock(), tell)
    _tell(found, show_resharding, json=json)


def metrics(
    warehouse: WarehouseOption,
    date: Annotated[str | None, date_option("that night; the newest by default")] = None,
    json: JsonOption = False,
) -> None:
    """Print a night's books as OpenMetrics text; `queryloop night --metrics FILE` writes it.

    Example: queryloop metrics --warehouse W
    """
    from pipelines.operate.metrics import render_metrics, samples_of

    manifest = night_asked(_open(warehouse), date)
    if json:
        print_json({"night": manifest.date, "samples": samples_of(manifest)})
    else:
        print(render_metrics(manifest), end="")


def _made(what: str, make: Callable[[], Found]) -> Found:
    """What `make` gives; meanwhile a terminal shows what is being done."""
    from pipelines.progress import told

    with told() as note:
        note(what)
        return make()


def _tell(found: Any, show: Callable[[Console, Any], None], *, json: bool) -> None:
    from pipelines.summary import wide_console

    if json:
        print_json(found)
    else:
        show(wide_console(), found)


def _open(warehouse: str) -> Warehouse:
    from pipelines.store.warehouse import Warehouse  # Arrow takes a moment to import

    return Warehouse.open(warehouse)


def _next(warehouse: Warehouse) -> dt.date:
    from pipelines.operate.status import next_night

    night = next_night(warehouse.head(), warehouse.landings())
    if night is None:
        raise ValueError(f"nothing has landed in {warehouse.root}; run `queryloop import` first")
    return night
