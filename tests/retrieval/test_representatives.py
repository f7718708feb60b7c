"""What each method puts first."""

import numpy as np
import pytest

from retrieval.evaluation.representatives import METHODS, Method, Trial
from tests.retrieval.trial_rows import histories_of, many, on_circle

# Two bunches and one item apart: medoids 101 (three items), 104 and 105.
ITEMS = on_circle(0, 5, 11, 90, 94, 180)
ROWS = [(1, 100, 1), (1, 101, 2), (1, 102, 3), (1, 103, 80), (1, 104, 89), (1, 105, 40)]


@pytest.fixture(scope="module")
def trial():
    return Trial(histories_of(ROWS, ITEMS), ITEMS, 0.2, seed=3)


def test_the_latest_items_come_first(trial):
    assert trial.chosen(METHODS["items"]).lists.values.tolist() == [4, 3, 5, 2, 1, 0]


def test_the_most_important_interest_comes_first_by_its_medoid(trial):
    assert trial.clusters["ward"].medoids.tolist() == [1, 3, 5]
    top = {
        decay: trial.chosen(Method("ward", decay, drawn=False)).lists.values.tolist()
        for decay in (0.0, 0.01, 0.1)
    }
    # Weights .42 + .42 + .42 = 1.26 against .91 + 1 at .01; three against two at 0.
    assert top == {0.0: [1, 3, 5], 0.01: [3, 1, 5], 0.1: [3, 5, 1]}


def test_an_average_is_the_decayed_mean_direction(trial):
    chosen = trial.chosen(Method("average", 0.1))
    ages = 89 - np.array([day for _, _, day in ROWS])
    mean = np.exp(-0.1 * ages) @ ITEMS.vectors
    assert chosen.lists.values.tolist() == [6]
    np.testing.assert_allclose(chosen.own[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_centroid_stands_where_its_medoid_would(trial):
    medoids = trial.chosen(Method("ward")).lists
    centroids = trial.chosen(Method("ward", centroid=True))
    places = {1: 0, 3: 1, 5: 2}
    assert (centroids.lists.values - 6).tolist() == [places[m] for m in medoids.values.tolist()]
    mean = ITEMS.vectors[:3].mean(axis=0)
    np.testing.assert_allclose(centroids.own[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_interests_are_drawn_in_proportion_to_importance(trial):
    method = Method("ward", 0.01)
    firsts = [trial.chosen(method, draw).lists.values[0] for draw in range(4000)]
    shares = np.bincount(firsts, minlength=6)[[1, 3, 5]] / 4000
    weights = trial.importance(trial.clusters["ward"], 0.01)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.025)


def test_seeds_change_draws_and_nothing_else():
    items, histories = many()
    a, b, again = (Trial(histories, items, 0.5, seed=seed) for seed in (1, 2, 1))
    for name, method in METHODS.items():
        one, other, same = (t.chosen(method).lists for t in (a, b, again))
        assert one.values.tolist() == same.values.tolist(), name
        if method.clusters.startswith("k_means"):
            continue  # the seed moves its clusters too
        assert sorted(one.values.tolist()) == sorted(other.values.tolist()), name
        assert (one.values.tolist() != other.values.tolist()) == method.by_chance, name


def test_libraries_make_as_many_clusters_as_ward():
    items, histories = many()
    trial = Trial(histories, items, 0.5, seed=0)
    sizes = np.diff(trial.clusters["ward"].offsets)
    assert sizes.max() > 2
    assert np.diff(trial.clusters["complete"].offsets).tolist() == sizes.tolist()
    assert (np.diff(trial.clusters["k_means"].offsets) <= sizes).all()
    published = np.diff(trial.clusters["k_means_5"].offsets)
    assert (published <= np.minimum(histories.sizes, 5)).all()
