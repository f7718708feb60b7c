"""Baselines against plain twins on a tiny log."""

import numpy as np
import pytest

from profiling.decay import DAY_US
from retrieval.evaluation.baselines import (
    Feedback,
    ItemKnn,
    Popularity,
    WithPrior,
    fit_als,
    fit_bpr,
    rank,
    rank_slots,
)
from retrieval.evaluation.protocol import hold_out
from retrieval.evaluation.tuning import TRIALS, TRIED, fit_baseline, hit_rate, tune_baselines
from tests.retrieval.evaluation_rows import SIX, catalogue, pairs_of, queries_of

CUTOFF = 100 * DAY_US
# (user, item, days before the cut-off); the last two are not before it, or of an unknown item.
EVENTS = [
    (1, 100, 1.0), (1, 101, 2.0), (2, 100, 1.0), (2, 101, 4.0), (2, 102, 1.0), (3, 102, 2.0),
    (3, 103, 3.0), (3, 102, 8.0), (4, 105, 1.0), (5, 101, 0.0), (5, 999, 1.0),
]  # fmt: skip


def feedback(events=EVENTS, items=SIX):
    users, item_ids, days = (np.array(c) for c in zip(*events, strict=True))
    at = (CUTOFF - days * DAY_US).astype(np.int64)
    return Feedback.of(users, item_ids, at, items, CUTOFF)


LOG = feedback()
HELD = hold_out(
    queries_of([(1, 0, 100, [1]), (1, 1, 102, [2]), (2, 0, 105, [3]), (9, 0, 105, [7])]),
    pairs_of([(1, 103), (2, 105), (9, 100)]), pairs_of([(1, 100), (1, 101), (2, 102)]), SIX,
)  # fmt: skip


def test_only_what_came_before_the_cut_off_is_learned_from():
    assert LOG.user_ids.tolist() == [1, 2, 3, 4]
    assert len(LOG.rows) == 9
    again = feedback(EVENTS[::-1])
    assert (again.rows == LOG.rows).all()
    assert (again.ages == LOG.ages).all()


def test_nothing_to_learn_from_says_so():
    with pytest.raises(ValueError, match="none of 1 engagements lies before the cut-off"):
        feedback([(5, 101, 0.0)])


def test_popularity_equals_its_plain_twin():
    found = Popularity.fit(LOG, half_life_days=2.0).scores(np.array([1, 77]))
    expected = np.zeros(6)
    for _, item, days in EVENTS[:9]:
        expected[item - 100] += 2 ** (-days / 2.0)
    np.testing.assert_allclose(found, [expected, expected])


def test_endless_memory_counts():
    found = Popularity.fit(LOG, half_life_days=np.inf).counts
    assert found.tolist() == [2, 2, 3, 1, 0, 1]


def plain_knn(user, neighbours, shrink, half_life):
    """Scores by sets of users, as the formula says."""
    engaged = {i: {u for u, item, _ in EVENTS[:9] if item == 100 + i} for i in range(6)}
    weights = {}
    for u, item, days in EVENTS[:9]:
        if u == user:
            weight = 1.0 if np.isinf(half_life) else 2 ** (-days / half_life)
            weights[item - 100] = max(weights.get(item - 100, 0.0), weight)
    scores = np.zeros(6)
    for j, weight in weights.items():
        sims = []
        for i in range(6):
            common = len(engaged[i] & engaged[j])
            if i != j and common:
                sims.append((-common / (np.sqrt(len(engaged[i]) * len(engaged[j])) + shrink), i))
        for value, i in sorted(sims)[:neighbours]:
            scores[i] += weight * -value
    return scores


@pytest.mark.parametrize(("neighbours", "shrink", "half_life"), [(1, 0.0, np.inf), (3, 2.0, 3.0)])
def test_item_knn_equals_its_plain_twin(neighbours, shrink, half_life):
    knn = ItemKnn.fit(LOG, neighbours=neighbours, shrink=shrink, half_life_days=half_life)
    users = np.array([3, 1, 2, 77])
    expected = [plain_knn(int(u), neighbours, shrink, half_life) for u in users]
    np.testing.assert_allclose(knn.scores(users), expected, atol=1e-12)


def test_the_prior_multiplies_and_orders_what_the_scorer_does_not_know():
    class Fixed:
        def scores(self, user_ids):
            return np.array([[2.0, 0.0, 0.0, -1.0, 0.0, 0.0]] * len(user_ids))

    prior = np.array([1.0, 4.0, 9.0, 16.0, 0.0, 1.0])
    found = WithPrior(Fixed(), prior, 0.5).scores(np.array([1]))[0]
    eps = 2e-3
    np.testing.assert_allclose(found, [2.0 + eps, 2 * eps, 3 * eps, 4 * eps, 0.0, eps])
    np.testing.assert_allclose(
        WithPrior(Fixed(), prior, 0.0).scores(np.array([1]))[0], [2 + eps] + [eps] * 5
    )


def test_ranking_leaves_out_what_the_user_knows():
    popularity = Popularity.fit(LOG, half_life_days=np.inf)  # 2, 0, 1, 3, 5, 4 by count, then id
    found = rank(popularity, HELD, 5)
    assert found.rows.tolist() == [[2, 3, 5, 4, -1], [0, 1, 3, 5, 4], [2, 0, 1, 3, 5]]


def test_ranking_in_the_condition_puts_the_slice_first():
    popularity = Popularity.fit(LOG, half_life_days=np.inf)
    found = rank_slots(popularity, HELD, SIX, 4).rows.tolist()
    assert found[0] == [2, 3, 5, 4]  # topic 1 is items 0 and 1: both known, so all the rest
    assert found[1] == [2, 3, 4, 5]  # topic 2: 2, 3, 4; then the others
    assert found[2] == [5, 4, 0, 1]  # topic 3: 5 and 4
    assert found[3] == [2, 0, 1, 3]  # a topic that nobody has: no condition


