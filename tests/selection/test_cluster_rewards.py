from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US
from profiling.items import Items
from profiling.schema import FloatArray, IntArray, floats, ints
from profiling.tables import PROFILES
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.cluster_tallies import CLUSTER_TALLIES, roll_up_tallies
from selection.experiments import Arm, Experiment, arms_of
from selection.prior import Prior, PriorConfig, RatePrior, fit_prior, prior_sums
from selection.rewards import SUMS
from selection.tables import CLUSTER_REWARDS, REWARDS
from tests.selection.reward_rows import (
    CONFIG,
    NO_ITEMS,
    NOW,
    catalogue,
    profile_rows,
    reward_rows,
    world_profiles,
    world_rewards,
)

RATE = RatePrior(mean=0.1, strength=20.0, user_strength=30.0)
PRIOR = Prior(RATE, {})
HALF_LIFE_US = int(CONFIG.half_life_days * DAY_US)


def tallies(rewards: pa.Table, profiles: pa.Table, items: Items = NO_ITEMS, **how: Any) -> pa.Table:
    how = {"now": NOW, "surfaces": ["home"]} | how
    return roll_up_tallies(rewards, profiles, items, CONFIG, **how)


def roll_up(
    rewards: pa.Table,
    profiles: pa.Table,
    prior: Prior = PRIOR,
    *,
    items: Items = NO_ITEMS,
    experiment: Experiment | None = None,
    **how: Any,
) -> pa.Table:
    how = {"now": NOW, "surfaces": ["home"], "value_range": (0.0, 1.0)} | how
    inputs = RollUpInputs(profiles, rewards, items, prior, DEFAULT_ACTIONS, experiment)
    return roll_up_cluster_rewards(inputs, CONFIG, **how)


def clusters(n: int, user: int = 1) -> pa.Table:
    """Cluster c holds the item 10 c alone."""
    rows = [
        {"cluster_id": c, "item_ids": [10 * c], "medoid_item_id": 10 * c} for c in range(1, n + 1)
    ]
    return profile_rows([row | {"user_id": user} for row in rows])


def test_reward_by_hand() -> None:
    rewards = reward_rows([{"query_id": 10, "n": 40, "wins": 8}, {"query_id": 20, "n": 10}])
    one, two, three = roll_up(rewards, clusters(3)).to_pylist()
    k, top, m = RATE.strength, RATE.user_strength, RATE.mean
    s_one, s_two = k * 40 / (k + 40), k * 10 / (k + 10)
    user = (s_one * (8 / 40) + s_two * 0.0 + top * m) / (s_one + s_two + top)
    assert one["reward"] == pytest.approx((8 + k * user) / (40 + k), rel=1e-12)
    assert two["reward"] == pytest.approx((0 + k * user) / (10 + k), rel=1e-12)
    assert three["reward"] == pytest.approx(user, rel=1e-12)
    assert [r["raw_rate"] for r in (one, two, three)] == [0.2, 0.0, None]
    assert [r["prior_source"] for r in (one, two, three)] == [
        "observed",
        "observed",
        "user average",
    ]
    for row in (one, two, three):
        assert row["prior_mean"] == pytest.approx(user, rel=1e-12)
        assert row["prior_strength"] == k
    assert (one["weight"], one["effective_n"]) == (40.0, 40.0)
    of_user = (k / (40 + k)) ** 2 / (s_one + s_two + top)
    total = 1 / (1 / (40 + k) + of_user)
    assert one["posterior_a"] + one["posterior_b"] == pytest.approx(total, rel=1e-12)
    assert one["posterior_a"] / total == pytest.approx(one["reward"], rel=1e-12)
    for side, q in (("low", 0.025), ("high", 0.975)):
        expected = beta.ppf(q, one["posterior_a"], one["posterior_b"])
        assert one[side] == pytest.approx(expected, rel=1e-6)


def test_a_user_without_any_record_gets_exactly_the_prior_mean() -> None:
    rows = roll_up(REWARDS.empty(), clusters(3)).to_pylist()
    assert [r["reward"] for r in rows] == [RATE.mean] * 3
    assert {r["prior_source"] for r in rows} == {"global average"}
    total = 1 / (1 / RATE.strength + 1 / RATE.user_strength)
    assert rows[0]["posterior_a"] == pytest.approx(RATE.mean * total, rel=1e-12)


