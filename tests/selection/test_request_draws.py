"""Draws per request: the night's own where no request is named, and exact where one is."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from selection.queries import weigh_queries
from selection.request_draws import (
    NoWeights,
    RequestSampler,
    TableWeights,
    WeightState,
    served_rows,
)
from selection.tables import QUERIES, SERVED_DRAWS
from selection.weights import WEIGHTS
from tests.selection.test_queries import ARMS, ITEMS, NIGHT, select, world

STATE = WeightState(NIGHT, 5, "s", "2024-03-01/7", ("home", "related"))
AT = dt.datetime(2024, 3, 2, 9, tzinfo=dt.UTC)


def weights_of(table: pa.Table) -> pa.Table:
    return weigh_queries(table, ITEMS, ARMS, run_date=NIGHT, seed=5, salt="s")


def test_without_a_request_the_draw_is_the_nights_own():
    table = world(arms=tuple(ARMS))
    weights = weights_of(table)
    assert weights.schema.equals(WEIGHTS.arrow)
    assert weights.num_rows == table.num_rows
    shuffled = weights.take(np.random.default_rng(1).permutation(weights.num_rows))
    sampler = RequestSampler(TableWeights(shuffled), STATE)
    nightly = select(table).to_pylist()
    drawn = {
        (d.user_id, d.surface, d.slot): d
        for user, surface in {(q["user_id"], q["surface"]) for q in nightly}
        for d in sampler.draw(user, surface)
    }
    assert len(drawn) == len(nightly)
    same = set(QUERIES.names) & set(drawn[next(iter(drawn))]._fields) - {"conditions"}
    assert {"draw_id", "cluster_id", "query_id", "propensity", "set_probability", "policy"} <= same
    for q in nightly:
        d = drawn[q["user_id"], q["surface"], q["slot"]]
        assert {name: getattr(d, name) for name in same} == {name: q[name] for name in same}
        assert d.conditions == tuple((c["topic_id"], c["confidence"]) for c in q["conditions"])


@pytest.fixture(scope="module")
def sampler() -> RequestSampler:
    return RequestSampler(TableWeights(weights_of(world())), STATE)


@pytest.fixture(scope="module")
def user() -> int:
    """One with many interests."""
    counts = world()["user_id"].value_counts().to_pylist()
    return int(max(counts, key=lambda c: c["counts"])["values"])


def test_a_request_is_drawn_by_its_own_id_and_always_alike(sampler, user):
    first = sampler.draw(user, "home", "r 1")
    assert sampler.draw(user, "home", "r 1") == first
    ids = {d.draw_id for i in range(50) for d in sampler.draw(user, "home", f"r {i}")}
    assert len(ids) == 50 * len(first)
    assert ids.isdisjoint(d.draw_id for d in sampler.draw(user, "home"))


def test_requests_draw_every_interest_as_often_as_they_say(sampler, user):
    n, came, promised = 1500, {}, {}
    for i in range(n):
        for d in sampler.draw(user, "home", f"{i}"):
            came[d.cluster_id] = came.get(d.cluster_id, 0) + 1
            assert promised.setdefault(d.cluster_id, d.propensity) == d.propensity
    assert sum(promised.values()) == pytest.approx(3)
    for cluster, p in promised.items():
        assert came.get(cluster, 0) / n == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n) + 1e-9)


def test_what_must_be_logged_is_a_row_of_served_draws(sampler, user):
    draws = sampler.draw(user, "home", "r 1")
    rows = served_rows(draws, AT)
    table = SERVED_DRAWS.check(pa.Table.from_pylist([r | {"content_digest": 1} for r in rows]))
    SERVED_DRAWS.check_ranges(table)
    assert table["draw_id"].to_pylist() == [d.draw_id for d in draws]
    assert set(table["state_version"].to_pylist()) == {"2024-03-01/7"}
    assert served_rows(sampler.draw(user, "home"), AT) == []
    with pytest.raises(ValueError, match="in no known zone"):
        served_rows(draws, AT.replace(tzinfo=None))


def test_unknown_surfaces_and_users_are_told_apart(sampler, user):
    with pytest.raises(ValueError, match=r"surface 'attic' is not among.*'home', 'related'"):
        sampler.draw(user, "attic", "r")
    with pytest.raises(NoWeights, match="user 1000001 has no weights on 'home' in 2024-03-01/7"):
        sampler.draw(1_000_001, "home", "r")
    with pytest.raises(ValueError, match="weights: WEIGHTS has no column 'floor'"):
        TableWeights(weights_of(world()).drop_columns(["floor"]))
    assert TableWeights(WEIGHTS.empty()).find(user, "home") is None
