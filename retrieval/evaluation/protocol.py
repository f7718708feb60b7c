"""What retrieval is judged by: what users did after a cut-off, and the queries drawn before it.

The conditions are *real*: those of the queries that the night at the cut-off drew. Nothing here
lets what happened after it reach a query; `with_oracle_conditions` does so on purpose, to measure
how much that would flatter (design, section 4, Conditional retrieval).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.hashing import hash64, uniforms
from profiling.items import Items
from profiling.schema import IntArray, ints, sort_rows
from profiling.tables import TOPIC_LIST
from retrieval.candidates import carries_topic, condition_lists
from retrieval.evaluation.rankings import lists_of, slot_offsets
from retrieval.index.exact import Lists
from selection.conditions import conditions_of

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """Users with something to find and queries to find it with.

    Attributes:
        users: (u,) int64 ids, ascending.
        positives: u Lists of item rows engaged with after the cut-off and not known before.
        known: u Lists of item rows exposed to or engaged with before; they must not come back.
        queries: QUERIES of these users on one surface, by (user, slot): a slot each.
        n_items: Size of the catalogue.
    """

    users: IntArray
    positives: Lists
    known: Lists
    queries: pa.Table
    n_items: int

    @cached_property
    def offsets(self) -> IntArray:
        """(u + 1,) int64 bounds of the users' slots."""
        return slot_offsets(self.users, ints(self.queries, "user_id"))

    @cached_property
    def conditions(self) -> Lists:
        """Topics of each slot's condition; an empty list is none."""
        return condition_lists(self.queries)[0]

    def seen(self, items: Items) -> pa.Table:
        """`known` as rows (user_id, item_id), as step 5 takes them."""
        owners = np.repeat(self.users, np.diff(self.known.offsets))
        return pa.table({"user_id": owners, "item_id": items.ids[self.known.values]})

    def take(self, which: Mask) -> HeldOut:
        """The users in `which`, (u,) bool."""
        slots = np.repeat(which, np.diff(self.offsets))
        return replace(
            self,
            users=self.users[which],
            positives=_take(self.positives, which),
            known=_take(self.known, which),
            queries=self.queries.filter(pa.array(slots)),
        )


def hold_out(queries: pa.Table, later: pa.Table, earlier: pa.Table, items: Items) -> HeldOut:
    """Keep the users who have queries and met something new that they liked.

    Args:
        queries: QUERIES of one night.
        later: (user_id, item_id) positive engagements after the cut-off, any order and number.
        earlier: (user_id, item_id) exposures and engagements before it.
        items: The catalogue; what is not in it counts neither way.

    Returns:
        Queries on the first surface by name only: what else a user has is another page.

    Raises:
        ValueError: Nobody is left.
    """
    surfaces = sorted(queries["surface"].unique().to_pylist())
    queries = queries.filter(pa.array(queries["surface"].to_numpy() == (surfaces or [""])[0]))
    queries = sort_rows(queries, ("user_id", "slot"))
    users = np.unique(ints(queries, "user_id"))
    positives, known = split_pairs(users, later, earlier, items)
    kept = np.diff(positives.offsets) > 0
    if not kept.any():
        raise ValueError(
            f"nothing to evaluate: of {len(users):,} users with queries none has a positive "
            f"engagement with a new item among {later.num_rows:,} after the cut-off; choose an "
            "earlier day, more days, or other actions"
        )
    return HeldOut(users, positives, known, queries, len(items.ids)).take(kept)


def split_pairs(
    users: IntArray, later: pa.Table, earlier: pa.Table, items: Items
) -> tuple[Lists, Lists]:
    """Item rows of each of the ascending `users`: those of `later` not in `earlier`, and `earlier`.

    Args:
        users: (u,) int64 ids, ascending.
        later: (user_id, item_id) after a cut-off, any order and number.
        earlier: The same before it.
        items: The catalogue; what is not in it is left out.
    """
    known = _lists(users, earlier, items)
    return _less(_lists(users, later, items), known, len(items.ids)), known


