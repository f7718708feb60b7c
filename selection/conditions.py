"""What a query's retrieval is held to: the topics of its item, with confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.items import Items
from profiling.schema import IntArray
from profiling.tables import TOPIC_LIST


def conditions_of(
    item_ids: IntArray, items: Items, max_topics: int | IntArray = 0
) -> pa.Array[Any]:
    """The conditions of each query item, (n,) lists of (topic_id, confidence).

    All topics of the item by default; an item without topics, or not in the catalogue, has none:
    its retrieval is free.

    Args:
        item_ids: (n,) int64.
        items: The catalogue.
        max_topics: How many to keep, the surest first, ties to the smaller topic id; 0: all, in the
            catalogue's order. One number, or (n,) int64.
    """
    found = items.rows_of(item_ids)
    known = np.maximum(found, 0)
    starts = items.topic_offsets[known]
    lengths = np.where(found >= 0, items.topic_offsets[known + 1] - starts, 0)
    bounds = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    places = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
    limits = np.broadcast_to(np.asarray(max_topics, np.int64), found.shape)
    if np.any((limits > 0) & (lengths > limits)):
        places, lengths = _surest(places, bounds, items, limits)
        bounds = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    topics = pa.StructArray.from_arrays(
        [pa.array(items.topic_ids[places]), pa.array(items.topic_confidences[places])],
        fields=list(TOPIC_LIST.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), topics)


def _surest(
    places: IntArray, bounds: IntArray, items: Items, limits: npt.NDArray[np.int64]
) -> tuple[IntArray, IntArray]:
    """Places and lengths after each limited list is sorted by confidence and cut."""
    lists = np.repeat(np.arange(len(limits)), np.diff(bounds))
    limited = limits[lists] > 0
    doubt = np.where(limited, -items.topic_confidences[places].astype(np.float64), 0.0)
    tie = np.where(limited, items.topic_ids[places], places)
    order = np.lexsort((tie, doubt, lists))
    rank = np.arange(len(places)) - bounds[lists]
    kept = (limits[lists] == 0) | (rank < limits[lists])
    return places[order][kept], np.bincount(lists[kept], minlength=len(limits)).astype(np.int64)
