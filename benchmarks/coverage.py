"""How often 95 % intervals of a policy's value hold the truth, in every planted world.

    python benchmarks/coverage.py [--runs 1000] [--users 20000] [--worlds rare,drifting] [--out F]

A world's users are played for some nights by the default policy. Each run then draws `users` of
them with replacement, and draws sets and outcomes anew from the states of the last nights, so runs
are independent and the truth is exact: the mean over the states of every cluster's chance times its
expected value (where draws compete: of every set). Estimates and intervals are those of
`queryloop lab evaluate`. A cell is an estimand and estimator of a policy's value and of its uplift.
`flag`: share of the runs in which the tool itself says that the cell is not to be trusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are named like packages

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from threadpoolctl import threadpool_limits

from pipelines.lab.evaluation import TrustConfig, flags_of
from pipelines.lab.policies import NAMED
from pipelines.worlds.nights import Loop, PlayedNight, play_nights
from pipelines.worlds.planted import WORLDS, People, Rules
from profiling.bootstrap import resample_weights
from profiling.compiling import njit
from profiling.hashing import hash64
from profiling.schema import FloatArray, IntArray
from selection.conditional_poisson import hash_of, uniform_of
from selection.off_policy import COLUMNS, LOG, UserSums, _features
from selection.policy_value import ESTIMATORS, compare_policies, estimate_policies
from selection.queries import weigh_clusters
from selection.sampling import weigh_sets

POPULATION, NIGHTS, LAST = 5000, 7, 2  # users, nights played, of which the last are logged
POLICIES = ("counts", "reward_odds", "uniform")
K = 3
SETS = {n: np.array(list(combinations(range(n), K)), np.int64) for n in range(4, 9)}


@dataclass(frozen=True)
class States:
    """Units (user after user, each with its LAST nights), their rows, and their sets.

    Attributes:
        rows: (u + 1,) int64 bounds of a unit's rows.
        sets: (u + 1,) int64 bounds of a unit's sets, in the order of SETS.
        b: (r,) chances of the log; `e`: (p, r) of the policies, the log's own first.
        pb: (s,) probabilities of the sets; `pe`: (p, s).
        x: (r, f) features; `like`, `hide`, `brings`: (r,) truth; `largest`: (r,) 1 or 0.
    """

    rows: IntArray
    sets: IntArray
    b: FloatArray
    e: FloatArray
    pb: FloatArray
    pe: FloatArray
    x: FloatArray
    like: FloatArray
    hide: FloatArray
    brings: FloatArray
    largest: FloatArray
    value: FloatArray

    @cached_property
    def expected(self) -> FloatArray:
        """(p, u, f) sums of e * x over a unit's rows."""
        products = [np.add.reduceat(e[:, None] * self.x, self.rows[:-1]) for e in self.e]
        return np.stack(products)


def states_of(rules: Rules, seed: int) -> States:
    people = People.create(rules, np.arange(1, POPULATION + 1), seed)
    nights = list(play_nights(people, Loop(), NIGHTS))[-LAST:]
    parts = [_night_states(people, night) for night in nights]
    n = np.diff(people.offsets)
    by_unit = np.argsort(np.tile(np.arange(POPULATION), LAST), kind="stable")
    sizes = np.tile(n, LAST)[by_unit]
    set_sizes = np.array([len(SETS[s]) if s in SETS else 0 for s in range(9)])[sizes]
    rows = np.r_[0, np.cumsum(sizes)]
    sets = np.r_[0, np.cumsum(set_sizes)]
    row_order = _gather(np.tile(n, LAST), by_unit)
    set_order = _gather(np.array([len(SETS[s]) for s in np.tile(n, LAST)]), by_unit)

    def join(name: str, order: IntArray) -> FloatArray:
        joined = np.concatenate([p[name] for p in parts], axis=-1 if name != "x" else 0)
        return np.ascontiguousarray(joined[..., order] if name != "x" else joined[order])

    of_rows = {c: join(c, row_order) for c in ("b", "e", "x", "like", "hide", "brings")}
    more = {c: join(c, row_order) for c in ("largest", "value")}
    return States(rows, sets, **of_rows, **more, pb=join("pb", set_order), pe=join("pe", set_order))


