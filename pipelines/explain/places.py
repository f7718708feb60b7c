"""What was drawn, retrieved, shown and done for one user, and why the feed stands as it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from pipelines.explain.rows import UserRows
from pipelines.spacing.preview import ServedNight
from pipelines.store.manifests import Manifest
from retrieval.spacing.explain import Explanation, Standing

SEEN = 40  # impressions that are told, the latest
_QUERY = ("user_id", "surface", "slot", "draw_id", "cluster_id", "query_id", "propensity",
          "set_probability", "policy", "serve_date")  # fmt: skip
_OUTCOME = ("user_id", "at", "surface", "position", "item_id", "cluster_id", "draw_id", "actions",
            "value", "credit", "attribution", "impression_id")  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One of tonight's queries, and what came of it.

    Attributes:
        surface: Where.
        slot: Its place among the draws, from 0.
        draw_id: As the serving system echoes it.
        cluster_id: The interest that it speaks for.
        title: Of the item that retrieval was asked with.
        propensity: The chance that the interest had.
        policy: Name and version.
        candidates: What retrieval found.
        on_topic: How many of these carry a topic of the query.
        positions: In the feed, whose slot it took there.
        shown: Closed impressions that are credited to it so far.
        done: How many of these with any action.
    """

    surface: str
    slot: int
    draw_id: int
    cluster_id: int
    title: str
    propensity: float
    policy: str
    candidates: int
    on_topic: int
    positions: tuple[int, ...]
    shown: int
    done: int


@dataclass(frozen=True)
class Place:
    """One position of the feed.

    Attributes:
        position: From 0.
        slot: Of the draw whose turn it took.
        relevance: f(r), with `rank`, its place by relevance among `candidates`, from 0.
        diversity: What its newness added.
        penalties: What each class took off it, by class, where it did.
        rival: What would stand there without it, and by how much it won; None where none was left.
        decided_by: Classes without which another item would stand there.
        shown: Whether an impression of it has closed.
        done: Actions, by name.
    """

    surface: str
    position: int
    item_id: int
    title: str
    slot: int
    relevance: float
    rank: int
    candidates: int
    diversity: float
    penalties: dict[str, float]
    because: tuple[str, ...]
    rival: str | None
    margin: float
    decided_by: tuple[str, ...]
    shown: bool
    done: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """An impression that has closed, and what the user did."""

    at: str
    surface: str
    position: int | None
    title: str
    cluster_id: int | None
    attribution: str
    value: float
    done: tuple[str, ...]


@dataclass(frozen=True)
class Came:
    """All closed impressions of the user, and the names of their actions."""

    rows: list[dict[str, Any]]
    actions: tuple[str, ...]

    @classmethod
    def of(cls, rows: UserRows, nights: Sequence[Manifest]) -> Came:
        """Of the given nights, oldest first."""
        found = [r for m in nights for r in rows.read("OUTCOMES", _OUTCOME, m).to_pylist()]
        actions = tuple(a["name"] for a in nights[-1].config["actions"])
        return cls(found, actions)

    def done(self, mask: int) -> tuple[str, ...]:
        """Names of the actions of a mask."""
        return tuple(name for i, name in enumerate(self.actions) if mask >> i & 1)


def seen_until(rows: UserRows, came: Came) -> tuple[Seen, ...]:
    """The latest impressions that have closed, the newest first."""
    last = sorted(came.rows, key=lambda r: (r["at"], r["impression_id"]), reverse=True)[:SEEN]
    titles = rows.titles(r["item_id"] for r in last)
    return tuple(
        Seen(
            at=f"{r['at']:%Y-%m-%d %H:%M}",
            surface=r["surface"],
            position=r["position"],
            title=titles[r["item_id"]],
            cluster_id=r["cluster_id"],
            attribution=r["attribution"],
            value=r["value"],
            done=came.done(r["actions"]),
        )
        for r in last
    )


