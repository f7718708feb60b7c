"""Planted worlds: users, their interests, and what a draw of each is truly worth.

A user has 4 to 8 interests of different sizes and likes them as hidden tastes say, of which the
sizes tell a fifth:

    taste[c] = level * (.2 share[c] n + .8 z[c]),  z ~ Exponential(1) up to 4; at most .6

A draw of c brings `brings[c]` impressions, dealt to places by turns (`j m + slot` of m draws), if
the user comes; one at place p is engaged with, with probability `taste[c] * examination(p)`, and
hidden with `hides[c] * examination(p)`. So a draw's expected value is known in closed form:

    value[c] = P(comes) sum_j P(impressions > j) mean_slot examination (taste - hides)

There is no retrieval and no feed between a draw and its impressions: `worlds.demo` has both. Every
number is a hash of (seed, what it is for, who, which): a user is the same in any company.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.plan import cutoff_of
from profiling.actions import Action
from profiling.decay import DAY_US
from profiling.hashing import hash63, uniforms
from profiling.items import Items
from profiling.schema import FloatArray, IntArray, ints
from profiling.tables import PROFILES
from selection.tables import CLOSED_DRAWS, OUTCOMES

START = date(2026, 3, 1)  # the first night
SURFACE = "home"
ACTIONS = (Action("save", 1.0), Action("hide", -1.0, positive=False))
TOPICS, ITEMS_PER_TOPIC = 16, 50
_FEWEST, _MOST = 4, 8
_SMALLEST, _LARGEST, _HIGHEST = 3, 60, 0.6


@dataclass(frozen=True)
class Rules:
    """What makes a world different from the stationary one.

    Attributes:
        meaning: In words.
        level: Range of users' mean taste.
        mismatch: Share of a taste that past sizes say nothing of.
        comes: Probability that a user comes on a day.
        brings: Impressions that a draw brings.
        drift_day: Day from which tastes are others; None: never.
        position_bias: Examination at place p is 1 / (1 + bias * p).
        popularity: Spread of the topics' factors around 1, on tastes and on what a draw brings.
        delay: Nights by which outcomes are known later.
        lost: Share of the actions that come after the window and are never seen.
        barren: Share of the interests whose draws bring nothing.
        hides: Range of the probability that an impression is hidden.
        competing: Share of its value that a draw loses beside the user's largest interest: what it
            earns depends on its company, so a value per draw is not to be had.
    """

    meaning: str
    level: tuple[float, float] = (0.08, 0.20)
    mismatch: float = 0.8
    comes: float = 0.7
    brings: float = 2.0
    drift_day: int | None = None
    position_bias: float = 0.0
    popularity: float = 0.0
    delay: int = 0
    lost: float = 0.0
    barren: float = 0.0
    hides: tuple[float, float] = (0.0, 0.0)
    competing: float = 0.0

    @property
    def value_range(self) -> tuple[float, float]:
        """(lo, hi) of an outcome's value."""
        return (-1.0 if self.hides[1] > 0 else 0.0, 1.0)


WORLDS = {
    "stationary": Rules("tastes stay as they are"),
    "drifting": Rules("on day 7 every taste becomes another", drift_day=7),
    "position": Rules("lower places are looked at less", position_bias=0.3),
    "popularity": Rules("popular topics are liked more and bring more", popularity=0.8),
    "rare": Rules("1 to 5 % of the impressions are engaged with", level=(0.01, 0.05)),
    "delayed": Rules("outcomes are known 3 nights late, a fifth never", delay=3, lost=0.2),
    "barren": Rules("a third of the interests lead nowhere", barren=1 / 3),
    "hides": Rules("impressions are hidden as well as liked", hides=(0.0, 0.15)),
    "competing": Rules("draws beside the largest interest lose most of it", competing=0.7),
}


