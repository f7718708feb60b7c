"""Random feeds for the rerank's tests, and twins of its diversity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from retrieval.spacing.classes import Kernel, Source, SpacingClass
from retrieval.spacing.diversity import Diversity, SpectrumTerm, combine_embeddings
from retrieval.spacing.terms import SpacingTerm
from retrieval.spacing.utility import Pool

KERNELS = (Kernel(), Kernel("exponential", 2.0), Kernel("piecewise", steps=((1, 1.0), (3, 0.5))))
N_ITEMS = 30


@dataclass(frozen=True)
class World:
    """One pool with terms, a size and a cap."""

    pool: Pool
    diversity: Diversity
    terms: list[SpectrumTerm | SpacingTerm]
    size: int
    cap: float


def world(seed: int, n_classes: int, *, coarse: bool, tail: bool, lonely: bool) -> World:
    """Feeds with duplicates and zero vectors; `coarse`: ties abound; `lonely`: one item a feed."""
    rng = np.random.default_rng(seed)
    feeds = int(rng.integers(1, 4))
    lengths = np.ones(feeds, int) if lonely else rng.integers(1, 20, feeds)
    shape = (N_ITEMS, int(rng.integers(1, 5)))
    vectors = rng.integers(-1, 2, shape) if coarse else rng.normal(size=shape)
    vectors = vectors[rng.integers(0, N_ITEMS, N_ITEMS)].astype(np.float32)
    diversity = Diversity(
        gamma=float(rng.choice([0.0, 0.25, 1.0])),
        window=int(rng.integers(1, 6)),
        variant=str(rng.choice(["ssd", "ssd_star"])),
        bias=bool(rng.integers(2)),
    )
    bounds = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    rows = [np.sort(rng.choice(N_ITEMS, n, replace=False)) for n in lengths]
    m = int(bounds[-1])
    before = np.full((feeds, 2), -1)
    for feed in np.flatnonzero(lengths > 2):
        before[feed] = bounds[feed] + rng.choice(lengths[feed], 2, replace=False)
    pool = Pool(
        bounds=bounds,
        item_rows=np.concatenate(rows),
        relevance=rng.integers(0, 5, m) / 4 if coarse else rng.random(m),
        feeds=pa.table({"user_id": np.arange(feeds)}),
        items=None,  # type: ignore[arg-type] # the terms have what they need of it
        tail=before if tail else None,
    )
    terms: list[SpectrumTerm | SpacingTerm] = []
    if diversity.gamma > 0:
        terms.append(SpectrumTerm(diversity, combine_embeddings(diversity, {"item": vectors})))
    for k in range(n_classes):
        one = SpacingClass(
            id=f"c{k}",
            source=Source(label="x"),
            weight=0.25 if coarse else float(rng.random() / 2),
            kernel=KERNELS[k % 3],
            window=int(rng.integers(4, 7)),
        )
        members, active = rng.random(N_ITEMS) < 0.4, rng.random(feeds) < 0.8
        terms.append(SpacingTerm(one, members, active))
    cap = float(rng.choice([0.3, 1.5, np.inf]))
    return World(pool, diversity, terms, int(rng.integers(1, 25)), cap)


def fast_greedy_dpp(vectors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(k, n) the d_i^2 of every item before each pick of `order` (Chen et al. 2018), L = X X'."""
    kernel = vectors @ vectors.T
    left = np.diag(kernel).copy()
    rows = np.zeros((0, len(vectors)))
    found = []
    for j in order:
        found.append(left.copy())
        new = (kernel[j] - rows[:, j] @ rows) / np.sqrt(left[j])
        rows = np.vstack([rows, new])
        left = left - new**2
    return np.array(found)
