"""Item vectors from co-engagement: a truncated SVD of positive pointwise mutual information.

Each user counts an engaged pair of items (i, j), i != j, by `1 / (n_u - 1)`: a user's pairs sum to
the items they engaged with. Of these counts C, with row sums C_i,

    ppmi_ij = max(0, log(C_ij / (C_i p_j))),  p_j = C_j^.75 / sum_k C_k^.75

and the vector of item i is row i of `U sqrt(S)` of its truncated SVD, made a unit vector: what word
vectors factorise implicitly (Levy and Goldberg, NeurIPS 2014; the power .75 and `sqrt(S)`: Levy,
Goldberg and Dagan, TACL 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from profiling.items import unit_rows
from profiling.schema import FloatArray, IntArray

CONTEXT_SMOOTHING = 0.75


@dataclass(frozen=True)
class PlacedVectors:
    """Vectors of all items.

    Attributes:
        vectors: (n, d) float32 unit rows.
        engaged: Items whose vector comes from co-engagement.
        placed: Items whose vector is the mean of their groups' (tags, author).
        central: Items without either: the mean of all.
    """

    vectors: npt.NDArray[np.float32]
    engaged: int
    placed: int
    central: int


def co_engagement_vectors(
    users: IntArray, items: IntArray, n_items: int, *, width: int, seed: int
) -> npt.NDArray[np.float32]:
    """(n_items, width) float32 unit rows, zero for an item that shares no user with another.

    Args:
        users: (m,) user of each engagement; any ids.
        items: (m,) row of its item, in [0, n_items). A pair that comes twice counts once.
        n_items: How many items there are.
        width: d. With fewer items than that the last columns are zero.
        seed: Of the randomised SVD (Halko, Martinsson and Tropp 2011).
    """
    ppmi = _positive_pmi(_pair_counts(users, items, n_items))
    vectors = np.zeros((n_items, width))
    if ppmi.nnz:
        with threadpool_limits(limits=1):  # threads would add in another order
            left, values, _ = randomized_svd(
                ppmi, min(width, n_items), n_iter=7, random_state=seed % 2**32
            )
        vectors[:, : len(values)] = left * np.sqrt(values)
    vectors[np.asarray(ppmi.sum(axis=1)).ravel() == 0] = 0.0
    return unit_rows(vectors.astype(np.float32))


def place_without_history(
    vectors: npt.NDArray[np.float32], groups: list[tuple[IntArray, IntArray]]
) -> PlacedVectors:
    """Give items without a vector the mean of their groups' mean vectors.

    A group's mean is over its items that have a vector; an item none of whose groups has one gets
    the mean of all items; without any vector at all, the first axis.

    Args:
        vectors: (n, d) float32 unit rows, zero where there is none.
        groups: Pairs of (k,) item rows and (k,) group ids, one pair of arrays per kind of group.
    """
    has = np.asarray(vectors.any(axis=1))
    total = np.zeros(vectors.shape)
    count = np.zeros(len(vectors))
    for rows, names in groups:
        _, codes = np.unique(names, return_inverse=True)
        means, known = _group_means(vectors, has, rows, codes)
        use = known[codes]
        np.add.at(total, rows[use], means[codes[use]])
        np.add.at(count, rows[use], 1)
    placed = ~has & (count > 0) & total.any(axis=1)
    central = ~has & ~placed
    out = vectors.copy()
    out[placed] = unit_rows((total[placed] / count[placed, None]).astype(np.float32))
    middle = vectors[has].sum(axis=0, dtype=np.float64)
    if not middle.any():
        middle[0] = 1.0
    out[central] = unit_rows(middle[None, :].astype(np.float32))
    return PlacedVectors(out, int(has.sum()), int(placed.sum()), int(central.sum()))


def _group_means(
    vectors: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], rows: IntArray, codes: IntArray
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """(g, d) mean vector of each group's items that have one, and (g,) whether it has any."""
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    sums = np.zeros((n_groups, vectors.shape[1]))
    use = has[rows]
    np.add.at(sums, codes[use], vectors[rows[use]].astype(np.float64))
    counts = np.bincount(codes[use], minlength=n_groups)
    return sums / np.maximum(counts, 1)[:, None], counts > 0


def _pair_counts(users: IntArray, items: IntArray, n_items: int) -> sp.csr_matrix:
    """(n_items, n_items) weighted co-engagement counts, zero diagonal."""
    pairs = np.unique(np.stack([users, items], axis=1), axis=0)  # one order, whatever the file's
    _, rows = np.unique(pairs[:, 0], return_inverse=True)
    sizes = np.bincount(rows) if len(rows) else np.zeros(0, np.int64)
    shape = (len(sizes), n_items)
    engaged = sp.csr_matrix((np.ones(len(rows)), (rows, pairs[:, 1])), shape)
    weights = sp.diags(1.0 / np.maximum(sizes - 1, 1))
    counts = (engaged.T @ weights @ engaged).tocoo()
    off = counts.row != counts.col
    square = (n_items, n_items)
    return sp.csr_matrix((counts.data[off], (counts.row[off], counts.col[off])), square)


def _positive_pmi(counts: sp.csr_matrix) -> sp.csr_matrix:
    """PPMI with smoothed contexts, of the same shape."""
    entries = counts.tocoo()
    margin = np.asarray(counts.sum(axis=1)).ravel()
    context = margin**CONTEXT_SMOOTHING
    context = context / max(context.sum(), 1e-300)
    pmi = np.log(entries.data / (margin[entries.row] * context[entries.col]))
    keep = pmi > 0
    return sp.csr_matrix((pmi[keep], (entries.row[keep], entries.col[keep])), counts.shape)
