"""What is checked before a night goes far on other machines, and the pool that starts workers."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

import pipelines.runners.workers as workers
from pipelines.config import NightConfig, render_config
from pipelines.failures import failure_message
from pipelines.runners.workers import check_endpoint, check_worker, code_version
from pipelines.store.warehouse import Warehouse
from pipelines.worker_pool import READY, STARTS, Worker


def test_an_endpoint_where_nobody_listens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no job server of Beam answers there .unavailable"):
        check_endpoint("localhost:1")


def test_an_endpoint_that_never_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PROBE_SECONDS", 1)
    with socket.create_server(("localhost", 0)) as silent:
        endpoint = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"--job_endpoint={endpoint}: no job server of Beam"):
            check_endpoint(endpoint)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()), buckets=1).root


def test_a_worker_like_the_driver_passes(root: str) -> None:
    check_worker(root, code_version(), workers._digest(root))


def test_a_worker_with_other_code_fails(root: str) -> None:
    with pytest.raises(ValueError, match=r"has Queryloop .* the driver 9.9; install the driver's"):
        check_worker(root, "9.9", workers._digest(root))


def test_a_worker_that_sees_no_or_another_warehouse_fails(root: str, tmp_path: Path) -> None:
    other = Warehouse.create(str(tmp_path / "x"), render_config(NightConfig()), buckets=1).root
    for seen in (str(tmp_path / "nothing"), other):
        with pytest.raises(ValueError, match="does not see the warehouse"):
            check_worker(seen, code_version(), workers._digest(root))


@pytest.mark.parametrize(
    "said",
    [
        "ModuleNotFoundError: No module named 'pipelines'",
        "AttributeError: Can't get attribute 'gone' on <module 'pipelines.buckets' from '/x'>",
    ],
)
def test_a_worker_that_cannot_read_a_step_has_a_message(said: str) -> None:
    message = failure_message(RuntimeError(f"Pipeline failed in state FAILED: Traceback\n{said}\n"))
    assert message is not None
    assert "install the driver's wheel" in message


def test_a_runner_that_finds_no_pool_has_a_message() -> None:
    message = failure_message(RuntimeError("failed in state FAILED: java.net.ConnectException: x"))
    assert message is not None
    assert "--environment_config" in message


def interpreter(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Run `script` in the place of Python; every run adds a line to the file returned."""
    runs = folder / "runs"
    place = folder / "python"
    place.write_text(f"#!/bin/sh\necho run >> {runs}\n{script}\n")
    place.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(place))
    return runs


def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = interpreter(tmp_path, monkeypatch, "echo Traceback; echo no such module; exit 1")
    assert Worker("localhost:1", "1-1").start() == "Traceback\nno such module\n"
    assert runs.read_text() == "run\n"


def test_a_worker_killed_while_it_starts_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"[ $(wc -l < {tmp_path}/runs) -lt 3 ] && kill -9 $$; echo {READY}; exec sleep 60"
    runs = interpreter(tmp_path, monkeypatch, script)
    worker = Worker("localhost:1", "1-1")
    assert worker.start() == ""
    worker.stop()
    assert runs.read_text() == "run\n" * 3


def test_a_worker_that_is_always_lost_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = interpreter(tmp_path, monkeypatch, "kill -9 $$")
    assert Worker("localhost:1", "1-1").start() == f"worker 1-1 was lost {STARTS} times"
    assert runs.read_text() == "run\n" * STARTS
