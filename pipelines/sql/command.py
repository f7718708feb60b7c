"""The commands `sql` and `catalog`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.catalog.views import open_session, write_catalog
from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import NightOption, WarehouseOption, among, night_or_head
from pipelines.sql.answers import ANSWER_FORMATS, ask, check_answer, give_answer
from pipelines.sql.prompt import Prompt, run_piped
from pipelines.store.warehouse import Warehouse


def sql(
    warehouse: WarehouseOption,
    statement: Annotated[
        str | None, typer.Argument(help="SQL; without one: a prompt, or statements from a pipe")
    ] = None,
    date: NightOption = None,
    format: Annotated[
        str, typer.Option(help=", ".join(ANSWER_FORMATS), autocompletion=among(*ANSWER_FORMATS))
    ] = "table",
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="file to write the answer to")] = None,
) -> None:
    """Ask the tables in DuckDB.

    Example: queryloop sql -w W "SELECT * FROM starved(7) LIMIT 5"

    Example: queryloop sql -w W --date 2022-05-08 --format parquet --out lift.parquet
    "FROM arm_lift('long_view')"
    """
    format = "json" if json else format
    check_answer(format, out, terminal=sys.stdout.isatty())
    opened = Warehouse.open(warehouse)
    with open_session(opened, night_or_head(opened, date)) as session:
        if statement is not None:
            give_answer(ask(session, statement), format, out)
        elif sys.stdin.isatty():
            Prompt(session, format, f"{opened.root}{f', night of {date}' if date else ''}").run()
        else:
            run_piped(session, sys.stdin.read(), format, out)


def catalog(
    warehouse: WarehouseOption,
    out: Annotated[Path, typer.Option(help="DuckDB file to write")],
    date: NightOption = None,
    json: JsonOption = False,
) -> None:
    """Write a DuckDB database of documented views; open it read-only with any client.

    Example: queryloop catalog -w W --out queryloop.duckdb
    """
    opened = Warehouse.open(warehouse)
    write_catalog(opened, out, night_or_head(opened, date))
    if json:
        print_json({"catalog": out, "warehouse": opened.root})
    else:
        print(f"wrote {out}; its views read the files of {opened.root}")