def _gather(sizes: IntArray, order: IntArray) -> IntArray:
    starts = np.r_[0, np.cumsum(sizes)][:-1]
    return np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in order])


def _night_states(people: People, night: PlayedNight) -> dict[str, FloatArray]:
    log, day = night.log, night.number + 1
    designs = [log.selections[""], *(NAMED[p].selection for p in POLICIES)]
    n = np.diff(people.offsets)
    e, pe, x = [], [], None
    for design in designs:
        weighed = weigh_clusters(
            log.cluster_rewards, {"": design}, run_date=log.run_date, seed=log.seed, salt=""
        )
        x = _features(weighed) if x is None else x
        sets = np.zeros(sum(len(SETS[s]) for s in n))
        first = np.r_[0, np.cumsum([len(SETS[s]) for s in n])][:-1]
        for j in range(max(len(s) for s in SETS.values())):
            wanted = np.zeros(len(people.topics), bool)
            for size, members in SETS.items():
                who = np.flatnonzero(n == size)
                if j < len(members):
                    wanted[(people.offsets[who][:, None] + members[j]).ravel()] = True
            have = np.array([len(SETS[s]) for s in n]) > j
            keep = np.repeat(have, n)
            bounds = np.r_[0, np.cumsum(n[have])].astype(np.int64)
            chances = weigh_sets(
                bounds, weighed.weights[keep], weighed.draws[have], weighed.floors[have],
                wanted[keep],
            )  # fmt: skip
            sets[first[have] + j] = chances.sets
            if j == 0:
                e.append(chances.propensities)
        pe.append(sets)
    return {
        "b": e[0], "e": np.stack(e), "pb": pe[0], "pe": np.stack(pe), "x": x,
        "like": people.liked(day) * (1.0 - people.rules.lost), "hide": people.hides,
        "brings": people.brings, "largest": people.largest.astype(np.float64),
        "value": people.values(day, np.full(len(n), K)),
    }  # fmt: skip


