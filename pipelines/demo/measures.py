"""What the demo measures: engagement rates by arm with intervals over users, and one user's story.

A rate is a ratio of sums over users, engaged impressions to impressions, so its interval comes from
the bootstrap over users (`profiling.bootstrap`): a user has the same weight on all nights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.worlds.demo import TOPIC_NAMES, topics_of
from profiling.bootstrap import Estimate, estimate
from profiling.schema import FloatArray, IntArray, floats, group_offsets, ints
from selection.policies import SelectionConfig, policy_weights
from selection.sampling import inclusion_targets

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Served:
    """What users saw and did: (days, n) float64 counts by day and user."""

    shown: FloatArray
    engaged: FloatArray


@dataclass(frozen=True)
class StoryRow:
    """One interest of the story user before one day, and what the day brought.

    Attributes:
        day: From 1; the night before it chose the queries.
        name: Of the topic of tonight's medoid.
        n_items: Members of the cluster.
        reward: Shrunk value per impression, with `low` and `high`, its 95 % interval.
        average: What it shrinks to: its user's average; the reward itself without a record.
        source: What the reward leaned on.
        chance: Inclusion probability of the cluster, drawn or not.
        drawn: Whether it was among the queries.
        shown: Impressions it brought; None after the last day.
        engaged: How many of them were engaged with.
    """

    day: int
    cluster_id: int
    name: str
    n_items: int
    reward: float
    average: float
    low: float
    high: float
    source: str
    chance: float
    drawn: bool
    shown: int | None
    engaged: int | None


@dataclass(frozen=True)
class StoryNight:
    """One user's rows of a night, with the chance of each cluster in the order of the rewards."""

    profiles: pa.Table
    cluster_rewards: pa.Table
    queries: pa.Table
    chances: FloatArray


@dataclass(frozen=True)
class StoryDay:
    """Impressions and engaged impressions of one user on one day, by cluster."""

    shown: dict[int, int]
    engaged: dict[int, int]


def rate(engaged: FloatArray, shown: FloatArray, who: Mask, weights: FloatArray) -> Estimate:
    """`sum engaged / sum shown` over the users in `who`; NaN where nothing was shown.

    Args:
        engaged: (n,) counts by user.
        shown: (n,) counts by user.
        who: (n,) bool.
        weights: (B, n) of `resample_weights`.
    """
    return estimate(_ratios(engaged, shown, who, weights))


