"""What commands are told of a warehouse and its nights; light: a question is answered soon."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from pipelines.manifests import Manifest
from pipelines.warehouse import Warehouse

WarehouseOption = Annotated[str, typer.Option("--warehouse", "-w", help="the warehouse")]
NightOption = Annotated[str | None, typer.Option("--date", help="as of that night, YYYY-MM-DD")]


FORMATS = ("table", "json")  # of what a study prints


def check_format(format: str) -> None:
    """Raise ValueError for a format that there is not."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")


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
