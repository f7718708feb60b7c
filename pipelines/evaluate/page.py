"""The study as one page of pictures: the same numbers as on the terminal."""

from __future__ import annotations

from typing import Any

from pipelines.evaluate.views import (
    MEANING,
    headline,
    main_columns,
    row_cells,
    side_tables,
)
from pipelines.pages.charts import (
    BLUE,
    GREEN,
    GREY,
    RED,
    Interval,
    Point,
    Series,
    interval_chart,
    line_chart,
    point_chart,
)
from pipelines.pages.report import Picture, Report, Section, grid_of, percent
from retrieval.evaluation.measures import DEPTHS

_COLORS = {"lr": BLUE, "cr": GREEN, "index": RED}


def study_page(found: dict[str, Any]) -> Report:
    """The page."""
    best = max(found["rows"], key=lambda row: row["hit_rate_100"] or 0.0)
    return Report(
        title="Queryloop: would another retrieval have found it?",
        lead=headline(found),
        facts=(
            ("Best of all: HR@100", f"{best['arm']} {percent(best['hit_rate_100'])}"),
            ("Positives within the users' conditions", percent(found["condition_cover"])),
            ("Users", f"{found['users']:,}"),
            ("Trainings averaged", str(found["seeds"])),
        ),
        sections=(_arms(found), _depths(found), _sides(found), _tuning(found)),
        footer=(
            f"Made by `queryloop evaluate retrieval --train-until {found['train_until']} --days "
            f"{found['days']}`. Intervals: 95 %, users resampled. This page fetches nothing."
        ),
    )


def _arms(found: dict[str, Any]) -> Section:
    reference = found["reference"]
    columns = main_columns()
    rows = [row_cells(row, reference) for row in found["rows"]]
    return Section(
        "Arms and baselines",
        paragraphs=(MEANING,),
        pictures=_against(found),
        grids=(grid_of("In percent", columns, rows, columns[1:]),),
    )


def _against(found: dict[str, Any]) -> tuple[Picture, ...]:
    """What every arm finds more than the reference."""
    rows = [
        r for r in found["rows"] if r["difference"] is not None and r["arm"] != found["reference"]
    ]
    if not rows:
        return ()
    chart = interval_chart(
        [
            Interval(
                r["arm"], r["difference"], r["difference_low"], r["difference_high"], _color(r)
            )
            for r in rows
        ],
        label=f"HR@100 less {found['reference']}",
    )
    return (
        Picture(chart, "Paired over users: an interval that leaves out 0 is a difference."),
        Picture(_trade(found), "What holds to the condition, against what finds what users like."),
    )


def _trade(found: dict[str, Any]) -> str:
    """Topic match against hit rate."""
    return point_chart(
        [
            Point(row["arm"], row["topic_match"], row["hit_rate_100"], _color(row))
            for row in found["rows"]
            if row["topic_match"] is not None
        ],
        x_label="topic match of the first 100",
        y_label="hit rate at 100",
    )


def _depths(found: dict[str, Any]) -> Section:
    series = [
        Series(row["arm"], DEPTHS, [row[f"hit_rate_{k}"] for k in DEPTHS], _color(row))
        for row in found["rows"]
        if not row["arm"].endswith(("_filter", "_free"))
    ]
    chart = line_chart(series, x_label="items per user", y_label="hit rate")
    return Section(
        "How deep one has to look", pictures=(Picture(chart, "Hit rate at 10, 100 and 300."),)
    )


def _sides(found: dict[str, Any]) -> Section:
    grids = tuple(
        grid_of(title, columns, rows, columns[1:]) for title, columns, rows in side_tables(found)
    )
    return Section("Pairs, leakage, filters", pictures=_threshold_picture(found), grids=grids)


def _threshold_picture(found: dict[str, Any]) -> tuple[Picture, ...]:
    arms = list(dict.fromkeys(row["arm"] for row in found["thresholds"]))
    pictures = []
    for figure, text in (("hit_rate_100", "hit rate at 100"), ("topic_match", "topic match")):
        series = []
        for arm in arms:
            rows = [r for r in found["thresholds"] if r["arm"] == arm]
            values = [r[figure] if r[figure] is not None else float("nan") for r in rows]
            series.append(Series(arm, [r["threshold"] for r in rows], values, _color({"arm": arm})))
        if series:
            chart = line_chart(series, x_label="least confidence of the topic", y_label=text)
            pictures.append(Picture(chart, f"{text.capitalize()} against the filter's threshold."))
    return tuple(pictures)


def _tuning(found: dict[str, Any]) -> Section:
    rows = [
        (
            trial["baseline"],
            ", ".join(f"{name} {_number(value)}" for name, value in trial["options"].items()),
            percent(trial["hit_rate_100"]),
        )
        for trial in found["tuning"]
    ]
    columns = ("baseline", "options", "HR@100 on the validation days")
    return Section(
        "How the baselines were tuned",
        paragraphs=("The same number of trials each, on the last days before the cut-off.",),
        grids=(grid_of("Trials", columns, rows, columns[2:]),),
    )


def _number(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:g}"


def _color(row: dict[str, Any]) -> str:
    return _COLORS.get(row["arm"].split("_")[0], GREY)
