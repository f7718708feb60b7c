"""One user's rows of the stored tables: only the user's bucket is read, and only some columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.keys import hash_id
from pipelines.store.manifests import Manifest
from pipelines.store.tables import read_files
from pipelines.store.warehouse import Warehouse
from profiling.tables import I64

KNOWN_BY = ("PROFILES", "HISTORY", "OPEN")  # where a user of the warehouse has rows


@dataclass(frozen=True)
class UserRows:
    """Reads tables of one user.

    Attributes:
        user: The user's id.
        name: As it was asked for.
    """

    warehouse: Warehouse
    manifest: Manifest
    user: int
    name: str

    @classmethod
    def find(cls, warehouse: Warehouse, manifest: Manifest, name: str) -> UserRows:
        """The user of that id, or of that name in the source of the import.

        Raises:
            ValueError: The warehouse knows no such user as of this night.
        """
        ids = [int(name)] if name.isdecimal() and int(name) < 1 << 63 else []
        for user in [*ids, int(hash_id(name, warehouse.hash_key))]:
            found = cls(warehouse, manifest, user, name)
            if any(found.read(table, ["user_id"]).num_rows for table in KNOWN_BY):
                return found
        raise ValueError(
            f"{warehouse.root} knows no user {name!r} as of {manifest.date}; give the id that the "
            'imported log has: `queryloop sql` shows some with "SELECT user_id FROM PROFILES LIMIT '
            '5", or, of text, "SELECT original FROM KEYS WHERE kind = \'user\' LIMIT 5"'
        )

    def read(
        self, table: str, columns: Sequence[str], manifest: Manifest | None = None
    ) -> pa.Table:
        """The user's rows of one night's table; `columns` must name user_id."""
        return self.warehouse.read_user(table, self.user, manifest or self.manifest, columns)

    def titles(self, items: Iterable[int]) -> dict[int, str]:
        """What people call the items: the title, else their number."""
        wanted = sorted(set(items))
        rows = self._catalogue.filter(pc.is_in(self._catalogue["item_id"], pa.array(wanted, I64)))
        found = dict(zip(*(rows[c].to_pylist() for c in ("item_id", "title")), strict=True))
        return {i: found.get(i) or f"item {i}" for i in wanted}

    @cached_property
    def _catalogue(self) -> pa.Table:
        """Number and title of every item; the later row of one that landed twice comes last."""
        files = self.manifest.catalogue["ITEMS"]
        return read_files(self.warehouse.root, "ITEMS", files, ["item_id", "title"])
