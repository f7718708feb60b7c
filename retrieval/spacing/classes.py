"""Soft spacing as data: classes of items that are pushed apart, never out.

A class takes `q_c,i(t) = lambda_c [i in c] sum_{d=1..w} kernel_c(d) [item at t-d in c]` off the
utility of an item. What must never be shown belongs in a hard filter before retrieval, not here.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray
from retrieval.spacing.diversity import Diversity

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Source:
    """What says that an item is of the class: exactly one of label, topic and column."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    label: str = option("", "a label of ITEMS")
    topic: int | None = option(None, "a topic of ITEMS, by its id", low=0)
    column: str = option("", "TABLE.COLUMN of an extra label table")
    threshold: float = option(
        0.5, "least score, or confidence of the topic, of a member; above 0", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        check_options(self)
        given = [bool(self.label), self.topic is not None, bool(self.column)]
        if sum(given) != 1:
            raise ValueError(
                f"label (or topic, or column) must be given, exactly one of the three, got "
                f"{sum(given)}"
            )
        if self.threshold == 0.0:
            raise ValueError("threshold must be above 0, got 0: every item would be a member")
        if self.column and self.column.count(".") != 1:
            raise ValueError(f"column must be TABLE.COLUMN, got {self.column!r}")

    @property
    def name(self) -> str:
        """The source in words, as errors name it."""
        if self.topic is not None:
            return f"topic {self.topic}"
        return f"label {self.label!r}" if self.label else f"column {self.column!r}"


@dataclass(frozen=True)
class Kernel:
    """How a penalty falls with the distance d to an earlier member."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    shape: str = option(
        "inverse",
        "inverse: 1 / d; exponential: 2^(-(d - 1) / half_distance); piecewise: by steps",
        choices=("inverse", "exponential", "piecewise"),
    )
    half_distance: float = option(
        0.0, "positions in which an exponential kernel halves", low=0.0, high=1000.0
    )
    steps: tuple[tuple[int, float], ...] = option(
        (), "of a piecewise kernel: [distance up to which it holds, value], falling; 0 beyond"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if (self.shape == "exponential") != (self.half_distance > 0):
            raise ValueError(
                f"half_distance must be above 0 for an exponential kernel and absent for others, "
                f"got {self.half_distance!r} for {self.shape}"
            )
        if (self.shape == "piecewise") != bool(self.steps):
            raise ValueError(
                f"steps must be given for a piecewise kernel and for no other, got "
                f"{list(self.steps)!r} for {self.shape}"
            )
        self._check_steps()

    def _check_steps(self) -> None:
        last, before = 0, math.inf
        for distance, value in self.steps:
            if distance <= last:
                raise ValueError(f"steps must go outwards, got distance {distance} after {last}")
            if not 0.0 <= value <= before or not math.isfinite(value):
                raise ValueError(
                    f"steps must fall from one to the next and stay finite, at least 0: got {value}"
                    f" at distance {distance}" + (f" after {before}" if last else "")
                )
            last, before = distance, value

    def values(self, window: int) -> FloatArray:
        """(window,) float64: the kernel at distances 1 to `window`."""
        distance = np.arange(1, window + 1)
        if self.shape == "inverse":
            return 1.0 / distance
        if self.shape == "exponential":
            return np.exp2(-(distance - 1) / self.half_distance)
        found = np.zeros(window)
        for reach, value in reversed(self.steps):
            found[:reach] = value
        return found


@dataclass(frozen=True)
class Activation:
    """Where and when a class works; an empty list means everywhere."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    surfaces: tuple[str, ...] = option((), "surfaces")
    segments: tuple[str, ...] = option((), "user segments; at least one must be the user's")
    arms: tuple[str, ...] = option((), "arms of the experiment")
    first_day: dt.date | None = option(None, "first day of serving, YYYY-MM-DD")
    last_day: dt.date | None = option(None, "last day of serving, YYYY-MM-DD")

    def __post_init__(self) -> None:
        if self.first_day and self.last_day and self.last_day < self.first_day:
            raise ValueError(
                f"last_day must not lie before first_day {self.first_day}, got {self.last_day}"
            )

    def holds(self, surface: str, segments: frozenset[str], arm: str, day: dt.date) -> bool:
        """Whether the class works in a feed of this surface, user, arm and day of serving."""
        return (
            (not self.surfaces or surface in self.surfaces)
            and (not self.segments or not segments.isdisjoint(self.segments))
            and (not self.arms or arm in self.arms)
            and (self.first_day is None or self.first_day <= day)
            and (self.last_day is None or day <= self.last_day)
        )


@dataclass(frozen=True)
class SpacingClass:
    """One class of items that a feed keeps apart."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    id: str
    source: Source
    weight: float = option(0.1, "lambda: utility taken off per unit of kernel", low=0.0)
    kernel: Kernel = field(default_factory=Kernel, metadata={"doc": "fall with distance"})
    window: int = option(5, "earlier positions that count", low=1, high=1000)
    activation: Activation = field(
        default_factory=Activation, metadata={"doc": "where and when; everywhere by default"}
    )
    enabled: bool = option(True, "false keeps the class in the file, without effect")
    description: str = option("", "what the class is, for people")
    owner: str = option("", "whom to ask")

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(
                f"id must be a letter, then letters, digits, '_', '-' or '.', got {self.id!r}"
            )
        if math.isinf(self.weight):
            raise ValueError(
                "weight must be finite: what may never be shown belongs in a hard filter before "
                "retrieval, soft spacing only pushes apart"
            )
        check_options(self)
        values = self.kernel.values(self.window)
        if self.window > 1 and values[0] <= values[-1]:
            raise ValueError(
                f"kernel must fall within the window of {self.window}, got {values[0]:g} at "
                f"distance 1 and {values[-1]:g} at {self.window}; lower the steps or half_distance"
            )
        if self.kernel.steps and self.kernel.steps[-1][0] > self.window:
            raise ValueError(
                f"kernel.steps reach to distance {self.kernel.steps[-1][0]}, beyond the window of "
                f"{self.window}; widen the window or drop the step"
            )

    @property
    def weights(self) -> FloatArray:
        """(window,) float64: lambda times the kernel at distances 1 to window."""
        return self.weight * self.kernel.values(self.window)

    @property
    def greatest_demotion(self) -> float:
        """What a member in a row of members loses: lambda * sum of kernel."""
        return float(self.weights.sum())


@dataclass(frozen=True)
class LabelTable:
    """An extra table of scores or vectors, by item_id."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    name: str
    path: str
    digest: str = option("", "of its content; noted when a night reads it")

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.name) or "." in self.name:
            raise ValueError(f"name must be letters, digits, '_' or '-', got {self.name!r}")


