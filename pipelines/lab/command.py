"""`queryloop lab ...`: replay, evaluate and compare policies before one ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.config import NightConfig, load_config
from pipelines.lab.inputs import read_universe
from pipelines.lab.policies import NAMED
from pipelines.lab.replay import ReplayOptions, replay_all
from pipelines.lab.replay_measures import summarise
from pipelines.lab.replay_views import print_replay, write_replay
from pipelines.lab.universe import Universe
from pipelines.night_options import check_format
from pipelines.progress import told

lab_app = typer.Typer(
    no_args_is_help=True, help="Which policy earns its keep, shown before it ships."
)

DEFAULT_POLICIES = ",".join(ReplayOptions.policies)

PoliciesOption = Annotated[
    str, typer.Option(help="by name, with commas between; `queryloop lab policies` lists them")
]
NightsOption = Annotated[int, typer.Option(help="nights that draw queries")]
QueriesOption = Annotated[int, typer.Option(help="queries of a user and night")]
PerQueryOption = Annotated[int, typer.Option(help="items that a query brings")]
SeedsOption = Annotated[int, typer.Option(help="replays of every policy, with other draws")]
ConfigOption = Annotated[Path | None, typer.Option(help="a queryloop.yaml; defaults without")]
FormatOption = Annotated[str, typer.Option(help="table or json")]
OutOption = Annotated[Path | None, typer.Option(help="folder for JSON, Parquet and a page")]
FeedOnlyOption = Annotated[
    bool, typer.Option("--feed-only", help="what was shown at the beginning is no evidence")
]


@lab_app.callback()
def lab() -> None:
    """What holds for every command of the lab."""


@lab_app.command("policies")
def policies() -> None:
    """List the policies that the other commands take by name."""
    table = Table(box=None, pad_edge=False)
    for column in ("policy", "weighs an interest by", "floor"):
        table.add_column(column)
    for name, policy in NAMED.items():
        table.add_row(name, policy.meaning, f"{policy.selection.floor:g}")
    Console(highlight=False).print(table)


@lab_app.command("replay")
def replay(  # noqa: PLR0913 (one option a decision)
    items: Annotated[str, typer.Option(help="item_id, embedding: Parquet or CSV")],
    outcomes: Annotated[str, typer.Option(help="user_id, item_id, value from 0 to 1")],
    start: Annotated[str, typer.Option(help="user_id, item_id: what was shown at first")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    nights: NightsOption = ReplayOptions.nights,
    queries: QueriesOption = ReplayOptions.queries,
    per_query: PerQueryOption = ReplayOptions.per_query,
    seeds: SeedsOption = ReplayOptions.seeds,
    liked_from: Annotated[
        float, typer.Option(help="value from which an item joins its user's interests")
    ] = ReplayOptions.liked_from,
    feed_only: FeedOnlyOption = False,
    config: ConfigOption = None,
    format: FormatOption = "table",
    out: OutOption = None,
) -> None:
    """Replay policies night by night on outcomes that are all known."""
    options = ReplayOptions(
        _names(policies), nights, queries, per_query, seeds, liked_from, not feed_only
    )
    _replay(lambda: read_universe(items, outcomes, start), options, config, format, out)


@lab_app.command("kuairec")
def kuairec(  # noqa: PLR0913 (one option a decision)
    source: Annotated[Path, typer.Argument(help="folder of KuaiRec's cut")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    nights: NightsOption = ReplayOptions.nights,
    queries: QueriesOption = ReplayOptions.queries,
    per_query: PerQueryOption = ReplayOptions.per_query,
    seeds: SeedsOption = ReplayOptions.seeds,
    start_seed: Annotated[int, typer.Option(help="of the videos that users begin with")] = 0,
    feed_only: FeedOnlyOption = False,
    config: ConfigOption = None,
    format: FormatOption = "table",
    out: OutOption = None,
) -> None:
    """Replay policies on KuaiRec: 1,411 users, the watch ratio of 83 videos each."""
    from pipelines.lab.kuairec import KuaiRecOptions, kuairec_universe

    options = ReplayOptions(
        _names(policies), nights, queries, per_query, seeds, start_counts=not feed_only
    )
    known = KuaiRecOptions(seed=start_seed)
    _replay(lambda: kuairec_universe(source, known), options, config, format, out)


def _replay(
    read: Callable[[], Universe],
    options: ReplayOptions,
    config: Path | None,
    format: str,
    out: Path | None,
) -> None:
    """Read, replay, print, write."""
    check_format(format)
    nightly = NightConfig() if config is None else load_config(config.read_text(), str(config))
    with told() as note:
        note("read the outcomes")
        universe = read()
        runs = replay_all(universe, nightly, options, note)
    found = summarise(runs, options, users=len(universe.user_ids))
    if out is not None:
        write_replay(found, runs, universe.user_ids, out)
    if format == "json":
        print(json.dumps(found, allow_nan=False))
    else:
        print_replay(found, Console(), out)


def _names(policies: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in policies.split(",") if name.strip())
