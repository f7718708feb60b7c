"""One self-contained HTML page of text, figures and tables: no script, no network, no second file.

What a page says is data (`Report`); how it looks is `templates/report.html.j2`. Everything but the
SVG of the figures, which is ours, is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

_LONG = 20  # rows


@dataclass(frozen=True)
class Picture:
    """An inline SVG (see `charts`) and what it shows, for those who cannot see it too."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Grid:
    """A table of texts; columns in `numeric` are set flush right; a long one starts folded."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()

    @property
    def folded(self) -> bool:
        """Whether the reader opens it first."""
        return len(self.rows) > _LONG


@dataclass(frozen=True)
class Listing:
    """Something to copy: a command, an SQL statement."""

    caption: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading, its paragraphs, then pictures side by side, tables and listings."""

    title: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    grids: tuple[Grid, ...] = ()
    listings: tuple[Listing, ...] = ()


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        title: Its heading.
        lead: The paragraph below.
        facts: Label and value of the few numbers that matter most.
        sections: In order.
        footer: How the page was made.
    """

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    footer: str


def render_report(report: Report) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # of our own making: the one thing that is not escaped
    return environment.get_template("report.html.j2").render(report=report)


def percent(value: float, digits: int = 1) -> str:
    """'12.3 %'."""
    return f"{100.0 * value:.{digits}f} %"


def grid_of(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str] = ()
) -> Grid:
    """A `Grid` from lists; `numeric` names the columns that are set flush right."""
    right = frozenset(i for i, name in enumerate(columns) if name in numeric)
    return Grid(caption, tuple(columns), tuple(tuple(row) for row in rows), right)
