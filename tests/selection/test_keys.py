from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.keys import key_bounds, name_codes, name_column, names_in, sort_keys


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 400),
    users=st.integers(1, 40),
    values=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    sorted_users=st.booleans(),
)
def test_sort_keys_is_lexsort(
    n: int, users: int, values: int, seed: int, sorted_users: bool
) -> None:
    rng = np.random.default_rng(seed)
    who = rng.integers(0, users, n) * (2**62 // users)
    if sorted_users:
        who.sort()
    keys = rng.integers(-values, values, (n, 3))
    expected = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0], who))
    got_users, got_keys, order = sort_keys(who, keys.copy())
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(got_users, who[expected])
    np.testing.assert_array_equal(got_keys, keys[expected])


def test_sort_keys_of_one_user_with_many_rows() -> None:
    keys = np.random.default_rng(3).permutation(5_000)[:, None]
    _, got, order = sort_keys(np.zeros(5_000, np.int64), keys.copy())
    np.testing.assert_array_equal(got[:, 0], np.arange(5_000))
    np.testing.assert_array_equal(order, np.argsort(keys[:, 0]))


def test_bounds_of_runs() -> None:
    users, keys = np.array([1, 1, 1, 2, 2]), np.array([[0], [0], [1], [1], [1]])
    np.testing.assert_array_equal(key_bounds(users, keys), [0, 2, 3, 5])
    np.testing.assert_array_equal(key_bounds(users[:0], keys[:0]), [0])


def test_names_to_codes_and_back() -> None:
    column = pa.chunked_array([["home", "élan"], ["", "home"]], pa.string())
    names = names_in(column)
    assert names == ["", "home", "élan"]
    np.testing.assert_array_equal(name_codes(column, names), [1, 2, 0, 1])
    assert name_column(name_codes(column, names), names).to_pylist() == column.to_pylist()


def test_a_name_that_is_not_there_and_a_null_are_minus_one() -> None:
    column = pa.chunked_array([["home", "related", None]], pa.string())
    np.testing.assert_array_equal(name_codes(column, ["home"]), [0, -1, -1])
    assert len(name_codes(column.slice(0, 0), ["home"])) == 0
