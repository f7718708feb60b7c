"""Compiling ahead: a second process where nothing is compiled yet, and only there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.demo import ahead
from pipelines.demo.ahead import compile_last_steps, compiling_ahead


class Cached:
    """A kernel whose cache lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.stats = self
        self.cache_path = str(folder)
        self.py_func = compile_last_steps


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    processes = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        assert command[:2] == [sys.executable, "-c"]
        compile(command[2], "command", "exec")
        processes.append(popen([sys.executable, "-c", "input()"], stdin=-1, **options))
        return processes[-1]

    monkeypatch.setattr(ahead.subprocess, "Popen", start)
    monkeypatch.setattr(ahead, "draw_groups", Cached(tmp_path))
    return processes


def test_the_last_steps_run_on_a_handful_of_rows() -> None:
    feed = compile_last_steps()
    assert set(feed["user_id"].to_pylist()) == set(range(ahead.USERS))


def test_a_second_process_compiles_and_ends_with_the_demo(started: list[Any]) -> None:
    with compiling_ahead():
        (process,) = started
        assert process.poll() is None
    assert process.returncode is not None
    process.stdin.close()


def test_what_was_compiled_before_is_not_compiled_again(started: list[Any], tmp_path: Path) -> None:
    (tmp_path / "module.compile_last_steps-1.py311.nbi").touch()
    with compiling_ahead():
        assert started == []
