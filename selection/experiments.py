"""Experiments: arms that choose or ask queries differently, and which arm a user is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from profiling.hashing import uniforms
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray
from selection.policies import SelectionConfig

NO_ARM = ""  # the arm's name where there is no experiment


@dataclass(frozen=True)
class Arm:
    """One way of choosing and asking queries, for a share of the users."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    name: str
    share: float = option(0.5, "share of the users; the arms' shares sum to 1", low=0, high=1)
    selection: SelectionConfig = field(
        default_factory=SelectionConfig, metadata={"doc": "how this arm chooses its queries"}
    )
    # Options of a package above this one: kept as they are written, checked where they are known.
    retrieval: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "options of the section `retrieval` that this arm has otherwise"},
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.name:
            raise ValueError("name of an arm must not be empty: '' stands for no experiment")


@dataclass(frozen=True)
class Experiment:
    """Arms that are compared, and what they learn from."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    name: str
    learning: str = option(
        "isolated",
        "isolated: prior and model are fitted per arm; shared: over all users",
        choices=("isolated", "shared"),
    )
    arms: tuple[Arm, ...] = field(default=(), metadata={"doc": "at least one; shares sum to 1"})
    salt: str = option("", "what users are dealt by; '' = the name. Another salt deals anew")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.name:
            raise ValueError("name of an experiment must not be empty: arms are dealt by it")
        names = [arm.name for arm in self.arms]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"arms must have names of their own, got {twice[0]!r} twice")
        total = sum(arm.share for arm in self.arms)
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"shares of the arms must sum to 1, got {total!r}")


def arms_of(user_ids: npt.ArrayLike, experiment: Experiment) -> IntArray:
    """(n,) user ids to (n,) int64 places in `experiment.arms`: a hash of (salt, user).

    A user's arm depends on the salt and the shares alone; a share that moves between two arms
    next to each other moves only their users.
    """
    bounds = np.cumsum([arm.share for arm in experiment.arms])[:-1]
    draws = uniforms("arm", experiment.salt or experiment.name, np.asarray(user_ids, np.int64))
    return np.searchsorted(bounds, draws, side="right").astype(np.int64)


def arm_names(user_ids: npt.ArrayLike, experiment: Experiment | None) -> npt.NDArray[np.str_]:
    """(n,) user ids to (n,) names of the arm they are in; NO_ARM without an experiment."""
    ids = np.asarray(user_ids, np.int64)
    if experiment is None:
        return np.full(len(ids), NO_ARM)
    return np.array([arm.name for arm in experiment.arms])[arms_of(ids, experiment)]


def fit_arms(user_ids: npt.ArrayLike, experiment: Experiment | None) -> npt.NDArray[np.str_]:
    """(n,) user ids to (n,) names of the arm whose fits they enter.

    NO_ARM without an experiment, and where its arms learn from each other.
    """
    ids = np.asarray(user_ids, np.int64)
    if experiment is None or experiment.learning == "shared":
        return np.full(len(ids), NO_ARM)
    return arm_names(ids, experiment)


def selections_of(experiment: Experiment) -> dict[str, SelectionConfig]:
    """The arms' configs by name: the `selections` of `select_queries`."""
    return {arm.name: arm.selection for arm in experiment.arms}
