"""Step 5: every query brings its own candidates. Runs on a bucket of users or on one request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.compiling import njit
from profiling.items import Items
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray, group_offsets, ints, sort_rows
from retrieval.encoders import Asked, ItemEncoder, QueryEncoder
from retrieval.index.exact import Hits, ItemIndex, Lists, Searches, Vectors
from retrieval.tables import CANDIDATES

LEARNED_ARMS = ("lr", "lr_filter", "cr", "cr_filter")
_EMPTY_LIST = Lists(np.zeros(2, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class RetrievalConfig:
    """How candidates are retrieved."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    candidates_per_query: int = option(
        50, "quota of every draw, whatever the others bring (design)", low=1, high=10_000
    )
    arm: str = option(
        "auto",
        "index: what lies near the query's item; lr: learned retrieval by the user's history; "
        "cr: by history and the query's condition; lr_filter, cr_filter: the same inside the slice "
        "of the condition; auto: cr_filter where the warehouse has a model, else index",
        choices=("auto", "index", *LEARNED_ARMS),
    )
    condition: str = option(
        "slice",
        "of the arm index. slice: only items that carry a topic of the query's condition; none: "
        "the whole catalogue",
        choices=("slice", "none"),
    )
    unconditioned_slots: int = option(
        1,
        "how many of a user's slots on a surface, the last ones, a model is asked for without "
        "their condition: on KuaiRand one brings 38 % of what users like next, none 22 %; what "
        "they bring counts for the query that was drawn. The arm index holds every slot to its own",
        low=0,
    )
    model: int = option(
        0, "number of the model; 0: the newest trained up to the night's cut-off or before", low=0
    )
    fall_back: bool = option(
        False,
        "whether a night takes the arm index where its model cannot be used, instead of stopping; "
        "its manifest says why",
    )
    fill: bool = option(
        True, "whether a draw whose slice has too few items gets the rest without a condition"
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def filtered(self) -> bool:
        """Whether searches are held to the slice of their condition."""
        return self.arm.endswith("_filter") or (self.arm == "index" and self.condition == "slice")

    def settled(self, *, learned: bool) -> RetrievalConfig:
        """These options with `auto` decided.

        Args:
            learned: Whether there is a model to ask.

        Raises:
            ValueError: The arm needs a model, and there is none.
        """
        if self.arm == "auto":
            return replace(self, arm="cr_filter" if learned else "index")
        if self.arm in LEARNED_ARMS and not learned:
            raise ValueError(f"the arm {self.arm} asks a model, and there is none; train one")
        return self


class _Found(NamedTuple):
    """Hits of all draws in one row each: draw (place in the sorted queries), item row, score."""

    draws: IntArray
    rows: IntArray
    scores: npt.NDArray[np.float32]
    ranks: IntArray

    def take(self, which: npt.NDArray[Any]) -> _Found:
        """Rows by place or by mask."""
        return _Found(self.draws[which], self.rows[which], self.scores[which], self.ranks[which])

    def join(self, other: _Found) -> _Found:
        """These rows, then those."""
        return _Found(
            np.concatenate([self.draws, other.draws]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.ranks, other.ranks]),
        )


def retrieve_candidates(
    queries: pa.Table,
    seen: pa.Table,
    index: ItemIndex,
    items: Items,
    config: RetrievalConfig,
    encoder: QueryEncoder | None = None,
) -> pa.Table:
    """The items nearest to each query's vector, within the condition of the query.

    Neither items that the user has engaged with come back, nor the items of the user's own queries.
    Equal scores are ordered by item id. Where a slice is exhausted, candidates without the
    condition follow those with it, whatever their score. A query of another type than `item`, or
    whose item is not in `items`, brings nothing.

    Args:
        queries: QUERIES of any users; a draw_id stands for one row.
        seen: (user_id, item_id) already engaged, any order, any users.
        index: Over `items`, by their own vectors for the arm index, else by the model's.
        items: The catalogue.
        config: Options.
        encoder: Of the model, for the learned arms; the arm index has its own.

    Returns:
        CANDIDATES.

    Raises:
        ValueError: A learned arm without `encoder`.
    """
    config = config.settled(learned=encoder is not None)
    if encoder is None or config.arm == "index":
        encoder = ItemEncoder(items)
    queries, query_rows = _answerable(queries, items)
    searches = _searches(queries, query_rows, encoder, items, config)
    searches = _excluding(searches, queries, query_rows, seen, items)
    hits = index.search(searches, config.candidates_per_query)
    found = _flat(hits)
    if config.fill and config.filtered:
        found = found.join(_fill(searches, hits, index, items))
    found = found.take(np.argsort(found.draws * len(items.ids) + found.rows))
    matched = carries_topic(items, condition_lists(queries)[0], found.draws, found.rows)
    return _table(queries, items, found, matched)


