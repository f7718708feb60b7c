"""Folders of files that are opened together and memory-mapped: models, and what is made of them.

A folder is written once, under a name that no other attempt has; what makes it part of the
warehouse is a record that lists its files. On a local disk it is opened where it lies. From an
object store it is copied once a machine, into a cache named by what the folder holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.store.manifests import reading, to_json
from pipelines.store.records import record_paths
from pipelines.store.storage import (
    HashingSink,
    create_exclusive,
    exists,
    file_size,
    is_local,
    join,
    naming,
    open_binary,
    read_bytes,
    unique_name,
)

MADE = ("indexes", "neighbours")  # kinds of folders that are made of a catalogue, once

_BLOCK = 1 << 20  # bytes copied at a time


@dataclass(frozen=True)
class FolderFile:
    """One file of a folder."""

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class Folder:
    """A folder of the warehouse; `path` is relative to its root."""

    path: str
    files: tuple[FolderFile, ...]

    @property
    def digest(self) -> str:
        """Of all that it holds, hex."""
        text = "\n".join(f"{f.name} {f.bytes} {f.digest}" for f in self.files)
        return hashlib.sha256(text.encode()).hexdigest()


def folder_from(raw: Mapping[str, Any]) -> Folder:
    """A `Folder` from plain JSON."""
    return Folder(raw["path"], tuple(FolderFile(**f) for f in raw["files"]))


def store_folder(root: str, path: str, source: Path) -> Folder:
    """Copy the files of the local folder `source` to `path` below `root`, a name of its own."""
    files = []
    for file in sorted(source.iterdir()):
        sink = HashingSink(join(root, path, file.name))
        try:
            with file.open("rb") as content:
                while block := content.read(_BLOCK):
                    sink.write(block)
            sink.close()
        except BaseException:
            sink.discard()
            raise
        files.append(FolderFile(file.name, sink.size, sink.digest))
    return Folder(path, tuple(files))


def made_once(
    root: str, kind: str, parts: Sequence[Any], stem: str, fill: Callable[[Path], None]
) -> Folder:
    """A folder that depends on `parts` alone: made where there is none yet, and kept.

    Args:
        root: The warehouse.
        kind: Where such folders lie below it, with a record each; one of `MADE`.
        parts: All that decides what it holds, plain JSON.
        stem: Of its name.
        fill: Makes the folder on this machine, at a path where there is none.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    record = join(root, kind, f"{digest}.json")
    if not exists(record):
        with tempfile.TemporaryDirectory() as place:
            made = Path(place, stem)
            fill(made)
            folder = store_folder(root, join(kind, unique_name(stem)), made)
        create_exclusive(record, to_json(folder))  # whoever was first made the same
    return _recorded(record)


def made_folders(root: str) -> list[Folder]:
    """Every folder of `made_once`."""
    return [_recorded(path) for kind in MADE for path in record_paths(root, kind)]


def _recorded(path: str) -> Folder:
    with reading(path):
        return folder_from(json.loads(read_bytes(path)))


def check_folder(root: str, folder: Folder) -> None:
    """Read all of it and compare.

    Raises:
        ValueError: A file is gone, cut off, or not what was written.
    """
    for file in folder.files:
        path = join(root, folder.path, file.name)
        _check_size(path, file)
        digest = hashlib.sha256()
        with open_binary(path) as content:
            while block := content.read(_BLOCK):
                digest.update(block)
        _check_digest(path, file, digest.hexdigest())


def open_folder(root: str, folder: Folder) -> Path:
    """Where its files lie on this machine, for memory-mapping.

    Raises:
        ValueError: A file is gone or cut off; from an object store, or not what was written.
    """
    if is_local(root):
        for file in folder.files:
            _check_size(join(root, folder.path, file.name), file)
        return Path(root, folder.path)
    place = local_cache() / folder.digest
    if not place.exists():
        _download(root, folder, place)
    return place


def local_cache() -> Path:
    """Where copies of an object store's files lie: the user's own, nobody else writes there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "queryloop"


def _download(root: str, folder: Folder, place: Path) -> None:
    """Copy aside, compare, and rename: whoever finds `place` finds all of it."""
    aside = place.with_name(unique_name(".copy"))
    aside.mkdir(parents=True)
    try:
        for file in folder.files:
            path = join(root, folder.path, file.name)
            _check_size(path, file)
            digest = hashlib.sha256()
            with (
                open_binary(path) as content,
                naming(str(aside)),
                (aside / file.name).open("wb") as sink,
            ):
                while block := content.read(_BLOCK):
                    digest.update(block)
                    sink.write(block)
            _check_digest(path, file, digest.hexdigest())
        with suppress(OSError):  # another process of this machine was first
            aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_size(path: str, file: FolderFile) -> None:
    size = file_size(path) if exists(path) else None
    if size != file.bytes:
        found = "is gone" if size is None else f"has {size:,} bytes, not the {file.bytes:,} written"
        raise ValueError(f"{path} {found}; restore it, or train anew with `queryloop train`")


def _check_digest(path: str, file: FolderFile, digest: str) -> None:
    if digest != file.digest:
        raise ValueError(
            f"{path} is not what was written (SHA-256 {digest[:12]}, not {file.digest[:12]}); "
            "restore it, or train anew with `queryloop train`"
        )
