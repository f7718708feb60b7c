"""Approximate search: look only into the cells of the catalogue that may hold a search's best.

An inverted file (IVF): k-means, by faiss, splits the items into cells. Cell c with centre m_c and
radius r_c (root mean square of its members' distances, per dimension) promises a query q
`b_c = q . m_c + z r_c`; cells are looked into from the best promise down, and a search ends when
the best of the other promises is below its k-th best score. `z` is calibrated on sample queries
against exact search, to the recall that is wanted. One z serves every search, short or long,
filtered or not, since each stops by its own k-th score.

The *streaming filter* is the same loop: items without the condition, or excluded, are dropped as
they are scored, rounds of cells grow until k are found and no promise is left, or a budget ends.

faiss's own IVF scans its lists one query at a time and knows no filter per query. Here all searches
of a call that want a cell are scored by one matrix product (`retrieval.index.scan`), and scores are
exact, rounded and ordered as those of `ExactIndex`: `benchmarks/index.py` has both side by side.
faiss is needed to build an index, not to search it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.compiling import njit
from profiling.schema import IntArray
from retrieval.index.exact import ExactIndex
from retrieval.index.scan import (
    Asked,
    Best,
    Slices,
    Work,
    jobs_by_slice,
    near_kth,
    scan,
    settle,
    write_hits,
)
from retrieval.index.searches import Hits, Lists, Searches, Vectors, check_queries

_AT_A_TIME = 4096  # searches whose promises are held at once
_SAMPLE = 256  # promises looked at to guess how high the best few are
_DEPTH = 100  # hits that calibration asks for


class Cells(NamedTuple):
    """c cells: their items side by side, their centres and what they promise.

    Attributes:
        slices: One slice a cell.
        centres: (d, c) float32.
        radii: (c,) float32, root mean square distance to the centre, per dimension.
    """

    slices: Slices
    centres: Vectors
    radii: Vectors


class Streamed(NamedTuple):
    """What n streamed searches found and cost.

    Attributes:
        hits: The hits.
        scored: (n,) int64 items scored, kept or not.
        ended: (n,) bool, whether the budget ended the search while cells could still have held
            better items, or any.
    """

    hits: Hits
    scored: IntArray
    ended: npt.NDArray[np.bool_]


class IvfIndex:
    """IVF with a streaming filter over the catalogue of an `ExactIndex`; see the module.

    Attributes:
        exact: The exact index over the same vectors.
        cells: The cells.
        z: Radii that a cell's promise adds to its centre's score.
        budget: Share of the catalogue that one search may score before it starts its last round.
    """

    def __init__(self, exact: ExactIndex, cells: Cells, z: float, budget: float) -> None:
        """Over cells that `split` made of the catalogue of `exact`."""
        self.exact, self.cells, self.z, self.budget = exact, cells, z, budget

    @classmethod
    def build(
        cls,
        exact: ExactIndex,
        n_cells: int,
        target_recall: float,
        budget: float,
        queries: Vectors | None = None,
        *,
        seed: int = 0,
    ) -> IvfIndex:
        """Split the catalogue into cells and calibrate the promises.

        Args:
            exact: What is approximated.
            n_cells: How many cells; 0: about 4.5 times the root of the number of items.
            target_recall: Share of the 100 best that sample queries must find, at least.
            budget: See `IvfIndex`.
            queries: (s, d) float32 sample queries as they will come; None: items of the catalogue.
            seed: Of k-means and of the sample.

        Raises:
            ModuleNotFoundError: faiss is not installed.
        """
        n = len(exact.ids)
        wanted = n_cells or max(1, round(4.5 * np.sqrt(n)))
        cells = split(exact.vectors, min(wanted, max(1, n)), seed)
        if queries is None:
            queries = exact.vectors[np.random.default_rng(seed).permutation(n)[:2000]]
        return cls(exact, cells, calibrate(exact, cells, queries, target_recall), budget)

    def search(self, searches: Searches, k: int) -> Hits:
        """The k best that the cells looked into hold; `stream` tells which searches were cut short.

        Raises:
            ValueError: The vectors have another width than the items, or are longer than 1.
        """
        return self.stream(searches, k).hits

    def stream(self, searches: Searches, k: int) -> Streamed:
        """Search, and tell what it cost and where the budget ended it.

        Raises:
            ValueError: The vectors have another width than the items, or are longer than 1.
        """
        check_queries(searches.vectors, self.exact.vectors.shape[1])
        n = len(searches.vector_of)
        hits, scored, ended = Hits.none(n, k), np.zeros(n, np.int64), np.zeros(n, bool)
        wanted = min(k, len(self.exact.ids))
        order = np.argsort(searches.vector_of, kind="stable") if wanted else np.zeros(0, np.int64)
        asked = self.exact.asked(searches)
        for start in range(0, len(order), _AT_A_TIME):
            places = order[start : start + _AT_A_TIME]
            work = Work(
                self.exact.vectors, asked.take(places), Best.empty(len(places), wanted), wanted
            )
            scored[places], ended[places] = self._stream(work)
            write_hits(work, places, hits)
        return Streamed(hits, scored, ended)

    def _stream(self, work: Work) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Rounds of cells, until every search is done or out of budget."""
        asked = work.asked
        first, vector_of = np.unique(asked.vector_of, return_inverse=True)
        promises = promises_of(asked.vectors[first], self.cells, np.float32(self.z))
        n, n_cells = len(asked.vector_of), len(self.cells.radii)
        floors = np.full(n, np.inf, np.float32)  # promises from here up are looked into already
        scored, done = np.zeros(n, np.int64), np.zeros(n, bool)
        ended = _impossible(asked)
        done |= ended
        ended = np.zeros(n, bool)
        quota, budget = max(1, n_cells // 100), self.budget * len(self.exact.ids)
        while not done.all():
            pending = np.flatnonzero(~done)
            lower = _next_floors(promises, vector_of, pending, quota, work)
            searches, cells = _between(promises, vector_of, pending, lower, floors)
            scan(self.cells.slices, jobs_by_slice(searches, cells, n_cells), work, False)
            sizes = np.diff(self.cells.slices.offsets)[cells]
            scored += np.bincount(searches, weights=sizes, minlength=n).astype(np.int64)
            floors[pending] = lower
            _settle_all(work, pending)
            kth = work.best.least[pending]  # -inf while fewer than k are found
            finished = (lower == -np.inf) | (lower <= kth)  # what is left promises less
            out = ~finished & (scored[pending] >= budget)
            ended[pending[out]] = True
            done[pending[finished | out]] = True
            quota *= 4
        return scored, ended


def _impossible(asked: Asked) -> npt.NDArray[np.bool_]:
    """(n,) whether nothing carries any topic of a search's condition."""
    offsets, values = asked.conditions
    known = np.diff(np.r_[0, np.cumsum(values >= 0)][offsets])
    nothing: npt.NDArray[np.bool_] = (known == 0) & (np.diff(offsets) > 0)
    return nothing[asked.condition_of]


def split(vectors: Vectors, n_cells: int, seed: int) -> Cells:
    """K-means with faiss, one thread, fixed seed: the same cells on one machine.

    Args:
        vectors: (n, d) float32.
        n_cells: How many, n at most.
        seed: Of the first centres.

    Raises:
        ModuleNotFoundError: faiss is not installed.
    """
    n, width = vectors.shape
    cell_of = _assign(vectors, n_cells, seed) if n else np.zeros(0, np.int64)
    order = np.argsort(cell_of, kind="stable")
    offsets = np.searchsorted(cell_of[order], np.arange(n_cells + 1)).astype(np.int64)
    counts = np.maximum(np.diff(offsets), 1)
    sums = np.zeros((n_cells, width))
    np.add.at(sums, cell_of, vectors)
    centres = sums / counts[:, None]
    squares = ((vectors - centres[cell_of]) ** 2).sum(axis=1)
    radii = np.sqrt(np.bincount(cell_of, squares, minlength=n_cells) / counts / width)
    return Cells(
        Slices(offsets, order.astype(np.int64), np.ascontiguousarray(vectors[order])),
        np.ascontiguousarray(centres.T, np.float32),
        radii.astype(np.float32),
    )


def _assign(vectors: Vectors, n_cells: int, seed: int) -> IntArray:
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means = faiss.Kmeans(
            vectors.shape[1], n_cells, niter=10, seed=seed + 1, max_points_per_centroid=64,
            min_points_per_centroid=1,
        )  # fmt: skip
        means.train(vectors)
        return means.index.search(vectors, 1)[1][:, 0].astype(np.int64)
    finally:
        faiss.omp_set_num_threads(threads)


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "an IVF index is built with faiss, which is not installed: "
            "pip install 'queryloop[retrieval]', or take the index kind `exact`",
            name="faiss",
        ) from error
    return faiss


