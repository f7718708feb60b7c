from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering

from profiling.ward import ward_labels, ward_labels_batch


def sample(seed, n, width=16, spread=0.9):
    """(n, width) float32 unit vectors around some centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, n // 6), width))
    x = centres[rng.integers(len(centres), size=n)] + spread * rng.normal(size=(n, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def by_first_member(labels):
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def twin(x, alpha):
    """scikit-learn's partition; its height is the square root of ours."""
    model = AgglomerativeClustering(None, linkage="ward", distance_threshold=np.sqrt(alpha))
    return by_first_member(model.fit(x.astype(np.float64)).labels_)


@pytest.mark.parametrize("n", [2, 3, 20, 33, 100, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.6, 1.1, 2.0, 30.0])
def test_partition_is_scikit_learns(n, alpha):
    for seed in range(3):
        x = sample(seed, n, width=24 + seed)
        np.testing.assert_array_equal(ward_labels(x, alpha), twin(x, alpha))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    copies=st.integers(0, 60),
    alpha=st.floats(0.01, 40),
)
def test_partition_with_duplicates_is_scikit_learns(seed, n, copies, alpha):
    # Random reals: the only ties are those between copies, which cost 0 and leave no choice.
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    x = np.concatenate([x, x[rng.integers(n, size=copies)]])[rng.permutation(n + copies)]
    np.testing.assert_array_equal(ward_labels(x, alpha), twin(x, alpha))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 80), alpha=st.floats(1e-4, 40))
def test_partition_of_collinear_points_is_scikit_learns(seed, n, alpha):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 1)) * rng.normal(size=(1, 7))).astype(np.float32)
    np.testing.assert_array_equal(ward_labels(x, alpha), twin(x, alpha))


def test_costs_are_squared_and_alpha_is_inclusive():
    # Two points: d = |0 - 1|^2 = 1. Third point at 3: 2 * 2 * 1 / (2 + 1) * (3 - 0.5)^2.
    x = np.array([[0.0], [1.0], [3.0]], np.float32)
    cost = 2 * 2 * 1 / (2 + 1) * (3 - 0.5) ** 2
    assert ward_labels(x, 0.999).tolist() == [0, 1, 2]
    assert ward_labels(x, 1.0).tolist() == [0, 0, 1]
    assert ward_labels(x, cost - 1e-9).tolist() == [0, 0, 1]
    assert ward_labels(x, cost + 1e-9).tolist() == [0, 0, 0]


def test_one_and_no_item():
    assert ward_labels(np.ones((1, 4), np.float32), 2.0).tolist() == [0]
    assert ward_labels(np.ones((0, 4), np.float32), 2.0).tolist() == []


def test_whole_tree_at_infinite_alpha():
    assert set(ward_labels(sample(1, 70), np.inf).tolist()) == {0}


@pytest.mark.parametrize("side", [3, 9, 17])
def test_ties_end_in_clusters_that_none_would_merge(side):
    # A square lattice is all ties, so partitions may differ; no remaining pair may cost alpha.
    axis = np.arange(side, dtype=np.float32)
    x = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    labels = ward_labels(np.concatenate([x, x]), 2.5)
    x = np.concatenate([x, x]).astype(np.float64)
    sizes = np.bincount(labels)
    centres = np.stack([np.bincount(labels, x[:, k]) / sizes for k in range(2)], 1)
    gaps = ((centres[:, None] - centres[None]) ** 2).sum(-1)
    costs = 2 * sizes[:, None] * sizes / (sizes[:, None] + sizes) * gaps
    np.fill_diagonal(costs, np.inf)
    assert costs.min() > 2.5
    assert len(sizes) < len(x) // 2


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_ends_on_equal_items_of_any_size(scale):
    x = np.repeat(sample(3, 1, width=37) * np.float32(scale), 300, axis=0)
    assert set(ward_labels(x, 1e-9 * scale**2).tolist()) == {0}


def test_ends_on_numbers_that_are_none():
    x = sample(4, 40)
    x[7] = np.nan
    x[9] = np.inf
    assert len(ward_labels(x, 2.0)) == 40


def test_many_users_are_each_on_their_own():
    vectors = sample(5, 400)
    rng = np.random.default_rng(6)
    sizes = np.array([1, 50, 0, 3, 120, 33, 2])
    offsets = np.r_[0, np.cumsum(sizes)]
    rows = rng.integers(400, size=offsets[-1])
    together = ward_labels_batch(offsets, rows, vectors, 1.1)
    for low, high in pairwise(offsets):
        alone = ward_labels(vectors[rows[low:high]], 1.1)
        np.testing.assert_array_equal(together[low:high], alone)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 90))
def test_order_of_items_does_not_matter(seed, n):
    x = sample(seed, n)
    order = np.random.default_rng(seed).permutation(n)
    straight = ward_labels(x, 1.1)
    np.testing.assert_array_equal(ward_labels(x[order], 1.1), by_first_member(straight[order]))


@pytest.mark.parametrize("alpha", [-1.0, float("nan")])
def test_alpha_must_be_a_cost(alpha):
    with pytest.raises(ValueError, match="alpha must be >= 0"):
        ward_labels(sample(0, 3), alpha)
