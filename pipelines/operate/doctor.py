"""Is this machine fit for a night, and is the warehouse whole: every file against its record."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config_files import config_of
from pipelines.models import models
from pipelines.night import library_versions
from pipelines.store.folders import MADE, Folder, made_folders
from pipelines.store.manifests import StoredFile
from pipelines.store.storage import (
    Listed,
    is_local,
    join,
    list_tree,
    open_binary,
    open_parquet_source,
    remove_paths,
)
from pipelines.store.warehouse import Warehouse

_BLOCK = 1 << 20  # bytes read at a time
_WORKERS = 4  # files read at a time: disks and object stores answer several
# What an attempt that still runs has written is in no manifest yet; older files are nobody's.
CLEAN_AFTER_HOURS = 24.0

OK, WARN, FAIL = "ok", "warn", "fail"
Tell = Callable[[int, int], None]  # files done, of how many


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: Its name.
        state: ok, warn or fail.
        detail: What was found.
        cure: What would do; '' where all is well.
    """

    what: str
    state: str
    detail: str
    cure: str = ""


@dataclass(frozen=True)
class Stray:
    """A file that no record names."""

    path: str
    bytes: int
    hours: float


@dataclass(frozen=True)
class Checkup:
    """What the doctor found.

    Attributes:
        findings: In the order looked at.
        strays: Files that no record names, that an attempt left or that are of one that still runs.
    """

    findings: tuple[Finding, ...]
    strays: tuple[Stray, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(f.state != FAIL for f in self.findings)


def check_machine() -> list[Finding]:
    """Versions against what this release was tested with, extras, processors and threads."""
    found = [
        Finding("python and libraries", OK, ", ".join(f"{n} {v}" for n, v in _versions().items()))
    ]
    for extra, packages in {
        "retrieval": ("jax", "optax", "faiss"),
        "evaluation": ("implicit",),
        "s3": ("boto3", "fsspec"),
    }.items():
        missing = [name for name in packages if find_spec(name) is None]
        state = f"without {', '.join(missing)}" if missing else "installed"
        cure = f"pip install 'queryloop[{extra}]' if you need it" if missing else ""
        found.append(Finding(f"extra {extra}", OK, state, cure))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = {n: os.environ[n] for n in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if n in os.environ}
    told = ", ".join(f"{n}={v}" for n, v in limits.items()) or "no limit on threads set"
    found.append(Finding("processors", OK, f"{cores} usable; {told}"))
    return found


def check_warehouse(
    warehouse: Warehouse, now: float, *, quick: bool = False, tell: Tell = lambda done, of: None
) -> Checkup:
    """Look at everything that the warehouse's records name.

    Args:
        warehouse: Which.
        now: Seconds since 1970.
        quick: Sizes alone, not the bytes of every file.
        tell: Called after each file.
    """
    findings = [_configuration(warehouse), _disk(warehouse)]
    listed = {f.path: f for f in list_tree(warehouse.root)}
    files = stored_files(warehouse)
    problems = [p for p in _checked(warehouse.root, files, listed, quick=quick, tell=tell) if p]
    how = "sizes" if quick else "sizes, digests and rows"
    if problems:
        first = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        cure = "restore them from a backup, or rebuild the nights that wrote them"
        findings.append(Finding("files", FAIL, f"{len(problems)} of {len(files)}: {first}", cure))
    else:
        findings.append(Finding("files", OK, f"{len(files):,} as recorded ({how})"))
    strays = tuple(_strays(files, listed, now))
    findings.append(_stray_finding(strays))
    return Checkup(tuple(findings), strays)


def stored_files(warehouse: Warehouse) -> dict[str, StoredFile]:
    """Every file that a record names, by path; rows -1 where it is no table."""
    found: dict[str, StoredFile] = {}
    for manifest in warehouse.manifests():
        for files in (*manifest.tables.values(), *manifest.catalogue.values()):
            found |= {f.path: f for f in files}
    for landing in warehouse.landings():
        for files in landing.tables.values():
            found |= {f.path: f for f in files}
    for folder in _folders(warehouse):
        for file in folder.files:
            path = join(folder.path, file.name)
            found[path] = StoredFile(path, -1, file.bytes, file.digest, ())
    return found


def clean(warehouse: Warehouse, strays: Sequence[Stray], hours: float = CLEAN_AFTER_HOURS) -> int:
    """Delete strays that are older than `hours`; how many."""
    old = [join(warehouse.root, s.path) for s in strays if s.hours >= hours]
    remove_paths(old)
    return len(old)


def _configuration(warehouse: Warehouse) -> Finding:
    try:
        config = config_of(warehouse)
    except (ValueError, OSError) as error:
        return Finding("configuration", FAIL, str(error), "correct the file")
    return Finding("configuration", OK, f"digest {config.digest}")


def _disk(warehouse: Warehouse) -> Finding:
    """A night writes its state anew: as much as the newest one's tables, once more."""
    if not is_local(warehouse.root):
        return Finding("disk", OK, f"{warehouse.root} is no disk of this machine")
    free = shutil.disk_usage(warehouse.root).free
    head = warehouse.head()
    needs = sum(f.bytes for files in head.tables.values() for f in files) if head else 0
    detail = f"{free / 1e9:.1f} GB free, the newest night has {needs / 1e9:.2f} GB"
    if free < 2 * needs:
        return Finding("disk", WARN, detail, "free some space, or run `queryloop gc`")
    return Finding("disk", OK, detail)


def _checked(
    root: str,
    files: Mapping[str, StoredFile],
    listed: Mapping[str, Listed],
    *,
    quick: bool,
    tell: Tell,
) -> Iterator[str]:
    def look(file: StoredFile) -> str:
        found = listed.get(file.path)
        if found is None:
            return f"{file.path} is gone"
        if found.bytes != file.bytes:
            return f"{file.path} has {found.bytes:,} bytes, not the {file.bytes:,} written"
        return "" if quick else _content(root, file)

    known = list(files.values())
    with ThreadPoolExecutor(_WORKERS) as pool:
        for done, problem in enumerate(pool.map(look, known), 1):
            tell(done, len(known))
            yield problem


def _content(root: str, file: StoredFile) -> str:
    digest = hashlib.sha256()
    with open_binary(join(root, file.path)) as source:
        while block := source.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != file.digest:
        return f"{file.path} is not what was written (another SHA-256)"
    if file.rows < 0:  # no table
        return ""
    try:
        rows = pq.read_metadata(open_parquet_source(join(root, file.path))).num_rows
    except (pa.ArrowException, OSError) as error:
        return f"{file.path} cannot be read ({error})"
    return "" if rows == file.rows else f"{file.path} has {rows:,} rows, not {file.rows:,}"


def _folders(warehouse: Warehouse) -> list[Folder]:
    return [*(m.folder for m in models(warehouse.root)), *made_folders(warehouse.root)]


def _strays(
    named: Mapping[str, StoredFile], listed: Mapping[str, Listed], now: float
) -> Iterator[Stray]:
    for path, file in listed.items():
        place, _, rest = path.partition("/")
        if path in named or (place != "staged" and not _is_content(place, rest)):
            continue
        yield Stray(path, file.bytes, (now - file.changed_at) / 3600)


def _is_content(place: str, rest: str) -> bool:
    """Whether a file holds rows or a model, not a record of them."""
    return place == "data" or (place in ("models", *MADE) and "/" in rest)


def _stray_finding(strays: Sequence[Stray]) -> Finding:
    if not strays:
        return Finding("strays", OK, "no file without a record")
    old = [s for s in strays if s.hours >= CLEAN_AFTER_HOURS]
    detail = f"{len(strays):,} files, {sum(s.bytes for s in strays) / 1e6:.1f} MB, in no record"
    if not old:
        cure = "of an attempt that runs or broke off lately; run the night, or wait"
        return Finding("strays", OK, detail, cure)
    cure = f"`queryloop doctor --clean` removes the {len(old):,} older than a day"
    return Finding("strays", WARN, detail, cure)


def _versions() -> dict[str, str]:
    found = library_versions()
    for name in ("jax", "faiss-cpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["Checkup", "Finding", "Stray", "check_machine", "check_warehouse", "clean"]
