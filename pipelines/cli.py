"""The commands: `queryloop [--debug] COMMAND ...`; see `pipelines.entry` for how it begins."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.config import NightConfig, render_config
from pipelines.demo import DemoOptions, run_demo
from pipelines.entry import add_quick, main, new_app
from pipelines.evaluate.app import evaluating
from pipelines.export.command import export
from pipelines.failures import BeamCommand
from pipelines.fingerprint import LATE_FILE_TABLES, compare, fingerprint
from pipelines.health.command import after_night, health, report
from pipelines.importers.command import clock, import_kuairand, import_tables
from pipelines.lab.command import lab_app
from pipelines.lab.evaluate_command import lab_evaluate
from pipelines.lab.gate_command import lab_gate
from pipelines.lab.tune_command import lab_tune
from pipelines.manifests import Manifest
from pipelines.night import RunOptions
from pipelines.night_options import WarehouseOption, night_asked, parse_date
from pipelines.nights import config_of, rebuild, run_nights
from pipelines.object_stores import use_options
from pipelines.operate.command import COMMANDS
from pipelines.operate.metrics import write_metrics
from pipelines.plan import date_of
from pipelines.progress import training_bar
from pipelines.spacing.command import explain_feed, spacing_app
from pipelines.spacing.file import render_spacing
from pipelines.summary import show_model, show_night
from pipelines.training import TrainOptions, train_models
from pipelines.warehouse import Warehouse
from retrieval.spacing.classes import Spacing

app = new_app()
importing = typer.Typer(no_args_is_help=True, help="Bring a log into a warehouse.")
app.add_typer(importing, name="import")
app.add_typer(spacing_app, name="spacing")
app.add_typer(lab_app, name="lab")
lab_app.command("evaluate")(lab_evaluate)
lab_app.command("gate")(lab_gate)
lab_app.command("tune")(lab_tune)
app.command("explain-feed")(explain_feed)
app.command("health")(health)
app.command("report")(report)
app.command("export")(export)
app.add_typer(evaluating, name="evaluate")

for name, command in COMMANDS.items():
    app.command(name)(command)

PathOption = Annotated[str | None, typer.Option(help="Parquet or CSV: a file, folder or glob")]
BEAM = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def init(
    warehouse: Annotated[str, typer.Argument(help="directory to make")],
    buckets: Annotated[int, typer.Option(help="user buckets, a power of two")] = 16,
) -> None:
    """Make a warehouse with a commented queryloop.yaml and spacing.yaml."""
    made = Warehouse.create(
        warehouse,
        render_config(NightConfig()),
        buckets=buckets,
        spacing_text=render_spacing(Spacing()),
    )
    print(f"made {made.root}; look at {made.config_path}, then `queryloop import`")


@importing.command("kuairand")
def kuairand(
    source: Annotated[Path, typer.Argument(help="folder with KuaiRand-Pure's files")],
    warehouse: WarehouseOption,
) -> None:
    """Import the KuaiRand-Pure feed log."""
    import_kuairand(Warehouse.open(warehouse), source)


@importing.command("tables")
def tables(
    warehouse: WarehouseOption,
    items: PathOption = None,
    engagements: PathOption = None,
    impressions: PathOption = None,
    topics: PathOption = None,
    served_draws: PathOption = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML: our columns by theirs")] = None,
) -> None:
    """Import any log whose files follow our column names, or are mapped to them."""
    paths = {
        "ITEMS": items,
        "ENGAGEMENTS": engagements,
        "IMPRESSIONS": impressions,
        "TOPICS": topics,
        "SERVED_DRAWS": served_draws,
    }
    given = {name: path for name, path in paths.items() if path is not None}
    import_tables(Warehouse.open(warehouse), given, mapping)


@app.command(cls=BeamCommand, context_settings=BEAM)
def night(  # noqa: PLR0913 (one option a decision)
    context: typer.Context,
    warehouse: WarehouseOption,
    date: Annotated[str | None, typer.Option(help="the night, YYYY-MM-DD")] = None,
    first: Annotated[str | None, typer.Option("--from", help="first of several nights")] = None,
    last: Annotated[str | None, typer.Option("--to", help="last of several nights")] = None,
    until: Annotated[str, typer.Option(help="last step: rewards, queries or feed")] = "feed",
    rebuild_: Annotated[
        bool, typer.Option("--rebuild", help="replay from raw events and compare")
    ] = False,
    allow_gap: Annotated[bool, typer.Option(help="leave out nights without data")] = False,
    metrics: Annotated[
        Path | None, typer.Option(help="OpenMetrics text to write after each night")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="after a night that rings an alarm, stop with exit 1")
    ] = False,
) -> None:
    """Run a night, several, or an earlier one again. Further options go to Beam (--runner ...).

    Its figures are compared with those of the nights before: `health:` in queryloop.yaml.
    """
    run = RunOptions(beam_args=tuple(context.args), until=until)
    use_options(run.beam_args)
    opened = Warehouse.open(warehouse)
    console = Console(highlight=False, soft_wrap=True)
    dates = _dates(date, first, last)
    if rebuild_:
        _rebuild(opened, dates[-1], run, console)
        return

    def report(manifest: Manifest) -> None:
        show_night(console, manifest)
        if metrics is not None:
            write_metrics(manifest, metrics)
        after_night(console, opened, manifest, strict=strict)

    run_nights(opened, dates, run, allow_gap=allow_gap, report=report)


@app.command()
def train(
    warehouse: WarehouseOption,
    date: Annotated[str, typer.Option(help="the night up to which it learns")],
    seed: Annotated[int | None, typer.Option(help="the configuration's by default")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="begin anew, not with the newest model before")
    ] = False,
) -> None:
    """Train the retrieval model that later nights ask; needs the extra `retrieval`."""
    opened = Warehouse.open(warehouse)
    config = config_of(opened)
    options = TrainOptions(config.seed if seed is None else seed, fresh)
    console = Console(highlight=False, soft_wrap=True)
    with training_bar() as report:
        made = train_models(opened, parse_date(date), config, options, report)
    for record in made:
        show_model(console, record)


@app.command()
def demo(
    users: Annotated[int, typer.Option(help="users of the world")] = DemoOptions.users,
    nights: Annotated[int, typer.Option(help="nights to run")] = DemoOptions.nights,
    seed: Annotated[int, typer.Option(help="another seed, another world")] = DemoOptions.seed,
    mismatch: Annotated[
        float, typer.Option(help="how far tastes differ from past engagements, 0 to 1")
    ] = DemoOptions.mismatch,
    out: Annotated[Path, typer.Option(help="folder for the warehouse and the report")] = Path(
        "demo"
    ),
    model: Annotated[bool, typer.Option(help="train retrieval models and ask them")] = False,
) -> None:
    """Run the loop on a simulated world whose answer is known."""
    run_demo(DemoOptions(users, nights, seed, mismatch, out, model))


add_quick(app)


@app.command("fingerprint")
def fingerprint_(
    warehouse: WarehouseOption,
    date: Annotated[str | None, typer.Option(help="the night; the newest by default")] = None,
    compare_: Annotated[
        str | None, typer.Option("--compare", help="another warehouse, or a manifest's number")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="compare what was served too, not only what was learned"),
    ] = False,
) -> None:
    """One digest per table, of its rows in key order; or what differs from another run.

    Against another warehouse the tables are compared that must not depend on when files came.
    """
    opened = Warehouse.open(warehouse)
    manifest = night_asked(opened, date)
    if compare_ is None:
        for name, digest in fingerprint(opened, manifest).items():
            print(name, digest)
        return
    if compare_.isdigit():
        other, theirs = opened, opened.manifest(int(compare_))
    else:
        other = Warehouse.open(compare_)
        theirs = night_asked(other, manifest.date.isoformat())
    tables = None if every or other is opened else LATE_FILE_TABLES
    _print_differences(compare((opened, manifest), (other, theirs), tables=tables))


def _print_differences(differences: list[Any]) -> None:
    for found in differences:
        print(found)
    if any(not found.equal for found in differences):
        raise typer.Exit(1)


def _rebuild(warehouse: Warehouse, date: dt.date, run: RunOptions, console: Console) -> None:
    def report(manifest: Manifest) -> None:
        console.print(f"rebuilt {manifest.date} as manifest {manifest.number}")

    rebuilt = rebuild(warehouse, date, run, report=report)
    _print_differences(compare((warehouse, warehouse.night(date)), (warehouse, rebuilt), ignore={}))


def _dates(date: str | None, first: str | None, last: str | None) -> list[dt.date]:
    if date is not None and first is None and last is None:
        first = last = date
    if (date is not None and first != date) or first is None or last is None:
        raise ValueError("give --date D, or --from D1 and --to D2")
    start, end, today = parse_date(first), parse_date(last), date_of(clock())
    if end < start:
        raise ValueError(f"--to {end} lies before --from {start}; give the earlier one first")
    if end > today:
        raise ValueError(f"{end} lies in the future, today is {today} UTC; give a day that began")
    return [start + dt.timedelta(days=i) for i in range((end - start).days + 1)]


__all__ = ["app", "main"]
