"""The night on Apache Flink: the same rows, also when workers are killed, and errors that tell."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.failures import failure_message
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.store.warehouse import Warehouse
from tests.flink.cluster import (
    CHECKOUT,
    Flink,
    cluster,
    embedded,
    fetch_jars,
    free_ports,
    missing_tools,
    start_beams_pool,
)
from tests.flink.nights import Log, Prints, rows_were_split, run_with_kills, small_log

# In an environment's `sitecustomize.py`: as if Queryloop were not installed there.
HIDE = """
import os, sys
sys.path[:] = [p for p in sys.path if not os.path.exists(os.path.join(p, "pipelines"))]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(missing_tools() is not None, reason=f"Flink: {missing_tools()}"),
    # Beam's worker thread in this process says so where its job server hangs up.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    try:
        fetch_jars()
    except RuntimeError as error:  # no Maven Central
        pytest.skip(str(error))
    return small_log(tmp_path_factory.mktemp("log") / "start")


@pytest.fixture(scope="module")
def expected(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Prints:
    return log.run(tmp_path_factory.mktemp("expected") / "w")


@pytest.fixture(scope="module")
def server(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    with embedded(tmp_path_factory.mktemp("embedded")) as flink:
        yield flink


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_embedded_flink_gives_the_same_rows(
    parallelism: int, server: Flink, log: Log, expected: Prints, tmp_path: Path
) -> None:
    args = (*server.options, f"--parallelism={parallelism}")
    assert log.run(tmp_path / "w", args) == expected


def test_a_cluster_gives_the_same_rows_though_its_workers_are_killed(
    log: Log, expected: Prints, tmp_path: Path
) -> None:
    kills = (("task manager", rows_were_split), ("python worker", rows_were_split))
    with cluster(tmp_path / "cluster") as flink:
        killed, prints = run_with_kills(flink, log, tmp_path / "w", kills)
        restarts = flink.restarts()
    assert prints == expected
    assert all(k.pid for k in killed)
    assert restarts >= 2  # both were missed


def test_a_wrong_endpoint_is_an_error_at_once(log: Log, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    message = fail(log, tmp_path, ("--runner=PortableRunner", f"--job_endpoint=localhost:{port}"))
    assert f"--job_endpoint=localhost:{port}: no job server of Beam answers there" in message


def test_workers_without_the_package_say_so(server: Flink, log: Log, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(HIDE)
    message = fail(log, tmp_path, with_pool(server, tmp_path / "bare"))
    assert "the workers have no Queryloop" in message


def test_workers_with_other_code_say_so(server: Flink, log: Log, tmp_path: Path) -> None:
    for package in ("pipelines", "profiling", "selection", "retrieval"):
        shutil.copytree(CHECKOUT / package, tmp_path / "other" / package)
    with (tmp_path / "other" / "selection" / "draws.py").open("a") as file:
        file.write("# another version\n")
    message = fail(log, tmp_path, with_pool(server, tmp_path / "other"))
    assert "has Queryloop" in message
    assert "install the driver's wheel" in message


def test_workers_that_do_not_see_the_warehouse_say_so(
    server: Flink, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the workers are not
    message = fail(log, Path(), with_pool(server, CHECKOUT))
    assert "does not see the warehouse w;" in message


def with_pool(server: Flink, path: Path) -> tuple[str, ...]:
    """Options for the server with a pool of its own, whose workers import from `path`."""
    (port,) = free_ports(1)
    name = f"pool-{port}"
    start_beams_pool(server.processes, port, name, path)
    own = [o for o in server.options if not o.startswith("--environment")]
    return (*own, "--environment_type=EXTERNAL", f"--environment_config=localhost:{port}")


def fail(log: Log, folder: Path, args: tuple[str, ...]) -> str:
    """What the command line says of the log's first night; it has a minute."""
    shutil.copytree(log.start, folder / "w")
    warehouse = Warehouse.open(os.fspath(folder / "w"))
    started = time.monotonic()
    with pytest.raises((ValueError, RuntimeError)) as raised:
        run_night(warehouse, log.dates[0], RunOptions(args, progress=False))
    assert time.monotonic() - started < 60
    return failure_message(raised.value) or f"no message for {raised.value}"
