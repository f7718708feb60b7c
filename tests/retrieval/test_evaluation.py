"""Figures by hand on six items, and intervals against the normal law."""

import numpy as np
import pytest

from profiling.bootstrap import estimate
from retrieval.evaluation.measures import Comparison, Judge, UserScores, mean_scores, slot_overlap
from retrieval.evaluation.protocol import hold_out
from retrieval.evaluation.rankings import Ranking, SlotLists
from tests.retrieval.evaluation_rows import SIX, catalogue, pairs_of, queries_of

# User 1 likes 101 (topic 1) and 105 (topic 3), user 2 likes 104 (topics 2 and 3).
QUERIES = queries_of([(1, 0, 100, [1]), (1, 1, 102, [2]), (2, 0, 105, [3])])
HELD = hold_out(QUERIES, pairs_of([(1, 101), (1, 105), (2, 104)]), pairs_of([]), SIX)
JUDGE = Judge(HELD, SIX, tail=np.array([3]))


def scored(rows, slots, **lists):
    ranking = Ranking(np.array(rows, np.int64), np.array(slots, np.int64))
    found = JUDGE.scores(ranking, **lists)
    return {
        name: found.above[:, i].sum() / found.below[:, i].sum()
        for i, name in enumerate(found.names)
        if found.below[:, i].sum()
    } | {"coverage": found.coverage}


def test_hits_and_recall_by_hand():
    found = scored([[1, 2, 5, -1], [0, 3, -1, -1]], [[0, 1, 0, -1], [2, 2, -1, -1]])
    assert found["hit_rate_100"] == pytest.approx(2 / 3)  # two of three positives
    assert found["recall_100"] == pytest.approx((2 / 2 + 0 / 1) / 2)  # mean over users
    assert found["any_hit_100"] == pytest.approx(1 / 2)
    assert found["hit_rate_10"] == found["hit_rate_300"] == found["hit_rate_100"]


def test_depth_counts(monkeypatch):
    monkeypatch.setattr("retrieval.evaluation.measures.DEPTHS", (1, 2))
    found = scored([[2, 1, 5], [4, 0, 1]], [[1, 0, 0], [2, 2, 2]])
    assert found["hit_rate_1"] == pytest.approx(1 / 3)
    assert found["hit_rate_2"] == pytest.approx(2 / 3)


def test_tail_positives_are_those_of_tail_topics():
    # 105 and 104 carry topic 3, 101 does not: found is only 105.
    assert scored([[5, 1], [0, 1]], [[0, 1], [2, 2]])["hit_rate_100_tail"] == pytest.approx(1 / 2)


def test_topic_match_by_hand():
    # Items 0 and 2 match their slots (topics 1 and 2), 5 does not; item 4 matches topic 3, 1 not.
    found = scored([[0, 2, 5], [4, 1, -1]], [[0, 1, 0], [2, 2, -1]])
    assert found["topic_match"] == pytest.approx(3 / 5)
    assert found["topic_match_tail"] == pytest.approx(1 / 2)  # only the slot of topic 3


def test_slots_without_a_condition_match_nothing_and_count_for_nothing():
    queries = queries_of([(1, 0, 100, []), (1, 1, 102, [2])])
    judge = Judge(hold_out(queries, pairs_of([(1, 101)]), pairs_of([]), SIX), SIX, np.array([3]))
    ranking = Ranking(np.array([[0, 2, 1, 5]]), np.array([[0, 1, 0, 1]]))
    scores = judge.scores(ranking)
    place = scores.names.index("topic_match")
    assert (scores.above[0, place], scores.below[0, place]) == (1.0, 2.0)


def test_kept_share_is_of_what_the_slots_fetch_unfiltered():
    fetched = SlotLists(HELD.offsets, np.array([[0, 1, 2], [2, 0, -1], [5, 4, 0]]))
    found = scored([[0], [5]], [[0], [2]], fetched=fetched)
    assert found["kept_share"] == pytest.approx((2 + 1 + 2) / 8)


