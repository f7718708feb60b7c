"""What spacing needs of a warehouse: its file, labels of ITEMS, extra tables, user segments."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.plan import open_items
from pipelines.spacing.file import FILE_NAME, load_spacing
from pipelines.store.manifests import StoredFile, Tables
from pipelines.store.storage import exists, join, read_bytes
from pipelines.store.tables import read_files
from profiling.items import Items
from retrieval.spacing.classes import Spacing
from retrieval.spacing.labels import ItemLabels, feed_spacing
from retrieval.spacing.terms import FeedSpacing


def spacing_of(root: str, page: int) -> Spacing:
    """The warehouse's spacing.yaml as it stands now, with digests of the tables it names.

    A warehouse without one has neither diversity nor spacing classes.
    """
    path = join(root, FILE_NAME)
    if not exists(path):
        return Spacing()
    return with_digests(load_spacing(read_bytes(path).decode(), path, page=page), root)


def with_digests(spacing: Spacing, root: str) -> Spacing:
    """The same with the digests of the files it names noted: a night's result depends on them.

    Raises:
        ValueError: A file is not there.
    """
    tables = tuple(
        replace(t, digest=_digest(root, t.path, f"table {t.name!r}")) for t in spacing.tables
    )
    segments = _digest(root, spacing.segments, "segments") if spacing.segments else ""
    return replace(spacing, tables=tables, segments_digest=segments)


def changed_files(spacing: Spacing, root: str) -> list[str]:
    """Names of the files that are not what they were when a night noted their digests."""
    now = with_digests(spacing, root)
    pairs = zip(spacing.tables, now.tables, strict=True)
    found = [old.name for old, new in pairs if old.digest != new.digest]
    return found + (["segments"] if now.segments_digest != spacing.segments_digest else [])


def _digest(root: str, path: str, what: str) -> str:
    return hashlib.sha256(_content(root, path, what)).hexdigest()[:16]


@lru_cache(maxsize=4)
def open_spacing(root: str, files: tuple[StoredFile, ...], spacing: Spacing) -> FeedSpacing:
    """The configuration with what it needs of the catalogue, once a process."""
    return read_spacing(root, {"ITEMS": files}, spacing, open_items(root, files))


def read_spacing(root: str, catalogue: Tables, spacing: Spacing, items: Items) -> FeedSpacing:
    """`feed_spacing` from stored files, for `items`: the catalogue or some of it.

    Raises:
        ValueError: A table is not there or cannot be read, or a score is out of range.
    """
    labels = ItemLabels()
    if any(c.source.label for c in spacing.works):
        columns = ["item_id", "labels"]
        rows = read_files(root, "ITEMS", catalogue["ITEMS"], columns)
        known = pc.is_in(rows["item_id"], pa.array(items.ids))
        labels = ItemLabels.from_table(rows.filter(known), items)
    tables = {t.name: _table(root, t.path, f"table {t.name!r}") for t in spacing.tables}
    segments = _table(root, spacing.segments, "segments") if spacing.segments else None
    return feed_spacing(spacing, items, labels, tables, segments)


def _table(root: str, path: str, what: str) -> pa.Table:
    content = io.BytesIO(_content(root, path, what))
    try:
        return pacsv.read_csv(content) if path.endswith(".csv") else pq.read_table(content)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} ({what}) cannot be read: {error}; write it again") from error


def _content(root: str, path: str, what: str) -> bytes:
    """A path is taken from the warehouse's root unless it is absolute or has a scheme."""
    full = path if path.startswith("/") or "://" in path else join(root, path)
    if not exists(full):
        raise ValueError(f"{full} ({what} of {FILE_NAME}) is not there; correct its path")
    return read_bytes(full)
