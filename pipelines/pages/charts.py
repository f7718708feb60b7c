"""Charts as inline SVG: text stays text, nothing is fetched, same numbers give same bytes.

Colours become the page's variables, so that a chart is light or dark as the page is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipelines.pages.colours import COLOURS
from profiling.schema import FloatArray

INK, FAINT, MESH = "#22262d", "#d5d9e0", "#eceff3"
GREY, BLUE, RED, GREEN, OCHRE, VIOLET = (light for light, _ in COLOURS.values())
SERIES = (BLUE, RED, GREEN, OCHRE, VIOLET, GREY)  # where lines have no meaning of their own
QUIET = ("#9aa0ab", "#b09f86", "#8fa3b8", "#a894ad", "#97a88c", "#b5a3a0")

_VARIABLES = {"ink": INK, "faint": FAINT, "mesh": MESH} | {n: c for n, (c, _) in COLOURS.items()}
_STYLE = {
    "svg.fonttype": "none",  # text as text: found by search, scaled by the browser
    "svg.hashsalt": "queryloop",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": MESH,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Series:
    """One line: y at x, with an interval where there is one (NaN where nothing is known)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Interval:
    """One estimate with its interval."""

    name: str
    value: float
    low: float
    high: float
    color: str = BLUE


@dataclass(frozen=True)
class Promise:
    """What was promised, and what came with its interval."""

    promised: float
    came: float
    low: float
    high: float
    color: str = BLUE


@dataclass(frozen=True)
class Point:
    """One thing, by two shares."""

    name: str
    x: float
    y: float
    color: str = BLUE


def point_chart(points: Sequence[Point], *, x_label: str, y_label: str) -> str:
    """Two shares against each other, as percent from 0, each point named at its right."""

    def draw(axes: Any) -> None:
        axes.scatter([p.x for p in points], [p.y for p in points], c=[p.color for p in points])
        axes.set_xlim(left=0.0)
        axes.set_ylim(bottom=0.0)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel(x_label)
        axes.set_title(y_label, loc="left", fontsize=9, color=INK)
        for point in points:
            axes.annotate(
                point.name,
                (point.x, point.y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=point.color,
                annotation_clip=False,
            )

    return _svg(draw, 4.1, 4.1)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    shares: bool = True,
    ticks: Sequence[str] = (),
) -> str:
    """Values over nights from 0, each line named at its right end.

    Args:
        series: The lines.
        x_label: Below.
        y_label: Above.
        shares: Whether values are written as percent.
        ticks: Names of x = 0, 1, ...; numbers without.
    """

    def draw(axes: Any) -> None:
        for s in series:
            axes.plot(s.x, s.y, color=s.color, lw=1.1 if s.quiet else 2.0, marker="o", ms=3)
            if s.low is not None and s.high is not None:
                axes.fill_between(s.x, s.low, s.high, color=s.color, alpha=0.14, lw=0)
        highest = float(axes.dataLim.y1)
        axes.set_ylim(0.0, 1.06 * highest if highest > 0 else 1.0)  # a line at the top is whole
        if shares:
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        _name_places(axes, ticks)
        axes.set_xlabel(x_label)
        axes.set_title(y_label, loc="left", fontsize=9, color=INK)
        _name_lines(axes, series)

    return _svg(draw, 4.1, 2.8)


def promise_chart(points: Sequence[Promise], *, x_label: str, y_label: str) -> str:
    """What came, with its interval, against what was promised; the line is where they agree."""

    def draw(axes: Any) -> None:
        top = max([max(p.promised, p.high) for p in points], default=1.0) * 1.05
        axes.plot([0.0, top], [0.0, top], color=GREY, lw=1)
        for p in points:
            axes.plot([p.promised, p.promised], [p.low, p.high], color=p.color, lw=2, alpha=0.35)
            axes.plot([p.promised], [p.came], "o", color=p.color, ms=4)
        axes.set_xlim(0.0, top)
        axes.set_ylim(0.0, top)
        axes.set_xlabel(x_label)
        axes.set_title(y_label, loc="left", fontsize=9, color=INK)

    return _svg(draw, 4.1, 3.4)


