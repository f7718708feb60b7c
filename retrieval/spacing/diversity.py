"""Diversity by sliding spectrum decomposition (Huang et al., KDD 2021, arXiv 2107.05204).

A candidate is worth `gamma ||v||` more, where v is what is left of its embedding outside the span
of the items before it. The window slides: the contribution of the oldest item is given back, but
later ones were made orthogonal to it, so items outside still count a little, by design.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from profiling.items import unit_rows
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, IntArray
from retrieval.spacing.reranking import FLAT
from retrieval.spacing.utility import Pool

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingPart:
    """One of several embeddings, with its share of the similarity."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    source: str
    weight: float = option(1.0, "share of the similarity, before scaling to 1", low=0.0, high=1e6)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Diversity:
    """How much a feed avoids repeating itself: sliding spectrum decomposition."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    gamma: float = option(
        0.0,
        "weight against relevance, which spans 1; 0 turns it off. Try .1 to .5",
        low=0.0,
        high=100,
    )
    window: int = option(10, "earlier items that count in full", low=1, high=1000)
    variant: str = option(
        "ssd_star",
        "ssd_star: constant weight (A/B against DPP: time spent +.42 %); ssd: the weight fades "
        "with every item placed (+.25 %)",
        choices=("ssd_star", "ssd"),
    )
    bias: bool = option(
        True, "compare by (1 + cosine) / 2, so that opposite items are not taken for equal ones"
    )
    embeddings: tuple[EmbeddingPart, ...] = option(
        (),
        "[] = the item's own; else source (item, or TABLE.COLUMN of `tables`) and weight of each",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.embeddings and not sum(part.weight for part in self.embeddings) > 0:
            raise ValueError("embeddings must weigh more than 0 together, got 0")

    @property
    def parts(self) -> tuple[EmbeddingPart, ...]:
        """The embeddings that are combined; the item's own by default."""
        return self.embeddings or (EmbeddingPart("item"),)


def combine_embeddings(config: Diversity, sources: Mapping[str, Vectors]) -> Vectors:
    """(n, d) float32 rows whose inner products are the configured similarity.

    Every part becomes unit rows times the root of its share, side by side, so that inner products
    are the weighted mean of the cosines; `bias` adds a constant coordinate.

    Args:
        config: Which embeddings, and their weights.
        sources: (n, d_e) vectors by name; a zero row stays zero in its part.
    """
    parts = config.parts
    total = sum(part.weight for part in parts)
    scale = 0.5 if config.bias else 1.0
    columns = [
        unit_rows(np.asarray(sources[p.source], np.float32))
        * np.float32((scale * p.weight / total) ** 0.5)
        for p in parts
    ]
    if config.bias:
        columns.append(np.full((len(columns[0]), 1), 0.5**0.5, np.float32))
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


@dataclass(frozen=True, eq=False)
class SpectrumTerm:
    """Diversity as a term of the utility, written plainly: the twin of the compiled rerank.

    Attributes:
        config: Options.
        vectors: (n, d) float32 by row of the catalogue, from `combine_embeddings`.
    """

    config: Diversity
    vectors: Vectors = field(repr=False)
    name: str = "sliding_spectrum"
    kind: Literal["diversity"] = "diversity"

    def begin(self, pool: Pool) -> RunningSpectrum:
        """Start on a pool of which nothing is placed yet."""
        return RunningSpectrum(self, pool)


class RunningSpectrum:
    """Modified Gram-Schmidt over a sliding window, one explicit vector a candidate."""

    def __init__(self, term: SpectrumTerm, pool: Pool) -> None:
        self._config = term.config
        self._v = term.vectors[pool.item_rows].astype(np.float64)
        self._bounds = pool.bounds
        feeds = len(pool.bounds) - 1
        self._volumes = np.zeros(feeds)
        self._first = np.ones(feeds, bool)
        self._window: list[deque[tuple[FloatArray, FloatArray]]] = [deque() for _ in range(feeds)]

    def values(self) -> FloatArray:
        """(m,) float64: weight times the length of what is left; 0 before anything is placed."""
        volumes = np.repeat(self._volumes, np.diff(self._bounds))
        return volumes * self._lengths(self._v)

    def place(self, chosen: IntArray) -> None:
        """(g,) int64: what was placed in each feed, -1 where nothing was."""
        for feed in np.flatnonzero(chosen >= 0):
            rows = slice(self._bounds[feed], self._bounds[feed + 1])
            base = self._v[chosen[feed]].copy()
            length = float(self._lengths(base[None])[0])
            along = self._v[rows] @ base / (base @ base) if length else np.zeros(len(self._v[rows]))
            self._v[rows] -= np.outer(along, base)
            held = self._window[feed]
            held.append((along, base))
            if len(held) > self._config.window:
                self._v[rows] += np.outer(*held.popleft())
            before = self._config.gamma if self._first[feed] else self._volumes[feed]
            fades = self._config.variant == "ssd"
            self._volumes[feed] = before * length if fades else self._config.gamma
            self._first[feed] = False

    @staticmethod
    def _lengths(vectors: FloatArray) -> FloatArray:
        squares = (vectors**2).sum(axis=1)
        return np.sqrt(np.where(squares > FLAT, squares, 0.0))
