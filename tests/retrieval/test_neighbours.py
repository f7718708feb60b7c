"""The items around each item, against brute force."""

import numpy as np

from profiling.items import Items, unit_rows
from retrieval.index.exact import ExactIndex
from retrieval.neighbours import nearest_items


def catalogue(n: int) -> Items:
    vectors = unit_rows(np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32))
    none, nothing = np.zeros(0, np.int64), np.zeros(n, np.int64)
    return Items(
        np.arange(n) * 3,
        vectors,
        "v",
        np.zeros(n + 1, np.int64),
        none,
        none.astype(np.float32),
        nothing,
    )


def test_equals_brute_force_without_the_item_itself() -> None:
    items = catalogue(60)
    near = items.vectors.astype(np.float64) @ items.vectors.astype(np.float64).T
    np.fill_diagonal(near, -np.inf)
    want = np.argsort(-near, axis=1, kind="stable")[:, :7]
    assert (nearest_items(items, ExactIndex.over(items), 7) == want).all()


def test_a_small_catalogue_has_fewer() -> None:
    items = catalogue(3)
    found = nearest_items(items, ExactIndex.over(items), 5)
    assert [sorted(row[row >= 0].tolist()) for row in found] == [[1, 2], [0, 2], [0, 1]]
