"""Which index answers a search: picked for each condition by the cost of its measured selectivity.

Cost is the number of items scored, counted, not timed:

- *slice*: the sizes of the slices of the condition's topics, added up;
- *whole*: the catalogue, n (never less than the slices that it is taken for);
- *stream* (IVF and streaming filter): for `k / s` items of the catalogue to be seen before k with
  selectivity s are, what sample queries scored when they asked for that many, interpolated, times
  `ITEM_COST` (cells are smaller matrix products than slices), and `CELL_COST` for every cell of the
  index (its promise, and the rounds). Both constants are from `benchmarks/index.py`.

The first two are exact and give the same hits; `stream` may miss items, to a recall that was
calibrated without a condition. So no choice between exact plans ever changes a result, and a search
whose stream ran out of budget before it had k is answered exactly: who gets fewer than k has
exhausted the condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray
from retrieval.index.exact import ExactIndex
from retrieval.index.ivf import IvfIndex, plain_searches
from retrieval.index.searches import Hits, ItemIndex, Lists, Searches, Vectors

SLICE, WHOLE, STREAM = 0, 1, 2
PLANS = ("slice", "whole", "stream")
ITEM_COST = 1.5  # of an item in a cell, and
CELL_COST = 12.0  # of a cell, looked into or not, in items of a slice
_DEPTHS = (100, 400, 1600, 6400)  # how many hits the sample queries ask for


@dataclass(frozen=True)
class IndexConfig:
    """Which index, and how near to exact it must come."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    kind: str = option(
        "exact",
        "exact: nothing is missed; planned: each condition by the cheapest plan, IVF among them; "
        "ivf: IVF and streaming filter only (both need the extra `retrieval` to be built)",
        choices=("exact", "planned", "ivf"),
    )
    cells: int = option(0, "IVF cells; 0: 4.5 roots of the items", low=0, high=1_000_000)
    target_recall: float = option(
        0.99, "share of the 100 best that IVF finds for sample queries (design)", low=0, high=1
    )
    budget: float = option(
        0.5, "share of the catalogue after which a streamed search starts no round", low=0, high=1
    )

    def __post_init__(self) -> None:
        check_options(self)


class StreamCosts(NamedTuple):
    """(p,) int64 depths, ascending, and (p,) float64 items scored for that many hits."""

    depths: IntArray
    scored: npt.NDArray[np.float64]


class PlannedIndex:
    """Each search by the cheapest plan for its condition; see the module.

    Attributes:
        exact: Answers `slice` and `whole`.
        ivf: Answers `stream`, over the same vectors.
        costs: What streaming costs.
    """

    def __init__(self, exact: ExactIndex, ivf: IvfIndex, costs: StreamCosts) -> None:
        """Over two indexes of one catalogue, with costs that `measure` counted."""
        self.exact, self.ivf, self.costs = exact, ivf, costs

    def plans(self, conditions: Lists, k: int) -> npt.NDArray[np.int8]:
        """(l,) the plan of every condition, a place in `PLANS`.

        Args:
            conditions: Lists of topic numbers, -1 for a topic that nothing carries, as
                `ExactIndex.asked` makes them.
            k: How many hits are wanted.
        """
        n = len(self.exact.ids)
        free = np.diff(conditions.offsets) == 0
        slices = np.where(free, n, self.exact.slice_sizes(conditions))
        whole = self.exact.plans_whole(conditions)
        depths = np.maximum(k * n / np.maximum(slices.clip(max=n), 1), 1)
        scored = np.interp(np.log(depths), np.log(self.costs.depths), self.costs.scored)
        scored = np.where(depths > self.costs.depths[-1], n, scored)
        streamed = ITEM_COST * scored + CELL_COST * len(self.ivf.cells.radii)
        exact = np.where(whole, WHOLE, SLICE)
        plans: npt.NDArray[np.int8] = np.where(
            streamed < np.minimum(slices, n), STREAM, exact
        ).astype(np.int8)
        return plans

    def search(self, searches: Searches, k: int) -> Hits:
        """See `ItemIndex.search`; the searches are planned by condition.

        Raises:
            ValueError: The vectors have another width than the items, or are longer than 1.
        """
        hits = Hits.none(len(searches.vector_of), k)
        asked = self.exact.asked(searches)
        streams = (self.plans(asked.conditions, k) == STREAM)[asked.condition_of]
        streamed = np.flatnonzero(streams)
        found = self.ivf.stream(searches.take(streamed), k)
        _put(hits, streamed, found.hits)
        cut = streamed[found.ended & (found.hits.counts < k)]
        exact = np.r_[np.flatnonzero(~streams), cut]
        _put(hits, exact, self.exact.search(searches.take(exact), k))
        return hits


def build_index(
    exact: ExactIndex, config: IndexConfig, queries: Vectors | None = None, *, seed: int = 0
) -> ItemIndex:
    """The index that the config names.

    Args:
        exact: The exact index over the catalogue.
        config: Options.
        queries: (s, d) float32 sample queries; None: items of the catalogue.
        seed: Of everything random in the building.

    Raises:
        ModuleNotFoundError: faiss is not installed and the kind needs it.
    """
    if config.kind == "exact":
        return exact
    ivf = IvfIndex.build(
        exact, config.cells, config.target_recall, config.budget, queries, seed=seed
    )
    if config.kind == "ivf":
        return ivf
    sample = exact.vectors[:: max(1, len(exact.ids) // 64)] if queries is None else queries[:64]
    return PlannedIndex(exact, ivf, measure(ivf, sample))


def measure(ivf: IvfIndex, queries: Vectors) -> StreamCosts:
    """Items scored, on average, by (s, d) sample queries that ask for more and more hits."""
    n = max(1, len(ivf.exact.ids))
    depths = np.array([depth for depth in _DEPTHS if depth <= n] or [n], np.int64)
    if len(queries) == 0:
        return StreamCosts(depths, np.full(len(depths), float(n)))
    asked = plain_searches(np.ascontiguousarray(queries))
    unlimited = IvfIndex(ivf.exact, ivf.cells, ivf.z, 1.0)
    scored = [unlimited.stream(asked, int(depth)).scored.mean() for depth in depths]
    return StreamCosts(depths, np.array(scored))


def _put(hits: Hits, places: IntArray, part: Hits) -> None:
    hits.rows[places], hits.scores[places], hits.counts[places] = part
