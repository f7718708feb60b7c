"""Step 3, first pass: what every query earned, and how often it was drawn, as decayed sums.

For the outcomes i of one (user, surface, query), with weight x = examination * credit,
y = (value - lo) / (hi - lo) and age as of the row's own latest event,

    w = sum x d,  wy = sum x y d,  w2 = sum (x d)^2,  w2y = sum (x d)^2 y,  w2y2 = sum (x d y)^2,
    d = 2^(-age / half_life)

so a row is a function of its events alone: a query without new ones needs no work, and sums of
parts add up to the sum of the whole. (Design, section 4, Reward.)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.actions import Actions, counts_list, counts_matrix
from profiling.compiling import njit
from profiling.decay import half_life_weights
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import TIMESTAMP, FloatArray, IntArray, floats, ints
from selection.keys import key_bounds, name_codes, name_column, names_in, sort_keys
from selection.tables import REWARDS

SUMS = ("w", "wy", "w2", "w2y", "w2y2", "draw_w", "drawn_w")
COUNTS = ("impressions", "draws", "empty_draws")  # then one per action
NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class RewardConfig:
    """How records fade, and how they find tonight's clusters."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    half_life_days: float = option(
        30.0, "days after which an outcome weighs half (ours; design, section 4)", low=0.01
    )
    prune_below: float = option(
        1e-6, "a record decayed below this weight is dropped (design, section 3)", low=0.0, high=0.1
    )
    threshold: float = option(
        0.85,
        "cosine from which a query that left the history counts for the nearest medoid "
        "(published for UIC)",
        low=-1.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class RewardInputs:
    """What a night's tally is made from: OUTCOMES and CLOSED_DRAWS of tonight, REWARDS of last."""

    outcomes: pa.Table
    closed_draws: pa.Table
    rewards: pa.Table


@dataclass(frozen=True)
class _Names:
    """Surfaces and query types in sorted order; kind = surface code * types + type code."""

    surfaces: list[str]
    types: list[str]

    @classmethod
    def of(cls, *tables: pa.Table) -> _Names:
        return cls(*(names_in(*(t[c] for t in tables)) for c in ("surface", "query_type")))

    def kinds(self, table: pa.Table) -> IntArray:
        """(n,) int64: one code per (surface, query type), in the order of the names."""
        surface = name_codes(table["surface"], self.surfaces)
        return surface * max(len(self.types), 1) + name_codes(table["query_type"], self.types)

    def columns(self, kinds: IntArray) -> dict[str, pa.Array[Any]]:
        surface, query_type = np.divmod(kinds, max(len(self.types), 1))
        return {
            "surface": name_column(surface, self.surfaces),
            "query_type": name_column(query_type, self.types),
        }


@dataclass(frozen=True)
class _Rows:
    """REWARDS as arrays: keys, (n, 7) float64 SUMS, (n, 3 + actions) int64 COUNTS, times."""

    users: IntArray
    kinds: IntArray
    queries: IntArray
    sums: FloatArray
    counts: IntArray
    as_of: IntArray
    last_at: IntArray


def tally_rewards(
    inputs: RewardInputs,
    config: RewardConfig,
    actions: Actions,
    *,
    value_range: tuple[float, float],
    parent_cutoff: int | None,
) -> pa.Table:
    """REWARDS of tonight: last night's, tonight's outcomes and the draws that closed.

    Outcomes without a query and `unserved` draws enter no sum. A record whose weight, decayed to
    `parent_cutoff`, is below `prune_below` is dropped first: last night was the last that used it.

    Args:
        inputs: The tables; rows in any order.
        config: Half-life and pruning.
        actions: The configured actions, for the counts.
        value_range: (lo, hi) of an outcome's value.
        parent_cutoff: Microseconds; None on the first night.

    Raises:
        ValueError: `value_range` is empty, or a value lies outside it.
    """
    lo, hi = value_range
    if not lo < hi:
        raise ValueError(f"value_range must rise, got ({lo}, {hi})")
    draws = inputs.closed_draws
    draws = draws.filter(pc.not_equal(draws["state"], pa.scalar("unserved")))
    names = _Names.of(inputs.outcomes, draws, inputs.rewards)
    last = _rows_of(inputs.rewards, names, _width(inputs.rewards, len(actions)))
    if parent_cutoff is not None:
        last = _take(last, _alive(last, config, parent_cutoff))
    width = last.counts.shape[1]
    new = _outcome_rows(inputs.outcomes, names, config, value_range=value_range, width=width)
    parts = [last, new, _draw_rows(draws, names, width)]
    return _table(_add(_concat(parts), config.half_life_days), names)


def merge_rewards(a: pa.Table, b: pa.Table, config: RewardConfig) -> pa.Table:
    """Two REWARDS tables as one: sums rescaled to the later `as_of` of each key, then added.

    Associative and commutative to rounding, with the empty table as its neutral element.
    """
    names, width = _Names.of(a, b), max(_width(a, 0), _width(b, 0))
    both = _concat([_rows_of(t, names, width) for t in (a, b)])
    return _table(_add(both, config.half_life_days), names)


def last_times(table: pa.Table) -> IntArray:
    """`last_at` in microseconds, NEVER where null."""
    times: Any = table["last_at"].cast(pa.int64())
    return np.asarray(pc.fill_null(times, NEVER), np.int64)


def _width(rewards: pa.Table, n_actions: int) -> int:
    longest = pc.max(pc.list_value_length(rewards["action_counts"])).as_py()
    return len(COUNTS) + max(n_actions, longest or 0)


def _rows_of(rewards: pa.Table, names: _Names, width: int) -> _Rows:
    counts = np.zeros((rewards.num_rows, width), np.int64)
    for j, name in enumerate(COUNTS):
        counts[:, j] = ints(rewards, name)
    n_actions = width - len(COUNTS)
    if rewards.num_rows and n_actions:
        counts[:, len(COUNTS) :] = counts_matrix(rewards["action_counts"], n_actions)
    return _Rows(
        users=ints(rewards, "user_id"),
        kinds=names.kinds(rewards),
        queries=ints(rewards, "query_id"),
        sums=np.stack([floats(rewards, s) for s in SUMS], axis=1),
        counts=counts,
        as_of=ints(rewards, "as_of"),
        last_at=last_times(rewards),
    )


def _alive(rows: _Rows, config: RewardConfig, cutoff: int) -> npt.NDArray[np.bool_]:
    weight = np.maximum(rows.sums[:, SUMS.index("w")], rows.sums[:, SUMS.index("draw_w")])
    alive = weight * half_life_weights(rows.as_of, cutoff, config.half_life_days)
    return np.asarray(alive >= config.prune_below)


def _outcome_rows(
    outcomes: pa.Table,
    names: _Names,
    config: RewardConfig,
    *,
    value_range: tuple[float, float],
    width: int,
) -> _Rows:
    """One row per key of tonight's attributed outcomes."""
    known: Any = outcomes["query_id"]
    columns = (
        names.kinds(outcomes),
        np.asarray(pc.fill_null(known, -1)),
        *(ints(outcomes, c) for c in ("at", "impression_id", "draw_id", "actions")),
    )
    users, keys, order = sort_keys(ints(outcomes, "user_id"), np.stack(columns, axis=1))
    attributed = keys[:, 1] >= 0
    if "" in names.types:
        attributed &= keys[:, 0] % len(names.types) != 0  # '' sorts first
    if not attributed.all():
        users, keys, order = users[attributed], keys[attributed], order[attributed]
    lo, hi = value_range
    y = (floats(outcomes, "value")[order] - lo) / (hi - lo)
    if len(y) and not (y.min() >= -1e-9 and y.max() <= 1 + 1e-9):
        raise ValueError(
            f"outcomes have values from {lo + (hi - lo) * y.min():g} to "
            f"{lo + (hi - lo) * y.max():g}, outside value_range ({lo:g}, {hi:g}); attribute them "
            "with the same range"
        )
    bounds = key_bounds(users, keys[:, :2])
    as_of = keys[bounds[1:] - 1, 2]
    x = (floats(outcomes, "examination") * floats(outcomes, "credit"))[order]
    x *= half_life_weights(keys[:, 2], np.repeat(as_of, np.diff(bounds)), config.half_life_days)
    sums, counts = _tally(bounds, x, np.clip(y, 0.0, 1.0), keys[:, 4], keys[:, 5], width)
    first = bounds[:-1]
    return _Rows(users[first], keys[first, 0], keys[first, 1], sums, counts, as_of, as_of)


def _draw_rows(draws: pa.Table, names: _Names, width: int) -> _Rows:
    """One row per closed draw; `_add` makes one of each key. Those of one time are all alike."""
    n = draws.num_rows
    sums, counts = np.zeros((n, len(SUMS))), np.zeros((n, width), np.int64)
    sums[:, SUMS.index("draw_w")] = 1.0
    counts[:, COUNTS.index("draws")] = 1
    counts[:, COUNTS.index("empty_draws")] = np.asarray(
        pc.equal(draws["state"], pa.scalar("empty"))
    )
    return _Rows(
        users=ints(draws, "user_id"),
        kinds=names.kinds(draws),
        queries=ints(draws, "query_id"),
        sums=sums,
        counts=counts,
        as_of=ints(draws, "at"),
        last_at=np.full(n, NEVER, np.int64),
    )


def _concat(parts: list[_Rows]) -> _Rows:
    return _Rows(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(_Rows)))


