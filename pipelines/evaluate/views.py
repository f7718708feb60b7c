"""The study as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 118
# Column, heading: of the main table; shares in percent.
COLUMNS = (
    ("hit_rate_10", "HR@10"), ("hit_rate_100", "HR@100"), ("hit_rate_300", "HR@300"),
    ("recall_100", "R@100"), ("hit_rate_100_tail", "tail"), ("topic_match", "match"),
    ("kept_share", "kept"), ("cost_per_kept", "cost"), ("coverage", "cover"),
    ("slot_overlap", "overlap"),
)  # fmt: skip
MEANING = (
    "HR@k: share of the positives among the first k items, slots in turns. R@100: mean over users. "
    "tail: HR@100 of positives in rare topics. match: share of the items with a topic of their "
    "slot's condition. kept: what a filter keeps of what the slots fetch; cost: fetched per item "
    "kept. cover: share of the catalogue shown to somebody. overlap: of a user's slots."
)


def print_study(found: dict[str, Any], console: Console, out: Path | None) -> None:
    """The arms, what is compared in pairs, the leakage gap."""
    console.width = max(console.width, WIDTH)
    console.print(headline(found), highlight=False)
    console.print(_main_table(found))
    console.print(MEANING, style="dim", highlight=False)
    for title, columns, rows in side_tables(found):
        console.print(_table(title, columns, rows))
    if out is not None:
        console.print(f"The same with pictures: {out / 'retrieval.html'}", highlight=False)


def headline(found: dict[str, Any]) -> str:
    """What was compared, in a sentence."""
    return (
        f"Trained until {found['train_until']}, judged by {', '.join(found['actions'])} on the "
        f"{found['days']} days after: {found['users']:,} users, {found['positives']:,} new items "
        f"they liked, of {found['items']:,}. Conditions are those of the {found['slots']:,} "
        f"queries that the night drew; they cover {_percent(found['condition_cover'])} of the "
        "positives."
    )


def side_tables(
    found: dict[str, Any],
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of every smaller table that has rows."""
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        (
            "HR@100 of the first less the second, user by user",
            ("first", "second", "difference", "95 % interval"),
            [
                (row["first"], row["second"], *difference_cells(row, "difference"))
                for row in found["pairs"]
            ],
        ),
        (
            "The leakage gap: HR@100 with conditions from the label, and with the real ones",
            ("arm", "real", "label's", "gap", "95 % interval", "leaked by the model", "interval"),
            [_leakage_cells(row) for row in found["leakage"]],
        ),
        (
            "HR@100 against the confidence that a filter asks of an item's topic (0: no filter)",
            ("arm", "least confidence", "HR@100", "match"),
            [
                (
                    row["arm"],
                    f"{row['threshold']:g}",
                    _percent(row["hit_rate_100"]),
                    _percent(row["topic_match"]),
                )
                for row in found["thresholds"]
            ],
        ),
        (
            "Models trained otherwise: context dropout and conditions",
            ("varied", "value", "arm", "HR@100", "95 % interval", "match"),
            [_sweep_cells(row) for row in found.get("sweep", ())],
        ),
    ]
    return [table for table in tables if table[2]]


def row_cells(row: dict[str, Any], reference: str) -> tuple[str, ...]:
    """One arm of the main table."""
    cells = []
    for name, _ in COLUMNS:
        value = row.get(name)
        cells.append(f"{value:.2f}" if name == "cost_per_kept" and value else _percent(value))
    interval = "" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    against = "" if row["arm"] == reference else " ".join(difference_cells(row, "difference"))
    return (row["arm"], *cells[:2], interval, *cells[2:], against)


def main_columns(reference: str) -> tuple[str, ...]:
    """Headings of the main table."""
    names = [heading for _, heading in COLUMNS]
    return ("arm", *names[:2], "95 % interval", *names[2:], f"HR@100 less {reference}")


def difference_cells(row: dict[str, Any], name: str) -> tuple[str, str]:
    """A difference in points, and its interval."""
    if row.get(name) is None:
        return "", ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * row[name]:+.1f}", interval


def _leakage_cells(row: dict[str, Any]) -> tuple[str, ...]:
    leak = difference_cells(row, "leak")
    return (
        row["arm"],
        _percent(row["real"]),
        _percent(row["oracle"]),
        *difference_cells(row, "gap"),
        *leak,
    )


def _sweep_cells(row: dict[str, Any]) -> tuple[str, ...]:
    interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    shares = (_percent(row["hit_rate_100"]), interval, _percent(row["topic_match"]))
    return (row["varied"], str(row["value"]), row["arm"], *shares)


def _main_table(found: dict[str, Any]) -> Table:
    rows = [row_cells(row, found["reference"]) for row in found["rows"]]
    return _table("Retrieval, in percent", main_columns(found["reference"]), rows)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
