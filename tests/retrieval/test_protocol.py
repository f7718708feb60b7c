import numpy as np
import pyarrow as pa
import pytest

from retrieval.evaluation.protocol import (
    condition_cover,
    hold_out,
    tail_topics,
    with_oracle_conditions,
)
from retrieval.index.exact import Lists
from tests.retrieval.evaluation_rows import SIX, catalogue, pairs_of, queries_of

QUERIES = queries_of([(1, 0, 100, [1]), (1, 1, 102, [2]), (2, 0, 105, [3]), (3, 0, 100, [1])])


def as_lists(lists):
    return [
        lists.values[a:b].tolist()
        for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    ]


def test_only_new_items_of_users_with_queries_are_to_be_found():
    later = pairs_of([(1, 101), (1, 100), (1, 101), (2, 103), (3, 100), (4, 105), (1, 999)])
    earlier = pairs_of([(1, 100), (1, 105), (3, 100), (2, 102), (4, 100), (2, 999)])
    held = hold_out(QUERIES, later, earlier, SIX)
    assert held.users.tolist() == [1, 2]  # 3 met nothing new, 4 has no queries
    assert as_lists(held.positives) == [[1], [3]]  # 100 was engaged with before, 999 is unknown
    assert as_lists(held.known) == [[0, 5], [2]]
    assert held.queries["query_id"].to_pylist() == [100, 102, 105]
    assert held.offsets.tolist() == [0, 2, 3]
    assert as_lists(held.conditions) == [[1], [2], [3]]


def test_what_is_known_comes_back_as_rows_for_step_5():
    held = hold_out(QUERIES, pairs_of([(1, 101)]), pairs_of([(1, 100), (2, 103)]), SIX)
    assert held.seen(SIX).to_pylist() == [{"user_id": 1, "item_id": 100}]


def test_one_surface_is_judged():
    queries = pa.concat_tables([QUERIES, queries_of([(1, 0, 104, [3], "related")])])
    held = hold_out(queries, pairs_of([(1, 101)]), pairs_of([]), SIX)
    assert held.queries["surface"].to_pylist() == ["home", "home"]


@pytest.mark.parametrize("later", [[], [(1, 100)], [(9, 101)], [(1, 999)]])
def test_nothing_to_evaluate_says_so(later):
    with pytest.raises(ValueError, match="nothing to evaluate: of 3 users with queries none has"):
        hold_out(QUERIES, pairs_of(later), pairs_of([(1, 100)]), SIX)


def test_no_queries_at_all_says_so():
    with pytest.raises(ValueError, match="nothing to evaluate: of 0 users"):
        hold_out(QUERIES.slice(0, 0), pairs_of([(1, 101)]), pairs_of([]), SIX)


def test_the_oracle_holds_each_slot_to_a_positive_of_its_user():
    later = pairs_of([(1, 101), (1, 105), (2, 104)])
    held = hold_out(QUERIES, later, pairs_of([]), SIX)
    oracle = with_oracle_conditions(held, SIX, seed=3)
    slots = as_lists(oracle.conditions)
    assert sorted(slots[:2]) == [[1], [3]]  # both positives of user 1, one a slot
    assert slots[2] == [2, 3]
    assert oracle.queries.drop_columns(["conditions"]) == held.queries.drop_columns(["conditions"])
    assert oracle.queries.schema == held.queries.schema


def test_one_positive_is_the_oracle_of_every_slot():
    oracle = with_oracle_conditions(
        hold_out(QUERIES, pairs_of([(1, 105)]), pairs_of([]), SIX), SIX, 0
    )
    assert as_lists(oracle.conditions) == [[3], [3]]


def test_real_conditions_cover_what_carries_one_of_their_topics():
    held = hold_out(QUERIES, pairs_of([(1, 101), (1, 105), (2, 104), (2, 100)]), pairs_of([]), SIX)
    assert condition_cover(held, SIX) == 0.5  # 101 by topic 1, 104 by topic 3


def test_the_tail_is_the_rarest_topics_up_to_a_share():
    items = catalogue([[1], [2], [3], [4]])
    assert tail_topics(items, np.array([70.0, 15.0, 10.0, 5.0])).tolist() == [3, 4]
    assert tail_topics(items, np.array([70.0, 15.0, 10.0, 5.0]), 0.3).tolist() == [2, 3, 4]
    assert tail_topics(items, np.array([97.0, 1.0, 1.0, 1.0]), 0.0).tolist() == []


def test_taking_users_takes_all_that_is_theirs():
    held = hold_out(QUERIES, pairs_of([(1, 101), (2, 103), (3, 101)]), pairs_of([(3, 104)]), SIX)
    some = held.take(np.array([False, True, True]))
    assert some.users.tolist() == [2, 3]
    assert as_lists(some.positives) == [[3], [1]]
    assert as_lists(some.known) == [[], [4]]
    assert some.queries["user_id"].to_pylist() == [2, 3]
    assert isinstance(some.known, Lists)
