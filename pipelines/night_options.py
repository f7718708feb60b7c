"""What commands are told of a warehouse and its nights; light: a question is answered soon.

An option's values are completed by a function of what stands before it on the command line; one
that cannot know them (no warehouse yet, none there) completes nothing and says nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipelines.store.manifests import Manifest
    from pipelines.store.warehouse import Warehouse

FORMATS = ("table", "json")  # of what a study prints
UNTIL = ("rewards", "queries", "feed")  # steps that a night can end with


def among(*values: str) -> Callable[[str], list[str]]:
    """Completes one of `values`."""
    return lambda incomplete: [v for v in values if v.startswith(incomplete)]


def nights_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes the dates of the nights of `--warehouse`, newest first."""
    return [str(d) for d in _dates(ctx)[1:] if str(d).startswith(incomplete)]


def nights_to_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """The same, and before them the night that is next."""
    return [str(d) for d in _dates(ctx) if str(d).startswith(incomplete)]


def _dates(ctx: typer.Context) -> list[dt.date]:
    """The night after the newest, then those that were run, newest first."""
    from pipelines.store.warehouse import Warehouse  # Arrow takes a moment to import

    try:
        opened = Warehouse.open(ctx.params.get("warehouse") or "")
        run = [m.date for m in opened.chain(opened.head())][::-1]
    except (ValueError, OSError):
        return []
    return [d + dt.timedelta(days=1) for d in run[:1]] + run


def date_option(help: str, *names: str) -> Any:
    """An option that is the date of a night."""
    return typer.Option(*names, help=help, autocompletion=nights_run)


WarehouseOption = Annotated[str, typer.Option("--warehouse", "-w", help="the warehouse")]
NightOption = Annotated[str | None, date_option("as of that night, YYYY-MM-DD", "--date")]
NextOption = Annotated[
    str | None,
    typer.Option("--date", help="the night; the next by default", autocompletion=nights_to_run),
]
FormatOption = Annotated[
    str, typer.Option(help="table, or json as --json", autocompletion=among(*FORMATS))
]


def asks_json(format: str, json: bool) -> bool:
    """Whether `--format json` or `--json` was given.

    Raises:
        ValueError: There is no such format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return json or format == "json"


def parse_date(text: str) -> dt.date:
    """A day as people write it.

    Raises:
        ValueError: It is none.
    """
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no date; write YYYY-MM-DD") from error


def night_or_head(warehouse: Warehouse, date: str | None) -> Manifest | None:
    """The night of `date`, else the newest; None before the first."""
    return warehouse.head() if date is None else warehouse.night(parse_date(date))


def night_asked(warehouse: Warehouse, date: str | None) -> Manifest:
    """The night of `date`, else the newest.

    Raises:
        ValueError: No night was run, or not that one.
    """
    found = night_or_head(warehouse, date)
    if found is None:
        raise ValueError(f"{warehouse.root} has no night yet; run `queryloop night` first")
    return found


def night_run(warehouse: Warehouse, date: str | None) -> Manifest:
    """As `night_asked`; what was built before the first night is none.

    Raises:
        ValueError: No night was run, or not that one.
    """
    found = night_asked(warehouse, date)
    if found.kind == "bootstrap":
        raise ValueError(f"{warehouse.root} has no night yet; run `queryloop night` first")
    return found
