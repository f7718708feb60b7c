"""What a question takes on a warehouse of many users and nights: sql, explain, report.

    python benchmarks/sql.py [--users 100000] [--nights 14] [--log DIR] [--warehouse W] [--runs 5]

Every command is run as a process of its own, as people do: with the warehouse's files in the page
cache, and after the system was asked to forget them. Beside each statement the same one in a
process that makes the whole catalogue first. Without --warehouse one is made by real nights, each
with its health, over the log of `benchmarks/night.py`; it takes some minutes and is kept at
`--work`, to be given as --warehouse.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # files here are named like packages

import argparse
import datetime as dt
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from benchmarks.night import (
    DAYS,
    NIGHT_0,
    land_days,
    new_warehouse,
    publish_night_0,
    write_log,
)
from pipelines.catalog.views import open_session
from pipelines.health.figures import record_health
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.store.warehouse import Warehouse

QUESTIONS = [
    "SELECT 1",
    "SELECT * FROM cluster_rewards_now WHERE user_id = {user}",
    "FROM reward_history({user})",
    "FROM lineage({user}, 1)",
    "FROM feed_of({user})",
    "SELECT * FROM draws WHERE user_id = {user}",
    "FROM accounting",
    "FROM arm_lift('long_view')",
    "FROM calibration(10)",
    "FROM average_weight",
    "FROM starved(7) LIMIT 20",
    "FROM never_had_a_chance LIMIT 20",
    "FROM propensity_check((SELECT run_date FROM settings))",
    "SELECT * FROM draw_check WHERE run_date = '{night}'",
]
WHOLE = """\
import sys
from pipelines.catalog.views import open_session
from pipelines.catalog.answers import render
from pipelines.store.warehouse import Warehouse
opened = Warehouse.open(sys.argv[1])
with open_session(opened, opened.head()) as session:
    session.make_all()
    print(render(session.ask(sys.argv[2]), "table"))
"""


def made(work: Path, log: Path, users: int, nights: int) -> Warehouse:
    """A warehouse after `nights` nights of the log, the last of its days."""
    if not log.exists():
        write_log(log, users, seed=11)
    warehouse = new_warehouse(users, work, model=False, spaced=False)
    land(warehouse, {"ITEMS": pq.read_table(log / "items.parquet")}, source="items")
    publish_night_0(warehouse, users)
    land_days(warehouse, log, sorted(p.stem for p in log.glob("history-*")))
    first = DAYS + 2 - nights
    for i in range(1, DAYS + 2):
        land_days(warehouse, log, [f"engagements-{i:02d}", f"impressions-{i:02d}"])
        if i < first:
            continue
        night = NIGHT_0 + dt.timedelta(days=i)
        run = RunOptions(progress=False)
        manifest = run_night(warehouse, night, run, allow_gap=i == first)
        record_health(warehouse, manifest, nights)
        print(f"night of {night}: {manifest.seconds['all']:.0f} s", flush=True)
    return warehouse


def busiest_user(warehouse: Warehouse) -> int:
    """Who was served last night and has seen most: the longest story."""
    served = np.unique(warehouse.read("FEED", columns=["user_id"])["user_id"].to_numpy())
    nights = warehouse.chain(warehouse.head())
    seen = np.concatenate(
        [warehouse.read("OUTCOMES", m, ["user_id"])["user_id"].to_numpy() for m in nights]
    )
    users, times = np.unique(seen[np.isin(seen, served)], return_counts=True)
    return int(users[times.argmax()])


@dataclass(frozen=True)
class Took:
    """Medians of a process: by the clock, and of all its processors, which other work leaves be."""

    clock: float
    cpu: float


# As where a package is installed: its modules are compiled once.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def timed(command: Sequence[str], runs: int, root: str = "") -> Took:
    """Run a command; with `root`, each time after the system forgot that folder's files."""
    clock, cpu = [], []
    for _ in range(runs):
        if root:
            forget(root)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=ENVIRONMENT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        clock.append(time.perf_counter() - start)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Took(statistics.median(clock), statistics.median(cpu))


def forget(root: str) -> None:
    """Ask the system to drop a folder's files from its page cache."""
    for place, _, names in os.walk(root):
        for name in names:
            file = os.open(Path(place, name), os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def told(what: str, command: Sequence[str], root: str, runs: int, whole: str = "") -> list[float]:
    """Time a command cold and warm, print it, and give its clock: cold, warm, whole."""
    cold = timed(command, min(runs, 3), root)
    timed(command, 1)
    warm = timed(command, runs)
    line = f"{cold.clock:>8.2f}{cold.cpu:>8.2f}{warm.clock:>12.2f}{warm.cpu:>8.2f}"
    found = [cold.clock, warm.clock, warm.cpu]
    if whole:
        other = timed([sys.executable, "-c", WHOLE, root, whole], min(runs, 3))
        line += f"{other.clock:>12.2f}{other.cpu:>8.2f}"
        found.append(other.clock)
    print(f"{line:<56}  {what}", flush=True)
    return [round(x, 3) for x in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "night-log")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--warehouse", default=None)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    if given.warehouse is None:
        work = given.work or Path(tempfile.mkdtemp(prefix="sql-bench-"))
        work.mkdir(parents=True, exist_ok=True)
        log = given.log / f"{given.users}-served"
        warehouse = made(work, log, given.users, given.nights)
    else:
        warehouse = Warehouse.open(given.warehouse)
    root, user = warehouse.root, busiest_user(warehouse)
    night = warehouse.chain(warehouse.head())[-1].date
    ours = [sys.executable, "-m", "pipelines"]
    print(f"{root}, user {user}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'cold':>8}{'cpu':>8}{'warm':>12}{'cpu':>8}{'whole':>12}{'cpu':>8}")
    found = {}
    asked = {question: question.format(user=user, night=night) for question in QUESTIONS}
    with open_session(warehouse, warehouse.head()) as session:
        rows = {question: session.ask(sql).num_rows for question, sql in asked.items()}
    if empty := [sql for question, sql in asked.items() if not rows[question]]:
        raise SystemExit(f"no rows answer {'; '.join(empty)}: its time would say nothing")
    for question, sql in asked.items():
        found[question] = told(sql, [*ours, "sql", "-w", root, sql], root, given.runs, sql)
    page = f"{tempfile.gettempdir()}/sql-bench-{os.getpid()}.html"
    sizes = {}
    for what, options in {
        "explain": ["--user", str(user)],
        "explain --html": ["--user", str(user), "--html", page],
        "report": ["--out", page],
    }.items():
        command = [*ours, what.split()[0], "-w", root, *options]
        found[what] = told(what, command, root, given.runs)
        if page in command:
            sizes[what] = Path(page).stat().st_size
    Path(page).unlink()
    line = {"users": given.users, "nights": len(warehouse.chain(warehouse.head())) - 1}
    line |= {"load": os.getloadavg()[0], "rows": rows}
    line |= {"cold_warm_cpu_whole_s": found, "page_bytes": sizes}
    line["sql_slowest_s"] = [max(found[q][i] for q in QUESTIONS) for i in range(2)]
    print(json.dumps(line))


if __name__ == "__main__":
    main()
