"""Who is due tonight: users whom steps 1 and 2 may change. The state of all others is settled.

Users are independent, so the steps may run over the due ones alone, and the settled users' rows
stay as they are, but for old events, which fade: a night costs what changed, and every row is the
same as if all had been due.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.compiling import njit
from profiling.schema import IntArray, group_offsets, ints
from selection.draws import closes, served_until
from selection.outcomes import OutcomeConfig, ripe_impressions

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DueInputs:
    """The tables of one bucket that decide who is due.

    Attributes:
        engagements: New ENGAGEMENTS.
        impressions: New IMPRESSIONS.
        open: OPEN of last night.
        profiles: PROFILES of last night.
        past_profiles: PAST_PROFILES of last night.
        embedding_version: The catalogue's.
    """

    engagements: pa.Table
    impressions: pa.Table
    open: pa.Table
    profiles: pa.Table
    past_profiles: pa.Table
    embedding_version: str


def due_users(inputs: DueInputs, outcomes: OutcomeConfig, *, now: int) -> IntArray:
    """Users whose HISTORY, PROFILES or PAST_PROFILES steps 1 and 2 may change tonight.

    Those with new rows; with impressions that close, which may credit engagements; with profiles of
    other vectors; with past versions, which may fade. Events that fade change nothing else.

    Args:
        inputs: The tables.
        outcomes: Of step 2.
        now: The cut-off, microseconds.

    Returns:
        (u,) int64, ascending.
    """
    stale = pc.not_equal(inputs.profiles["embedding_version"], inputs.embedding_version)
    ripe = pa.array(ripe_impressions(inputs.open, outcomes, now))
    tables = [
        inputs.engagements,
        inputs.impressions,
        inputs.open.filter(ripe),
        inputs.profiles.filter(stale),
        inputs.past_profiles,
    ]
    return np.unique(np.concatenate([ints(t, "user_id") for t in tables]))


def due_queries(
    queries: pa.Table,
    users: IntArray,
    outcomes: OutcomeConfig,
    *,
    now: int,
    parent_cutoff: int | None,
) -> pa.Table:
    """The QUERIES that step 2 may need: those of due users, and those that close tonight.

    Args:
        queries: QUERIES of nights nearby, any order.
        users: (u,) due users, ascending.
        outcomes: Of step 2.
        now: The cut-off, microseconds.
        parent_cutoff: The cut-off of the night before; None on the first.
    """
    needed = closes(served_until(queries), outcomes.horizon_us, now, parent_cutoff)
    needed |= of_users(queries, users)
    return queries if needed.all() else queries.filter(pa.array(needed))


def of_users(table: pa.Table, users: IntArray) -> BoolArray:
    """(n,) bool: which rows are of one of the (u,) users; quick where rows lie by user."""
    ids = ints(table, "user_id")
    bounds = group_offsets(ids)
    return np.repeat(np.isin(ids[bounds[:-1]], users), np.diff(bounds))


def replace_users(
    whole: pa.Table, users: IntArray, rows: pa.Table, faded: IntArray | None = None
) -> pa.Table:
    """`whole` with `rows` in place of the rows of `users`; rows of one user stay in their order.

    Args:
        whole: Rows by user.
        users: (u,) int64, ascending.
        rows: Rows of these users alone, by user.
        faded: Places in `whole`, ascending, of rows that are left out.
    """
    gone = np.zeros(0, np.int64) if faded is None else faded
    order = _replacing(ints(whole, "user_id"), users, ints(rows, "user_id"), gone)
    return pa.concat_tables([whole, rows]).take(pa.array(order))


@njit(cache=True, nogil=True)
def _replacing(whole: IntArray, users: IntArray, rows: IntArray, gone: IntArray) -> IntArray:
    """Places, in two tables laid end to end, of the rows that hold, by user: a merge."""
    order = np.empty(len(whole) + len(rows), np.int64)
    n = a = b = u = g = 0
    while a < len(whole) or b < len(rows):
        if a < len(whole):
            while u < len(users) and users[u] < whole[a]:
                u += 1
            while g < len(gone) and gone[g] < a:
                g += 1
            if (u < len(users) and users[u] == whole[a]) or (g < len(gone) and gone[g] == a):
                a += 1
                continue
        if b < len(rows) and (a == len(whole) or rows[b] < whole[a]):
            order[n] = len(whole) + b
            b += 1
        else:
            order[n] = a
            a += 1
        n += 1
    return order[:n]
