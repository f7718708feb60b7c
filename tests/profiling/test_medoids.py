from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.medoids import cluster_medoids, group_members, sum_engagements


def twin(x):
    """The first member with the least sum of squared distances, rounded, to all members."""
    gaps = x[:, None].astype(np.float64) - x[None].astype(np.float64)
    return int(np.argmin(np.round((gaps**2).sum((1, 2)), 6)))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    width=st.integers(1, 20),
)
def test_medoid_has_the_least_sum_of_squared_distances(seed, sizes, width):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(60, width)).astype(np.float32)
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    rows = rng.integers(60, size=offsets[-1])
    expected = [low + twin(vectors[rows[low:high]]) for low, high in pairwise(offsets)]
    assert cluster_medoids(offsets, rows, vectors).tolist() == expected


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.1])
def test_ties_go_to_the_smaller_id_whatever_the_rounding(turn):
    # A regular polygon: all members are equally far from the centroid.
    angles = turn + 2 * np.pi * np.arange(7) / 7
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    vectors = np.round(vectors, 3)
    square = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32) * np.float32(0.1)
    rows = np.array([2, 0, 3, 1])
    assert cluster_medoids(np.array([0, 4]), rows, square).tolist() == [0]
    two = cluster_medoids(np.array([0, 2]), np.array([5, 1]), vectors)
    assert two.tolist() == [0]


def test_medoid_is_the_middle_one():
    vectors = np.array([[0.0], [10.0], [4.0], [5.0]], np.float32)
    # Centroid 4.75: the nearest is 5.
    assert cluster_medoids(np.array([0, 4]), np.arange(4), vectors).tolist() == [3]


def test_sums_by_cluster():
    sums = sum_engagements(
        np.array([1, 0, 1, 1]),
        np.array([30, 5, 10, 20]),
        np.array([0, 1, 1, 0]),
        np.array([1.0, 2.0, 0.5, 0.25]),
        (2, 2),
    )
    assert sums.importance.tolist() == [2.0, 1.0 + 0.5 + 0.25]
    assert sums.action_counts.tolist() == [[0, 1], [2, 1]]
    assert sums.first_at.tolist() == [5, 10]
    assert sums.last_at.tolist() == [5, 30]


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(st.integers(0, 6), max_size=40))
def test_grouping_is_a_stable_sort(groups):
    groups = np.array(groups, np.int64)
    order, offsets = group_members(groups, 7)
    np.testing.assert_array_equal(order, np.argsort(groups, kind="stable"))
    np.testing.assert_array_equal(np.diff(offsets), np.bincount(groups, minlength=7))