def uplift(
    served: Served, days: slice, treated: Mask, control: Mask, weights: FloatArray
) -> Estimate:
    """`rate(treated) / rate(control) - 1` over `days`; arguments as in `rate`."""
    engaged, shown = served.engaged[days].sum(axis=0), served.shown[days].sum(axis=0)
    ratios = [_ratios(engaged, shown, who, weights) for who in (treated, control)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return estimate(ratios[0] / ratios[1] - 1.0)


def _ratios(engaged: FloatArray, shown: FloatArray, who: Mask, weights: FloatArray) -> FloatArray:
    """(1 + B,) the ratio itself, then the resampled ones."""
    w = np.r_[np.ones((1, int(who.sum()))), weights[:, who]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((w @ engaged[who]) / (w @ shown[who]))


def count_by_user(days: Iterable[pa.Table], users: int) -> FloatArray:
    """(days, users) rows per user, for users with ids from 1."""
    counts = [np.bincount(ints(t, "user_id") - 1, minlength=users) for t in days]
    return np.array(counts, np.float64).reshape(-1, users)


def barren_shares(
    shown: Iterable[pa.Table], barren: IntArray, arms: IntArray, n_arms: int
) -> FloatArray:
    """(days, n_arms) share of impressions that a barren interest took, by arm.

    Of the impressions of users who have one.

    Args:
        shown: IMPRESSIONS of each day.
        barren: (n,) topic of the interest that earns nothing; -1 where none, and to leave out.
        arms: (n,) arm of each user.
        n_arms: How many there are.
    """
    shares = []
    for table in shown:
        rows = ints(table, "user_id") - 1
        hits = topics_of(ints(table, "item_id")) == barren[rows]
        for arm in range(n_arms):
            mine = (arms[rows] == arm) & (barren[rows] >= 0)
            shares.append(hits[mine].mean() if mine.any() else np.nan)
    return np.array(shares).reshape(-1, n_arms)


def chances(rewards: pa.Table, selection: SelectionConfig) -> FloatArray:
    """(n,) inclusion probability of every interest, drawn or not, on one surface and in one arm.

    The target, which the draw's own is calibrated to.

    Args:
        rewards: CLUSTER_REWARDS rows in key order.
        selection: How the arm chooses; a policy that draws (thompson) is not for this.
    """
    offsets = group_offsets(ints(rewards, "user_id"))
    groups = len(offsets) - 1
    weights = policy_weights(rewards, offsets, selection, np.zeros(groups, np.uint64))
    queries, floor = np.full(groups, selection.queries), np.full(groups, selection.floor)
    return inclusion_targets(offsets, weights, queries, floor)


def story_rows(day: int, night: StoryNight, seen: StoryDay | None) -> list[StoryRow]:
    """The story user's interests before `day`, by name, each with what came of it."""
    rewards = night.cluster_rewards
    names = cluster_names(ints(rewards, "query_id"))
    sizes = dict(
        zip(*(night.profiles[c].to_pylist() for c in ("cluster_id", "n_items")), strict=True)
    )
    drawn = set(night.queries["cluster_id"].to_pylist())
    rows = [
        StoryRow(
            day=day,
            cluster_id=int(cluster),
            name=names[i],
            n_items=int(sizes[cluster]),
            reward=float(floats(rewards, "reward")[i]),
            average=float(floats(rewards, "prior_mean")[i]),
            low=float(floats(rewards, "low")[i]),
            high=float(floats(rewards, "high")[i]),
            source=str(rewards["prior_source"][i]),
            chance=float(night.chances[i]),
            drawn=int(cluster) in drawn,
            shown=None if seen is None else seen.shown.get(int(cluster), 0),
            engaged=None if seen is None else seen.engaged.get(int(cluster), 0),
        )
        for i, cluster in enumerate(ints(rewards, "cluster_id"))
    ]
    return sorted(rows, key=lambda row: row.name)


def story_day(impressions: pa.Table, engagements: pa.Table, queries: pa.Table) -> StoryDay:
    """What the day of one user brought, by the cluster whose draw took the position."""
    clusters = dict(zip(*(queries[c].to_pylist() for c in ("draw_id", "cluster_id")), strict=True))
    engaged_items = set(engagements["item_id"].to_pylist())
    shown: dict[int, int] = {}
    engaged: dict[int, int] = {}
    for draw, item in zip(
        *(impressions[c].to_pylist() for c in ("draw_id", "item_id")), strict=True
    ):
        cluster = clusters[draw]
        shown[cluster] = shown.get(cluster, 0) + 1
        engaged[cluster] = engaged.get(cluster, 0) + (item in engaged_items)
    return StoryDay(shown, engaged)


def cluster_names(medoids: IntArray) -> list[str]:
    """The topic of each medoid; where two share one, the later get a number."""
    names: list[str] = []
    for topic in topics_of(medoids).tolist():
        name = TOPIC_NAMES[topic]
        again = sum(n == name or n.startswith(f"{name} (") for n in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def rows_of_user(table: pa.Table, user_id: int) -> pa.Table:
    """The rows of one user."""
    return table.filter(pa.array(ints(table, "user_id") == user_id))


def names_in_order(rows: Sequence[StoryRow], first: Sequence[str]) -> list[str]:
    """Every interest of the story, those in `first` before the others."""
    names = {row.name for row in rows}
    return [n for n in first if n in names] + sorted(names - set(first))
