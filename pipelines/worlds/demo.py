"""A simulated world with a known answer, for the demo and the tests: pure NumPy, no Beam.

Users engaged with a few topics in the past, with some much more than with others, and like them
today as their hidden tastes say. `mismatch` M in [0, 1] says how far the two differ:

    taste[u, c] = level[u] * ((1 - M) * share[u, c] * n[u] + M * z[u, c]),    at most .6

with share[u, c] of u's past engagements that lie in interest c, n[u] interests, and
z ~ Exponential(1), at most 4. Topics never engaged with are liked next to nothing. With probability
M the largest interest of a user is *barren*: its taste is 0 however much of the past it is. At
M = 0 raw counts already are the tastes, so learning rewards cannot find what counts do not say.

Every number is a hash of (seed, what it is for, who, which): the world holds no state but its
tastes, and the same feed on the same day meets the same behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import ndtri

from profiling.decay import DAY_US, HOUR_US
from profiling.hashing import hash63, uniforms
from profiling.schema import FloatArray, IntArray, ints
from profiling.tables import ENGAGEMENTS, ITEMS, LABEL_LIST, TOPIC_LIST, TOPICS
from selection.tables import IMPRESSIONS

TOPIC_NAMES = (
    "Recipes", "Furniture", "Travel", "Gardening", "Running", "Photography", "Knitting", "Film",
    "Cycling", "Painting", "Camping", "Jewellery", "Woodwork", "Fashion", "Astronomy", "Music",
)  # fmt: skip
RECIPES, FURNITURE = 0, 1
ITEMS_PER_TOPIC = 251  # prime: steps of any length visit every item of a topic once
WIDTH = 32
ACTION = "save"
SURFACE = "home"

_NOISE = 0.30  # length of an item's noise beside its topic's unit vector: cosines near .92
_FEWEST, _MOST = 4, 8  # interests per user
_SMALLEST, _LARGEST = 3, 60  # past engagements per interest
_HIGHEST = 0.6  # taste
_BACKGROUND = 0.01  # taste for a topic never engaged with
_PAST_DAYS = 60
_COMES = 0.7  # probability that a user comes on a day
_SHALLOW, _DEEP = 10, 25  # feed positions seen in a visit


@dataclass(frozen=True)
class World:
    """Who is there, and what they like.

    Attributes:
        seed: Of everything in it.
        mismatch: M above.
        user_ids: (n,) int64 ascending.
        sizes: (n, t) int64 past engagements by user and topic; 0 where it is no interest.
        tastes: (n, t) float64 probability that an impression of the topic is engaged with.
        barren: (n,) int64 the topic that earns nothing although it is the largest; -1 if none.
        story_user: The user of the published story: a big Recipes cluster that earns nothing and a
            small Furniture cluster that does (Pinterest, "Query Rewards", 2022), at any mismatch.
    """

    seed: int
    mismatch: float
    user_ids: IntArray
    sizes: IntArray
    tastes: FloatArray
    barren: IntArray
    story_user: int

    @classmethod
    def create(cls, users: int, seed: int, mismatch: float, *, story_user: int = 1) -> World:
        """A world of `users` users with ids from 1.

        Raises:
            ValueError: No users, a mismatch outside [0, 1], or a story user who does not exist.
        """
        if users < 1:
            raise ValueError(f"a world needs at least 1 user, got {users}")
        if not 0.0 <= mismatch <= 1.0:
            raise ValueError(f"mismatch must be from 0 to 1, got {mismatch!r}")
        if not 1 <= story_user <= users:
            raise ValueError(f"the story user must be from 1 to {users}, got {story_user}")
        ids = np.arange(1, users + 1, dtype=np.int64)
        sizes = _past_sizes(ids, seed)
        sizes[story_user - 1] = _story_sizes(sizes[story_user - 1])
        barren = np.where(uniforms(seed, "barren", ids) < mismatch, sizes.argmax(axis=1), -1)
        barren[story_user - 1] = RECIPES
        tastes = _tastes(ids, sizes, seed, mismatch)
        tastes[barren >= 0, barren[barren >= 0]] = 0.0
        tastes[story_user - 1, FURNITURE] = 0.3
        return cls(seed, mismatch, ids, sizes, tastes, barren.astype(np.int64), story_user)

    def items_table(self) -> pa.Table:
        """ITEMS: per topic, 251 unit vectors around its own; one in eight has a second topic."""
        n = len(TOPIC_NAMES) * ITEMS_PER_TOPIC
        ids = np.arange(1, n + 1)
        main = topics_of(ids)
        noise = _normals(n, self.seed, "item") * (_NOISE / np.sqrt(WIDTH))
        vectors = _unit(_topic_centres(self.seed)[main] + noise)
        return ITEMS.of_width(WIDTH).build(
            {
                "item_id": ids,
                "embedding": _vector_column(vectors),
                "embedding_version": pa.array([f"world-{self.seed}"] * n),
                "topics": _topic_lists(ids, main, self.seed),
                "created_at": pa.nulls(n, ITEMS.arrow.field("created_at").type),
                "labels": pa.array([[]] * n, LABEL_LIST),
                "title": pa.array([item_title(i) for i in ids.tolist()]),
            }
        )

    def topics_table(self) -> pa.Table:
        """TOPICS: ids from 1, in the order of `TOPIC_NAMES`."""
        centres = _topic_centres(self.seed)
        return TOPICS.of_width(WIDTH).build(
            {
                "topic_id": np.arange(1, len(TOPIC_NAMES) + 1),
                "name": pa.array(TOPIC_NAMES),
                "embedding": _vector_column(centres),
            }
        )

    def past_engagements(self, start: date) -> pa.Table:
        """ENGAGEMENTS of the 60 days before `start`, spread evenly: what profiles begin with."""
        rows, topics = np.nonzero(self.sizes)
        counts = self.sizes[rows, topics]
        rows, topics = np.repeat(rows, counts), np.repeat(topics, counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        users = self.user_ids[rows]
        first = (uniforms(self.seed, "first", users, topics) * ITEMS_PER_TOPIC).astype(np.int64)
        step = (uniforms(self.seed, "step", users, topics) * (ITEMS_PER_TOPIC - 1)).astype(np.int64)
        places = (first + nth * (step + 1)) % ITEMS_PER_TOPIC
        age = uniforms(self.seed, "age", users, topics, nth) * (_PAST_DAYS * DAY_US - 1)
        at = midnight(start) - 1 - age.astype(np.int64)
        return self._engagements(users, topics * ITEMS_PER_TOPIC + places + 1, at)

    def serve(self, feed: pa.Table, day: date) -> tuple[pa.Table, pa.Table]:
        """What users see and do on `day` with the FEED that was made for it.

        70 % of the users, and always the story user, come once, between 7:00 and 22:00, and see
        the first 10 to 25 positions, 20 seconds each. An impression is engaged with, 5 seconds to
        an hour later, with the probability that the user's taste gives to the item's topic.

        Returns:
            IMPRESSIONS, their actions null, and ENGAGEMENTS, all of this day.
        """
        feed = feed.filter(pa.array(ints(feed, "serve_date") == _day_number(day)))
        seen = feed.filter(pa.array(self._sees(feed, day)))
        users, items, positions = (ints(seen, c) for c in ("user_id", "item_id", "position"))
        number = _day_number(day)
        hour = 7.0 + 15.0 * uniforms(self.seed, "hour", users, number)
        at = midnight(day) + (hour * HOUR_US).astype(np.int64) + positions * 20_000_000
        ids = hash63(self.seed, "impression", users, number, positions)
        impressions = IMPRESSIONS.build(
            {
                "impression_id": ids,
                "user_id": users,
                "item_id": items,
                "at": at,
                "surface": seen["surface"],
                "request_id": pa.nulls(len(users), pa.string()),
                "position": positions,
                "draw_id": seen["draw_id"],
                "actions": pa.nulls(len(users), IMPRESSIONS.arrow.field("actions").type),
                "content_digest": hash63("content", ids, users, items, at, ints(seen, "draw_id")),
            }
        )
        chance = self.tastes[users - 1, topics_of(items)]
        liked = uniforms(self.seed, "liked", users, items, number) < chance
        delay = 5e6 + uniforms(self.seed, "delay", users, items, number) * (HOUR_US - 5e6)
        done = at[liked] + delay[liked].astype(np.int64)
        return impressions, self._engagements(users[liked], items[liked], done)

    def _sees(self, feed: pa.Table, day: date) -> npt.NDArray[np.bool_]:
        users, number = ints(feed, "user_id"), _day_number(day)
        comes = uniforms(self.seed, "comes", users, number) < _COMES
        comes |= users == self.story_user
        depth = _SHALLOW + uniforms(self.seed, "depth", users, number) * (_DEEP + 1 - _SHALLOW)
        mine = (feed["surface"].to_numpy() == SURFACE) & comes
        return np.asarray(mine & (ints(feed, "position") < depth.astype(np.int64)), bool)

    def _engagements(self, users: IntArray, items: IntArray, at: IntArray) -> pa.Table:
        """Without the impression they came of: step 2 has to find it."""
        n = len(users)
        return ENGAGEMENTS.build(
            {
                "event_id": hash63(self.seed, "event", users, items, at),
                "user_id": users,
                "item_id": items,
                "action": pa.array([ACTION] * n, pa.string()),
                "at": at,
                "impression_id": pa.nulls(n, pa.int64()),
                "synthetic": np.zeros(n, bool),
                "content_digest": hash63("content", users, items, at),
            }
        )


def topics_of(item_ids: npt.ArrayLike) -> IntArray:
    """(n,) item ids to (n,) int64 places in `TOPIC_NAMES` of their main topic."""
    return (np.asarray(item_ids, np.int64) - 1) // ITEMS_PER_TOPIC


def item_title(item_id: int) -> str:
    """'Recipes 17'."""
    topic, place = divmod(item_id - 1, ITEMS_PER_TOPIC)
    return f"{TOPIC_NAMES[topic]} {place + 1}"


def midnight(day: date) -> int:
    """Start of `day` in microseconds since 1970 UTC."""
    return _day_number(day) * DAY_US


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def _past_sizes(ids: IntArray, seed: int) -> IntArray:
    """(n, t) past engagements: 4 to 8 topics per user, sizes 3 u^-.75, at most 60."""
    n, t = len(ids), len(TOPIC_NAMES)
    grid = np.repeat(ids, t), np.tile(np.arange(t), n)
    ranks = uniforms(seed, "interest", *grid).reshape(n, t).argsort(axis=1).argsort(axis=1)
    wanted = _FEWEST + (uniforms(seed, "interests", ids) * (_MOST + 1 - _FEWEST)).astype(np.int64)
    sizes = _SMALLEST * uniforms(seed, "size", *grid).reshape(n, t) ** -0.75
    return np.where(ranks < wanted[:, None], np.minimum(sizes, _LARGEST), 0).astype(np.int64)


def _story_sizes(drawn: IntArray) -> IntArray:
    """The user's own interests made modest, a big Recipes and a small Furniture among them."""
    sizes = np.minimum(drawn, 15)
    sizes[RECIPES], sizes[FURNITURE] = _LARGEST, 4
    return sizes


