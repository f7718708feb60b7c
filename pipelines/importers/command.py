"""What `queryloop import` does: read a foreign log, land it, build bootstrap profiles, say so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from pipelines.clock import clock
from pipelines.config import NightConfig
from pipelines.config_files import config_of
from pipelines.importers.foreign import ForeignLog
from pipelines.importers.kuairand import read_kuairand
from pipelines.importers.landed import (
    check_catalogue,
    check_id_kinds,
    landed_rows,
    leave_out_landed,
)
from pipelines.importers.tables import read_tables
from pipelines.json_output import print_json
from pipelines.landing import land, without_erased
from pipelines.logs import tell
from pipelines.nights import bootstrap
from pipelines.plan import open_items
from pipelines.progress import told
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.summary import wide_console
from profiling.schema import group_offsets, ints
from selection.attribution import inferred_credits

_REASONS = 5  # that an import prints


def import_kuairand(warehouse: Warehouse, source: Path, *, json: bool = False) -> None:
    """Import the KuaiRand-Pure log in folder `source`."""
    config = config_of(warehouse)
    with told() as note:
        log = read_kuairand(source, config.actions, seed=config.seed, now_us=clock(), note=note)
    _land(warehouse, log, f"kuairand {source.name}", config, json=json)


def import_tables(
    warehouse: Warehouse, paths: dict[str, str], mapping: Path | None, *, json: bool = False
) -> None:
    """Import files by table; `mapping` names their columns where they are not ours.

    Raises:
        ValueError: No file was given, or one cannot be read; nothing has landed then.
    """
    if not paths:
        raise ValueError(
            "give at least one of --items, --engagements, --impressions, --topics, --served-draws"
        )
    config = config_of(warehouse)
    with told() as note:
        log = read_tables(
            paths,
            config.actions,
            mapping=mapping,
            hash_key=warehouse.hash_key,
            now_us=clock(),
            known_keys=landed_rows(warehouse, "KEYS"),
            width=None if "ITEMS" in paths else catalogue_width(warehouse),
            note=note,
        )
    _land(warehouse, log, "tables " + " ".join(sorted(paths)), config, json=json)


def catalogue_width(warehouse: Warehouse) -> int | None:
    """The width of the catalogue's vectors; None before there is one."""
    files = warehouse.catalogue()["ITEMS"]
    return open_items(warehouse.root, files).width if files else None


def _land(
    warehouse: Warehouse, log: ForeignLog, source: str, config: NightConfig, *, json: bool
) -> None:
    check_share(log, config)
    check_first(warehouse, log)
    check_id_kinds(warehouse, log)
    with told() as note:
        note("compare with what has landed")
        replaces = check_catalogue(warehouse, log)
        log = leave_out_landed(warehouse, log, config.horizon_us)
        note("write what is new")
        landing = land(
            warehouse,
            log.tables | {"REJECTED": log.rejected, "KEYS": log.keys},
            source=source,
            starts_at=log.starts_at,
            sources=[s._asdict() for s in log.sources],
            notes=log.notes,
            replaces=replaces,
        )
    landing_tables = log.tables | {"REJECTED": log.rejected}
    kept = without_erased(warehouse, landing_tables)
    rows = {name: t.num_rows for name, t in kept.items()}
    erased = sum(t.num_rows for t in landing_tables.values()) - sum(rows.values())
    tell("landed", about={"landing": landing.number, "rows": rows})
    gone = [f"{erased:,} rows of users who were erased: left out"] if erased else []
    notes = [*log.notes, *gone, *_next_steps(warehouse, kept["REJECTED"], replaces=replaces)]
    console = wide_console(quiet=json)
    console.print(f"landed as import {landing.number}:")
    for name, count in rows.items():
        console.print(f"  {name:<13} {count:>12,} rows")
    for line in notes:
        console.print(f"  {line}")
    started = bootstrap(warehouse)
    if started is not None:
        show_bootstrap(console, warehouse, log, started, config)
    if json:
        made = None if started is None else started.number
        print_json({"landing": landing.number, "rows": rows, "notes": notes, "bootstrap": made})


