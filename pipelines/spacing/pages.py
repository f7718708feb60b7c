"""Previews and curves of spacing, on a terminal and as an offline HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.pages.charts import BLUE, GREEN, GREY, QUIET, RED, Series, line_chart
from pipelines.pages.report import Grid, Picture, Report, Section, grid_of, percent
from pipelines.spacing.preview import CurvePoint, Preview
from retrieval.spacing.measures import JOINT, step_of

CLASS_COLUMNS = (
    "class", "candidates", "before", "after", "neighbours", "positions lost", "decided",
)  # fmt: skip
FEED_COLUMNS = (
    "position", "before", "after", "moved", "relevance", "diversity", "penalties", "decided by",
)  # fmt: skip
NUMERIC = {"candidates", "before", "after", "neighbours", "positions lost", "decided", "position",
           "moved", "relevance", "diversity"}  # fmt: skip
CURVE_COLUMNS = ("weight", "exposure", "neighbours a place", "utility given up")
_SHOWN = 12  # positions on a terminal
_COLOURS = (BLUE, RED, GREEN, *QUIET)


def summary_line(preview: Preview) -> str:
    """The preview in one line."""
    joint = preview.counts[JOINT]
    return (
        f"{preview.night.users:,} users of the night of {preview.night.manifest.date}: "
        f"{percent(preview.moved_share)} of the places hold another item; given up: relevance "
        f"{percent(preview.relevance_given_up, 2)}, utility to the classes "
        f"{percent(preview.utility_given_up, 2)}; places demoted {joint['demoted']:,}, capped "
        f"{joint['capped']:,}"
    )


def class_rows(preview: Preview) -> list[tuple[str, ...]]:
    """One row a class: its share of candidates and places, neighbours, positions, decisions."""
    found: list[tuple[str, ...]] = []
    for one in preview.spacing.config.works:
        c = preview.counts[step_of(one.id)]
        placed = max(c["placed"], 1)
        found.append(
            (
                one.id,
                percent(c["labelled"] / max(c["candidates"], 1)),
                percent(c["placed_labelled_before"] / placed),
                percent(c["placed_labelled"] / placed),
                f"{c['adjacent_before']:,} -> {c['adjacent']:,}",
                f"{c['positions_lost']:,}",
                f"{c['decided']:,}",
            )
        )
    return found


def exposure_rows(preview: Preview) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows: percent of the feeds that show a class at each of the first positions."""
    found: list[tuple[str, ...]] = []
    before, after = preview.exposure(preview.before), preview.exposure(preview.after)
    shown = min(_SHOWN, len(after))
    for k, one in enumerate(preview.spacing.config.works):
        for when, shares in (("before", before), ("after", after)):
            found.append((f"{one.id}, {when}", *(f"{100 * v:.0f}" for v in shares[:shown, k])))
    return ["% of feeds, by position", *map(str, range(shown))], found


def feed_rows(preview: Preview) -> list[tuple[str, ...]]:
    """The first feed, before and after, side by side."""
    before, after = (_first_feed(t) for t in (preview.before, preview.after))
    places = {row["item_id"]: row["position"] for row in before}
    return [_feed_row(preview, old, new, places) for old, new in zip(before, after, strict=True)]


def preview_record(preview: Preview) -> dict[str, Any]:
    """The preview as `--json` has it; exposure by position, a list a class."""
    works = [one.id for one in preview.spacing.config.works]
    exposure = {
        when: dict(zip(works, preview.exposure(feed).T.tolist(), strict=True))
        for when, feed in (("before", preview.before), ("after", preview.after))
    }
    return {
        "night": preview.night.manifest.date,
        "users": preview.night.users,
        "moved_share": preview.moved_share,
        "relevance_given_up": preview.relevance_given_up,
        "utility_given_up": preview.utility_given_up,
        "counts": preview.counts,
        "exposure": exposure,
    }


def show_preview(console: Console, preview: Preview) -> None:
    """Print it; the feed itself where it is of one user."""
    console.print(summary_line(preview), highlight=False)
    if preview.spacing.config.works:
        console.print(_table(CLASS_COLUMNS, class_rows(preview)))
        console.print(_table(*exposure_rows(preview)))
    if preview.night.users == 1:
        console.print(_table(FEED_COLUMNS, feed_rows(preview)))


