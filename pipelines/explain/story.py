"""All that the warehouse knows of one user as of a night, as plain data."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from pipelines.explain.interests import Interest, interests_of
from pipelines.explain.places import (
    Came,
    Drawn,
    Place,
    Seen,
    draws_of_night,
    places_of_feed,
    seen_until,
)
from pipelines.explain.rows import UserRows
from pipelines.night_options import night_run
from pipelines.store.warehouse import Warehouse

NIGHTS = 28  # of history that is told
AFTER = 14  # nights later in which what was drawn may have closed


@dataclass(frozen=True)
class UserStory:
    """What `queryloop explain` tells.

    Attributes:
        user: The id.
        name: As asked for.
        date: The night.
        serves: The day that its queries and feed are for.
        notes: What the reader should know before reading on.
        interests: The most important first.
        draws: Tonight's queries.
        places: Tonight's feeds, position by position.
        seen: What has closed up to the night, the newest first.
    """

    user: int
    name: str
    date: str
    manifest: int
    serves: str
    notes: tuple[str, ...]
    interests: tuple[Interest, ...]
    draws: tuple[Drawn, ...]
    places: tuple[Place, ...]
    seen: tuple[Seen, ...]


def story_of(warehouse: Warehouse, name: str, date: str | None = None) -> UserStory:
    """The story of one user as of a night, the newest by default.

    Args:
        warehouse: Where.
        name: The user's id, or the name that the source gave.
        date: YYYY-MM-DD.

    Raises:
        ValueError: There is no such night or user.
    """
    manifest = night_run(warehouse, date)
    every = [m for m in warehouse.chain(warehouse.head()) if m.kind != "bootstrap"]
    chain = [m for m in every if m.date <= manifest.date][-NIGHTS:]
    later = [m for m in every if m.date > manifest.date][:AFTER]
    rows = UserRows.find(warehouse, manifest, name)
    before = Came.of(rows, chain)
    after = Came.of(rows, later) if later else Came([], ())
    draws = draws_of_night(rows, after)
    interests = interests_of(rows, chain)
    return UserStory(
        user=rows.user,
        name=name,
        date=manifest.date.isoformat(),
        manifest=manifest.number,
        serves=(manifest.date + dt.timedelta(days=1)).isoformat(),
        notes=tuple(
            _notes(interests, draws, later=bool(later), days=_active_days(manifest.config))
        ),
        interests=interests,
        draws=draws,
        places=places_of_feed(rows, draws, after),
        seen=seen_until(rows, before),
    )


def _active_days(config: object) -> int:
    return int(dict(config)["serve_active_days"])  # type: ignore[call-overload] # a JSON object


def _notes(
    interests: tuple[Interest, ...], draws: tuple[Drawn, ...], *, later: bool, days: int
) -> list[str]:
    found = []
    if not interests:
        found.append("No interest yet: no positive engagement with an item of the catalogue.")
    elif not any(one.worth for one in interests):
        found.append(
            f"Not served: the last positive engagement is more than {days} days ago, so there are "
            "no rewards, queries and feed tonight."
        )
    if draws and not later:
        found.append("Nothing of tonight's queries can have been shown yet: it is the last night.")
    return found
