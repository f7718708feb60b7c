"""`queryloop lab ...`: replay, evaluate and compare policies before one ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.config import NightConfig, load_config
from pipelines.json_output import JsonOption, print_json
from pipelines.lab.inputs import read_universe
from pipelines.lab.policies import NAMED
from pipelines.lab.replay import ReplayOptions, replay_all
from pipelines.lab.replay_measures import summarise
from pipelines.lab.replay_views import print_replay, write_replay
from pipelines.lab.universe import Universe
from pipelines.night_options import FormatOption, asks_json
from pipelines.progress import told

DEFAULT_POLICIES = ",".join(ReplayOptions.policies)


def policies_listed(incomplete: str) -> list[str]:
    """Completes the last name of a list with commas."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in NAMED if name.startswith(last)]


PoliciesOption = Annotated[
    str,
    typer.Option(
        help="by name, with commas between; `queryloop lab policies` lists them",
        autocompletion=policies_listed,
    ),
]
NightsOption = Annotated[int, typer.Option(help="nights that draw queries")]
QueriesOption = Annotated[int, typer.Option(help="queries of a user and night")]
PerQueryOption = Annotated[int, typer.Option(help="items that a query brings")]
SeedsOption = Annotated[int, typer.Option(help="replays of every policy, with other draws")]
ConfigOption = Annotated[Path | None, typer.Option(help="a queryloop.yaml; defaults without")]
OutOption = Annotated[Path | None, typer.Option(help="folder for JSON, Parquet and a page")]
FeedOnlyOption = Annotated[
    bool, typer.Option("--feed-only", help="what was shown at the beginning is no evidence")
]


def policies(json: JsonOption = False) -> None:
    """List the policies that the other commands take by name.

    Example: queryloop lab policies
    """
    if json:
        print_json({name: asdict(policy) for name, policy in NAMED.items()})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("policy", "weighs an interest by", "floor"):
        table.add_column(column)
    for name, policy in NAMED.items():
        table.add_row(name, policy.meaning, f"{policy.selection.floor:g}")
    Console(highlight=False).print(table)


def replay(  # noqa: PLR0913 (one option a decision)
    items: Annotated[
        str, typer.Option(help="item_id, embedding (a list, or text as 0.1 0.2): Parquet or CSV")
    ],
    outcomes: Annotated[
        str, typer.Option(help="user_id, item_id (integers, as in all three), value from 0 to 1")
    ],
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
    json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Replay policies night by night on outcomes that are all known.

    Example: queryloop lab replay --items I.csv --outcomes O.csv --start S.csv --seeds 2
    """
    options = ReplayOptions(
        _names(policies), nights, queries, per_query, seeds, liked_from, not feed_only
    )
    _replay(
        lambda: read_universe(items, outcomes, start), options, config, asks_json(format, json), out
    )


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
    json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Replay policies on KuaiRec: 1,411 users, the watch ratio of 83 videos each.

    Example: queryloop lab kuairec KuaiRec --nights 5 --seeds 2 --out replay
    """
    from pipelines.lab.kuairec import KuaiRecOptions, kuairec_universe

    options = ReplayOptions(
        _names(policies), nights, queries, per_query, seeds, start_counts=not feed_only
    )
    known = KuaiRecOptions(seed=start_seed)
    _replay(lambda: kuairec_universe(source, known), options, config, asks_json(format, json), out)


def _replay(
    read: Callable[[], Universe],
    options: ReplayOptions,
    config: Path | None,
    json: bool,
    out: Path | None,
) -> None:
    """Read, replay, print, write."""
    nightly = NightConfig() if config is None else load_config(config.read_text(), str(config))
    with told() as note:
        note("read the outcomes")
        universe = read()
        runs = replay_all(universe, nightly, options, note)
    found = summarise(runs, options, users=len(universe.user_ids))
    if out is not None:
        write_replay(found, runs, universe.user_ids, out)
    if json:
        print_json(found)
    else:
        print_replay(found, Console(), out)


def _names(policies: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in policies.split(",") if name.strip())
