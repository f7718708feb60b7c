"""The commands of the loop itself: make a warehouse, import, run nights, train, compare, play.

What they run is imported when they run: `queryloop night --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.demo.options import DemoOptions
from pipelines.entry import app, main
from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import (
    UNTIL,
    WarehouseOption,
    among,
    date_option,
    night_asked,
    nights_to_run,
    parse_date,
)

PathOption = Annotated[str | None, typer.Option(help="Parquet or CSV: a file, folder or glob")]


def init(
    warehouse: Annotated[str, typer.Argument(help="directory to make")],
    buckets: Annotated[int, typer.Option(help="user buckets, a power of two")] = 16,
    json: JsonOption = False,
) -> None:
    """Make a warehouse with a commented queryloop.yaml and spacing.yaml.

    Example: queryloop init W --buckets 64
    """
    from pipelines.config import NightConfig, render_config
    from pipelines.spacing.file import render_spacing
    from pipelines.store.warehouse import Warehouse
    from retrieval.spacing.classes import Spacing

    made = Warehouse.create(
        warehouse,
        render_config(NightConfig()),
        buckets=buckets,
        spacing_text=render_spacing(Spacing()),
    )
    if json:
        print_json({"warehouse": made.root, "config": made.config_path, "buckets": buckets})
    else:
        print(f"made {made.root}; look at {made.config_path}, then `queryloop import`")


def kuairand(
    source: Annotated[Path, typer.Argument(help="folder with KuaiRand-Pure's files")],
    warehouse: WarehouseOption,
    json: JsonOption = False,
) -> None:
    """Import the KuaiRand-Pure feed log.

    Example: queryloop import kuairand KuaiRand-Pure --warehouse W
    """
    from pipelines.importers.command import import_kuairand
    from pipelines.store.warehouse import Warehouse

    import_kuairand(Warehouse.open(warehouse), source, json=json)


def tables(  # noqa: PLR0913 (one option a decision)
    warehouse: WarehouseOption,
    items: PathOption = None,
    engagements: PathOption = None,
    impressions: PathOption = None,
    topics: PathOption = None,
    served_draws: PathOption = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML: our columns by theirs")] = None,
    json: JsonOption = False,
) -> None:
    """Import any log whose files follow our column names, or are mapped to them.

    Example: queryloop import tables -w W --items items.csv --engagements 'log/*.csv'
    """
    from pipelines.importers.command import import_tables
    from pipelines.store.warehouse import Warehouse

    paths = {
        "ITEMS": items,
        "ENGAGEMENTS": engagements,
        "IMPRESSIONS": impressions,
        "TOPICS": topics,
        "SERVED_DRAWS": served_draws,
    }
    given = {name: path for name, path in paths.items() if path is not None}
    import_tables(Warehouse.open(warehouse), given, mapping, json=json)


def night(  # noqa: PLR0913 (one option a decision)
    context: typer.Context,
    warehouse: WarehouseOption,
    date: Annotated[
        str | None, typer.Option(help="the night, YYYY-MM-DD", autocompletion=nights_to_run)
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", help="first of several nights", autocompletion=nights_to_run),
    ] = None,
    last: Annotated[str | None, date_option("last of several nights", "--to")] = None,
    until: Annotated[
        str,
        typer.Option(help=f"last step: {', '.join(UNTIL)}", autocompletion=among(*UNTIL)),
    ] = "feed",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="replay from raw events and compare")
    ] = False,
    allow_gap: Annotated[bool, typer.Option(help="leave out nights without data")] = False,
    metrics: Annotated[
        Path | None, typer.Option(help="OpenMetrics text to write after each night")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="after a night that rings an alarm, stop with exit 1")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a night, several, or an earlier one again. Further options go to Beam (--runner ...).

    Its figures are compared with those of the nights before: `health:` in queryloop.yaml. A line is
    printed after each with --json.

    Example: queryloop night --warehouse W --date 2022-05-08 --strict
    """
    from pipelines.night import RunOptions
    from pipelines.night_command import After, asked_dates, rebuild_and_compare, run_and_tell
    from pipelines.store.object_stores import use_options
    from pipelines.store.warehouse import Warehouse

    run = RunOptions(beam_args=tuple(context.args), until=until)
    use_options(run.beam_args)
    opened = Warehouse.open(warehouse)
    dates = asked_dates(date, first, last)
    if rebuild:
        rebuild_and_compare(opened, dates[-1], run, json=json)
    else:
        run_and_tell(opened, dates, run, After(metrics, strict, json), allow_gap=allow_gap)


def train(
    warehouse: WarehouseOption,
    date: Annotated[str, date_option("the night up to which it learns")],
    seed: Annotated[int | None, typer.Option(help="the configuration's by default")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="begin anew, not with the newest model before")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train the retrieval model that later nights ask; needs the extra `retrieval`.

    Example: queryloop train --warehouse W --date 2022-05-08
    """
    from pipelines.night_command import train_and_tell
    from pipelines.store.warehouse import Warehouse

    train_and_tell(Warehouse.open(warehouse), parse_date(date), seed, fresh=fresh, json=json)


def demo(
    users: Annotated[int, typer.Option(help="users of the world")] = DemoOptions.users,
    nights: Annotated[int, typer.Option(help="nights to run")] = DemoOptions.nights,
    seed: Annotated[int, typer.Option(help="another seed, another world")] = DemoOptions.seed,
    mismatch: Annotated[
        float, typer.Option(help="how far tastes differ from past engagements, 0 to 1")
    ] = DemoOptions.mismatch,
    out: Annotated[
        Path, typer.Option(help="folder for the warehouse and the report")
    ] = DemoOptions.out,
    model: Annotated[bool, typer.Option(help="train retrieval models and ask them")] = False,
    json: JsonOption = False,
) -> None:
    """Run the loop on a simulated world whose answer is known.

    Example: queryloop demo --seed 7 --out demo
    """
    from pipelines.demo.command import run_demo

    run_demo(DemoOptions(users, nights, seed, mismatch, out, model), json=json)


def fingerprint(
    warehouse: WarehouseOption,
    date: Annotated[str | None, date_option("the night; the newest by default")] = None,
    compare: Annotated[
        str | None, typer.Option(help="another warehouse, or a manifest's number")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="compare what was served too, not only what was learned"),
    ] = False,
    json: JsonOption = False,
) -> None:
    """One digest per table, of its rows in key order; or what differs from another run: exit 1.

    Against another warehouse the tables are compared that must not depend on when files came.

    Example: queryloop fingerprint --warehouse W --compare V
    """
    from pipelines.night_command import compare_and_tell, digests_of
    from pipelines.store.warehouse import Warehouse

    opened = Warehouse.open(warehouse)
    manifest = night_asked(opened, date)
    if compare is not None:
        compare_and_tell((opened, manifest), compare, every=every, json=json)
        return
    digests = digests_of(opened, manifest)
    if json:
        print_json({"night": manifest.date, "manifest": manifest.number, "tables": digests})
    else:
        print(*(f"{name} {digest}" for name, digest in digests.items()), sep="\n")


__all__ = ["app", "main"]
