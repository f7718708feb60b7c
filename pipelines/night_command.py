"""What `queryloop night`, `resume`, `train` and `fingerprint` do: run, then tell."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pipelines.clock import clock
from pipelines.config_files import config_of
from pipelines.health.command import after_night
from pipelines.health.records import Alarm
from pipelines.json_output import print_json
from pipelines.logs import tell
from pipelines.models import ModelRecord
from pipelines.night import RunOptions
from pipelines.night_options import night_asked, parse_date
from pipelines.nights import rebuild, run_nights
from pipelines.operate.fingerprint import LATE_FILE_TABLES, Difference, Run, compare, fingerprint
from pipelines.operate.metrics import write_metrics
from pipelines.plan import date_of
from pipelines.progress import counting_bar, told, training_bar
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.summary import show_model, show_night, wide_console
from pipelines.training import TrainOptions, train_models


@dataclass(frozen=True)
class After:
    """What is done after each night.

    Attributes:
        metrics: OpenMetrics text to write.
        strict: Whether an alarm ends the command with exit 1.
        json: Whether a night is told in a line of JSON.
    """

    metrics: Path | None = None
    strict: bool = False
    json: bool = False


def run_and_tell(
    warehouse: Warehouse,
    dates: list[dt.date],
    run: RunOptions,
    after: After,
    *,
    allow_gap: bool = False,
) -> None:
    """Run nights and tell each when it is published.

    Raises:
        typer.Exit: With code 1, after a night that rings, where alarms are to stop it.
    """

    def report(manifest: Manifest) -> None:
        tell_night(warehouse, manifest, after)

    run_nights(warehouse, dates, run, allow_gap=allow_gap, report=report)


def tell_night(warehouse: Warehouse, manifest: Manifest, after: After) -> None:
    """Tell a night that was just published, and how the loop does.

    Raises:
        typer.Exit: With code 1, where it rings and that is to stop the command.
    """
    console = wide_console(quiet=after.json)
    show_night(console, manifest)
    if after.metrics is not None:
        write_metrics(manifest, after.metrics)
    with told() as note:
        note("measure how the loop does")
        alarms = after_night(console, warehouse, manifest)
    for alarm in alarms:
        about = {"night": manifest.date, "what": alarm.what, "detail": alarm.message}
        tell("alarm", about=about, level=logging.WARNING)
    if after.json:
        print_json(night_record(manifest, alarms))
    if after.strict and alarms:
        raise typer.Exit(1)


def night_record(manifest: Manifest, alarms: Sequence[Alarm]) -> dict[str, Any]:
    """A published night as `--json` has it."""
    return {
        "night": manifest.date,
        "kind": manifest.kind,
        "manifest": manifest.number,
        "seconds": manifest.seconds,
        "counts": manifest.counts,
        "rows": {name: sum(f.rows for f in files) for name, files in manifest.tables.items()},
        "retrieval": manifest.retrieval,
        "alarms": alarms,
    }


def rebuild_and_compare(
    warehouse: Warehouse, date: dt.date, run: RunOptions, *, json: bool
) -> None:
    """Replay the nights up to `date` from the raw events and tell what differs: exit 1."""

    def report(manifest: Manifest) -> None:
        if not json:
            print(f"rebuilt {manifest.date} as manifest {manifest.number}")

    rebuilt = rebuild(warehouse, date, run, report=report)
    ours, theirs = (warehouse, warehouse.night(date)), (warehouse, rebuilt)
    with counting_bar("compare tables") as done:
        found = compare(ours, theirs, ignore={}, tell=done)
    tell_differences(found, json=json, night=date, manifest=rebuilt.number)


def compare_and_tell(ours: Run, other: str, *, every: bool, json: bool) -> None:
    """Compare a night with that of another warehouse, or with a manifest; exit 1 where it differs.

    Args:
        ours: The night.
        other: A manifest's number, or a warehouse.
        every: Whether what was served is compared too.
        json: Whether it is told in JSON.
    """
    opened, manifest = ours
    if other.isdigit():
        theirs = (opened, opened.manifest(int(other)))
    else:
        another = Warehouse.open(other)
        theirs = (another, night_asked(another, manifest.date.isoformat()))
    tables = None if every or other.isdigit() else LATE_FILE_TABLES
    with counting_bar("compare tables") as done:
        found = compare(ours, theirs, tables=tables, tell=done)
    tell_differences(found, json=json, night=manifest.date, manifest=theirs[1].number)


def tell_differences(found: Sequence[Difference], *, json: bool, **about: Any) -> None:
    """Print how two runs compare.

    Raises:
        typer.Exit: With code 1, where they differ.
    """
    equal = all(one.equal for one in found)
    if json:
        print_json(about | {"equal": equal, "tables": found})
    else:
        print(*found, sep="\n")
    if not equal:
        raise typer.Exit(1)


def digests_of(warehouse: Warehouse, manifest: Manifest) -> dict[str, str]:
    """The fingerprint, with a bar while it is taken."""
    with counting_bar("digest tables") as done:
        return fingerprint(warehouse, manifest, done)


def train_and_tell(
    warehouse: Warehouse, date: dt.date, seed: int | None, *, fresh: bool, json: bool
) -> None:
    """Train the models of a night and say what was made."""
    config = config_of(warehouse)
    options = TrainOptions(config.seed if seed is None else seed, fresh)
    with training_bar() as report:
        made = train_models(warehouse, date, config, options, report)
    if json:
        print_json({"models": [_model_record(record) for record in made]})
        return
    for record in made:
        show_model(wide_console(), record)


def _model_record(record: ModelRecord) -> dict[str, Any]:
    names = ("number", "date", "learners", "manifest", "parent", "seed", "report")
    return {name: getattr(record, name) for name in names}


def asked_dates(date: str | None, first: str | None, last: str | None) -> list[dt.date]:
    """The nights that `night` is asked for.

    Raises:
        ValueError: None, or they cannot be run.
    """
    if date is not None and first is None and last is None:
        first = last = date
    if (date is not None and first != date) or first is None or last is None:
        raise ValueError(
            "give --date D, or --from D1 and --to D2; `queryloop status` names the next night"
        )
    start, end, today = parse_date(first), parse_date(last), date_of(clock())
    if end < start:
        raise ValueError(f"--to {end} lies before --from {start}; give the earlier one first")
    if end > today:
        raise ValueError(f"{end} lies in the future, today is {today} UTC; give a day that began")
    return [start + dt.timedelta(days=i) for i in range((end - start).days + 1)]
