"""Policies by the name that the lab's commands take."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from selection.policies import SelectionConfig


@dataclass(frozen=True)
class NamedPolicy:
    """A selection that the lab knows by name.

    Attributes:
        selection: As an arm of an experiment would have it.
        meaning: For people.
    """

    selection: SelectionConfig
    meaning: str


NAMED = {
    "uniform": NamedPolicy(
        SelectionConfig(policy="counts", floor=1.0), "every interest alike: a bound"
    ),
    "counts": NamedPolicy(
        SelectionConfig(policy="counts"), "raw counts of past engagements, what others are paid by"
    ),
    "importance": NamedPolicy(
        SelectionConfig(policy="importance"), "time-decayed counts (PinnerSage)"
    ),
    "reward": NamedPolicy(SelectionConfig(policy="reward"), "reward^2"),
    "reward_importance": NamedPolicy(
        SelectionConfig(policy="reward_importance"), "reward^2 times importance: the default"
    ),
    "reward_odds": NamedPolicy(
        SelectionConfig(policy="reward_odds", beta=4.0), "odds of the reward^4"
    ),
    "thompson": NamedPolicy(
        SelectionConfig(policy="thompson"), "share of posterior draws among the best"
    ),
    "evidence": NamedPolicy(
        SelectionConfig(policy="odds_importance", prior="evidence", beta=4.0),
        "odds of the reward^4 times importance, leaning on evidence",
    ),
    "thompson_evidence": NamedPolicy(
        SelectionConfig(policy="thompson", prior="evidence"), "thompson, leaning on evidence"
    ),
}


def policy_named(name: str) -> NamedPolicy:
    """The policy called `name`.

    Raises:
        ValueError: There is none; names the nearest.
    """
    check_policy(name, tuple(NAMED))
    return NAMED[name]


def check_policy(name: str, known: Sequence[str]) -> None:
    """Raise ValueError where `name` is none of the `known` policies; it names the nearest."""
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ValueError(
            f"there is no policy {name!r}; the nearest is {nearest[0]!r}, of {', '.join(known)}"
        )
