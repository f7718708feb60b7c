"""Garbage collection: what old nights need no longer is taken out of them, and deleted.

The newest nights of the chain stay whole. Of those before, these stay: draws that may still be
shown, attributed or closed; interests, rewards and outcomes as long as off-policy evaluation or the
evidence prior looks back; and the books, which are small. Branches and checks that no reader
follows go. What imports brought stays: it is what a rebuild begins from.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config import NightConfig
from pipelines.config_files import config_of
from pipelines.store.manifests import Manifest, StoredFile, Tables
from pipelines.store.storage import join, remove_paths
from pipelines.store.taken import Taking, read_taken, take
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US

_DRAWN = ("QUERIES", "SERVED_DRAWS", "FEED")  # what late impressions are attributed by
_EVALUATED = ("PROFILES", "CLUSTER_REWARDS", "QUERIES", "OUTCOMES", "CLOSED_DRAWS")


@dataclass(frozen=True)
class Collection:
    """What a collection takes, or would.

    Attributes:
        nights: Whole nights that stay.
        files: That go.
        bytes: Of them.
        tables: Bytes by table.
        paths: Of the files.
    """

    nights: int
    files: int
    bytes: int
    tables: dict[str, int]
    paths: tuple[str, ...]


def plan_collection(warehouse: Warehouse, config: NightConfig | None = None) -> Collection:
    """What is needed no longer, by the configuration's `retention`."""
    config = config or config_of(warehouse)
    chain = warehouse.chain(warehouse.head())
    whole = chain[-config.retention.nights :]
    kept: set[str] = set()
    for manifest in chain:
        kept |= {f.path for f in _all(_needed(manifest, chain, config))}
    going: dict[str, tuple[str, StoredFile]] = {}
    for manifest in warehouse.manifests():
        for name, files in manifest.tables.items():
            going |= {f.path: (name, f) for f in files if f.path not in kept}
    tables: dict[str, int] = {}
    for name, file in going.values():
        tables[name] = tables.get(name, 0) + file.bytes
    return Collection(len(whole), len(going), sum(tables.values()), tables, tuple(sorted(going)))


def collect(warehouse: Warehouse, now: int) -> Collection:
    """Take it out: gone for readers in one step, then deleted.

    A reader that had opened a collected night before may find its files gone, and says so.
    """
    known = read_taken(warehouse.root).last
    found = plan_collection(warehouse)
    if found.paths:
        take(warehouse.root, Taking(0, "gc", now, dict.fromkeys(found.paths)), after=known)
        remove_paths([join(warehouse.root, path) for path in found.paths])
    return found


def _needed(manifest: Manifest, chain: list[Manifest], config: NightConfig) -> Tables:
    """Tables of a night that stay."""
    if manifest in chain[-config.retention.nights :]:
        return manifest.tables
    keep: set[str] = {"REJECTED"}
    cutoff = chain[-1].cutoff
    if manifest.cutoff >= cutoff - config.horizon_us - (config.draw_days + 2) * DAY_US:
        keep |= set(_DRAWN)
    looked_back = max(config.retention.ope_nights, config.evidence.days)
    if manifest.cutoff >= cutoff - (looked_back + 1) * DAY_US:
        keep |= set(_EVALUATED)
    return {name: files for name, files in manifest.tables.items() if name in keep}


def _all(tables: Tables) -> list[StoredFile]:
    return [f for files in tables.values() for f in files]