@njit(cache=True)
def simulate(  # noqa: PLR0913, PLR0915, C901 (one loop; its twin is sum_log)
    s, members, starts, rules, users, last, seed, log, policies
):
    """Fill log (n, 5) and policies (p, n, c) with the sums of `users` users drawn anew."""
    rows, sets, b, e, pb, pe, x, like, hide, brings, largest, expected = s
    comes, bias, competing = rules
    n_policies, f = e.shape[0], x.shape[1]
    y, slot = np.zeros(3), np.zeros(3, np.int64)
    for i in range(users):
        state = hash_of(seed, i)
        user = int(uniform_of(state, 0) * (len(rows) - 1) / last)
        for t in range(last):
            unit, at = user * last + t, 1 + t * 1000
            lo, first = rows[unit], sets[unit]
            u, j, total = uniform_of(state, at), 0, pb[first]
            while u > total and first + j + 1 < sets[unit + 1]:
                j += 1
                total += pb[first + j]
            mine = starts[rows[unit + 1] - lo] + j
            for a in range(3):
                slot[a] = a
            for a in range(2, 0, -1):
                c = int(uniform_of(state, at + 1 + a) * (a + 1))
                slot[a], slot[c] = slot[c], slot[a]
            came, beside = uniform_of(state, at + 5) < comes, 0.0
            for a in range(3):
                beside = max(beside, largest[lo + members[mine, a]])
            earned, hits, served = 0.0, 0.0, 0.0
            for a in range(3):
                r = lo + members[mine, a]
                y[a] = 0.0
                if not came:
                    continue
                keeps = 1.0 - competing * beside * (1.0 - largest[r])
                more = uniform_of(state, at + 10 + a) < brings[r] % 1.0
                for imp in range(int(brings[r]) + more):
                    served = 1.0
                    look = keeps / (1.0 + bias * (imp * 3 + slot[a]))
                    act = uniform_of(state, at + 20 + 10 * a + imp)
                    if act < like[r] * look:
                        y[a] += 1.0
                    elif act > 1.0 - hide[r] * look:
                        y[a] -= 1.0
                earned += y[a]
                hits += y[a] != 0.0
            log[i, 0] += 1.0
            log[i, 1] += 3.0
            log[i, 2] += earned
            log[i, 3] += served
            log[i, 4] += rows[unit + 1] - lo
            for p in range(n_policies):
                out, ratio = policies[p, i], pe[p, first + j] / pb[first + j]
                out[0] += expected[p, unit, 0]
                for q in range(f):
                    out[8 + q] -= expected[p, unit, q]
                    if q > 0:
                        out[17 + q] -= expected[p, unit, q]
                for a in range(3):
                    r = lo + members[mine, a]
                    w = e[p, r] / b[r]
                    out[1] += w * y[a]
                    out[2] += w
                    out[3] += w * w
                    out[4] += w * (y[a] != 0.0)
                    for q in range(f):
                        out[8 + q] += w * x[r, q]
                        if q > 0:
                            out[17 + q] += ratio * x[r, q]
                out[12] += ratio * earned
                out[13] += ratio
                out[14] += ratio * ratio
                out[15] += ratio * (hits > 0)
                out[17] += ratio - 1.0


def log_of(states: States, rules: Rules, users: int, run: int) -> UserSums:
    """The sums of one run's log; column places as in `off_policy.COLUMNS`."""
    log = np.zeros((users, len(LOG)))
    policies = np.zeros((len(POLICIES) + 1, users, len(COLUMNS)))
    members = np.concatenate([SETS[n] for n in SETS])
    starts = np.zeros(9, np.int64)
    starts[4:9] = np.r_[0, np.cumsum([len(SETS[n]) for n in range(4, 8)])]
    arrays = (
        states.rows, states.sets, states.b, states.e, states.pb, states.pe, states.x,
        states.like, states.hide, states.brings, states.largest, states.expected,
    )  # fmt: skip
    odds = (rules.comes, rules.position_bias, rules.competing)
    seed = hash64("coverage", run)[0]
    simulate(arrays, members, starts, odds, users, LAST, seed, log, policies)
    none = np.zeros((len(POLICIES) + 1, users, 2))
    nothing = np.zeros(0, np.int64)
    ids = np.arange(1, users + 1)
    return UserSums(ids, log, policies, none, nothing, np.zeros((len(policies), 0)))


def truths(states: States, rules: Rules) -> FloatArray:
    """(p, 2) value per draw and per set of every policy, the log's own first."""
    units = len(states.rows) - 1
    per_draw = states.e @ states.value
    if rules.competing:
        keep = np.zeros(len(states.pb))
        for u in range(units):
            members = SETS[int(states.rows[u + 1] - states.rows[u])] + states.rows[u]
            largest, worth = states.largest[members], states.value[members]
            lost = rules.competing * largest.max(axis=1)[:, None] * (1 - largest)
            keep[states.sets[u] : states.sets[u + 1]] = (worth * (1 - lost)).sum(axis=1)
        per_draw = states.pe @ keep
    return np.stack([per_draw / (K * units), per_draw / units], axis=1)


