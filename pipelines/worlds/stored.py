"""A planted log as a warehouse: the tables that its nights would have written, without a run."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig, render_config
from pipelines.plan import cutoff_of
from pipelines.store.manifests import Manifest, Tables
from pipelines.store.tables import TableWriter
from pipelines.store.warehouse import Warehouse
from pipelines.worlds.nights import Loop, PlayedNight
from pipelines.worlds.planted import ACTIONS, START, SURFACE, Rules
from profiling.hashing import buckets_of
from profiling.schema import ints
from selection.outcomes import OutcomeConfig
from selection.tables import OUTCOMES

LATENESS_HOURS = 24.0


def config_of_world(rules: Rules, loop: Loop, seed: int) -> NightConfig:
    """The configuration whose nights the world plays."""
    low, high = rules.value_range
    return NightConfig(
        actions=ACTIONS,
        surfaces=(SURFACE,),
        seed=seed,
        outcomes=OutcomeConfig(
            window_hours=0.0, lateness_hours=LATENESS_HOURS, value_low=low, value_high=high
        ),
        rewards=loop.rewards,
        prior=loop.prior,
        evidence=loop.evidence,
        selection=loop.selection,
    )


def store_nights(
    root: str,
    config: NightConfig,
    nights: Iterable[PlayedNight],
    *,
    buckets: int = 16,
) -> Warehouse:
    """Make a warehouse at `root` that holds the nights, and one more for the last outcomes.

    OUTCOMES lie with the first night whose cut-off they had all ended by.
    """
    warehouse = Warehouse.create(root, render_config(config), buckets=buckets)
    parent: Manifest | None = None
    waiting, number = OUTCOMES.empty(), 0
    for night in nights:
        tables = {"QUERIES": night.log.queries, "CLUSTER_REWARDS": night.log.cluster_rewards}
        parent = _publish(warehouse, config, parent, number, tables | {"OUTCOMES": waiting})
        waiting, number = night.outcomes, number + 1
    for tables in ({"OUTCOMES": waiting}, {}, {}):  # until every horizon has ended
        parent = _publish(warehouse, config, parent, number, tables)
        number += 1
    return warehouse


def _publish(
    warehouse: Warehouse,
    config: NightConfig,
    parent: Manifest | None,
    number: int,
    tables: Mapping[str, pa.Table],
) -> Manifest:
    date = START + dt.timedelta(days=number)
    stored: Tables = {}
    for name, table in tables.items():
        writer = TableWriter(warehouse.root, name, f"{date}-planted")
        bucket = buckets_of(ints(table, "user_id"), warehouse.buckets)
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(warehouse.buckets + 1))
        for b in range(warehouse.buckets):
            writer.write(table.take(pa.array(order[bounds[b] : bounds[b + 1]])), b)
        stored[name] = writer.finish()
    draft = Manifest(
        number=0,
        parent=None if parent is None else parent.number,
        kind="night",
        head=True,
        date=date,
        cutoff=cutoff_of(date),
        tables=stored,
        inputs=(),
        catalogue={},
        config=json.loads(json.dumps(asdict(config), default=str)),
        config_digest=config.digest,
        seed=config.seed,
        embedding_version="planted",
        counts={},
        seconds={},
    )
    return warehouse.publish(draft, None if parent is None else parent.number)
