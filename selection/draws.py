"""Draws as attribution sees them: QUERIES and SERVED_DRAWS in one table, and how a draw closes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.decay import DAY_US
from profiling.schema import TIMESTAMP, Column, IntArray, TableSchema, ints, sort_rows
from profiling.tables import F64, I64, TEXT
from selection.tables import CLOSED_DRAWS

SHOWN_COLUMNS = ("user_id", "draw_id")  # what closing a draw reads of OUTCOMES

# In memory only. Two users may come with one draw_id (a bad log): the key keeps users independent.
DRAWS = TableSchema(
    "DRAWS",
    1,
    ("user_id", "draw_id"),
    (
        Column("draw_id", I64, "the draw"),
        Column("user_id", I64, "for whom"),
        Column("surface", TEXT, "where"),
        Column("at", TIMESTAMP, "end of the day it was for"),
        Column("per_request", pa.bool_(), "drawn by the serving system, not by the night"),
        Column("query_type", TEXT, "what query_id is"),
        Column("query_id", I64, "the query"),
        Column("cluster_id", I64, "the interest"),
        Column("propensity", F64, "inclusion probability of the cluster", low=0, high=1),
        Column("policy", TEXT, "policy name and version"),
        Column("arm", TEXT, "arm of the experiment, '' if none"),
    ),
)


def draws_of(queries: pa.Table, served_draws: pa.Table) -> pa.Table:
    """One table of all draws that an impression may name, sorted by (user_id, draw_id).

    `at` is the end of the day the draw was for: `run_date + 2 days` at 00:00 UTC for the night's
    draws, which serve on `run_date + 1`; the end of the day it was made for those per request.
    Where a user has one draw_id twice, the night's draw holds, then the smallest content_digest.

    Args:
        queries: QUERIES rows of every night whose draws may still be named or close.
        served_draws: SERVED_DRAWS rows of that time.

    Returns:
        DRAWS.
    """
    nightly_at = served_until(queries)
    served_at = (ints(served_draws, "at") // DAY_US + 1) * DAY_US
    draws = pa.concat_tables([_as_draws(queries, nightly_at), _as_draws(served_draws, served_at)])
    digests = np.r_[np.zeros(queries.num_rows, np.int64), ints(served_draws, "content_digest")]
    per_request = np.arange(draws.num_rows) >= queries.num_rows
    users, ids = ints(draws, "user_id"), ints(draws, "draw_id")
    order = np.lexsort((digests, per_request, ids, users))
    draws = draws.append_column("per_request", pa.array(per_request)).take(order)
    users, ids = users[order], ids[order]
    first = np.ones(len(order), bool)
    first[1:] = (users[1:] != users[:-1]) | (ids[1:] != ids[:-1])
    return DRAWS.check(draws.filter(pa.array(first)))


def served_until(queries: pa.Table) -> IntArray:
    """(n,) int64 microseconds: the end of the day that QUERIES were for."""
    return (ints(queries, "run_date") + 2) * DAY_US


def _as_draws(rows: pa.Table, at: IntArray) -> pa.Table:
    shared = [c.name for c in DRAWS.columns if c.name not in ("at", "per_request")]
    return rows.select(shared).append_column("at", pa.array(at).cast(TIMESTAMP))


def match_rows(held: Sequence[IntArray], wanted: Sequence[IntArray]) -> IntArray:
    """For every key wanted, the first row of `held` that has it; -1 where none has.

    Args:
        held: k key columns, each (n,) int64.
        wanted: The same k columns, each (m,) int64.

    Returns:
        (m,) int64 rows of `held`.
    """
    n = len(held[0])
    keys = [np.concatenate(pair) for pair in zip(held, wanted, strict=True)]
    order = np.lexsort(keys)  # stable: of equal keys the held rows come first, in their order
    starts = np.zeros(len(order), bool)
    starts[:1] = True
    for key in keys:
        starts[1:] |= key[order[1:]] != key[order[:-1]]
    firsts = order[starts]
    found = np.empty(len(order), np.int64)
    found[order] = np.where(firsts < n, firsts, -1)[np.cumsum(starts) - 1]
    return found[n:]


def latest_rows(
    held: Sequence[IntArray], held_at: IntArray, wanted: Sequence[IntArray], wanted_at: IntArray
) -> IntArray:
    """For every key and time wanted, the latest row of `held` of that key at or before the time.

    Args:
        held: k key columns, each (n,) int64; of equal times the later row is taken.
        held_at: (n,) int64 microseconds.
        wanted: The same k columns, each (m,) int64.
        wanted_at: (m,) int64 microseconds.

    Returns:
        (m,) int64 rows of `held`, -1 where there is none.
    """
    n, m = len(held_at), len(wanted_at)
    keys = [np.concatenate(pair) for pair in zip(held, wanted, strict=True)]
    order = np.lexsort((np.r_[held_at, wanted_at], *keys))  # stable: held before wanted
    places = np.where(order < n, np.arange(n + m), -1)
    latest = np.maximum.accumulate(places) if n + m else places
    rows = np.empty(n + m, np.int64)
    rows[order] = np.where(latest >= 0, order[latest], -1)
    rows = rows[n:]
    for mine, theirs in zip(held, wanted, strict=True):
        found = rows >= 0
        rows[found] = np.where(mine[rows[found]] == theirs[found], rows[found], -1)
    return rows


def close_draws(
    draws: pa.Table,
    outcomes: pa.Table,
    *,
    horizon_us: int,
    now: int,
    parent_cutoff: int | None,
) -> pa.Table:
    """Close the draws whose horizon `at + horizon_us` lies in (parent cut-off, now].

    `brought`: an outcome carries the draw. `empty`: none does, though the user saw what another
    draw of that night (or, per request, of that day) and surface brought. `unserved`: the user saw
    no such thing, which says nothing of the query (design, section 4, Reward). An impression of the
    draw's day closes at most a day before the draw, so tonight's and the last night's outcomes hold
    it where nights are a day apart or more; lines with their own actions close the window earlier.

    Args:
        draws: DRAWS.
        outcomes: The columns `SHOWN_COLUMNS` of OUTCOMES of tonight and of the night before.
        horizon_us: Window + lateness.
        now: The cut-off, exclusive.
        parent_cutoff: The cut-off of the night before; None on the first.

    Returns:
        CLOSED_DRAWS, sorted by key.
    """
    ripe = closes(ints(draws, "at"), horizon_us, now, parent_cutoff)
    draws = draws.filter(pa.array(ripe))  # those of one night close together
    shown = _draw_keys(_credited_to(outcomes, draws))
    brought = match_rows(shown, _draw_keys(draws)) >= 0
    visits = match_rows(_draw_keys(draws), shown)
    nights = _night_keys(draws)
    came = match_rows([k[visits[visits >= 0]] for k in nights], nights) >= 0
    state = np.where(brought, "brought", np.where(came, "empty", "unserved"))
    closed = draws.append_column("state", pa.array(state.tolist(), pa.string()))
    return sort_rows(CLOSED_DRAWS.check(closed), CLOSED_DRAWS.key)


def closes(
    at: IntArray, horizon_us: int, now: int, parent_cutoff: int | None
) -> npt.NDArray[np.bool_]:
    """(n,) bool: which draws `at` these times, in microseconds, close tonight."""
    ends = at + horizon_us
    ripe: npt.NDArray[np.bool_] = ends <= now
    return ripe if parent_cutoff is None else ripe & (ends > parent_cutoff)


def _credited_to(outcomes: pa.Table, draws: pa.Table) -> pa.Table:
    """Outcomes that carry one of these draws' ids."""
    ids = draws["draw_id"].combine_chunks()
    return outcomes.filter(pc.is_in(outcomes["draw_id"], value_set=ids))


def _draw_keys(table: pa.Table) -> list[IntArray]:
    return [ints(table, "user_id"), ints(table, "draw_id")]


def _night_keys(draws: pa.Table) -> list[IntArray]:
    """User, night, surface: what the night drew and what was drawn per request stay apart."""
    surfaces = pc.index_in(draws["surface"], pc.unique(draws["surface"]).drop_null())
    per_request = draws["per_request"].to_numpy().astype(np.int64)
    surface_codes = surfaces.to_numpy().astype(np.int64)
    return [ints(draws, "user_id"), ints(draws, "at"), per_request, surface_codes]
