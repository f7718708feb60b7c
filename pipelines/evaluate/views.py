"""The study as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

WIDTH = 118
# Column, heading: of the main table; shares in percent.
COLUMNS = (
    ("hit_rate_10", "HR@10"), ("hit_rate_100", "HR@100"), ("hit_rate_300", "HR@300"),
    ("hit_rate_100_tail", "tail"), ("topic_match", "match"), ("kept_share", "kept"),
    ("coverage", "cover"), ("slot_overlap", "same"),
)  # fmt: skip
MEANING = (
    "HR@k: share of the positives among the first k items, slots in turns. tail: HR@100 of "
    "positives in rare topics. match: share of the items with a topic of their slot's condition. "
    "kept: what a filter keeps of what the slots fetch. cover: share of the catalogue shown to "
    "somebody. same: overlap of a user's slots. gain: HR@100 less that of the reference."
)


class SideTable(NamedTuple):
    """A smaller table, cells as text."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def print_study(found: dict[str, Any], console: Console, out: Path | None) -> None:
    """The arms, what is compared in pairs, the leakage gap."""
    console.width = max(console.width, WIDTH)
    console.print(headline(found), highlight=False)
    rows = [row_cells(row, found["reference"]) for row in found["rows"]]
    print_table(console, f"Percent; reference {found['reference']}", main_columns(), rows)
    console.print(MEANING, style="dim", highlight=False)
    for title, columns, rows in side_tables(found):
        print_table(console, title, columns, rows)
    if out is not None:
        console.print(f"The same with pictures: {out / 'retrieval.html'}", highlight=False)


def headline(found: dict[str, Any]) -> str:
    """What was compared, in a sentence."""
    return (
        f"Trained until {found['train_until']}, judged by {', '.join(found['actions'])} on the "
        f"{found['days']} days after: {found['users']:,} users, {found['positives']:,} new items "
        f"they liked, of {found['items']:,}. Conditions are those of the {found['slots']:,} "
        f"queries that the night drew; they cover {share(found['condition_cover'])} % "
        "of the positives."
    )


def side_tables(found: dict[str, Any]) -> list[SideTable]:
    """Every smaller table that has rows."""
    tables = [
        _pairs_table(found["pairs"]),
        _overlap_table(found["overlap"]),
        _leakage_table(found["leakage"]),
        _thresholds_table(found["thresholds"]),
        _random_topics_table(found["random_topics"]),
        _sweep_table(found["sweep"]),
    ]
    return [table for table in tables if table.rows]


def row_cells(row: dict[str, Any], reference: str) -> tuple[str, ...]:
    """One arm of the main table."""
    cells = [share(row.get(name)) for name, _ in COLUMNS]
    interval = range_text(row["low"], row["high"])
    against = ("", "") if row["arm"] == reference else difference_cells(row, "difference")
    return (row["arm"], *cells[:2], interval, *cells[2:], *against)


def main_columns() -> tuple[str, ...]:
    """Headings of the main table."""
    names = [heading for _, heading in COLUMNS]
    return ("arm", *names[:2], "95 %", *names[2:], "gain", "95 %")


def difference_cells(row: dict[str, Any], name: str) -> tuple[str, str]:
    """A difference in points, and its interval."""
    if row.get(name) is None:
        return "", ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low is None else f"{100 * low:+.1f}..{100 * high:+.1f}"
    return f"{100 * row[name]:+.1f}", interval


def _pairs_table(rows: list[dict[str, Any]]) -> SideTable:
    return SideTable(
        "HR@100 of the first less the second, user by user",
        ("first", "second", "difference", "95 %"),
        [(row["first"], row["second"], *difference_cells(row, "difference")) for row in rows],
    )


def _overlap_table(rows: list[dict[str, Any]]) -> SideTable:
    return SideTable(
        "Overlap of a user's slots, with the query's item told to the model and without",
        ("arm", "pairs of slots", "number", "with", "without", "difference", "95 %"),
        [
            (
                row["arm"],
                row["pairs"],
                f"{row['number']:,}",
                share(row["with"]),
                share(row["without"]),
                *difference_cells(row, "difference"),
            )
            for row in rows
        ],
    )


def _leakage_table(rows: list[dict[str, Any]]) -> SideTable:
    return SideTable(
        "The leakage gap: HR@100 with conditions from the label, and with the real ones",
        ("arm", "real", "label's", "gap", "95 %", "the model leaks", "95 %"),
        [
            (
                row["arm"],
                share(row["real"]),
                share(row["oracle"]),
                *difference_cells(row, "gap"),
                *difference_cells(row, "leak"),
            )
            for row in rows
        ],
    )


def _thresholds_table(rows: list[dict[str, Any]]) -> SideTable:
    return SideTable(
        "HR@100 against the confidence that a filter asks of an item's topic (0: no filter)",
        ("arm", "least confidence", "HR@100", "match"),
        [
            (
                row["arm"],
                f"{row['threshold']:g}",
                share(row["hit_rate_100"]),
                share(row["topic_match"]),
            )
            for row in rows
        ],
    )


def _random_topics_table(rows: list[dict[str, Any]]) -> SideTable:
    return SideTable(
        "Topic match where every slot is held to a random topic of 100 items or more",
        ("arm", "match", "95 %"),
        [
            (row["arm"], share(row["topic_match"]), interval_text(row, "topic_match"))
            for row in rows
        ],
    )


def _sweep_table(rows: list[dict[str, Any]]) -> SideTable:
    return SideTable(
        "CR trained otherwise: context dropout and conditions",
        ("varied", "value", "arm", "HR@100", "95 %", "match", "HR@100, label's condition"),
        [
            (
                row["varied"],
                str(row["value"]),
                row["arm"],
                share(row["hit_rate_100"]),
                range_text(row["low"], row["high"]),
                share(row["topic_match"]),
                share(row["oracle"]),
            )
            for row in rows
        ],
    )


def interval_text(row: dict[str, Any], name: str) -> str:
    """The interval of a share, percent."""
    return range_text(row[f"{name}_low"], row[f"{name}_high"])


def range_text(low: float | None, high: float | None) -> str:
    """An interval, in percent."""
    return "" if low is None or high is None else f"{100 * low:.1f}..{100 * high:.1f}"


def print_table(
    console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]
) -> None:
    """A table under its title, the first column flush left."""
    console.print(f"\n{title}", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def share(value: float | None) -> str:
    """A share, in percent."""
    return "" if value is None else f"{100 * value:.1f}"
