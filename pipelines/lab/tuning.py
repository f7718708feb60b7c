"""Curves of the options that a policy has: each varied alone, in a world that learns from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pipelines.worlds.nights import Loop, play_nights
from pipelines.worlds.planted import People, Rules
from profiling.bootstrap import Estimate, estimate, resampled_sums
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, floats, ints
from selection.policies import SelectionConfig
from selection.prior import PriorConfig

Note = Callable[[str], None]


@dataclass(frozen=True)
class TuneConfig:
    """What is tried. Every option is varied with the others as the policy has them."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    users: int = option(2000, "users of the world", low=100)
    nights: int = option(10, "nights played", low=2)
    first: int = option(4, "nights left out of the mean, while every policy knows little", low=0)
    beta: tuple[float, ...] = option((1.0, 2.0, 4.0, 8.0), "sharpness")
    floor: tuple[float, ...] = option((0.0, 0.05, 0.1, 0.2), "share of draws spread evenly")
    half_life_days: tuple[float, ...] = option((7.0, 30.0, 90.0), "of the rewards")
    prior_strength: tuple[float, ...] = option(
        (5.0, 20.0, 80.0), "k, impressions that a user's mean is worth, instead of the fitted one"
    )
    prior: tuple[str, ...] = option(("average", "evidence"), "what a record leans on")

    def __post_init__(self) -> None:
        check_options(self)
        if self.first >= self.nights:
            raise ValueError(f"first must be below nights, got {self.first} of {self.nights}")


@dataclass(frozen=True)
class Point:
    """One value of one option: what users did per draw, and paired against the policy as it is."""

    option: str
    value: Any
    mean: Estimate
    uplift: Estimate
    as_it_is: bool


def tune_policy(
    rules: Rules,
    selection: SelectionConfig,
    config: TuneConfig,
    *,
    seed: int,
    note: Note = lambda text: None,
) -> list[Point]:
    """The curve of every option, in order.

    Users and their luck are the same for every value, so differences are paired.

    Args:
        rules: The world.
        selection: The policy as it is.
        config: What is tried.
        seed: Of the world and the resamples.
        note: Told what is being played.
    """
    people = People.create(rules, np.arange(1, config.users + 1), seed)
    base = Loop(selection)
    played: dict[Loop, FloatArray] = {}
    tried = [(base, "as it is", "", True), *_loops(base, config)]
    for loop, name, value, _ in tried:
        if loop not in played:
            note(f"{name} {value}".strip())
            played[loop] = _earned(people, loop, config)
    columns = [played[loop] for loop in played]
    places = {loop: i for i, loop in enumerate(played)}
    draws = np.full(config.users, 1.0 * (config.nights - config.first) * selection.queries)
    sums = resampled_sums(np.stack([*columns, draws], axis=1), seed)
    own = sums[:, places[base]]
    return [
        Point(
            name,
            value,
            estimate(sums[:, places[loop]] / sums[:, -1]),
            estimate(sums[:, places[loop]] / own - 1.0),
            as_it_is,
        )
        for loop, name, value, as_it_is in tried
    ]


def _loops(base: Loop, config: TuneConfig) -> Iterator[tuple[Loop, str, Any, bool]]:
    """(loop, option, value, whether it is the policy as it is)."""
    s = base.selection
    for name, own in (("beta", s.beta), ("floor", s.floor), ("prior", s.prior)):
        for value in _with(getattr(config, name), own):
            yield replace(base, selection=replace(s, **{name: value})), name, value, value == own
    days = base.rewards.half_life_days
    for value in _with(config.half_life_days, days):
        rewards = replace(base.rewards, half_life_days=value)
        yield replace(base, rewards=rewards), "half_life_days", value, value == days
    yield base, "prior_strength", "fitted", True
    for value in sorted(config.prior_strength):
        prior = PriorConfig(strength_low=value, strength_high=value)
        yield replace(base, prior=prior), "prior_strength", value, False


def _with(values: tuple[Any, ...], own: Any) -> list[Any]:
    return sorted({*values, own})


def _earned(people: People, loop: Loop, config: TuneConfig) -> FloatArray:
    """(u,) value that each user's draws earned, of the nights that count."""
    total = np.zeros(len(people.ids))
    for night in play_nights(people, loop, config.nights):
        if night.number >= config.first:
            place = np.searchsorted(people.ids, ints(night.outcomes, "user_id"))
            total += np.bincount(place, floats(night.outcomes, "value"), minlength=len(total))
    return total
