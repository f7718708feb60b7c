"""`queryloop evaluate ...`: ask the log whether something else is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.evaluate import (
    StudyOptions,
    TrialOptions,
    evaluate_profiles,
    evaluate_retrieval,
)
from pipelines.json_output import JsonOption
from pipelines.night_options import (
    FormatOption,
    WarehouseOption,
    asks_json,
    date_option,
    parse_date,
)
from pipelines.store.warehouse import Warehouse


def retrieval(  # noqa: PLR0913 (one option a decision)
    warehouse: WarehouseOption,
    train_until: Annotated[str, date_option("the last day learned from, YYYY-MM-DD")],
    days: Annotated[int, typer.Option(help="days after it to judge by")] = StudyOptions.days,
    validation_days: Annotated[
        int, typer.Option(help="days up to it to tune the baselines on")
    ] = StudyOptions.validation_days,
    action: Annotated[
        list[str] | None, typer.Option(help="what counts as liked; every positive action if none")
    ] = None,
    seeds: Annotated[int, typer.Option(help="trainings to average over")] = StudyOptions.seeds,
    model: Annotated[
        bool, typer.Option(help="train models; without, baselines and the arm INDEX alone")
    ] = True,
    sweep: Annotated[
        bool, typer.Option(help="train models of other context dropout and conditions too")
    ] = False,
    format: FormatOption = "table",
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="folder for an HTML report and JSON")] = None,
) -> None:
    """Compare the retrieval arms with baselines on the days after a night.

    Example: queryloop evaluate retrieval --warehouse W --train-until 2022-05-04 --out eval
    """
    options = StudyOptions(
        parse_date(train_until), days, validation_days, tuple(action or ()), seeds, sweep=sweep
    )
    evaluate_retrieval(
        Warehouse.open(warehouse), options, learned=model, json=asks_json(format, json), out=out
    )


def profiles(  # noqa: PLR0913 (one option a decision)
    warehouse: WarehouseOption,
    until: Annotated[
        str | None,
        typer.Option(help="last day of the histories; the log's last less --days by default"),
    ] = None,
    days: Annotated[int, typer.Option(help="days after it to judge by")] = TrialOptions.days,
    action: Annotated[
        list[str] | None, typer.Option(help="what counts as liked; every positive action if none")
    ] = None,
    representatives: Annotated[
        int, typer.Option(help="vectors that stand for a user, 1 to 7")
    ] = TrialOptions.representatives,
    candidates: Annotated[
        int, typer.Option(help="items asked for a user, over all vectors")
    ] = TrialOptions.candidates,
    threshold: Annotated[
        float, typer.Option(help="least cosine of what is relevant")
    ] = TrialOptions.threshold,
    draws: Annotated[
        int, typer.Option(help="draws of interests to average over")
    ] = TrialOptions.draws,
    users: Annotated[int, typer.Option(help="users at most, chosen by hash")] = TrialOptions.users,
    seed: Annotated[int, typer.Option(help="of draws, k-means, users")] = TrialOptions.seed,
    format: FormatOption = "table",
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="folder for an HTML report and JSON")] = None,
) -> None:
    """Compare what can stand for a user, clusters and others, by what the user liked next.

    Example: queryloop evaluate profiles --warehouse W --users 2000
    """
    options = TrialOptions(
        None if until is None else parse_date(until),
        days,
        tuple(action or ()),
        representatives,
        candidates,
        threshold,
        draws,
        users,
        seed,
    )
    evaluate_profiles(Warehouse.open(warehouse), options, json=asks_json(format, json), out=out)
