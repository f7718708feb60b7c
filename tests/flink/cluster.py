"""Apache Flink under Beam's portable runner, as plain processes of this machine.

    python tests/flink/cluster.py                   start a cluster, print the options, wait
    python tests/flink/cluster.py --embedded        a job server with Flink inside it

A cluster is a JobManager, two TaskManagers, Beam's job server in front of them and Beam's pool of
Python workers behind them. Ports are free ones, everything else lies in one folder, and leaving the
`with` block (or Ctrl-C) stops what was started.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
JARS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "queryloop" / "flink"
SLOTS = 3  # of each TaskManager: one alone can carry on a job of parallelism 3
START_SECONDS = 60

# What Flink's own scripts would say: Java 17 hides these from it.
OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.lang", "java.lang.reflect", "java.net", "java.nio", "java.util",
                    "java.util.concurrent", "java.text", "java.time", "sun.nio.ch")
]  # fmt: skip
# Started without Flink's scripts, a TaskManager derives no size: each is spelled out.
TASK_MANAGER = {
    "taskmanager.cpu.cores": 1.0,
    "taskmanager.numberOfTaskSlots": SLOTS,
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.managed.size": "64m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}
RECOVERY = {
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": 3,
    "restart-strategy.fixed-delay.delay": "1 s",
    "heartbeat.interval": 1000,
    "heartbeat.timeout": 6000,
    "rest.retry.max-attempts": 3,
}


def missing_tools() -> str | None:
    """Why Flink cannot be started here; None where it can, as far as one sees."""
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if absent and not (JARS / "complete").exists():
        return f"no {' and no '.join(absent)} on the PATH"
    return "no java on the PATH" if "java" in absent else None


def fetch_jars() -> Path:
    """Beam's Flink runner from Maven Central, kept for the next time.

    Raises:
        RuntimeError: Maven could not fetch them; the message ends with what it said.
    """
    complete = JARS / "complete"
    pom = (HERE / "pom.xml").read_text()
    if complete.exists() and complete.read_text() == pom:
        return JARS
    shutil.rmtree(JARS, ignore_errors=True)
    JARS.mkdir(parents=True)
    command = ["mvn", "--quiet", "--batch-mode", "--file", str(HERE / "pom.xml")]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch Flink: {done.stdout[-800:]}")
    complete.write_text(pom)
    return JARS


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("localhost", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


@dataclass
class Processes:
    """What was started, each the leader of its own group, with its log in `folder`/log."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, name: str, command: Sequence[str], env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process."""
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=env, start_new_session=True, cwd=self.folder
            )
        self.running[name] = process
        return process

    def log(self, name: str) -> Path:
        """Where it writes."""
        return self.folder / "log" / f"{name}.log"

    def wait_for_port(self, name: str, port: int) -> None:
        """Until the process listens."""
        self.wait_until(name, lambda: _listens(port), f"listen on port {port}")

    def wait_until(self, name: str, ready: Any, what: str) -> None:
        """Until `ready()`; RuntimeError with the end of the log where the process gives up."""
        end = time.monotonic() + START_SECONDS
        while not ready():
            if self.running[name].poll() is not None or time.monotonic() > end:
                tail = self.log(name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} did not {what}; its log ends with:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End every process group, the last started first: gently, then at once."""
        for process in reversed(self.running.values()):
            signal_group(process.pid, signal.SIGTERM)
        end = time.monotonic() + 5
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
        for process in self.running.values():
            signal_group(process.pid, signal.SIGKILL)
            process.wait()


def signal_group(leader: int, number: signal.Signals) -> None:
    """Signal the group that `leader` leads, where any of it is left."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def _listens(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Flink:
    """A running Flink.

    Attributes:
        options: What `queryloop night` is to be told.
        rest: Port of the JobManager's REST interface; None where Flink is embedded.
        settings: Of every process of the cluster.
    """

    processes: Processes
    options: tuple[str, ...]
    rest: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def restarts(self) -> int:
        """How often a task of any job so far was lost or failed, and its job carried on."""
        jobs = [job["id"] for job in self.ask("jobs")["jobs"]]
        told = [self.ask(f"jobs/{job}/exceptions")["exceptionHistory"] for job in jobs]
        return sum(len(history["entries"]) for history in told)

    def wait_for_task_managers(self, n: int) -> None:
        """Until the JobManager knows so many."""
        self.processes.wait_until(
            "job-manager",
            lambda: len(self.ask("taskmanagers")["taskmanagers"]) == n,
            f"see {n} TaskManagers",
        )

    def start_task_manager(self, number: int) -> None:
        """Start one more TaskManager, or one that was killed."""
        processes, name = self.processes, f"task-manager-{number}"
        if name in processes.running:
            processes.running[name].wait(10)
        shutil.rmtree(processes.folder / name, ignore_errors=True)
        conf = _configure(processes.folder, name, self.settings | TASK_MANAGER)
        runner = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        processes.start(name, _java(fetch_jars(), "512m", runner, "--configDir", str(conf)))

    def ask(self, path: str) -> Any:
        """What the JobManager answers."""
        with urllib.request.urlopen(f"http://localhost:{self.rest}/{path}", timeout=10) as answer:
            return json.load(answer)

    def python_workers(self) -> list[int]:
        """Process ids of the Python workers that the pool has started and that still live."""
        pool = self.processes.running["worker-pool"].pid
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[1]) == pool and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found