def _take(rows: _Rows, index: npt.NDArray[np.generic]) -> _Rows:
    return _Rows(*(getattr(rows, f.name)[index] for f in fields(rows)))


def _add(rows: _Rows, half_life_days: float) -> _Rows:
    """One row per key, in key order; each key's rows are added from the earliest `as_of` on."""
    keys = np.stack([rows.kinds, rows.queries, rows.as_of], axis=1)
    users, keys, order = sort_keys(rows.users, keys)
    bounds = key_bounds(users, keys[:, :2])
    as_of = keys[bounds[1:] - 1, 2]
    scale = half_life_weights(keys[:, 2], np.repeat(as_of, np.diff(bounds)), half_life_days)
    sums, counts, last_at = _add_rows(order, bounds, scale, rows.sums, rows.counts, rows.last_at)
    first = bounds[:-1]
    return _Rows(users[first], keys[first, 0], keys[first, 1], sums, counts, as_of, last_at)


def _table(rows: _Rows, names: _Names) -> pa.Table:
    columns: dict[str, Any] = {s: rows.sums[:, j] for j, s in enumerate(SUMS)}
    columns |= {c: rows.counts[:, j] for j, c in enumerate(COUNTS)}
    last_at = pa.array(rows.last_at, mask=rows.last_at == NEVER)
    return REWARDS.build(
        {
            "user_id": rows.users,
            **names.columns(rows.kinds),
            "query_id": rows.queries,
            **columns,
            "action_counts": counts_list(rows.counts[:, len(COUNTS) :]),
            "as_of": rows.as_of,
            "last_at": last_at.cast(TIMESTAMP),
        }
    )