def cover(name: str, runs: int, users: int, weights: FloatArray) -> list[dict[str, object]]:
    rules = replace(WORLDS[name], drift_day=NIGHTS - 2 if WORLDS[name].drift_day else None)
    states = states_of(rules, seed=11)

    def add(columns: FloatArray) -> FloatArray:
        resampled = weights @ columns.astype(np.float32)
        return np.concatenate([columns.sum(axis=0)[None], resampled.astype(np.float64)])

    truth, trust = truths(states, rules), TrustConfig(users=users)
    kinds = ("draw", "set")
    held = np.zeros((len(POLICIES), 2, len(ESTIMATORS), 2))
    width = np.zeros((runs, len(POLICIES), 2, len(ESTIMATORS), 2))
    flags, lean = np.zeros((len(POLICIES), 2)), np.zeros((runs, len(POLICIES), 2, 2))
    for run in range(runs):
        sums = log_of(states, rules, users, run)
        estimates = estimate_policies(sums, run, add)
        compared = [compare_policies(sums, estimates, p + 1, 0) for p in range(len(POLICIES))]
        probe = compared[POLICIES.index("uniform")].competes
        for p, comparison in enumerate(compared):
            flagged = flags_of(comparison, comparison.competes or probe, users, trust)
            for k, valued in enumerate((comparison.draw, comparison.set)):
                flags[p, k] += bool(flagged[kinds[k]])
                lean[run, p, k] = valued.weights.share, valued.weights.successes
                for j, estimator in enumerate(ESTIMATORS):
                    for q, (got, want) in enumerate(
                        (
                            (valued.values[estimator], truth[p + 1, k]),
                            (valued.uplifts[estimator], truth[p + 1, k] - truth[0, k]),
                        )
                    ):
                        held[p, k, j, q] += got.low <= want <= got.high
                        width[run, p, k, j, q] = got.high - got.low
    middle = np.median(width, axis=0)
    return [
        {
            "world": name, "policy": POLICIES[p], "estimand": kinds[k],
            "of": ("value", "uplift")[q],
            **{f"cover_{e}": held[p, k, j, q] / runs for j, e in enumerate(ESTIMATORS)},
            "dr_over_ips": float(middle[p, k, 2, q] / middle[p, k, 0, q]),
            "effective_share": float(np.median(lean[:, p, k, 0])),
            "successes": float(np.median(lean[:, p, k, 1])),
            "flag": flags[p, k] / runs,
            "truth": float(truth[p + 1, k]),
        }
        for p in range(len(POLICIES)) for k in range(2) for q in range(2)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    weights = resample_weights(args.users, 0, args.resamples).astype(np.float32)
    found: list[dict[str, object]] = []
    print(
        "world       policy      estimand of      ips    snips  dr     dr/ips  ess    succ.    flag"
    )
    for name in args.worlds.split(","):
        started = time.perf_counter()
        with threadpool_limits(1):  # these products are small: more threads only wait
            rows = cover(name, args.runs, args.users, weights)
        found += rows
        for r in rows:
            print(
                f"{name:<11} {r['policy']:<11} {r['estimand']:<8} {r['of']:<6}"
                f" {r['cover_ips']:6.3f} {r['cover_snips']:6.3f} {r['cover_dr']:6.3f}"
                f" {r['dr_over_ips']:6.2f} {r['effective_share']:7.3f} {r['successes']:8,.0f}"
                f" {r['flag']:6.2f}"
            )
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps({"runs": args.runs, "cells": found}) + "\n")
    sound = [r for r in found if r["flag"] < 0.5]
    worst = [min(float(r[f"cover_{e}"]) for r in sound) for e in ESTIMATORS]
    best = [max(float(r[f"cover_{e}"]) for r in sound) for e in ESTIMATORS]
    by_world = {
        w: float(np.median([r["dr_over_ips"] for r in found if r["world"] == w]))
        for w in args.worlds.split(",")
    }
    print(
        json.dumps(
            {
                "runs": args.runs, "users": args.users, "cells": len(found), "sound": len(sound),
                "least": dict(zip(ESTIMATORS, worst, strict=True)),
                "most": dict(zip(ESTIMATORS, best, strict=True)),
                "median_dr_over_ips": by_world,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
