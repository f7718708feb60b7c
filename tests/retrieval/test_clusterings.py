"""Histories as a profile sees them, and clusterings against the libraries' own cuts."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans

from profiling.actions import DEFAULT_ACTIONS
from profiling.hashing import hash64
from profiling.history import ProfileConfig
from profiling.ward import ward_labels
from retrieval.evaluation.clusterings import Histories, complete_linkage, k_means, ward
from tests.retrieval.trial_rows import events_of, histories_of, many, on_circle


def same_partition(a, b):
    """Whether two labellings cut alike."""
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def members(histories):
    """(first, end) by user."""
    return zip(histories.offsets[:-1], histories.offsets[1:], strict=True)


def test_a_history_weighs_what_it_has_by_age_and_action():
    items = on_circle(0, 30, 60)
    rows = [(7, 101, 0), (7, 100, 8), (7, 101, 10, "like"), (9, 102, 3)]
    histories = histories_of(rows, items)
    assert histories.users.tolist() == [7, 9]
    assert histories.offsets.tolist() == [0, 2, 3]
    assert histories.rows.tolist() == [0, 1, 2]
    expected = [np.exp(-0.1 * 2), np.exp(-0.1 * 10) + 1.0, 1.0]
    np.testing.assert_allclose(histories.weights(0.1), expected)
    np.testing.assert_allclose(histories.weights(0.0), [1, 2, 1])


def test_window_number_of_items_and_catalogue_bound_a_history():
    items = on_circle(0, 30, 60)
    rows = [(1, 100, 0), (1, 101, 50), (1, 102, 90), (1, 555, 91)]
    assert histories_of(rows, items, window_days=45.0).rows.tolist() == [1, 2]
    assert histories_of(rows, items, max_items=1).rows.tolist() == [2]


def test_an_event_that_landed_again_counts_once():
    items, events = on_circle(0, 30), events_of([(1, 100, 0), (1, 101, 5)])
    twice = pa.concat_tables([events, events])
    histories = Histories.of(twice, items, ProfileConfig(), DEFAULT_ACTIONS)
    assert histories.weights(0.0).tolist() == [1, 1]


def test_ward_is_that_of_the_night():
    items, histories = many()
    found = ward(histories, items.vectors, 1.0)
    for user, (low, high) in enumerate(members(histories)):
        labels = ward_labels(items.vectors[histories.rows[low:high]], 1.0)
        assert (found.groups[low:high] - found.offsets[user]).tolist() == labels.tolist()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_complete_linkage_is_cut_as_scipy_cuts_it(k):
    items, histories = many()
    found = complete_linkage(histories, items.vectors, np.full(len(histories.users), k))
    for low, high in members(histories):
        if high - low > 1:
            tree = linkage(items.vectors[histories.rows[low:high]], "complete")
            assert same_partition(found.groups[low:high], fcluster(tree, k, "maxclust"))
    assert found.sizes.tolist() == np.minimum(histories.sizes, k).tolist()


def test_k_means_is_that_of_scikit_learn_with_a_seed_by_user():
    items, histories = many()
    found = k_means(histories, items.vectors, np.full(len(histories.users), 3), 4)
    seeds = hash64(4, "k-means", histories.users) % np.uint64(2**32)
    for (low, high), seed in zip(members(histories), seeds, strict=True):
        if high - low > 3:
            fitted = KMeans(3, n_init=1, random_state=int(seed))
            labels = fitted.fit_predict(items.vectors[histories.rows[low:high]])
            assert same_partition(found.groups[low:high], labels)
    assert found.sizes.tolist() == np.minimum(histories.sizes, 3).tolist()


def test_equal_items_leave_k_means_fewer_clusters():
    items = on_circle(0, 0, 0, 90)
    histories = histories_of([(1, 100 + i, i) for i in range(4)], items)
    found = k_means(histories, items.vectors, np.array([3]), 0)
    assert found.sizes.tolist() == [2]
    assert same_partition(found.groups, [0, 0, 0, 1])
