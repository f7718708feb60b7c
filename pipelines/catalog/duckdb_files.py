"""Lets DuckDB read a warehouse's files that are not on this machine, without its extensions."""

from __future__ import annotations

import datetime as dt
import os
import threading
from typing import Any, BinaryIO, cast

import duckdb

from pipelines.store.storage import exists, file_size, is_local, open_binary

_EVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # a file of the warehouse never changes


def register_files(connection: duckdb.DuckDBPyConnection, root: str) -> None:
    """Make paths below `root` readable in `connection`; local ones are already.

    DuckDB asks for the ranges it needs: footers, then the columns and row groups of a statement.

    Raises:
        ValueError: The package fsspec, in whose terms DuckDB asks, is not installed.
    """
    if is_local(root):
        return
    try:
        from fsspec import AbstractFileSystem
    except ModuleNotFoundError as error:
        raise ValueError(f"{root}: SQL needs fsspec; pip install 'queryloop[s3]'") from error

    class WarehouseFiles(AbstractFileSystem):
        """Our storage in the terms of fsspec, as far as DuckDB asks."""

        protocol = root.split("://")[0]
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path

        def unstrip_protocol(self, name: str) -> str:
            return name

        def open(self, path: str, mode: str = "rb", **options: Any) -> SharedFile:
            return SharedFile(path)

        def glob(self, path: str, **options: Any) -> list[str]:
            return [path]

        def exists(self, path: str, **options: Any) -> bool:
            return exists(path)

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            return {"name": path, "size": file_size(path), "type": "file"}

        def modified(self, path: str) -> dt.datetime:
            return _EVER

    connection.register_filesystem(WarehouseFiles())


class SharedFile:
    """A file in which every thread has a place of its own.

    DuckDB 2.0 seeks and reads from several threads in one file, and another thread may come in
    between the two.
    """

    def __init__(self, path: str) -> None:
        """Open the file at `path`, for each thread once it reads."""
        self._path, self._mine = path, threading.local()
        self._opened: list[BinaryIO] = []

    def _file(self) -> BinaryIO:
        if not hasattr(self._mine, "file"):
            self._mine.file = open_binary(self._path)
            self._opened.append(self._mine.file)
        return cast(BinaryIO, self._mine.file)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move this thread's place."""
        return self._file().seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Bytes from this thread's place on."""
        return self._file().read(size)

    def tell(self) -> int:
        """This thread's place."""
        return self._file().tell()

    def close(self) -> None:
        """Close it for all threads."""
        for file in self._opened:
            file.close()
