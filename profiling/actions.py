"""What users do: the configured actions, their codes, masks and counts.

An action's code is its place in the configured list. Codes are stored, so the list may be appended
to, never reordered. `positive` actions make an item part of a user's interests; `value` is what one
is worth to an outcome, negative feedback below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray


@dataclass(frozen=True)
class Action:
    """One kind of action."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    name: str
    value: float = option(1.0, "weight in the value of an outcome; negative feedback below 0")
    positive: bool = option(True, "whether it makes the item part of the user's interests")
    importance: float = option(1.0, "weight of one in a cluster's importance", low=0.0)

    def __post_init__(self) -> None:
        check_options(self)


Actions = tuple[Action, ...]

# The feedback of KuaiRand that says something (design, section 4, Defaults).
DEFAULT_ACTIONS: Actions = (
    Action("long_view", 1.0),
    Action("like", 0.5),
    Action("hate", -1.0, positive=False),
)


def check_actions(actions: Actions) -> None:
    """Raise ValueError where the list cannot be used: none, too many, or a name twice."""
    names = [a.name for a in actions]
    if not 1 <= len(names) <= 62:
        raise ValueError(f"actions must be a list of 1 to 62, got {len(names)}")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"actions must have names of their own, got {twice[0]!r} twice")


def action_codes(names: pa.ChunkedArray | pa.Array, actions: Actions) -> npt.NDArray[np.int16]:
    """(n,) names to (n,) int16 codes; -1 where a name is not configured."""
    known = pa.array([a.name for a in actions], pa.string())
    codes = pc.fill_null(pc.index_in(names, known), -1)
    return np.asarray(codes.to_numpy()).astype(np.int16)


def action_masks(lists: pa.ChunkedArray, actions: Actions) -> IntArray:
    """(n,) lists of action names to (n,) int64: bit i is set where action i is in the list.

    Null lists give 0; names must be configured (an importer has seen to it).
    """
    array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    masks = np.zeros(len(array), np.int64)
    rows = pc.list_parent_indices(array).to_numpy()
    codes = action_codes(pc.list_flatten(array), actions).astype(np.int64)
    np.bitwise_or.at(masks, rows[codes >= 0], np.int64(1) << codes[codes >= 0])
    return masks


def mask_values(masks: IntArray, actions: Actions) -> npt.NDArray[np.float64]:
    """(n,) masks to (n,) float64: the sum of the values of the actions that are set.

    Added action by action: a matrix product's last bits depend on the number of rows.
    """
    values = np.zeros(len(masks))
    for code, action in enumerate(actions):
        values += ((masks >> code) & 1) * action.value
    return values


def mask_flags(masks: IntArray, n_actions: int) -> npt.NDArray[np.float64]:
    """(n,) masks to (n, n_actions) float64 of 0 and 1."""
    return ((masks[:, None] >> np.arange(n_actions)) & 1).astype(np.float64)


def counts_list(counts: IntArray) -> pa.ListArray:
    """(n, a) int64 counts to a list column, in the order of the configured actions."""
    n, width = counts.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(counts).reshape(-1)))


def counts_matrix(lists: pa.ChunkedArray, n_actions: int) -> IntArray:
    """A list column to (n, n_actions) int64; actions appended since a row was written count 0."""
    array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    counts = np.zeros((len(array), n_actions), np.int64)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.repeat(np.arange(len(array)), lengths)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    counts[rows, places] = pc.list_flatten(array).to_numpy(zero_copy_only=False)
    return counts


def action_names(actions: Sequence[Action]) -> list[str]:
    """The names, by code."""
    return [a.name for a in actions]
