"""The compiled rerank against the utility equation read literally, and against fast-greedy DPP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.spacing.classes import Kernel, Source, SpacingClass
from retrieval.spacing.diversity import Diversity, SpectrumTerm, combine_embeddings
from retrieval.spacing.terms import SpacingTerm, order_spaced
from retrieval.spacing.utility import Ordering, Pool, order_by_relevance, order_greedily
from tests.retrieval.feed_worlds import fast_greedy_dpp, world

WORLDS = st.builds(
    world,
    st.integers(0, 10**6),
    st.integers(0, 8),
    coarse=st.booleans(),
    tail=st.booleans(),
    lonely=st.sampled_from([False, False, False, True]),
)


def assert_equal(one: Ordering, other: Ordering) -> None:
    for name in ("feeds", "positions", "chosen", "decided"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_allclose(one.diversity, other.diversity, atol=1e-9)
    np.testing.assert_allclose(one.penalties, other.penalties, atol=1e-12)


@settings(max_examples=300, deadline=None)
@given(WORLDS)
def test_the_compiled_rerank_is_the_literal_equation(w) -> None:
    literal = order_greedily(w.pool, w.size, w.terms, w.cap)
    assert_equal(order_spaced(w.pool, w.size, w.terms, w.cap), literal)


@settings(max_examples=60, deadline=None)
@given(WORLDS)
def test_with_all_weights_0_the_feed_is_that_of_the_diversity_alone(w) -> None:
    weightless = [
        replace(t, spacing_class=replace(t.spacing_class, weight=0.0))
        if isinstance(t, SpacingTerm) and t.spacing_class.kernel.shape == "inverse"
        else t
        for t in w.terms
        if isinstance(t, SpectrumTerm) or t.spacing_class.kernel.shape == "inverse"
    ]
    alone = [t for t in w.terms if isinstance(t, SpectrumTerm)]
    one = order_spaced(w.pool, w.size, weightless, w.cap)
    np.testing.assert_array_equal(one.chosen, order_spaced(w.pool, w.size, alone, w.cap).chosen)
    assert not one.decided.any()
    if not alone and w.pool.tail is None:
        np.testing.assert_array_equal(one.chosen, order_by_relevance(w.pool, w.size).chosen)


def pool_of(relevance, tail=None) -> Pool:
    n = len(relevance)
    return Pool(np.array([0, n]), np.arange(n), np.array(relevance, float), None, None, tail)  # type: ignore[arg-type]


def spacing(weight: float, members, window: int = 2, **options) -> SpacingTerm:
    one = SpacingClass(id=options.pop("id", "c"), source=Source(label="x"), weight=weight,
                       window=window, **options)  # fmt: skip
    return SpacingTerm(one, np.array(members, bool), np.array([True]))


def test_a_class_by_hand() -> None:
    term = spacing(0.4, [1, 1, 0, 1])
    found = order_spaced(pool_of([1.0, 0.9, 0.55, 0.5]), 4, [term], np.inf)
    # after item 0: .9 - .4 < .55; then item 1 at distance 2: .9 - .2; then 3: .5 - .4 - .0
    assert found.chosen.tolist() == [0, 2, 1, 3]
    np.testing.assert_allclose(found.penalties[:, 0], [0, 0, 0.2, 0.4])
    # without the class item 1 would stand at position 1, and so item 1 again is best at 2
    assert found.decided[:, 0].tolist() == [False, True, False, False]


def test_penalties_above_the_joint_cap_are_scaled_down_to_it() -> None:
    terms = [spacing(0.6, [1, 1], id="a"), spacing(0.3, [1, 1], id="b")]
    found = order_spaced(pool_of([1.0, 0.5]), 2, terms, 0.45)
    np.testing.assert_allclose(found.penalties, [[0, 0], [0.3, 0.15]])
    assert_equal(found, order_greedily(pool_of([1.0, 0.5]), 2, terms, 0.45))


def test_diversity_by_hand() -> None:
    config = Diversity(gamma=0.5, window=3, bias=False)
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    term = SpectrumTerm(config, combine_embeddings(config, {"item": vectors}))
    found = order_spaced(pool_of([1.0, 0.9, 0.3, 0.45]), 4, [term], np.inf)
    # after item 0: 1 adds nothing, 2 adds .5, 3 adds .5 * .8: .9, .8, .85
    assert found.chosen.tolist() == [0, 1, 3, 2]
    np.testing.assert_allclose(found.diversity, [0, 0, 0.4, 0], atol=1e-6)


def test_the_weight_fades_with_the_window_or_stays() -> None:
    vectors = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]], np.float32)
    added = {}
    for variant in ("ssd", "ssd_star"):
        config = Diversity(gamma=1.0, window=5, variant=variant, bias=False)
        term = SpectrumTerm(config, combine_embeddings(config, {"item": vectors}))
        added[variant] = order_spaced(pool_of([9.0, 5.0, 1.0]), 3, [term], np.inf).diversity
    np.testing.assert_allclose(added["ssd_star"], [0, 0.8, 0.8], rtol=1e-6)
    np.testing.assert_allclose(added["ssd"], [0, 0.8, 0.8 * 0.8], rtol=1e-6)


def test_without_eviction_squared_residuals_are_those_of_fast_greedy_dpp() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(14, 6)).astype(np.float32)
    config = Diversity(gamma=1.0, window=6, bias=False)
    term = SpectrumTerm(config, combine_embeddings(config, {"item": vectors}))
    found = order_spaced(pool_of(np.zeros(14)), 6, [term], np.inf)
    order = found.chosen
    residuals = fast_greedy_dpp(term.vectors.astype(float), order)
    # relevance is the same for all: the pick of SSD is then the greedy MAP of the DPP
    np.testing.assert_array_equal(order[1:], [row.argmax() for row in residuals[1:]])
    picked = residuals[np.arange(1, 6), order[1:]]
    np.testing.assert_allclose(found.diversity[1:] ** 2, picked, rtol=1e-9)


def test_items_outside_the_window_still_count_a_little() -> None:
    """SSD's memory: what is restored is not the residual against the last items alone."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(40, 4)).astype(np.float32)
    config = Diversity(gamma=1.0, window=2, bias=False)
    term = SpectrumTerm(config, combine_embeddings(config, {"item": vectors}))
    found = order_spaced(pool_of(rng.random(40)), 8, [term], np.inf)
    x = term.vectors.astype(float)
    gaps = []
    for t in range(3, 8):
        base = np.linalg.qr(x[found.chosen[t - 2 : t]].T)[0]
        v = x[found.chosen[t]]
        gaps.append(abs(np.linalg.norm(v - base @ (base.T @ v)) - found.diversity[t]))
    assert max(gaps) > 1e-3


