"""`queryloop evaluate retrieval`: run the study, show it as a table, JSON and pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.evaluate.contest import Note
from pipelines.evaluate.learned import Learner
from pipelines.evaluate.material import StudyOptions, gather
from pipelines.evaluate.study import run_study
from pipelines.nights import config_of
from pipelines.training import check_extra
from pipelines.warehouse import Warehouse

FORMATS = ("table", "json")
REPORT = "retrieval.html"


def evaluate_retrieval(
    warehouse: Warehouse,
    options: StudyOptions,
    *,
    learned: bool = True,
    format: str = "table",
    out: Path | None = None,
) -> dict[str, Any]:
    """Run the study and print it.

    Args:
        warehouse: Where the nights are.
        options: What is asked.
        learned: Whether models are trained for the learned arms.
        format: table or json, on standard output; progress goes to standard error.
        out: Folder for the report and the JSON; None: neither.

    Raises:
        ValueError: The format is unknown, an extra is missing, or there is nothing to evaluate.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    _check_extras(learned=learned)
    config = config_of(warehouse)
    with _progress() as note:
        note("read the log")
        material = gather(warehouse, config, options)
        with TemporaryDirectory(prefix="queryloop-") as folder:
            train = None
            if learned:
                manifest, users = warehouse.night(options.train_until), material.test.users
                train = Learner(warehouse, manifest, config, users, Path(folder), note).train
            found = run_study(material, options, train, note)
    if out is not None:
        _write(found, out)
    if format == "json":
        print(json.dumps(found, allow_nan=False))
    else:
        from pipelines.evaluate.views import print_study

        print_study(found, Console(), out)
    return found


def _check_extras(*, learned: bool) -> None:
    """Raise ValueError for what is missing now, not after minutes of tuning."""
    if find_spec("implicit") is None:
        raise ValueError("the baselines need implicit; pip install 'queryloop[evaluation]'")
    if learned:
        try:
            check_extra()
        except ValueError as error:
            raise ValueError(f"{error}, or give --no-model") from None


def _write(found: dict[str, Any], out: Path) -> None:
    # Drawing is imported here: no other command needs it, and it takes half a second.
    from pipelines.evaluate.page import study_page
    from pipelines.report import render_report

    out.mkdir(parents=True, exist_ok=True)
    (out / "retrieval.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (out / REPORT).write_text(render_report(study_page(found)), encoding="utf-8")


@contextmanager
def _progress() -> Iterator[Note]:
    """Say what is being done, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda text: bars.update(task, description=text)