def test_a_cluster_without_a_record_gets_exactly_its_users_average() -> None:
    rewards = reward_rows([{"query_id": 10, "n": 25, "wins": 10}])
    seen, *unseen = roll_up(rewards, clusters(4)).to_pylist()
    assert {r["reward"] for r in unseen} == {seen["prior_mean"]}
    assert {r["prior_source"] for r in unseen} == {"user average"}
    assert unseen[0]["reward"] > RATE.mean  # the user likes more than others do


def test_shown_without_success_sinks_gradually_and_never_to_zero() -> None:
    """Unlike no record at all, which leaves the average."""
    rewards = [RATE.mean]
    for n in (1, 2, 3, 5, 10, 100, 1_000, 10**6):
        got = roll_up(reward_rows([{"query_id": 10, "n": n}]), clusters(1)).to_pylist()[0]
        assert got["prior_source"] == "observed"
        rewards.append(got["reward"])
    assert all(b < a for a, b in pairwise(rewards))
    assert rewards[1] > 0.9 * RATE.mean
    assert rewards[-1] > 0.0


def test_an_old_record_fades_to_the_prior_and_its_posterior_to_that_of_none() -> None:
    profiles = clusters(1)
    none = roll_up(REWARDS.empty(), profiles).to_pylist()[0]
    last = None
    for age in (0, 2, 5, 9):
        record = reward_rows([{"query_id": 10, "n": 50, "wins": 45}])
        row = roll_up(record, profiles, now=NOW + age * HALF_LIFE_US).to_pylist()[0]
        assert row["weight"] == pytest.approx(50 / 2**age, rel=1e-9)
        assert row["effective_n"] == pytest.approx(50.0, rel=1e-9)
        assert last is None or none["reward"] < row["reward"] < last["reward"]
        assert last is None or none["posterior_a"] < row["posterior_a"] < last["posterior_a"]
        assert row["low"] < row["reward"] < row["high"]
        last = row
    assert last is not None
    assert last["reward"] == pytest.approx(none["reward"], rel=0.1)
    gone = roll_up(record, profiles, now=NOW + 40 * HALF_LIFE_US).to_pylist()[0]
    # Below prune_below there is no record; when it was shown last stays known.
    assert gone == none | {"last_chance": last["last_chance"]}


def test_rates_are_in_value_units_also_below_zero() -> None:
    rewards = reward_rows([{"query_id": 10, "n": 40, "wins": 8}])
    plain, wide = (roll_up(rewards, clusters(2), value_range=r) for r in ((0.0, 1.0), (-1.0, 3.0)))
    for c in ("raw_rate", "reward", "low", "high", "prior_mean"):
        np.testing.assert_allclose(floats(wide, c), -1 + 4 * floats(plain, c), rtol=1e-12)
    for c in ("posterior_a", "posterior_b", "weight", "effective_n", "prior_strength"):
        np.testing.assert_array_equal(floats(wide, c), floats(plain, c))


def test_reward_per_draw() -> None:
    drawn = replace(RATE, per_draw=4.0, draw_strength=5.0)
    prior = Prior(RATE, {("home", ""): drawn})
    rewards = reward_rows(
        [
            {"query_id": 10, "n": 30, "wins": 3, "draw_w": 6.0, "drawn_w": 30.0},
            {"query_id": 20, "n": 0, "draw_w": 7.0, "empty_draws": 7, "last_at": None},
        ]
    )
    one, two, three = roll_up(rewards, clusters(3), prior).to_pylist()
    assert one["reward_per_draw"] == pytest.approx((30 + 5 * 4) / (6 + 5) * one["reward"])
    assert two["reward_per_draw"] == pytest.approx((0 + 5 * 4) / (7 + 5) * two["reward"])
    assert three["reward_per_draw"] == pytest.approx(4.0 * three["reward"])
    assert two["prior_source"] == "user average"  # per impression nothing is known of it
    assert (two["draws"], two["raw_rate"]) == (7.0, None)
    without = roll_up(rewards, clusters(3))
    assert without["reward_per_draw"].null_count == 3


