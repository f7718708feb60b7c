"""The feed at request time: `FeedRanker.from_config("spacing.yaml")`, then `rank(...)`.

No Beam, no warehouse. The file is looked at before every feed; a changed one is taken up without
a restart, a wrong one is refused with its problem and the last good one stays. Push a file by
renaming it into place, so that it is never seen half written.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.spacing.file import PAGE, load_spacing
from retrieval.spacing.classes import Spacing
from retrieval.spacing.requests import (
    NO_ITEMS,
    Candidates,
    Context,
    RankedFeed,
    rank_candidates,
    spacing_version,
)

_LOG = logging.getLogger(__name__)
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class _Loaded:
    """A configuration in use: replaced as a whole, never changed.

    Attributes:
        seen: Stamp of the file that was last looked into, good or wrong.
        stale: Why that file is not in use; '' where it is.
    """

    spacing: Spacing
    version: str
    seen: _Stamp | None
    stale: str = ""


class FeedRanker:
    """Ranks the candidates of a request by a spacing.yaml; any number of threads may call it."""

    def __init__(self, path: Path, size: int, loaded: _Loaded) -> None:
        self._path, self._size, self._loaded = path, size, loaded
        self._reading = threading.Lock()

    @classmethod
    def from_config(cls, path: str | Path, *, size: int = PAGE) -> FeedRanker:
        """A ranker by the file at `path`.

        Args:
            path: spacing.yaml.
            size: Items on a page.

        Raises:
            ConfigError: The file is refused; with file, line, value and cure.
            OSError: It cannot be read.
        """
        path = Path(path)
        return cls(path, size, _load(path, size))

    @property
    def version(self) -> str:
        """Of the configuration in use."""
        return self._loaded.version

    @property
    def stale(self) -> str:
        """Why the file as it stands is not in use; '' where it is."""
        return self._loaded.stale

    def rank(
        self, candidates: Candidates, context: Context, tail: Candidates = NO_ITEMS
    ) -> RankedFeed:
        """One page, by exactly one version of the configuration, which it names.

        Args:
            candidates: What may be shown.
            context: For whom and where.
            tail: What the page before ended with, oldest first.
        """
        loaded = self._fresh()
        feed = rank_candidates(
            loaded.spacing, candidates, context, tail, size=self._size, version=loaded.version
        )
        return replace(feed, stale=loaded.stale) if loaded.stale else feed

    def _fresh(self) -> _Loaded:
        """What is in use, after a look at the file; one thread reads, the others go on."""
        if _stamp(self._path) != self._loaded.seen and self._reading.acquire(blocking=False):
            try:
                self._loaded = self._reload(self._loaded)
            finally:
                self._reading.release()
        return self._loaded

    def _reload(self, now: _Loaded) -> _Loaded:
        seen = _stamp(self._path)
        if seen == now.seen:  # another thread was first
            return now
        try:
            return _load(self._path, self._size)
        except (OSError, ValueError) as error:
            problem = f"{self._path} is not in use, version {now.version} stays: {error}"
            _LOG.warning("%s", problem)
            return replace(now, seen=seen, stale=problem)


def _load(path: Path, size: int) -> _Loaded:
    seen = _stamp(path)  # before the content: what changes in between is read again
    spacing = load_spacing(path.read_text(encoding="utf-8"), str(path), page=size)
    return _Loaded(spacing, spacing_version(spacing), seen)


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file is written or replaced; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)
