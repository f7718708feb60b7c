"""Ward agglomeration of each user's items, cut where a merge would cost more than alpha.

Distances are in PinnerSage's squared units (KDD 2020, Algorithm 1): `|x_i - x_j|^2` between two
items, `2 n_i n_j / (n_i + n_j) * |c_i - c_j|^2` between two clusters. scipy's and scikit-learn's
height is the square root, so their `distance_threshold` is `sqrt(alpha)`; only where a merge costs
alpha to the last bit do they differ (ours merges, as the paper's; scikit-learn stops).

The merges are found by following nearest neighbours until two point at each other (the chain of
Benzecri and Murtagh). Ward's distance is reducible: merging others never brings a cluster nearer to
what is left. So a cluster whose nearest neighbour is beyond alpha is finished at once, and the
part of the tree above alpha is never built.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from profiling.compiling import njit
from profiling.schema import IntArray

FloatMatrix = npt.NDArray[np.float32]
Buffer = npt.NDArray[np.float64]

_LANES = 32  # distances per unrolled step of a scan
_TILE = 16  # columns of the distance matrix worked on at a time
_INFINITE = np.int64(0x7FF0000000000000)  # the bits of the float64 infinity


def ward_labels(vectors: FloatMatrix, alpha: float) -> IntArray:
    """The cluster of every vector of one user.

    Args:
        vectors: (n, d) float32.
        alpha: Largest cost of a merge, squared distance; infinite gives one cluster.

    Returns:
        (n,) int64 labels 0, 1, ... in the order of the clusters' first members.
    """
    rows = np.arange(len(vectors))
    offsets = np.array([0, len(vectors)])
    return ward_labels_batch(offsets, rows, np.ascontiguousarray(vectors, np.float32), alpha)


def ward_labels_batch(
    offsets: IntArray, rows: IntArray, vectors: FloatMatrix, alpha: float
) -> IntArray:
    """The cluster of every member of many users, each user on their own.

    Args:
        offsets: (u + 1,) int64; user u has the members `offsets[u]:offsets[u + 1]`.
        rows: (m,) int64 rows of `vectors`.
        vectors: (n, d) float32, C order.
        alpha: As in `ward_labels`.

    Returns:
        (m,) int64 labels, for each user from 0 as in `ward_labels`.

    Raises:
        ValueError: alpha is negative or no number.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    labels: IntArray = _label_users(offsets, rows, vectors, alpha)
    return labels


_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def _label_users(offsets: IntArray, rows: IntArray, vectors: FloatMatrix, alpha: float) -> IntArray:
    """`ward_labels_batch`; buffers are made once, for the largest user."""
    largest = 0
    for u in range(len(offsets) - 1):
        largest = max(largest, offsets[u + 1] - offsets[u])
    width, stride = vectors.shape[1], _padded(largest)
    points = np.empty(largest * width)
    distances = np.empty(largest * stride)
    sizes, work = np.empty(stride), np.empty((5, stride), np.int64)
    labels = np.empty(len(rows), np.int64)
    for u in range(len(offsets) - 1):
        start, n = offsets[u], offsets[u + 1] - offsets[u]
        stride = _padded(n)
        x = points[: n * width].reshape(n, width)
        for i in range(n):
            source, target = vectors[rows[start + i]], x[i]
            for k in range(width):
                target[k] = source[k]
        dist = distances[: n * stride].reshape(n, stride)
        _fill_products(x, dist)
        _fill_distances(dist, sizes)
        _follow_chain(dist, alpha, sizes[:stride], work[:, :stride], labels[start : start + n])
    return labels


@_jit
def _padded(n: int) -> int:
    """Length of a row of n distances: whole vector registers, so that no loop has a scalar rest."""
    return (n + _LANES - 1) // _LANES * _LANES


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _fill_products(x: Buffer, dist: Buffer) -> None:
    """`x_i . x_j` into the upper half of `dist`, diagonal included.

    Two rows by four at a time, summed in vector registers, sixteen columns while they are in the
    first-level cache. At these sizes it takes a quarter to a half of BLAS's time, which also fills
    the lower half, and the sums do not depend on the number of threads.
    """
    n, width = x.shape
    for low in range(0, n, _TILE):
        high = min(n, low + _TILE)
        for i in range(0, high, 2):
            a, b = x[i], x[min(i + 1, n - 1)]
            for j in range(max(i, low), high, 4):
                p, q = x[j], x[min(j + 1, n - 1)]
                r, s = x[min(j + 2, n - 1)], x[min(j + 3, n - 1)]
                ap = aq = ar = as_ = bp = bq = br = bs = 0.0
                for k in range(width):
                    ap += a[k] * p[k]
                    aq += a[k] * q[k]
                    ar += a[k] * r[k]
                    as_ += a[k] * s[k]
                    bp += b[k] * p[k]
                    bq += b[k] * q[k]
                    br += b[k] * r[k]
                    bs += b[k] * s[k]
                for m, (first, second) in enumerate(((ap, bp), (aq, bq), (ar, br), (as_, bs))):
                    if j + m < n:
                        dist[i, j + m] = first
                        if i + 1 < n:
                            dist[i + 1, j + m] = second


@_jit
def _fill_distances(dist: Buffer, squares: Buffer) -> None:
    """From products to `|x_i - x_j|^2`, infinite on the diagonal and in the padding.

    Each is computed once and written twice: with a matrix whose halves differ in the last bit,
    equal items could each find another one nearer, for ever.
    """
    n = len(dist)
    for i in range(n):
        squares[i] = dist[i, i]
        dist[i, i] = np.inf
        dist[i, n:] = np.inf
    for low in range(0, n, _TILE):
        for i in range(min(n, low + _TILE)):
            for j in range(max(low, i + 1), min(n, low + _TILE)):
                d = max(0.0, squares[i] + squares[j] - 2.0 * dist[i, j])
                dist[i, j] = d
                dist[j, i] = d


