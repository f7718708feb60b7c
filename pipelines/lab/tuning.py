"""Curves of the options that a policy has: each varied alone, in a world that learns from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pipelines.config import NightConfig
from pipelines.lab.replay import ReplayOptions, neighbours_of, replay
from pipelines.lab.universe import Universe
from pipelines.worlds.nights import Loop, play_nights
from pipelines.worlds.planted import People, Rules
from profiling.bootstrap import Estimate, estimate, resampled_sums
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, floats, ints
from selection.prior import PriorConfig

Note = Callable[[str], None]
Earned = tuple[FloatArray, FloatArray]  # (u,) value of each user, (u,) what it is divided by
Play = Callable[[NightConfig], Earned]


@dataclass(frozen=True)
class TuneConfig:
    """What is tried. Every option is varied with the others as the policy has them."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    users: int = option(2000, "users of the world", low=100)
    nights: int = option(10, "nights played", low=2)
    first: int = option(4, "nights left out of the mean, while every policy knows little", low=0)
    seeds: int = option(3, "replays, where it is a replay", low=1)
    beta: tuple[float, ...] = option((1.0, 2.0, 4.0, 8.0), "sharpness")
    gamma: tuple[float, ...] = option((0.0, 1.0, 2.0), "exponent of the importance")
    floor: tuple[float, ...] = option((0.0, 0.05, 0.1, 0.2), "share of draws spread evenly")
    half_life_days: tuple[float, ...] = option((7.0, 30.0, 90.0), "of the rewards")
    prior_strength: tuple[float, ...] = option(
        (5.0, 20.0, 80.0),
        "impressions that what a record leans on is worth, instead of k as fitted and of "
        "`evidence.strength`",
    )
    prior: tuple[str, ...] = option(("average", "evidence"), "what a record leans on")

    def __post_init__(self) -> None:
        check_options(self)
        if self.first >= self.nights:
            raise ValueError(f"first must be below nights, got {self.first} of {self.nights}")


@dataclass(frozen=True)
class Point:
    """One value of one option.

    `mean` is what users did per draw or item shown, `uplift` is paired against the policy as it is.
    """

    option: str
    value: Any
    mean: Estimate
    uplift: Estimate
    as_it_is: bool


def tune_policy(
    play: Play, base: NightConfig, config: TuneConfig, *, seed: int, note: Note = lambda text: None
) -> list[Point]:
    """The curve of every option, in order.

    Users are the same for every value, so differences are paired.

    Args:
        play: Plays nights; `in_world` or `in_replay`.
        base: The policy as it is, in its selection, rewards, prior and evidence.
        config: What is tried.
        seed: Of the resamples.
        note: Told what is being played.
    """
    played: dict[str, Earned] = {}
    tried = [(base, "as it is", "", True), *_tried(base, config)]
    for night, name, value, _ in tried:
        if night.digest not in played:
            note(f"{name} {value}".strip())
            played[night.digest] = play(night)
    columns = [column for earned in played.values() for column in earned]
    sums = resampled_sums(np.stack(columns, axis=1), seed)
    means = {digest: sums[:, 2 * i] / sums[:, 2 * i + 1] for i, digest in enumerate(played)}
    own = means[base.digest]
    return [
        Point(
            name,
            value,
            estimate(means[night.digest]),
            estimate(means[night.digest] / own - 1.0),
            as_it_is,
        )
        for night, name, value, as_it_is in tried
    ]


def in_world(rules: Rules, config: TuneConfig, seed: int) -> Play:
    """Play in a planted world; what is earned is per draw."""
    people = People.create(rules, np.arange(1, config.users + 1), seed)

    def play(night: NightConfig) -> Earned:
        total = np.zeros(len(people.ids))
        loop = Loop(night.selection, night.rewards, night.prior, night.evidence)
        for played in play_nights(people, loop, config.nights):
            if played.number >= config.first:
                place = np.searchsorted(people.ids, ints(played.outcomes, "user_id"))
                values = floats(played.outcomes, "value")
                total += np.bincount(place, values, minlength=len(total))
        draws = (config.nights - config.first) * night.selection.queries
        return total, np.full(len(total), 1.0 * draws)

    return play


def in_replay(universe: Universe, config: TuneConfig) -> Play:
    """Play on outcomes that are all known; what is earned is per item shown."""
    options = ReplayOptions(nights=config.nights, seeds=config.seeds)

    def play(night: NightConfig) -> Earned:
        around = neighbours_of(universe.items, night.evidence.neighbours)
        value, shown = np.zeros(len(universe.user_ids)), np.zeros(len(universe.user_ids))
        for seed in range(options.seeds):
            run = replay(universe, around, "tried", night.selection, night, options, seed=seed)
            value += run.values[config.first :].sum(axis=0)
            shown += run.shown[config.first :].sum(axis=0)
        return value, shown

    return play


def _tried(base: NightConfig, config: TuneConfig) -> Iterator[tuple[NightConfig, str, Any, bool]]:
    """(night, option, value, whether it is the policy as it is)."""
    s = base.selection
    for name in ("beta", "gamma", "floor", "prior"):
        for value in _with(getattr(config, name), own := getattr(s, name)):
            night = replace(base, selection=replace(s, **{name: value}))
            yield night, name, value, value == own
    days = base.rewards.half_life_days
    for value in _with(config.half_life_days, days):
        rewards = replace(base.rewards, half_life_days=value)
        yield replace(base, rewards=rewards), "half_life_days", value, value == days
    yield base, "prior_strength", "fitted", True
    for value in sorted(config.prior_strength):
        prior = PriorConfig(strength_low=value, strength_high=value)
        evidence = replace(base.evidence, strength=value)
        yield replace(base, prior=prior, evidence=evidence), "prior_strength", value, False


def _with(values: tuple[Any, ...], own: Any) -> list[Any]:
    return sorted({*values, own})
