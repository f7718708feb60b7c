"""What was taken out of stored nights (collected, or because a person asked) or laid out anew.

    W/taken/000001.json    numbered, immutable: which file now stands for which, or none

Manifests and landings stay as they were published; whoever reads one reads it through these
records (`applied`), so a file that was taken is gone for every reader in one atomic step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from pipelines.store.manifests import (
    FORMAT,
    Landing,
    Manifest,
    StoredFile,
    Tables,
    check_format,
    file_from,
    reading,
    to_json,
)
from pipelines.store.records import next_record, record_paths
from pipelines.store.storage import create_exclusive, read_bytes
from profiling.schema import IntArray

_FOLDER = "taken"


@dataclass(frozen=True)
class Taking:
    """One command that took something out, or laid it out anew; immutable.

    Attributes:
        number: Its place in the sequence.
        why: gc, erase or reshard.
        at: When, microseconds.
        files: What stands for a file, by its path; None: nothing does.
        tombstones: Keyed hashes of erased users, hex: no row of theirs lands again.
        rows: Rows taken, by table.
        buckets: Of users, from here on; 0: as they were.
    """

    number: int
    why: str
    at: int
    files: Mapping[str, StoredFile | None] = field(default_factory=dict)
    tombstones: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    buckets: int = 0
    format: int = FORMAT


@dataclass(frozen=True)
class Taken:
    """All of a warehouse's takings together.

    Attributes:
        last: Number of the newest; 0 without one.
        erasures: How many of them erased a user.
        files: What stands for a file now.
        tombstones: Of all erased users.
        buckets: Of users; 0: as the warehouse was made.
    """

    last: int = 0
    erasures: int = 0
    files: Mapping[str, StoredFile | None] = field(default_factory=dict)
    tombstones: frozenset[str] = frozenset()
    buckets: int = 0

    def file(self, file: StoredFile) -> StoredFile | None:
        """What stands for `file`."""
        found: StoredFile | None = file
        while found is not None and found.path in self.files:
            found = self.files[found.path]
        return found

    def tables(self, tables: Tables) -> Tables:
        """`tables` as they are now."""
        if not self.files:
            return tables
        now = {name: map(self.file, files) for name, files in tables.items()}
        return {name: tuple(f for f in files if f is not None) for name, files in now.items()}

    def manifest(self, manifest: Manifest) -> Manifest:
        """`manifest` with the files that stand for its own."""
        if not self.files:
            return manifest
        inputs = tuple(
            replace(g, path=self._path(g.path)) if g.path in self.files else g
            for g in manifest.inputs
        )
        catalogue = self.tables(manifest.catalogue)
        tables = self.tables(manifest.tables)
        return replace(manifest, tables=tables, catalogue=catalogue, inputs=inputs)

    def landing(self, landing: Landing) -> Landing:
        """`landing` with the files that stand for its own."""
        return replace(landing, tables=self.tables(landing.tables)) if self.files else landing

    def _path(self, path: str) -> str:
        while (found := self.files.get(path)) is not None:
            path = found.path
        return path


def read_taken(root: str) -> Taken:
    """Everything that was taken out so far."""
    takings = [_read(path) for path in record_paths(root, _FOLDER)]
    if not takings:
        return Taken()
    return Taken(
        last=takings[-1].number,
        erasures=sum(t.why == "erase" for t in takings),
        files={path: file for t in takings for path, file in t.files.items()},
        tombstones=frozenset(s for t in takings for s in t.tombstones),
        buckets=next((t.buckets for t in reversed(takings) if t.buckets), 0),
    )


def take(root: str, taking: Taking, *, after: int | None = None) -> Taking:
    """Make a taking hold for every reader, in one atomic create; its number is given here.

    Args:
        root: The warehouse.
        taking: What.
        after: Number of the newest taking that it knows of; None: it matters to it no more.

    Raises:
        ValueError: There is one after `after`.
    """
    while True:
        number, path = next_record(root, _FOLDER, record_paths(root, _FOLDER))
        if after is not None and number != after + 1:
            raise ValueError(
                f"files of {root} were collected, erased or laid out anew meanwhile; run it again"
            )
        numbered = replace(taking, number=number)
        if create_exclusive(path, to_json(numbered)):
            return numbered


def tombstone(user_id: int, hash_key: bytes) -> str:
    """Keyed BLAKE2b of a user's id, hex: tells an erased user again, and nobody else."""
    text = f"erased {user_id}".encode()
    return hashlib.blake2b(text, digest_size=16, key=hash_key).hexdigest()


def erased_of(user_ids: Iterable[int], tombstones: frozenset[str], hash_key: bytes) -> IntArray:
    """Those of `user_ids` that were erased, ascending."""
    found = {int(u) for u in user_ids if tombstone(int(u), hash_key) in tombstones}
    return np.array(sorted(found), np.int64)


@lru_cache(maxsize=64)
def _read(path: str) -> Taking:
    """A record, read once a process: it never changes, and one of a reshard names every file."""
    with reading(path):
        raw: dict[str, Any] = dict(json.loads(read_bytes(path)))
        check_format(raw["format"], path)
        raw["files"] = {p: None if f is None else file_from(f) for p, f in raw["files"].items()}
        return Taking(**raw | {"tombstones": tuple(raw["tombstones"])})
