"""One self-contained HTML page of text, figures and tables: no network, no second file.

What a page says is data (`Report`); how it looks is `templates/report.html.j2`, in light and dark.
Everything but the SVG of the figures, which is ours, is escaped. The one script sorts tables; the
page says all that it has to say without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.pages.colours import COLOURS

_LONG = 20  # rows
_SENTENCE = 30  # characters


@dataclass(frozen=True)
class Picture:
    """An inline SVG (see `charts`), what it shows, for those who cannot see it too, and its SQL."""

    svg: str
    caption: str
    sql: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of texts; columns in `numeric` are set flush right; a long one starts folded.

    A click on a column's name sorts by it: by number where a cell begins with one.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    sql: str = ""
    fold: bool = True

    @property
    def folded(self) -> bool:
        """Whether the reader opens it first."""
        return self.fold and len(self.rows) > _LONG

    @property
    def wordy(self) -> frozenset[int]:
        """Columns of sentences, which need room to be read."""
        widest = [
            max((len(row[i]) for row in self.rows), default=0) for i in range(len(self.columns))
        ]
        return frozenset(i for i, width in enumerate(widest) if width > _SENTENCE)


@dataclass(frozen=True)
class Listing:
    """Something to copy: a command, an SQL statement."""

    caption: str
    text: str


@dataclass(frozen=True)
class Card:
    """One thing of several, at a glance.

    Attributes:
        title: Its name.
        share: How much of the whole it is, drawn as a bar.
        tags: What it is made of, the most telling first.
        more: The tags that are folded away.
        lines: What is to be said of it.
        badge: A word that sets it apart; '' where none does.
    """

    title: str
    share: float
    tags: tuple[str, ...]
    more: tuple[str, ...]
    lines: tuple[str, ...]
    badge: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, its paragraphs, then cards and pictures side by side, tables and listings.

    Attributes:
        alarms: Paragraphs that must not be overlooked.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
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
    import jinja2  # here: the words of a page are said on the terminal too, where time counts
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # of our own making: the one thing that is not escaped
    template = environment.get_template("report.html.j2")
    return template.render(report=report, colours=COLOURS)


def percent(value: float, digits: int = 1) -> str:
    """'12.3 %'."""
    return f"{100.0 * value:.{digits}f} %"


def grid_of(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[str] = (),
    sql: str = "",
) -> Grid:
    """A `Grid` from lists; `numeric` names the columns that are set flush right."""
    right = frozenset(i for i, name in enumerate(columns) if name in numeric)
    return Grid(caption, tuple(columns), tuple(tuple(row) for row in rows), right, sql)


def telling(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, same: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows without the columns that are empty in every row.

    Args:
        columns: Names.
        rows: Texts.
        same: Columns that are left out too where every row has the same.
    """
    kept = [
        i
        for i, name in enumerate(columns)
        if not rows
        or len({row[i] for row in rows}) > 1
        or (name not in same and any(row[i] for row in rows))
    ]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
