"""What analysts ask: views and macros over the Parquet files of one manifest, in any DuckDB.

`catalog_sql` writes the text: small tables of what the manifests say, one view per stored table
that names its files, and the documented views and macros of `views.sql` and `macros.sql`. `query`
answers one statement from it in memory; `write_catalog` makes a read-only database of it. Rows stay
in Parquet: nothing here can be locked by a writer, and a night published later changes no answer.

Only what DuckDB 1.5 and 2.0 share is used; a database is written in a format that both read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog.answers import check_format, render
from pipelines.catalog.duckdb_files import register_files
from pipelines.catalog.pieces import Piece, comment_sql, template_pieces
from pipelines.catalog.records import record_tables
from pipelines.catalog.session import CatalogSession
from pipelines.catalog.sql_text import identifier, quote, sql_type
from pipelines.health.records import Health, read_health
from pipelines.store.manifests import Landing, Manifest, StoredFile
from pipelines.store.storage import is_local, join, unique_name
from pipelines.store.tables import SCHEMAS, stored_columns
from pipelines.store.warehouse import STATE_TABLES, Warehouse
from profiling.schema import TableSchema

# What one night wrote; a view shows the nights of the chain together.
NIGHT_TABLES = (
    "OUTCOMES",
    "CLOSED_DRAWS",
    "QUERIES",
    "SERVED_DRAWS",
    "ENCODINGS",
    "CANDIDATES",
    "FEED",
    "REJECTED",
)
# What imports brought, rows as they came: a night may not have consumed them yet.
LANDED_TABLES = ("ENGAGEMENTS", "IMPRESSIONS", "EXPOSURES")
# State whose earlier nights are shown too, as TABLE_ALL with a run_date.
HISTORY_TABLES = ("PROFILES", "CLUSTER_REWARDS", "OPEN")
HEALTH_NIGHTS = 60  # in the table night_health: a script of a year of them takes long to read
# The storage format of DuckDB 1.2: readable from there on, 2.0 included.
STORAGE_VERSION = "v1.2.0"

_NOWHERE: Mapping[str, Any] = {"landing": None, "run_date": None}
_TEMPLATES = [
    Path(__file__).parents[1] / name
    for name in (
        "catalog/views.sql",
        "catalog/macros.sql",
        "health/views.sql",
        "catalog/comments.sql",
    )
]


@dataclass(frozen=True)
class _Files:
    """Files of one table that share the values of the view's added columns."""

    paths: Sequence[str]
    added: Mapping[str, Any] = field(default_factory=dict)


def catalog_sql(warehouse: Warehouse, manifest: Manifest | None) -> str:
    """The catalogue of `manifest` (None: before the first night) as one SQL script.

    Paths are absolute, so it may be run from anywhere; running it twice changes nothing.
    """
    title = f"-- Views and macros over {_one_line(_root(warehouse))}, {_as_of(manifest)}."
    return "\n".join([title, *(p.sql for p in catalog_pieces(warehouse, manifest))])


def catalog_pieces(warehouse: Warehouse, manifest: Manifest | None) -> list[Piece]:
    """The catalogue's tables, views and macros; each stands on earlier ones."""
    chain, landings = warehouse.chain(manifest), warehouse.landings()
    return [
        *record_tables(chain, landings, _healths(warehouse, chain)),
        *_views(warehouse, _root(warehouse), manifest, chain, landings),
        *template_pieces("\n".join(path.read_text() for path in _TEMPLATES)),
    ]


def _root(warehouse: Warehouse) -> str:
    """Where the files lie, from anywhere."""
    return os.path.abspath(warehouse.root) if is_local(warehouse.root) else warehouse.root


def query(
    warehouse: Warehouse, sql: str, manifest: Manifest | None, *, format: str = "table"
) -> str:
    """What `sql` answers on the catalogue of `manifest`, as text in one of `FORMATS`.

    Raises:
        ValueError: As `query_rows`, or `format` is unknown.
    """
    check_format(format)
    return render(query_rows(warehouse, sql, manifest), format)


def query_rows(warehouse: Warehouse, sql: str, manifest: Manifest | None) -> pa.Table:
    """The rows that `sql` gives on the catalogue of `manifest`, from a database in memory.

    Raises:
        ValueError: DuckDB refuses the statement, or a file is missing or damaged; with its message.
    """
    with open_session(warehouse, manifest) as session:
        return session.ask(sql)