def calibrate(exact: ExactIndex, cells: Cells, queries: Vectors, target_recall: float) -> float:
    """The least z, in steps of 1/16, at which sample queries find enough of their 100 best.

    Two standard errors are added to the target, so that other queries of the kind reach it too.
    A cell counts as looked into where its promise reaches the query's k-th score.

    Args:
        exact: Tells the true best.
        cells: The cells.
        queries: (s, d) float32 rows of length 1 at most.
        target_recall: Share to be found, at most 1.
    """
    k = min(_DEPTH, len(exact.ids))
    if k == 0 or len(queries) == 0:
        return 0.0
    hits = exact.search(plain_searches(queries), k)
    cell_of = np.empty(len(exact.ids), np.int64)
    cell_of[cells.slices.rows] = np.repeat(
        np.arange(len(cells.radii)), np.diff(cells.slices.offsets)
    )
    cell = cell_of[hits.rows]
    centre_scores = promises_of(queries, cells, np.float32(0))
    found_from = hits.scores[:, -1:] - np.take_along_axis(centre_scores, cell, axis=1)
    for z in np.arange(0, 64, 0.0625):
        recalls = (z * cells.radii[cell] >= found_from).mean(axis=1)
        if recalls.mean() - 2 * recalls.std() / np.sqrt(len(recalls)) >= target_recall:
            return float(z)
    return 64.0


