"""Take a user out of everything a warehouse keeps, and prove it.

Files that hold rows of the user are written anew without them; one record makes that hold for every
reader at once; then the old files are deleted. A tombstone, a keyed hash, keeps the user's rows
from landing again. What was fitted over all users (priors, models) stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.landed import landed_rows
from pipelines.operate.doctor import stored_files
from pipelines.store.manifests import StoredFile
from pipelines.store.storage import join, list_tree, remove_paths
from pipelines.store.tables import SCHEMAS, each_row_group, filter_file
from pipelines.store.taken import Taking, read_taken, take, tombstone
from pipelines.store.warehouse import Warehouse

# Tables that name a user in another way than by a column `user_id`.
_NAMES = {"KEYS": "id"}
Tell = Callable[[int, int], None]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Erasure:
    """What was erased, and what a search of all that is left found.

    Attributes:
        user_id: Whose.
        rows: Taken, by table.
        files: Written anew.
        searched_files: Of the warehouse, decoded and searched afterwards.
        searched_rows: Their rows.
        found: Places that still have the user; none, or the erasure failed.
    """

    user_id: int
    rows: dict[str, int]
    files: int
    searched_files: int
    searched_rows: int
    found: tuple[str, ...]


def erase(
    warehouse: Warehouse, user_id: int, now: int, tell: Tell = lambda done, of: None
) -> Erasure:
    """Erase a user.

    Args:
        warehouse: From where.
        user_id: Whom.
        now: Microseconds since 1970.
        tell: Called with files done, of how many.
    """
    root = warehouse.root
    names = names_of(warehouse, user_id)
    # First the tombstone: nothing of the user lands, and a night that runs now is not published.
    stone = tombstone(user_id, warehouse.hash_key)
    known = take(root, Taking(0, "erase", now, tombstones=(stone,))).number
    rows: Counter[str] = Counter()
    files: dict[str, StoredFile | None] = {}
    for table, file in _with_rows(warehouse, user_id, names, tell):
        others = partial(_others, table=table, user_id=user_id, names=names)
        written = filter_file(root, table, file, others)
        rows[table] += file.rows - written.rows
        files[file.path] = written
    if files:
        take(root, Taking(0, "erase", now, files, rows=dict(rows)), after=known)
    remove_paths([join(root, path) for path in _replaced(root)])
    remove_paths([join(root, "staged", f.path) for f in list_tree(join(root, "staged"))])
    found, n_files, n_rows = search(warehouse, user_id, names)
    return Erasure(user_id, dict(rows), len(files), n_files, n_rows, found)


def user_of(warehouse: Warehouse, text: str) -> int:
    """The id of a user: of the name that an import had, else the number itself.

    Raises:
        ValueError: It is neither.
    """
    known = _user_keys(warehouse)
    ids = known.filter(pc.equal(known["original"], text))["id"].to_pylist()
    if ids:
        return int(ids[0])
    if text.lstrip("-").isdigit():
        return int(text)
    raise ValueError(f"no import knew a user {text!r}; give a number, or a name as the log has it")


def names_of(warehouse: Warehouse, user_id: int) -> frozenset[str]:
    """How files may call the user: the id as text, and what an import knew them by."""
    known = _user_keys(warehouse)
    originals = known.filter(pc.equal(known["id"], user_id))["original"].to_pylist()
    return frozenset([str(user_id), *originals])


def _user_keys(warehouse: Warehouse) -> pa.Table:
    """KEYS of users."""
    keys = landed_rows(warehouse, "KEYS")
    return keys.filter(pc.equal(keys["kind"], "user"))


def has_user(rows: pa.Table, table: str, user_id: int, names: frozenset[str]) -> BoolArray:
    """(n,) bool: which rows are the user's; of REJECTED also those whose raw row says so."""
    if table in _NAMES:
        ours = pc.and_(pc.equal(rows["kind"], "user"), pc.equal(rows[_NAMES[table]], user_id))
    else:
        ours = pc.fill_null(pc.equal(rows["user_id"], user_id), False)
    mask = np.asarray(ours.combine_chunks().to_numpy(zero_copy_only=False), bool)
    if table == "REJECTED":
        mask |= np.array([_names_user(raw, names) for raw in rows["raw"].to_pylist()], bool)
    return mask


def search(
    warehouse: Warehouse, user_id: int, names: frozenset[str]
) -> tuple[tuple[str, ...], int, int]:
    """Decode every file that lies in the warehouse and look: places, files and rows searched."""
    found, n_rows = [], 0
    named = {f.path: (t, f) for t, f in _files_of(warehouse)}
    for table, file in named.values():
        for group, rows in enumerate(each_row_group(warehouse.root, table, file)):
            n_rows += rows.num_rows
            if has_user(rows, table, user_id, names).any():
                found.append(f"{file.path} row group {group}")
    known = {*named, *stored_files(warehouse)}
    for stray in list_tree(join(warehouse.root, "data")):
        if (path := join("data", stray.path)) not in known:
            found.append(f"{path}: in no record, so not searched; `queryloop doctor --clean`")
    return tuple(found), len(named), n_rows


def _replaced(root: str) -> list[str]:
    """Files that lie there, but no reader opens any more: another one stands for them, or none."""
    taken, lying = read_taken(root).files, list_tree(join(root, "data"))
    return [path for path in (join("data", file.path) for file in lying) if path in taken]


def _others(rows: pa.Table, *, table: str, user_id: int, names: frozenset[str]) -> BoolArray:
    return ~has_user(rows, table, user_id, names)


def _with_rows(
    warehouse: Warehouse, user_id: int, names: frozenset[str], tell: Tell
) -> Iterator[tuple[str, StoredFile]]:
    """Files that hold a row of the user, with their table."""
    files = _files_of(warehouse)
    for done, (table, file) in enumerate(files, 1):
        groups: Iterable[pa.Table] = each_row_group(warehouse.root, table, file, _columns(table))
        if any(has_user(rows, table, user_id, names).any() for rows in groups):
            yield table, file
        tell(done, len(files))


def _columns(table: str) -> list[str]:
    """What `has_user` looks at."""
    if table in _NAMES:
        return ["kind", _NAMES[table]]
    return ["user_id", "raw"] if table == "REJECTED" else ["user_id"]


def _files_of(warehouse: Warehouse) -> list[tuple[str, StoredFile]]:
    """Every stored file that may name a user, each once, with its table."""
    found: dict[str, tuple[str, StoredFile]] = {}
    records = [m.tables for m in warehouse.manifests()] + [x.tables for x in warehouse.landings()]
    for tables in records:
        for name, files in tables.items():
            if name in _NAMES or "user_id" in SCHEMAS[name].names:
                found |= {f.path: (name, f) for f in files}
    return list(found.values())


def _names_user(raw: str, names: frozenset[str]) -> bool:
    """Whether the raw row has the user in some column."""
    try:
        row = json.loads(raw)
    except ValueError:
        return False
    values = row.values() if isinstance(row, dict) else [row]
    return any(str(value) in names for value in values)
