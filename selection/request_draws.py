"""Draws at request time, from the weights that a night left: no Beam, no warehouse.

    sampler = RequestSampler(stored, state)            # `selection.weight_files.open_sampler(DIR)`
    draws = sampler.draw(user_id, "home", "request 17")
    log += served_rows(draws, at)                      # SERVED_DRAWS, for `queryloop import tables`

What is drawn is a hash of seed, user, night, surface, salt and request id, by the kernels that the
night draws with. A request asked again gets the same answer on any server; the empty request id
gets the night's own draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from profiling.schema import ints, sort_rows
from selection.keys import key_bounds, name_codes, names_in
from selection.sampling import DrawRequest, draw_queries
from selection.weights import WEIGHTS

NIGHTS_OWN = ""  # the request id whose draw is that of QUERIES
Conditions = tuple[tuple[int, float], ...]


class NoWeights(LookupError):
    """A user for whom the night drew nothing: new, or not active for long."""


@dataclass(frozen=True)
class WeightState:
    """What all draws from one night's weights share.

    Attributes:
        run_date: The night.
        seed: Of the warehouse.
        salt: Of the experiment.
        version: Names the night and its manifest; logged with every draw.
        surfaces: Where the night drew queries for.
    """

    run_date: date
    seed: int
    salt: str
    version: str
    surfaces: tuple[str, ...]


class UserWeights(NamedTuple):
    """A user's interests on one surface, by ascending cluster id."""

    cluster_ids: Sequence[int]
    query_types: Sequence[str]
    query_ids: Sequence[int]
    weights: Sequence[float]
    conditions: Sequence[Conditions]
    queries: int
    floor: float
    policy: str
    arm: str


class WeightStore(Protocol):
    """Where the weights lie; any number of threads may ask."""

    def find(self, user_id: int, surface: str) -> UserWeights | None:
        """The user's interests there; None where there are none."""
        ...


class RequestDraw(NamedTuple):
    """One query for one request.

    Attributes:
        draw_id: To be logged with every impression that the query brings.
        slot: Place among the request's queries, from 0.
        cluster_id: The interest.
        query_type: What `query_id` is.
        query_id: What retrieval is asked with.
        conditions: (topic_id, confidence) that retrieval is held to; none: it is free.
        propensity: Probability that the interest is among the queries.
        set_probability: Probability of all the request's queries together.
        user_id: For whom.
        surface: Where.
        request_id: For what; '' for the night's own draw.
        policy: Policy name and version.
        arm: Of the experiment, '' if none.
        state_version: Of the weights.
    """

    draw_id: int
    slot: int
    cluster_id: int
    query_type: str
    query_id: int
    conditions: Conditions
    propensity: float
    set_probability: float
    user_id: int
    surface: str
    request_id: str
    policy: str
    arm: str
    state_version: str


class RequestSampler:
    """Draws queries per request from stored weights."""

    def __init__(self, store: WeightStore, state: WeightState) -> None:
        """Draw from the weights of `store`, which are those of the night of `state`."""
        self._store, self.state = store, state

    def draw(self, user_id: int, surface: str, request_id: str = NIGHTS_OWN) -> list[RequestDraw]:
        """The queries of one request, in slot order.

        Args:
            user_id: For whom.
            surface: Where.
            request_id: Names the request and must be no other's; '' gives the night's own draw.

        Raises:
            ValueError: The night drew nothing for such a surface.
            NoWeights: Nor anything for this user.
        """
        if surface not in self.state.surfaces:
            known = ", ".join(repr(s) for s in self.state.surfaces) or "none"
            raise ValueError(
                f"surface {surface!r} is not among those of {self.state.version}: {known}; "
                "add it to `surfaces` in queryloop.yaml, from the next night on it has weights"
            )
        found = self._store.find(user_id, surface)
        if found is None:
            raise NoWeights(
                f"user {user_id} has no weights on {surface!r} in {self.state.version}; serve what "
                "needs no query, such as what is popular"
            )
        state = self.state
        request = DrawRequest(
            *(state.seed, user_id, state.run_date, surface, state.salt),
            None if request_id == NIGHTS_OWN else request_id,
        )
        drawn = draw_queries(found.weights, found.queries, found.floor, request)
        return [
            RequestDraw(
                draw_id=draw_id,
                slot=slot,
                cluster_id=found.cluster_ids[place],
                query_type=found.query_types[place],
                query_id=found.query_ids[place],
                conditions=found.conditions[place],
                propensity=propensity,
                set_probability=drawn.set_probability,
                user_id=user_id,
                surface=surface,
                request_id=request_id,
                policy=found.policy,
                arm=found.arm,
                state_version=state.version,
            )
            for slot, (place, propensity, draw_id) in enumerate(
                zip(
                    drawn.indices.tolist(),
                    drawn.propensities.tolist(),
                    drawn.draw_ids.tolist(),
                    strict=True,
                )
            )
        ]


def served_rows(draws: Sequence[RequestDraw], at: datetime) -> list[dict[str, Any]]:
    """What must be logged of a request's draws: rows of SERVED_DRAWS, none for the night's own.

    The night reads them as it reads its own QUERIES. An impression names one by `draw_id`; a draw
    whose impressions the user never saw must be logged all the same, or it looks as if it had never
    been made.

    Raises:
        ValueError: `at` does not know its zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"at is {at}, in no known zone; give one, such as datetime.timezone.utc")
    return [
        {
            "draw_id": d.draw_id,
            "user_id": d.user_id,
            "request_id": d.request_id,
            "at": at,
            "surface": d.surface,
            "cluster_id": d.cluster_id,
            "query_type": d.query_type,
            "query_id": d.query_id,
            "propensity": d.propensity,
            "set_probability": d.set_probability,
            "policy": d.policy,
            "arm": d.arm,
            "state_version": d.state_version,
        }
        for d in draws
        if d.request_id != NIGHTS_OWN
    ]


class TableWeights:
    """WEIGHTS in memory."""

    def __init__(self, table: pa.Table) -> None:
        """Of WEIGHTS in any order.

        Raises:
            ValueError: A column is missing or wrong.
        """
        self._table = sort_rows(WEIGHTS.check(table, "weights"), WEIGHTS.key).combine_chunks()
        users, names = ints(self._table, "user_id"), names_in(self._table["surface"])
        codes = name_codes(self._table["surface"], names)
        bounds = key_bounds(users, codes[:, None])
        firsts = bounds[:-1]
        keys = zip(users[firsts].tolist(), [names[c] for c in codes[firsts]], strict=True)
        sizes = np.diff(bounds).tolist()
        self._places = dict(zip(keys, zip(firsts.tolist(), sizes, strict=True), strict=True))

    def find(self, user_id: int, surface: str) -> UserWeights | None:
        """The user's interests there; None where there are none."""
        place = self._places.get((user_id, surface))
        if place is None:
            return None
        columns = self._table.slice(*place).to_pydict()
        conditions = [[(t["topic_id"], t["confidence"]) for t in c] for c in columns["conditions"]]
        return user_weights(columns | {"conditions": conditions})


def user_weights(columns: Mapping[str, Sequence[Any]]) -> UserWeights:
    """One user's rows of WEIGHTS on one surface, by ascending cluster id; pairs as conditions."""
    return UserWeights(
        columns["cluster_id"],
        columns["query_type"],
        columns["query_id"],
        columns["weight"],
        [tuple((int(t), float(c)) for t, c in pairs) for pairs in columns["conditions"]],
        *(columns[name][0] for name in ("queries", "floor", "policy", "arm")),
    )
