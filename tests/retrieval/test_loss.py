"""The loss against enumeration, finite differences and plain loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from retrieval.training import loss


def same(x: Any) -> Any:
    return x


def test_log_q_is_the_log_of_the_expected_number_of_draws() -> None:
    """Every batch of two positives, one even draw and one draw of the slice {0, 2} is listed."""
    frequencies, slice_rows, n = np.array([0.5, 0.3, 0.2]), np.array([0, 2]), 3
    expected = np.zeros(n)
    for a, b, drawn, sliced in itertools.product(range(n), range(n), range(n), slice_rows):
        probability = frequencies[a] * frequencies[b] / n / len(slice_rows)
        for item in (a, b, drawn, sliced):
            expected[item] += probability
    of_slice = np.isin(np.arange(n), slice_rows) / len(slice_rows)
    log_q = loss.mixture_log_q(np, frequencies, 2, 1, n, of_slice)
    np.testing.assert_allclose(log_q, np.log(expected), rtol=1e-12)


def test_the_corrected_sum_over_the_draws_is_the_sum_over_the_catalogue_on_average() -> None:
    frequencies, n = np.array([0.5, 0.3, 0.2]), 3
    scores = np.array([0.3, -1.0, 2.0])
    corrected = scores - loss.mixture_log_q(np, frequencies, 2, 1, n)
    mean = 0.0
    for a, b, drawn in itertools.product(range(n), repeat=3):
        probability = frequencies[a] * frequencies[b] / n
        mean += probability * sum(np.exp(corrected[item]) for item in (a, b, drawn))
    assert mean == pytest.approx(np.exp(scores).sum(), rel=1e-12)


def test_the_mask_leaves_out_the_positive_itself_and_the_users_other_positives() -> None:
    items, users = np.array([5, 6, 5, 7]), np.array([1, 1, 2, 3])
    candidates = np.r_[items, [6, 8]]
    owners = np.r_[users, [-1, -1]]
    kept = loss.keep_mask(np, items, users, candidates, owners)
    expected = [
        [c != items[b] and o != users[b] for c, o in zip(candidates, owners, strict=True)]
        for b in range(4)
    ]
    assert kept.tolist() == expected
    assert kept[0].tolist() == [False, False, False, True, True, True]
    assert kept[3].tolist() == [True, True, True, False, True, True]


def test_the_loss_is_the_cross_entropy_over_the_candidates_that_count() -> None:
    rng = np.random.default_rng(0)
    positive, negatives = rng.normal(size=5), rng.normal(size=(5, 7))
    kept = rng.random((5, 7)) < 0.6
    got = loss.sampled_softmax(np, positive, negatives, kept, same)
    for b in range(5):
        all_ = np.r_[positive[b], negatives[b][kept[b]]]
        assert got[b] == pytest.approx(-np.log(np.exp(positive[b]) / np.exp(all_).sum()))


def test_a_row_without_negatives_and_logits_out_of_range_stay_finite() -> None:
    positive, negatives = np.array([0.0, 1e4, -1e4]), np.array([[9.0], [-1e4], [1e4]])
    kept = np.array([[False], [True], [True]])
    got = loss.sampled_softmax(np, positive, negatives, kept, same)
    np.testing.assert_allclose(got, [0.0, 0.0, 2e4])


def test_the_alignment_is_the_cross_entropy_of_the_surest_topic() -> None:
    rng = np.random.default_rng(1)
    vectors, topics = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    rows = np.array([[2, 1], [-1, -1], [0, -1]])
    got = loss.alignment(np, vectors, rows, topics, 0.5)
    for b, wanted in ((0, 2), (2, 0)):
        logits = topics @ vectors[b] / 0.5
        assert got[b] == pytest.approx(np.log(np.exp(logits).sum()) - logits[wanted])
    assert got[1] == 0
