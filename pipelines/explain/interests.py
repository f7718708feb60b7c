"""A user's interests: what they are made of, where they come from, what they earn, their chance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import config_from_manifest
from pipelines.explain.rows import UserRows
from pipelines.store.manifests import Manifest
from selection.chances import inclusion_chances

_PROFILE = ("user_id", "cluster_id", "medoid_item_id", "item_ids", "n_items", "first_at", "last_at",
            "lineage", "from_cluster_ids", "cutoff", "importance")  # fmt: skip
_EARLIER = ("user_id", "cluster_id", "medoid_item_id", "n_items", "lineage", "from_cluster_ids",
            "cutoff")  # fmt: skip
_REWARD = ("user_id", "surface", "cluster_id", "arm", "reward", "low", "high", "raw_rate", "weight",
           "prior_source", "prior_mean", "prior_strength")  # fmt: skip


@dataclass(frozen=True)
class Member:
    """An item of an interest."""

    item_id: int
    title: str


@dataclass(frozen=True)
class Size:
    """How large the interest was on a night."""

    date: str
    n_items: int


@dataclass(frozen=True)
class Worth:
    """What an interest is worth tonight on one surface.

    Attributes:
        surface: Where.
        arm: Of the experiment, '' without one.
        reward: Value per impression, shrunk, with `low` and `high`, its 95 % interval.
        raw_rate: Of its own record; None without one.
        weight: Of its own record, in impressions, aged.
        prior_source: What the reward leans on.
        prior_mean: The average it shrinks to.
        prior_strength: The impressions that this average is worth.
        chance: To be among tonight's queries.
        drawn: Whether it is.
        earlier: Reward and whether it was drawn, by night.
    """

    surface: str
    arm: str
    reward: float
    low: float
    high: float
    raw_rate: float | None
    weight: float
    prior_source: str
    prior_mean: float
    prior_strength: float
    chance: float
    drawn: bool
    earlier: tuple[tuple[str, float, bool], ...]


@dataclass(frozen=True)
class Interest:
    """One interest of a user.

    Attributes:
        cluster_id: Its id, kept over nights.
        medoid: Its central member: what a query asks with.
        members: All its items.
        share: Of the user's importance.
        first_at: First engagement that counts, ISO.
        last_at: Last one.
        lineage: How it came to be, in words.
        sizes: By night.
        worth: By surface; empty where the user is not served.
    """

    cluster_id: int
    medoid: Member
    members: tuple[Member, ...]
    share: float
    first_at: str
    last_at: str
    lineage: str
    sizes: tuple[Size, ...]
    worth: tuple[Worth, ...]


def interests_of(rows: UserRows, chain: Sequence[Manifest]) -> tuple[Interest, ...]:
    """The interests of tonight, the most important first; `chain` ends with the night."""
    profiles = rows.read("PROFILES", _PROFILE).to_pylist()
    past = [(m.date, rows.read("PROFILES", _EARLIER, m).to_pylist()) for m in chain[:-1]]
    worth = _worth(rows, chain)
    ids = {i for row in profiles for i in row["item_ids"]}
    ids |= {row["medoid_item_id"] for _, night in past for row in night}
    titles = rows.titles(ids)
    total = sum(row["importance"] for row in profiles) or 1.0
    found = [
        Interest(
            cluster_id=row["cluster_id"],
            medoid=Member(row["medoid_item_id"], titles[row["medoid_item_id"]]),
            members=tuple(Member(i, titles[i]) for i in row["item_ids"]),
            share=row["importance"] / total,
            first_at=_day(row["first_at"]),
            last_at=_day(row["last_at"]),
            lineage=_lineage(row, past, titles),
            sizes=(*_sizes(row["cluster_id"], past), Size(_day(chain[-1].date), row["n_items"])),
            worth=tuple(worth.get(row["cluster_id"], ())),
        )
        for row in profiles
    ]
    return tuple(sorted(found, key=lambda one: (-one.share, one.cluster_id)))


def _worth(rows: UserRows, chain: Sequence[Manifest]) -> dict[int, list[Worth]]:
    """By interest: its row of CLUSTER_REWARDS on every surface, and those of the nights before."""
    history = _history(rows, chain[:-1])
    drawn = _drawn(rows, chain[-1])
    found: dict[int, list[Worth]] = {}
    table = rows.read("CLUSTER_REWARDS", [*_REWARD, *_POLICY]).sort_by("surface")
    for surface in pc.unique(table["surface"]).to_pylist():
        mine = table.filter(pc.equal(table["surface"], surface)).sort_by("cluster_id")
        for row, chance in zip(mine.to_pylist(), _chances(mine, chain[-1]), strict=True):
            key = (surface, row["cluster_id"])
            facts = {c: row[c] for c in _REWARD if c not in ("user_id", "cluster_id")}
            one = Worth(**facts, chance=chance, drawn=key in drawn,
                        earlier=tuple(history.get(key, ())))  # fmt: skip
            found.setdefault(row["cluster_id"], []).append(one)
    return found


_POLICY = ("importance", "actions", "effective_n", "posterior_a", "posterior_b", "reward_per_draw")


def _chances(rewards: pa.Table, night: Manifest) -> list[float]:
    """Of the interests of one surface, drawn or not."""
    config = config_from_manifest(night)
    found = inclusion_chances(
        rewards, config.selections, run_date=night.date, seed=night.seed, salt=config.draw_salt
    )
    return [float(chance) for chance in found]


def _history(
    rows: UserRows, nights: Sequence[Manifest]
) -> dict[tuple[str, int], list[tuple[str, float, bool]]]:
    found: dict[tuple[str, int], list[tuple[str, float, bool]]] = {}
    for night in nights:
        drawn = _drawn(rows, night)
        table = rows.read("CLUSTER_REWARDS", ["user_id", "surface", "cluster_id", "reward"], night)
        for row in table.to_pylist():
            key = (row["surface"], row["cluster_id"])
            found.setdefault(key, []).append((_day(night.date), row["reward"], key in drawn))
    return found


def _drawn(rows: UserRows, night: Manifest) -> set[tuple[str, int]]:
    table = rows.read("QUERIES", ["user_id", "surface", "cluster_id"], night)
    return set(zip(table["surface"].to_pylist(), table["cluster_id"].to_pylist(), strict=True))


_Past = Sequence[tuple[dt.date, list[dict[str, Any]]]]


def _sizes(cluster: int, past: _Past) -> list[Size]:
    return [
        Size(_day(date), row["n_items"])
        for date, night in past
        for row in night
        if row["cluster_id"] == cluster
    ]


def _lineage(row: dict[str, Any], past: _Past, titles: dict[int, str]) -> str:
    """How the interest came to be, and what it took in since, with what these were called then.

    A version stays until the user's next engagement, and is told of on its first night.
    """
    names = {r["cluster_id"]: titles[r["medoid_item_id"]] for _, night in past for r in night}
    nights = [(d, r) for d, night in past for r in night if r["cluster_id"] == row["cluster_id"]]
    told: list[str] = []
    versions: set[dt.datetime] = set()
    for date, version in [*nights, (None, row)]:
        if version["cutoff"] in versions:
            continue
        versions.add(version["cutoff"])
        origin = [i for i in version["from_cluster_ids"] if i != row["cluster_id"]]
        if not origin:
            continue
        verb = {"merged": "took in", "split": "split from"}.get(version["lineage"], "came from")
        what = ", ".join(f"{i} ({names[i]})" if i in names else str(i) for i in origin)
        told.append(f"{verb} {what}" + (f" on {_day(date)}" if date else " tonight"))
    first = _day(nights[0][0]) if nights else "tonight"
    born = f"known since the night of {first}" if nights else "new tonight"
    return "; ".join([born, *dict.fromkeys(told)])


def _day(value: Any) -> str:
    """The day of a date or time, ISO."""
    return str(value.date().isoformat() if isinstance(value, dt.datetime) else value.isoformat())