def test_columns_of_the_profile_are_carried() -> None:
    profiles = profile_rows([{"action_counts": [3, 5, 100], "importance": 2.5}])
    (row,) = roll_up(REWARDS.empty(), profiles).to_pylist()
    assert row["actions"] == 3 + 5  # the third, hate, is no positive action
    assert (row["query_type"], row["query_id"], row["importance"]) == ("item", 10, 2.5)


def test_a_query_counts_for_the_cluster_that_holds_it_tonight() -> None:
    items = catalogue({10: [1, 0], 11: [0.99, 0.1], 12: [0, 1], 13: [-1, 0], 20: [0, 1]})
    profiles = profile_rows(
        [
            {"cluster_id": 1, "item_ids": [10, 12], "medoid_item_id": 10},
            {"cluster_id": 2, "item_ids": [20], "medoid_item_id": 20},
            {"user_id": 2, "cluster_id": 1, "item_ids": [13], "medoid_item_id": 13},
        ]
    )

    def home(query: int, user: int = 1, kind: str = "item") -> list[float]:
        row = {"user_id": user, "query_id": query, "n": 3, "query_type": kind}
        return floats(tallies(reward_rows([row]), profiles, items), "w").tolist()

    assert home(12) == [3, 0, 0]  # a member, though the other medoid is nearer
    assert home(11) == [3, 0, 0]  # it left; cosine .995 to the medoid 10
    assert home(13) == [0, 0, 0]  # it left; nobody is near: kept apart
    assert home(99) == [0, 0, 0]  # unknown to the catalogue
    assert home(13, user=2) == [0, 0, 3]
    assert home(10, user=2) == [0, 0, 0]
    assert home(10, user=3) == [0, 0, 0]  # a user without a profile
    assert home(10, kind="topic") == [0, 0, 0]


def test_threshold_is_included_and_ties_go_to_the_smaller_cluster() -> None:
    items = catalogue({1: [1, 0], 2: [1, 0], 3: [1, 0], 4: [0, 1]})
    profiles = profile_rows(
        [{"cluster_id": c, "item_ids": [c], "medoid_item_id": c} for c in (1, 2)]
    )
    record = reward_rows([{"query_id": 3}])
    for threshold in (0.85, 1.0):
        config = replace(CONFIG, threshold=threshold)
        got = roll_up_tallies(record, profiles, items, config, now=NOW, surfaces=["home"])
        assert floats(got, "w").tolist() == [1.0, 0.0]
    zero = replace(CONFIG, threshold=0.0)
    got = roll_up_tallies(
        reward_rows([{"query_id": 4}]), profiles, items, zero, now=NOW, surfaces=["home"]
    )
    assert floats(got, "w").tolist() == [1.0, 0.0]


def test_the_last_chance_is_a_day() -> None:
    midnight = 100 * DAY_US
    rewards = reward_rows(
        [
            {"query_id": 10, "as_of": midnight, "last_at": midnight},  # shown at midnight
            {"query_id": 20, "as_of": midnight, "last_at": None},  # a draw of the day before
        ]
    )
    one, two, three = roll_up(rewards, clusters(3)).to_pylist()
    assert one["last_chance"] == date(1970, 1, 1) + timedelta(days=100)
    assert two["last_chance"] == date(1970, 1, 1) + timedelta(days=99)
    assert three["last_chance"] is None


def test_surfaces_learn_apart() -> None:
    rewards = reward_rows(
        [{"n": 2}, {"n": 5, "surface": "related"}, {"n": 9, "surface": "elsewhere"}]
    )
    got = tallies(rewards, clusters(2), surfaces=["related", "home"])
    assert got["surface"].to_pylist() == ["home", "home", "related", "related"]
    assert got["cluster_id"].to_pylist() == [1, 2, 1, 2]
    assert floats(got, "w").tolist() == [2, 0, 5, 0]
    sources = roll_up(rewards, clusters(2), surfaces=["home", "search"])["prior_source"]
    assert sources.to_pylist() == ["observed", "user average", *["global average"] * 2]