def _next_steps(warehouse: Warehouse, rejected: pa.Table, *, replaces: bool) -> list[str]:
    steps = []
    if rejected.num_rows:
        steps += _refusals(rejected)
        steps.append(f"all rejected rows: queryloop sql -w {warehouse.root} 'FROM REJECTED'")
    if replaces:
        steps.append("ITEMS replace the catalogue; the next night rebuilds all profiles")
    if not warehouse.catalogue()["ITEMS"]:
        steps.append("there are no ITEMS yet: import them before the first night")
    return steps


def _refusals(rejected: pa.Table) -> list[str]:
    """The commonest reasons, each with the rows it refused."""
    found = Counter(
        zip(*(rejected[name].to_pylist() for name in ("source", "reason")), strict=True)
    )
    common = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    lines = [f"rejected {n:,} of {source}: {reason}" for (source, reason), n in common[:_REASONS]]
    rest = len(common) - len(lines)
    return [*lines, f"and for {rest:,} more reasons"] if rest > 0 else lines


def check_share(log: ForeignLog, config: NightConfig) -> None:
    """Raise ValueError where too large a share of an import was refused; nothing has landed."""
    refused = log.rejected.num_rows
    rows = refused + sum(t.num_rows for t in log.tables.values())
    if refused > max(config.rejected_rows, config.rejected_share * rows):
        first = log.rejected.slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"{refused:,} of {rows:,} rows were refused, more than rejected_share "
            f"{config.rejected_share:g}; nothing has landed. The first is {first['source']}, row "
            f"{first['row']}: {first['reason']}. Mend the files, or raise rejected_share in "
            "queryloop.yaml"
        )


def check_first(warehouse: Warehouse, log: ForeignLog) -> None:
    """Raise ValueError where a first import brings engagements and none can be used.

    Its bootstrap would record `actions` that are not the log's, and they could not be changed.
    """
    usable = log.tables.get("ENGAGEMENTS")
    if usable is None or usable.num_rows or not log.rejected.num_rows or warehouse.head():
        return
    reasons = "; ".join(_refusals(log.rejected)[:2])
    raise ValueError(
        f"no row of ENGAGEMENTS can be used; nothing has landed. {reasons}. Mend the mapping, the "
        "files, or `actions` in queryloop.yaml"
    )


def show_bootstrap(
    console: Console,
    warehouse: Warehouse,
    log: ForeignLog,
    manifest: Manifest,
    config: NightConfig,
) -> None:
    """Print the distribution of clusters per user and the share of impressions that find one."""
    profiles = warehouse.read("PROFILES", manifest)
    clusters = np.diff(group_offsets(ints(profiles, "user_id")))
    console.print(
        f"bootstrap profiles at {np.datetime64(manifest.cutoff, 'us')} UTC: "
        f"{len(clusters):,} users, {len(profiles):,} clusters"
    )
    if not len(clusters):
        console.print("  no engagement lies before the first impression: the nights find interests")
        return
    marks = [0, 10, 25, 50, 75, 90, 99, 100]
    found = np.percentile(clusters, marks, method="nearest")
    console.print(
        f"  clusters per user: mean {clusters.mean():.2f}; "
        + ", ".join(f"p{m} {int(v)}" for m, v in zip(marks, found, strict=True))
        + f"; {np.mean(ints(profiles, 'n_items') == 1):.0%} of clusters are single items"
    )
    if log.starts_at is None:
        return
    items = open_items(warehouse.root, manifest.catalogue["ITEMS"])
    credits = inferred_credits(
        log.tables["IMPRESSIONS"], profiles, items, config.outcomes.threshold
    )
    inferred = pc.sum(pc.equal(credits["attribution"], "inferred")).as_py() or 0
    console.print(
        f"  attributed to a bootstrap cluster at cosine {config.outcomes.threshold:g}: "
        f"{inferred / max(len(credits), 1):.1%} of {len(credits):,} impressions without a draw"
    )
