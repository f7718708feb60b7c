"""The lab's policies on a file of ratings: a kind of data that no default was found on.

    python benchmarks/ratings.py RATINGS.csv [--vectors ratings|COLUMN] [--columns USER,ITEM,RATING]

RATINGS.csv has a row per user and item, such as MovieLens: any set of explicit ratings will do. A
rating of `--liked` or more is an outcome of 1, else 0; a user's universe is what they rated, and
`--start` seeded random items of it were shown at first. Items are vectors

- of `ratings`: who rated the item and how (truncated SVD), of one half of the users; the replay is
  of the other half, so that no outcome is in a vector; or
- of a COLUMN of words with `|` between them (genres), weighted by rarity; all users are replayed.

Last line: one JSON object.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import scipy.sparse as sp
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from pipelines.config import NightConfig
from pipelines.lab.inputs import items_of
from pipelines.lab.policies import policy_named
from pipelines.lab.replay import ReplayOptions, replay_all
from pipelines.lab.replay_measures import summarise
from pipelines.lab.replay_views import print_replay
from pipelines.lab.tune_command import print_curves
from pipelines.lab.tuning import TuneConfig, in_replay, tune_policy
from pipelines.lab.universe import Universe
from profiling.hashing import uniforms

WIDTH = 48  # numbers of a vector of ratings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--vectors", default="ratings", help="ratings, or a column of words")
    parser.add_argument("--columns", default="userId,movieId,rating")
    parser.add_argument("--liked", type=float, default=4.0, help="rating from which it is liked")
    parser.add_argument("--start", type=int, default=15, help="items shown at first")
    parser.add_argument("--users-of", type=int, default=8, help="ratings that an item needs")
    parser.add_argument("--items-of", type=int, default=40, help="ratings that a user needs")
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--policies", default="uniform,importance,reward_importance,reward_odds,thompson,evidence"
    )
    parser.add_argument("--tune", metavar="POLICY", help="its curves instead, as of `lab tune`")
    args = parser.parse_args()
    universe = read_universe(args)
    if args.tune:
        curves(universe, args)
    else:
        compare(universe, args)


def curves(universe: Universe, args: argparse.Namespace) -> None:
    """As `queryloop lab tune` on files of this universe would print them."""
    night = replace(NightConfig(), selection=policy_named(args.tune).selection)
    tried = TuneConfig(nights=args.nights, seeds=args.seeds, first=0)
    points = tune_policy(in_replay(universe, tried), night, tried, seed=0)
    print_curves(points, {"users": len(universe.user_ids)}, Console(), replayed=True)
    rows = [[p.option, p.value, round(100 * p.uplift.value, 2)] for p in points]
    print(json.dumps({"policy": args.tune, "uplift_pct": rows}))


def compare(universe: Universe, args: argparse.Namespace) -> None:
    """Every policy, as `queryloop lab replay` prints them."""
    names = (*args.policies.split(","), "oracle")
    options = ReplayOptions(names, nights=args.nights, seeds=args.seeds)
    started = time.process_time()
    found = summarise(
        replay_all(universe, NightConfig(), options), options, users=len(universe.user_ids)
    )
    print_replay(found, Console(), None)
    result = {
        "users": found["users"],
        "outcomes": len(universe.known.rows),
        "uplift_pct": {
            row["policy"]: [round(row[c], 2) for c in ("uplift_pct", "low", "high")]
            for row in found["rows"]
        },
        "core_seconds": round(time.process_time() - started, 1),
    }
    print(json.dumps(result))


def read_universe(args: argparse.Namespace) -> Universe:
    names = args.columns.split(",")
    table = pcsv.read_csv(args.ratings)
    users, ids, ratings = (table[name].to_numpy() for name in names)
    _, item, times = np.unique(ids, return_inverse=True, return_counts=True)
    kept = times[item] >= args.users_of
    if args.vectors == "ratings":
        learned_on = uniforms("ratings", users) < 0.5
        vectors = rating_vectors(*(v[kept & learned_on] for v in (users, ids, ratings)))
        kept &= ~learned_on
    else:
        vectors = word_vectors(ids[kept], table[args.vectors].to_numpy()[kept])
    kept &= np.isin(ids, [item for item, v in vectors.items() if np.linalg.norm(v) > 1e-9])
    _, user, times = np.unique(users[kept], return_inverse=True, return_counts=True)
    kept[kept] = times[user] >= args.items_of
    users, ids, values = users[kept], ids[kept], (ratings[kept] >= args.liked).astype(float)
    known = np.unique(ids)
    items = items_of(known, np.stack([vectors[i] for i in known]), str(args.ratings))
    outcomes = pa.table({"user_id": users, "item_id": ids, "value": values})
    order = np.lexsort((uniforms("start", users, ids), users))
    first = np.arange(len(users)) - np.searchsorted(users[order], users[order])
    start = outcomes.take(pa.array(order[first < args.start])).select(["user_id", "item_id"])
    return Universe.of(items, outcomes, start)


def rating_vectors(
    users: np.ndarray, ids: np.ndarray, ratings: np.ndarray
) -> dict[int, np.ndarray]:
    """Of who rated an item, each item's row of length 1, and of how, against the user's mean."""
    known, row = np.unique(ids, return_inverse=True)
    _, column = np.unique(users, return_inverse=True)
    mean = np.bincount(column, ratings) / np.bincount(column)
    shape = (len(known), column.max() + 1)
    weight = 1.0 / np.sqrt(np.bincount(row))[row]
    who = sp.csr_matrix((weight, (row, column)), shape)
    how = sp.csr_matrix((0.15 * (ratings - mean[column]), (row, column)), shape)
    left, sizes, _ = randomized_svd(sp.hstack([who, how]).tocsr(), WIDTH, random_state=0)
    rows = (left * np.sqrt(sizes))[:, 1:].astype(np.float32)  # the first is popularity
    return dict(zip(known.tolist(), rows, strict=True))


def word_vectors(ids: np.ndarray, words: np.ndarray) -> dict[int, np.ndarray]:
    known, first = np.unique(ids, return_index=True)
    texts = ["" if w is None else str(w) for w in words[first]]
    rows = TfidfVectorizer(token_pattern=r"[^|]+").fit_transform(texts).toarray()
    return dict(zip(known.tolist(), rows.astype(np.float32), strict=True))


if __name__ == "__main__":
    main()
