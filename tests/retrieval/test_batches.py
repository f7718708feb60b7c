"""What training reads: shares, leave-one-out, conditions, the same batch whoever makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retrieval.model.inputs import Catalogue
from retrieval.training.ahead import made_ahead
from retrieval.training.batches import Batch, BatchMaker, slices_of
from retrieval.training.learning import TrainingConfig
from retrieval.training.pools import Chunk, Pool, pool_of, pools
from retrieval.training.popularity import Popularity
from tests.retrieval.model_world import (
    CUTOFFS,
    MODEL,
    N_TOPICS,
    N_USERS,
    TRAINING,
    catalogue,
    chunk,
)

TOPIC_IDS = np.arange(100, 100 + N_TOPICS)
PLAIN = replace(TRAINING, none_share=0.0, heldout_share=0.0, history_share=0.0, early_share=1.0)


@pytest.fixture(scope="module")
def bound() -> Catalogue:
    items = catalogue()
    return Catalogue.of(items, items.ids, TOPIC_IDS)


@pytest.fixture(scope="module")
def pool(bound: Catalogue) -> Pool:
    return pool_of([chunk()], bound, TOPIC_IDS, MODEL)


def maker(bound: Catalogue, config: TrainingConfig, seed: int = 0) -> BatchMaker:
    slices = slices_of(bound, N_TOPICS)
    return BatchMaker(bound, config, np.diff(slices.offsets), slices, CUTOFFS, seed)


def whole(bound: Catalogue, pool: Pool, config: TrainingConfig, epoch: int = 0) -> Batch:
    """All pairs in one batch, in the pool's order."""
    return maker(bound, config).batch(pool, np.arange(len(pool)), epoch)


def test_an_epoch_sees_every_pair_once_and_another_in_another_order(
    bound: Catalogue, pool: Pool
) -> None:
    made = maker(bound, PLAIN)
    first, second = made.order(pool, 0), made.order(pool, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(6 * N_USERS))
    assert first.tolist() != second.tolist()
    assert (maker(bound, PLAIN, seed=1).order(pool, 0) != first).any()
    assert sum(1 for _ in made.batches(pool, 0)) == made.steps(pool) == 9
    assert sum(1 for _ in made.batches(pool, 0, first=7)) == 2


def test_of_the_early_pairs_an_epoch_sees_a_share_each_another(
    bound: Catalogue, pool: Pool
) -> None:
    made = maker(bound, replace(PLAIN, early_share=0.25))
    seen = [made.order(pool, epoch) for epoch in range(40)]
    assert {int(pool.early[order].sum()) for order in seen} == {N_USERS}
    assert {int((~pool.early[order]).sum()) for order in seen} == {2 * N_USERS}
    often = np.bincount(np.concatenate(seen), minlength=len(pool)) / len(seen)
    assert np.abs(often - made.expected(pool)).max() < 0.35  # 5 standard errors of 40 draws


def test_held_out_pairs_are_late_and_never_learned_from(bound: Catalogue, pool: Pool) -> None:
    made = maker(bound, replace(PLAIN, heldout_share=0.3))
    held = made.held_out(pool)
    assert 10 < held.sum() < 50
    assert not held[pool.early].any()
    assert not held[made.order(pool, 3)].any()
    assert (maker(bound, made.config, seed=9).held_out(pool) == held).all()


def test_a_positive_is_taken_out_of_its_own_history(bound: Catalogue, pool: Pool) -> None:
    batch = whole(bound, pool, PLAIN)
    of = pool.history
    member = pool.rows[of] == pool.items[:, None]
    assert (member.any(axis=1) == pool.early).all()
    assert not batch.history.weights[member].any()
    for b in np.flatnonzero(pool.early)[:20]:
        weights = batch.history.weights[b]
        content = np.einsum("lk,lc->kc", weights, bound.items.vectors[pool.rows[of[b]]])
        np.testing.assert_allclose(batch.history.content[b], content, atol=1e-5)
    assert pool.weights[of][member].any()  # the pool itself is as it was


