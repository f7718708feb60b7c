"""The items around each item: what the evidence prior of `selection` averages item rates over."""

from __future__ import annotations

import numpy as np

from profiling.items import Items
from profiling.schema import IntArray
from retrieval.index.searches import ItemIndex, Lists, Searches

_AT_A_TIME = 1 << 16  # items searched for in one call


def nearest_items(items: Items, index: ItemIndex, k: int) -> IntArray:
    """The k items nearest to each item of the catalogue, itself left out.

    Args:
        items: The catalogue of n items.
        index: Over it, by its own vectors.
        k: How many.

    Returns:
        (n, k) int64 rows of the catalogue, nearest first, ties by item id; -1 where there are no
        more.
    """
    found = np.full((len(items.ids), k), -1, np.int64)
    for start in range(0, len(items.ids), _AT_A_TIME):
        rows = np.arange(start, min(start + _AT_A_TIME, len(items.ids)))
        own = Lists(np.arange(len(rows) + 1), rows)
        whole = Lists(np.zeros(2, np.int64), np.zeros(0, np.int64))
        places, nowhere = np.arange(len(rows)), np.zeros(len(rows), np.int64)
        searches = Searches(items.vectors[rows], places, whole, nowhere, own, places)
        found[rows] = index.search(searches, k).rows
    return found
