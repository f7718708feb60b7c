"""KuaiRand-Pure (Gao et al., CIKM 2022, doi 10.1145/3511808.3557624): a folder of a feed log.

    impressions_*.parquet    one row per exposure, with what the user did: IMPRESSIONS, ENGAGEMENTS
    user_sequences*.parquet  the user's last 50 exposures, long watches and likes before the log, in
                             order, without times: EXPOSURES, ENGAGEMENTS
    item_features.parquet    videos with author, tags and day of upload: ITEMS, TOPICS

The log has no ids: an impression's is the hash of (user, video, time_ms). Rows that repeat one, in
full or with other content, are all handed on; the night counts and refuses them. Days are UTC by
`time_ms`; the files' `date` is of another zone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.importers.files import read_file
from pipelines.importers.foreign import ForeignLog, all_rejected
from pipelines.importers.kuairand_items import read_catalogue
from pipelines.importers.kuairand_log import (
    EXPOSED,
    LOG_COLUMNS,
    SEQUENCES,
    SURFACE,
    WHY,
    engagements_table,
    exposures_table,
    good_impressions,
    impressions_table,
    join_logs,
    read_sequences,
)
from pipelines.store.keys import KEYS
from profiling.actions import Actions, action_names


def read_kuairand(
    src: str | Path,
    actions: Actions,
    *,
    width: int = 64,
    seed: int = 0,
    now_us: int | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> ForeignLog:
    """Read the folder.

    Args:
        src: The folder.
        actions: The configured actions; those that the log has (`LOG_COLUMNS`) are read.
        width: Of the item vectors.
        seed: Of the randomised SVD that makes them.
        now_us: Where given, impressions after it are REJECTED.
        note: Told what is being done.

    Raises:
        ValueError: The folder, one of its files or a column is missing, a file cannot be read, no
            configured action is in the log, or no impression is good.
    """
    folder = Path(src)
    note(f"read {folder}")
    names = _logged_actions(actions)
    reads = [read_file(p, None) for p in _matching(folder, "impressions_*.parquet")]
    columns = ("user_id", EXPOSED, *SEQUENCES.values())
    earlier = [read_file(p, columns) for p in _matching(folder, "user_sequences*.parquet")]
    note("check the impressions")
    parts = [good_impressions(read, names, now_us) for read in reads]
    log = join_logs([good for good, _ in parts])
    if len(log.at) == 0:
        raise ValueError(f"{folder}: no impression is good; {_first_reason(parts[0][1])}")
    sequences, refused = read_sequences(earlier)
    starts_at = int(log.at.min())
    met = np.unique(np.concatenate([log.videos, *(s.videos for s in sequences.values())]))
    engaged = [sequences[column] for column in SEQUENCES.values()]
    note("make item vectors")
    features = _matching(folder, "item_features.parquet")[0]
    catalogue = read_catalogue(features, reads, met, engaged, width=width, seed=seed)
    return ForeignLog(
        tables={
            **catalogue.tables,
            "ENGAGEMENTS": engagements_table(log, names, sequences, starts_at),
            "IMPRESSIONS": impressions_table(log, names),
            "EXPOSURES": exposures_table(sequences[EXPOSED]),
        },
        rejected=all_rejected([*(r for _, r in parts), *refused, *catalogue.rejected]),
        keys=KEYS.empty(),
        sources=[r.source for r in (*reads, *earlier, catalogue.read)],
        starts_at=starts_at,
        notes=[*_notes(actions, names), *catalogue.notes],
    )


def _logged_actions(actions: Actions) -> list[str]:
    names = [n for n in action_names(actions) if n in LOG_COLUMNS]
    if not names:
        raise ValueError(
            f"none of the configured actions {', '.join(action_names(actions))} is in the log; "
            f"it has {', '.join(LOG_COLUMNS)}: name some of these in `actions`"
        )
    return names


def _matching(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. {WHY}")
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"{folder}: no file {pattern} in it. {WHY}")
    return found


def _first_reason(rejected: pa.Table) -> str:
    row = rejected.slice(0, 1).to_pylist()[0]
    return f"{row['source']}, row {row['row']}: {row['reason']}"


def _notes(actions: Actions, names: list[str]) -> list[str]:
    notes = [
        f"every impression is on the surface {SURFACE!r}: what the log's `tab` numbers mean is not "
        "documented",
        "long watches and likes before the log have no times: one hour apart, backwards from the "
        "first impression, marked synthetic",
    ]
    absent = [n for n in action_names(actions) if n not in names]
    if absent:
        notes.append(f"not in this log, so never seen: {', '.join(absent)}")
    return notes