def preview_page(preview: Preview, source: str) -> Report:
    """The page: classes, exposure by position, one feed side by side."""
    classes = _grid("by class", CLASS_COLUMNS, class_rows(preview))
    feed = _grid("the first user's", FEED_COLUMNS, feed_rows(preview))
    sections = (
        Section("What each class does", grids=(classes,)),
        Section("Exposure by position", pictures=tuple(_exposures(preview))),
        Section("One feed, before and after", grids=(feed,)),
    )
    return Report(
        title="Spacing preview",
        lead=summary_line(preview),
        facts=(
            ("places that change", percent(preview.moved_share)),
            ("relevance given up", percent(preview.relevance_given_up, 2)),
            ("utility given up to classes", percent(preview.utility_given_up, 2)),
        ),
        sections=sections,
        footer=f"queryloop spacing preview {source}",
    )


def curve_rows(points: Sequence[CurvePoint]) -> list[tuple[str, ...]]:
    """One row a weight."""
    return [
        (f"{p.weight:.2f}", percent(p.exposure), f"{p.adjacent:.4f}", percent(p.given_up, 2))
        for p in points
    ]


def show_curve(console: Console, points: Sequence[CurvePoint]) -> None:
    """Print it."""
    console.print(_table(CURVE_COLUMNS, curve_rows(points)))


def curve_page(points: Sequence[CurvePoint], class_id: str, source: str) -> Report:
    """The page: exposure and neighbours against weight 0, and the utility given up."""
    x = [p.weight for p in points]
    first = points[0]
    relative = [
        ("exposure", [p.exposure / (first.exposure or 1.0) for p in points], BLUE),
        ("neighbours", [p.adjacent / (first.adjacent or 1.0) for p in points], RED),
    ]
    lines = [Series(name, x, y, colour) for name, y, colour in relative]
    lost = [Series("utility given up", x, [p.given_up for p in points], GREEN)]
    label = f"weight of {class_id}"
    pictures = (
        Picture(
            line_chart(lines, x_label=label, y_label="against weight 0"), "what it pushes back"
        ),
        Picture(line_chart(lost, x_label=label, y_label="utility given up"), "what that costs"),
    )
    grid = grid_of("by weight", CURVE_COLUMNS, curve_rows(points), CURVE_COLUMNS)
    return Report(
        title=f"Spacing curve of {class_id}",
        lead="Feeds of one night, made again with weights from 0 to 1.",
        facts=(("exposure at weight 0", percent(first.exposure)),),
        sections=(Section("By weight", pictures=pictures, grids=(grid,)),),
        footer=f"queryloop spacing curve {source}",
    )


def _first_feed(feed: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for row in feed.slice(0, 10_000).to_pylist():  # type: ignore[attr-defined] # pa.Table
        if rows and row["position"] == 0:
            break
        rows.append(row)
    return rows


def _feed_row(preview: Preview, old: dict, new: dict, places: dict) -> tuple[str, ...]:  # type: ignore[type-arg]
    was = places.get(new["item_id"])
    moved = (
        "new" if was is None else f"{was - new['position']:+d}" if was != new["position"] else ""
    )
    taken = [p for p in new["penalties"] if p["penalty"] > 0]
    return (
        str(new["position"]),
        _name(preview, old["item_id"]),
        _name(preview, new["item_id"]),
        moved,
        f"{new['relevance']:.3f}",
        f"{new['diversity']:.3f}",
        ", ".join(f"{p['spacing_class']} {p['penalty']:.3f}" for p in taken),
        ", ".join(new["decided_by"]),
    )


def _name(preview: Preview, item_id: int) -> str:
    title = preview.night.titles.get(item_id)
    return f"{item_id} {title}" if title else str(item_id)


def _exposures(preview: Preview) -> Iterator[Picture]:
    before, after = preview.exposure(preview.before), preview.exposure(preview.after)
    x = list(range(1, len(after) + 1))
    for k, one in enumerate(preview.spacing.config.works):
        lines = [
            Series("before", x, before[:, k].tolist(), GREY),
            Series("after", x, after[:, k].tolist(), _COLOURS[k % len(_COLOURS)]),
        ]
        chart = line_chart(lines, x_label="position", y_label=f"feeds with {one.id} there")
        yield Picture(chart, one.description or one.id)


def _grid(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    return grid_of(caption, columns, rows, [c for c in columns if c in NUMERIC])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        right = name in NUMERIC or name.isdigit()
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
