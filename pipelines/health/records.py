"""The record of a night's health: W/health/NUMBER.json beside its manifest, written once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.store.manifests import FORMAT, Manifest, check_format, reading
from pipelines.store.records import record_path
from pipelines.store.storage import create_exclusive, exists, read_bytes
from pipelines.store.warehouse import Warehouse

FOLDER = "health"


@dataclass(frozen=True)
class Figure:
    """One number of a night.

    Attributes:
        name: Which, see `figures.MEANINGS`.
        surface: Where; '' of all.
        arm: Of the experiment, '' without one or of all.
        part: Which of several: a policy, a prior's source, a bin; '' where there is one.
        value: The number; None where nothing is known.
        low: Of its 95 % interval, where it has one.
        high: Of its 95 % interval.
        expected: What it is to be compared with, where something was promised.
        n: Rows that it is from: impressions, interests or draws.
    """

    name: str
    surface: str
    arm: str
    part: str
    value: float | None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    n: int = 0

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is compared with on other nights."""
        return self.name, self.surface, self.arm, self.part

    @property
    def of(self) -> str:
        """Whose it is, for people."""
        return ", ".join(part for part in (self.surface, self.arm, self.part) if part)


@dataclass(frozen=True)
class Alarm:
    """Something that a person should look at before trusting the next night.

    Attributes:
        what: Which figure rings.
        message: Its value, what it is against, and where to look.
    """

    what: str
    message: str

    def __str__(self) -> str:
        """One line."""
        return f"ALARM {self.what}: {self.message}"


@dataclass(frozen=True)
class Health:
    """What was measured of one published night.

    Attributes:
        manifest: Its number.
        date: The night, ISO.
        share: Of the users that the figures are from: whole buckets, 1 where all were read.
        figures: In the order of `figures.MEANINGS`.
    """

    manifest: int
    date: str
    share: float
    figures: tuple[Figure, ...]
    format: int = field(default=FORMAT)

    def of(self, name: str) -> list[Figure]:
        """The figures of that name."""
        return [f for f in self.figures if f.name == name]


def read_health(warehouse: Warehouse, manifest: Manifest) -> Health | None:
    """The stored record; None where none was made."""
    path = record_path(warehouse.root, FOLDER, manifest.number)
    if not exists(path):
        return None
    content = read_bytes(path)
    with reading(path):
        raw: dict[str, Any] = json.loads(content)
        check_format(raw["format"], path)
        return Health(**raw | {"figures": tuple(Figure(**f) for f in raw["figures"])})


def write_health(warehouse: Warehouse, health: Health) -> None:
    """Store it; one that is there already stays, as a published night does."""
    path = record_path(warehouse.root, FOLDER, health.manifest)
    create_exclusive(path, (json.dumps(asdict(health), indent=1) + "\n").encode())
