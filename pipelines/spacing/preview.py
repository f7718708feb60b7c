"""What a spacing file would do to the feeds of a night that was served: before and after.

Queries and candidates are those of the night; only the rerank is done again, so nothing else moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import config_from_manifest
from pipelines.plan import open_items
from pipelines.spacing.inputs import read_spacing
from pipelines.store.manifests import Manifest
from pipelines.store.tables import read_files
from pipelines.store.warehouse import Warehouse
from profiling.hashing import hash63
from profiling.items import Items
from profiling.schema import FloatArray, ints
from retrieval.feed import FeedConfig, pool_of, rerank_feed
from retrieval.spacing.classes import Spacing, SpacingClass
from retrieval.spacing.explain import Explanation, explain_position
from retrieval.spacing.measures import gained, measure_spacing
from retrieval.spacing.terms import FeedSpacing

# Vectors are nearly all of ITEMS; a feed made without diversity is explained without them.
WITHOUT_VECTORS = ("item_id", "embedding_version", "topics", "created_at")
CURVE_WEIGHTS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class ServedNight:
    """What a night's rerank read, of some of its users.

    Attributes:
        users: Users whose feeds are looked at.
    """

    warehouse: Warehouse
    manifest: Manifest
    queries: pa.Table
    candidates: pa.Table
    users: int

    @classmethod
    def of(
        cls, warehouse: Warehouse, manifest: Manifest, *, user: int | None, sample: int
    ) -> ServedNight:
        """The night's candidates of one user, or of `sample` users chosen by hash.

        Raises:
            ValueError: The night served no feed, or none to this user.
        """
        if user is not None:
            return cls._of_user(warehouse, manifest, user)
        candidates = warehouse.read("CANDIDATES", manifest)
        everyone = np.unique(ints(candidates, "user_id"))
        order = np.argsort(hash63("preview", everyone))
        kept = everyone[order[:sample]]
        mine = candidates.filter(pc.is_in(candidates["user_id"], value_set=pa.array(kept)))
        if not mine.num_rows:
            raise ValueError(f"the night of {manifest.date} served nobody")
        queries = warehouse.read("QUERIES", manifest)
        queries = queries.filter(pc.is_in(queries["user_id"], value_set=pa.array(kept)))
        return cls(warehouse, manifest, queries, mine, len(kept))

    @classmethod
    def _of_user(cls, warehouse: Warehouse, manifest: Manifest, user: int) -> ServedNight:
        candidates, queries = (
            warehouse.read_user(name, user, manifest) for name in ("CANDIDATES", "QUERIES")
        )
        if not candidates.num_rows:
            some = warehouse.read("QUERIES", manifest, ["user_id"])["user_id"]
            raise ValueError(
                f"the night of {manifest.date} served not user {user}; {pc.count_distinct(some)} "
                "users have feeds" + (f", such as {some[0]}" if len(some) else "")
            )
        return cls(warehouse, manifest, queries, candidates, 1)

    @cached_property
    def items(self) -> Items:
        """The catalogue; of one user's feeds the candidates are all that is needed of it."""
        if self.users > 1:
            return open_items(self.warehouse.root, self.manifest.catalogue["ITEMS"])
        return self._candidates_of(None)

    def _candidates_of(self, columns: Sequence[str] | None) -> Items:
        rows = read_files(self.warehouse.root, "ITEMS", self.manifest.catalogue["ITEMS"], columns)
        return Items.from_table(
            rows.filter(pc.is_in(rows["item_id"], self.candidates["item_id"].combine_chunks()))
        )

    @cached_property
    def titles(self) -> dict[int, str]:
        """Titles by item id."""
        rows = self.warehouse.read("ITEMS", self.manifest, ["item_id", "title"])
        return dict(zip(rows["item_id"].to_pylist(), rows["title"].to_pylist(), strict=True))

    @cached_property
    def config(self) -> FeedConfig:
        """How the night made its feeds."""
        return config_from_manifest(self.manifest).feed

    def spacing(self, spacing: Spacing, items: Items | None = None) -> FeedSpacing:
        """A configuration with what it needs of the night's catalogue."""
        root, catalogue = self.warehouse.root, self.manifest.catalogue
        return read_spacing(root, catalogue, spacing, items or self.items)

    def explained(self, user: int, surface: str) -> tuple[pa.Table, Callable[[int], Explanation]]:
        """The feed that was served, and a function that explains a position of it."""
        feed = self.warehouse.read_user("FEED", user, self.manifest)
        feed = feed.filter(pc.equal(feed["surface"], surface)).sort_by("position")
        mine = (pc.field("user_id") == user) & (pc.field("surface") == surface)
        candidates, queries = self.candidates.filter(mine), self.queries.filter(mine)
        config = config_from_manifest(self.manifest).spacing
        items = self.items if config.diversity.gamma else self._candidates_of(WITHOUT_VECTORS)
        pool = pool_of(candidates, queries, items, self.config)
        spacing = self.spacing(config, items)
        placed = ints(feed, "item_id")
        return feed, lambda position: explain_position(pool, spacing, placed, position)

    def feed(self, spacing: FeedSpacing) -> pa.Table:
        """FEED as it would be."""
        return rerank_feed(self.candidates, self.queries, self.items, self.config, spacing=spacing)