def draws_of_night(rows: UserRows, after: Came) -> tuple[Drawn, ...]:
    """Tonight's queries; `after` is what has closed since."""
    queries = rows.read("QUERIES", _QUERY).sort_by(
        [("surface", "ascending"), ("slot", "ascending")]
    )
    found = Counter[int]()
    matched = Counter[int]()
    columns = ["user_id", "draw_id", "condition_matched"]
    for row in rows.read("CANDIDATES", columns).to_pylist():
        found[row["draw_id"]] += 1
        matched[row["draw_id"]] += bool(row["condition_matched"])
    positions: dict[int, list[int]] = {}
    for row in rows.read("FEED", ["user_id", "position", "draw_id"]).to_pylist():
        positions.setdefault(row["draw_id"], []).append(row["position"])
    titles = rows.titles(queries["query_id"].to_pylist())
    return tuple(
        Drawn(
            **{
                c: q[c]
                for c in ("surface", "slot", "draw_id", "cluster_id", "propensity", "policy")
            },
            title=titles[q["query_id"]],
            candidates=found[q["draw_id"]],
            on_topic=matched[q["draw_id"]],
            positions=tuple(sorted(positions.get(q["draw_id"], ()))),
            shown=sum(r["draw_id"] == q["draw_id"] for r in after.rows),
            done=sum(r["draw_id"] == q["draw_id"] and r["actions"] > 0 for r in after.rows),
        )
        for q in queries.to_pylist()
    )


def places_of_feed(rows: UserRows, draws: Sequence[Drawn], after: Came) -> tuple[Place, ...]:
    """Every position of tonight's feeds, explained; none where no feed was served."""
    if not any(d.positions for d in draws):
        return ()
    night = ServedNight.of(rows.warehouse, rows.manifest, user=rows.user, sample=1)
    slots = {d.draw_id: d.slot for d in draws}
    came: dict[tuple[int, int], int] = {}
    for r in after.rows:
        came[r["draw_id"], r["item_id"]] = came.get((r["draw_id"], r["item_id"]), 0) | r["actions"]
    explained = [
        (surface, row, one, candidates)
        for surface in dict.fromkeys(d.surface for d in draws)
        for row, one, candidates in _explained(night, rows.user, surface)
    ]
    titles = rows.titles(
        i for _, row, one, _ in explained for i in (row["item_id"], *_items_of(one))
    )
    found: list[Place] = []
    for surface, row, one, candidates in explained:
        mask = came.get((row["draw_id"], row["item_id"]))
        facts = _facts(one, titles) | {"shown": mask is not None}
        facts["done"] = after.done(mask) if mask else ()
        slot, title = slots.get(row["draw_id"], -1), titles[row["item_id"]]
        place = surface, row["position"], row["item_id"], title, slot
        found.append(Place(*place, candidates=candidates, **facts))
    return tuple(found)


def _explained(
    night: ServedNight, user: int, surface: str
) -> list[tuple[dict[str, Any], Explanation, int]]:
    """Rows of a feed, why each stands there, and among how many it was chosen."""
    feed, explain = night.explained(user, surface)
    pool = night.candidates.filter(pc.equal(night.candidates["surface"], surface))
    candidates = pc.count_distinct(pool["item_id"]).as_py()
    return [(row, explain(i), candidates) for i, row in enumerate(feed.to_pylist())]


def _items_of(one: Explanation) -> list[int]:
    rival = [] if one.rival is None else [one.rival.item_id]
    return rival + [cause.item_id for cause in one.chosen.causes]


def _facts(one: Explanation, titles: Mapping[int, str]) -> dict[str, Any]:
    chosen, rival = one.chosen, one.rival
    return {
        "relevance": chosen.relevance,
        "rank": chosen.rank,
        "diversity": chosen.diversity,
        "penalties": {name: p for name, p in chosen.penalties.items() if p > 0},
        "because": tuple(_causes(chosen, titles)),
        "rival": None if rival is None else titles[rival.item_id],
        "margin": 0.0 if rival is None else chosen.utility - rival.utility,
        "decided_by": one.decided_by,
    }


def _causes(chosen: Standing, titles: Mapping[int, str]) -> list[str]:
    return [
        f"{cause.spacing_class}: {titles[cause.item_id]} at position {cause.position} takes "
        f"{cause.penalty:.3f}"
        for cause in chosen.causes
    ]