@_jit
def _follow_chain(
    dist: Buffer, alpha: float, sizes: Buffer, work: IntArray, labels: IntArray
) -> None:
    """Merge all that merges at a cost up to alpha and write the (n,) labels.

    A cluster lives in the slot of its first member. Ties go to the previous element of the chain,
    else to the smallest slot. While nothing merges, distances along the chain fall strictly, so it
    cannot meet itself; where rounding in a merge breaks that, the chain is cut back to the element
    met again, at most as often as it is long. So it ends on every input, not-a-number included.

    Args:
        dist: (n, padded n) float64 of `_fill_distances`, overwritten.
        alpha: Largest cost of a merge.
        sizes: (padded n,) float64, overwritten.
        work: (5, padded n) int64, overwritten.
        labels: (n,) int64, the result.
    """
    n, bits = len(dist), dist.view(np.int64)
    gone, place, chain, born, unions = work[0], work[1], work[2], work[3], work[4]
    sizes[:], gone[:], place[:], born[:] = 1.0, 0, -1, 0
    for i in range(n):
        labels[i] = i
    length = first = merges = n_unions = 0
    mask = _mask(len(gone))
    while True:
        if length == 0:
            while first < n and gone[first]:
                first += 1
            if first == n:
                break
            chain[0], place[first], length = first, 0, 1
        top = chain[length - 1]
        previous = chain[length - 2] if length > 1 else -1
        _refresh(dist, born, unions, n_unions, top)
        nearest = _nearest(bits, mask, top, gone, first, previous)
        if nearest < 0 or not dist[top, nearest] <= alpha:
            length -= 1
            gone[top], place[top] = _INFINITE, -1
            n_unions = _without(unions, n_unions, top)
        elif nearest == previous:
            length -= 2
            place[top] = place[previous] = -1
            keep, drop = min(top, previous), max(top, previous)
            _refresh(dist, born, unions, n_unions, previous)
            _merge(dist, sizes, first, keep, drop)
            gone[drop], labels[drop] = _INFINITE, keep
            n_unions = _without(unions, _without(unions, n_unions, drop), keep) + 1
            unions[n_unions - 1] = keep
            merges += 1
            born[keep] = merges
        elif place[nearest] >= 0:
            while chain[length - 1] != nearest:
                length -= 1
                place[chain[length]] = -1
        else:
            chain[length], place[nearest] = nearest, length
            length += 1
    _number_clusters(labels)


@_jit
def _refresh(dist: Buffer, born: IntArray, unions: IntArray, n_unions: int, slot: int) -> None:
    """Bring row `slot` up to date: a union writes only its own row, when it is made.

    Few unions are alive at a time, and most rows are read once or twice; writing every union's
    column at once took as long as all the rest.
    """
    for t in range(n_unions):
        other = unions[t]
        if born[other] > born[slot]:
            dist[slot, other] = dist[other, slot]


@_jit
def _mask(n: int) -> int:
    """All bits but those that hold a number below n."""
    mask = -1
    while -mask < n:
        mask *= 2
    return mask


@_jit
def _nearest(
    bits: IntArray, mask: int, slot: int, gone: IntArray, first: int, previous: int
) -> int:
    """The slot from `first` on with the least distance to `slot`; -1 where there is none.

    Distances are compared by their bits: for numbers >= 0 these order as the numbers do, and the
    least of int64 compiles to vector instructions where the least of float64 does not. The slot
    takes the place of the last bits, those that `mask` leaves out, so that one pass finds both; of
    1,024 items these are 10 of 52, and distances that differ only there are ties.
    """
    # Unsigned, as the check for negative places would keep the loop from becoming vectors.
    start, stop = np.uint64(first // _LANES * _LANES), np.uint64(bits.shape[1])
    least = _INFINITE
    for k in range(start, stop):
        least = min(least, ((bits[slot, k] | gone[k]) & mask) | np.int64(k))
    if previous >= 0 and bits[slot, previous] & mask <= least:
        return previous
    return -1 if least >= _INFINITE else int(least & ~mask)


@_jit
def _merge(dist: Buffer, sizes: Buffer, first: int, keep: int, drop: int) -> None:
    """Put the union into row `keep` by the update of Lance and Williams (PinnerSage, eq. 1)."""
    a, b, d_ab = sizes[keep], sizes[drop], dist[keep, drop]
    for k in range(np.uint64(first // _LANES * _LANES), np.uint64(dist.shape[1])):
        c = sizes[k]
        d = ((a + c) * dist[keep, k] + (b + c) * dist[drop, k] - c * d_ab) / (a + b + c)
        dist[keep, k] = d if d > 0.0 else 0.0
    dist[keep, keep] = np.inf
    sizes[keep] = a + b


@_jit
def _without(slots: IntArray, count: int, slot: int) -> int:
    """Take `slot` out of the first `count` of `slots`, if it is there; the new count."""
    for t in range(count):
        if slots[t] == slot:
            slots[t] = slots[count - 1]
            return count - 1
    return count


@_jit
def _number_clusters(labels: IntArray) -> None:
    """From the slot each one was merged into, itself for a first member, to 0, 1, ... in order."""
    count = 0
    for i in range(len(labels)):
        if labels[i] == i:
            labels[i] = count
            count += 1
        else:
            labels[i] = labels[labels[i]]
