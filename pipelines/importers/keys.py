"""Text ids become 63-bit integers by a keyed hash; the originals are kept in KEYS.

The hash does not depend on the kind of id, so a text names the same integer wherever it stands.
With n ids a collision has probability about n^2 / 2^64 (one in 18 million for a million ids); it is
an error, never a merge of two users.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.keys import KEYS
from profiling.hashing import text_hash
from profiling.schema import IntArray, ints, sort_rows

KINDS = ("user", "item", "topic", "event", "impression", "draw")


@dataclass
class KeyBook:
    """Hashes text ids and remembers them.

    Attributes:
        key: The warehouse's key, 1 to 64 bytes.
        known: KEYS of earlier imports: a text hashes to the same id, and a collision with any of
            them is an error too.
    """

    key: bytes
    known: pa.Table = field(default_factory=KEYS.empty)
    _met: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 1 <= len(self.key) <= 64:
            raise ValueError(f"the key of the ids must have 1 to 64 bytes, got {len(self.key)}")

    def ids_of(self, kind: str, texts: pa.Array) -> pa.Array:
        """(n,) text to (n,) int64 in [0, 2^63), null where null."""
        codes = texts.dictionary_encode()
        ids = np.array([hash_id(t, self.key) for t in codes.dictionary.to_pylist()], np.int64)
        count = len(codes.dictionary)
        self._met.append(
            KEYS.build({"kind": pa.repeat(kind, count), "id": ids, "original": codes.dictionary})
        )
        return pa.array(ids).take(codes.indices)

    def table(self) -> pa.Table:
        """KEYS of all texts met, in key order.

        Raises:
            ValueError: Two texts of one kind have the same id.
        """
        met = _distinct(pa.concat_tables([KEYS.empty(), *self._met]))
        every = _distinct(pa.concat_tables([met, self.known.select(KEYS.names).cast(KEYS.arrow)]))
        ids = ints(every, "id")
        same = np.flatnonzero((ids[1:] == ids[:-1]) & (_codes(every)[1:] == _codes(every)[:-1]))
        if len(same):
            two = every.slice(int(same[0]), 2).to_pylist()
            raise ValueError(
                f"{two[0]['kind']} ids {two[0]['original']!r} and {two[1]['original']!r} have the "
                f"same hash {two[0]['id']}; import into a new warehouse, whose key is another"
            )
        return met


def hash_id(text: str, key: bytes) -> np.int64:
    """The upper 63 bits of the keyed BLAKE2b of `text`."""
    return np.int64(text_hash(text, key) >> np.uint64(1))


def _distinct(keys: pa.Table) -> pa.Table:
    rows = keys.group_by(KEYS.names).aggregate([]).select(KEYS.names).cast(KEYS.arrow)
    return sort_rows(rows, (*KEYS.key, "original"))


def _codes(keys: pa.Table) -> IntArray:
    return np.asarray(pc.index_in(keys["kind"], pa.array(KINDS)).to_numpy(), np.int64)