def plain_searches(vectors: Vectors) -> Searches:
    """A search for each of (n, d) vectors, without condition or exclusion."""
    n = len(vectors)
    free, none = Lists(np.zeros(2, np.int64), np.zeros(0, np.int64)), np.zeros(n, np.int64)
    return Searches(vectors, np.arange(n), free, none, free, none)


@njit(cache=True, nogil=True)
def promises_of(queries: Vectors, cells: Cells, z: np.float32) -> Vectors:
    """(n, c) float32 `q . m_c + z r_c`.

    Not a BLAS product: a promise decides where a search ends, so its bits must not change with what
    else is asked. Here every number is added up in one order, whatever the batch.
    """
    width, n_cells = cells.centres.shape
    promises = np.empty((len(queries), n_cells), np.float32)
    for i in range(len(queries)):
        row = promises[i]
        for c in range(n_cells):
            row[c] = z * cells.radii[c]
        whole = width // 4 * 4
        for j in range(0, whole, 4):  # four at a time: the row is read and written less often
            a, b, e, f = queries[i, j], queries[i, j + 1], queries[i, j + 2], queries[i, j + 3]
            first, second = cells.centres[j], cells.centres[j + 1]
            third, fourth = cells.centres[j + 2], cells.centres[j + 3]
            for c in range(n_cells):
                row[c] += (a * first[c] + b * second[c]) + (e * third[c] + f * fourth[c])
        for j in range(whole, width):
            for c in range(n_cells):
                row[c] += queries[i, j] * cells.centres[j, c]
    return promises


@njit(cache=True, nogil=True)
def _next_floors(
    promises: Vectors, vector_of: IntArray, pending: IntArray, quota: int, work: Work
) -> Vectors:
    """How low the promises of the next round go.

    To the k-th score; while fewer than k are found, to the quota-th best promise, guessed from
    every so many-th cell.
    """
    n_cells = promises.shape[1]
    step = max(1, n_cells // _SAMPLE)
    lower = np.empty(len(pending), np.float32)
    sample = np.empty((n_cells + step - 1) // step, np.float32)
    for i in range(len(pending)):
        lower[i] = work.best.least[pending[i]]
        rank = (quota + step - 1) // step
        if lower[i] == -np.inf and rank * step < n_cells:
            row = promises[vector_of[pending[i]]]
            for j in range(len(sample)):
                sample[j] = row[j * step]
            lower[i] = near_kth(sample, len(sample), rank)
    return lower


@njit(cache=True, nogil=True)
def _between(
    promises: Vectors, vector_of: IntArray, pending: IntArray, lower: Vectors, floors: Vectors
) -> tuple[IntArray, IntArray]:
    """All (search, cell), by search, with `lower <= promise < floor`."""
    n = 0
    for i in range(len(pending)):
        row, low, high = promises[vector_of[pending[i]]], lower[i], floors[pending[i]]
        for c in range(len(row)):
            n += (row[c] >= low) & (row[c] < high)
    searches, cells = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    n = 0
    for i in range(len(pending)):
        row, low, high = promises[vector_of[pending[i]]], lower[i], floors[pending[i]]
        for c in range(len(row)):
            searches[n] = pending[i]
            cells[n] = c
            n += (row[c] >= low) & (row[c] < high)
    return searches[:n], cells[:n]


@njit(cache=True, nogil=True)
def _settle_all(work: Work, pending: IntArray) -> None:
    for search in pending:
        settle(work, search)