def interval_chart(intervals: Sequence[Interval], *, label: str) -> str:
    """Differences in percent against 0, one row each."""

    def draw(axes: Any) -> None:
        rows = np.arange(len(intervals))[::-1]
        axes.axvline(0.0, color=GREY, lw=1)
        for row, one in zip(rows, intervals, strict=True):
            axes.plot([one.low, one.high], [row, row], color=one.color, lw=3, alpha=0.35)
            axes.plot([one.value], [row], "o", color=one.color, ms=7)
            text = f"{100.0 * one.value:+.1f} %"
            axes.text(one.value, row + 0.2, text, ha="center", va="bottom", color=one.color)
        axes.set_yticks(rows, [one.name for one in intervals])
        axes.set_ylim(-0.6, len(intervals) - 0.2)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_title(label, loc="left", fontsize=9, color=INK)
        axes.grid(visible=False, axis="y")

    return _svg(draw, 4.1, 0.9 + 0.55 * len(intervals))


def dot_chart(names: Sequence[str], shown: FloatArray, engaged: FloatArray, colors: Any) -> str:
    """(rows, nights) counts: the area of a ring is what was shown, of its core what was engaged."""

    def draw(axes: Any) -> None:
        row, night = np.indices(shown.shape)
        rows, nights = len(names) - 1 - row.ravel(), night.ravel() + 1
        ink = np.repeat(np.asarray(colors), shown.shape[1])
        scale = 260.0 / max(1.0, float(shown.max(initial=0.0)))
        axes.scatter(nights, rows, s=shown.ravel() * scale, color=ink, alpha=0.22, lw=0)
        axes.scatter(nights, rows, s=engaged.ravel() * scale, color=ink, lw=0)
        axes.set_yticks(np.arange(len(names))[::-1], names)
        axes.set_xlim(0.4, shown.shape[1] + 0.6)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("day")
        axes.set_title("pale: shown, dark: engaged with (area)", loc="left", fontsize=9, color=INK)
        axes.grid(visible=False)

    return _svg(draw, 4.1, 0.9 + 0.36 * len(names))


def _percent(value: float, place: int) -> str:
    return f"{100.0 * value:.3g} %"


def _name_places(axes: Any, ticks: Sequence[str]) -> None:
    """Names of some of the places along x, so that they do not overlap."""
    if not ticks:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    step = max(1, -(-len(ticks) // 5))
    places = list(range(len(ticks) - 1, -1, -step))[::-1]
    axes.set_xticks(places, [ticks[i] for i in places])
    axes.set_xlim(-0.4, max(len(ticks) - 0.6, 0.6))


def _name_lines(axes: Any, series: Sequence[Series]) -> None:
    """Names at the right end of the lines, moved apart where they would overlap."""
    ends = [(float(s.y[-1]), s) for s in series if len(s.y) and np.isfinite(s.y[-1])]
    ends.sort(key=lambda end: end[0])
    top = float(axes.get_ylim()[1])
    places = spread_apart([y for y, _ in ends], 0.065 * top, top)
    for (_, s), place in zip(ends, places, strict=True):
        axes.annotate(
            s.name,
            (s.x[-1], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=s.color,
            annotation_clip=False,
        )


def spread_apart(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Ascending places, each `gap` or more above the one before, the last at `top` at most.

    Where there is no room for all, the first fall below 0 rather than the last above the chart.
    """
    found = list(places)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + gap)
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], top - gap * (len(found) - 1 - i))
    return found


def _svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    """One axes, `width` by `height` inches, as an `<svg>` element without a word of metadata."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        out = io.StringIO()
        canvas.print_svg(out, metadata={"Date": None})
    return _inline(out.getvalue())


def _inline(svg: str) -> str:
    """Only the element: no prolog, no metadata, no foreign hosts, no fixed size or colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    for name, colour in _VARIABLES.items():
        rest = rest.replace(colour, f"var(--{name}, {colour})")
    box = re.search(r'viewBox="[^"]*"', head)
    return f'<svg {box.group(0) if box else ""} role="img">{rest}'.replace("xlink:href", "href")
