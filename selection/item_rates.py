"""What everyone did with an item: ITEM_RATES, fitted over all users like the prior.

For the outcomes i of one (surface, arm, item), all users of the arm together, with weight
x = examination * credit and y = (value - lo) / (hi - lo),

    w = sum x d,  wy = sum x y d,  d = 2^(-age / half_life), as of the row's own latest event.

A bucket of users makes its part of tonight's outcomes in the table's own form; the driver adds the
parts, in bucket order, to last night's table. So a night costs what it closed, and one row an item.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.decay import half_life_weights
from profiling.schema import FloatArray, IntArray, floats, ints, sort_rows
from selection.keys import key_bounds, name_codes, name_column, names_in, sort_keys
from selection.rewards import RewardConfig
from selection.tables import ITEM_RATES


def tally_item_rates(
    outcomes: pa.Table,
    arms: npt.NDArray[np.str_],
    config: RewardConfig,
    *,
    value_range: tuple[float, float],
) -> pa.Table:
    """One bucket's part of tonight: ITEM_RATES of its outcomes alone.

    Args:
        outcomes: OUTCOMES of the bucket, rows in any order; whatever they are attributed to.
        arms: (n,) the arm whose fits each row enters, as `fit_arms` gives it.
        config: The half-life.
        value_range: (lo, hi) of an outcome's value.
    """
    lo, hi = value_range
    surfaces, names = names_in(outcomes["surface"]), sorted(set(arms.tolist()))
    kind = name_codes(outcomes["surface"], surfaces) * max(len(names), 1)
    kind += np.searchsorted(np.array(names, str), arms).astype(np.int64)
    columns = [kind, *(ints(outcomes, c) for c in ("at", "impression_id", "draw_id"))]
    items, keys, order = sort_keys(ints(outcomes, "item_id"), np.stack(columns, axis=1))
    bounds = key_bounds(items, keys[:, :1])
    as_of = keys[bounds[1:] - 1, 1]
    x = (floats(outcomes, "examination") * floats(outcomes, "credit"))[order]
    x *= half_life_weights(keys[:, 1], np.repeat(as_of, np.diff(bounds)), config.half_life_days)
    y = (floats(outcomes, "value")[order] - lo) / (hi - lo)
    first = bounds[:-1]
    surface, arm = np.divmod(keys[first, 0], max(len(names), 1))
    made = ITEM_RATES.build(
        {
            "surface": name_column(surface, surfaces),
            "arm": name_column(arm, names),
            "item_id": items[first],
            "w": _sums(x, bounds),
            "wy": _sums(x * np.clip(y, 0.0, 1.0), bounds),
            "impressions": np.diff(bounds),
            "as_of": as_of,
        }
    )
    return sort_rows(made, ITEM_RATES.key)


def add_item_rates(
    last: pa.Table, parts: Sequence[pa.Table], config: RewardConfig, *, parent_cutoff: int | None
) -> pa.Table:
    """ITEM_RATES of tonight: last night's and the parts of tonight's buckets.

    Rows whose weight, decayed to `parent_cutoff`, is below `prune_below` are dropped first.

    Args:
        last: Last night's.
        parts: `tally_item_rates` of every bucket, in the buckets' order, in which they are added.
        config: Half-life and pruning.
        parent_cutoff: Microseconds; None on the first night.
    """
    if parent_cutoff is not None:
        fade = half_life_weights(ints(last, "as_of"), parent_cutoff, config.half_life_days)
        last = last.filter(pa.array(floats(last, "w") * fade >= config.prune_below))
    rows = pa.concat_tables([last, *parts])
    surfaces, arms = names_in(rows["surface"]), names_in(rows["arm"])
    kind = name_codes(rows["surface"], surfaces) * max(len(arms), 1)
    kind += name_codes(rows["arm"], arms)
    keys = np.stack([ints(rows, "item_id"), ints(rows, "as_of")], axis=1)
    kinds, keys, order = sort_keys(kind, keys)  # codes rise with the names: the table's own order
    bounds = key_bounds(kinds, keys[:, :1])
    as_of = keys[bounds[1:] - 1, 1]
    scale = half_life_weights(keys[:, 1], np.repeat(as_of, np.diff(bounds)), config.half_life_days)
    counts = np.add.reduceat(ints(rows, "impressions")[order], bounds[:-1]) if len(order) else as_of
    first = bounds[:-1]
    surface, arm = np.divmod(kinds[first], max(len(arms), 1))
    return ITEM_RATES.build(
        {
            "surface": name_column(surface, surfaces),
            "arm": name_column(arm, arms),
            "item_id": keys[first, 0],
            "w": _sums(floats(rows, "w")[order] * scale, bounds),
            "wy": _sums(floats(rows, "wy")[order] * scale, bounds),
            "impressions": counts,
            "as_of": as_of,
        }
    )


def _sums(values: FloatArray, bounds: IntArray) -> FloatArray:
    return np.add.reduceat(values, bounds[:-1]) if len(values) else values