def test_a_condition_is_a_topic_of_the_positive_unless_it_is_none(
    bound: Catalogue, pool: Pool
) -> None:
    config = replace(PLAIN, none_share=0.4, query_source="none", logged_share=0.0)
    batch = whole(bound, pool, config)
    topic = batch.context.topics[:, 0]
    assert 0.3 < (topic < 0).mean() < 0.5
    carried = (bound.topics[pool.items] == topic[:, None]).any(axis=1)
    assert (carried | (topic < 0)).all()
    assert (batch.context.query_ids == -1).all()
    assert (whole(bound, pool, config, epoch=1).context.topics[:, 0] != topic).any()


@pytest.mark.parametrize(
    ("strategy", "probability"),
    [
        ("uniform", lambda sure, counts: np.ones_like(sure)),
        ("confidence", lambda sure, counts: sure),
        ("inverse_popularity", lambda sure, counts: 1 / counts),
    ],
)
def test_topics_are_drawn_by_their_strategy(
    pool: Pool, strategy: str, probability: Callable[[Any, Any], Any]
) -> None:
    items = catalogue()
    sure = items.topic_confidences.copy()
    twice = np.flatnonzero(np.diff(items.topic_offsets) == 2)
    sure[items.topic_offsets[twice]] = 0.8
    items = replace(items, topic_confidences=sure)
    bound = Catalogue.of(items, items.ids, TOPIC_IDS)
    made = maker(bound, replace(PLAIN, condition=strategy))
    drawn = (np.arange(2000) + 0.5) / 2000
    for row in twice[:3]:
        topics, _ = made._item_topics(np.full(2000, row, np.int32), drawn)
        here = slice(items.topic_offsets[row], items.topic_offsets[row + 1])
        weights = probability(sure[here], made.topic_counts[items.topic_ids[here] - 100])
        expected = dict(zip(items.topic_ids[here] - 100, weights / weights.sum(), strict=True))
        for topic, share in expected.items():
            assert (topics[:, 0] == topic).mean() == pytest.approx(share, abs=1e-3)


def test_all_topics_come_with_their_confidence(bound: Catalogue, pool: Pool) -> None:
    config = replace(PLAIN, condition="all", query_source="none", logged_share=0.0)
    context = whole(bound, pool, config).context
    assert (context.topics == bound.topics[pool.items]).all()
    assert (context.confidences == bound.confidences[pool.items]).all()


def test_a_logged_condition_and_query_are_used_where_known(bound: Catalogue, pool: Pool) -> None:
    config = replace(PLAIN, logged_share=1.0, query_dropout=0.0)
    context = whole(bound, pool, config).context
    logged = pool.topics[:, 0] >= 0
    assert logged.sum() == N_USERS
    assert (context.topics[logged, 0] == pool.topics[logged, 0]).all()
    assert (context.query_ids[logged] == pool.queries[logged]).all()


def test_a_shared_query_carries_the_condition_and_brings_its_own(
    bound: Catalogue, pool: Pool
) -> None:
    context = whole(bound, pool, replace(PLAIN, query_dropout=0.0, logged_share=0.0)).context
    asked = context.query_ids >= 0
    assert 0.3 < asked.mean() < 1
    assert (context.topics[asked] == bound.topics[context.query_ids[asked]]).all()
    medoids = pool.rows[pool.history][:, pool.n_recent :]
    assert (medoids[asked] == context.query_ids[asked][:, None]).any(axis=1).all()
    shares = (bound.topics[pool.items][:, :, None] == context.topics[:, None, :]) & (
        context.topics[:, None, :] >= 0
    )
    assert shares.any(axis=(1, 2))[asked].all()
    assert (context.query_ids != pool.items).all()  # the positive is never its own query


def test_the_historys_own_condition_is_a_medoids_whatever_the_positive(
    bound: Catalogue, pool: Pool
) -> None:
    config = replace(PLAIN, history_share=1.0, query_dropout=0.0, logged_share=0.0)
    context = whole(bound, pool, config).context
    medoids = pool.rows[pool.history][:, pool.n_recent]
    some = medoids != pool.items
    assert (context.query_ids[some] == medoids[some]).all()
    assert (context.topics[some] == bound.topics[medoids[some]]).all()


