"""Step 6: the candidates of all draws become one feed. Runs on a bucket of users or one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.hashing import text_hash
from profiling.items import Items
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, IntArray, floats, group_offsets, ints, sort_rows
from retrieval.spacing.diversity import SpectrumTerm
from retrieval.spacing.labels import check_vectors
from retrieval.spacing.terms import FeedSpacing, SpacingTerm, order_spaced, stack_columns
from retrieval.spacing.utility import BoolArray, Ordering, Pool, UtilityTerm, order_feeds
from retrieval.tables import DRAW_LIST, FEED, PENALTY_LIST

_FEED_KEY = ("run_date", "user_id", "surface")


@dataclass(frozen=True)
class FeedConfig:
    """How a feed is made of candidates."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    size: int = option(25, "items in a feed (design)", low=1, high=10_000)
    merge: str = option(
        "score",
        "what relevance is made of. score: the greatest cosine to any of the draws that retrieved "
        "the item; round_robin: its turn when the slots take turns, each with its best first "
        "(round robin in place of a global top k: +0.35 % repin users, arXiv 2506.23060)",
        choices=("score", "round_robin"),
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class _Merged:
    """Candidates by (feed, item), those of one item best draw first; items held once.

    Attributes:
        rows: CANDIDATES in this order.
        draw_rows: (n,) each candidate's draw, as its place in the queries, sorted by key.
        bounds: (m + 1,) item j of all feeds has candidates `bounds[j]:bounds[j + 1]`.
        feeds: (m,) the feed of each item, numbered as `_feeds_of_draws` does; some may be missing.
        item_rows: (m,).
    """

    rows: pa.Table
    draw_rows: IntArray
    bounds: IntArray
    feeds: IntArray
    item_rows: IntArray


def rerank_feed(
    candidates: pa.Table,
    queries: pa.Table,
    items: Items,
    config: FeedConfig,
    *,
    spacing: FeedSpacing | None = None,
    terms: Sequence[UtilityTerm] = (),
) -> pa.Table:
    """One feed per (run date, user, surface), ordered by utility.

    `U_i(t) = f(r_i) + diversity_i(t) - sum_c penalty_c,i(t)`; f is min-max over the feed's
    candidates, .5 where all are equal. An item that several draws retrieved is kept once; it took
    the slot of the draw where it ranks best, on equal ranks of the lower slot.

    Args:
        candidates: CANDIDATES of any users.
        queries: QUERIES with the draws of the candidates; others are left out.
        items: The catalogue that the candidates came from.
        config: Options.
        spacing: Diversity and spacing classes; None, or nothing switched on: pure relevance.
        terms: Further terms of the utility.

    Returns:
        FEED.

    Raises:
        ValueError: A candidate's draw or item is unknown, its score is no number, or it has no
            embedding to be compared by.
    """
    if candidates.num_rows == 0:
        return FEED.empty()
    queries = sort_rows(queries, (*_FEED_KEY, "slot"))
    merged = _merge_draws(candidates, queries, items)
    pool, owners = _pool_of(merged, queries, items, config)
    spaced = () if spacing is None else spacing.terms(pool.feeds)
    if spacing is not None:
        check_vectors(pool.item_rows, spacing, items)
    ordering = _order(pool, config.size, spacing, (*spaced, *terms))
    parts = terms if spacing is None else (*spacing.version_parts, *terms)
    version = config_version(config, parts)
    names = [term.name for term in (*spaced, *terms) if term.kind == "penalty"]
    rows = pool.item_rows[ordering.chosen]
    columns = {
        "draw_id": queries["draw_id"].take(owners[ordering.chosen]),
        "draws": _draw_lists(merged, ordering.chosen),
        "config_version": pa.repeat(version, len(ordering.chosen)),
        **_books(ordering, spaced, rows, names),
    }
    return FEED.build(columns | _places(pool, ordering, items.ids[rows]))


def _places(pool: Pool, ordering: Ordering, item_ids: IntArray) -> dict[str, Any]:
    """The columns that say whose place it is, what stands there and what it is worth."""
    feeds = pool.feeds.take(ordering.feeds)
    return {
        **{name: feeds[name] for name in (*_FEED_KEY, "serve_date")},
        "position": ordering.positions,
        "item_id": item_ids,
        "relevance": pool.relevance[ordering.chosen],
        "diversity": ordering.diversity,
    }


def _order(
    pool: Pool, size: int, spacing: FeedSpacing | None, terms: Sequence[UtilityTerm]
) -> Ordering:
    """Our own terms go through the compiled rerank, foreign ones through the literal equation."""
    cap = np.inf if spacing is None else spacing.config.joint_cap
    ours = [t for t in terms if isinstance(t, SpectrumTerm | SpacingTerm)]
    if spacing is None or not ours or len(ours) < len(terms):
        return order_feeds(pool, size, terms, cap)
    return order_spaced(pool, size, ours, cap, spacing.norms)


def pool_of(candidates: pa.Table, queries: pa.Table, items: Items, config: FeedConfig) -> Pool:
    """What the feeds of these candidates are chosen from."""
    queries = sort_rows(queries, (*_FEED_KEY, "slot"))
    return _pool_of(_merge_draws(candidates, queries, items), queries, items, config)[0]


def config_version(config: FeedConfig, terms: Sequence[Any]) -> str:
    """12 hexadecimal digits that change with any option of the config or of a term."""
    return f"{int(text_hash(repr((config, tuple(terms))))):016x}"[:12]


def _merge_draws(candidates: pa.Table, queries: pa.Table, items: Items) -> _Merged:
    draw_rows = _draw_rows(ints(candidates, "draw_id"), ints(queries, "draw_id"))
    item_ids = ints(candidates, "item_id")
    item_rows = items.rows_of(item_ids)
    if (item_rows < 0).any():
        raise ValueError(
            f"candidate {item_ids[item_rows < 0][0]} is not in ITEMS; "
            "retrieve and rerank with one catalogue"
        )
    feed_of = _feeds_of_draws(queries)
    spots = feed_of[draw_rows] * len(items.ids) + item_rows
    priority = ints(candidates, "rank") * queries.num_rows + draw_rows  # draws lie by slot
    order = _sorted_by(spots, priority)
    bounds = group_offsets(spots[order])
    owners = order[bounds[:-1]]
    return _Merged(
        rows=candidates.select(["draw_id", "rank", "score"]).take(order),
        draw_rows=draw_rows[order],
        bounds=bounds,
        feeds=feed_of[draw_rows[owners]],
        item_rows=item_rows[owners],
    )


def _sorted_by(first: IntArray, second: IntArray) -> IntArray:
    """`np.lexsort((second, first))` of pairs that come once, none below 0; as one key if it fits.

    One key sorts in a fifth of the time.
    """
    span = int(second.max(initial=0)) + 1
    if int(first.max(initial=0)) + 1 > np.iinfo(np.int64).max // span:
        return np.lexsort((second, first))
    order: IntArray = np.argsort(first * span + second)
    return order


def _draw_rows(wanted: IntArray, draw_ids: IntArray) -> IntArray:
    """The place of each wanted draw among `draw_ids`; a draw's candidates mostly lie together."""
    runs = group_offsets(wanted)
    heads = wanted[runs[:-1]]
    order = np.argsort(draw_ids)
    known = np.isin(heads, draw_ids)
    if not known.all():
        raise ValueError(
            f"candidates of draw {heads[~known][0]}, which is not in QUERIES; "
            "pass the queries they were retrieved with"
        )
    places = order[np.searchsorted(draw_ids, heads, sorter=order)]
    return np.repeat(places, np.diff(runs))


def _feeds_of_draws(queries: pa.Table) -> IntArray:
    """The feed of each draw of queries sorted by key, counted from 0."""
    new = np.zeros(queries.num_rows, bool)
    surfaces: Any = queries["surface"].combine_chunks().dictionary_encode()
    codes = surfaces.indices.to_numpy()
    for values in (ints(queries, "run_date"), ints(queries, "user_id"), codes):
        new[1:] |= values[1:] != values[:-1]
    return np.cumsum(new).astype(np.int64)


def _pool_of(
    merged: _Merged, queries: pa.Table, items: Items, config: FeedConfig
) -> tuple[Pool, IntArray]:
    """What `order_feeds` chooses from, and (m,) for each item the draw whose slot it took."""
    starts = group_offsets(merged.feeds)
    owners = merged.draw_rows[merged.bounds[:-1]]
    pool = Pool(
        bounds=starts,
        item_rows=merged.item_rows,
        relevance=_min_max(_raw_relevance(merged, config), starts),
        feeds=queries.select([*_FEED_KEY, "serve_date", "arm"]).take(owners[starts[:-1]]),
        items=items,
    )
    return pool, owners


def _raw_relevance(merged: _Merged, config: FeedConfig) -> FloatArray:
    """(m,) float64, greater is better, comparable within a feed."""
    starts = merged.bounds[:-1]
    if config.merge == "score":
        scores = floats(merged.rows, "score")
        if not np.isfinite(scores).all():
            raise ValueError(f"score {scores[~np.isfinite(scores)][0]} in CANDIDATES: not a number")
        best: FloatArray = np.maximum.reduceat(scores, starts)
        return best
    ranks = ints(merged.rows, "rank")[starts]
    order = np.lexsort((merged.draw_rows[starts], ranks, merged.feeds))
    turns = np.empty(len(starts))
    turns[order] = np.arange(len(starts))
    return -turns


def _min_max(values: FloatArray, bounds: IntArray) -> FloatArray:
    """(m,) values scaled to [0, 1] within each group; .5 where a group has one value."""
    lengths = np.diff(bounds)
    low = np.repeat(np.minimum.reduceat(values, bounds[:-1]), lengths)
    span = np.repeat(np.maximum.reduceat(values, bounds[:-1]), lengths) - low
    flat = span == 0
    return np.where(flat, 0.5, (values - low) / np.where(flat, 1.0, span))


def _draw_lists(merged: _Merged, chosen: IntArray) -> pa.Array[Any]:
    """DRAW_LIST of the chosen items, the draw whose slot it took first."""
    lengths = np.diff(merged.bounds)[chosen]
    offsets = np.r_[0, np.cumsum(lengths)]
    shift = np.repeat(merged.bounds[chosen] - offsets[:-1], lengths)
    rows = merged.rows.take(np.arange(offsets[-1]) + shift).combine_chunks()
    return _lists(offsets, [rows[name].combine_chunks() for name in rows.column_names], DRAW_LIST)


def _books(
    ordering: Ordering, terms: Sequence[UtilityTerm], rows: IntArray, names: list[str]
) -> dict[str, pa.Array[Any]]:
    """The columns that say what spacing did; `names` of all penalties, ours first."""
    return {
        "penalties": _ledger(ordering, names),
        "spacing_classes": _name_lists(_marks(terms, rows), names),
        "decided_by": _name_lists(ordering.decided, names),
    }


def _ledger(ordering: Ordering, names: list[str]) -> pa.Array[Any]:
    """PENALTY_LIST: what every spacing class took off each item that was placed."""
    n = len(ordering.chosen)
    codes = np.tile(np.arange(len(names), dtype=np.int32), n)
    offsets = np.arange(n + 1) * len(names)
    columns = [_texts(codes, names), pa.array(ordering.penalties.reshape(-1))]
    return _lists(offsets, columns, PENALTY_LIST)


def _marks(terms: Sequence[UtilityTerm], rows: IntArray) -> BoolArray:
    """(r, c) which spacing classes the items of those rows are of, whether they work or not."""
    columns = [t.members[rows] for t in terms if isinstance(t, SpacingTerm)]
    return stack_columns(columns, len(rows))


def _name_lists(marks: BoolArray, names: list[str]) -> pa.Array[Any]:
    """The names of the columns in which each row of (r, c) is true."""
    rows, codes = np.nonzero(marks)
    offsets = np.searchsorted(rows, np.arange(len(marks) + 1))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), _texts(codes.astype(np.int32), names)
    )


def _texts(codes: npt.NDArray[np.int32], names: list[str]) -> pa.Array[Any]:
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())).cast(pa.string())


def _lists(offsets: IntArray, columns: list[Any], type_: pa.DataType) -> pa.Array[Any]:
    """A column of lists of structs from its flat columns, in the order of the struct's fields."""
    fields: Any = type_
    parts = pa.StructArray.from_arrays(columns, fields=list(fields.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), parts)
