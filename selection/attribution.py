"""What an engagement credits, and what brought an impression: a draw, an interest, or nobody knows.

Nothing here looks at which actions a user took, so flipping them changes no attribution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.compiling import njit
from profiling.items import Items
from profiling.schema import Column, IntArray, TableSchema, ints
from profiling.tables import F64, I64, TEXT
from selection.draws import latest_rows, match_rows

# In memory only: a row per impression and draw that shares its credit.
CREDITS = TableSchema(
    "CREDITS",
    1,
    ("row", "draw_id"),
    (
        Column("row", I64, "row of the impression among those attributed"),
        Column("draw_id", I64, "the draw, 0 if none"),
        Column("query_type", TEXT, "'' where not attributed"),
        Column("query_id", I64, "the query", nullable=True),
        Column("cluster_id", I64, "the interest", nullable=True),
        Column("arm", TEXT, "of the draw"),
        Column("policy", TEXT, "of the draw"),
        Column("propensity", F64, "of the draw", nullable=True, low=0, high=1),
        Column("credit", F64, "share of the impression", low=0, high=1),
        Column("attribution", TEXT, "logged, inferred or none"),
    ),
)

_COSINE_STEPS = 1e6  # per unit of cosine


def credited_rows(history: pa.Table, impressions: pa.Table, window_us: int) -> IntArray:
    """The one impression that each engagement credits.

    A logged impression_id holds, whichever of the two clocks ran ahead; without one it is the
    latest impression of that user and item at or before the engagement, ties to the larger
    impression_id. Both must have `e.at <= at + window`, or the outcome would depend on whether a
    late engagement came before its impression closed.

    Args:
        history: HISTORY; engagements that were credited before are not used again.
        impressions: OPEN rows without their own actions, closing tonight or later.
        window_us: The window, in microseconds.

    Returns:
        (n,) int64: row of `impressions` for each row of `history`, -1 where none.
    """
    rows = np.full(history.num_rows, -1, np.int64)
    if impressions.num_rows == 0:
        return rows
    order = np.argsort(ints(impressions, "impression_id"), kind="stable")
    ids, users = ints(impressions, "impression_id")[order], ints(impressions, "user_id")[order]
    items, at = ints(impressions, "item_id")[order], ints(impressions, "at")[order]
    logged = history["impression_id"].is_valid().to_numpy()
    event_at = ints(history, "at")
    unused = history["credited_id"].is_null().to_numpy() & (event_at <= at.max() + window_us)

    named = np.flatnonzero(unused & logged)
    wanted = ints(history.select(["impression_id"]).take(named), "impression_id")
    rows[named] = match_rows([users, ids], [ints(history, "user_id")[named], wanted])

    free = np.flatnonzero(unused & ~logged & (event_at >= at.min()))
    keys = [ints(history, "user_id")[free], ints(history, "item_id")[free]]
    rows[free] = latest_rows([users, items], at, keys, event_at[free])

    found = np.flatnonzero(rows >= 0)
    outside = event_at[found] > at[rows[found]] + window_us
    rows[found] = np.where(outside, -1, order[rows[found]])
    return rows


def logged_credits(
    impressions: pa.Table, draws: pa.Table, feed: pa.Table | None, rule: str
) -> tuple[pa.Table, IntArray]:
    """Credit of the impressions that name a draw.

    Args:
        impressions: OPEN rows; those without a draw_id are passed over.
        draws: DRAWS, sorted by key.
        feed: FEED rows that the impressions may come of; None: every slot winner takes all.
        rule: slot_winner: credit 1 to the draw named. equal, score: all draws that retrieved the
            item of that slot of the feed share it, equally or by non-negative score (all 0:
            equally). Without a feed row the draw named takes all.

    Returns:
        CREDITS, sums to 1 per impression, no row of credit 0; and the rows of the impressions whose
        draw is not known as that user's.
    """
    rows = np.flatnonzero(impressions["draw_id"].is_valid().to_numpy())
    named = impressions.take(rows)
    winners = _find_draws(draws, ints(named, "user_id"), ints(named, "draw_id"))
    known = winners >= 0
    unknown, rows, winners = rows[~known], rows[known], winners[known]
    credit = np.ones(len(rows))
    if rule != "slot_winner" and feed is not None:
        places, winners, credit = _share(named.filter(pa.array(known)), winners, draws, feed, rule)
        rows = rows[places]
    columns: dict[str, Any] = {"row": rows, "credit": credit}
    taken = draws.take(winners)
    for name in ("draw_id", "query_type", "query_id", "cluster_id", "arm", "policy", "propensity"):
        columns[name] = taken[name]
    columns["attribution"] = pa.repeat("logged", len(rows))
    return CREDITS.build(columns), unknown


def _find_draws(draws: pa.Table, user_ids: IntArray, draw_ids: IntArray) -> IntArray:
    return match_rows([ints(draws, "user_id"), ints(draws, "draw_id")], [user_ids, draw_ids])


def _share(
    named: pa.Table, winners: IntArray, draws: pa.Table, feed: pa.Table, rule: str
) -> tuple[IntArray, IntArray, npt.NDArray[np.float64]]:
    """(place in `named`, row of `draws`, credit) of every draw that shares an impression."""
    places, sharers, scores = _retrieved_by(named, draws, feed)
    alone = np.setdiff1d(np.arange(len(winners)), places)
    places, sharers = np.r_[places, alone], np.r_[sharers, winners[alone]]
    scores = np.r_[scores, np.ones(len(alone))]
    order = np.lexsort((-scores, sharers, places))
    places, sharers, scores = places[order], sharers[order], scores[order]
    first = np.ones(len(order), bool)
    first[1:] = (places[1:] != places[:-1]) | (sharers[1:] != sharers[:-1])
    places, sharers, scores = places[first], sharers[first], scores[first]
    weights = np.ones(len(places)) if rule == "equal" else np.maximum(scores, 0.0)
    totals = np.bincount(places, weights, minlength=len(winners))
    weights = np.where(totals[places] > 0, weights, 1.0)
    credit = weights / np.bincount(places, weights, minlength=len(winners))[places]
    kept = credit > 0
    return places[kept], sharers[kept], credit[kept]


def _retrieved_by(
    named: pa.Table, draws: pa.Table, feed: pa.Table
) -> tuple[IntArray, IntArray, npt.NDArray[np.float64]]:
    """(place, row of `draws`, score): the known draws in the feed slot of each impression."""
    slot = ("user_id", "draw_id", "item_id")
    feed_rows = match_rows([ints(feed, k) for k in slot], [ints(named, k) for k in slot])
    shown = np.flatnonzero(feed_rows >= 0)
    lists: Any = feed.select(["draws"]).take(feed_rows[shown])["draws"].combine_chunks()
    parts = lists.flatten()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    places = np.repeat(shown, lengths.astype(np.int64))
    draw_ids = parts.field(0).to_numpy(zero_copy_only=False).astype(np.int64)
    scores = parts.field(2).to_numpy(zero_copy_only=False).astype(np.float64)
    sharers = _find_draws(draws, ints(named, "user_id")[places], draw_ids)
    known = sharers >= 0
    return places[known], sharers[known], np.nan_to_num(scores[known], posinf=0.0)


def inferred_credits(
    impressions: pa.Table, versions: pa.Table, items: Items, threshold: float
) -> pa.Table:
    """Credit of the impressions that name no draw, to the interest they look like.

    The medoid with the highest cosine to the item shown, if at least `threshold`, of the user's
    newest profile whose cut-off is not after the impression: a later one would leak, since whatever
    was clicked is its member by then. Ties go to the smaller medoid id.

    Args:
        impressions: OPEN rows; those with a draw_id are passed over.
        versions: PROFILES and PAST_PROFILES columns user_id, cutoff, medoid_item_id, cluster_id.
        items: The catalogue.
        threshold: Least cosine; cosines are rounded to 1e-6.

    Returns:
        CREDITS, one row per impression: inferred, or none where nothing is near enough.
    """
    rows = np.flatnonzero(impressions["draw_id"].is_null().to_numpy())
    shown = impressions.take(rows)
    versions = versions.filter(pc.is_in(versions["user_id"], value_set=_users_of(shown)))
    users, cutoffs = ints(versions, "user_id"), ints(versions, "cutoff")
    medoids, clusters = ints(versions, "medoid_item_id"), ints(versions, "cluster_id")
    order = np.lexsort((clusters, medoids, cutoffs, users))
    users, cutoffs, medoids = users[order], cutoffs[order], medoids[order]
    starts, stops = _version_bounds(users, cutoffs)
    at, shown_users = ints(shown, "at"), ints(shown, "user_id")
    version = latest_rows([users[starts]], cutoffs[starts], [shown_users], at)
    known = np.flatnonzero(version >= 0)
    best, cosine = np.full(len(rows), -1, np.int64), np.full(len(rows), -np.inf)
    best[known], cosine[known] = _nearest_medoids(
        items.rows_of(ints(shown, "item_id"))[known],
        starts[version[known]],
        stops[version[known]],
        items.rows_of(medoids),
        items.vectors,
    )
    near = (best >= 0) & (cosine >= threshold)
    return _inferred_table(rows, near, medoids[best[near]], clusters[order][best[near]])


def _users_of(table: pa.Table) -> pa.Array[Any]:
    return table["user_id"].combine_chunks().unique()


def _version_bounds(users: IntArray, cutoffs: IntArray) -> tuple[IntArray, IntArray]:
    """First row and row after the last of every run of (user, cut-off)."""
    first = np.ones(len(users), bool)
    first[1:] = (users[1:] != users[:-1]) | (cutoffs[1:] != cutoffs[:-1])
    starts = np.flatnonzero(first)
    return starts, np.r_[starts[1:], len(users)].astype(np.int64)[: len(starts)]


def _inferred_table(
    rows: IntArray, near: npt.NDArray[np.bool_], medoids: IntArray, clusters: IntArray
) -> pa.Table:
    n = len(rows)
    query_ids, cluster_ids = np.zeros(n, np.int64), np.zeros(n, np.int64)
    query_ids[near], cluster_ids[near] = medoids, clusters
    is_near = pa.array(near)
    return CREDITS.build(
        {
            "row": rows,
            "draw_id": np.zeros(n, np.int64),
            "query_type": pc.if_else(is_near, "item", ""),
            "query_id": pa.array(query_ids, mask=~near),
            "cluster_id": pa.array(cluster_ids, mask=~near),
            "arm": pa.repeat("", n),
            "policy": pa.repeat("", n),
            "propensity": pa.nulls(n, pa.float64()),
            "credit": np.ones(n),
            "attribution": pc.if_else(is_near, "inferred", "none"),
        }
    )


@njit(cache=True, nogil=True)
def _nearest_medoids(
    shown: IntArray,
    starts: IntArray,
    stops: IntArray,
    medoids: IntArray,
    vectors: npt.NDArray[np.float32],
) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """For each item row shown, the place in `starts[i]:stops[i]` of the nearest medoid row.

    Returns (n,) int64 places, -1 where no vector is known, and (n,) float64 rounded cosines. Sums
    in a fixed order, four at a time for speed: the same bits in any batch, unlike a BLAS product.
    """
    places = np.full(len(shown), -1, np.int64)
    cosines = np.full(len(shown), -np.inf)
    width = vectors.shape[1]
    for i in range(len(shown)):
        if shown[i] < 0:
            continue
        a = vectors[shown[i]]
        for j in range(starts[i], stops[i]):
            if medoids[j] < 0:
                continue
            b = vectors[medoids[j]]
            s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
            for k in range(0, width - 3, 4):
                s0 += np.float64(a[k]) * np.float64(b[k])
                s1 += np.float64(a[k + 1]) * np.float64(b[k + 1])
                s2 += np.float64(a[k + 2]) * np.float64(b[k + 2])
                s3 += np.float64(a[k + 3]) * np.float64(b[k + 3])
            for k in range(width - width % 4, width):
                s0 += np.float64(a[k]) * np.float64(b[k])
            cosine = np.rint((s0 + s1 + s2 + s3) * _COSINE_STEPS) / _COSINE_STEPS
            if cosine > cosines[i]:
                places[i], cosines[i] = j, cosine
    return places, cosines
