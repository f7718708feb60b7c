"""QUERIES from CLUSTER_REWARDS: content, independence of users, and what is refused."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from profiling.items import Items
from selection.policies import policy_version
from selection.queries import SelectionConfig, select_queries
from selection.sampling import DrawRequest, draw_queries
from selection.tables import CLUSTER_REWARDS, QUERIES

NIGHT = date(2024, 3, 1)
ITEMS = Items(
    ids=np.arange(0, 3000, 3),
    vectors=np.zeros((1000, 1), np.float32),
    version="v",
    topic_offsets=np.arange(1001) * 2,
    topic_ids=np.arange(2000) % 17,
    topic_confidences=np.linspace(0, 1, 2000, dtype=np.float32),
    created_at=np.zeros(1000, np.int64),
)
ARMS = {
    "": SelectionConfig(),
    "counts": SelectionConfig(policy="counts", queries=2, floor=0.0),
    "thompson": SelectionConfig(policy="thompson", queries=4, thompson_samples=16),
    "draw": SelectionConfig(policy="reward", beta=2.5, reward_per="draw", queries=1, topics=1),
}


def world(n_users=60, arms=("",), surfaces=("home", "related"), seed=0):
    """CLUSTER_REWARDS of users with 1 to 12 clusters, sorted by key."""
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice(10**6, n_users, replace=False))
    sizes = rng.integers(1, 13, (n_users, len(surfaces)))
    group = np.repeat(np.arange(sizes.size), sizes.ravel())
    user = group // len(surfaces)
    n = len(group)
    columns = {c.name: rng.random(n) for c in CLUSTER_REWARDS.required}
    columns |= {
        "user_id": users[user],
        "surface": [surfaces[g % len(surfaces)] for g in group],
        "cluster_id": np.concatenate([np.arange(s) * 3 + 1 for s in sizes.ravel()]),
        "arm": [arms[u % len(arms)] for u in user],
        "query_type": ["item"] * n,
        "query_id": rng.integers(0, 1001, n) * 3,  # 3000 is not in the catalogue
        "actions": rng.integers(0, 9, n),
        "prior_source": np.array(["observed", "user average"])[rng.integers(0, 2, n)].tolist(),
        "posterior_a": rng.random(n) + 0.1,
        "posterior_b": rng.random(n) * 20 + 0.1,
        "reward_per_draw": pa.array(rng.random(n), mask=rng.random(n) < 0.5),
    }
    return CLUSTER_REWARDS.build(columns)


def select(table, selections=ARMS, seed=5, night=NIGHT, salt="s"):
    return select_queries(table, ITEMS, selections, run_date=night, seed=seed, salt=salt)


def test_queries_by_columns():
    table = world()
    found = select(table)
    assert found.schema.equals(QUERIES.arrow)
    rows = {(r["user_id"], r["surface"], r["cluster_id"]): r for r in table.to_pylist()}
    drawn = {}
    for q in found.to_pylist():
        source = rows[q["user_id"], q["surface"], q["cluster_id"]]
        group = drawn.setdefault((q["user_id"], q["surface"]), [])
        assert q["slot"] == len(group)
        group.append(q)
        assert (q["run_date"], q["serve_date"]) == (NIGHT, date(2024, 3, 2))
        for column in ("query_type", "query_id", "reward", "prior_source"):
            assert q[column] == source[column]
        assert q["policy"] == policy_version(ARMS[""])
        place = q["query_id"] // 3
        topics = [2 * place % 17, (2 * place + 1) % 17] if place < 1000 else []
        assert [c["topic_id"] for c in q["conditions"]] == topics
        shares = sum(
            r["importance"] for k, r in rows.items() if k[:2] == (q["user_id"], q["surface"])
        )
        assert q["weight"] == pytest.approx(
            max(source["reward"], 1e-4) ** 2 * source["importance"] / shares
        )
    assert len(drawn) == 120
    for (user, surface), group in drawn.items():
        n = sum(k[:2] == (user, surface) for k in rows)
        assert len({q["cluster_id"] for q in group}) == len(group) == min(3, n)
        assert len({q["set_probability"] for q in group}) == 1
    assert len(set(found["draw_id"].to_pylist())) == found.num_rows
    keys = list(zip(*(found[k].to_pylist() for k in QUERIES.key), strict=True))
    assert keys == sorted(keys)


def test_the_function_for_one_user_gives_the_same_draws():
    table = world(20)
    found = select(table).to_pylist()
    rows = table.to_pylist()
    for user, surface in {(r["user_id"], r["surface"]) for r in rows}:
        own = [r for r in rows if (r["user_id"], r["surface"]) == (user, surface)]
        importance = np.array([r["importance"] for r in own])
        rewards = np.maximum([r["reward"] for r in own], 1e-4)
        weights = rewards**2.0 * (importance / np.add.reduceat(importance, [0]))
        draw = draw_queries(weights, 3, 0.05, DrawRequest(5, user, NIGHT, surface, "s"))
        mine = [q for q in found if (q["user_id"], q["surface"]) == (user, surface)]
        assert [own[i]["cluster_id"] for i in draw.indices] == [q["cluster_id"] for q in mine]
        assert list(draw.draw_ids) == [q["draw_id"] for q in mine]
        assert list(draw.propensities) == [q["propensity"] for q in mine]
        assert draw.set_probability == mine[0]["set_probability"]


def test_any_sharding_and_any_order_give_the_same_table():
    table = world(50, arms=tuple(ARMS))
    whole = select(table)
    rng = np.random.default_rng(1)
    assert select(table.take(rng.permutation(table.num_rows))).equals(whole)
    user = table["user_id"].to_numpy()
    shards = [select(table.filter(pa.array(user % 3 == i))) for i in range(3)]
    order = [(k, "ascending") for k in QUERIES.key]
    assert pa.concat_tables(shards).sort_by(order).equals(whole)
    chunks = pa.concat_tables([table.slice(0, 7), table.slice(7, 50), table.slice(57)])
    assert select(chunks).equals(whole)


def test_arms_are_drawn_by_their_own_configs():
    table = world(40, arms=tuple(ARMS))
    found = select(table)
    for name, config in ARMS.items():
        own = found.filter(pa.array(np.array(found["arm"].to_pylist()) == name))
        assert set(own["policy"].to_pylist()) == {policy_version(config)}
        assert max(own["slot"].to_pylist()) == config.queries - 1
        source = table.filter(pa.array(np.array(table["arm"].to_pylist()) == name))
        assert select(source, {name: config}).equals(own)
    one = [c for q in found.to_pylist() if q["arm"] == "draw" for c in [q["conditions"]]]
    assert {len(c) for c in one} <= {0, 1}


def test_nights_seeds_and_salts_draw_anew():
    table = world(200)
    one = select(table)
    others = [select(table, seed=6), select(table, night=date(2024, 3, 2)), select(table, salt="t")]
    for other in others:
        assert not set(one["draw_id"].to_pylist()) & set(other["draw_id"].to_pylist())
        same = np.mean(one["cluster_id"].to_numpy() == other["cluster_id"].to_numpy())
        assert same < 0.5
    assert select(table).equals(one)


def test_empty_in_empty_out():
    found = select(CLUSTER_REWARDS.empty())
    assert found.schema.equals(QUERIES.arrow)
    assert found.num_rows == 0


def test_a_wrong_column_is_named():
    with pytest.raises(ValueError, match="CLUSTER_REWARDS has no column 'reward'"):
        select(world(3).drop_columns(["reward"]))
    wrong = world(3)
    place = wrong.column_names.index("importance")
    wrong = wrong.set_column(place, "importance", pa.array(["x"] * wrong.num_rows))
    with pytest.raises(ValueError, match="column 'importance' is string, must be double"):
        select(wrong)


def test_an_arm_without_config_is_named():
    with pytest.raises(ValueError, match="arm 'x' has no selection; there are ''"):
        select(world(3, arms=("x",)), {"": SelectionConfig()})


def test_a_user_in_two_arms_is_refused():
    table = world(4, surfaces=("home",), seed=3)
    arms = ["", "counts"] * table.num_rows
    place = table.column_names.index("arm")
    mixed = table.set_column(place, "arm", pa.array(arms[: table.num_rows]))
    with pytest.raises(ValueError, match=r"user \d+ is in several arms"):
        select(mixed)


def test_a_cluster_twice_is_refused():
    table = world(3)
    with pytest.raises(ValueError, match=r"surface 'home', cluster 1 twice"):
        select(pa.concat_tables([table, table.slice(0, 1)]))


def test_a_reward_that_is_no_number_names_user_and_cluster():
    table = world(3)
    place = table.column_names.index("reward")
    rewards = table["reward"].to_numpy().copy()
    rewards[1] = np.nan
    with pytest.raises(ValueError, match=r"gives user \d+, cluster \d+ the weight nan"):
        select(table.set_column(place, "reward", pa.array(rewards)))
