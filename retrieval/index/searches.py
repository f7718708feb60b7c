"""What is asked of an index, and what it answers: arrays that numba kernels take as they are."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from profiling.schema import IntArray

Vectors = npt.NDArray[np.float32]

SCORE_STEP = 1e-6  # scores are rounded to it before they are ordered
_LONGEST = 1.001  # a unit row in float32, with room for its rounding


class Lists(NamedTuple):
    """(l,) lists of int64: list i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: IntArray
    values: IntArray


class Searches(NamedTuple):
    """n searches; what many of them share (vector, condition, exclusions) is held and used once.

    Attributes:
        vectors: (v, d) float32 rows of length 1 at most.
        vector_of: (n,) int64, each search's row of `vectors`.
        conditions: Lists of topic ids; an empty list is no condition: the whole catalogue.
        condition_of: (n,) int64, each search's list of `conditions`.
        excluded: Lists of item rows that must not come back.
        excluded_of: (n,) int64, each search's list of `excluded`.
    """

    vectors: Vectors
    vector_of: IntArray
    conditions: Lists
    condition_of: IntArray
    excluded: Lists
    excluded_of: IntArray

    def take(self, which: npt.NDArray[np.int64]) -> Searches:
        """Some of the searches, in this order; what they share stays shared."""
        return self._replace(
            vector_of=self.vector_of[which],
            condition_of=self.condition_of[which],
            excluded_of=self.excluded_of[which],
        )


class Hits(NamedTuple):
    """What n searches found, best first.

    Attributes:
        rows: (n, k) int64 item rows, -1 beyond the count.
        scores: (n, k) float32 inner products, a multiple of `SCORE_STEP`; 0 beyond the count.
        counts: (n,) int64.
    """

    rows: IntArray
    scores: Vectors
    counts: IntArray

    @classmethod
    def none(cls, n: int, k: int) -> Hits:
        """What a number of searches get that find nothing."""
        return cls(
            np.full((n, k), -1, np.int64), np.zeros((n, k), np.float32), np.zeros(n, np.int64)
        )


class ItemIndex(Protocol):
    """What retrieval asks; approximate indexes may miss items but never return an excluded one."""

    def search(self, searches: Searches, k: int) -> Hits:
        """The k items of greatest score within each search's slice, equal scores by item id."""
        ...


def check_rows(vectors: Vectors, what: str) -> None:
    """Every row is finite and of length 1 at most.

    Raises:
        ValueError: Naming the row and its length.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    wrong = np.flatnonzero(~(squares <= _LONGEST**2))
    if len(wrong):
        length = np.sqrt(squares[wrong[0]])
        raise ValueError(f"{what} {wrong[0]} has length {length:g}, must be 1 at most: scale it")


def check_queries(vectors: Vectors, width: int) -> None:
    """The queries are as wide as the index, finite and of length 1 at most.

    Raises:
        ValueError: Naming the widths, or the row and its length.
    """
    if vectors.shape[1] != width:
        raise ValueError(
            f"queries are {vectors.shape[1]} numbers wide, the index {width}: "
            "make both with one model or embedding version"
        )
    check_rows(vectors, "query")
