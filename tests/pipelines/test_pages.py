"""Our pages in a real browser, on a phone and a desk, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.demo.loop import DemoOptions, play
from pipelines.demo.page import demo_page
from pipelines.demo.views import Findings
from pipelines.explain.page import story_page
from pipelines.explain.story import story_of
from pipelines.health.page import night_report
from pipelines.pages.report import Report, Section, grid_of, render_report
from tests.pipelines.browser import Browser, find_browser
from tests.pipelines.conftest import Served
from tests.pipelines.test_explain import user_with_places

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]
PHONE, DESK = 390, 1280
# Elements that reach beyond the screen and do not lie in something that scrolls of its own.
OVERFLOWING = """
[...document.querySelectorAll("main *")].filter(e => !e.closest(".table, pre, svg") &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 90))
"""
BROKEN_LINKS = """
[...document.querySelectorAll("a")].map(a => a.getAttribute("href"))
  .filter(to => !to.startsWith("#") || !document.getElementById(to.slice(1)))
"""
# The contrast of every text with the page's ground, WCAG 2; the least of them.
CONTRAST = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = parts => parts.map(v => v / 255).map(v =>
    v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = light(rgb(getComputedStyle(document.querySelector("section")).backgroundColor));
  const texts = document.querySelectorAll("section :is(p, td, figcaption, text)");
  return Math.min(...[...texts].map(e => {
    const style = getComputedStyle(e);
    const ink = light(rgb(e.matches("text") ? style.fill : style.color));
    return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
  }));
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("no Chromium here; with Debian's package chromium the pages are tested")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(served: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    user, date = str(user_with_places(served, 1)), served.nights[1].date.isoformat()
    run = play(DemoOptions(users=60, nights=2, out=folder / "demo"))
    made = {
        "night": night_report(served.warehouse, served.nights[2]),
        "user": story_page(story_of(served.warehouse, user, date), "W"),
        "demo": demo_page(Findings(run)),
    }
    for name, report in made.items():
        (folder / f"{name}.html").write_text(render_report(report), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("name", ["night", "user", "demo"])
def test_pages_fit_link_and_do_not_complain(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    assert pages[name].stat().st_size < 3_000_000
    for width in (PHONE, DESK):
        browser.open(pages[name], width)
        assert browser.complaints() == []
        for _ in ("as opened", "unfolded"):
            assert browser.value("document.documentElement.scrollWidth") == width
            assert browser.value(OVERFLOWING) == []
            browser.value("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert browser.value(BROKEN_LINKS) == []
        assert browser.value("document.querySelectorAll('figure svg').length") > 0


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_in_light_and_dark(
    browser: Browser, pages: dict[str, Path], dark: bool
) -> None:
    browser.open(pages["night"], DESK, dark=dark)
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 28)" if dark else "rgb(246, 247, 249)")
    assert browser.value(CONTRAST) > 2.5  # the quietest line names of a chart


def test_a_click_on_a_columns_name_sorts_by_it(browser: Browser, tmp_path: Path) -> None:
    rows = [("b", "1,200"), ("c", "-3.5 %"), ("a", ""), ("a2", "12 of 40")]
    grid = replace(grid_of("t", ("name", "n"), rows, ("n",)), fold=False)
    page = tmp_path / "page.html"
    report = Report("t", "l", (), (Section("s", grids=(grid,)),), "f")
    page.write_text(render_report(report), encoding="utf-8")
    browser.open(page, DESK)

    def sort_by(place: int) -> list[str]:
        browser.value(f"document.querySelectorAll('th button')[{place}].click()")
        return list(
            browser.value(
                "[...document.querySelectorAll('tbody tr')].map(r => r.cells[0].textContent)"
            )
        )

    assert sort_by(1) == ["c", "a2", "b", "a"]
    assert sort_by(1) == ["a", "b", "a2", "c"]
    assert browser.value("document.querySelectorAll('th')[1].ariaSort") == "descending"
    assert sort_by(0) == ["a", "a2", "b", "c"]
    assert browser.complaints() == []
