"""The profile trial as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.evaluate.views import WIDTH, difference_cells, print_table, range_text, share

COLUMNS = (
    *("what stands for a user", "n", "relevance", "95 %", "lift", "paper"),
    *("recall", "95 %", "lift", "paper", "cosine"),
)
ORDERING_COLUMNS = ("the paper", "figure", "there", "here", "95 %", "this log")


def print_trial(found: dict[str, Any], console: Console, out: Path | None) -> None:
    """The methods, then what the paper says of their order."""
    console.width = max(console.width, WIDTH)
    console.print(headline(found), highlight=False)
    print_table(console, "Percent; lifts over the last item", COLUMNS, trial_cells(found))
    console.print(meaning(found), style="dim", highlight=False)
    title = "Orderings that the paper reports (points of percent)"
    print_table(console, title, ORDERING_COLUMNS, ordering_cells(found))
    console.print(_tally(found), highlight=False)
    if out is not None:
        console.print(f"The same with pictures: {out / 'profiles.html'}", highlight=False)


def headline(found: dict[str, Any]) -> str:
    """What was tried, in a sentence."""
    return (
        f"Histories until {found['until']}, judged by {', '.join(found['actions'])} on the "
        f"{found['days']} days after: {found['users']:,} users with {found['history_items']:.1f} "
        f"items in {found['interests']:.1f} interests each (Ward, alpha {found['alpha']:g}), "
        f"{found['positives']:,} new items they liked, of {found['items']:,}."
    )


def meaning(found: dict[str, Any]) -> str:
    """How the figures are defined."""
    return (
        "n: number of vectors. relevance: share of the new items at cosine "
        f"{found['threshold']:g} or more to the nearest of the vectors. "
        "recall: share found where the vectors ask for "
        f"{found['candidates']} unmet items in equal parts. cosine: mean to the nearest vector, "
        f"times 100. Means over {found['draws']} draws; intervals by resampling users. Published "
        "lifts are of another relevance, on other data: compare their order."
    )


def trial_cells(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The main table."""
    return [
        (
            row["label"],
            "all" if row["vectors"] is None else str(row["vectors"]),
            *(cell for figure in ("relevance", "recall") for cell in _figure_cells(row, figure)),
            share(row["cosine"]),
        )
        for row in found["rows"]
    ]


def _figure_cells(row: dict[str, Any], figure: str) -> tuple[str, ...]:
    interval = range_text(row[f"{figure}_low"], row[f"{figure}_high"])
    lifts = (_lift(row[f"{figure}_{name}"]) for name in ("lift", "published"))
    return (share(row[figure]), interval, *lifts)


def ordering_cells(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What the paper reports, and whether this log confirms it."""
    return [
        (
            row["claim"],
            row["figure"],
            _pair(row["published_first"], row["published_second"]),
            *difference_cells(row, "difference"),
            row["verdict"],
        )
        for row in found["orderings"]
    ]


def _tally(found: dict[str, Any]) -> str:
    verdicts = [row["verdict"] for row in found["orderings"]]
    parts = [f"{verdicts.count(v)} {v}" for v in ("confirmed", "not confirmed", "reversed")]
    return f"Of {len(verdicts)}: {', '.join(parts)}."


def _pair(first: float | None, second: float | None) -> str:
    return "" if first is None or second is None else f"{100 * first:.0f} : {100 * second:.0f}"


def _lift(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.0f}"