def slow_tallies(
    rewards: pa.Table, profiles: pa.Table, items: Items, surfaces: list[str]
) -> dict[tuple[int, str, int], dict[str, float]]:
    """The definition, record by record; `last_chance` in days since 1970, -1 for none."""
    vectors = dict(zip(items.ids.tolist(), items.vectors.astype(float), strict=True))
    own = {
        (p["user_id"], s, p["cluster_id"]): dict.fromkeys(SUMS, 0.0) | {"last_chance": -1}
        for p in profiles.to_pylist()
        for s in surfaces
    }
    for r, as_of in zip(rewards.to_pylist(), ints(rewards, "as_of"), strict=True):
        near: list[tuple[float, int]] = []
        for p in profiles.to_pylist():
            if p["user_id"] == r["user_id"]:
                cosine = float(vectors[r["query_id"]] @ vectors[p["medoid_item_id"]])
                member = r["query_id"] in p["item_ids"]
                if member or cosine >= CONFIG.threshold:
                    near.append((2.0 if member else cosine, -p["cluster_id"]))
        if not near or r["surface"] not in surfaces:
            continue
        row = own[r["user_id"], r["surface"], -max(near)[1]]
        decay = 2.0 ** (-(NOW - as_of) / HALF_LIFE_US)
        for s in SUMS:
            row[s] += r[s] * decay ** (2 if s.startswith("w2") else 1)
        shown = r["last_at"] is not None and r["last_at"].timestamp() * 1e6 == as_of
        day = (as_of if shown else as_of - 1) // DAY_US  # a draw closes as its day ends
        row["last_chance"] = max(row["last_chance"], day)
    return own


def random_bucket(rng: np.random.Generator) -> tuple[pa.Table, pa.Table, Items]:
    items = catalogue({i: rng.normal(size=3).tolist() for i in range(30)})
    profiles, records = [], []
    for user in range(4):
        members = rng.permutation(30)[: rng.integers(4, 20)]
        for c, part in enumerate(np.array_split(members, rng.integers(1, 4))):
            ids = sorted(part.tolist())
            profiles.append(
                {"user_id": user, "cluster_id": c, "item_ids": ids, "medoid_item_id": ids[0]}
            )
        for query in rng.permutation(30)[: rng.integers(0, 25)]:
            records.append(
                {
                    "user_id": user, "query_id": int(query), "n": int(rng.integers(1, 9)),
                    "surface": ["home", "related", "shop"][rng.integers(3)],
                    "as_of": NOW - int(rng.integers(0, 90 * DAY_US)),
                }
            )  # fmt: skip
            at, n = records[-1]["as_of"], records[-1]["n"]
            at = records[-1]["as_of"] = at // DAY_US * DAY_US if rng.random() < 0.5 else at
            last = [at, at - DAY_US][rng.integers(2)]
            records[-1] |= {"wins": int(rng.integers(0, n + 1)), "draw_w": 1.5, "last_at": last}
    rewards = reward_rows(records).sort_by([(c, "ascending") for c in REWARDS.key])
    return rewards, profile_rows(profiles), items


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tallies_equal_the_slow_twin(seed: int) -> None:
    rewards, profiles, items = random_bucket(np.random.default_rng(seed))
    got = tallies(rewards, profiles, items, surfaces=["related", "home"])
    slow = slow_tallies(rewards, profiles, items, ["home", "related"])
    keys = list(zip(*(got[c].to_pylist() for c in CLUSTER_TALLIES.key), strict=True))
    assert keys == sorted(slow)
    for s in SUMS:
        np.testing.assert_allclose(floats(got, s), [slow[k][s] for k in keys], rtol=1e-9)
    days = got["last_chance"].cast(pa.int32()).fill_null(-1).to_pylist()
    assert days == [slow[k]["last_chance"] for k in keys]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_and_other_users_change_no_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, profiles, items = random_bucket(rng)
    how: dict[str, Any] = {"items": items, "surfaces": ["home", "related"]}
    whole = roll_up(rewards, profiles, **how)
    shuffled = [t.take(rng.permutation(t.num_rows)) for t in (rewards, profiles)]
    assert roll_up(*shuffled, **how).equals(whole)
    for user in range(4):
        own = [t.filter(pa.array(ints(t, "user_id") == user)) for t in (rewards, profiles, whole)]
        assert roll_up(*own[:2], **how).equals(own[2])


