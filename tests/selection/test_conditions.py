"""Topics of a query's item as conditions."""

import numpy as np
import pytest

from profiling.items import Items
from profiling.tables import TOPIC_LIST
from selection.conditions import conditions_of

ITEMS = Items(
    ids=np.array([10, 20, 30]),
    vectors=np.zeros((3, 1), np.float32),
    version="v",
    topic_offsets=np.array([0, 3, 3, 5]),
    topic_ids=np.array([7, 5, 6, 9, 8]),
    topic_confidences=np.array([0.5, 1.0, 0.5, 0.25, 0.75], np.float32),
    created_at=np.zeros(3, np.int64),
)


def plain(array):
    return [[(c["topic_id"], c["confidence"]) for c in row] for row in array.to_pylist()]


def test_all_topics_are_kept_with_their_confidence():
    found = conditions_of(np.array([30, 10, 30]), ITEMS)
    assert found.type == TOPIC_LIST
    assert plain(found) == [
        [(9, 0.25), (8, 0.75)],
        [(7, 0.5), (5, 1.0), (6, 0.5)],
        [(9, 0.25), (8, 0.75)],
    ]


def test_items_without_topics_or_unknown_have_no_condition():
    assert plain(conditions_of(np.array([20, 99, 0]), ITEMS)) == [[], [], []]
    assert plain(conditions_of(np.array([], np.int64), ITEMS)) == []


def test_the_surest_topics_are_kept_ties_to_the_smaller_id():
    assert plain(conditions_of(np.array([10, 30, 20]), ITEMS, 2)) == [
        [(5, 1.0), (6, 0.5)],
        [(8, 0.75), (9, 0.25)],
        [],
    ]


@pytest.mark.parametrize("limit", [3, 9])
def test_a_limit_that_cuts_nothing_changes_nothing(limit):
    ids = np.array([10, 30])
    assert conditions_of(ids, ITEMS, limit).equals(conditions_of(ids, ITEMS))


def test_a_limit_of_its_own_for_every_query():
    found = conditions_of(np.array([10, 10, 30]), ITEMS, np.array([0, 1, 1]))
    assert plain(found) == [[(7, 0.5), (5, 1.0), (6, 0.5)], [(5, 1.0)], [(8, 0.75)]]
