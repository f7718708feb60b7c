"""The profile trial as one page of pictures: the same numbers as on the terminal."""

from __future__ import annotations

from typing import Any

from pipelines.evaluate.trial_views import (
    COLUMNS,
    ORDERING_COLUMNS,
    headline,
    meaning,
    ordering_cells,
    trial_cells,
)
from pipelines.pages.charts import (
    BLUE,
    GREEN,
    GREY,
    RED,
    Interval,
    Series,
    interval_chart,
    line_chart,
)
from pipelines.pages.report import Picture, Report, Section, grid_of, percent

# The lines of the curves: method, name, colour.
_LINES = (
    ("ward_0.01", "Ward", BLUE),
    ("ward_centroid", "centroid", GREEN),
    ("k_means_5", "k-means (5)", RED),
    ("complete", "complete", GREY),
    ("items", "last items", GREY),
    ("average_0.01", "average", GREY),
)
_VERDICTS = {"confirmed": GREEN, "reversed": RED, "not confirmed": GREY}


def trial_page(found: dict[str, Any]) -> Report:
    """The page."""
    confirmed = sum(row["verdict"] == "confirmed" for row in found["orderings"])
    return Report(
        title="Queryloop: what should stand for a user?",
        lead=headline(found),
        facts=(
            *((f"Best {figure}", _best(found, figure)) for figure in ("relevance", "recall")),
            ("The paper's orderings confirmed", f"{confirmed} of {len(found['orderings'])}"),
            ("Users", f"{found['users']:,}"),
        ),
        sections=(_table(found), _curves(found), _orderings(found)),
        footer=(
            f"Made by `queryloop evaluate profiles --until {found['until']} --days "
            f"{found['days']}`. Intervals: 95 %, users resampled. This page fetches nothing."
        ),
    )


def _best(found: dict[str, Any], figure: str) -> str:
    rows = [row for row in found["rows"] if row["vectors"] is not None]
    best = max(rows, key=lambda row: row[figure])
    return f"{best['label']}, {percent(best[figure])}"


def _table(found: dict[str, Any]) -> Section:
    grid = grid_of("In percent; lifts over the last item", COLUMNS, trial_cells(found), COLUMNS[1:])
    return Section("Methods", paragraphs=(meaning(found),), grids=(grid,))


def _curves(found: dict[str, Any]) -> Section:
    pictures = []
    for figure in ("relevance", "recall"):
        series = []
        for method, name, color in _LINES:
            rows = [row for row in found["curves"] if row["method"] == method]
            y, low, high = ([row[figure + end] for row in rows] for end in ("", "_low", "_high"))
            x = [row["vectors"] for row in rows]
            series.append(Series(name, x, y, color, low, high, quiet=color == GREY))
        chart = line_chart(series, x_label="vectors that stand for a user", y_label=figure)
        pictures.append(Picture(chart, f"{figure.capitalize()} with one to seven vectors."))
    return Section("One to seven", pictures=tuple(pictures))


def _orderings(found: dict[str, Any]) -> Section:
    pictures = []
    for figure in ("relevance", "recall"):
        intervals = [
            Interval(
                row["claim"],
                row["difference"],
                row["difference_low"],
                row["difference_high"],
                _VERDICTS[row["verdict"]],
            )
            for row in found["orderings"]
            if row["figure"] == figure
        ]
        chart = interval_chart(intervals, label=f"{figure}: difference")
        pictures.append(Picture(chart, "Green: as the paper reports; red: the other way round."))
    grid = grid_of(
        "The paper's orderings", ORDERING_COLUMNS, ordering_cells(found), ORDERING_COLUMNS[2:5]
    )
    return Section("What the paper reports", pictures=tuple(pictures), grids=(grid,))