def open_session(warehouse: Warehouse, manifest: Manifest | None) -> CatalogSession:
    """A database in memory that answers statements on the catalogue of `manifest`; close it."""
    return CatalogSession(warehouse.root, catalog_pieces(warehouse, manifest))


def write_catalog(warehouse: Warehouse, out: Path, manifest: Manifest | None) -> None:
    """Make `out` a database with the catalogue, for reading; an older one is replaced at once.

    It holds views and a few small tables; the rows stay in the warehouse's Parquet files.

    Raises:
        ValueError: `out` is something else than a DuckDB database; it is left as it is.
    """
    if out.exists() and not _is_database(out):
        raise ValueError(f"{out} is there and is no DuckDB database; choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name("." + unique_name(out.name))
    try:
        settings = {"storage_compatibility_version": STORAGE_VERSION}
        with duckdb.connect(str(aside), config=settings) as connection:
            register_files(connection, warehouse.root)
            connection.execute("BEGIN")  # one write to disk instead of one per statement
            connection.execute(catalog_sql(warehouse, manifest))
            connection.execute("COMMIT")
        aside.chmod(0o444)  # opened for writing it would lock out every other reader
        aside.replace(out)
    except duckdb.Error as error:
        raise ValueError(f"{out} could not be made: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def chain_files(chain: Iterable[Manifest], name: str) -> list[tuple[Manifest, list[StoredFile]]]:
    """Files of table `name` by night, oldest first, each once: where it was named first.

    A replayed night names the QUERIES and FEED that its parent served.
    """
    seen: set[str] = set()
    found = []
    for manifest in chain:
        files = [f for f in manifest.tables.get(name, ()) if f.path not in seen]
        files = list({f.path: f for f in files}.values())
        seen.update(f.path for f in files)
        found.append((manifest, files))
    return found


def _healths(warehouse: Warehouse, chain: Sequence[Manifest]) -> list[Health]:
    """What the last nights recorded of the loop."""
    found = [read_health(warehouse, manifest) for manifest in chain[-HEALTH_NIGHTS:]]
    return [health for health in found if health is not None]


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _as_of(manifest: Manifest | None) -> str:
    if manifest is None:
        return "before its first night"
    return f"as of manifest {manifest.number}, the {manifest.kind} of {manifest.date}"


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as source:
        return source.read(12)[8:] == b"DUCK"


def _views(
    warehouse: Warehouse,
    root: str,
    manifest: Manifest | None,
    chain: list[Manifest],
    landings: list[Landing],
) -> list[Piece]:
    """One view per stored table, and the nights' own versions of some."""

    def paths(files: Iterable[StoredFile]) -> list[str]:
        return [join(root, path) for path in dict.fromkeys(f.path for f in files)]

    def landed(name: str) -> list[_Files]:
        return [
            _Files(paths(landing.tables.get(name, ())), {"landing": landing.number})
            for landing in landings
        ]

    def view(name: str, table: str, *groups: _Files, **how: Any) -> Piece:
        return Piece(name, partial(_view, name, table, groups, **how), alone=True)

    tables = manifest.tables if manifest else {}
    catalogue = manifest.catalogue if manifest else warehouse.catalogue()
    night, landing = {"run_date": "DATE"}, {"landing": "INTEGER"}
    found = [view(name, name, _Files(paths(tables.get(name, ())))) for name in STATE_TABLES]
    for name in HISTORY_TABLES:
        nights = [_Files(paths(m.tables.get(name, ())), {"run_date": m.date}) for m in chain]
        found.append(view(f"{name}_ALL", name, *nights, added=night))
    for name in NIGHT_TABLES:
        nights = [_Files(paths(f), {"run_date": m.date}) for m, f in chain_files(chain, name)]
        if name == "REJECTED":  # by imports too, which have no run_date
            nights = [_Files(n.paths, {**_NOWHERE, **n.added}) for n in [*landed(name), *nights]]
            found.append(view(name, name, *nights, added=landing | night))
        else:
            found.append(view(name, name, *nights, added=night))
    found += [view(name, name, *landed(name), added=landing) for name in LANDED_TABLES]
    found.append(view("KEYS", "KEYS", *landed("KEYS"), distinct=True))
    for name in ("ITEMS", "TOPICS"):
        latest = partial(_catalogue_view, name, paths(catalogue.get(name, ())))
        found.append(Piece(name, latest, alone=True))
    return found


def _view(
    view: str,
    table: str,
    groups: Iterable[_Files],
    *,
    added: Mapping[str, str] | None = None,
    distinct: bool = False,
) -> tuple[str, str]:
    """CREATE VIEW over the union of `groups`; `added` columns come first, with their SQL types."""
    schema = SCHEMAS[table]
    # OUTCOMES, QUERIES and FEED carry their run_date themselves.
    more = {name: type_ for name, type_ in (added or {}).items() if name not in schema.names}
    if not more:  # one scan opens its files side by side
        groups = [_Files([path for g in groups for path in g.paths])]
    selects = [
        f"SELECT {', '.join([*_added(more, g.added), *columns])} FROM {_scan(paths)}"
        for g in groups
        for paths, columns in _versions(schema, g.paths)
    ]
    nulls = [f"NULL::{type_} AS {identifier(name)}" for name, type_ in more.items()]
    body = "\nUNION ALL ".join(selects) or _empty(schema, nulls)
    if distinct:
        body = f"SELECT DISTINCT * FROM ({body})"
    return _create(view, body), _comments(view, schema, more)


def _catalogue_view(name: str, paths: Sequence[str]) -> tuple[str, str]:
    """ITEMS or TOPICS: of one id, the row that landed last holds."""
    schema = SCHEMAS[name]
    columns = ", ".join(identifier(c) for c in schema.names)
    selects = [
        f"SELECT {', '.join(cols)}, {place} AS place, file_row_number AS line FROM {_scan(one)}"
        for place, path in enumerate(paths)
        for one, cols in _versions(schema, [path])
    ]
    last = f"QUALIFY row_number() OVER (PARTITION BY {identifier(schema.key[0])} "
    last += "ORDER BY place DESC, line DESC) = 1"
    body = _empty(schema, [])
    if selects:
        body = f"SELECT {columns} FROM ({' UNION ALL '.join(selects)}) {last}"
    return _create(name, body), _comments(name, schema, {})


def _create(view: str, body: str) -> str:
    return f"CREATE OR REPLACE VIEW {identifier(view)} AS {body};"


def _scan(paths: Sequence[str]) -> str:
    """The rows of files; a folder named `a=b` above them is no column of theirs."""
    return f"read_parquet({quote(list(paths))}, file_row_number = true, hive_partitioning = false)"


def _added(types: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    return [f"{quote(values[n])}::{type_} AS {identifier(n)}" for n, type_ in types.items()]


def _empty(schema: TableSchema, nulls: list[str]) -> str:
    columns = [f"NULL::{sql_type(c.type)} AS {identifier(c.name)}" for c in schema.columns]
    return f"SELECT {', '.join([*nulls, *columns])} WHERE false"


def _versions(schema: TableSchema, paths: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Files by the version of the schema they hold, with the columns as SQL.

    Files older than a column give its declared default; only where a table has such columns are its
    files looked at.
    """
    names = [identifier(c) for c in schema.names]
    if not schema.lifts or not paths:
        return [(list(paths), names)] if paths else []
    found: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        stored = set(stored_columns(path))
        lifted = tuple(c for c in schema.lifts if c not in stored)
        found.setdefault(lifted, []).append(path)
    types = {c.name: sql_type(c.type) for c in schema.columns}

    def column(name: str, lifted: tuple[str, ...]) -> str:
        default = f"{quote(schema.lifts[name])}::{types[name]} AS " if name in lifted else ""
        return default + identifier(name)

    return [(f, [column(c, lifted) for c in schema.names]) for lifted, f in found.items()]


def _comments(view: str, schema: TableSchema, added: Mapping[str, str]) -> str:
    """What the schema says of the columns, where `DESCRIBE`-like tools show it."""
    meanings = {"run_date": "the night that wrote the row", "landing": "the import that brought it"}
    texts = {c: meanings[c] for c in added}
    for column in schema.columns:
        unit = f" ({column.unit})" if column.unit else ""
        texts[column.name] = column.meaning + unit
    return comment_sql("VIEW", view, _view_meaning(view, schema), texts)


def _view_meaning(view: str, schema: TableSchema) -> str:
    key = ", ".join(schema.key)
    if view != schema.name:
        return f"{schema.name} of every night of the chain; by run_date, {key}"
    if view in STATE_TABLES:
        return f"state as of this night; by {key}"
    if view in NIGHT_TABLES:
        return f"what every night of the chain wrote; by {key}"
    if view in LANDED_TABLES:
        return f"as landed, duplicates and rows not yet consumed among them; by {key}"
    return f"by {key}"