def test_two_pages_are_one_feed_where_the_tail_is_the_page_before() -> None:
    w = world(11, 4, coarse=False, tail=False, lonely=False)
    n = 19
    rng = np.random.default_rng(1)
    relevance = rng.random(n)
    terms = [
        SpectrumTerm(Diversity(0.5, 3), w.terms[0].vectors[:n])
        if isinstance(w.terms[0], SpectrumTerm)
        else spacing(0.2, rng.random(n) < 0.5),
        spacing(0.3, rng.random(n) < 0.5, window=4),
    ]
    whole = order_spaced(pool_of(relevance), 12, terms, 1.5)
    second = order_spaced(pool_of(relevance, whole.chosen[None, :6]), 6, terms, 1.5)
    np.testing.assert_array_equal(second.chosen, whole.chosen[6:])
    np.testing.assert_allclose(second.penalties, whole.penalties[6:])
    np.testing.assert_allclose(second.diversity, whole.diversity[6:])


def test_opposite_items_are_alike_only_without_the_bias() -> None:
    vectors = {"item": np.array([[1, 0], [-1, 0]], np.float32)}
    left = [combine_embeddings(Diversity(bias=bias), vectors) for bias in (False, True)]
    assert left[0][0] @ left[0][1] == -1
    assert left[1][0] @ left[1][1] == pytest.approx(0, abs=1e-7)


def test_several_embeddings_weigh_by_their_share() -> None:
    from retrieval.spacing.diversity import EmbeddingPart

    config = Diversity(
        bias=False, embeddings=(EmbeddingPart("item", 3.0), EmbeddingPart("t.e", 1.0))
    )
    one = np.array([[1, 0], [0, 2]], np.float32)
    other = np.array([[5, 0, 0], [5, 0, 0]], np.float32)
    rows = combine_embeddings(config, {"item": one, "t.e": other})
    np.testing.assert_allclose(rows @ rows.T, [[1, 0.25], [0.25, 1]], atol=1e-7)


def test_a_kernel_of_a_class_reaches_exactly_its_window() -> None:
    term = spacing(0.1, np.ones(6), window=3, kernel=Kernel("exponential", 1.0))
    found = order_spaced(pool_of(np.arange(6)[::-1] * 10.0), 6, [term], np.inf)
    np.testing.assert_allclose(found.penalties[:, 0], [0, 0.1, 0.15, 0.175, 0.175, 0.175])
