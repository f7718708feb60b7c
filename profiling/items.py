"""The catalogue as arrays: what the pure steps see of ITEMS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.schema import IntArray, group_offsets, ints


@dataclass(frozen=True)
class Items:
    """All items, by ascending id.

    Attributes:
        ids: (n,) int64, ascending, unique.
        vectors: (n, d) float32 unit rows.
        version: The embedding version of all of them.
        topic_offsets: (n + 1,) int64: item i has topics `topic_offsets[i]:topic_offsets[i + 1]`.
        topic_ids: (t,) int64.
        topic_confidences: (t,) float32.
        created_at: (n,) int64 microseconds; the least int64 where unknown.
    """

    ids: IntArray
    vectors: npt.NDArray[np.float32]
    version: str
    topic_offsets: IntArray
    topic_ids: IntArray
    topic_confidences: npt.NDArray[np.float32]
    created_at: IntArray

    @classmethod
    def from_table(cls, table: pa.Table) -> Items:
        """From rows of ITEMS in any order; where an id comes twice, the later row holds.

        Without the column `embedding`, which is nearly all there is to read, vectors have width 0.

        Raises:
            ValueError: More than one embedding version among the rows that hold.
        """
        table = table.take(_last_of_each(ints(table, "item_id")))
        versions = pc.unique(table["embedding_version"]).to_pylist()
        if len(versions) > 1:
            raise ValueError(
                f"ITEMS mixes embedding versions {', '.join(sorted(versions))}; "
                "import the whole catalogue with one version"
            )
        topics = table["topics"].combine_chunks()
        parts = topics.flatten()
        lengths = pc.fill_null(pc.list_value_length(topics), 0).to_numpy(zero_copy_only=False)
        created = pc.fill_null(table["created_at"].cast(pa.int64()), np.iinfo(np.int64).min)
        return cls(
            ids=ints(table, "item_id"),
            vectors=unit_rows(_vectors_of(table)),
            version=versions[0] if versions else "",
            topic_offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
            topic_ids=parts.field(0).to_numpy(zero_copy_only=False).astype(np.int64),
            topic_confidences=parts.field(1).to_numpy(zero_copy_only=False).astype(np.float32),
            created_at=created.to_numpy().astype(np.int64),
        )

    def rows_of(self, item_ids: npt.ArrayLike) -> IntArray:
        """(n,) ids to (n,) int64 rows; -1 where the item is unknown."""
        wanted = np.asarray(item_ids, np.int64)
        if len(self.ids) == 0:
            return np.full(len(wanted), -1, np.int64)
        if self._table_of_rows is not None:
            place = wanted - self.ids[0]
            known = (place >= 0) & (place < len(self._table_of_rows))
            return np.where(known, self._table_of_rows.take(place, mode="clip"), -1)
        places = np.searchsorted(self.ids, wanted)
        places[places == len(self.ids)] = 0
        return np.where(self.ids[places] == wanted, places, -1).astype(np.int64)

    @cached_property
    def _table_of_rows(self) -> IntArray | None:
        """Rows by id less the first, -1 where there is none; None where ids lie far apart.

        A search through 200,000 ids takes twenty times as long as a look into the table.
        """
        span = int(self.ids[-1]) - int(self.ids[0]) + 1
        if span > 4 * len(self.ids):
            return None
        table = np.full(span, -1, np.int64)
        table[self.ids - self.ids[0]] = np.arange(len(self.ids))
        return table

    def surer_than(self, least: float) -> Items:
        """The same items, with those of their topics whose confidence is `least` or more."""
        kept = self.topic_confidences >= least
        before = np.r_[0, np.cumsum(kept)].astype(np.int64)
        return replace(
            self,
            topic_offsets=before[self.topic_offsets],
            topic_ids=self.topic_ids[kept],
            topic_confidences=self.topic_confidences[kept],
        )

    @property
    def width(self) -> int:
        """d, the width of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def items_by_topic(self) -> tuple[IntArray, IntArray, IntArray]:
        """(topic ids ascending, offsets, item rows): the slice of the catalogue of every topic."""
        rows = np.repeat(np.arange(len(self.ids)), np.diff(self.topic_offsets))
        order = np.lexsort((rows, self.topic_ids))
        topics, starts = np.unique(self.topic_ids[order], return_index=True)
        return topics, np.r_[starts, len(order)].astype(np.int64), rows[order].astype(np.int64)


def _vectors_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """(n, d) float32, as they are stored; d 0 where they were not read."""
    if "embedding" not in table.column_names:
        return np.zeros((table.num_rows, 0), np.float32)
    vectors = table["embedding"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = len(flat) // table.num_rows if table.num_rows else 1
    return flat.reshape(-1, width)


def unit_rows(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, d) float32 rows scaled to length 1; a zero row stays zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    norms[norms == 0] = 1.0
    return (vectors / norms[:, None]).astype(np.float32)


def _last_of_each(ids: IntArray) -> IntArray:
    order = np.argsort(ids, kind="stable")
    return order[group_offsets(ids[order])[1:] - 1] if len(ids) else order