def _answerable(queries: pa.Table, items: Items) -> tuple[pa.Table, IntArray]:
    """The queries that can be asked, by (user, draw), and the item row of each."""
    queries = sort_rows(queries, ("user_id", "draw_id"))
    rows = items.rows_of(ints(queries, "query_id"))
    kept = (rows >= 0) & (queries["query_type"].to_numpy() == "item")
    return queries.filter(pa.array(kept)), rows[kept]


def _searches(
    queries: pa.Table,
    query_rows: IntArray,
    encoder: QueryEncoder,
    items: Items,
    config: RetrievalConfig,
) -> Searches:
    """What the arm asks, nothing excluded yet."""
    asked = Asked(ints(queries, "user_id"), query_rows, *condition_lists(queries))
    slots = 0 if config.arm == "index" else config.unconditioned_slots
    free = np.flatnonzero(_unconditioned(queries, slots))
    held = asked.without(free).conditions if config.filtered else _EMPTY_LIST
    if config.arm in ("lr", "lr_filter"):
        asked = asked.without(np.arange(len(query_rows)))
    elif config.arm != "index":
        asked = asked.without(free)
    vectors, vector_of = encoder.encode(asked)
    conditions, condition_of = held, np.zeros(len(query_rows), np.int64)
    if config.filtered:
        conditions, condition_of = distinct_lists(held)
    nobody = np.zeros(len(query_rows), np.int64)
    return Searches(vectors, vector_of, conditions, condition_of, _EMPTY_LIST, nobody)


def _unconditioned(queries: pa.Table, slots: int) -> npt.NDArray[np.bool_]:
    """(n,) whether a query has one of the last `slots` slots of its user on its surface.

    The surfaces of a user may have drawn different numbers of queries: the last slot is its own.
    """
    if slots == 0 or queries.num_rows == 0:
        return np.zeros(queries.num_rows, bool)
    surfaces = queries["surface"].combine_chunks().dictionary_encode().indices.to_numpy()
    keys = np.stack([ints(queries, "user_id"), surfaces.astype(np.int64)], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group, slot = group.reshape(-1), ints(queries, "slot")
    last = np.zeros(group.max() + 1, np.int64)
    np.maximum.at(last, group, slot)
    return np.asarray(slot > last[group] - slots, bool)


def _excluding(
    searches: Searches, queries: pa.Table, query_rows: IntArray, seen: pa.Table, items: Items
) -> Searches:
    """The searches, with what their users have engaged with or ask with left out."""
    users, user_of = np.unique(ints(queries, "user_id"), return_inverse=True)
    excluded = _excluded(users, (user_of, query_rows), seen, items)
    return searches._replace(excluded=excluded, excluded_of=user_of.astype(np.int64))


def _excluded(
    users: IntArray, asked: tuple[IntArray, IntArray], seen: pa.Table, items: Items
) -> Lists:
    """Item rows that each of the ascending `users` must not get: seen, or `asked` with."""
    if len(users) == 0:
        return _EMPTY_LIST
    seers, rows = ints(seen, "user_id"), items.rows_of(ints(seen, "item_id"))
    places = np.minimum(np.searchsorted(users, seers), len(users) - 1)
    kept = (users[places] == seers) & (rows >= 0)
    owners = np.concatenate([places[kept], asked[0]])
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(len(users) + 1))
    return Lists(offsets.astype(np.int64), np.concatenate([rows[kept], asked[1]])[order])