@dataclass(frozen=True)
class Spacing:
    """How a feed keeps its items apart: diversity, and the spacing classes."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    diversity: Diversity = field(default_factory=Diversity)
    class_bound: float = option(
        1.0,
        "greatest lambda * sum of kernel of a class (design); relevance spans 1",
        low=0,
        high=10,
    )
    joint_cap: float = option(
        1.5, "greatest sum of an item's penalties (design); more is scaled down", low=0.01, high=100
    )
    drift_share: float = option(
        0.5, "alarm: change of a class's label rate against its trailing mean", low=0.01, high=10.0
    )
    drift_nights: int = option(7, "nights in that mean; the alarm needs 3", low=3, high=90)
    measured_share: float = option(
        0.1,
        "share of the users, chosen by hash, whose feeds a night builds without any class as well, "
        "to measure what the classes do; 1 for all, which makes the step half as long again",
        low=0.001,
        high=1.0,
    )
    tables: tuple[LabelTable, ...] = option((), "extra label tables, Parquet or CSV with item_id")
    segments: str = option("", "Parquet or CSV of user_id, segment; '' = no user has a segment")
    segments_digest: str = option("", "of its content; noted when a night reads it")
    classes: tuple[SpacingClass, ...] = option((), "the spacing classes")

    def __post_init__(self) -> None:
        check_options(self)
        _check_names(self)
        for i, one in enumerate(self.classes):
            if one.greatest_demotion > self.class_bound + 1e-12:
                total = one.kernel.values(one.window).sum()
                raise ValueError(
                    f"classes.{i}.weight must be at most {self.class_bound / total:.4g}, so that "
                    f"lambda * sum of kernel = lambda * {total:.4g} stays within class_bound "
                    f"{self.class_bound:g}, got {one.weight!r}"
                )

    @property
    def works(self) -> tuple[SpacingClass, ...]:
        """The classes that are enabled and weigh something."""
        return tuple(c for c in self.classes if c.enabled)


def _check_names(spacing: Spacing) -> None:
    """Raise ValueError where a name comes twice, or a source's table is not declared."""
    tables = [t.name for t in spacing.tables]
    for i, name in enumerate(tables):
        if name in tables[:i]:
            raise ValueError(f"tables.{i}.name must be its own, got {name!r} twice")
    ids = [c.id for c in spacing.classes]
    for i, one in enumerate(spacing.classes):
        if one.id in ids[:i]:
            raise ValueError(
                f"classes.{i}.id must be its own, got {one.id!r} twice; rename or remove one"
            )
        table = one.source.column.partition(".")[0]
        if table and table not in tables:
            raise ValueError(
                f"classes.{i}.source.column is of a table {table!r} that `tables` does not "
                f"declare; add it there, or correct {one.source.column!r}"
            )
    for i, part in enumerate(spacing.diversity.embeddings):
        table = part.source.partition(".")[0]
        if part.source != "item" and table not in tables:
            raise ValueError(
                f"diversity.embeddings.{i}.source must be item or TABLE.COLUMN of `tables`, got "
                f"{part.source!r}"
            )


def joint_demotion(spacing: Spacing) -> tuple[float, tuple[str, ...]]:
    """The greatest sum of demotions of classes that can work in one feed, and these classes.

    Days and segments are taken to overlap; surfaces and arms are told apart.
    """
    surfaces = {s for c in spacing.works for s in c.activation.surfaces} | {""}
    arms = {a for c in spacing.works for a in c.activation.arms} | {""}
    found: tuple[float, tuple[str, ...]] = (0.0, ())
    for surface in sorted(surfaces):
        for arm in sorted(arms):
            together = [
                c
                for c in spacing.works
                if (not c.activation.surfaces or surface in c.activation.surfaces)
                and (not c.activation.arms or arm in c.activation.arms)
            ]
            total = sum(c.greatest_demotion for c in together)
            found = max(found, (total, tuple(c.id for c in together)))
    return found