def test_overlap_of_slots_by_hand():
    lists = SlotLists(np.array([0, 3, 4]), np.array([[0, 1, 2], [2, 3, -1], [4, 5, 6], [1, 2, 3]]))
    above, below = slot_overlap(lists, 7)
    assert above.tolist() == [0.5, 0.0]  # item 2 of the shorter list's two
    assert below.tolist() == [3.0, 0.0]
    assert slot_overlap(lists, 7, first=1)[0].tolist() == [0.0, 0.0]


def test_overlap_of_slots_alike_counts_only_pairs_of_one_kind():
    lists = SlotLists(np.array([0, 4]), np.array([[0, 1], [1, 2], [0, 1], [0, 1]]))
    above, below = slot_overlap(lists, 3, np.array([5, 5, 6, 6]))
    assert above.tolist() == [0.5 + 1.0]
    assert below.tolist() == [2.0]
    assert slot_overlap(lists, 3, np.array([-1, -1, 6, 7]))[1].tolist() == [0.0]


def test_slots_alike_are_those_held_to_the_same_topics_in_any_order():
    queries = queries_of(
        [(1, 0, 100, [1, 2]), (1, 1, 102, [2, 1]), (1, 2, 103, []), (1, 3, 104, [])]
    )
    held = hold_out(queries, pairs_of([(1, 105)]), pairs_of([]), SIX)
    lists = SlotLists(held.offsets, np.array([[0, 1], [1, 2], [0, 1], [0, 1]]))
    ranking = Ranking(np.array([[0, 1, 2]]), np.array([[0, 0, 1]]))
    found = Judge(held, SIX, np.array([3])).scores(ranking, shown=lists)
    place = found.names.index("slot_overlap_alike")
    assert (found.above[0, place], found.below[0, place]) == (0.5, 1.0)


def test_coverage_is_of_the_whole_catalogue():
    assert scored([[0, 1], [1, -1]], [[0, 1], [2, -1]])["coverage"] == pytest.approx(2 / 6)


def arm(above, below=None):
    above = np.asarray(above, float)[:, None]
    return UserScores(("x",), above, np.ones_like(above) if below is None else below, 0.5)


def test_paired_differences_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(0)
    base = rng.normal(size=2000)
    better = base + 0.1 + 0.05 * rng.normal(size=2000)
    comparison = Comparison({"a": arm(base), "b": arm(better)}, seed=1)
    found = comparison.difference("b", "a", "x")
    half = 1.96 * (better - base).std() / np.sqrt(2000)
    assert found.value == pytest.approx((better - base).mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)
    single = comparison.figure("a", "x")
    assert single.high - single.low > 10 * (found.high - found.low)
    swapped = comparison.difference("a", "b", "x")
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_a_gain_is_the_difference_of_two_differences():
    rng = np.random.default_rng(0)
    arms = {name: arm(rng.normal(size=50)) for name in "abcd"}
    comparison = Comparison(arms, seed=1, resamples=100)
    gain = comparison.gain("x", ("a", "b"), ("c", "d"))
    means = [scores.above.mean() for scores in arms.values()]
    assert gain.value == pytest.approx(means[0] - means[1] - means[2] + means[3])
    assert comparison.gain("x", ("a", "b"), ("a", "b")) == estimate(np.zeros(3))


def test_a_figure_that_nobody_has_is_none():
    comparison = Comparison({"a": arm([1.0, 2.0], np.zeros((2, 1)))}, seed=1, resamples=10)
    assert comparison.figure("a", "x") is None
    assert comparison.figure("a", "y") is None


def test_the_mean_over_seeds_is_taken_user_by_user():
    mean = mean_scores([arm([1.0, 0.0]), arm([0.0, 0.0])])
    assert mean.above.tolist() == [[0.5], [0.0]]
    assert mean.below.tolist() == [[1.0], [1.0]]


def test_a_filter_by_confidence_drops_topics_that_are_less_sure():
    items = catalogue([[1, 2], [2], []], confidences=[[0.5, 0.9], [0.4], []])
    sure = items.surer_than(0.5)
    assert sure.topic_ids.tolist() == [1, 2]
    assert sure.topic_offsets.tolist() == [0, 2, 2, 2]
    assert items.surer_than(0.0).topic_ids.tolist() == [1, 2, 2]
