"""The slopes of the evidence: by hand, against literal loops, and on tastes that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.tables import PROFILES
from selection.cluster_rewards import RollUpInputs
from selection.evidence import EvidenceConfig, EvidenceInputs, Slopes
from selection.evidence_slopes import NEWEST, SLOPE_HIGH, fit_slopes, slope_sums
from selection.experiments import Arm, Experiment, arms_of
from selection.policies import SelectionConfig
from selection.prior import Prior, RatePrior
from selection.rewards import RewardConfig
from selection.tables import REWARDS
from tests.selection.evidence_rows import all_neighbours, evidence_of, rate_rows
from tests.selection.reward_rows import NOW, catalogue

M = 0.3
PRIOR = Prior(RatePrior(M, 10.0, 5.0), {})
HALF_LIFE = 10.0
RATES = RewardConfig(half_life_days=HALF_LIFE)


def items_of(vectors):
    vectors = np.asarray(vectors, np.float64)
    return catalogue({10 + i: (v / np.linalg.norm(v)).tolist() for i, v in enumerate(vectors)})


def summed(items, outcomes, rates=(), *, arms=("",), experiment=None, **options):
    config = EvidenceConfig(**{"neighbours": 2} | options)
    near = all_neighbours(items.vectors, config.neighbours)
    evidence = EvidenceInputs(
        frozenset(arms), evidence_of(outcomes), rate_rows(list(rates)), near, config
    )
    inputs = RollUpInputs(
        profiles=PROFILES.empty(), rewards=REWARDS.empty(), items=items, prior=PRIOR,
        actions=DEFAULT_ACTIONS, experiment=experiment, evidence=evidence,
    )  # fmt: skip
    (sums,) = slope_sums(inputs, RATES, now=NOW, surfaces=("home",), value_range=(0.0, 1.0))
    return sums


def logit(x):
    return math.log(x / (1 - x))


def slow_sums(items, outcomes, rates, config):
    """The formulas of the module, as they are written: dictionaries and loops."""
    vector = dict(zip(items.ids.tolist(), items.vectors.astype(float), strict=True))
    near = all_neighbours(items.vectors, config.neighbours)
    rate = {r["item_id"]: (r["w"], r["wy"], r.get("as_of", NOW)) for r in rates}
    found = dict.fromkeys(("weight", "own_own", "own_item", "item_item", "own_y", "item_y"), 0.0)

    def faded(at):
        return 2 ** (-((NOW - at) / DAY_US) / HALF_LIFE)

    for user in sorted({o["user_id"] for o in outcomes}):
        mine = [o for o in outcomes if o["user_id"] == user]
        rows = []
        for o in mine if len(mine) > 1 else []:
            others = [(p, faded(p["at"])) for p in mine if p["item_id"] != o["item_id"]]
            top = sum(x * p["value"] for p, x in others) + config.item_strength * M
            m = top / (sum(x for _, x in others) + config.item_strength)
            above, below = config.own_strength * m, config.own_strength
            for p, x in others:
                cosine = max(0.0, float(vector[o["item_id"]] @ vector[p["item_id"]]))
                above += x * cosine**config.similarity_exponent * p["value"]
                below += x * cosine**config.similarity_exponent
            g = []
            for j in near[o["item_id"] - 10]:
                w, wy, at = rate.get(int(items.ids[j]), (0.0, 0.0, NOW))
                k = config.item_strength
                g.append((wy * faded(at) + k * M) / (w * faded(at) + k))
            rows.append((faded(o["at"]), o["value"], m, above / below, sum(g) / len(g)))
        centre = sum(logit(g) for *_, g in rows) / max(len(rows), 1)
        for x, y, m, h, g in rows:
            own, item, v = logit(h) - logit(m), logit(g) - centre, m * (1 - m)
            terms = (x, x * v * own * own, x * v * own * item, x * v * item * item,
                     x * own * (y - m), x * item * (y - m))  # fmt: skip
            for name, term in zip(found, terms, strict=True):
                found[name] += term
    return found


def random_log(seed, users=12, items=9):
    rng = np.random.default_rng(seed)
    made = items_of(rng.normal(size=(items, 4)))
    outcomes = [
        {
            "user_id": user, "item_id": 10 + int(rng.integers(items)), "impression_id": 0,
            "value": float(rng.random()), "at": NOW - int(rng.integers(20 * DAY_US)),
        }
        for user in range(1, users + 1) for _ in range(user % 7)
    ]  # fmt: skip
    outcomes = [o | {"impression_id": i} for i, o in enumerate(outcomes)]
    rates = [
        {"item_id": 10 + i, "w": 1.0 + i, "wy": float(rng.random()), "as_of": NOW - i * DAY_US}
        for i in range(0, items, 2)
    ]
    return made, outcomes, rates


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_literal_evaluation(seed: int) -> None:
    items, outcomes, rates = random_log(seed)
    options = {"own_strength": 1.5, "item_strength": 4.0, "similarity_exponent": 2.0}
    got = summed(items, outcomes, rates, **options)
    expected = slow_sums(items, outcomes, rates, EvidenceConfig(neighbours=2, **options))
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert expected["own_own"] > 0.001
    assert got["users"] == len({o["user_id"] for o in outcomes if o["user_id"] % 7 > 1})


def test_parts_of_users_add_up_and_the_order_of_rows_is_nothing() -> None:
    items, outcomes, rates = random_log(1)
    whole = fit_slopes([summed(items, outcomes, rates)], EvidenceConfig())
    parts = [[o for o in outcomes[::-1] if o["user_id"] % 3 == k] for k in range(3)]
    parted = fit_slopes([summed(items, part, rates) for part in parts], EvidenceConfig())
    assert (parted.own, parted.item, parted.users) == (whole.own, whole.item, whole.users)
    assert parted.weight == pytest.approx(whole.weight)


def test_only_users_of_the_arms_that_lean_on_it_count() -> None:
    items, outcomes, rates = random_log(2)
    experiment = Experiment(
        "x", arms=(Arm("a", 0.5), Arm("b", 0.5, SelectionConfig(prior="evidence")))
    )
    leaning = arms_of([o["user_id"] for o in outcomes], experiment) == 1
    mine = [o for o, there in zip(outcomes, leaning, strict=True) if there]
    assert 0 < len(mine) < len(outcomes)
    got = summed(items, outcomes, rates, arms=("b",), experiment=experiment)
    assert got == summed(items, mine, rates, arms=("b",), experiment=experiment)


def test_of_a_heavy_user_the_newest_impressions_are_foretold() -> None:
    items = items_of(np.eye(3) + 0.5)
    many = [
        {"user_id": 1, "item_id": 10 + i % 3, "impression_id": i, "value": float(i % 2),
         "at": NOW - i * 1000}
        for i in range(NEWEST + 50)
    ]  # fmt: skip
    newest = sum(2 ** (-(i * 1000 / DAY_US) / HALF_LIFE) for i in range(NEWEST))
    assert summed(items, many)["weight"] == pytest.approx(newest)


SUMS = {
    "users": 5.0, "weight": 100.0, "own_own": 4.0, "own_item": 0.0, "item_item": 2.0,
    "own_y": 2.0, "item_y": 6.0,
}  # fmt: skip


def test_the_fit_by_hand() -> None:
    # Own: (2 + d) / (4 + d) with d = 4 * 50 / 100 = 2, the configured slope 1. Item: d = 1, .7.
    got = fit_slopes([SUMS], EvidenceConfig(slope_strength=50.0))
    assert (got.own, got.item) == pytest.approx((4 / 6, 6.7 / 3))
    assert (got.users, got.weight) == (5, 100.0)
    alone = fit_slopes([SUMS], EvidenceConfig(slope_strength=0.0))
    assert (alone.own, alone.item) == pytest.approx((0.5, 3.0))


def test_correlated_parts_are_told_apart() -> None:
    sums = SUMS | {"own_item": 1.0, "own_y": 3.0}
    got = fit_slopes([sums], EvidenceConfig(slope_strength=0.0))
    assert (got.own, got.item) == pytest.approx((0.0, 3.0))  # 7 own = 2 * 3 - 6
    sums["own_y"] = 5.0
    got = fit_slopes([sums], EvidenceConfig(slope_strength=0.0))
    assert (got.own, got.item) == pytest.approx((4 / 7, 19 / 7))


def test_a_slope_below_zero_is_held_there_and_the_other_fitted_alone() -> None:
    sums = SUMS | {"own_y": -2.0, "own_item": 1.0}
    got = fit_slopes([sums], EvidenceConfig(slope_strength=0.0))
    assert (got.own, got.item) == pytest.approx((0.0, 3.0))


def test_nothing_known_leaves_the_configured_slopes() -> None:
    config = EvidenceConfig(own_weight=0.4, item_weight=0.2)
    assert fit_slopes([], config) == Slopes(0.4, 0.2)
    assert fit_slopes([SUMS], replace(config, slope_strength=math.inf)) == Slopes(0.4, 0.2)
    flat = SUMS | {"item_item": 0.0, "item_y": 0.0}
    assert fit_slopes([flat], replace(config, slope_strength=0.0)).item == 0.2
    assert fit_slopes([SUMS | {"own_y": 1e6}], config).own == SLOPE_HIGH


def tastes(seed, *, personal):
    """Users of whom each likes one of two kinds of items, or nobody likes any more than another."""
    rng = np.random.default_rng(seed)
    vectors = np.repeat(np.eye(2), 20, axis=0) + 0.1 * rng.normal(size=(40, 2))
    kind = np.repeat([0, 1], 20)
    outcomes = []
    for user in range(1, 401):
        for item in rng.choice(40, 12, replace=False):
            chance = (0.7 if kind[item] == user % 2 else 0.2) if personal else 0.45
            outcomes.append(
                {"user_id": user, "item_id": 10 + int(item), "impression_id": len(outcomes),
                 "value": float(rng.random() < chance), "at": NOW}
            )  # fmt: skip
    return items_of(vectors), outcomes


def test_trust_where_there_is_taste_and_none_where_there_is_none() -> None:
    # 4,800 impressions: the slope of chance has a standard error of about .03.
    for seed in range(3):
        taste, none = (tastes(seed, personal=p) for p in (True, False))
        config = EvidenceConfig(slope_strength=1.0)
        assert 0.5 < fit_slopes([summed(*taste)], config).own < 3.0
        assert fit_slopes([summed(*none)], config).own < 0.12
