"""A simulated world in which an item means something else under each of its topics.

A video about cooking on a journey is engaged with by those who travel for one thing, by those who
cook for another. Item i carries two to four topics; under each it has a share of its substance
s[i, t], which sums to 1, and a *face* x[i, t]. User u has four to six interests, topics with a
taste w[u, t]. When u is about topic t, by a draw that was held to t or of themselves, they choose
among all items that carry t:

    P(i | u, t) ~ popularity[i] * s[i, t] * exp(KAPPA * w[u, t] . x[i, t])

`facets` F in [0, 1] says how much depends on the topic: log s, x and w are mixed of a part that an
item or a user has under all topics, weight sqrt(1 - F), and a part of each topic's own, weight
sqrt(F). At F = 0 a topic only says which items can be chosen, not why one is.

That is what makes a logged condition informative: an item's topics tell under which it *can* be
chosen, the log tells under which it *was*. Nothing is hidden from whoever samples a condition from
the item: they have the same pairs and histories, the topics are right, their confidences are the
shares s with some noise, the item's vector shows all its faces, and all positives of a user,
under a draw or not, come by the same rule. Every night draws three interests of each user by how
much they are on the user's mind then; what is engaged with under a draw is logged with it.

Every number is a hash of (seed, what it is for, who, which), as in `pipelines.worlds`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import ndtri

from profiling.decay import DAY_US, HOUR_US
from profiling.hashing import hash63, uniforms
from profiling.items import Items, unit_rows
from profiling.schema import FloatArray, IntArray
from profiling.tables import HISTORY, TOPIC_LIST, TOPICS
from selection.tables import QUERIES

FIRST_NIGHT = dt.date(2026, 1, 1)
SLOTS = 3  # draws of a user on a night
KAPPA = 0.8  # how much taste counts: w . x has a standard deviation of sqrt(FACE)

FACE = 6  # width of tastes and faces
_WIDTH = 64
_LOOKS = 2  # things a user might engage with in a slot, and as many of themselves, on a day
_LIKED = 0.5  # probability of each
_ALONE = 5  # place of what users do of themselves, beside the slots
_PAST = 3  # engagements of each interest before the first night, at no draw
_MOODS = 0.8  # standard deviation of the logarithm of how much an interest is on a user's mind


class Log(NamedTuple):
    """What happened.

    Attributes:
        history: HISTORY.
        outcomes: (impression_id, draw_id, credit, query_type, query_id), of OUTCOMES, of all that
            was engaged with under a draw.
        queries: QUERIES of every night.
    """

    history: pa.Table
    outcomes: pa.Table
    queries: pa.Table


class _Choices(NamedTuple):
    """(n,) int64 each: user row, topic row, day, and a number that tells choices of one apart."""

    users: IntArray
    topics: IntArray
    days: IntArray
    nth: IntArray


@dataclass(frozen=True)
class FacetedWorld:
    """Users, items and their faces; see the module.

    Attributes:
        seed: Of everything in it.
        facets: F above.
        carried: (i, t) bool: which items carry which topics.
        substance: (i, t) float64, 0 where it does not.
        interests: (u, t) float64: share of the user's mind, 0 for no interest.
    """

    seed: int
    facets: float
    carried: np.ndarray
    substance: FloatArray
    interests: FloatArray

    @classmethod
    def create(
        cls, users: int, items: int, topics: int, *, facets: float, seed: int
    ) -> FacetedWorld:
        """A world; user ids count from 1, item ids from 1001, topic ids from 101.

        Raises:
            ValueError: Facets outside [0, 1], or fewer than six topics.
        """
        if not 0.0 <= facets <= 1.0:
            raise ValueError(f"facets must be from 0 to 1, got {facets!r}")
        if topics < 6:
            raise ValueError(f"a user has up to six interests: take 6 topics or more, not {topics}")
        carried = _some((items, topics), (2, 4), seed, "carried")
        weights = np.exp(np.sqrt(facets) * _normals((items, topics), seed, "substance"))
        weights = np.where(carried, weights, 0.0)
        shares = np.where(
            _some((users, topics), (4, 6), seed, "interest"),
            np.exp(0.5 * _normals((users, topics), seed, "share")),
            0.0,
        )
        return cls(
            seed,
            facets,
            carried,
            weights / weights.sum(axis=1, keepdims=True),
            shares / shares.sum(axis=1, keepdims=True),
        )

    @cached_property
    def items(self) -> Items:
        """The catalogue: vectors hold every face, confidences the substance with noise."""
        n, t = self.carried.shape
        centres = _normals((t, _WIDTH), self.seed, "centre") / np.sqrt(_WIDTH)
        maps = _normals((t, FACE, _WIDTH), self.seed, "map") / np.sqrt(FACE * _WIDTH)
        shown = centres + np.einsum("itf,tfw->itw", self._faces, maps)
        noise = _normals((n, _WIDTH), self.seed, "noise") * (0.2 / np.sqrt(_WIDTH))
        vectors = np.einsum("it,itw->iw", self.substance, shown) + noise
        told = self.substance * np.exp(0.5 * _normals((n, t), self.seed, "confidence"))
        rows, topics = np.nonzero(self.carried)
        return Items(
            ids=np.arange(1001, 1001 + n),
            vectors=unit_rows(vectors.astype(np.float32)),
            version=f"faceted-{self.seed}",
            topic_offsets=np.r_[0, np.cumsum(self.carried.sum(axis=1))].astype(np.int64),
            topic_ids=topics.astype(np.int64) + 101,
            topic_confidences=np.minimum(told[rows, topics], 1.0).astype(np.float32),
            created_at=np.zeros(n, np.int64),
        )

    def topics_table(self) -> pa.Table:
        """TOPICS, without vectors."""
        ids = np.arange(self.carried.shape[1]) + 101
        names = pa.array([f"topic {i}" for i in ids.tolist()])
        none = pa.nulls(len(ids), pa.list_(pa.float32()))
        return TOPICS.build({"topic_id": ids, "name": names, "embedding": none})

    def log(self, nights: int) -> Log:
        """What users engaged with before the first night, and on the day after each night."""
        users = np.tile(np.arange(len(self.interests)), nights)
        days = np.repeat(np.arange(nights), len(self.interests))
        drawn = self._drawn(users, days)
        slots = _Choices(
            np.repeat(users, SLOTS),
            drawn.ravel(),
            np.repeat(days, SLOTS),
            np.tile(np.arange(SLOTS), len(users)),
        )
        queries = self._queries(slots)
        looks = _looks(slots)
        alone = _looks(_Choices(users, np.zeros_like(users), days, np.full_like(users, _ALONE)))
        alone = alone._replace(topics=self._on_mind(alone))
        past = self._past()
        none = np.zeros(len(past.users) + len(alone.users), np.int64)
        draws, asked = (
            np.concatenate([np.repeat(queries[name].to_numpy(), _LOOKS), none])
            for name in ("draw_id", "query_id")
        )
        choices = _Choices(*(np.concatenate(p) for p in zip(looks, past, alone, strict=True)))
        kept = (uniforms(self.seed, "liked", *choices) < _LIKED) | (choices.days < 0)
        choices, draws, asked = _Choices(*(c[kept] for c in choices)), draws[kept], asked[kept]
        return self._logged(choices, draws, asked)._replace(queries=queries)

    def _past(self) -> _Choices:
        users, topics = np.nonzero(self.interests)
        nth = np.tile(np.arange(_PAST), len(users))
        return _Choices(np.repeat(users, _PAST), np.repeat(topics, _PAST), -1 - nth * 7, nth)

    def _minds(self, users: IntArray, days: IntArray) -> FloatArray:
        """(n, t) float64: how much each topic is on each user's mind on a day."""
        n, t = len(days), self.carried.shape[1]
        keys = np.repeat(users, t), np.tile(np.arange(t), n), np.repeat(days, t)
        moods = ndtri(uniforms(self.seed, "mood", *keys)).reshape(n, t)
        return np.asarray(self.interests[users] * np.exp(_MOODS * moods))

    def _drawn(self, users: IntArray, days: IntArray) -> IntArray:
        """(n, SLOTS) topics, drawn by mind without replacement (the Gumbel trick)."""
        n, t = len(days), self.carried.shape[1]
        keys = np.repeat(users, t), np.tile(np.arange(t), n), np.repeat(days, t)
        chance = uniforms(self.seed, "drawn", *keys).reshape(n, t)
        with np.errstate(divide="ignore"):
            order = np.argsort(np.log(-np.log(chance)) - np.log(self._minds(users, days)), axis=1)
        return order[:, :SLOTS]

    def _on_mind(self, alone: _Choices) -> IntArray:
        """(n,) a topic for each choice that no draw was for."""
        ends = np.cumsum(self._minds(alone.users, alone.days), axis=1)
        chance = uniforms(self.seed, "alone", alone.users, alone.days, alone.nth) * ends[:, -1]
        return np.asarray((ends <= chance[:, None]).sum(axis=1), np.int64)

    def _queries(self, slots: _Choices) -> pa.Table:
        """QUERIES held to one topic each, asked with what was liked before all nights."""
        n, run = len(slots.users), np.datetime64(FIRST_NIGHT) - 1 + slots.days
        before = slots._replace(days=np.full(n, -1), nth=np.zeros(n, np.int64))  # of `_past`
        texts = {"surface": "home", "query_type": "item", "policy": "planted/0", "arm": ""}
        topics = [pa.array(slots.topics + 101), pa.array(np.ones(n, np.float32))]
        held = pa.StructArray.from_arrays(topics, fields=list(TOPIC_LIST.value_type))
        return QUERIES.build(
            {name: pa.repeat(text, n) for name, text in texts.items()}
            | {name: np.ones(n) for name in ("weight", "propensity", "set_probability")}
            | {
                "run_date": pa.array(run),
                "serve_date": pa.array(run + 1),
                "user_id": slots.users + 1,
                "slot": slots.nth.astype(np.int16),
                "draw_id": hash63(self.seed, "draw", slots.users, slots.days, slots.nth),
                "cluster_id": slots.topics + 1,
                "query_id": self.items.ids[self._chosen(before)],
                "conditions": pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32), held),
            }
        )

    def _logged(self, choices: _Choices, draws: IntArray, asked: IntArray) -> Log:
        """HISTORY of the choices, OUTCOMES of those under a draw; draw 0 is none."""
        hours = (uniforms(self.seed, "hour", *choices) * 24 * HOUR_US).astype(np.int64)
        ids, known = hash63(self.seed, "event", *choices), draws > 0
        history = {
            "user_id": choices.users + 1,
            "item_id": self.items.ids[self._chosen(choices)],
            "action": np.zeros(len(ids), np.int16),
            "at": cutoff_of_night(0) + choices.days * DAY_US + hours,
        }
        same = ("event_id", "impression_id", "credited_id", "content_digest")
        outcomes = {
            "impression_id": ids[known],
            "draw_id": draws[known],
            "credit": np.ones(known.sum()),
            "query_type": pa.repeat("item", int(known.sum())),
            "query_id": asked[known],
        }
        built = HISTORY.build(history | dict.fromkeys(same, ids))
        return Log(built, pa.table(outcomes), QUERIES.empty())

    def _chosen(self, choices: _Choices) -> IntArray:
        """(n,) int64 item rows: one uniform number each, through the distribution of its kind."""
        rows = np.empty(len(choices.users), np.int64)
        drawn = uniforms(self.seed, "chosen", *choices)
        for topic in range(self.carried.shape[1]):
            which = np.flatnonzero(choices.topics == topic)
            users, place = np.unique(choices.users[which], return_inverse=True)
            slice_, ends = self.distribution(users, topic)
            found = (ends[place] <= drawn[which, None] * ends[place, -1:]).sum(axis=1)
            rows[which] = slice_[np.minimum(found, len(slice_) - 1)]
        return rows

    def distribution(self, users: IntArray, topic: int) -> tuple[IntArray, FloatArray]:
        """(m,) items that carry a topic, and (n, m) running sums of P(i | u, t), not normalised."""
        slice_ = np.flatnonzero(self.carried[:, topic])
        appeal = KAPPA * self._tastes[users, topic] @ self._faces[slice_, topic].T
        liked = self._popularity[slice_] * self.substance[slice_, topic]
        return slice_, np.cumsum(liked * np.exp(appeal), axis=1)

    @cached_property
    def _popularity(self) -> FloatArray:
        return np.exp(0.8 * _normals((len(self.carried),), self.seed, "popularity"))

    @cached_property
    def _faces(self) -> FloatArray:
        """(i, t, f) x."""
        return self._mixed(len(self.carried), "face")

    @cached_property
    def _tastes(self) -> FloatArray:
        """(u, t, f) w."""
        return self._mixed(len(self.interests), "taste")

    def _mixed(self, n: int, name: str) -> FloatArray:
        common = _normals((n, 1, FACE), self.seed, f"common {name}")
        own = _normals((n, self.carried.shape[1], FACE), self.seed, name)
        return np.sqrt(1 - self.facets) * common + np.sqrt(self.facets) * own