@dataclass(frozen=True)
class People:
    """Users of a planted world; rows are their interests, by (user, cluster).

    Attributes:
        rules: Of the world.
        seed: Of everything in it.
        ids: (u,) int64 ascending.
        offsets: (u + 1,) int64 bounds of their rows.
        topics: (n,) int64 places.
        sizes: (n,) int64 past engagements.
        tastes: (n,) float64 before the drift.
        drifted: (n,) float64 after it.
        brings: (n,) float64 expected impressions of a draw.
        hides: (n,) float64.
        largest: (n,) bool: the user's largest interest.
    """

    rules: Rules
    seed: int
    ids: IntArray
    offsets: IntArray
    topics: IntArray
    sizes: IntArray
    tastes: FloatArray
    drifted: FloatArray
    brings: FloatArray
    hides: FloatArray
    largest: npt.NDArray[np.bool_]
    items: Items = field(repr=False)

    @classmethod
    def create(cls, rules: Rules, ids: IntArray, seed: int) -> People:
        """The users with these ids, ascending.

        Raises:
            ValueError: The ids do not rise.
        """
        if not len(ids) or (np.diff(ids) <= 0).any():
            raise ValueError("a world needs users, their ids ascending; give each id once")
        n = _FEWEST + (uniforms(seed, "interests", ids) * (_MOST + 1 - _FEWEST)).astype(np.int64)
        offsets = np.r_[0, np.cumsum(n)].astype(np.int64)
        user, nth = np.repeat(ids, n), np.arange(offsets[-1]) - np.repeat(offsets[:-1], n)
        first = (uniforms(seed, "topic", ids) * TOPICS).astype(np.int64)
        topics = (np.repeat(first, n) + nth * 5) % TOPICS  # no topic twice: 5 and 16 are coprime
        sizes = np.minimum(_SMALLEST * uniforms(seed, "size", user, nth) ** -0.75, _LARGEST)
        sizes = sizes.astype(np.int64)
        totals = np.repeat(np.add.reduceat(sizes, offsets[:-1]), n)
        relative = sizes / totals * np.repeat(n, n)
        popular = 1.0 + rules.popularity * (2.0 * topics / (TOPICS - 1) - 1.0)
        low, high = rules.level
        level = np.repeat(low + (high - low) * uniforms(seed, "level", ids), n) * popular

        def tastes(name: str) -> FloatArray:
            z = np.minimum(-np.log(uniforms(seed, name, user, nth)), 4.0)
            return np.minimum(
                level * ((1 - rules.mismatch) * relative + rules.mismatch * z), _HIGHEST
            )

        leads = uniforms(seed, "leads", user, nth) >= rules.barren
        low, high = rules.hides
        ties = sizes * 16 - nth  # the first of equal sizes
        return cls(
            rules, seed, ids, offsets, topics, sizes, tastes("taste"), tastes("drifted"),
            rules.brings * popular * leads,
            low + (high - low) * uniforms(seed, "hide", user, nth),
            ties == np.repeat(np.maximum.reduceat(ties, offsets[:-1]), n),
            _items(),
        )  # fmt: skip

    def liked(self, day: int) -> FloatArray:
        """(n,) tastes on a day."""
        late = self.rules.drift_day is not None and day >= self.rules.drift_day
        return self.drifted if late else self.tastes

    def values(self, day: int, draws: IntArray) -> FloatArray:
        """(n,) expected value of a draw of each interest, without competition.

        Args:
            day: From 0; night d serves day d + 1.
            draws: (u,) int64 draws that each user gets.
        """
        m = np.repeat(draws, np.diff(self.offsets))
        looks = np.zeros(len(m))
        for j in range(int(np.ceil(self.brings.max(initial=0.0)))):
            shown = np.clip(self.brings - j, 0.0, 1.0)
            for slot in range(int(m.max(initial=0))):
                looks += np.where(slot < m, shown * self._examined(j * m + slot) / m, 0.0)
        engaged = self.liked(day) * (1.0 - self.rules.lost)
        return np.asarray(self.rules.comes * looks * (engaged - self.hides))

    def rows_of(self, table: pa.Table) -> IntArray:
        """(d,) rows of the interests that a table with user_id and cluster_id names."""
        place = np.searchsorted(self.ids, ints(table, "user_id"))
        return self.offsets[place] + ints(table, "cluster_id") - 1

    def kept(self, rows: IntArray, user: IntArray) -> FloatArray:
        """(d,) share of its value that each draw keeps in its company."""
        beside = np.zeros(len(self.ids), bool)
        beside[user[self.largest[rows]]] = True
        loses = beside[user] & ~self.largest[rows]
        return np.where(loses, 1.0 - self.rules.competing, 1.0)

    def _examined(self, places: IntArray) -> FloatArray:
        return np.asarray(1.0 / (1.0 + self.rules.position_bias * places))

    def profiles(self) -> pa.Table:
        """PROFILES: the same every night."""
        n = np.diff(self.offsets)
        rows = len(self.topics)
        user = np.repeat(self.ids, n)
        medoids = self.topics * ITEMS_PER_TOPIC + 1
        medoids += (uniforms(self.seed, "medoid", user, self.topics) * ITEMS_PER_TOPIC).astype(int)
        counts = np.stack([self.sizes, np.zeros(rows, np.int64)], axis=1).ravel()
        at = np.full(rows, cutoff_of(START) - DAY_US)
        pairs = pa.array(np.arange(rows + 1, dtype=np.int32) * 2)
        ones = pa.array(np.arange(rows + 1, dtype=np.int32))
        nothing = pa.array([[]], pa.list_(pa.int64())).take(pa.array(np.zeros(rows, np.int64)))
        return PROFILES.build(
            {
                "user_id": user,
                "cluster_id": np.arange(rows) - np.repeat(self.offsets[:-1], n) + 1,
                "medoid_item_id": medoids,
                "item_ids": pa.ListArray.from_arrays(ones, pa.array(medoids)),
                "n_items": self.sizes,
                "action_counts": pa.ListArray.from_arrays(pairs, pa.array(counts)),
                "importance": self.sizes * (0.5 + uniforms(self.seed, "age", user, self.topics)),
                "as_of": at,
                "first_at": at,
                "last_at": at,
                "lineage": pa.repeat(pa.scalar("born"), rows),
                "from_cluster_ids": nothing,
                "n_born": np.repeat(n, n),
                "cutoff": at,
                "embedding_version": pa.repeat(pa.scalar("planted"), rows),
            }
        )

    def serve(self, queries: pa.Table, night: int) -> tuple[pa.Table, pa.Table]:
        """OUTCOMES and CLOSED_DRAWS of the draws of night `night`, which serve on the day after.

        Outcomes are known `delay` nights later: `run_date` says when.
        """
        day = night + 1
        rows, slot = self.rows_of(queries), ints(queries, "slot")
        users = ints(queries, "user_id")
        place = np.searchsorted(self.ids, users)
        m = np.bincount(place, minlength=len(self.ids))[place]
        comes = uniforms(self.seed, "comes", users, day) < self.rules.comes
        clusters = ints(queries, "cluster_id")
        more = uniforms(self.seed, "brings", users, clusters, day) < self.brings[rows] % 1.0
        brings = np.where(comes, self.brings[rows].astype(np.int64) + more, 0)
        came = np.bincount(place, brings, minlength=len(self.ids))[place] > 0
        kept = self.kept(rows, place)
        draw = np.repeat(np.arange(len(rows)), brings)
        nth = np.arange(len(draw)) - np.repeat(np.cumsum(brings) - brings, brings)
        position = nth * m[draw] + slot[draw]
        masks = self._masks(rows[draw], users[draw], day, position, kept[draw])
        outcomes = self._outcomes(queries, day, draw, position, masks)
        return outcomes, _closed(queries, day, brings, came)

    def _masks(
        self, rows: IntArray, users: IntArray, day: int, position: IntArray, kept: FloatArray
    ) -> IntArray:
        """(i,) actions of impressions: 1 engaged with, 2 hidden, never both."""
        looked = self._examined(position)
        u = uniforms(self.seed, "acts", users, self.topics[rows], day, position)
        liked = u < self.liked(day)[rows] * looked * kept * (1.0 - self.rules.lost)
        hidden = u > 1.0 - self.hides[rows] * looked * kept
        return np.where(liked, 1, np.where(hidden, 2, 0)).astype(np.int64)

    def _outcomes(
        self, queries: pa.Table, day: int, draw: IntArray, position: IntArray, masks: IntArray
    ) -> pa.Table:
        n = len(draw)
        of_draw = queries.select(
            ["user_id", "draw_id", "query_type", "query_id", "cluster_id", "surface", "arm",
             "policy", "propensity"]
        ).take(pa.array(draw))  # fmt: skip
        run_date = np.datetime64(START, "D") + day + self.rules.delay
        start = cutoff_of(START) + (day - 1) * DAY_US
        ids = hash63(self.seed, "impression", ints(of_draw, "draw_id"), position)
        return OUTCOMES.build(
            {name: of_draw[name] for name in of_draw.column_names}
            | {
                "impression_id": ids,
                "run_date": pa.repeat(pa.scalar(run_date.astype(object), pa.date32()), n),
                "item_id": ints(of_draw, "query_id"),
                "at": start + (1 + position) * 1_000_000,
                "position": position,
                "examination": np.ones(n),
                "value": np.where(masks == 1, 1.0, np.where(masks == 2, -1.0, 0.0)),
                "actions": masks,
                "credit": np.ones(n),
                "attribution": pa.repeat(pa.scalar("logged"), n),
            }
        )