def plain_slots(scores, known, topics, items, k):
    inside = [bool(set(topics) & set(t)) for t in items]
    rows = [i for i in range(len(items)) if i not in known]
    return sorted(rows, key=lambda i: (not inside[i], -scores[i], i))[:k]


@pytest.mark.parametrize("cells", [1 << 21, 100])  # all users at a time, or two
def test_ranking_in_the_condition_equals_its_plain_twin(cells, monkeypatch):
    monkeypatch.setattr("retrieval.evaluation.baselines._BLOCK_CELLS", cells)
    rng = np.random.default_rng(4)
    topics = [sorted(rng.choice(5, rng.integers(0, 3), replace=False).tolist()) for _ in range(40)]
    items = catalogue(topics, np.ones((40, 2)))
    asked = [(u, s, 100, [int(rng.integers(6))]) for u in range(30) for s in range(2)]
    earlier = [(u, 100 + int(i)) for u in range(30) for i in rng.choice(40, 9)]
    later = [(u, 100 + i) for u in range(30) for i in range(40)]
    held = hold_out(queries_of(asked), pairs_of(later), pairs_of(earlier), items)

    class Fixed:
        table = np.random.default_rng(5).integers(0, 6, (30, 40)).astype(float)

        def scores(self, user_ids):
            return self.table[user_ids].copy()

    found = rank_slots(Fixed(), held, items, 12).rows
    for place, (user, _, _, condition) in enumerate(asked):
        known = {i - 100 for u, i in earlier if u == user}
        expected = plain_slots(Fixed.table[user], known, condition, topics, 12)
        assert found[place].tolist() == expected


def blocks(n_users=40, seed=0):
    """Users of two tastes, and what they have not met yet."""
    rng = np.random.default_rng(seed)
    events = [
        (u, 100 + int(i) + 20 * (u % 2), 1.0)
        for u in range(n_users)
        for i in rng.choice(20, 8, replace=False)
    ]
    return feedback(events, catalogue([[0]] * 40, np.ones((40, 2))))


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_factors_find_the_users_own_block(name):
    pytest.importorskip("implicit")
    options = {
        "als": {"factors": 4, "regularization": 0.1, "alpha": 10.0, "iterations": 10},
        "bpr": {"factors": 8, "learning_rate": 0.1, "regularization": 0.01, "iterations": 200},
    }
    extra = {"half_life_days": np.inf} if name == "als" else {}
    log = blocks()
    fitted = fit_baseline(name, log, 0, options[name] | extra)
    scores = fitted.scores(np.arange(40))
    own = np.where(np.arange(40)[:, None] % 2 == 0, scores[:, :20], scores[:, 20:]).mean()
    other = np.where(np.arange(40)[:, None] % 2 == 0, scores[:, 20:], scores[:, :20]).mean()
    assert own > other + 0.2
    assert (fitted.scores(np.array([999])) == 0).all()
    again = fit_baseline(name, log, 0, options[name] | extra)
    np.testing.assert_array_equal(again.scores(np.arange(40)), scores)


def test_als_users_solve_their_normal_equations():
    pytest.importorskip("implicit")
    log, alpha, strength = blocks(), 5.0, 0.5
    options = {"factors": 4, "regularization": strength, "alpha": alpha, "iterations": 60}
    fitted = fit_als(log, 0, half_life_days=np.inf, **options)
    y = fitted.y.astype(np.float64)
    confidence = 1.0 + (alpha - 1.0) * log.matrix().toarray()
    liked = log.matrix().toarray()
    for user in (0, 7):
        left = (y.T * confidence[user]) @ y + strength * np.eye(4)
        np.testing.assert_allclose(
            fitted.x[user], np.linalg.solve(left, y.T @ (confidence[user] * liked[user])), atol=5e-3
        )


def test_bpr_takes_its_seed():
    pytest.importorskip("implicit")
    options = {"factors": 4, "learning_rate": 0.1, "regularization": 0.01, "iterations": 5}
    first, second = (fit_bpr(blocks(), seed, **options) for seed in (1, 2))
    assert (first.x != second.x).any()


def test_every_baseline_has_the_same_number_of_trials():
    assert {name: len(options) for name, options in TRIED.items()} == dict.fromkeys(TRIED, TRIALS)
    for options in TRIED.values():
        assert len({str(one) for one in options}) == TRIALS


def test_tuning_takes_what_found_most_on_the_validation_days():
    tried = {
        "popularity": ({"half_life_days": 0.1}, {"half_life_days": np.inf}),
        "item_knn": tuple(
            {"neighbours": n, "shrink": 0.0, "half_life_days": np.inf} for n in (1, 3)
        ),
    }
    notes = []
    tuned = tune_baselines(LOG, HELD, 0, notes.append, tried)
    assert [t.baseline for t in tuned.trials] == [
        *["popularity"] * 2, *["item_knn"] * 2, *["item_knn_prior"] * 8
    ]  # fmt: skip
    assert len(notes) == len(tuned.trials)
    for trial in tuned.trials:
        if trial.baseline in tried:
            scorer = fit_baseline(trial.baseline, LOG, 0, trial.options)
            assert trial.hit_rate == hit_rate(scorer, HELD)
    rates = [t.hit_rate for t in tuned.trials if t.baseline == "popularity"]
    assert tuned.options["popularity"] == tried["popularity"][int(np.argmax(rates))]
    assert set(tuned.exponents) == {"item_knn"}
