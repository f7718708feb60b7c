"""Where policies end up: choices in the stationary world, and nights to recover after drift.

    python benchmarks/long_run.py [--users 4000] [--nights 24] [--drift 8] [--seeds 3]

`best`: share of the draws that go to the user's truly best interests, as many as are drawn, on the
last night of the stationary world, and the first. After the drift every taste is another: `back`
counts the nights until a policy has regained 90 % of the gain over `counts` that it had before.
Every policy is played with its own outcomes, by the night's own steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
from dataclasses import replace

import numpy as np

from pipelines.lab.policies import NAMED
from pipelines.worlds.nights import Loop, best_share, play_nights
from pipelines.worlds.planted import WORLDS, People, Rules
from profiling.schema import FloatArray


def shares(rules: Rules, policy: str, args: argparse.Namespace) -> FloatArray:
    """(nights,) mean share of the draws that go to the best interests, over seeds."""
    found = []
    for seed in range(args.seeds):
        people = People.create(rules, np.arange(1, args.users + 1), seed)
        loop = Loop(NAMED[policy].selection)
        found.append([best_share(people, n) for n in play_nights(people, loop, args.nights)])
    return np.mean(found, axis=0)


def nights_back(gain: FloatArray, drift: int) -> int | None:
    """Nights from the drift on until `gain` is 90 % of that of the night before; None: never.

    Night d serves day d + 1, so night drift - 1 is the first whose draws meet other tastes.
    """
    back = np.flatnonzero(gain[drift - 1 :] >= 0.9 * gain[drift - 2])
    return int(back[0]) if len(back) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--nights", type=int, default=24)
    parser.add_argument("--drift", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--policies", default="uniform,counts,reward_importance,reward_odds,thompson,evidence"
    )
    args = parser.parse_args()
    names = args.policies.split(",")
    drifting = replace(WORLDS["drifting"], drift_day=args.drift)
    still = {p: shares(WORLDS["stationary"], p, args) for p in names}
    moved = {p: shares(drifting, p, args) for p in names}
    rows = []
    print(
        f"{'policy':<18} {'first':>6} {'last':>6} {'before':>7} {'after':>6} {'end':>6} {'back':>5}"
    )
    for p in names:
        gain = moved[p] - moved["counts"] if "counts" in moved else moved[p]
        back = None if p in ("counts", "uniform") else nights_back(gain, args.drift)
        row = {
            "policy": p, "first": still[p][0], "last": still[p][-1],
            "before_drift": moved[p][args.drift - 2], "after_drift": moved[p][args.drift - 1],
            "end": moved[p][-1], "nights_back": back,
        }  # fmt: skip
        rows.append({k: v if isinstance(v, str) or v is None else float(v) for k, v in row.items()})
        print(
            f"{p:<18} {row['first']:6.3f} {row['last']:6.3f} {row['before_drift']:7.3f}"
            f" {row['after_drift']:6.3f} {row['end']:6.3f} {back!s:>5}"
        )
    print(json.dumps({"users": args.users, "nights": args.nights, "rows": rows}))


if __name__ == "__main__":
    main()
