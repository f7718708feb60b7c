"""The sampler against enumeration in rationals, frequencies, and its invariants."""

from datetime import date
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.hashing import hash64, uniforms
from selection.conditional_poisson import hash_of, uniform_of
from selection.sampling import (
    NEGLIGIBLE,
    DrawRequest,
    draw_ids,
    draw_keys,
    draw_queries,
    inclusion_targets,
    sample_sets,
    stream_states,
)

REQUEST = DrawRequest(seed=7, user_id=0, run_date=date(2024, 3, 1), surface="home", salt="x")
WIDE = 10.0 ** np.array([0.0, -12.0, -3.0, -9.0, -6.0, -1.0, -11.0, -4.0])


def keys_of(users):
    return draw_keys(REQUEST, np.asarray(users), hash64(REQUEST.surface))


def sets_of(weights, k, floor, users):
    """The same weights for each of the users."""
    n, g = len(weights), len(users)
    return sample_sets(
        np.arange(g + 1) * n,
        np.tile(np.asarray(weights, float), g),
        np.full(g, k),
        np.full(g, float(floor)),
        keys_of(users),
    )


def exact_targets(weights, k, floor):
    """The module's formula in rationals."""
    w, n = [Fraction(x) for x in weights], len(weights)
    if k >= n:
        return [Fraction(1)] * n
    sure = set()
    while True:
        rest = [i for i in range(n) if i not in sure]
        left, total = k - len(sure), sum(w[i] for i in rest)
        if total == 0:
            share = {i: Fraction(left, len(rest)) for i in rest}
            break
        share = {i: left * w[i] / total for i in rest}
        over = {i for i in rest if share[i] >= 1}
        if not over:
            break
        sure |= over
    floor = Fraction(floor)
    return [(1 - floor) * share.get(i, Fraction(1)) + floor * Fraction(k, n) for i in range(n)]


def exact_sets(targets, k):
    """P(S) of every set of the design of greatest entropy: coordinate ascent with 60 digits."""
    n = len(targets)
    with localcontext() as context:
        context.prec = 60
        t = [Decimal(x.numerator) / Decimal(x.denominator) for x in targets]
        u = [Decimal((1 - x).numerator) / Decimal((1 - x).denominator) for x in targets]
        fixed = {i for i in range(n) if targets[i] == 1}
        free = [i for i in range(n) if 0 < targets[i] < 1]
        size = k - len(fixed)
        w = {i: t[i] / u[i] for i in free}

        def sums(members, m):
            totals = [Decimal(1)] + [Decimal(0)] * m
            for i in members:
                for j in range(m, 0, -1):
                    totals[j] += w[i] * totals[j - 1]
            return totals

        for _ in range(3000 if free else 0):
            change = Decimal(0)
            for i in free:
                rest = sums([j for j in free if j != i], size)
                new = t[i] / u[i] * rest[size] / rest[size - 1]
                change, w[i] = max(change, abs(new / w[i] - 1)), new
            if change < Decimal("1e-25"):
                break
        whole = sums(free, size)[size]
        sets = {}
        for some in combinations(free, size):
            p = Decimal(1)
            for i in some:
                p *= w[i]
            sets[frozenset(some) | fixed] = p / whole
        return sets


@pytest.mark.parametrize("floor", [0.0, 0.05])
@pytest.mark.parametrize("n", range(3, 9))
def test_probabilities_equal_enumeration_over_twelve_orders_of_magnitude(n, floor):
    rng = np.random.default_rng(n)
    for k in sorted({1, 2, 3, n - 1} & set(range(1, n))):
        for weights in (WIDE[:n], 10.0 ** rng.uniform(-12, 0, n), rng.gamma(1.0, size=n)):
            targets = exact_targets(weights, k, floor)
            exact = exact_sets(targets, k)
            found = sets_of(weights, k, floor, np.arange(400))
            np.testing.assert_allclose(
                found.propensities[:n], [float(t) for t in targets], rtol=0, atol=1e-9
            )
            for rows, chance in zip(
                found.rows.reshape(-1, k), found.set_probabilities, strict=True
            ):
                assert chance == pytest.approx(float(exact[frozenset(rows % n)]), rel=1e-9)