def _tastes(ids: IntArray, sizes: IntArray, seed: int, mismatch: float) -> FloatArray:
    """(n, t) float64: see the module."""
    n, t = sizes.shape
    grid = np.repeat(ids, t), np.tile(np.arange(t), n)
    z = np.minimum(-np.log(uniforms(seed, "taste", *grid)), 4.0).reshape(n, t)
    level = 0.08 + 0.12 * uniforms(seed, "level", ids)
    relative_size = sizes / sizes.sum(axis=1, keepdims=True) * (sizes > 0).sum(axis=1)[:, None]
    tastes = level[:, None] * ((1.0 - mismatch) * relative_size + mismatch * z)
    return np.where(sizes > 0, np.minimum(tastes, _HIGHEST), _BACKGROUND)


def _normals(rows: int, seed: int, name: str) -> FloatArray:
    """(rows, WIDTH) standard normal, by the inverse of its distribution."""
    n = rows * WIDTH
    return np.asarray(ndtri(uniforms(seed, name, np.arange(n))).reshape(rows, WIDTH))


def _topic_centres(seed: int) -> FloatArray:
    """(t, WIDTH) orthonormal rows: topics share nothing."""
    q, _ = np.linalg.qr(_normals(WIDTH, seed, "topic"))
    return np.ascontiguousarray(q[: len(TOPIC_NAMES)])


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _vector_column(vectors: FloatArray) -> pa.Array[Any]:
    flat = pa.array(vectors.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, WIDTH)


def _topic_lists(ids: IntArray, main: IntArray, seed: int) -> pa.Array[Any]:
    """The main topic with confidence .6 to 1; for one item in eight a second one with .3."""
    confidence = 0.6 + 0.4 * uniforms(seed, "confidence", ids)
    two = uniforms(seed, "second", ids) < 0.125
    other = (main + 1 + (uniforms(seed, "other", ids) * (len(TOPIC_NAMES) - 1))).astype(np.int64)
    lengths = 1 + two
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    topics = np.empty(offsets[-1], np.int64)
    confidences = np.full(offsets[-1], 0.3, np.float32)
    topics[offsets[:-1]] = main + 1
    confidences[offsets[:-1]] = confidence
    topics[offsets[:-1][two] + 1] = other[two] % len(TOPIC_NAMES) + 1
    parts = pa.StructArray.from_arrays(
        [pa.array(topics), pa.array(confidences)], fields=list(TOPIC_LIST.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(offsets), parts)