def _closed(queries: pa.Table, day: int, brings: IntArray, came: npt.NDArray[np.bool_]) -> pa.Table:
    names = ("draw_id", "user_id", "surface", "query_type", "query_id", "propensity", "policy")
    state = np.where(brings > 0, 0, np.where(came, 1, 2))
    words = pa.array(["brought", "empty", "unserved"]).take(pa.array(state))
    at = np.full(len(brings), cutoff_of(START) + day * DAY_US)
    columns = {name: queries[name] for name in (*names, "arm")}
    return CLOSED_DRAWS.build(columns | {"at": at, "state": words})


def _items() -> Items:
    """A catalogue of 16 topics with 50 items each, orthogonal."""
    n = TOPICS * ITEMS_PER_TOPIC
    topics = np.arange(n) // ITEMS_PER_TOPIC
    return Items(
        ids=np.arange(1, n + 1),
        vectors=np.eye(TOPICS, dtype=np.float32)[topics],
        version="planted",
        topic_offsets=np.arange(n + 1, dtype=np.int64),
        topic_ids=(topics + 1).astype(np.int64),
        topic_confidences=np.ones(n, np.float32),
        created_at=np.zeros(n, np.int64),
    )


def nearest_planted(k: int) -> IntArray:
    """(n, k) int64 rows of the items nearest to each: others of its topic, all alike, by id."""
    n = TOPICS * ITEMS_PER_TOPIC
    rows, place = np.arange(n)[:, None], np.arange(n)[:, None] % ITEMS_PER_TOPIC
    others = np.arange(min(k, ITEMS_PER_TOPIC - 1))[None, :]
    return np.asarray(rows - place + others + (others >= place), np.int64)