@dataclass(frozen=True)
class Preview:
    """Feeds before and after.

    Attributes:
        night: Whose candidates.
        before: FEED by the old configuration.
        after: FEED by the new one.
        unspaced: FEED by the new one's diversity alone.
        spacing: The new one.
        counts: What its classes do to `before`, as `measure_spacing`.
    """

    night: ServedNight
    before: pa.Table
    after: pa.Table
    unspaced: pa.Table
    spacing: FeedSpacing
    counts: dict[str, dict[str, int]]

    @classmethod
    def of(cls, night: ServedNight, old: Spacing, new: Spacing) -> Preview:
        """Rerank the night by both."""
        spacing = night.spacing(new)
        before, after = night.feed(night.spacing(old)), night.feed(spacing)
        counts = measure_spacing(before, after, night.candidates, night.items, spacing)
        unspaced = night.feed(spacing.without_classes())
        return cls(night, before, after, unspaced, spacing, counts)

    @property
    def moved_share(self) -> float:
        """Share of positions that hold another item than before."""
        return float(np.mean(ints(self.before, "item_id") != ints(self.after, "item_id")))

    @property
    def relevance_given_up(self) -> float:
        """Relevance given up against `before`, as a share."""
        before, after = (np.asarray(t["relevance"].to_numpy()) for t in (self.before, self.after))
        return float(1.0 - after.sum() / before.sum()) if before.sum() else 0.0

    @property
    def utility_given_up(self) -> float:
        """Relevance and diversity that the classes cost, as a share: without them it is greatest.

        Greedily greatest: the choice is made position by position, so it can fall below 0.
        """
        most = float(gained(self.unspaced).sum())
        return 1.0 - float(gained(self.after).sum()) / most if most else 0.0

    def exposure(self, feed: pa.Table) -> FloatArray:
        """(positions, c) share of the feeds that show an item of the class there."""
        marks = self.spacing.members[self.night.items.rows_of(ints(feed, "item_id"))]
        positions = ints(feed, "position")
        total = np.bincount(positions)
        return np.array(
            [np.bincount(positions, weights=marks[:, k]) / total for k in range(marks.shape[1])]
        ).T.reshape(len(total), marks.shape[1])


@dataclass(frozen=True)
class CurvePoint:
    """What one weight does.

    Attributes:
        weight: Lambda of the class.
        exposure: Share of the positions that it holds.
        adjacent: Pairs of neighbours both of the class, per position.
        given_up: Utility (relevance and diversity) given up against weight 0, as a share.
    """

    weight: float
    exposure: float
    adjacent: float
    given_up: float


def spacing_curve(
    night: ServedNight,
    spacing: Spacing,
    class_id: str,
    weights: Sequence[float] = CURVE_WEIGHTS,
    note: Callable[[str], None] = lambda text: None,
) -> list[CurvePoint]:
    """Exposure of a class, its adjacent pairs and the utility given up, by its weight.

    The bound of a class's weight does not hold here: the curve shows where it stops to matter.

    Raises:
        ValueError: There is no such class, or it is switched off.
    """
    if class_id not in [c.id for c in spacing.works]:
        known = ", ".join(c.id for c in spacing.works) or "none"
        raise ValueError(f"no class {class_id!r} is switched on; there are: {known}")
    loose = replace(spacing, class_bound=10.0)
    found = []
    prepared = night.spacing(loose)
    column = [c.id for c in spacing.works].index(class_id)
    worth = 0.0
    for weight in weights:
        note(f"rerank at weight {weight:g}")
        classes = tuple(_weighed(c, class_id, weight) for c in loose.classes)
        tried = replace(prepared, config=replace(loose, classes=classes))
        feed = night.feed(tried)
        marks = prepared.members[night.items.rows_of(ints(feed, "item_id"))][:, column]
        pairs = marks[1:] & marks[:-1] & (ints(feed, "position")[1:] > 0)
        total = float(gained(feed).sum())
        worth = worth or total
        found.append(
            CurvePoint(weight, float(marks.mean()), float(pairs.mean()), 1.0 - total / worth)
        )
    return found


def _weighed(one: SpacingClass, class_id: str, weight: float) -> SpacingClass:
    return replace(one, weight=weight) if one.id == class_id else one