def test_empty_in_empty_out() -> None:
    assert roll_up(REWARDS.empty(), PROFILES.empty()).equals(CLUSTER_REWARDS.empty())
    assert tallies(reward_rows([{}]), PROFILES.empty()).num_rows == 0


@pytest.mark.parametrize("learning", ["isolated", "shared"])
def test_each_user_leans_on_the_prior_of_their_arm(learning: str) -> None:
    arms = (Arm("a", 0.5), Arm("b", 0.5))
    experiment = Experiment("trial", learning, arms)
    profiles = pa.concat_tables([clusters(1, user) for user in range(20)])
    of_arm = {"a": replace(RATE, mean=0.3), "b": replace(RATE, mean=0.4)}
    rates = {("home", name): rate for name, rate in of_arm.items()}
    if learning == "shared":
        rates = {("home", ""): replace(RATE, mean=0.2)}
    got = roll_up(REWARDS.empty(), profiles, Prior(RATE, rates), experiment=experiment)
    names = [("a", "b")[i] for i in arms_of(np.arange(20), experiment)]
    assert set(names) == {"a", "b"}
    assert got["arm"].to_pylist() == names
    means = [of_arm[n].mean if learning == "isolated" else 0.2 for n in names]
    np.testing.assert_array_equal(floats(got, "reward"), means)


def covered(
    rates: FloatArray, shown: int | IntArray, seed: int, **how: float
) -> tuple[float, pa.Table]:
    """Share of intervals that hold the true rate, with the prior fitted to the same records."""
    rewards = world_rewards(rates, shown, np.random.default_rng(seed), **how)
    profiles = world_profiles(*rates.shape)
    sums = prior_sums(tallies(rewards, profiles), "")
    got = roll_up(rewards, profiles, fit_prior([sums], PriorConfig()))
    truth = rates.ravel()
    return float(((floats(got, "low") <= truth) & (truth <= floats(got, "high"))).mean()), got


@pytest.mark.parametrize("days", [0.0, 90.0])
@pytest.mark.parametrize(("a", "b"), [(2, 38), (1, 9)])
def test_intervals_cover(a: float, b: float, days: float) -> None:
    """40,000 clusters: the share's standard error is .1 %."""
    rates = np.random.default_rng(21).beta(a, b, size=(5_000, 8))
    share, _ = covered(rates, 20, 22, days=days)
    assert 0.94 <= share <= 0.96


@pytest.mark.parametrize("days", [0.0, 90.0])
def test_intervals_cover_where_users_differ(days: float) -> None:
    rng, k = np.random.default_rng(23), 20.0
    users = rng.beta(6, 24, size=(5_000, 1))
    rates = rng.beta(users * k, (1 - users) * k, size=(5_000, 8))
    shown = 20 * (rng.random(rates.shape) < 0.7)  # some clusters have no record
    share, _ = covered(rates, shown, 24, days=days)
    assert 0.94 <= share <= 0.96


def test_intervals_cover_values_between_0_and_1() -> None:
    rates = np.random.default_rng(25).beta(20, 20, size=(5_000, 8))
    share, _ = covered(rates, 5, 26, spread=0.9)
    assert 0.94 <= share <= 0.96


def test_credibility_weights_beat_pooled_sums_for_an_unseen_cluster() -> None:
    """One big cluster must not drag the user's average (design, section 4)."""
    rng, k = np.random.default_rng(27), 20.0
    users = rng.beta(6, 24, size=(4_000, 1))
    rates = rng.beta(users * k, (1 - users) * k, size=(4_000, 5))
    shown = np.tile([200, 8, 8, 8, 0], (4_000, 1))
    _, got = covered(rates, shown, 28)
    reward = floats(got, "reward").reshape(rates.shape)[:, 4]
    w = floats(got, "weight").reshape(rates.shape)
    raw = np.nan_to_num(floats(got, "raw_rate").reshape(rates.shape))
    pooled = (w * raw).sum(axis=1) / w.sum(axis=1)
    errors = [((r - rates[:, 4]) ** 2).mean() for r in (reward, pooled)]
    assert errors[0] < 0.9 * errors[1]
