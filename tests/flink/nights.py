"""The same nights on every runner as in-process; on Flink with workers killed on the way.

python tests/flink/nights.py                     a small log; Flink at parallelism 1, 2 and 3
python tests/flink/nights.py --kuairand FOLDER   two nights of KuaiRand-Pure
python tests/flink/nights.py --kills 20          a TaskManager or a Python worker at a time
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.config import NightConfig, render_config
from pipelines.importers.command import import_kuairand
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.operate.fingerprint import fingerprint
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from profiling.history import ProfileConfig
from retrieval.candidates import RetrievalConfig
from retrieval.feed import FeedConfig
from selection.outcomes import OutcomeConfig
from tests.flink.cluster import Flink, cluster, embedded
from tests.pipelines.small_world import day, engagements_table, items_table, serve
from tests.prism import prism_options

PARALLELISM = (1, 2, 3)
Prints = list[dict[str, str]]


@dataclass(frozen=True)
class Log:
    """A warehouse with a log landed, and the nights to run on copies of it."""

    start: Path
    dates: tuple[dt.date, ...]

    def run(self, folder: Path, beam_args: tuple[str, ...] = ()) -> Prints:
        """Fingerprints of its nights, run in a copy."""
        shutil.copytree(self.start, folder)
        warehouse = Warehouse.open(str(folder))
        run = RunOptions(beam_args=beam_args, progress=False)
        return [fingerprint(warehouse, run_night(warehouse, date, run)) for date in self.dates]


def small_log(folder: Path) -> Log:
    """Two nights were run; what their feeds brought has landed, for two more."""
    config = NightConfig(
        profiles=ProfileConfig(alpha=0.8),
        outcomes=OutcomeConfig(window_hours=6, lateness_hours=18),
        retrieval=RetrievalConfig(candidates_per_query=15),
        feed=FeedConfig(size=10),
    )
    warehouse = Warehouse.create(str(folder), render_config(config), buckets=8)
    land(warehouse, {"ITEMS": items_table()}, source="items")
    land(warehouse, {"ENGAGEMENTS": engagements_table(0, 3)}, source="engagements")
    for i in range(2):
        manifest = run_night(warehouse, day(i), RunOptions(progress=False))
        shown, did = serve(warehouse.read("FEED", manifest), i + 1)
        land(warehouse, {"IMPRESSIONS": shown, "ENGAGEMENTS": did}, source=f"day {i + 1}")
    return Log(folder, (day(2), day(3)))


def kuairand_log(folder: Path, source: Path) -> Log:
    """KuaiRand-Pure, imported; its first two nights."""
    warehouse = Warehouse.create(str(folder), render_config(NightConfig()))
    import_kuairand(warehouse, source)
    first = min(x.starts_at for x in warehouse.landings() if x.starts_at is not None)
    start = dt.datetime.fromtimestamp(first / 1e6, dt.UTC).date()
    return Log(folder, (start, start + dt.timedelta(days=1)))


def strays(warehouse: Warehouse) -> list[str]:
    """Files of the warehouse that nothing names."""
    root = Path(warehouse.root)
    records = (*warehouse.landings(), *warehouse.manifests())
    named = {f.path for r in records for files in r.tables.values() for f in files}
    found = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
    kept = ("landed/", "manifests/", "warehouse.json", "queryloop.yaml")
    return sorted(p for p in found if p not in named and not p.startswith(kept))


@contextmanager
def reading(warehouse: Warehouse) -> Iterator[Prints]:
    """Someone who reads the head all the while; yields the different nights that they saw."""
    seen: Prints = []
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(0.2):
            found = fingerprint(warehouse, head_of(warehouse))
            if found not in seen:
                seen.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        stop.set()
        reader.join()


def head_of(warehouse: Warehouse) -> Manifest:
    """The newest night."""
    head = warehouse.head()
    assert head is not None
    return head


@dataclass
class Killing:
    """What was killed, and whether the night was still running then."""

    victim: str
    pid: int = 0


@contextmanager
def killing(flink: Flink, victim: str, due: Callable[[], bool]) -> Iterator[Killing]:
    """While the block runs: as soon as `due()`, kill -9 a TaskManager or a Python worker.

    Args:
        flink: The cluster.
        victim: "task manager" or "python worker".
        due: Asked some hundred times a second.
    """
    done, stop = Killing(victim), threading.Event()

    def kill() -> None:
        while not stop.wait(0.005):
            alive = (
                [flink.processes.running["task-manager-0"].pid]
                if victim == "task manager"
                else flink.python_workers()
            )
            if due() and alive:
                done.pid = alive[0]
                os.kill(done.pid, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield done
    finally:
        stop.set()
        killer.join()


Due = Callable[[Warehouse], bool]


def run_with_kills(
    flink: Flink, log: Log, folder: Path, kills: tuple[tuple[str, Due], ...], parallelism: int = 2
) -> tuple[list[Killing], Prints]:
    """The log's nights with one kill each, as long as there are any; then in-process.

    Raises:
        AssertionError: A reader saw half a night, or a file was left that nothing names.
    """
    shutil.copytree(log.start, folder)
    warehouse = Warehouse.open(str(folder))
    run = RunOptions((*flink.options, f"--parallelism={parallelism}"), progress=False)
    before, prints, killed = fingerprint(warehouse, head_of(warehouse)), [], []
    with reading(warehouse) as seen:
        for date, (victim, due) in zip(log.dates, kills, strict=False):
            with killing(flink, victim, partial(due, warehouse)) as done:
                prints.append(fingerprint(warehouse, run_night(warehouse, date, run)))
            killed.append(done)
            time.sleep(0.5)  # for the reader
    assert all(found in (before, *prints) for found in seen), "a reader saw half a night"
    for date in log.dates[len(kills) :]:
        quiet = RunOptions(progress=False)
        prints.append(fingerprint(warehouse, run_night(warehouse, date, quiet)))
    assert not strays(warehouse), strays(warehouse)
    return killed, prints


def rows_were_split(warehouse: Warehouse) -> bool:
    """Whether a night is in the middle of its first job: its workers have begun to write."""
    return any(Path(warehouse.root).glob("staged/*/*.arrow"))


def measure(log: Log, folder: Path) -> bool:
    """Run the log on every runner; print seconds; whether all agree."""
    started = time.perf_counter()
    expected = log.run(folder / "in-process")
    print(f"in-process: {time.perf_counter() - started:.1f} s", flush=True)

    def agrees(name: str, args: tuple[str, ...]) -> bool:
        started = time.perf_counter()
        equal = log.run(folder / name.replace(" ", "-"), args) == expected
        print(f"{name}: {time.perf_counter() - started:.1f} s, equal: {equal}", flush=True)
        return equal

    same = [agrees("DirectRunner", ("--runner=DirectRunner",))]
    try:
        same.append(agrees("Prism", prism_options()))
    except RuntimeError as error:
        print(f"Prism: {error}", flush=True)
    for name, start in (("Flink embedded", embedded), ("Flink cluster", cluster)):
        with start(folder / name.replace(" ", "-")) as flink:
            for n in PARALLELISM:
                args = (*flink.options, f"--parallelism={n}")
                same.append(agrees(f"{name} at parallelism {n}", args))
    return all(same)


def kill_often(log: Log, folder: Path, kills: int, seed: int) -> bool:
    """Kill at random moments of nights on a cluster; print each; whether all agree."""
    expected, same = log.run(folder / "in-process"), True
    moments = np.random.default_rng(seed).random(kills)
    with cluster(folder / "cluster") as flink:
        one = dataclasses.replace(log, dates=log.dates[:1])
        for i in range(2):  # the first one warms the cluster up
            started = time.perf_counter()
            one.run(folder / f"timed-{i}", (*flink.options, "--parallelism=2"))
        night = 0.85 * (time.perf_counter() - started)  # so that it has not ended
        for i, moment in enumerate(moments):
            victim = ("task manager", "python worker")[i % 2]
            started = time.perf_counter()
            at = started + moment * night
            kill = (victim, lambda _, at=at: time.perf_counter() > at)
            (done,), prints = run_with_kills(flink, log, folder / f"kill-{i}", (kill,))
            spent = time.perf_counter() - started
            equal, killed = prints == expected, "killed" if done.pid else "none was running"
            print(
                f"{victim} after {moment * night:.1f} s: {killed}, both nights {spent:.1f} s, "
                f"equal: {equal}",
                flush=True,
            )
            same &= equal
            if victim == "task manager" and done.pid:
                flink.start_task_manager(0)
                flink.wait_for_task_managers(2)
    return same


def main() -> None:
    """Run what was asked for; exit 1 where a night differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kuairand", type=Path, metavar="FOLDER", help="KuaiRand-Pure's files")
    parser.add_argument("--kills", type=int, default=0, help="how many, at random moments")
    parser.add_argument("--seed", type=int, default=0, help="other moments")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="flink-nights-") as name:
        folder = Path(name)
        start = folder / "start"
        log = kuairand_log(start, args.kuairand) if args.kuairand else small_log(start)
        same = (
            kill_often(log, folder, args.kills, args.seed) if args.kills else measure(log, folder)
        )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
