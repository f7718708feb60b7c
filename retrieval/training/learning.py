"""How the model learns: the options of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from profiling.options import FORBID_UNKNOWN, check_options, option

_LAST_RATE = 0.02  # of the learning rate's height


@dataclass(frozen=True)
class TrainingConfig:
    """Options of `retrieval.training.train.train`; every field but `pool_pairs` changes results."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    epochs: int = option(3, "times that every pair is seen (ours)", low=1, high=10_000)
    batch_size: int = option(1024, "pairs in a step (ours)", low=2, high=1 << 20)
    learning_rate: float = option(0.003, "of Adam at its height (ours)", low=0.0, high=1.0)
    weight_decay: float = option(0.0, "of Adam, decoupled (ours)", low=0.0, high=10.0)
    warmup_share: float = option(0.05, "share of the steps that the rate rises", low=0.0, high=1.0)
    uniform_negatives: int = option(
        1024, "items drawn evenly from the catalogue a step (mixed negatives, WWW 2020)", low=0
    )
    slice_negatives: int = option(
        0,
        "items drawn a row from the slice of its condition (future work of arXiv 2508.16793)",
        low=0,
    )
    log_q: bool = option(True, "whether candidates are corrected by their density (RecSys 2019)")
    mask_same_user: bool = option(True, "whether a user's positives are no negatives of theirs")
    condition: str = option(
        "uniform",
        "which topic of a positive becomes its condition",
        choices=("uniform", "confidence", "inverse_popularity", "all"),
    )
    none_share: float = option(
        0.5, "share of rows without a condition: the unconditioned path", low=0.0, high=1.0
    )
    logged_share: float = option(
        0.8, "share of rows with a logged condition that use it", low=0.0, high=1.0
    )
    history_share: float = option(
        0.035,
        "share of conditions that are the topics of one of the history's medoids, drawn by "
        "importance, whatever the positive is about: the more, the less a condition binds (ours; "
        "one seed on KuaiRand's validation days: match .964 at .03, .945 to .950 at .04, .937 at "
        ".05, other options not all alike)",
        low=0.0,
        high=1.0,
    )
    query_source: str = option(
        "shared",
        "query item of a row that has none logged. shared: a medoid of the history that carries "
        "the condition, by importance, and its topics are then the condition, as in serving; "
        "nearest: the medoid nearest to the positive, which tells of it; none: none (ours)",
        choices=("shared", "nearest", "none"),
    )
    query_dropout: float = option(
        0.3, "share of conditions that go without their query item", low=0.0, high=1.0
    )
    context_dropout: float = option(
        0.3, "of what the context path reads, against leakage", low=0.0, high=0.99
    )
    past_dropout: float = option(
        0.3, "of the id embeddings of a history's items, content stays (ours)", low=0.0, high=0.99
    )
    dropout: float = option(0.1, "of history encodings (ours)", low=0.0, high=0.99)
    alignment: float = option(
        0.0, "weight of the alignment of query vector and condition in the loss", low=0.0
    )
    early_share: float = option(
        1.0,
        "share of the positives before the first cut-off, which have no order, seen an epoch "
        "(KuaiRand, one seed: a quarter of them and three times the epochs cost .017 of recall)",
        low=0.0,
        high=1.0,
    )
    bias_decay: float = option(
        0.0, "penalty on the squared bias of an item, which else hides the prior (ours)", low=0.0
    )
    prior_smoothing: float = option(
        0.1, "added to an item's share of positives in units of an even share", low=1e-6
    )
    heldout_share: float = option(
        0.02, "share of positives held out for the recall shown while training", low=0.0, high=0.5
    )
    pool_pairs: int = option(1_000_000, "pairs shuffled together in memory", low=1)

    def __post_init__(self) -> None:
        check_options(self)


def learning_rates(config: TrainingConfig, steps: int) -> npt.NDArray[np.float32]:
    """(steps,) float32: a line up to the height, then half a cosine down to a fiftieth of it."""
    warm = int(config.warmup_share * steps)
    step = np.arange(steps)
    cosine = 0.5 * (1.0 + np.cos(np.pi * (step - warm) / max(steps - warm, 1)))
    falling = _LAST_RATE + (1.0 - _LAST_RATE) * cosine
    share = np.where(step < warm, step / max(warm, 1), falling)
    rates: npt.NDArray[np.float32] = (config.learning_rate * share).astype(np.float32)
    return rates
