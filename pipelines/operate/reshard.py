"""Put the users of a warehouse into another number of buckets.

A file's parts say which bucket's rows they hold, so every stored table is written anew, file by
file, with the same rows in other parts. One record then makes the new files stand for the old ones
and says the new number, for every reader at once. The number is a power of two and the bucket of a
user the low bits of a hash: a new bucket is part of one old bucket, or made of whole old ones.

What landed is of no bucket, and stays. Rows stay as they are, so the nights after go on as if the
warehouse had been made with the new number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.operate.status import staged_nights
from pipelines.store.manifests import StoredFile, file_from, reading
from pipelines.store.records import record_paths
from pipelines.store.storage import (
    create_exclusive,
    exists,
    is_local,
    join,
    list_names,
    read_bytes,
    remove_files,
)
from pipelines.store.tables import SCHEMAS, TableWriter, read_bucket
from pipelines.store.taken import Taking, read_taken, take
from pipelines.store.warehouse import PublishConflict, Warehouse, check_buckets
from profiling.hashing import buckets_of
from profiling.schema import sort_rows

Tell = Callable[[int, int], None]  # files done, of how many
Files = dict[str, tuple[str, StoredFile]]  # table and file, by path


@dataclass(frozen=True)
class Resharding:
    """What another number of buckets takes, or took.

    Attributes:
        before: Buckets.
        after: Buckets.
        nights: Manifests whose tables are written anew.
        files: Of them.
        rows: Of them.
        bytes: Of them.
        tables: Bytes by table.
        finished: Files that an attempt which broke off had written anew.
        done: Whether readers see the new buckets.
    """

    before: int
    after: int
    nights: int
    files: int
    rows: int
    bytes: int
    tables: dict[str, int]
    finished: int
    done: bool = False


def plan_reshard(warehouse: Warehouse, buckets: int) -> Resharding:
    """What `reshard` would do.

    Raises:
        ValueError: The number cannot be or is the present one, or a night runs or broke off.
    """
    check_buckets(buckets)
    if buckets == warehouse.buckets:
        raise ValueError(f"{warehouse.root} has {buckets} buckets already; give another number")
    check_no_night(warehouse)
    files = bucketed_files(warehouse)
    tables: dict[str, int] = {}
    for name, file in files.values():
        tables[name] = tables.get(name, 0) + file.bytes
    return Resharding(
        before=warehouse.buckets,
        after=buckets,
        nights=len(warehouse.manifests()),
        files=len(files),
        rows=sum(file.rows for _, file in files.values()),
        bytes=sum(tables.values()),
        tables=tables,
        finished=len(_finished(warehouse, buckets).keys() & files.keys()),
    )


def reshard(
    warehouse: Warehouse, buckets: int, now: int, tell: Tell = lambda done, of: None
) -> Resharding:
    """Put the users into `buckets` buckets; `warehouse` is to be opened again afterwards.

    Broken off, it goes on from the last file written when it is called again. The old files stay
    for readers that have them open, in no record, and `queryloop doctor --clean` removes them.

    Args:
        warehouse: Whose.
        buckets: A power of two.
        now: Microseconds since 1970.
        tell: Called with files done, of how many.

    Raises:
        ValueError: As of `plan_reshard`; or there is too little room, or something was collected
            or erased meanwhile.
        PublishConflict: A night was published or begun meanwhile; nothing has changed.
    """
    known, nights = read_taken(warehouse.root).last, record_paths(warehouse.root, "manifests")
    plan = plan_reshard(warehouse, buckets)
    _check_room(warehouse, plan)
    written = _finished(warehouse, buckets)
    files = bucketed_files(warehouse)
    for done, (path, (name, file)) in enumerate(files.items(), 1):
        if path not in written:
            written[path] = reshard_file(warehouse, name, file, buckets)
            _finish(warehouse, buckets, path, written[path])
        tell(done, len(files))
    # A night has something staged from its first finished job until after it was published: one
    # that is not seen here cannot be published before the record below, and then it is refused.
    check_no_night(warehouse)
    if record_paths(warehouse.root, "manifests") != nights:
        raise PublishConflict(
            f"a night of {warehouse.root} was published meanwhile; nothing changed: run it again"
        )
    taking = Taking(0, "reshard", now, {p: written[p] for p in files}, buckets=buckets)
    take(warehouse.root, taking, after=known)
    remove_files(_folder(warehouse, buckets))
    return Resharding(**asdict(plan) | {"done": True})


def check_no_night(warehouse: Warehouse) -> None:
    """Raise ValueError where a night runs or broke off: its staged tables are in old buckets."""
    begun = sorted({s.date for s in staged_nights(warehouse.root)})
    if begun:
        raise ValueError(
            f"a night of {warehouse.root} runs or broke off ({', '.join(map(str, begun))}); let it "
            "end, or `queryloop resume`, and then run this again"
        )


def bucketed_files(warehouse: Warehouse) -> Files:
    """Every file of a night whose rows lie by bucket, each once."""
    return {
        file.path: (name, file)
        for manifest in warehouse.manifests()
        for name, files in manifest.tables.items()
        for file in files
        if any(part.bucket >= 0 for part in file.parts)
    }


def reshard_file(
    warehouse: Warehouse, name: str, file: StoredFile, buckets: int
) -> StoredFile | None:
    """Write a file anew with its rows in `buckets` buckets; None where it has no rows."""
    writer = TableWriter(warehouse.root, name, f"{buckets}-buckets", max_bytes=float("inf"))
    try:
        for bucket, rows in _by_bucket(warehouse, name, file, buckets):
            writer.write(rows, bucket)
        written = writer.finish()
    except BaseException:
        writer.discard()
        raise
    return written[0] if written else None


def _by_bucket(
    warehouse: Warehouse, name: str, file: StoredFile, buckets: int
) -> Iterator[tuple[int, pa.Table]]:
    """The rows of the new buckets, in key order: one old or new bucket is in memory at a time."""
    shared = min(warehouse.buckets, buckets)  # buckets of users that stay together
    for group in sorted({part.bucket & (shared - 1) for part in file.parts}):
        old = sorted({p.bucket for p in file.parts if p.bucket & (shared - 1) == group})
        tables = [read_bucket(warehouse.root, name, [file], bucket) for bucket in old]
        rows = sort_rows(pa.concat_tables(tables), SCHEMAS[name].key)
        users = rows["user_id"]
        bucket = buckets_of(pc.fill_null(users, 0).to_numpy(), buckets)
        if users.null_count:  # a refused row may be of nobody
            bucket = np.where(users.is_null().to_numpy(), group, bucket)
        for new in np.unique(bucket).tolist():
            yield new, rows.filter(pa.array(bucket == new))


def _check_room(warehouse: Warehouse, plan: Resharding) -> None:
    if not is_local(warehouse.root):
        return
    free = shutil.disk_usage(warehouse.root).free
    if free < plan.bytes:
        raise ValueError(
            f"{warehouse.root} needs {plan.bytes / 1e9:.1f} GB beside the old files, but has "
            f"{free / 1e9:.1f} GB free; free some, or run `queryloop gc` first"
        )


def _folder(warehouse: Warehouse, buckets: int) -> str:
    """Records of the files written anew, until one record names them all."""
    return join(warehouse.root, "staged", f"reshard-{buckets}")


def _finish(warehouse: Warehouse, buckets: int, path: str, file: StoredFile | None) -> None:
    record = {"path": path, "file": None if file is None else asdict(file)}
    name = path.rsplit("/", 1)[1].removesuffix(".parquet")  # no other file has it
    create_exclusive(join(_folder(warehouse, buckets), f"{name}.json"), json.dumps(record).encode())


def _finished(warehouse: Warehouse, buckets: int) -> dict[str, StoredFile | None]:
    """What stands for the files that an attempt had written anew, where it is still there."""
    folder, found = _folder(warehouse, buckets), dict[str, StoredFile | None]()
    for name in list_names(folder):
        if name.startswith("."):
            continue
        with reading(join(folder, name)):
            record = json.loads(read_bytes(join(folder, name)))
            file = None if record["file"] is None else file_from(record["file"])
        if file is None or exists(join(warehouse.root, file.path)):
            found[record["path"]] = file
    return found


__all__ = ["Resharding", "plan_reshard", "reshard"]