@njit(cache=True, nogil=True)
def _tally(
    bounds: IntArray, x: FloatArray, y: FloatArray, draws: IntArray, masks: IntArray, width: int
) -> tuple[FloatArray, IntArray]:
    """(g, 7) SUMS and (g, width) COUNTS of outcomes, by runs of sorted rows; x decayed to as_of."""
    sums, counts = np.zeros((len(bounds) - 1, 7)), np.zeros((len(bounds) - 1, width), np.int64)
    for i in range(len(sums)):
        for r in range(bounds[i], bounds[i + 1]):
            square = x[r] * x[r]
            sums[i, 0] += x[r]
            sums[i, 1] += x[r] * y[r]
            sums[i, 2] += square
            sums[i, 3] += square * y[r]
            sums[i, 4] += square * y[r] * y[r]
            if draws[r] != 0:
                sums[i, 6] += x[r]
            counts[i, 0] += 1
            for a in range(width - 3):
                counts[i, 3 + a] += (masks[r] >> a) & 1
    return sums, counts


@njit(cache=True, nogil=True)
def _add_rows(
    order: IntArray,
    bounds: IntArray,
    scale: FloatArray,
    sums: FloatArray,
    counts: IntArray,
    last_at: IntArray,
) -> tuple[FloatArray, IntArray, IntArray]:
    """Sums of the rows `order` by runs, each first scaled to its run's `as_of`."""
    g, m, width = len(bounds) - 1, sums.shape[1], counts.shape[1]
    total, counted = np.zeros((g, m)), np.zeros((g, width), np.int64)
    last = np.empty(g, np.int64)
    for i in range(g):
        last[i] = last_at[order[bounds[i]]]
        for r in range(bounds[i], bounds[i + 1]):
            row, f = order[r], scale[r]
            for j in range(m):
                total[i, j] += sums[row, j] * (f * f if 2 <= j <= 4 else f)
            for j in range(width):
                counted[i, j] += counts[row, j]
            last[i] = max(last[i], last_at[row])
    return total, counted, last
