"""How a study is shown: on the terminal or as JSON, and as a page; progress goes to the side."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.json_output import print_json


def deliver(found: dict[str, Any], study: str, out: Path | None, *, json: bool) -> None:
    """Write the files of a study, if a folder is given, and print it.

    Args:
        found: The study, plain JSON.
        study: `retrieval` or `profiles`; names the files.
        out: Folder for the page and the JSON; None: neither.
        json: Whether it is printed as JSON.
    """
    if out is not None:
        _write(found, study, out)
    if json:
        print_json(found)
        return
    from pipelines.evaluate.trial_views import print_trial
    from pipelines.evaluate.views import print_study

    printer = {"retrieval": print_study, "profiles": print_trial}[study]
    printer(found, Console(), out)


def _write(found: dict[str, Any], study: str, out: Path) -> None:
    # Drawing is imported here: no other command needs it, and it takes half a second.
    from pipelines.evaluate.page import study_page
    from pipelines.evaluate.trial_page import trial_page
    from pipelines.pages.report import render_report

    page = {"retrieval": study_page, "profiles": trial_page}[study]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{study}.json").write_text(dumps(found, indent=1, allow_nan=False) + "\n")
    (out / f"{study}.html").write_text(render_report(page(found)), encoding="utf-8")
