"""Bytes in and out of a warehouse: a local disk or an object store, and the one atomic create.

A local path is read memory-mapped, `s3://` in ranges. Anything else with a scheme (`gs://`, ...)
can be read through Beam's file systems, but not published to. Data files are written under names
that no other attempt can have, so nothing is ever overwritten; what makes a file part of the
warehouse is that a manifest names it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipelines.store.beam_files import FileSystems
from pipelines.store.object_stores import S3, S3Store

_S3 = S3Store()


def is_local(path: str) -> bool:
    """Whether `path` is a plain path of this machine."""
    return "://" not in path


def is_s3(path: str) -> bool:
    """Whether `path` is an object of S3, or of a store that speaks its protocol."""
    return path.startswith(S3)


def join(root: str, *parts: str) -> str:
    """A path below `root`, with forward slashes."""
    return "/".join([root.rstrip("/"), *parts])


def unique_name(stem: str) -> str:
    """`stem` with a suffix that no other attempt has."""
    return f"{stem}-{uuid.uuid4().hex[:16]}"


def read_bytes(path: str) -> bytes:
    """The whole file."""
    if is_local(path):
        return Path(path).read_bytes()
    if is_s3(path):
        return _S3.read_bytes(path)
    with FileSystems.open(path) as source:
        return bytes(source.read())


def exists(path: str) -> bool:
    """Whether there is a file at `path`."""
    if is_s3(path):
        return _S3.exists(path)
    return os.path.exists(path) if is_local(path) else bool(FileSystems.exists(path))


def list_names(folder: str) -> list[str]:
    """Names of the files in `folder`, sorted; none where there is no such folder."""
    if is_local(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if is_s3(folder):
        return _S3.list_names(folder)
    found = FileSystems.match([join(folder, "*")])[0].metadata_list
    return sorted(m.path.rsplit("/", 1)[1] for m in found)


@dataclass(frozen=True)
class Listed:
    """A file as a listing shows it.

    Attributes:
        path: Relative to the folder listed.
        bytes: Its size.
        changed_at: When it was written last, seconds since 1970.
    """

    path: str
    bytes: int
    changed_at: float


def list_tree(folder: str) -> list[Listed]:
    """Every file below `folder`, sorted by path; none where there is no such folder."""
    if is_s3(folder):
        return [Listed(*found) for found in _S3.list_tree(folder)]
    if is_local(folder):
        return sorted(_walk(Path(folder)), key=lambda file: file.path)
    base = folder.rstrip("/") + "/"
    found = FileSystems.match([base + "**"])[0].metadata_list
    return sorted(
        (
            Listed(m.path.removeprefix(base), m.size_in_bytes, m.last_updated_in_seconds)
            for m in found
        ),
        key=lambda file: file.path,
    )


def _walk(folder: Path) -> Iterator[Listed]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with suppress(FileNotFoundError):  # removed meanwhile
                state = path.stat()
                yield Listed(path.relative_to(folder).as_posix(), state.st_size, state.st_mtime)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors of writing, as on a full disk, do not say the file: add it."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = path
        raise


def create_exclusive(path: str, content: bytes) -> bool:
    """Create `path` with `content` in one atomic step; False where it exists already.

    Readers see the whole file or none. On a local disk: write aside, flush to disk, hard link. On
    S3: a put on the condition that there is no such object (`If-None-Match: *`).

    Raises:
        ValueError: The file system has no atomic exclusive create that we know of.
    """
    if is_s3(path):
        return _S3.create_exclusive(path, content)
    if not is_local(path):
        raise ValueError(
            f"{path}: publishing needs an atomic create, known for local disks and s3:// (also of "
            "other stores that speak S3 with conditional writes); choose a warehouse on one of them"
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name("." + unique_name(target.name))
    try:
        with naming(path), aside.open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        os.link(aside, target)
        return True
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)


def remove_files(folder: str) -> None:
    """Delete the files of `folder`, and the folder where that is a thing of its own."""
    if is_s3(folder):
        _S3.remove([join(folder, name) for name in list_names(folder)])
    elif not is_local(folder):
        FileSystems.delete([join(folder, name) for name in list_names(folder)])
    elif os.path.isdir(folder):
        shutil.rmtree(folder, ignore_errors=True)  # another run may write to it


def remove_paths(paths: list[str]) -> None:
    """Delete these files of one warehouse; one that is gone already is none of our business."""
    if not paths:
        return
    if is_s3(paths[0]):
        _S3.remove(paths)
    elif not is_local(paths[0]):
        FileSystems.delete(paths)
    else:
        for path in paths:
            Path(path).unlink(missing_ok=True)


def open_parquet_source(path: str) -> pa.NativeFile:
    """A random-access source for `pyarrow.parquet`."""
    if is_local(path):
        return pa.memory_map(path)
    return pa.PythonFile(open_binary(path), mode="r")


def file_size(path: str) -> int:
    """Bytes of the file."""
    if is_local(path):
        return os.path.getsize(path)
    if is_s3(path):
        return _S3.size(path)
    return int(FileSystems.get_filesystem(path).size(path))


def open_binary(path: str) -> BinaryIO:
    """A seekable file for reading."""
    if is_local(path):
        return Path(path).open("rb")
    return cast(BinaryIO, _S3.open(path) if is_s3(path) else FileSystems.open(path))


class HashingSink:
    """A file to write to that knows how many bytes it got and their SHA-256."""

    def __init__(self, path: str) -> None:
        """Create the file at `path`, with its folders; an object is there once it is closed."""
        self._path, self._local = path, is_local(path)
        if self._local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file: Any = Path(path).open("xb")  # noqa: SIM115 (closed by close)
        elif is_s3(path):
            self._file = _S3.new_file()
        else:
            self._file = FileSystems.create(path, mime_type="application/octet-stream")
        self._hash = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes; what comes for a discarded file is dropped."""
        view = memoryview(data)
        if self.closed:
            return view.nbytes
        self._hash.update(view)
        with naming(self._path):
            self._file.write(view)
        self.size += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Hand buffered bytes to the file system."""
        if self.closed:
            return
        with naming(self._path):
            self._file.flush()

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def writable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is not."""
        return False

    def seekable(self) -> bool:
        """It is not."""
        return False

    def close(self) -> None:
        """Flush and close."""
        if not self.closed:
            with naming(self._path):
                if self._local:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                elif is_s3(self._path):
                    _S3.upload(self._file, self._path)
                self._file.close()
            self.closed = True

    def discard(self) -> None:
        """Close without caring for the content: no manifest will ever name the file."""
        if not self.closed:
            self.closed = True
            with suppress(OSError):
                self._file.close()

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes, hex."""
        return self._hash.hexdigest()
