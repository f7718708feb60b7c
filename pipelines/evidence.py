"""What the evidence prior needs beside a bucket: item rates of all users, and who is near whom.

The rates of items are sums over all users. Job 1 leaves every bucket's part; the driver adds the
parts to last night's table before job 2. The items around each item depend on the catalogue alone:
they are found once, kept under a digest of all that decides them, and opened memory-mapped.

A user's own impressions are not kept a second time: job 2 reads a few columns of the OUTCOMES of
the nights within `evidence.days`, where some arm leans on them. That costs what those nights
closed, needs no state that would be rewritten every night, and works from the night on which it is
switched on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.plan import NightPlan, catalogue_digest, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.workers import code_version
from pipelines.serving import index_over
from pipelines.store.folders import Folder, made_once, open_folder
from pipelines.store.manifests import StoredFile, Tables
from pipelines.store.tables import read_bucket, read_files, write_table
from profiling.schema import IntArray
from retrieval.index.exact import ExactIndex
from retrieval.neighbours import nearest_items
from selection.evidence import OUTCOME_COLUMNS, EvidenceInputs, Slopes
from selection.evidence_slopes import fit_slopes
from selection.item_rates import add_item_rates
from selection.policies import SelectionConfig
from selection.tables import ITEM_RATES

Files = tuple[StoredFile, ...]


@dataclass(frozen=True)
class EvidenceSource:
    """Where the workers find the evidence.

    Attributes:
        arms: Whose users lean on it.
        outcomes: OUTCOMES of the nights within `evidence.days`, tonight's among them.
        item_rates: Tonight's.
        neighbours: The items around each item.
        slopes: As the night before fitted them; None: as configured.
    """

    arms: frozenset[str]
    outcomes: Files
    item_rates: Files
    neighbours: Folder
    slopes: Slopes | None


def evidence_arms(selections: Mapping[str, SelectionConfig]) -> frozenset[str]:
    """The arms that lean on evidence; '' stands for no experiment."""
    return frozenset(name for name, s in selections.items() if s.prior == "evidence")


def store_item_rates(plan: NightPlan, parts: Files) -> Files:
    """Tonight's ITEM_RATES: last night's and the buckets' parts, which job 1 wrote as `parts`."""
    buckets = sorted({p.bucket for file in parts for p in file.parts})
    rates = add_item_rates(
        read_files(plan.root, "ITEM_RATES", plan.state.get("ITEM_RATES", ())),
        [read_bucket(plan.root, "ITEM_RATES", parts, bucket) for bucket in buckets],
        plan.config.rewards,
        parent_cutoff=plan.parent_cutoff,
    )
    return write_table(plan.root, "ITEM_RATES", rates, plan.stem)


def plan_evidence(plan: NightPlan, stored: Tables) -> EvidenceSource | None:
    """What job 2 is told; None where no arm leans on evidence."""
    arms = evidence_arms(plan.config.selections)
    if not arms:
        return None
    return EvidenceSource(
        arms=arms,
        outcomes=plan.past_outcomes + stored.get("OUTCOMES", ()),
        item_rates=stored.get("ITEM_RATES", ()),
        neighbours=prepare_neighbours(plan),
        slopes=plan.slopes,
    )


def read_evidence(bucket: Bucket, plan: NightPlan, source: EvidenceSource) -> EvidenceInputs:
    """The evidence of one bucket of users."""
    return EvidenceInputs(
        arms=source.arms,
        outcomes=read_bucket(
            plan.root, "OUTCOMES", source.outcomes, bucket.number, OUTCOME_COLUMNS
        ),
        item_rates=_open_rates(plan.root, source.item_rates),
        neighbours=_open_neighbours(plan.root, source.neighbours),
        config=plan.config.evidence,
        slopes=source.slopes,
    )


def fit_books(plan: NightPlan, books: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Tonight's slopes, which the next night uses, as JSON; None where no arm leans on evidence.

    Args:
        plan: The night's.
        books: Of job 2, by bucket, with `slope_sums` each.
    """
    sums = [found for book in books for found in book["sums"]]
    return asdict(fit_slopes(sums, plan.config.evidence)) if sums else None


def prepare_neighbours(plan: NightPlan) -> Folder:
    """The items around each item of tonight's catalogue, found once.

    Raises:
        ValueError: The kind of index needs the extra `retrieval`, which is not installed.
    """
    root, config, k = plan.root, plan.config.index, plan.config.evidence.neighbours
    parts = [k, catalogue_digest(plan.catalogue), asdict(config), code_version()]

    def fill(place: Path) -> None:
        items = open_items(root, plan.catalogue["ITEMS"])
        index = index_over(ExactIndex.over(items), plan)
        place.mkdir()
        np.save(place / "rows.npy", nearest_items(items, index, k), allow_pickle=False)

    return made_once(root, "neighbours", parts, "items", fill)


@lru_cache(maxsize=2)
def _open_rates(root: str, files: Files) -> pa.Table:
    return read_files(root, "ITEM_RATES", files) if files else ITEM_RATES.empty()


@lru_cache(maxsize=2)
def _open_neighbours(root: str, folder: Folder) -> IntArray:
    return np.load(open_folder(root, folder) / "rows.npy", mmap_mode="r", allow_pickle=False)
