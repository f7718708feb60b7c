"""The demo's promises over many worlds: `python benchmarks/demo_seeds.py --seeds 20`.

For every seed the demo is played twice, with the default mismatch and with none, and three things
are looked at: whether the reward arm beats counts over the last three days; whether, where tastes
are what people engaged with, the interval of the uplift contains 0; and what became of interests
that earn nothing or were never shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
import os
import statistics
import tempfile
import time

from pipelines.demo.loop import DemoOptions, DemoRun, play
from pipelines.demo.views import STORY_TOPICS, Findings, interval_text
from profiling.bootstrap import Estimate

BEATS, CONTAINS = 0.95, 0.85  # shares of the seeds: 19 and 17 of 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--users", type=int, default=DemoOptions.users)
    parser.add_argument("--nights", type=int, default=DemoOptions.nights)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, {args.users:,} users, {args.nights} days a world")
    beats, leaning, contains, sinks, seconds = [], [], [], [], []
    for seed in range(args.first, args.first + args.seeds):
        started = time.perf_counter()
        run, overall, evidence = one_world(args.users, args.nights, seed, DemoOptions.mismatch)
        _, none, _ = one_world(args.users, args.nights, seed, 0.0)
        beats.append(overall.value > 0)
        leaning.append(evidence.value > 0)
        contains.append(none.low <= 0 <= none.high)
        sinks.append(has_sunk(run))
        seconds.append((time.perf_counter() - started) / 2)
        print(
            f"seed {seed:>3}  uplift {interval_text(overall):<28} of evidence "
            f"{interval_text(evidence):<28} without mismatch {interval_text(none):<28} "
            f"{story_text(run)}",
            flush=True,
        )
    result = {
        "seeds": args.seeds,
        "reward_beats_counts": sum(beats),
        "evidence_beats_counts": sum(leaning),
        "interval_contains_0_without_mismatch": sum(contains),
        "barren_sinks_above_0_and_unseen_is_average": sum(sinks),
        "median_seconds_per_demo": round(statistics.median(seconds), 1),
    }
    kept = sum(beats) >= BEATS * args.seeds and sum(contains) >= CONTAINS * args.seeds
    print("every promise is kept" if kept and all(sinks) else "A PROMISE IS BROKEN")
    print(json.dumps(result))
    raise SystemExit(0 if kept and all(sinks) else 1)


def one_world(
    users: int, nights: int, seed: int, mismatch: float
) -> tuple[DemoRun, Estimate, Estimate]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        run = play(DemoOptions(users, nights, seed, mismatch, out))
    found = Findings(run)
    return run, found.verdict[0][2], found.evidence_verdict[0][2]


def has_sunk(run: DemoRun) -> bool:
    """Whether what earns nothing sank without ever reaching 0, and what was never shown is average.

    The story user's Recipes sink against the average of that user, which moves as well; those of
    all users lose their share of the reward arm's impressions.
    """
    recipes = [row.reward / row.average for row in run.story if row.name == STORY_TOPICS[0]]
    shares, checks = run.barren_shares[:, 1], run.checks
    return (
        recipes[0] == 1.0
        and 0.0 < recipes[-1] < 1.0
        and shares[-1] < shares[0]
        and checks.smallest_reward > 0
        and checks.smallest_chance > 0
        and checks.never_shown > 0
        and checks.not_average == 0
    )


def story_text(run: DemoRun) -> str:
    recipes = [row for row in run.story if row.name == STORY_TOPICS[0]]
    first, last = recipes[0], recipes[-1]
    return (
        f"Recipes: {first.reward / first.average:.2f} to {last.reward / last.average:.2f} of the "
        f"average, chance {first.chance:.2f} to {last.chance:.2f}"
    )


if __name__ == "__main__":
    main()
