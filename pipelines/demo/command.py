"""`queryloop demo`: play, then tell on the terminal and on a page."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.demo.ahead import compiling_ahead
from pipelines.demo.loop import DemoRun, play
from pipelines.demo.options import DemoOptions
from pipelines.json_output import print_json
from pipelines.progress import told

if TYPE_CHECKING:
    from pipelines.demo.views import Findings

WIDTH = 100  # columns; more where the terminal has them


def run_demo(
    options: DemoOptions, console: Console | None = None, *, json: bool = False
) -> DemoRun:
    """Play the demo, print what was found, write `report.html` beside the warehouse."""
    # Drawing is imported here: no other command needs it, and it takes half a second.
    from pipelines.demo.page import demo_page
    from pipelines.demo.views import Findings, print_findings
    from pipelines.pages.report import render_report

    if console is None:
        console = Console(quiet=json)
        console.width = max(console.width, WIDTH)
    started = time.perf_counter()
    with compiling_ahead(), told() if json else nullcontext() as note:
        tell = note or (lambda line: console.print(line, highlight=False, style="dim"))
        tell(
            f"a world of {options.users:,} users, {options.nights} nights; the first takes longest"
        )
        run = play(options, tell)
    findings = Findings(run)
    print_findings(findings, console)
    page = options.out / "report.html"
    page.write_text(render_report(demo_page(findings)), encoding="utf-8")
    seconds = time.perf_counter() - started
    console.print(f"\nThe same as pictures: {page} ({seconds:.0f} s in all)", highlight=False)
    if json:
        print_json(demo_record(findings) | {"report": page, "seconds": round(seconds, 1)})
    return run


def demo_record(findings: Findings) -> dict[str, Any]:
    """What was found as `--json` has it: uplifts over the last days, by group of users."""
    run = findings.run
    verdicts = {"reward": findings.verdict, "evidence": findings.evidence_verdict}
    return {
        "options": run.options,
        "warehouse": run.root,
        "uplift": {
            arm: [{"of": name, "users": users, **asdict(by)} for name, users, by in verdict]
            for arm, verdict in verdicts.items()
        },
        "checks": run.checks,
    }
