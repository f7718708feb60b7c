"""Off-policy evaluation of fourteen nights of 100,000 users: seconds and memory.

    python benchmarks/off_policy.py [--users 100000] [--nights 14] [--policies counts,reward:beta=4]

The log is a planted world's, stored as a warehouse (kept in --warehouse; it takes minutes); what is
timed is all that `queryloop lab evaluate` does: reading, the policies' chances, 1,000 resamples.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
import resource
import tempfile
import time

import numpy as np

from pipelines.lab.evaluation import evaluate_policy
from pipelines.lab.period import default_period, find_period
from pipelines.store.warehouse import Warehouse
from pipelines.worlds.nights import Loop, play_nights
from pipelines.worlds.planted import WORLDS, People
from pipelines.worlds.stored import config_of_world, store_nights


def make(root: Path, users: int, nights: int) -> Warehouse:
    """The planted log as a warehouse; taken as it is where there is one."""
    if (root / "warehouse.json").exists():
        return Warehouse.open(str(root))
    rules = WORLDS["stationary"]
    people = People.create(rules, np.arange(1, users + 1), 3)
    played = play_nights(people, Loop(), nights)
    return store_nights(str(root), config_of_world(rules, Loop(), 3), played)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--policies", default="counts,reward:beta=4,reward_odds")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warehouse", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.warehouse or Path(folder) / "w"
        warehouse = make(root, args.users, args.nights)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows = []
        print(f"{'policy':<18} {'seconds':>8} {'cpu':>8} {'uplift %':>9} {'low':>7} {'high':>7}")
        for policy in args.policies.split(","):
            clock, cpu = [], []
            for _ in range(args.runs):
                started, spent = time.perf_counter(), time.process_time()
                period = find_period(warehouse, *default_period(warehouse, args.nights))
                found = evaluate_policy(warehouse, period, policy)
                clock.append(time.perf_counter() - started)
                cpu.append(time.process_time() - spent)
            gain = found.comparison.draw.relative["dr"]
            rows.append(
                {
                    "policy": policy, "seconds": float(np.median(clock)),
                    "cpu_seconds": float(np.median(cpu)), "uplift_pct": 100 * gain.value,
                    "low": 100 * gain.low, "high": 100 * gain.high,
                }
            )  # fmt: skip
            print(
                f"{policy:<18} {rows[-1]['seconds']:8.1f} {rows[-1]['cpu_seconds']:8.1f}"
                f" {100 * gain.value:9.2f} {100 * gain.low:7.2f} {100 * gain.high:7.2f}"
            )
        units = int(found.sums.log[:, 0].sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record = {"user_nights": units, "peak_gb": peak / 1e6, "peak_before_gb": before / 1e6}
    print(json.dumps(record | {"rows": rows}))


if __name__ == "__main__":
    main()