def condition_lists(queries: pa.Table) -> tuple[Lists, Vectors]:
    """The topics of each query's condition, ascending, and the confidence of each."""
    column: Any = queries["conditions"].combine_chunks()
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    parts = column.flatten()
    topics = parts.field("topic_id").to_numpy(zero_copy_only=False).astype(np.int64)
    sure = parts.field("confidence").to_numpy(zero_copy_only=False).astype(np.float32)
    order = np.lexsort((topics, np.repeat(np.arange(len(lengths)), lengths)))
    return Lists(np.r_[0, np.cumsum(lengths)].astype(np.int64), topics[order]), sure[order]


def distinct_lists(lists: Lists) -> tuple[Lists, IntArray]:
    """The distinct lists, and which of them each list is: the bytes of a list are its key."""
    n = len(lists.offsets) - 1
    buffers = [None, *(pa.py_buffer(a.tobytes()) for a in (lists.offsets * 8, lists.values))]
    coded: Any = pa.Array.from_buffers(pa.large_binary(), n, buffers).dictionary_encode()
    which = coded.indices.to_numpy().astype(np.int64)
    lengths = pc.binary_length(coded.dictionary).to_numpy().astype(np.int64) // 8
    values = np.frombuffer(b"".join(coded.dictionary.to_pylist()), np.int64).copy()
    return Lists(np.r_[0, np.cumsum(lengths)].astype(np.int64), values), which


def _flat(hits: Hits) -> _Found:
    found = np.arange(hits.rows.shape[1]) < hits.counts[:, None]
    draws, ranks = np.nonzero(found)
    return _Found(draws, hits.rows[found], hits.scores[found], ranks)


def _fill(searches: Searches, hits: Hits, index: ItemIndex, items: Items) -> _Found:
    """What draws that missed their quota get from the whole catalogue, ranked after their own.

    A draw is short because its slice is exhausted. So the k best of the catalogue less those in the
    slice hold at least as many as are missing, if there are as many.
    """
    quota = hits.rows.shape[1]
    lengths = np.diff(searches.conditions.offsets)[searches.condition_of]
    short = np.flatnonzero((hits.counts < quota) & (lengths > 0))
    whole = searches._replace(
        vector_of=searches.vector_of[short],
        conditions=_EMPTY_LIST,
        condition_of=np.zeros(len(short), np.int64),
        excluded_of=searches.excluded_of[short],
    )
    found = _flat(index.search(whole, quota))
    conditions = searches.condition_of[short][found.draws]
    other = ~carries_topic(items, searches.conditions, conditions, found.rows)
    found = found.take(other)
    starts = group_offsets(found.draws)
    places = np.arange(len(found.draws)) - np.repeat(starts[:-1], np.diff(starts))
    draws = short[found.draws]
    ranks = hits.counts[draws] + places
    return found._replace(draws=draws, ranks=ranks).take(ranks < quota)


def carries_topic(
    items: Items, topics: Lists, which: IntArray, rows: IntArray
) -> npt.NDArray[np.bool_]:
    """(m,) whether item `rows[i]` carries one of the topics in list `which[i]`."""
    carried = Lists(items.topic_offsets, items.topic_ids)
    common: npt.NDArray[np.bool_] = _any_common(carried, rows, topics, which)
    return common


@njit(cache=True, nogil=True)
def _any_common(
    left: Lists, lefts: IntArray, right: Lists, rights: IntArray
) -> npt.NDArray[np.bool_]:
    common = np.zeros(len(lefts), np.bool_)
    for i in range(len(lefts)):
        for value in left.values[left.offsets[lefts[i]] : left.offsets[lefts[i] + 1]]:
            for other in right.values[right.offsets[rights[i]] : right.offsets[rights[i] + 1]]:
                common[i] |= value == other
    return common


def _table(
    queries: pa.Table, items: Items, found: _Found, matched: npt.NDArray[np.bool_]
) -> pa.Table:
    draws = queries.select(["draw_id", "user_id", "surface", "slot"]).take(found.draws)
    return CANDIDATES.build(
        {
            **dict(zip(draws.column_names, draws.columns, strict=True)),
            "item_id": items.ids[found.rows],
            "score": found.scores,
            "rank": found.ranks,
            "condition_matched": matched,
        }
    )
