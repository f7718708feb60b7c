import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines.pages.charts import (
    BLUE,
    GREY,
    Interval,
    Point,
    Series,
    dot_chart,
    interval_chart,
    line_chart,
    point_chart,
    spread_apart,
)
from pipelines.pages.report import (
    Listing,
    Picture,
    Report,
    Section,
    grid_of,
    percent,
    render_report,
)


def lines() -> str:
    series = [
        Series("by counts", [1, 2, 3], [0.1, 0.1, 0.11], GREY, [0.09] * 3, [0.12] * 3),
        Series("by reward", [1, 2, 3], [0.1, 0.12, 0.13], BLUE),
    ]
    return line_chart(series, x_label="day", y_label="engaged")


def charts() -> list[str]:
    return [
        lines(),
        interval_chart([Interval("all", 0.1, 0.05, 0.15)], label="uplift"),
        dot_chart(
            ["a", "b"], np.array([[3.0, 0], [1, 2]]), np.array([[1.0, 0], [0, 2]]), [BLUE, GREY]
        ),
        point_chart(
            [Point("lr", 0.1, 0.4), Point("cr", 0.9, 0.2)], x_label="match", y_label="hits"
        ),
    ]


def page(rows: int = 3) -> str:
    section = Section(
        "Section <one>",
        paragraphs=("a < b & c",),
        pictures=(Picture(lines(), 'what "it" shows'),),
        grids=(
            grid_of("caption", ("name", "n"), [("<b>x</b>", str(i)) for i in range(rows)], ("n",)),
        ),
        listings=(Listing("try", "SELECT 1 < 2"),),
    )
    return render_report(Report("Title", "Lead.", (("label", "12 %"),), (section,), "made by us"))


class Structure(HTMLParser):
    """Open tags must close in order."""

    VOID = ("meta", "path", "use", "circle", "rect", "line", "br", "stop", "polygon")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing():
    html = page()
    parser = Structure()
    parser.feed(html)
    assert parser.open == []
    assert {"svg", "table", "figure", "pre"} <= set(parser.seen)
    assert not {"link", "img", "iframe"} & set(parser.seen)
    assert "<script>" in html  # of its own: it has no src
    assert "http" not in html
    assert "@import" not in html
    for target in re.findall(r'(?:src|href)="([^"]*)"', html) + re.findall(r"url\(([^)]*)\)", html):
        assert target.startswith("#")
        assert f'id="{target[1:]}"' in html


def test_what_people_wrote_is_escaped_and_pictures_are_not():
    html = page()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "a &lt; b &amp; c" in html
    assert "SELECT 1 &lt; 2" in html
    assert "<svg viewBox=" in html


def test_numeric_columns_are_right_and_long_tables_folded():
    html = page()
    assert '<td class="right">2</td>' in html
    assert "<details>" not in html
    assert "<summary>caption</summary>" in page(rows=21)


@pytest.mark.parametrize("chart", range(4))
def test_charts_are_bare_elements_and_repeat_byte_for_byte(chart: int):
    svg = charts()[chart]
    assert svg == charts()[chart]
    assert svg.startswith("<svg viewBox=")
    assert svg.rstrip().endswith("</svg>")
    assert "metadata" not in svg
    assert "width=" not in svg.split(">")[0]  # scales with the page


def test_charts_keep_their_texts():
    assert ">by counts<" in lines()
    assert ">+10.0 %<" in charts()[1]


def test_lines_of_nothing_known():
    svg = line_chart(
        [Series("none", [1, 2], [float("nan")] * 2, GREY), Series("empty", [], [], BLUE)],
        x_label="day",
        y_label="rate",
    )
    assert svg.startswith("<svg")


def test_percent():
    assert percent(0.1234) == "12.3 %"


def test_names_of_lines_keep_apart_and_within_the_chart() -> None:
    assert spread_apart([0.1, 0.5, 0.52], 0.1, 1.0) == pytest.approx([0.1, 0.5, 0.6])
    assert spread_apart([0.9, 0.95, 1.0], 0.1, 1.0) == pytest.approx([0.8, 0.9, 1.0])
    assert spread_apart([], 0.1, 1.0) == []