def test_every_set_of_equal_clusters_is_drawn_equally_often():
    found = sets_of(np.ones(6), 3, 0.0, np.arange(100_000))
    assert found.set_probabilities == pytest.approx(1 / comb(6, 3), rel=1e-12)
    codes = (1 << (found.rows % 6)).reshape(-1, 3).sum(1)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == comb(6, 3)
    expected = 100_000 / 20
    assert abs(counts - expected).max() < 4 * np.sqrt(expected * 19 / 20)


@pytest.mark.slow
def test_a_million_draws_have_the_stated_frequencies():
    weights, n, k, draws = [8.0, 1.0, 0.5, 3.0, 0.0, 1.0], 6, 3, 1_000_000
    found = sets_of(weights, k, 0.05, np.arange(draws))
    rows = (found.rows % n).reshape(-1, k)

    pi = found.propensities[:n]
    frequency = np.bincount(rows.ravel(), minlength=n) / draws
    assert np.all(abs(frequency - pi) < 4 * np.sqrt(pi * (1 - pi) / draws))

    codes = (1 << rows).sum(1)
    names, first, counts = np.unique(codes, return_index=True, return_counts=True)
    p = found.set_probabilities[first]
    assert len(names) == comb(n, k)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(abs(counts / draws - p) < 4 * np.sqrt(p * (1 - p) / draws))

    for i in range(n):  # the slot says nothing about the cluster
        slots = np.bincount(np.nonzero(rows == i)[1], minlength=k) / (rows == i).sum()
        assert np.all(abs(slots - 1 / k) < 4 * np.sqrt(1 / k * (1 - 1 / k) / (rows == i).sum()))


weight_lists = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-12, 1.0), st.floats(1e-3, 1e3)), min_size=1, max_size=12
)


@settings(max_examples=120, deadline=None)
@given(weight_lists, st.integers(1, 8), st.sampled_from([0.0, 1e-9, 0.05, 0.3, 1.0]), st.data())
def test_invariants(weights, k, floor, data):
    n = len(weights)
    found = sets_of(weights, k, floor, [11])
    pi, drawn = found.propensities, min(k, n)
    assert len(set(found.rows.tolist())) == drawn
    assert pi.sum() == pytest.approx(drawn, abs=1e-9)
    assert np.all((pi >= 0) & (pi <= 1))
    assert np.all(pi >= floor * drawn / n * (1 - 1e-9))
    assert np.all(pi[found.rows] > 0)
    assert 0 < found.set_probabilities[0] <= pi[found.rows].min() * (1 + 1e-9)
    assert np.all(np.diff(pi[np.argsort(weights)]) >= -1e-9)  # more weight, no less probability

    doubled = sets_of(np.asarray(weights) * 2, k, floor, [11])
    assert np.array_equal(doubled.propensities, pi)
    assert np.array_equal(doubled.rows, found.rows)

    order = np.array(data.draw(st.permutations(range(n))))
    moved = sets_of(np.asarray(weights)[order], k, floor, [11])
    np.testing.assert_allclose(moved.propensities, pi[order], atol=2e-10)


def test_all_are_taken_where_there_are_no_more_than_k():
    for n in (1, 2, 3):
        found = draw_queries(np.arange(n), 3, 0.05, REQUEST)
        assert sorted(found.indices) == list(range(n))
        assert np.array_equal(found.propensities, np.ones(n))
        assert found.set_probability == 1


def test_no_clusters_give_no_draw():
    found = draw_queries([], 3, 0.05, REQUEST)
    assert len(found.indices) == 0
    assert found.set_probability == 1


def targets_of(weights, k, floor):
    bounds = np.array([0, len(weights)])
    return inclusion_targets(bounds, np.array(weights, float), np.array([k]), np.array([floor]))


