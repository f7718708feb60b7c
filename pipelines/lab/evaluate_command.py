"""`queryloop lab evaluate`: another policy's value on the warehouse's own log."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.json_output import JsonOption, print_json
from pipelines.lab.asked import LOGGED, MEANING
from pipelines.lab.evaluation import evaluate_policy, report_of
from pipelines.lab.period import Period, default_period, find_period
from pipelines.lab.policies import NAMED
from pipelines.night_options import (
    FormatOption,
    WarehouseOption,
    among,
    asks_json,
    date_option,
    parse_date,
)
from pipelines.progress import counting_bar
from pipelines.store.warehouse import Warehouse
from selection.policy_value import ESTIMANDS

FirstOption = Annotated[str | None, date_option("first night, YYYY-MM-DD", "--from")]
LastOption = Annotated[str | None, date_option("last night", "--to")]
PolicyOption = Annotated[str, typer.Option(help=MEANING, autocompletion=among(*NAMED))]
AgainstOption = Annotated[
    str,
    typer.Option(
        help="what it is compared with; the log's own", autocompletion=among(LOGGED, *NAMED)
    ),
]
GapOption = Annotated[bool, typer.Option(help="leave out nights that were not run")]
_NIGHTS = 14  # evaluated where no range is given


def lab_evaluate(  # noqa: PLR0913 (one option a decision)
    warehouse: WarehouseOption,
    policy: PolicyOption,
    first: FirstOption = None,
    last: LastOption = None,
    against: AgainstOption = LOGGED,
    allow_gap: GapOption = False,
    format: FormatOption = "table",
    json: JsonOption = False,
) -> None:
    """What a policy would have earned on the nights of the log, with intervals over users.

    Example: queryloop lab evaluate --warehouse W --policy reward:beta=4 --format json
    """
    json = asks_json(format, json)
    opened = Warehouse.open(warehouse)
    period = period_asked(opened, first, last, allow_gap=allow_gap)
    with counting_bar("buckets") as tell:
        report = report_of(evaluate_policy(opened, period, policy, against, tell))
    if json:
        print_json(report)
    else:
        console = Console(highlight=False)
        console.width = max(console.width, 110)
        print_report(report, console)


def period_asked(
    warehouse: Warehouse, first: str | None, last: str | None, *, allow_gap: bool
) -> Period:
    """The period of the options; the last 14 nights where they say none."""
    if first is None and last is None:
        return find_period(warehouse, *default_period(warehouse, _NIGHTS), allow_gap=allow_gap)
    if first is None or last is None:
        raise ValueError("give both --from D1 and --to D2, or neither for the last 14 nights")
    return find_period(warehouse, parse_date(first), parse_date(last), allow_gap=allow_gap)


def print_report(report: dict[str, Any], console: Console) -> None:
    """The estimates, what they lean on, flags first among the words."""
    console.print(
        f"{report['policy']['asked']} against {report['against']['asked']}, nights "
        f"{report['from']} to {report['to']}: {report['users']:,} users, "
        f"{report['user_nights']:,} user-nights ({report['served_share']:.0%} saw something), "
        f"{report['draws']:,} draws of {report['logged_value_per_draw']:.4f} each."
    )
    for estimand in report["estimands"]:
        console.print(_table(estimand))
        console.print(
            f"  effective sample {estimand['effective']:,.0f} ({estimand['share']:.1%}), effective "
            f"successes {estimand['successes']:,.0f}, largest weight {estimand['largest']:,.1f}, "
            f"without support {estimand['unsupported']:.2%}",
            style="dim",
        )
    for estimand, lines in report["flags"].items():
        for line in lines:
            of = "" if estimand == "both" else f"{ESTIMANDS[estimand]}: "
            console.print(f"flag: {of}{line}", markup=False, style="bold")
    for line in report["notes"]:
        console.print(f"note: {line}", markup=False)
    for name, line in report["assumes"].items():
        who = {"draw": "per draw", "set": "per set", "both": "both"}[name]
        console.print(f"assumed ({who}): {line}", style="dim", markup=False)
    for line in report["cannot"]:
        console.print(f"cannot be answered from this log: {line}", style="dim", markup=False)


def _table(estimand: dict[str, Any]) -> Table:
    table = Table(title=estimand["estimand"], title_justify="left", box=None, pad_edge=False)
    for column in ("estimator", "value", "95 %", "uplift", "95 %", "uplift %", "95 %"):
        table.add_column(column, justify="left" if column == "estimator" else "right")
    for row in estimand["rows"]:
        cells = [row["estimator"]]
        for name, digits, names in (
            ("value", 4, ("low", "high")),
            ("uplift", 4, ("uplift_low", "uplift_high")),
            ("uplift_pct", 1, ("uplift_pct_low", "uplift_pct_high")),
        ):
            sign = "" if name == "value" else "+"
            cells.append(_text(row[name], digits, sign))
            cells.append("..".join(_text(row[n], digits, sign) for n in names))
        table.add_row(*cells)
    return table


def _text(value: float | None, digits: int, sign: str) -> str:
    return "?" if value is None else f"{value:{sign}.{digits}f}"
