"""Rankings by hand and against plain twins."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.items import Items
from retrieval.evaluation.rankings import (
    SlotLists,
    deal,
    interleave,
    lists_of,
    lists_of_candidates,
    slot_offsets,
    top_rows,
)


def padded(lists, depth):
    return np.array([row + [-1] * (depth - len(row)) for row in lists], np.int64).reshape(-1, depth)


def test_slots_take_turns_and_skip_what_the_user_has():
    lists = SlotLists(np.array([0, 2, 3]), padded([[4, 1, 2], [4, 3, 1], [1, 4]], 3))
    found = interleave(lists, 5, 4)
    assert found.rows.tolist() == [[4, 3, 1, 2], [1, 4, -1, -1]]
    assert found.slots.tolist() == [[0, 1, 0, 0], [2, 2, -1, -1]]


def plain_interleave(lists, k):
    queues = [list(row) for row in lists]
    rows, slots = [], []
    while any(queues) and len(rows) < k:
        for slot, queue in enumerate(queues):
            while queue and queue[0] in rows:
                queue.pop(0)
            if queue and len(rows) < k:
                rows.append(queue.pop(0))
                slots.append(slot)
    return rows, slots


some_lists = st.lists(st.lists(st.integers(0, 8), unique=True, max_size=6), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(some_lists, min_size=1, max_size=4), st.integers(1, 10))
def test_interleaving_equals_its_plain_twin(users, k):
    offsets = np.r_[0, np.cumsum([len(u) for u in users])].astype(np.int64)
    lists = SlotLists(offsets, padded([row for u in users for row in u], 6))
    found = interleave(lists, 9, k)
    for i, user in enumerate(users):
        rows, slots = plain_interleave(user, k)
        assert found.rows[i, : len(rows)].tolist() == rows
        assert found.slots[i, : len(rows)].tolist() == [s + offsets[i] for s in slots]
        assert (found.rows[i, len(rows) :] == -1).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 6))
def test_dealing_is_interleaving_one_list(slots, length):
    offsets = np.r_[0, np.cumsum(slots)].astype(np.int64)
    one = padded([list(range(length))] * len(slots), 6)
    lists = SlotLists(offsets, np.repeat(one, slots, axis=0))
    merged, dealt = interleave(lists, 6, 6), deal(one, offsets)
    assert (merged.rows == dealt.rows).all()
    assert (merged.slots == dealt.slots).all()


def test_top_rows_break_ties_by_row_and_leave_out_what_is_excluded():
    scores = np.array([[1.0, 3.0, 3.0, -np.inf, 2.0], [-np.inf, 0.0, 0.0, 0.0, -np.inf]])
    assert top_rows(scores, 2).tolist() == [[1, 2], [1, 2]]
    assert top_rows(scores, 4).tolist() == [[1, 2, 4, 0], [1, 2, 3, -1]]
    assert top_rows(scores, 9)[0].tolist() == [1, 2, 4, 0, -1, -1, -1, -1, -1]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=1, max_size=12), st.integers(1, 5)
)
def test_top_rows_equal_a_sort(scores, k):
    order = [i for i in np.argsort(-np.array(scores), kind="stable") if scores[i] > -np.inf][:k]
    found = top_rows(np.array([scores]), k)[0]
    assert found[found >= 0].tolist() == order


def test_lists_hold_each_value_once():
    lists = lists_of([2, 0, 2, 2], np.array([5, 1, 5, 3]), 4)
    assert lists.offsets.tolist() == [0, 1, 1, 3, 3]
    assert lists.values.tolist() == [1, 3, 5]


def test_slots_of_users_that_have_none_are_empty():
    assert slot_offsets(np.array([3, 5, 9]), np.array([3, 3, 9])).tolist() == [0, 2, 2, 3]


def test_candidates_stand_by_slot_and_rank():
    items = Items(
        np.array([10, 20, 30]), np.eye(3, dtype=np.float32), "v", np.zeros(4, np.int64),
        np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(3, np.int64),
    )  # fmt: skip
    rows = [(7, 30, 1), (7, 10, 0), (4, 20, 0), (7, 20, 2), (99, 10, 0)]
    columns = zip(*rows, strict=True)
    table = pa.table(dict(zip(("draw_id", "item_id", "rank"), columns, strict=True)))
    lists = lists_of_candidates(table, np.array([7, 4, 5]), np.array([0, 3]), items, 2)
    assert lists.rows.tolist() == [[0, 2], [1, -1], [-1, -1]]
