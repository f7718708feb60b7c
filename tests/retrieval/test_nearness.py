"""Relevance and recall of what stands for a user: by hand, and by a plain twin."""

import numpy as np
import pytest

from retrieval.evaluation.nearness import EVERY, FIGURES, Rules, Sought, judge_chosen
from retrieval.evaluation.representatives import METHODS, Chosen, Trial
from tests.retrieval.trial_rows import lists, many, on_circle

CIRCLE = on_circle(0, 20, 40, 90, 110, 180)
NOBODYS = np.empty((0, 2), np.float32)


def figures(scores):
    """By figure, the share over all users."""
    shares = scores.above.sum(axis=0) / scores.below.sum(axis=0)
    return dict(zip(FIGURES, shares.tolist(), strict=True))


def test_two_users_by_hand():
    # User 0 knows 0 and 90 degrees and came to like 20 and 180; user 1 knows 90, came to like 110.
    sought = Sought(lists([1, 5], [4]), lists([0, 3], [3]))
    chosen = Chosen(lists([0, 3], [3]), NOBODYS)
    rules = Rules(threshold=0.9, budget=2, depths=(1, 2))
    ((one, two),) = judge_chosen([[chosen]], sought, CIRCLE, rules)
    cosines = {angle: np.cos(np.radians(angle)) for angle in (20, 90, 180)}
    # One vector: 0 for user 0, whose nearest unmet are 20 and 40; 90 for user 1: 110, then 40.
    assert figures(one) == pytest.approx(
        {
            "relevance": 2 / 3,
            "recall": 2 / 3,
            "cosine": (cosines[20] + cosines[180] + cosines[20]) / 3,
        },
        abs=1e-6,
    )
    # Two: user 0 asks one item of each, 20 of 0 and 110 of 90; 180 is 90 away from 90.
    assert figures(two) == pytest.approx(
        {"relevance": 2 / 3, "recall": 2 / 3, "cosine": (2 * cosines[20] + cosines[90]) / 3},
        abs=1e-6,
    )


def test_a_budget_is_parted_equally():
    sought = Sought(lists([2]), lists([0, 3]))
    rules = Rules(threshold=0.9, budget=3, depths=(1, 2, EVERY))
    ((one, two, every),) = judge_chosen([[Chosen(lists([0, 3]), NOBODYS)]], sought, CIRCLE, rules)
    assert figures(one)["recall"] == 1.0  # second of three after 20 degrees
    assert figures(two)["recall"] == 0.0  # one each: 20 of 0, 110 of 90
    assert figures(every) == figures(two)


def test_what_is_exactly_at_the_threshold_is_relevant_and_ties_favour_the_sought():
    items = on_circle(0, 60, 60, 60)
    sought = Sought(lists([3]), lists([0]))
    rules = Rules(threshold=0.5, budget=1, depths=(1,))
    (((found),),) = judge_chosen([[Chosen(lists([0]), NOBODYS)]], sought, items, rules)
    assert figures(found) == pytest.approx({"relevance": 1.0, "recall": 1.0, "cosine": 0.5})


def test_figures_are_means_over_draws():
    sought = Sought(lists([1]), lists([0, 5]))
    draws = [Chosen(lists([0]), NOBODYS), Chosen(lists([5]), NOBODYS)]
    rules = Rules(threshold=0.9, budget=1, depths=(1,))
    ((found,),) = judge_chosen([draws], sought, CIRCLE, rules)
    assert figures(found) == pytest.approx({"relevance": 0.5, "recall": 0.5, "cosine": 0.0})


def twin(chosen, sought, items, rules):
    """(u, e, 3) in plain loops."""
    pool = np.concatenate([items.vectors, chosen.own]).astype(np.float64)
    sums = np.zeros((len(sought.known.offsets) - 1, len(rules.depths), 3))
    for user in range(len(sums)):
        ids, known, wanted = (
            some.values[some.offsets[user] : some.offsets[user + 1]]
            for some in (chosen.lists, sought.known, sought.positives)
        )
        unmet = np.setdiff1d(np.arange(len(items.ids)), known)
        for d, e in enumerate(rules.depths):
            vectors = pool[ids[:e]]
            share = rules.budget // len(vectors)
            for item in wanted:
                cosines = vectors @ pool[item]
                above = (pool[unmet] @ vectors.T > cosines + 1e-6).sum(axis=0)
                sums[user, d] += (
                    cosines.max() >= rules.threshold, (above < share).any(), cosines.max()
                )  # fmt: skip
    return sums


def test_every_method_scores_as_its_plain_twin():
    items, histories = many()
    trial = Trial(histories, items, 0.5, seed=0)
    rng = np.random.default_rng(1)
    draws = [[trial.chosen(method, d) for d in range(2)] for method in METHODS.values()]
    known, positives = [], []
    for low, high in zip(histories.offsets[:-1], histories.offsets[1:], strict=True):
        mine = histories.rows[low:high]
        others = rng.permutation(np.setdiff1d(np.arange(60), mine))
        known.append(sorted([*mine, *others[:4]]))
        positives.append(sorted(others[4:7]))
    sought = Sought(lists(*positives), lists(*known))
    rules = Rules(threshold=0.8, budget=12, depths=(1, 3, EVERY))
    judged = judge_chosen(draws, sought, items, rules)
    for name, chosen, by_depth in zip(METHODS, draws, judged, strict=True):
        expected = np.mean([twin(one, sought, items, rules) for one in chosen], axis=0)
        for d, scores in enumerate(by_depth):
            np.testing.assert_allclose(scores.above, expected[:, d], atol=1e-5, err_msg=name)
            assert (scores.below == 3).all()
