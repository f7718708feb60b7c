"""A warehouse: landed files, published nights, and the one step that makes a night visible.

    W/warehouse.json       format, first number of buckets, hash key; written once
    W/queryloop.yaml       the configuration; people edit it
    W/spacing.yaml         diversity and spacing classes of the feed; people edit it
    W/landed/000001.json   what an import brought; numbered, immutable
    W/manifests/000001.json  a night; numbered, immutable; names every file of its tables
    W/taken/000001.json    what was collected, erased or resharded since; numbered, immutable
    W/staged/...           finished jobs of a night not yet published: its resume points
    W/data/TABLE/...       Parquet; a file counts only where a landing or manifest names it

Readers go by the manifest: the head is the newest that says so; its ancestors are its nights.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipelines.store.manifests import (
    FORMAT,
    LandedGroup,
    Landing,
    Manifest,
    Tables,
    check_format,
    landing_from_json,
    manifest_from_json,
    reading,
    to_json,
)
from pipelines.store.records import next_record, record_path, record_paths
from pipelines.store.storage import create_exclusive, exists, join, read_bytes
from pipelines.store.tables import concat, read_bucket, read_files
from pipelines.store.taken import Taken, read_taken
from profiling.hashing import buckets_of
from profiling.schema import ints

MAX_BUCKETS = 1 << 16
EVENT_TABLES = ("ENGAGEMENTS", "IMPRESSIONS", "SERVED_DRAWS")  # of the world; nights consume them
# State as of a night's cut-off; every other table of a manifest holds what that night wrote.
STATE_TABLES = (
    *("HISTORY", "OPEN", "PROFILES", "PAST_PROFILES", "REWARDS", "ITEM_RATES", "CLUSTER_REWARDS"),
)


class PublishConflict(RuntimeError):
    """Another night was published while this one ran, or what it read was changed."""


def check_buckets(buckets: int) -> None:
    """Raise ValueError for a number of buckets that there cannot be, with the nearest."""
    if not 1 <= buckets <= MAX_BUCKETS or buckets & (buckets - 1):
        nearest = min(MAX_BUCKETS, 1 << max(0, buckets.bit_length() - 1)) if buckets > 0 else 1
        raise ValueError(
            f"buckets must be a power of two up to {MAX_BUCKETS}, got {buckets}; take {nearest}"
        )


@dataclass(frozen=True)
class Warehouse:
    """An open warehouse.

    Attributes:
        root: Its directory, or a URL of any Beam file system.
        buckets: Number of user buckets, a power of two.
        hash_key: Key of the 63-bit hash that string ids become.
    """

    root: str
    buckets: int
    hash_key: bytes

    @classmethod
    def create(
        cls, root: str, config_text: str, *, buckets: int = 16, spacing_text: str = ""
    ) -> Warehouse:
        """Make an empty warehouse with its configuration; '' writes no spacing.yaml.

        Raises:
            FileExistsError: There is one already.
            ValueError: `buckets` is no power of two.
        """
        check_buckets(buckets)
        settings = {"format": FORMAT, "buckets": buckets, "hash_key": secrets.token_hex(16)}
        if exists(join(root, "warehouse.json")):
            raise FileExistsError(f"{root} is a warehouse already; choose another directory")
        create_exclusive(join(root, "queryloop.yaml"), config_text.encode())
        if spacing_text:
            create_exclusive(join(root, "spacing.yaml"), spacing_text.encode())
        create_exclusive(join(root, "warehouse.json"), json.dumps(settings).encode() + b"\n")
        return cls.open(root)

    @classmethod
    def open(cls, root: str) -> Warehouse:
        """Open the warehouse at `root`.

        Raises:
            ValueError: There is none, or it is of another format.
        """
        path = join(root, "warehouse.json")
        if not exists(path):
            raise ValueError(f"{root} is no warehouse; make one with `queryloop init {root}`")
        with reading(path):
            settings = json.loads(read_bytes(path))
            check_format(settings["format"], path)
            made, key = int(settings["buckets"]), bytes.fromhex(settings["hash_key"])
        return cls(root, read_taken(root).buckets or made, key)

    @property
    def config_path(self) -> str:
        """Where its configuration lies."""
        return join(self.root, "queryloop.yaml")

    def landings(self) -> list[Landing]:
        """Every import, oldest first."""
        taken = self._taken()
        paths = self._records("landed")
        return [taken.landing(landing_from_json(read_bytes(path), path)) for path in paths]

    def manifests(self) -> list[Manifest]:
        """Every manifest ever published, by number; branches and checks among them."""
        taken = self._taken()
        return [self._manifest(path, taken) for path in self._records("manifests")]

    def manifest(self, number: int) -> Manifest:
        """The manifest of that number."""
        path = record_path(self.root, "manifests", number)
        if not exists(path):
            raise ValueError(f"{self.root} has no manifest {number}")
        return self._manifest(path, self._taken())

    def head(self) -> Manifest | None:
        """The newest manifest that is a head; None before the first night."""
        return self._newest_head(self._records("manifests"), self._taken())

    def chain(self, manifest: Manifest | None) -> list[Manifest]:
        """A manifest and its ancestors, oldest first."""
        nights: list[Manifest] = []
        taken = self._taken()
        while manifest is not None:
            nights.append(manifest)
            parent = manifest.parent
            path = None if parent is None else record_path(self.root, "manifests", parent)
            manifest = None if path is None else self._manifest(path, taken)
        return nights[::-1]

    def night(self, date: dt.date) -> Manifest:
        """The night of `date` among the head's ancestors.

        Raises:
            ValueError: It was not run; the message says which were.
        """
        nights = self.chain(self.head())
        for manifest in nights:
            if manifest.date == date and manifest.kind != "bootstrap":
                return manifest
        dates = [m.date.isoformat() for m in nights if m.kind != "bootstrap"]
        known = f"nights run: {dates[0]} to {dates[-1]}" if dates else "no night was run yet"
        raise ValueError(f"{self.root} has no night of {date}; {known}")

    def read(
        self, name: str, manifest: Manifest | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """A table as of `manifest` (the head by default): state, or what that one night wrote."""
        manifest = manifest or self.head()
        if manifest is None:
            return concat(name, [], columns)
        files = (manifest.catalogue | manifest.tables).get(name, ())
        return read_files(self.root, name, files, columns)

    def read_user(
        self,
        name: str,
        user: int,
        manifest: Manifest,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """One user's rows of a table as of `manifest`: only the user's bucket is read.

        Args:
            name: Of a table by user.
            user: The id.
            manifest: The night.
            columns: With user_id among them; None means all.
        """
        bucket = int(buckets_of(np.array([user], np.int64), self.buckets)[0])
        rows = read_bucket(self.root, name, manifest.tables.get(name, ()), bucket, columns)
        return rows.filter(pa.array(ints(rows, "user_id") == user))

    def land(self, landing: Landing) -> Landing:
        """Make an import visible: one atomic create. Its number is given here."""
        while True:
            number, path = next_record(self.root, "landed", self._records("landed"))
            numbered = replace(landing, number=number)
            if create_exclusive(path, to_json(numbered)):
                return numbered

    def publish(
        self, manifest: Manifest, expected_head: int | None, *, erasures: int = 0
    ) -> Manifest:
        """Make a night visible: one atomic create of the next numbered manifest.

        Args:
            manifest: Its number is given here.
            expected_head: Number of the head that this night went on from.
            erasures: How many there had been when the night was planned.

        Raises:
            PublishConflict: The head moved since, a user was erased whose rows this night may
                have, or its buckets are no more those of the warehouse; nothing of it is visible.
        """
        while True:
            # One listing gives both, or a night published between two of them would be passed over.
            records = self._records("manifests")
            taken = self._taken()
            head = self._newest_head(records, taken)
            if taken.erasures != erasures:
                raise PublishConflict(
                    "a user was erased while this night ran; nothing of it is visible: run it again"
                )
            if manifest.head and (head.number if head else None) != expected_head:
                raise PublishConflict(
                    f"another night was published while this one ran (head is now manifest "
                    f"{head.number if head else None}, was {expected_head}); nothing of this run "
                    f"is visible: run it again"
                )
            number, path = next_record(self.root, "manifests", records)
            numbered = replace(manifest, number=number)
            if create_exclusive(path, to_json(numbered)):
                return numbered

    def pending(self, consumed: set[tuple[str, int]], cutoff: int) -> list[LandedGroup]:
        """Landed row groups of events before `cutoff` that no ancestor has consumed."""
        return [
            LandedGroup(landing.number, name, file.path, group, part.rows)
            for landing in self.landings()
            for name in EVENT_TABLES
            for file in landing.tables.get(name, ())
            for part in file.parts
            for group in range(part.row_group, part.row_group + part.row_groups)
            if part.last_at < cutoff and (file.path, group) not in consumed
        ]

    def catalogue(self) -> Tables:
        """Files of ITEMS and TOPICS, in landing order: of one id, the last row holds.

        ITEMS from before an import that replaced them all are left out.
        """
        found: Tables = {"ITEMS": (), "TOPICS": ()}
        for landing in self.landings():
            if landing.replaces:
                found["ITEMS"] = ()
            for name in found:
                found[name] += landing.tables.get(name, ())
        return found

    def _taken(self) -> Taken:
        """What was taken out so far.

        Raises:
            PublishConflict: Users lie in other buckets than when the warehouse was opened.
        """
        taken = read_taken(self.root)
        if taken.buckets not in (0, self.buckets):
            raise PublishConflict(
                f"the users of {self.root} were put into {taken.buckets} buckets meanwhile, "
                f"{self.buckets} when this began; nothing of it is visible: run it again"
            )
        return taken

    def _manifest(self, path: str, taken: Taken) -> Manifest:
        return taken.manifest(manifest_from_json(read_bytes(path), path))

    def _records(self, folder: str) -> list[str]:
        return record_paths(self.root, folder)

    def _newest_head(self, records: list[str], taken: Taken) -> Manifest | None:
        for path in reversed(records):
            manifest = self._manifest(path, taken)
            if manifest.head:
                return manifest
        return None
