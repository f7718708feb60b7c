"""`queryloop demo`: play, then tell on the terminal and on a page."""

from __future__ import annotations

import time

from rich.console import Console

from pipelines.demo.ahead import compiling_ahead
from pipelines.demo.loop import DemoOptions, DemoRun, play

WIDTH = 100  # columns; more where the terminal has them


def run_demo(options: DemoOptions, console: Console | None = None) -> DemoRun:
    """Play the demo, print what was found, write `report.html` beside the warehouse."""
    # Drawing is imported here: no other command needs it, and it takes half a second.
    from pipelines.demo.page import demo_page
    from pipelines.demo.views import Findings, print_findings
    from pipelines.report import render_report

    if console is None:
        console = Console()
        console.width = max(console.width, WIDTH)
    started = time.perf_counter()
    with compiling_ahead():
        run = play(options, lambda line: console.print(line, highlight=False, style="dim"))
    findings = Findings(run)
    print_findings(findings, console)
    page = options.out / "report.html"
    page.write_text(render_report(demo_page(findings)), encoding="utf-8")
    seconds = time.perf_counter() - started
    console.print(f"\nThe same as pictures: {page} ({seconds:.0f} s in all)", highlight=False)
    return run
