"""The evidence prior: by hand, against a literal evaluation of its formula, and what must hold."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.schema import floats
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.evidence import EvidenceConfig, EvidenceInputs
from selection.experiments import Arm, Experiment, arms_of
from selection.policies import SelectionConfig, policy_weights
from selection.prior import Prior, RatePrior
from tests.selection.evidence_rows import all_neighbours, evidence_of, rate_rows
from tests.selection.reward_rows import CONFIG, NOW, catalogue, profile_rows, reward_rows

ITEMS = catalogue(
    {10: [1, 0, 0], 11: [0.6, 0.8, 0], 12: [0, 1, 0], 13: [0, 0.6, 0.8], 14: [0, 0, 1]}
)
M = 0.2
PRIOR = Prior(RatePrior(M, 8.0, 5.0), {})
CLUSTERS = [
    {"cluster_id": 1, "medoid_item_id": 10, "item_ids": [10], "action_counts": [3, 0, 0]},
    {"cluster_id": 2, "medoid_item_id": 12, "item_ids": [12], "action_counts": [1, 0, 0]},
]


def rolled(
    *,
    profiles=CLUSTERS,
    rewards=(),
    outcomes=(),
    rates=(),
    items=ITEMS,
    prior=PRIOR,
    arms=("",),
    experiment=None,
    value_range=(0.0, 1.0),
    surfaces=("home",),
    **options,
):
    config = EvidenceConfig(**{"neighbours": 2} | options)
    evidence = EvidenceInputs(
        frozenset(arms), evidence_of(list(outcomes)), rate_rows(list(rates)),
        all_neighbours(items.vectors, config.neighbours), config,
    )  # fmt: skip
    inputs = RollUpInputs(
        profiles=profile_rows(list(profiles)), rewards=reward_rows(list(rewards)), items=items,
        prior=prior, actions=DEFAULT_ACTIONS, experiment=experiment, evidence=evidence,
    )  # fmt: skip
    return roll_up_cluster_rewards(
        inputs, CONFIG, now=NOW, surfaces=surfaces, value_range=value_range
    )


def logit(x):
    return math.log(x / (1 - x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_two_queries_by_hand() -> None:
    # Item 11 was seen with value 1: cosine .6 to query 10, .8 to 12. Everyone: 11 brought 3 of 10,
    # 13 none of 30. Around 10 lie 11 and then 12 (ties by id); around 12 lie 11 and 13.
    got = rolled(
        outcomes=[{"item_id": 11, "value": 1.0}],
        rates=[
            {"item_id": 11, "w": 10.0, "wy": 3.0},
            {"item_id": 13, "w": 30.0, "wy": 0.0},
        ],
        rewards=[{"query_id": 12, "n": 5, "wins": 2}],
    )
    m_u = (8 * 5 / (8 + 5) * (2 / 5) + 5 * M) / (8 * 5 / (8 + 5) + 5)
    h = [(0.36 * 1 + m_u) / (0.36 + 1), (0.64 * 1 + m_u) / (0.64 + 1)]
    g11, g12, g13 = (3 + 10 * M) / 20, M, (0 + 10 * M) / 40
    big_g = [(g11 + g12) / 2, (g11 + g13) / 2]
    centre = (logit(big_g[0]) + logit(big_g[1])) / 2
    p = [sigmoid(logit(a) + 0.7 * (logit(b) - centre)) for a, b in zip(h, big_g, strict=True)]
    assert floats(got, "own_evidence") == pytest.approx(h)
    assert floats(got, "item_evidence") == pytest.approx(big_g)
    assert floats(got, "prior_mean") == pytest.approx(p)
    assert floats(got, "reward") == pytest.approx([p[0], (2 + 20 * p[1]) / 25])
    assert got["prior_source"].to_pylist() == ["evidence", "observed"]
    assert got["prior"].to_pylist() == ["evidence", "evidence"]
    assert floats(got, "prior_strength").tolist() == [20.0, 20.0]
    a, b = floats(got, "posterior_a"), floats(got, "posterior_b")
    assert a / (a + b) == pytest.approx(floats(got, "reward"))
    assert a + b == pytest.approx([20.0, 25.0])


def test_rewards_are_in_units_of_value() -> None:
    outcomes, rates = [{"item_id": 11, "value": 1.0}], [{"item_id": 11, "w": 10.0, "wy": 3.0}]
    unit = rolled(outcomes=outcomes, rates=rates)
    wide = rolled(outcomes=[outcomes[0] | {"value": 3.0}], rates=rates, value_range=(-1.0, 3.0))
    for name in ("own_evidence", "item_evidence", "prior_mean", "reward"):
        assert floats(wide, name) == pytest.approx(4 * floats(unit, name) - 1)


def slow_prior(queries, shown, rates, vectors, m, m_u, config, half_life):
    """The formula, as the design writes it; dictionaries and loops."""
    place = {int(i): v.astype(float) for i, v in zip(ITEM_IDS, vectors, strict=True)}

    def age(at):
        return 2 ** (-((NOW - at) / DAY_US) / half_life)

    h, odds = [], []
    for q in queries:
        above, below = config.own_strength * m_u, config.own_strength
        for item, at, y, x in shown:
            if item != q:
                w = max(0.0, float(place[q] @ place[item])) ** config.similarity_exponent
                above, below = above + w * x * age(at) * y, below + w * x * age(at)
        h.append(above / below)
        others = sorted(
            (i for i in place if i != q), key=lambda i: (-round(place[q] @ place[i], 6), i)
        )
        g = []
        for item in others[: config.neighbours]:
            w, wy, at = rates.get(item, (0.0, 0.0, NOW))
            k = config.item_strength
            g.append((wy * age(at) + k * m) / (w * age(at) + k))
        odds.append(logit(sum(g) / len(g)) if g else logit(m))
    centre = sum(odds) / len(odds)
    return [
        sigmoid(logit(a) + config.item_weight * (o - centre)) for a, o in zip(h, odds, strict=True)
    ]


ITEM_IDS = np.arange(100, 112)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 3.0]), st.integers(1, 15))
def test_equals_a_literal_evaluation(seed: int, exponent: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(ITEM_IDS), 3))
    items = catalogue({int(i): v.tolist() for i, v in zip(ITEM_IDS, vectors, strict=True)})
    config = EvidenceConfig(
        similarity_exponent=exponent, neighbours=k, own_strength=0.5, item_weight=0.9
    )
    queries = rng.choice(ITEM_IDS, 3, replace=False).tolist()
    shown = [
        (
            int(rng.choice(ITEM_IDS)),
            NOW - int(rng.integers(0, 40 * DAY_US)),
            rng.random(),
            rng.random(),
        )
        for _ in range(rng.integers(0, 9))
    ]
    rates = {
        int(i): (10 * rng.random(), rng.random(), NOW - int(rng.integers(0, 90 * DAY_US)))
        for i in rng.choice(ITEM_IDS, 6, replace=False)
    }
    rates = {i: (w, min(w, wy), at) for i, (w, wy, at) in rates.items()}
    got = rolled(
        profiles=[
            {"cluster_id": c, "medoid_item_id": q, "item_ids": [q]} for c, q in enumerate(queries)
        ],
        outcomes=[{"item_id": i, "at": at, "value": y, "examination": x} for i, at, y, x in shown],
        rates=[
            {"item_id": i, "w": w, "wy": wy, "as_of": at}
            for i, (w, wy, at) in sorted(rates.items())
        ],
        items=items,
        **dataclasses.asdict(config),
    )
    want = slow_prior(queries, shown, rates, items.vectors, M, M, config, CONFIG.half_life_days)
    assert floats(got, "prior_mean") == pytest.approx(want, rel=1e-6)
    assert (floats(got, "reward") == floats(got, "prior_mean")).all()  # no record: p, exactly


def test_a_night_without_any_record_falls_back_to_counts_exactly() -> None:
    got = rolled(prior=Prior(RatePrior(0.0312345, 8.0, 5.0), {}))
    reward = floats(got, "reward")
    assert reward[0] == reward[1] == 0.0312345
    config = SelectionConfig("reward_odds", prior="evidence", beta=4.0)
    weights = policy_weights(got, np.array([0, 2]), config, np.zeros(1, np.uint64))
    assert weights.tolist() == floats(got, "actions").tolist()


def test_an_own_record_dominates_as_it_grows() -> None:
    outcomes = [{"item_id": 11, "value": 1.0}] * 30
    gaps = []
    for n in (1, 10, 100, 10_000):
        got = rolled(rewards=[{"query_id": 10, "n": n, "wins": 0}], outcomes=outcomes)
        gaps.append(float(floats(got, "reward")[0]))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.5 > 0.01 > gaps[-1]


def test_only_what_the_user_saw_on_the_surface_is_evidence() -> None:
    alone = rolled(outcomes=[{"item_id": 11, "value": 1.0}], surfaces=("home", "related"))
    more = rolled(
        outcomes=[
            {"item_id": 11, "value": 1.0},
            {"item_id": 12, "value": 1.0, "user_id": 2},
            {"item_id": 11, "value": 0.0, "surface": "elsewhere"},
            {"item_id": 999, "value": 1.0},
        ],
        surfaces=("home", "related"),
    )
    assert more.equals(alone)
    own = floats(alone, "own_evidence")
    assert own[0] > M
    assert own[2:].tolist() == [M, M]  # nothing was seen on the surface related


def test_the_query_itself_is_no_evidence() -> None:
    got = rolled(outcomes=[{"item_id": 10, "value": 1.0}])
    assert floats(got, "own_evidence")[0] == M


@pytest.mark.parametrize(("learning", "same"), [("isolated", False), ("shared", True)])
def test_item_rates_are_of_the_arm_or_of_all(learning: str, same: bool) -> None:
    experiment = Experiment("x", learning, (Arm("a", 0.5), Arm("b", 0.5)))
    users = np.arange(1, 9)
    arms = [experiment.arms[i].name for i in arms_of(users, experiment)]
    profiles = [c | {"user_id": int(u)} for u in users for c in CLUSTERS]
    fits = ("",) if learning == "shared" else ("a", "b")
    rates = [{"item_id": 11, "w": 9.0, "wy": 9.0 * (name != "b"), "arm": name} for name in fits]
    got = rolled(profiles=profiles, rates=rates, arms=("a", "b"), experiment=experiment)
    of_arm = {
        arm: {
            x
            for x, a in zip(floats(got, "item_evidence"), got["arm"].to_pylist(), strict=True)
            if a == arm
        }
        for arm in arms
    }
    assert (of_arm["a"] == of_arm["b"]) == same


def test_arms_without_it_are_as_if_there_were_none() -> None:
    experiment = Experiment("x", "isolated", (Arm("a", 0.5), Arm("b", 0.5)))
    profiles = [c | {"user_id": u} for u in range(1, 9) for c in CLUSTERS]
    given_rows = {"profiles": profiles, "experiment": experiment}
    rewards = [{"user_id": u, "query_id": 10, "n": 4, "wins": 1} for u in range(1, 9)]
    outcomes = [{"user_id": u, "item_id": 11, "value": 1.0} for u in range(1, 9)]
    none = rolled(**given_rows, rewards=[dict(r) for r in rewards], outcomes=outcomes, arms=())
    some = rolled(**given_rows, rewards=[dict(r) for r in rewards], outcomes=outcomes, arms=("b",))
    b = np.array(none["arm"].to_pylist()) == "b"
    assert 0 < b.sum() < len(b)
    assert some.filter(~b).equals(none.filter(~b))
    assert set(some.filter(b)["prior"].to_pylist()) == {"evidence"}
    assert none["own_evidence"].null_count == len(b)
    assert (floats(some.filter(b), "reward") != floats(none.filter(b), "reward")).all()
