"""spacing.yaml: diversity and spacing classes as an operator writes them, checked line by line.

Refused: what cannot be meant. Warned of: what may be meant and often is not. Runs without Beam and
without a warehouse, so that a serving process reads the very same file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipelines.yaml_options import ConfigError, Locate, load_options, render_options
from retrieval.spacing.classes import Spacing, joint_demotion

FILE_NAME = "spacing.yaml"
PAGE = 25  # items on a page, where no warehouse says it

_HEAD = """\
# How a feed keeps its items apart: diversity, and spacing classes.
#
# A class pushes its items apart, it never hides them. What must not be shown at all belongs in a
# hard filter before retrieval; an infinite weight is refused. Utility of item i at position t:
#     relevance (0 to 1) + gamma * |what is new in i| - sum of weight * kernel(distance) by class
# `queryloop spacing check FILE` checks this file, `spacing preview` shows what it does.

"""

EXAMPLES = """\
# - id: graphic                    # in the ledger of FEED under this name
#   description: injuries, surgery; fine alone, unpleasant in a row
#   owner: trust-and-safety
#   source: {label: graphic, threshold: 0.7}      # a label of ITEMS
#   kernel: {shape: inverse}                      # 1, 1/2, 1/3 ...
#   window: 5
#   weight: 0.3                    # at most class_bound / (1 + 1/2 + ... + 1/5) = .43
# - id: politics
#   source: {topic: 12, threshold: 0.3}           # a topic of ITEMS, by confidence
#   kernel: {shape: exponential, half_distance: 2}
#   window: 8
#   weight: 0.15
#   activation: {surfaces: [home], first_day: 2026-10-01, last_day: 2026-11-15}
# - id: low_quality
#   source: {column: quality.risk, threshold: 0.8}  # of an extra table, declared in `tables`
#   kernel: {shape: piecewise, steps: [[2, 1.0], [6, 0.4]]}
#   window: 8
#   weight: 0.2
#   activation: {arms: [treatment], segments: [new_users]}
#   enabled: false
"""


@dataclass(frozen=True)
class Known:
    """What a warehouse has, for checks of names; None: not known, not checked.

    Attributes:
        surfaces: Surfaces that queries are drawn for.
        arms: Arms of the experiment, '' without one.
        segments: User segments.
        labelled: Items of the catalogue that each class has, by its identifier.
    """

    surfaces: Collection[str] | None = None
    arms: Collection[str] | None = None
    segments: Collection[str] | None = None
    labelled: dict[str, int] | None = None


def load_spacing(text: str, where: str, *, page: int = PAGE) -> Spacing:
    """The configuration in YAML `text`.

    Args:
        text: YAML.
        where: The file's name, for errors.
        page: Items on a page: no window may reach further.

    Raises:
        ConfigError: With file, line, value and cure.
    """
    return _load(text, where, page)[0]


def check_spacing(text: str, where: str, known: Known, *, page: int = PAGE) -> list[str]:
    """Warnings, each with file, line, value and cure.

    Raises:
        ConfigError: The file is refused.
    """
    spacing, locate = _load(text, where, page)
    found = []
    total, together = joint_demotion(spacing)
    if total > spacing.joint_cap:
        found.append(
            f"{locate('classes')}: {', '.join(together)} can take {total:.3g} off one item, more "
            f"than the cap of {spacing.joint_cap:g}: their penalties are then scaled down. Lower "
            "their weights, or raise joint_cap"
        )
    for i, one in enumerate(spacing.classes):
        at = f"classes.{i}"
        if one.weight == 0:
            found.append(f"{locate(at + '.weight')}: 0 has no effect; remove {one.id}, or weigh it")
        found += _unknown_names(spacing, i, known, locate)
        count = None if known.labelled is None else known.labelled.get(one.id)
        if count == 0:
            found.append(
                f"{locate(at + '.source')}: no item carries {one.source.name} at threshold "
                f"{one.source.threshold:g}; correct the name, or lower the threshold"
            )
    return found


def render_spacing(spacing: Spacing) -> str:
    """The file with every option and its meaning, and examples of classes; it is read back."""
    return _HEAD + render_options(spacing) + EXAMPLES


def _load(text: str, where: str, page: int) -> tuple[Spacing, Locate]:
    spacing, locate = load_options(Spacing, text, where)
    problems = [
        f"{locate(f'classes.{i}.window')}: must be at most {page}, the items on a page, got "
        f"{one.window}; shorten it"
        for i, one in enumerate(spacing.classes)
        if one.window > page
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return spacing, locate


def _unknown_names(spacing: Spacing, i: int, known: Known, locate: Locate) -> list[str]:
    active = spacing.classes[i].activation
    found = []
    for what, given, there in (
        ("surfaces", active.surfaces, known.surfaces),
        ("arms", active.arms, known.arms),
        ("segments", active.segments, known.segments),
    ):
        unknown = [] if there is None else [name for name in given if name not in there]
        if unknown:
            has = ", ".join(sorted(filter(None, there or ()))) or "none"
            found.append(
                f"{locate(f'classes.{i}.activation.{what}')}: no feed has {unknown[0]!r}; there "
                f"are: {has}. Correct it, or the class never works there"
            )
    return found
