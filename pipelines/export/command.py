"""The command `export`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from pipelines.config import NightConfig, config_from_manifest
from pipelines.export.formats import FORMATS
from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import NightOption, WarehouseOption, among, night_asked
from pipelines.plan import open_items
from pipelines.progress import counting_bar, told
from pipelines.store.manifests import Manifest
from pipelines.store.storage import unique_name
from pipelines.store.tables import SCHEMAS
from pipelines.store.warehouse import Warehouse
from profiling.schema import TableSchema, sort_rows
from selection.queries import weigh_queries
from selection.weight_files import EXPORT_FORMAT, RECORD
from selection.weights import WEIGHTS

SOURCES = {"weights": "CLUSTER_REWARDS", "queries": "QUERIES", "feed": "FEED"}
TABLES = tuple(SOURCES)


def export(
    warehouse: WarehouseOption,
    out: Annotated[Path, typer.Option(help="folder to write to")],
    date: NightOption = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="weights, queries or feed; may be repeated. All that the night has if none",
            autocompletion=among(*TABLES),
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help=", ".join(FORMATS), autocompletion=among(*FORMATS))
    ] = "parquet",
    json: JsonOption = False,
) -> None:
    """Write what a serving system needs of a night: weights, queries, feed.

    Example: queryloop export -w W --date 2022-05-08 --out serving --table weights --format sqlite
    """
    for name in table or TABLES:
        if name not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {name!r}")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    opened = Warehouse.open(warehouse)
    manifest = night_asked(opened, date)
    has = tuple(name for name in TABLES if manifest.tables.get(SOURCES[name]))
    record = export_night(opened, manifest, out, tuple(table or has or TABLES), format)
    if json:
        print_json(record | {"folder": out})
        return
    for name in table or has:
        written = record["tables"][name]
        print(f"{name}: {written['rows']:,} rows in {out / written['file']}")


def export_night(
    warehouse: Warehouse, manifest: Manifest, out: Path, tables: tuple[str, ...], format: str
) -> dict[str, Any]:
    """Write `tables` to files of `out`, then the record that names them, which is returned.

    The files of another night stay where they are: a server may still be reading them.

    Raises:
        ValueError: The night was not run far enough to have one of the tables.
    """
    config = config_from_manifest(manifest)
    out.mkdir(parents=True, exist_ok=True)
    record = _record(manifest, config)
    before = _record_before(out, record)
    for name in tables:
        with told() as note:
            note(f"read {name}")
            schema, rows = _rows_of(warehouse, manifest, config, name)
        file = f"{name}-{manifest.date}-{manifest.number}.{format}"
        record["tables"][name] = _write(out / file, schema, rows, format)
    record["tables"] = before | record["tables"]
    _replace(out / RECORD, lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))
    return record


def state_version(manifest: Manifest) -> str:
    """What names a night's weights in SERVED_DRAWS: its date and the number of its manifest."""
    return f"{manifest.date}/{manifest.number}"


def _record(manifest: Manifest, config: NightConfig) -> dict[str, Any]:
    return {
        "format": EXPORT_FORMAT,
        "run_date": manifest.date.isoformat(),
        "state_version": state_version(manifest),
        "seed": config.seed,
        "salt": config.draw_salt,
        "surfaces": list(config.surfaces),
        "embedding_version": manifest.embedding_version,
        "tables": {},
    }


def _record_before(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The tables that an earlier export of the same night left there."""
    try:
        before = json.loads((out / RECORD).read_bytes())
        same = all(before[name] == record[name] for name in record if name != "tables")
        return dict(before["tables"]) if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _rows_of(
    warehouse: Warehouse, manifest: Manifest, config: NightConfig, name: str
) -> tuple[TableSchema, pa.Table]:
    source = SOURCES[name]
    if not manifest.tables.get(source):
        raise ValueError(
            f"the {manifest.kind} of {manifest.date} has no {source}, so no {name}; run it that "
            "far with `queryloop night`, or export other tables with --table"
        )
    rows = warehouse.read(source, manifest)
    if name != "weights":
        return SCHEMAS[source], sort_rows(rows, SCHEMAS[source].key)
    weights = weigh_queries(
        rows,
        open_items(warehouse.root, manifest.catalogue["ITEMS"]),
        config.selections,
        run_date=manifest.date,
        seed=config.seed,
        salt=config.draw_salt,
    )
    return WEIGHTS, weights


def _write(path: Path, schema: TableSchema, rows: pa.Table, format: str) -> dict[str, Any]:
    written = 0

    def done(more: int) -> None:
        nonlocal written
        written += more
        tell(written, rows.num_rows)

    with counting_bar(path.name) as tell:
        _replace(path, lambda aside: FORMATS[format](aside, schema, rows, done))
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    return {
        "file": path.name,
        "rows": rows.num_rows,
        "version": schema.version,
        "sha256": digest,
    }


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write aside and rename: readers see the whole file or the one before."""
    aside = path.with_name("." + unique_name(path.name))
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
