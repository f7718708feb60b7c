"""What training reads, bucket by bucket: PAIRS and their HISTORIES, never one table in memory.

A bucket's chunk is made once, from the nights up to one manifest, and kept as an Arrow file that
every epoch maps again; a training that broke off finds the chunks it had made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig
from pipelines.models import Learners
from pipelines.store.manifests import Manifest, StoredFile
from pipelines.store.storage import naming, unique_name
from pipelines.store.tables import read_bucket
from pipelines.store.warehouse import Warehouse
from profiling.schema import ints
from retrieval.histories import HistoryConfig, build_histories
from retrieval.pairs import make_pairs
from retrieval.training.pools import Chunk
from selection.experiments import fit_arms

_PROFILE_KEY = ["user_id", "cutoff", "cluster_id"]
_PROFILE_COLUMNS = [*_PROFILE_KEY, "importance", "medoid_item_id"]
_OUTCOME_COLUMNS = ("impression_id", "draw_id", "credit", "query_type", "query_id")


@dataclass(frozen=True)
class StoredPairs:
    """The chunks of one training; can be iterated again and again.

    Attributes:
        folder: Where they lie on this machine.
        buckets: How many there are; those without a pair are skipped.
    """

    folder: Path
    buckets: int

    def __iter__(self) -> Iterator[Chunk]:
        for bucket in range(self.buckets):
            histories, pairs = (_read(_path(self.folder, n, bucket)) for n in Chunk._fields)
            if pairs.num_rows:
                yield Chunk(histories, pairs)

    @property
    def rows(self) -> int:
        """Pairs in all."""
        return sum(_read(_path(self.folder, "pairs", b)).num_rows for b in range(self.buckets))


def store_pairs(
    warehouse: Warehouse,
    manifest: Manifest,
    config: NightConfig,
    histories: HistoryConfig,
    folder: Path,
    *,
    learners: Learners,
) -> StoredPairs:
    """Make the chunks of all buckets that `folder` does not have yet.

    Args:
        warehouse: Where the nights are.
        manifest: The last night that is learned from.
        config: Actions and experiment.
        histories: How much of a user's past the model reads.
        folder: On this machine.
        learners: Whose pairs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chain = warehouse.chain(manifest)
    for bucket in range(warehouse.buckets):
        if not _path(folder, "pairs", bucket).exists():
            chunk = bucket_pairs(warehouse, chain, config, histories, bucket, learners=learners)
            for name, table in zip(  # pairs last: they say that the chunk is whole
                Chunk._fields, chunk, strict=True
            ):
                _write(table, _path(folder, name, bucket))
    return StoredPairs(folder, warehouse.buckets)


def bucket_pairs(
    warehouse: Warehouse,
    chain: list[Manifest],
    config: NightConfig,
    histories: HistoryConfig,
    bucket: int,
    *,
    learners: Learners,
) -> Chunk:
    """HISTORIES and PAIRS of one bucket, as of the last night of `chain`."""

    def read(name: str, nights: list[Manifest], columns: tuple[str, ...] | None) -> pa.Table:
        files: list[StoredFile] = [f for m in nights for f in m.tables.get(name, ())]
        return read_bucket(warehouse.root, name, files, bucket, columns)

    history = read("HISTORY", chain[-1:], None)
    if learners.arm:
        mine = fit_arms(ints(history, "user_id"), config.experiment) == learners.arm
        history = history.filter(pa.array(mine))
    pairs = make_pairs(
        history,
        read("OUTCOMES", chain, _OUTCOME_COLUMNS),
        read("QUERIES", chain, ("draw_id", "conditions")),
        config.actions,
        cutoffs=np.array([m.cutoff for m in chain], np.int64),
    )
    profiles = _versions(read("PROFILES", chain, tuple(_PROFILE_COLUMNS)))
    return Chunk(build_histories(history, profiles, pairs, config.actions, histories), pairs)


def _versions(profiles: pa.Table) -> pa.Table:
    """Every version of every profile once: a night carries those of users without new events."""
    newest = [("importance", "last"), ("medoid_item_id", "last")]
    grouped = profiles.group_by(_PROFILE_KEY, use_threads=False).aggregate(newest)
    return grouped.select([*_PROFILE_KEY, "importance_last", "medoid_item_id_last"]).rename_columns(
        _PROFILE_COLUMNS
    )


def _path(folder: Path, name: str, bucket: int) -> Path:
    return folder / f"{name}-{bucket:05d}.arrow"


def _write(table: pa.Table, path: Path) -> None:
    """Whole or not at all."""
    aside = path.with_name("." + unique_name(path.name))
    try:
        with (
            naming(str(path)),
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