def test_slices_are_drawn_from_the_condition(bound: Catalogue, pool: Pool) -> None:
    batch = whole(bound, pool, replace(PLAIN, slice_negatives=4, none_share=0.3))
    topic = batch.context.topics[:, :1]
    carried = (bound.topics[batch.sliced] == topic[:, :, None]).any(axis=2)
    assert (carried | (topic < 0)).all()
    assert ((batch.sliced == -1) == (topic < 0)).all()


def test_pools_gather_chunks_and_lose_nothing(bound: Catalogue) -> None:
    source = [chunk(range(u, u + 12)) for u in range(0, N_USERS, 12)]
    made = list(pools(source, bound, TOPIC_IDS, MODEL, 100))
    assert [len(pool) for pool in made] == [144, 144]
    assert sorted(set(np.concatenate([p.users for p in made]).tolist())) == list(range(N_USERS))


def test_a_pair_without_its_history_is_named(bound: Catalogue) -> None:
    whole = chunk(range(3))
    part = Chunk(whole.histories.slice(1), whole.pairs)
    with pytest.raises(ValueError, match=r"PAIRS has user 0 at cut-off .*, HISTORIES of the same"):
        pool_of([part], bound, TOPIC_IDS, MODEL)


def test_pairs_of_unknown_items_are_left_out_and_unknown_topics_too(bound: Catalogue) -> None:
    whole = chunk(range(4))
    pairs = whole.pairs.set_column(
        whole.pairs.column_names.index("logged_topics"),
        "logged_topics",
        pa.array([[999]] * 24, pa.list_(pa.int64())),
    ).set_column(
        whole.pairs.column_names.index("logged_confidences"),
        "logged_confidences",
        pa.array([[1.0]] * 24, pa.list_(pa.float32())),
    )
    fewer = catalogue(30)
    small = pool_of(
        [Chunk(whole.histories, pairs)], Catalogue.of(fewer, fewer.ids, TOPIC_IDS), TOPIC_IDS, MODEL
    )
    assert 0 < len(small) < 24
    assert (small.topics == -1).all()


def test_popularity_is_the_decayed_count_before_each_cut_off() -> None:
    cutoffs, days = np.array([10, 12, 13], np.int64), (1.0, 4.0)
    us = cutoffs * 86_400_000_000
    items = np.array([0, 1, 1, 2, 0, 2])
    at = np.array([10.5, 11.0, 12.5, 9.0, 13.5, 9.5])
    early = np.array([False, False, False, True, False, False])
    made = Popularity.none(us, days, 3)
    for part in (slice(0, 2), slice(2, 6)):
        made.add(items[part], (at[part] * 86_400e6).astype(np.int64), early[part])
    priors = made.priors(0.1)
    for q, cutoff in enumerate(cutoffs):
        for p, half_life in enumerate(days):
            counts = np.zeros(3)
            for item, day, first in zip(items, at, early, strict=True):
                if day < cutoff and not first:
                    counts[item] += 2 ** (-(cutoff - day) / half_life)
            expected = np.log(3 * counts / counts.sum() + 0.1)
            np.testing.assert_allclose(priors[q, :, p], expected, rtol=1e-5)
        np.testing.assert_allclose(priors[q, :, 2], np.log([0.1, 0.1, 3.1]), rtol=1e-5)


def test_what_is_made_ahead_comes_in_order_and_fails_where_it_is_used() -> None:
    assert list(made_ahead(range(20))) == list(range(20))

    def broken() -> Any:
        yield 1
        raise OSError("gone")

    got: list[int] = []
    with pytest.raises(OSError, match="gone"):
        got.extend(made_ahead(broken()))
    assert got == [1]
    for value in made_ahead(iter(int, 1)):  # an endless source: the thread must end with us
        assert value == 0
        break