def with_oracle_conditions(held_out: HeldOut, items: Items, seed: int) -> HeldOut:
    """The same slots, each held to the topics of something the user is going to like.

    A user's positives are dealt to the slots in an order by hash; with fewer positives than slots
    they come again. This reads the label: it is for the leakage gap alone.
    """
    positives, slots = held_out.positives, held_out.offsets
    counts = np.diff(positives.offsets)
    owners = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((hash64(seed, "oracle", held_out.users[owners], positives.values), owners))
    users = np.repeat(np.arange(len(counts)), np.diff(slots))
    turns = np.arange(len(users)) - slots[users]
    chosen = positives.values[order][positives.offsets[users] + turns % counts[users]]
    return _with_conditions(held_out, conditions_of(items.ids[chosen], items))


def with_random_conditions(held_out: HeldOut, items: Items, seed: int, least: int = 100) -> HeldOut:
    """The same slots, each held to one topic by hash, of those with `least` items or more.

    Whether an arm holds to a condition that has nothing to do with the user. Where no topic is so
    large, all of them stand.
    """
    topics, offsets, _ = items.items_by_topic
    sizes = np.diff(offsets)
    large = topics[sizes >= least] if (sizes >= least).any() else topics
    draws = ints(held_out.queries, "draw_id")
    chosen = large[(uniforms(seed, "random topic", draws) * len(large)).astype(np.int64)]
    parts = [pa.array(chosen), pa.array(np.ones(len(chosen), np.float32))]
    fields = list(TOPIC_LIST.value_type)
    starts = pa.array(np.arange(len(chosen) + 1, dtype=np.int32))
    lists = pa.ListArray.from_arrays(starts, pa.StructArray.from_arrays(parts, fields=fields))
    return _with_conditions(held_out, lists)


def _with_conditions(held_out: HeldOut, conditions: pa.Array[Any]) -> HeldOut:
    place = held_out.queries.column_names.index("conditions")
    field = held_out.queries.schema.field(place)
    return replace(held_out, queries=held_out.queries.set_column(place, field, conditions))


def condition_cover(held_out: HeldOut, items: Items) -> float:
    """Share of the positives that carry a topic of one of their user's conditions.

    What a perfect filter could find at most.
    """
    slots = np.diff(held_out.conditions.offsets)
    users = np.repeat(np.arange(len(held_out.users)), np.diff(held_out.offsets))
    topics = lists_of(np.repeat(users, slots), held_out.conditions.values, len(held_out.users))
    owners = np.repeat(np.arange(len(held_out.users)), np.diff(held_out.positives.offsets))
    return float(carries_topic(items, topics, owners, held_out.positives.values).mean())


def tail_topics(items: Items, engagements: npt.NDArray[np.float64], share: float = 0.2) -> IntArray:
    """The rarest topics that together hold at most `share` of the engagements, ascending.

    Args:
        items: The catalogue.
        engagements: (n,) float64 per item, before the cut-off.
        share: Of the sum over topics; an item of several topics counts for each.
    """
    topics, offsets, rows = items.items_by_topic
    sums = np.r_[0.0, np.cumsum(engagements[rows])]
    weights = np.diff(sums[offsets])
    order = np.lexsort((topics, weights))
    rare = np.cumsum(weights[order]) <= share * weights.sum()
    return np.sort(topics[order[rare]])


def _lists(users: IntArray, pairs: pa.Table, items: Items) -> Lists:
    """Item rows of each of the ascending `users`."""
    owners, rows = ints(pairs, "user_id"), items.rows_of(ints(pairs, "item_id"))
    if len(users) == 0:
        return Lists(np.zeros(1, np.int64), np.zeros(0, np.int64))
    places = np.minimum(np.searchsorted(users, owners), len(users) - 1)
    kept = (users[places] == owners) & (rows >= 0)
    return lists_of(places[kept], rows[kept], len(users))


def _less(lists: Lists, others: Lists, n_items: int) -> Lists:
    """Each list without what the other list at its place holds."""
    keys, other_keys = (
        np.repeat(np.arange(len(some.offsets) - 1), np.diff(some.offsets)) * n_items + some.values
        for some in (lists, others)
    )
    kept = keys[~np.isin(keys, other_keys)]
    return lists_of(kept // max(n_items, 1), kept % max(n_items, 1), len(lists.offsets) - 1)


def _take(lists: Lists, which: Mask) -> Lists:
    lengths = np.diff(lists.offsets)
    values = lists.values[np.repeat(which, lengths)]
    return Lists(np.r_[0, np.cumsum(lengths[which])].astype(np.int64), values)
