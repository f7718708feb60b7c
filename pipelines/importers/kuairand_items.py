"""KuaiRand's videos, to ITEMS and TOPICS, with vectors from co-engagement before the log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.catalogue import CataloguePart, one_row_per_id
from pipelines.importers.digests import row_digests
from pipelines.importers.embeddings import (
    PlacedVectors,
    co_engagement_vectors,
    place_without_history,
)
from pipelines.importers.files import ReadFile, read_file, require_columns
from pipelines.importers.kuairand_log import WHY, Sequence
from pipelines.importers.lists import any_in_list, list_lengths, split_text
from pipelines.importers.rejects import ColumnFault, Fault, null_faults, refuse_rows
from pipelines.importers.scalars import outside, parse_integers, parse_text, text_to_ints
from pipelines.importers.times import parse_times
from profiling.schema import TIMESTAMP, IntArray, ints, sort_rows
from profiling.tables import ITEMS, TOPICS

_COLUMNS = ("video_id", "author_id", "tag", "upload_dt")
_FEATURES = pa.schema(
    [
        ("video_id", pa.int64()),
        ("author_id", pa.int64()),
        ("tags", pa.list_(pa.int64())),
        ("upload_dt", TIMESTAMP),
    ]
)
_NO_TAG = "unknown"


@dataclass(frozen=True)
class Catalogue:
    """ITEMS and TOPICS, REJECTED, the file they came from, and what to tell people."""

    tables: dict[str, pa.Table]
    rejected: list[pa.Table]
    read: ReadFile
    notes: list[str]


def read_catalogue(
    path: Path,
    logs: list[ReadFile],
    met: IntArray,
    engaged: list[Sequence],
    *,
    width: int,
    seed: int,
) -> Catalogue:
    """All videos of the file, and those of the log that it lacks.

    A video has each of its tags as a topic with confidence 1 / number of tags: the log does not say
    which is the main one. `unknown` is no topic.

    Args:
        path: The file with the features.
        logs: The impressions: their author, tag and day for videos that the file lacks.
        met: Videos that occur anywhere.
        engaged: Engagements before the log, of which the vectors are made.
        width: d of the vectors.
        seed: Of the SVD.
    """
    read = read_file(path, _COLUMNS)
    require_columns(read, _COLUMNS, WHY)
    features, faults = _features(read)
    keep, refused = refuse_rows(read, faults, None)
    part = CataloguePart(read, features.filter(pa.array(keep)), np.flatnonzero(keep))
    merged = one_row_per_id([part], "video_id")
    lacking = np.setdiff1d(met, ints(merged.rows, "video_id"))
    added = _from_log(logs, lacking)
    rows = sort_rows(pa.concat_tables([merged.rows, added]), ("video_id",))
    placed = _vectors(rows, engaged, width, seed)
    items = _items_table(rows, placed.vectors, _version(engaged, width, seed))
    tables = {"ITEMS": items, "TOPICS": _topics_table(rows, width)}
    notes = _notes(placed, width, len(lacking))
    return Catalogue(tables, [refused, *merged.rejected], read, notes)


def _features(read: ReadFile) -> tuple[pa.Table, list[ColumnFault]]:
    """The columns of a file with video_id, author_id, tag and upload_dt, and what is wrong."""
    where = f"{read.source.path}: "
    raw = {c: read.array(c) for c in _COLUMNS}
    ids = parse_integers(raw["video_id"], where + "video_id")
    authors = parse_integers(raw["author_id"], where + "author_id")
    tags, tag_fault = _tag_lists(raw["tag"], where + "tag")
    times = parse_times(raw["upload_dt"], None, where + "upload_dt")
    missing = null_faults(ids.values, ids, "the video")
    found = {
        "video_id": (*ids.faults, missing, outside(ids.values, 0, None)),
        "author_id": authors.faults,
        "tag": (tag_fault,),
        "upload_dt": times.faults,
    }
    table = pa.table([ids.values, authors.values, tags, times.values], schema=_FEATURES)
    return table, [ColumnFault(c, raw[c], f) for c, faults in found.items() for f in faults]


def _tag_lists(raw: pa.Array, where: str) -> tuple[pa.Array, Fault]:
    """`12,25` to [12, 25]; empty, null or `unknown` to []; what is no integer is a fault."""
    words = split_text(parse_text(raw, where).values, ",")
    lengths = list_lengths(words)
    flat = pc.list_flatten(words)
    known = pc.not_equal(flat, _NO_TAG).to_numpy(zero_copy_only=False)
    values, bad = text_to_ints(flat)
    bad |= pc.fill_null(pc.less(values, 0), False).to_numpy(zero_copy_only=False)
    bad &= known
    keep = known & ~bad
    ends = np.cumsum(lengths)
    counts = np.r_[0, np.cumsum(keep)]
    offsets = np.r_[0, counts[ends]].astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), values.filter(pa.array(keep)))
    return lists, Fault(any_in_list(bad, lengths), "tags must be integers with commas between")


def _from_log(logs: list[ReadFile], lacking: IntArray) -> pa.Table:
    """Features of videos that the file lacks, from their log lines; nulls where none has any."""
    found = [_FEATURES.empty_table()]
    for read in logs if len(lacking) else []:
        if set(_COLUMNS) <= set(read.names):
            table, _ = _features(read)
            found.append(table.filter(pc.is_in(table["video_id"], pa.array(lacking))))
    rows = pa.concat_tables(found)
    order = np.lexsort((row_digests(rows.columns), ints(rows, "video_id")))
    ids, first = np.unique(ints(rows, "video_id")[order], return_index=True)
    unseen = np.setdiff1d(lacking, ids)
    bare = pa.table(
        [
            pa.array(unseen),
            pa.nulls(len(unseen), pa.int64()),
            pa.array([[]] * len(unseen), pa.list_(pa.int64())),
            pa.nulls(len(unseen), TIMESTAMP),
        ],
        schema=_FEATURES,
    )
    return pa.concat_tables([rows.take(pa.array(order[first])), bare])


def _vectors(rows: pa.Table, engaged: list[Sequence], width: int, seed: int) -> PlacedVectors:
    ids = ints(rows, "video_id")
    users = np.concatenate([np.zeros(0, np.int64), *(s.users for s in engaged)])
    videos = np.concatenate([np.zeros(0, np.int64), *(s.videos for s in engaged)])
    places = np.searchsorted(ids, videos)
    vectors = co_engagement_vectors(users, places, len(ids), width=width, seed=seed)
    tag_rows, tags = _flat_tags(rows)
    authors = rows["author_id"].combine_chunks()
    authored = np.flatnonzero(authors.is_valid().to_numpy(zero_copy_only=False))
    author_ids = np.asarray(authors.drop_null().to_numpy(), np.int64)
    return place_without_history(vectors, [(tag_rows, tags), (authored, author_ids)])


def _flat_tags(rows: pa.Table) -> tuple[IntArray, IntArray]:
    """(k,) row and (k,) tag of every tag of every video."""
    lists = rows["tags"].combine_chunks()
    flat = np.asarray(pc.list_flatten(lists).to_numpy(), np.int64)
    return np.repeat(np.arange(len(lists)), list_lengths(lists)), flat


def _items_table(rows: pa.Table, vectors: npt.NDArray[np.float32], version: str) -> pa.Table:
    n, width = vectors.shape
    lengths = list_lengths(rows["tags"].combine_chunks())
    _, tags = _flat_tags(rows)
    confidence = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    pairs = pa.StructArray.from_arrays(
        [pa.array(tags), pa.array(confidence)], names=["topic_id", "confidence"]
    )
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    ids = rows["video_id"].cast(pa.string())
    label = ITEMS.arrow.field("labels").type
    return ITEMS.of_width(width).build(
        {
            "item_id": ints(rows, "video_id"),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width),
            "embedding_version": pa.repeat(version, n),
            "topics": pa.ListArray.from_arrays(offsets, pairs),
            "created_at": rows["upload_dt"],
            "labels": pa.array([[]] * n, label),
            "title": pc.binary_join_element_wise("video", ids, " "),
        }
    )


def _topics_table(rows: pa.Table, width: int) -> pa.Table:
    tags = np.unique(_flat_tags(rows)[1])
    return TOPICS.of_width(width).build(
        {
            "topic_id": tags,
            "name": pa.array([f"tag {t}" for t in tags], pa.string()),
            "embedding": pa.nulls(len(tags), pa.list_(pa.float32())),
        }
    )


def _version(engaged: list[Sequence], width: int, seed: int) -> str:
    """Names the method and what went into it, so that vectors of two inputs never mix."""
    pairs = [np.stack([s.users, s.videos], axis=1) for s in engaged]
    distinct = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), axis=0)
    digests = row_digests([pa.array(distinct[:, 0]), pa.array(distinct[:, 1])])
    total = np.bitwise_xor.reduce(digests.view(np.uint64), initial=np.uint64(seed))
    return f"kuairand-svd{width}/1-{int(total) >> 32:08x}"


def _notes(placed: PlacedVectors, width: int, lacking: int) -> list[str]:
    notes = [
        f"item vectors: {placed.engaged:,} of width {width} from long watches and likes before the "
        "log (truncated SVD of PPMI)",
        f"{placed.placed:,} items without such history stand at the mean of their tags' and "
        f"author's mean vectors, {placed.central:,} with neither at the mean of all",
        "topics: tags, with confidence 1 / number of tags; `unknown` is none",
        "created_at: midnight UTC of upload_dt, which has no time",
    ]
    if lacking:
        notes.append(f"{lacking:,} videos of the log are not in item_features.parquet: added")
    return notes
