"""The Airflow example without Airflow: its tasks run our commands, their exit codes decide."""

from __future__ import annotations

import datetime as dt
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.store.warehouse import Warehouse
from tests.pipelines.small_world import day, engagements_table, foreign_impressions, items_table

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "airflow_dag.py"
NAMES = ("AirflowException", "AirflowFailException", "AirflowSkipException")
Raised = {name: type(name, (Exception,), {}) for name in NAMES}
RUN = dt.datetime.combine(day(1), dt.time(3, 15), dt.UTC)


class Task:
    """A task that ran; what follows it is noted by Airflow alone."""

    def __rshift__(self, other: Any) -> Any:
        return other


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Runs the function where Airflow would make a task of it, with the run's logical date."""
    if function is None:
        return task

    def run(*given: Any) -> Any:
        wants = "logical_date" in inspect.signature(function).parameters
        return function(RUN) if wants else (function(*given), Task())[1]

    return run


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the whole DAG once; the commands that it called."""
    sdk, errors = ModuleType("airflow.sdk"), ModuleType("airflow.sdk.exceptions")
    sdk.dag, sdk.task = lambda **options: lambda function: function, task  # type: ignore[attr-defined]
    vars(errors).update(Raised)
    modules = {
        "airflow": ModuleType("airflow"),
        "airflow.sdk": sdk,
        "airflow.sdk.exceptions": errors,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    places = {"WAREHOUSE": tmp_path / "w", "PAGES": tmp_path, "METRICS": tmp_path / "q.prom"}
    for name, place in places.items():
        monkeypatch.setenv(f"QUERYLOOP_{name}", str(place))

    def dag(ends: dict[str, int] | None = None) -> list[str]:
        called = []

        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            called.append(command[1])
            if command[1] in (ends or {}):
                return subprocess.CompletedProcess(command, (ends or {})[command[1]], "{}")
            done = CliRunner().invoke(app, command[1:])
            assert done.exit_code in (0, 1), done.output
            return subprocess.CompletedProcess(command, done.exit_code, done.stdout)

        monkeypatch.setattr(subprocess, "run", run)
        try:
            exec(compile(EXAMPLE.read_text(), str(EXAMPLE), "exec"), {"__name__": "dag"})
        except tuple(Raised.values()) as error:
            called.append(type(error).__name__)
        return called

    return dag


def test_a_run_is_plan_validate_night_report_alarms_and_is_skipped_afterwards(
    play: Callable[..., list[str]], tmp_path: Path
) -> None:
    warehouse = Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()), buckets=1)
    tables = {
        "ITEMS": items_table(),
        "ENGAGEMENTS": engagements_table(0, 0),
        "IMPRESSIONS": foreign_impressions(0, 0, own_actions=True),
    }
    land(warehouse, tables, source="log")
    assert play() == ["plan", "validate", "night", "report", "health"]
    assert warehouse.night(day(0)).kind == "night"
    assert (tmp_path / f"{day(0)}.html").exists()
    assert "queryloop_night_manifest" in (tmp_path / "q.prom").read_text()
    assert play() == ["plan", "AirflowSkipException"]


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, "AirflowFailException"), (2, "AirflowException"), (70, "AirflowException")],
)
def test_only_a_no_fails_at_once(code: int, error: str, play: Callable[..., list[str]]) -> None:
    assert play({"plan": code}) == ["plan", error]