def test_targets_by_hand():
    assert targets_of([1, 2, 3], 1, 0.0) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    # 8 of 12 is more than half: taken surely; the other draw goes 1 : 1 : 2.
    assert targets_of([8, 1, 1, 2], 2, 0.0) == pytest.approx([1, 1 / 4, 1 / 4, 2 / 4])
    # Capping 10 makes 4 too large in turn: 2 * 4 / 6 > 1.
    assert targets_of([10, 4, 1, 1], 3, 0.0) == pytest.approx([1, 1, 1 / 2, 1 / 2])
    assert targets_of([1, 0, 0], 1, 0.3) == pytest.approx([0.7 + 0.1, 0.1, 0.1])


def test_zero_weights_share_what_the_others_leave():
    assert targets_of([5, 0, 0, 0], 2, 0.0) == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert targets_of([0, 0, 0, 0], 2, 0.0) == pytest.approx([0.5] * 4)
    assert targets_of([5, 1, 0, 0], 2, 0.0) == pytest.approx([1, 1, 0, 0])
    assert targets_of([1, NEGLIGIBLE / 2], 1, 0.0) == pytest.approx([1, 0])


def test_one_user_gets_what_the_batch_gives():
    rng = np.random.default_rng(3)
    sizes, users = rng.integers(1, 40, 200), rng.integers(0, 2**62, 200)
    bounds = np.r_[0, np.cumsum(sizes)]
    weights = rng.gamma(0.3, size=bounds[-1])
    k, floor = rng.integers(1, 9, 200), rng.choice([0.0, 0.05], 200)
    batch = sample_sets(bounds, weights, k, floor, keys_of(users))
    for g, user in enumerate(users):
        own = slice(bounds[g], bounds[g + 1])
        request = DrawRequest(7, int(user), date(2024, 3, 1), "home", "x")
        one = draw_queries(weights[own], int(k[g]), float(floor[g]), request)
        rows = batch.rows[batch.offsets[g] : batch.offsets[g + 1]]
        assert np.array_equal(one.indices, rows - bounds[g])
        assert np.array_equal(one.propensities, batch.propensities[rows])
        assert one.set_probability == batch.set_probabilities[g]
        ids = draw_ids(np.repeat(keys_of([user]), len(rows)), np.arange(len(rows)))
        assert np.array_equal(one.draw_ids, ids)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"user_id": 1},
        {"run_date": date(2024, 3, 2)},
        {"surface": "related"},
        {"salt": "y"},
        {"request_id": "r1"},
    ],
)
def test_every_part_of_a_request_deals_anew(other):
    weights, same, ids_same = np.ones(30), 0, 0
    for seed in range(30):
        a = {"seed": seed, "user_id": 0, "run_date": date(2024, 3, 1), "surface": "home"}
        b = a | other | ({"seed": seed + 100} if "seed" in other else {})
        one = draw_queries(weights, 3, 0.0, DrawRequest(**a))
        two = draw_queries(weights, 3, 0.0, DrawRequest(**b))
        same += np.array_equal(one.indices, two.indices)
        ids_same += len(set(one.draw_ids) & set(two.draw_ids))
    assert same <= 1  # of 30 * 29 * 28 ordered draws
    assert ids_same == 0


def test_kernel_hashes_equal_the_hashes_of_profiling():
    keys = hash64(np.arange(50))
    for purpose in (1, 2, 9):
        states = stream_states(keys, purpose)
        for i in (0, 1, 77):
            assert [hash_of(s, i) for s in states] == list(hash64(keys, purpose, i))
            assert [uniform_of(s, i) for s in states] == list(uniforms(keys, purpose, i))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_weights_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=rf"weights must be finite and >= 0, got {bad} in row 1"):
        draw_queries([1.0, bad, 2.0], 1, 0.05, REQUEST)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="queries must be >= 1, got 0"):
        draw_queries([1.0, 2.0], 0, 0.05, REQUEST)
    with pytest.raises(ValueError, match=r"floor must be in \[0, 1\], got 1.5"):
        draw_queries([1.0, 2.0], 1, 1.5, REQUEST)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.7e308), min_size=1, max_size=8), st.integers(1, 7))
def test_ends_with_probabilities_on_every_finite_weight(weights, k):
    found = draw_queries(weights, k, 0.0, REQUEST)
    assert np.all((found.propensities > 0) & (found.propensities <= 1))
    assert 0 < found.set_probability <= 1
