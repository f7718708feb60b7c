"""ITEM_RATES: by hand, and the same however users are parted and nights are cut."""

import numpy as np
import pyarrow as pa
import pytest

from profiling.decay import DAY_US
from profiling.hashing import uniforms
from profiling.schema import floats, ints
from selection.item_rates import add_item_rates, tally_item_rates
from selection.rewards import RewardConfig
from selection.tables import ITEM_RATES
from tests.selection.evidence_rows import outcome_rows
from tests.selection.reward_rows import NOW

CONFIG = RewardConfig(half_life_days=10.0)
UNIT = (0.0, 1.0)


def tally(
    rows: pa.Table, arms: list[str] | None = None, values: tuple[float, float] = UNIT
) -> pa.Table:
    named = np.array(arms if arms is not None else [""] * rows.num_rows, str)
    return tally_item_rates(rows, named, CONFIG, value_range=values)


def test_sums_by_hand() -> None:
    rows = outcome_rows(
        [
            {"item_id": 7, "value": 1.0, "at": NOW},
            {"item_id": 7, "value": -1.0, "at": NOW - 10 * DAY_US, "user_id": 2, "credit": 0.5},
            {"item_id": 5, "value": 0.0, "examination": 0.25},
            {"item_id": 7, "value": 1.0, "surface": "related"},
        ]
    )
    got = tally(rows, values=(-1.0, 1.0))
    assert got.select(["surface", "item_id", "w", "wy", "impressions"]).to_pylist() == [
        {"surface": "home", "item_id": 5, "w": 0.25, "wy": 0.125, "impressions": 1},
        {"surface": "home", "item_id": 7, "w": 1.25, "wy": 1.0, "impressions": 2},
        {"surface": "related", "item_id": 7, "w": 1.0, "wy": 1.0, "impressions": 1},
    ]


def random_rows(n: int = 400) -> pa.Table:
    i = np.arange(n)
    return outcome_rows(
        [
            {
                "item_id": int(a * 9),
                "user_id": int(b * 40),
                "at": NOW - int(c * 30 * DAY_US),
                "value": d,
            }
            for a, b, c, d in zip(*(uniforms(name, i) for name in "abcd"), strict=True)
        ]
    )


def assert_same(left: pa.Table, right: pa.Table) -> None:
    for name in ITEM_RATES.names:
        if name in ("w", "wy"):
            assert floats(left, name) == pytest.approx(floats(right, name), rel=1e-12)
        else:
            assert left[name].to_pylist() == right[name].to_pylist(), name


@pytest.mark.parametrize("buckets", [1, 3, 8])
def test_buckets_and_nights_add_up_to_the_whole(buckets: int) -> None:
    rows = random_rows()
    arms = ["ab"[u % 2] for u in ints(rows, "user_id").tolist()]
    whole = add_item_rates(ITEM_RATES.empty(), [tally(rows, arms)], CONFIG, parent_cutoff=None)
    rates, cutoff = ITEM_RATES.empty(), None
    for first, last in ((30, 12), (12, 5), (5, -1)):
        age = (NOW - ints(rows, "at")) / DAY_US
        tonight = (age <= first) & (age > last)
        parts = []
        for bucket in range(buckets):
            mine = np.flatnonzero(tonight & (ints(rows, "user_id") % buckets == bucket))
            parts.append(tally(rows.take(pa.array(mine)), [arms[i] for i in mine]))
        rates = add_item_rates(rates, parts, CONFIG, parent_cutoff=cutoff)
        cutoff = NOW - round(last * DAY_US)
    assert whole.num_rows == 18
    assert_same(rates, whole)


def test_the_order_of_rows_changes_no_bit() -> None:
    rows = random_rows()
    shuffled = rows.take(pa.array(np.argsort(uniforms("order", np.arange(rows.num_rows)))))
    assert tally(shuffled).equals(tally(rows))


def test_what_has_faded_is_dropped_and_no_rows_are_no_rates() -> None:
    rates = tally(outcome_rows([{"item_id": 1}, {"item_id": 2, "at": NOW - 300 * DAY_US}]))
    kept = add_item_rates(rates, [], CONFIG, parent_cutoff=NOW)
    assert ints(kept, "item_id").tolist() == [1]
    assert add_item_rates(ITEM_RATES.empty(), [], CONFIG, parent_cutoff=None).num_rows == 0
    assert tally(outcome_rows([])).num_rows == 0
