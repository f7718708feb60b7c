"""A planted world of the log's own shape: as many visits, impressions and outcomes as there.

What the shape is: how often users come, what a draw brings, how much of it is liked, and how far
the sizes of interests say which (the correlation of stored rewards with importance, within users).
What is not in it: how many interests users have, retrieval, drift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipelines.lab.period import Period
from pipelines.store.tables import read_files
from pipelines.store.warehouse import Warehouse
from pipelines.worlds.planted import Rules
from profiling.schema import FloatArray, floats, group_offsets, ints
from selection.off_policy import LOG, UserSums


@dataclass(frozen=True)
class Shape:
    """What of the log the world takes over.

    Attributes:
        comes: Share of the user-nights with an impression.
        brings: Impressions per draw of a user who came.
        level: Range of a user's mean taste.
        mismatch: Share of a taste that sizes say nothing of.
    """

    comes: float
    brings: float
    level: tuple[float, float]
    mismatch: float

    @property
    def rules(self) -> Rules:
        """The world."""
        return replace(
            Rules("of the log's own shape"),
            comes=self.comes,
            brings=self.brings,
            level=self.level,
            mismatch=self.mismatch,
        )


def shape_of(warehouse: Warehouse, period: Period, sums: UserSums) -> Shape:
    """The shape of a period's log.

    Args:
        warehouse: Where.
        period: Its nights.
        sums: Of its log.

    Raises:
        ValueError: Nobody saw anything.
    """
    log = dict(zip(LOG, sums.log.sum(axis=0).tolist(), strict=True))
    newest = period.nights[-1]
    files = newest.tables["CLUSTER_REWARDS"]
    rewards = read_files(warehouse.root, "CLUSTER_REWARDS", files)
    shown = sum(f.rows for f in period.outcomes)
    comes = log["served"] / log["nights"]
    if comes == 0:
        raise ValueError("nobody saw what these nights drew; a world without visits says nothing")
    low, high = newest.config["outcomes"]["value_low"], newest.config["outcomes"]["value_high"]
    y = (log["value"] / max(shown, 1) - low) / (high - low)
    mean = float(np.clip(y, 1e-4, 0.5))
    return Shape(comes, shown / log["draws"] / comes, (0.5 * mean, 1.5 * mean), _mismatch(rewards))


def _mismatch(rewards: pa.Table) -> float:
    """1 - r, r the correlation of seen interests' rates with their sizes, within users."""
    seen = rewards.filter(pa.array(floats(rewards, "weight") > 0))
    if seen.num_rows < 3:
        return 1.0
    offsets = group_offsets(ints(seen, "user_id"))
    n = np.diff(offsets)

    def within(name: str) -> FloatArray:
        values = floats(seen, name)
        return values - np.repeat(np.add.reduceat(values, offsets[:-1]) / n, n)

    a, b = within("reward"), within("importance")
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(1.0 - (a @ b) / spread, 0.0, 1.0)) if spread > 0 else 1.0