def cutoff_of_night(night: int) -> int:
    """Microseconds: night 0 knows what happened before `FIRST_NIGHT` began."""
    days = (FIRST_NIGHT - dt.date(1970, 1, 1)).days
    return (days + night) * DAY_US


def _some(shape: tuple[int, int], counts: tuple[int, int], seed: int, name: str) -> np.ndarray:
    """(n, t) bool with `counts[0]` to `counts[1]` places true in every row."""
    drawn = uniforms(seed, name, np.arange(shape[0] * shape[1])).reshape(shape)
    ranks = drawn.argsort(axis=1).argsort(axis=1)
    spread = counts[1] + 1 - counts[0]
    wanted = counts[0] + (uniforms(seed, f"number {name}", np.arange(shape[0])) * spread).astype(
        np.int64
    )
    return np.asarray(ranks < wanted[:, None])


def _normals(shape: tuple[int, ...], seed: int, name: str) -> FloatArray:
    return np.asarray(ndtri(uniforms(seed, name, np.arange(np.prod(shape)))).reshape(shape))


def _looks(choices: _Choices) -> _Choices:
    """Each `_LOOKS` times, told apart by the tens."""
    n = len(choices.users)
    repeated = _Choices(*(np.repeat(c, _LOOKS) for c in choices))
    return repeated._replace(nth=repeated.nth + 10 * np.tile(np.arange(_LOOKS), n))
