"""Interests as scikit-learn sees them, and as the night makes them."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from profiling.actions import DEFAULT_ACTIONS
from profiling.decay import DAY_US, importance_weights
from profiling.estimator import Interests
from profiling.history import ProfileConfig
from profiling.items import Items
from tests.profiling.engagement_rows import engagements, first_profiles

RNG = np.random.default_rng(11)
VECTORS = np.repeat(RNG.normal(size=(5, 8)), 8, axis=0) + 0.4 * RNG.normal(size=(40, 8))
ITEMS = Items(
    ids=np.arange(40) * 3,
    vectors=(VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32),
    version="v1",
    topic_offsets=np.zeros(41, np.int64),
    topic_ids=np.empty(0, np.int64),
    topic_confidences=np.empty(0, np.float32),
    created_at=np.zeros(40, np.int64),
)


@parametrize_with_checks([Interests()])
def test_scikit_learns_conventions_hold(estimator, check):
    check(estimator)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_interests_are_those_of_the_night(alpha):
    rows = np.sort(RNG.permutation(40)[:25])
    days = RNG.uniform(0, 60, size=25)
    events = [
        (i, 7, int(ITEMS.ids[row]), "long_view", int(day * DAY_US))
        for i, (row, day) in enumerate(zip(rows, days, strict=True))
    ]
    config, now = ProfileConfig(alpha=alpha), 100 * DAY_US
    night = first_profiles(engagements(events), ITEMS, config, DEFAULT_ACTIONS, now)
    at = np.array([event[4] for event in events])
    weights = importance_weights(at, at.max(), config.importance_decay)
    found = Interests(alpha).fit(ITEMS.vectors[rows], weights=weights)
    assert found.n_clusters_ == night.num_rows > 1
    members = night["item_ids"].to_pylist()
    labels = dict(zip(ITEMS.ids[rows].tolist(), found.labels_.tolist(), strict=True))
    for one in members:
        (label,) = {labels[item] for item in one}
        place = members.index(one)
        medoid = ITEMS.ids[rows[found.medoid_indices_[label]]]
        assert medoid == night["medoid_item_id"][place].as_py()
        importance = night["importance"][place].as_py()
        assert found.importances_[label] == pytest.approx(importance, rel=1e-12)


def test_interests_are_scikit_learns_ward_cut_at_the_root():
    theirs = AgglomerativeClustering(n_clusters=None, distance_threshold=np.sqrt(1.5))
    pairs = set(zip(Interests(1.5).fit_predict(VECTORS), theirs.fit_predict(VECTORS), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 3


def test_weights_move_importance_alone():
    weights = RNG.uniform(size=40)
    plain, weighed = Interests(1.0).fit(VECTORS), Interests(1.0).fit(VECTORS, weights=weights)
    assert plain.labels_.tolist() == weighed.labels_.tolist()
    assert plain.medoid_indices_.tolist() == weighed.medoid_indices_.tolist()
    assert plain.importances_.tolist() == np.bincount(plain.labels_).tolist()
    expected = [weights[weighed.labels_ == c].sum() for c in range(weighed.n_clusters_)]
    np.testing.assert_allclose(weighed.importances_, expected)


def test_it_stands_in_a_pipeline_and_is_cloned():
    piped = make_pipeline(Normalizer(), clone(Interests(0.5)))
    alone = Interests(0.5).fit_predict(VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True))
    assert piped.fit_predict(VECTORS).tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("alpha", "weights", "said"),
    [
        (-1.0, None, "alpha must be >= 0, got -1.0"),
        (1.0, np.full(40, -2.0), "weights must be >= 0, got -2"),
        (1.0, np.full(40, np.nan), "weights contains NaN"),
        (1.0, np.ones(39), "inconsistent numbers of samples"),
    ],
)
def test_what_cannot_be_clustered_says_why(alpha, weights, said):
    with pytest.raises(ValueError, match=said):
        Interests(alpha).fit(VECTORS, weights=weights)