def _java(jars: Path, heap: str, main: str, *args: str) -> list[str]:
    quiet = "-Dorg.slf4j.simpleLogger.showDateTime=true"
    return ["java", f"-Xmx{heap}", *OPENS, quiet, "-cp", f"{jars}/*", main, *args]


def _configure(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    place = folder / name
    (place / "tmp").mkdir(parents=True)
    lines = [
        f"{key}: {value}" for key, value in (settings | {"io.tmp.dirs": place / "tmp"}).items()
    ]
    (place / "config.yaml").write_text("\n".join(lines) + "\n")
    return place


def _start_job_server(processes: Processes, jars: Path, master: str, conf: Path) -> list[str]:
    job, artifact, expansion = free_ports(3)
    command = _java(
        jars,
        "1g",
        str(HERE / "JobServer.java"),
        f"--flink-master={master}",
        f"--flink-conf-dir={conf}",
        f"--job-port={job}",
        f"--artifact-port={artifact}",
        f"--expansion-port={expansion}",
        f"--artifacts-dir={processes.folder / 'artifacts'}",
    )
    processes.start("job-server", command)
    processes.wait_for_port("job-server", job)
    return ["--runner=PortableRunner", f"--job_endpoint=localhost:{job}"]


@contextmanager
def embedded(folder: Path) -> Iterator[Flink]:
    """Flink inside Beam's job server, the Python code in the process that runs the night."""
    processes, jars = Processes(folder), fetch_jars()
    try:
        conf = _configure(folder, "job-server", RECOVERY)
        options = _start_job_server(processes, jars, "[local]", conf)
        yield Flink(processes, (*options, "--environment_type=LOOPBACK"))
    finally:
        processes.stop()


@contextmanager
def cluster(folder: Path, task_managers: int = 2) -> Iterator[Flink]:
    """A JobManager, TaskManagers, the job server and a pool of Python workers."""
    processes, jars = Processes(folder), fetch_jars()
    rpc, rest, pool = free_ports(3)
    settings = RECOVERY | {
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": rpc,
        "rest.address": "localhost",
        "rest.port": rest,
        "cluster.evenly-spread-out-slots": "true",
        "jobmanager.memory.heap.size": "512m",
        "jobmanager.memory.off-heap.size": "128m",
        "jobmanager.memory.jvm-metaspace.size": "256m",
        "jobmanager.memory.jvm-overhead.min": "192m",
        "jobmanager.memory.jvm-overhead.max": "192m",
    }
    try:
        conf = _configure(folder, "job-manager", settings)
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        processes.start("job-manager", _java(jars, "512m", entry, "--configDir", str(conf)))
        processes.wait_for_port("job-manager", rest)
        flink = Flink(processes, (), rest, settings)
        for i in range(task_managers):
            flink.start_task_manager(i)
        start_worker_pool(processes, pool)
        options = _start_job_server(processes, jars, f"localhost:{rest}", conf)
        flink.options = (
            *options,
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
        )
        flink.wait_for_task_managers(task_managers)
        yield flink
    finally:
        processes.stop()


def start_worker_pool(processes: Processes, port: int, name: str = "worker-pool") -> None:
    """Our pool: it starts a Python worker for every TaskManager of every job."""
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "pipelines.worker_pool", f"--port={port}"]
    processes.start(name, command, env)
    processes.wait_for_port(name, port)


def start_beams_pool(processes: Processes, port: int, name: str, path: Path) -> None:
    """Beam's own pool; its workers import from `path` before all else."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    processes.start(name, [*command, f"--service_port={port}"], env)
    processes.wait_for_port(name, port)


def main() -> None:
    """Start what was asked for, say how to use it, wait for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embedded", action="store_true", help="Flink inside the job server")
    parser.add_argument("--task-managers", type=int, default=2)
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="flink-") as folder:
        place = Path(folder)
        started = embedded(place) if args.embedded else cluster(place, args.task_managers)
        with started as flink:
            print("queryloop night --warehouse W --date D", *flink.options, "--parallelism=2")
            if flink.rest:
                print(f"its dashboard: http://localhost:{flink.rest}; Ctrl-C stops it")
            sys.stdout.flush()
            signal.pause()


if __name__ == "__main__":
    main()
