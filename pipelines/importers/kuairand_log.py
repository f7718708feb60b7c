"""KuaiRand's impressions and earlier sequences, to IMPRESSIONS, ENGAGEMENTS and EXPOSURES."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.catalogue import CataloguePart, one_row_per_id
from pipelines.importers.digests import row_digests
from pipelines.importers.files import ReadFile, require_columns
from pipelines.importers.lists import any_in_list, is_list, list_lengths
from pipelines.importers.rejects import ColumnFault, Fault, null_faults, refuse_rows
from pipelines.importers.scalars import outside, parse_integers
from profiling.decay import HOUR_US
from profiling.hashing import UIntArray, hash63, text_hash
from profiling.schema import IntArray, ints, sort_rows
from profiling.tables import ENGAGEMENTS, EXPOSURES
from selection.tables import IMPRESSIONS

# Action to its column in the log, and in the earlier sequences where there is one.
LOG_COLUMNS = {
    "long_view": "long_view",
    "like": "is_like",
    "hate": "is_hate",
    "click": "is_click",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "profile_enter": "is_profile_enter",
}
SEQUENCES = {"long_view": "long_watch_seq", "like": "like_seq"}
EXPOSED = "watch_seq"
SURFACE = "home"
WHY = "Give the KuaiRand-Pure folder as published in Parquet."
_YEAR_2096_MS = 4e12


@dataclass(frozen=True)
class Log:
    """Impressions, in the order of the files.

    Attributes:
        users: (n,) int64.
        videos: (n,) int64.
        at: (n,) int64 microseconds.
        flags: (n, a) bool, the actions done, in the order of the action names.
        digests: (n,) int64, hash of all columns of the source row.
    """

    users: IntArray
    videos: IntArray
    at: IntArray
    flags: npt.NDArray[np.bool_]
    digests: IntArray

    @property
    def impression_ids(self) -> IntArray:
        """(n,) int64: the log has none, so the hash of user, video and time_ms."""
        return hash63(self.users, self.videos, self.at // 1000)


@dataclass(frozen=True)
class Sequence:
    """The lists of one sequence column, flat.

    Attributes:
        users: (m,) int64.
        ordinals: (m,) int64, place in the user's list, oldest first.
        lengths: (m,) int64, length of the user's list.
        videos: (m,) int64.
    """

    users: IntArray
    ordinals: IntArray
    lengths: IntArray
    videos: IntArray


def good_impressions(read: ReadFile, names: list[str], now_us: int | None) -> tuple[Log, pa.Table]:
    """The good rows of a file with impressions, and REJECTED for the others.

    Args:
        read: The file, with all its columns: the digest is over them.
        names: Actions, keys of `LOG_COLUMNS`.
        now_us: Rows after it are refused, where given.
    """
    flagged = [LOG_COLUMNS[n] for n in names]
    require_columns(read, ["user_id", "video_id", "time_ms", *flagged], WHY)
    high = {
        "time_ms": _YEAR_2096_MS if now_us is None else now_us / 1000,
        **dict.fromkeys(flagged, 1),
    }
    faults: list[ColumnFault] = []
    values: dict[str, pa.Array] = {}
    for column in ("user_id", "video_id", "time_ms", *flagged):
        values[column], found = _integers(read, column, high.get(column))
        faults += found
    keep, rejected = refuse_rows(read, faults, values["user_id"])
    good = pa.array(keep)
    columns = {n: np.asarray(pc.fill_null(v, 0).filter(good).to_numpy()) for n, v in values.items()}
    everything = [read.array(n).filter(good) for n in sorted(read.names)]
    log = Log(
        users=columns["user_id"],
        videos=columns["video_id"],
        at=columns["time_ms"] * 1000,
        flags=np.stack([columns[f] == 1 for f in flagged], axis=1),
        digests=row_digests(everything),
    )
    return log, rejected


def join_logs(parts: list[Log]) -> Log:
    """All rows, in the order of the files."""
    return Log(
        users=np.concatenate([p.users for p in parts]),
        videos=np.concatenate([p.videos for p in parts]),
        at=np.concatenate([p.at for p in parts]),
        flags=np.concatenate([p.flags for p in parts]),
        digests=np.concatenate([p.digests for p in parts]),
    )


def read_sequences(reads: list[ReadFile]) -> tuple[dict[str, Sequence], list[pa.Table]]:
    """The sequence columns by name, and REJECTED; a user stands in one row only."""
    columns = (EXPOSED, *SEQUENCES.values())
    parts, rejected = [], []
    for read in reads:
        require_columns(read, ["user_id", *columns], WHY)
        users, faults = _integers(read, "user_id", None)
        lists = {c: _video_lists(read, c) for c in columns}
        faults += [ColumnFault(c, read.array(c), fault) for c, (_, fault) in lists.items()]
        keep, refused = refuse_rows(read, faults, users)
        rows = pa.table({"user_id": users, **{c: array for c, (array, _) in lists.items()}})
        parts.append(CataloguePart(read, rows.filter(pa.array(keep)), np.flatnonzero(keep)))
        rejected.append(refused)
    merged = one_row_per_id(parts, "user_id")
    found = {c: _flatten(ints(merged.rows, "user_id"), merged.rows[c]) for c in columns}
    return found, [*rejected, *merged.rejected]


def impressions_table(log: Log, names: list[str]) -> pa.Table:
    """IMPRESSIONS, by id and digest; `actions` are those of the line, none is an empty list."""
    _, codes = np.nonzero(log.flags)
    offsets = np.r_[0, np.cumsum(log.flags.sum(axis=1))].astype(np.int32)
    n = len(log.users)
    table = IMPRESSIONS.build(
        {
            "impression_id": log.impression_ids,
            "user_id": log.users,
            "item_id": log.videos,
            "at": log.at,
            "surface": pa.repeat(SURFACE, n),
            "request_id": pa.nulls(n, pa.string()),
            "position": pa.nulls(n, pa.int32()),
            "draw_id": pa.nulls(n, pa.int64()),
            "actions": pa.ListArray.from_arrays(pa.array(offsets), _words(names, codes)),
            "content_digest": log.digests,
        }
    )
    return sort_rows(table, ("impression_id", "content_digest"))


def engagements_table(
    log: Log, names: list[str], sequences: dict[str, Sequence], starts_at: int
) -> pa.Table:
    """ENGAGEMENTS: one per impression row and action done, and the synthetic ones before the log.

    The k-th entry from the end of a user's sequence is put k hours before `starts_at`.
    """
    rows, codes = np.nonzero(log.flags)
    ids = log.impression_ids[rows]
    parts = [
        _engagements(
            users=log.users[rows],
            items=log.videos[rows],
            actions=_words(names, codes),
            at=log.at[rows],
            event_ids=hash63(ids, _word_hashes(names)[codes]),
            impression_ids=pa.array(ids),
        )
    ]
    for name in (n for n in names if n in SEQUENCES):
        s = sequences[SEQUENCES[name]]
        code = np.zeros(len(s.users), np.int64)
        parts.append(
            _engagements(
                users=s.users,
                items=s.videos,
                actions=_words([name], code),
                at=starts_at - (s.lengths - s.ordinals) * HOUR_US,
                event_ids=hash63(s.users, s.videos, text_hash(name), s.ordinals, "synthetic"),
                impression_ids=None,
            )
        )
    return sort_rows(pa.concat_tables(parts), ("event_id", "content_digest"))


def exposures_table(seen: Sequence) -> pa.Table:
    """EXPOSURES, by user and place."""
    table = EXPOSURES.build(
        {"user_id": seen.users, "ordinal": seen.ordinals.astype(np.int32), "item_id": seen.videos}
    )
    return sort_rows(table, EXPOSURES.key)


def _engagements(
    *,
    users: IntArray,
    items: IntArray,
    actions: pa.Array,
    at: IntArray,
    event_ids: IntArray,
    impression_ids: pa.Array | None,
) -> pa.Table:
    """Rows whose digest is over (user, item, action, at), so that a full repeat is a duplicate.

    A synthetic time is no content: another excerpt of the log starts at another moment.
    """
    n = len(users)
    synthetic = impression_ids is None
    content = [pa.array(users), pa.array(items), actions]
    return ENGAGEMENTS.build(
        {
            "event_id": event_ids,
            "user_id": users,
            "item_id": items,
            "action": actions,
            "at": at,
            "impression_id": pa.nulls(n, pa.int64()) if synthetic else impression_ids,
            "synthetic": pa.repeat(synthetic, n),
            "content_digest": row_digests(content if synthetic else [*content, pa.array(at)]),
        }
    )


def _integers(
    read: ReadFile, column: str, high: float | None
) -> tuple[pa.Array, list[ColumnFault]]:
    """A column of integers in [0, high], not null, and what is wrong with it."""
    raw = read.array(column)
    parsed = parse_integers(raw, f"{read.source.path}: {column}")
    missing = null_faults(parsed.values, parsed, "an integer")
    found = (*parsed.faults, missing, outside(parsed.values, 0, high))
    return parsed.values, [ColumnFault(column, raw, fault) for fault in found]


def _video_lists(read: ReadFile, column: str) -> tuple[pa.Array, Fault]:
    """A column of lists of video ids; a null or negative id is a fault of its row."""
    raw = read.array(column)
    where = f"{read.source.path}: {column}"
    if not is_list(raw.type):
        raise ValueError(f"{where} is {raw.type}, must be a list of integers. {WHY}")
    flat = parse_integers(pc.list_flatten(raw), where).values
    bad = pc.fill_null(pc.less(flat, 0), True).to_numpy(zero_copy_only=False)
    lengths = list_lengths(raw)
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, flat)
    return lists, Fault(any_in_list(bad, lengths), "video ids must be integers of 0 or more")


def _flatten(users: IntArray, lists: pa.ChunkedArray) -> Sequence:
    array = lists.combine_chunks()
    lengths = list_lengths(array)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return Sequence(
        users=np.repeat(users, lengths),
        ordinals=np.arange(total) - np.repeat(ends - lengths, lengths),
        lengths=np.repeat(lengths, lengths),
        videos=np.asarray(pc.list_flatten(array).to_numpy(), np.int64),
    )


def _words(names: list[str], codes: IntArray) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(codes))


def _word_hashes(names: list[str]) -> UIntArray:
    return np.array([text_hash(n) for n in names], np.uint64)
