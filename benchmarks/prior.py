"""How well the prior is fitted, and how often 95 % intervals hold the truth, where it is known.

    python benchmarks/prior.py [--users 10000] [--seeds 5]

Each world has `users` x 8 clusters; rates are Beta within users, whose means are Beta or all alike.
`k` is printed with its truth; `cover` is over all clusters, those without a record included.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
from collections.abc import Callable

import numpy as np

from profiling.actions import DEFAULT_ACTIONS
from profiling.schema import FloatArray, floats
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.cluster_tallies import roll_up_tallies
from selection.prior import PriorConfig, RatePrior, fit_prior, prior_sums
from tests.selection.reward_rows import CONFIG, NO_ITEMS, NOW, world_profiles, world_rewards

CLUSTERS = 8
World = Callable[[np.random.Generator, int], FloatArray]


def alike(a: float, b: float) -> World:
    return lambda rng, users: rng.beta(a, b, size=(users, CLUSTERS))


def differing(a: float, b: float, k: float) -> World:
    def rates(rng: np.random.Generator, users: int) -> FloatArray:
        mean = rng.beta(a, b, size=(users, 1))
        return rng.beta(mean * k, (1 - mean) * k, size=(users, CLUSTERS))

    return rates


# name: (rates, k of the truth, impressions per cluster, share of clusters shown, days, spread)
WORLDS = {
    "Beta(2, 38)": (alike(2, 38), 40.0, 20, 1.0, 0.0, 0.0),
    "Beta(2, 38), 90 days": (alike(2, 38), 40.0, 20, 1.0, 90.0, 0.0),
    "Beta(1, 9)": (alike(1, 9), 10.0, 20, 1.0, 0.0, 0.0),
    "Beta(1, 9), 90 days": (alike(1, 9), 10.0, 20, 1.0, 90.0, 0.0),
    "users Beta(6, 24), k 20": (differing(6, 24, 20), 20.0, 20, 1.0, 90.0, 0.0),
    "users Beta(3, 27), k 20": (differing(3, 27, 20), 20.0, 20, 1.0, 90.0, 0.0),
    "the same, half unseen": (differing(3, 27, 20), 20.0, 20, 0.5, 90.0, 0.0),
    "the same, 2 impressions": (differing(3, 27, 20), 20.0, 2, 0.5, 90.0, 0.0),
    "y = Beta(20, 20) +- .45": (alike(20, 20), 0.0675 * 41 / 0.25, 5, 1.0, 90.0, 0.9),
}


def one_world(name: str, users: int, seed: int) -> tuple[RatePrior, float]:
    rates_of, _, shown, share, days, spread = WORLDS[name]
    rng = np.random.default_rng(seed)
    rates = rates_of(rng, users)
    counts = shown * (rng.random(rates.shape) < share)
    rewards = world_rewards(rates, counts, rng, days=days, spread=spread)
    profiles = world_profiles(*rates.shape)
    tallies = roll_up_tallies(rewards, profiles, NO_ITEMS, CONFIG, now=NOW, surfaces=["home"])
    prior = fit_prior([prior_sums(tallies, "")], PriorConfig())
    got = roll_up_cluster_rewards(
        RollUpInputs(profiles, rewards, NO_ITEMS, prior, DEFAULT_ACTIONS),
        CONFIG,
        now=NOW,
        surfaces=["home"],
        value_range=(0.0, 1.0),
    )
    truth = rates.ravel()
    held = (floats(got, "low") <= truth) & (truth <= floats(got, "high"))
    return prior.of("home", ""), float(held.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for name, (_, truth, *_) in WORLDS.items():
        runs = [one_world(name, args.users, seed) for seed in range(args.seeds)]
        mean = {
            "mean": np.mean([p.mean for p, _ in runs]),
            "k": np.mean([p.strength for p, _ in runs]),
            "k_truth": truth,
            "k_worst_error": max(abs(p.strength / truth - 1) for p, _ in runs),
            "K": np.median([p.user_strength for p, _ in runs]),
            "cover": np.mean([c for _, c in runs]),
        }
        print(json.dumps({"world": name} | {n: round(float(v), 4) for n, v in mean.items()}))


if __name__ == "__main__":
    main()
