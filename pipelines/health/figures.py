"""A night's health from its own files: the views of the catalogue over some columns of one night.

What is read is bounded: of a large warehouse whole buckets of users are a sample of them, as many
as hold `ROWS` rows. Of earlier nights only the draws are read that may have closed tonight,
and the rewards of the nights that these were drawn on.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.catalog.pieces import needed, template_pieces
from pipelines.catalog.records import record_tables
from pipelines.health.records import Figure, Health, read_health, write_health
from pipelines.store.manifests import Manifest, StoredFile
from pipelines.store.tables import concat, read_bucket, read_files
from pipelines.store.warehouse import Warehouse
from profiling.decay import DAY_US

ROWS = 1_000_000  # of the tables of `COUNTED`, that are looked at
COUNTED = ("CLUSTER_REWARDS", "OUTCOMES", "QUERIES")
SCRIPTS = [
    Path(__file__).parents[1] / name
    for name in ("catalog/views.sql", "catalog/macros.sql", "health/views.sql")
]
MEANINGS = {
    "rate": "value per impression that closed, by policy; of those that name no draw, `inferred` "
    "went to the nearest interest, `none` to no interest",
    "engaged": "share of these impressions with a positive action",
    "waiting": "share of the interests that nothing was ever shown of, nor drawn tonight",
    "waiting days": "median age of these interests",
    "longest wait": "greatest age of these interests, days",
    "entropy": "of the counts of queries, and of items shown, in bits",
    "gini": "of the same counts: near 1 few take it all",
    "prior": "share of the interests whose reward leans on this source",
    "lean": "weight of the prior in their rewards",
    "late": "share of the landed impressions that are older than the night before",
    "refused": "share of the landed impressions that were refused",
    "unattributed": "share of the closed impressions that belong to no draw and no interest",
    "calibration": "what came, against the reward that was predicted",
    "calibration bin": "the same by tenths of the predicted reward",
    "draws": "interests that draws stand for by their propensities, as a share of those there are",
    "draw z": "how many standard errors that is from 1",
}
_OUTCOMES = ("run_date", "user_id", "surface", "arm", "policy", "attribution", "impression_id",
             "item_id", "draw_id", "cluster_id", "at", "examination", "credit", "value",
             "actions")  # fmt: skip
_QUERIES = ("run_date", "user_id", "surface", "cluster_id", "draw_id", "query_id", "policy", "arm",
            "propensity")  # fmt: skip
_REWARDS = ("user_id", "surface", "cluster_id", "arm", "reward", "weight", "draws", "prior_source",
            "prior_strength")  # fmt: skip
_PROFILES = ("user_id", "cluster_id", "first_at")


def health_of(warehouse: Warehouse, manifest: Manifest) -> Health:
    """The stored record of a night, or what it would say."""
    return read_health(warehouse, manifest) or measure_health(warehouse, manifest)


def record_health(warehouse: Warehouse, manifest: Manifest, nights: int) -> list[Health]:
    """Measure a night and store it, and those of the `nights` before it that have no record.

    Returns:
        Oldest first; the last is of `manifest`.
    """
    found = []
    for night in [*nights_before(warehouse, manifest, nights), manifest]:
        health = read_health(warehouse, night)
        if health is None:
            health = measure_health(warehouse, night)
            write_health(warehouse, health)
        found.append(health)
    return found


def nights_before(warehouse: Warehouse, manifest: Manifest, n: int) -> list[Manifest]:
    """Up to `n` nights that `manifest` went on from, oldest first, without bootstraps."""
    found: list[Manifest] = []
    while manifest.parent is not None and len(found) < n:
        manifest = warehouse.manifest(manifest.parent)
        if manifest.kind == "bootstrap":
            break
        found.append(manifest)
    return found[::-1]


def measure_health(warehouse: Warehouse, manifest: Manifest, rows: int = ROWS) -> Health:
    """All figures of one published night.

    Args:
        warehouse: Where.
        manifest: The night.
        rows: Of the tables of `COUNTED`; whole buckets are read until they hold as many.
    """
    reader = _NightFiles(warehouse, manifest, rows)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET python_enable_replacements = false")
        for table in record_tables(reader.nights, warehouse.landings()):
            connection.execute(table.make)
        reader.register(connection)
        views = template_pieces("\n".join(path.read_text() for path in SCRIPTS))
        for view in needed(views, " ".join(statement for statement, _ in _SOURCES)) or ():
            connection.execute(view.make)
        figures = tuple(_figures(connection, manifest.date))
    return Health(manifest.number, manifest.date.isoformat(), reader.share, figures)


class _NightFiles:
    """The tables of one night that the views read, of some buckets, as Arrow."""

    def __init__(self, warehouse: Warehouse, manifest: Manifest, rows: int) -> None:
        self._warehouse, self._manifest = warehouse, manifest
        self._buckets, self.share = _sample(manifest, rows)
        reach = _reach_us(manifest)
        earlier = nights_before(warehouse, manifest, math.ceil(reach / DAY_US) + 1)
        self.nights = [m for m in earlier if m.cutoff >= manifest.cutoff - reach] + [manifest]

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make them tables of `connection`."""
        tonight = self._manifest
        outcomes = self._read("OUTCOMES", _OUTCOMES, tonight)
        queries = concat("QUERIES", [self._queries(m, outcomes) for m in self.nights], _QUERIES)
        dates = _drawn_dates(outcomes, queries) | {tonight.date}
        rewards = [
            self._dated("CLUSTER_REWARDS", _REWARDS, m) for m in self.nights if m.date in dates
        ]
        columns = ["source", "reason"]
        tables = {
            "OUTCOMES": outcomes,
            "QUERIES": queries,
            "CLUSTER_REWARDS_ALL": pa.concat_tables(rewards),
            "PROFILES_ALL": self._dated("PROFILES", _PROFILES, tonight),
            "REJECTED": _dated(self._warehouse.read("REJECTED", tonight, columns), tonight.date),
        }
        for name, table in tables.items():
            connection.register(name, table)

    def _queries(self, night: Manifest, outcomes: pa.Table) -> pa.Table:
        """All draws of tonight; of earlier nights those that closed impressions name."""
        if night is self._manifest:
            return self._read("QUERIES", _QUERIES, night)
        draws = pc.unique(outcomes["draw_id"].filter(pc.not_equal(outcomes["draw_id"], 0)))
        if not len(draws):  # a log without draws
            return concat("QUERIES", [], _QUERIES)
        queries = self._read("QUERIES", _QUERIES, night)
        return queries.filter(pc.is_in(queries["draw_id"], draws))

    def _dated(self, name: str, columns: Sequence[str], night: Manifest) -> pa.Table:
        return _dated(self._read(name, columns, night), night.date)

    def _read(self, name: str, columns: Sequence[str], night: Manifest) -> pa.Table:
        files = night.tables.get(name, ())
        if self.share == 1.0:
            return read_files(self._warehouse.root, name, files, columns)
        parts = [read_bucket(self._warehouse.root, name, files, b, columns) for b in self._buckets]
        return concat(name, parts, columns)


def _dated(table: pa.Table, date: dt.date) -> pa.Table:
    return table.append_column("run_date", pa.array([date] * table.num_rows, pa.date32()))


def _reach_us(manifest: Manifest) -> int:
    """How long before a cut-off the draws were made that close by it, as the night itself reads."""
    return manifest.horizon_us + int(manifest.config["draw_days"] + 2) * DAY_US


def _sample(manifest: Manifest, rows: int) -> tuple[list[int], float]:
    """Buckets that hold `rows` rows together, and the share of the users that they are."""
    files = [f for name in COUNTED for f in manifest.tables.get(name, ())]
    held = dict.fromkeys(_rows_by_bucket(manifest.tables.get("PROFILES", ())), 0)
    held |= _rows_by_bucket(files)
    chosen: list[int] = []
    for bucket in sorted(held):
        if chosen and sum(held[b] for b in chosen) + held[bucket] > rows:
            break
        chosen.append(bucket)
    return chosen, len(chosen) / len(held) if held else 1.0


def _rows_by_bucket(files: Iterable[StoredFile]) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in (p for f in files for p in f.parts):
        found[part.bucket] = found.get(part.bucket, 0) + part.rows
    return found


def _drawn_dates(outcomes: pa.Table, queries: pa.Table) -> set[dt.date]:
    """Nights whose rewards the closed impressions are compared with."""
    day = pa.scalar(DAY_US, pa.int64())
    days = pc.subtract(pc.divide(outcomes["at"].cast(pa.int64()), day), 1)
    return set(pc.unique(queries["run_date"]).to_pylist()) | set(
        pc.unique(days.cast(pa.int32()).cast(pa.date32())).to_pylist()
    )


def _figures(connection: duckdb.DuckDBPyConnection, date: dt.date) -> Iterable[Figure]:
    """Every figure of the night, in the order of `MEANINGS`."""
    found = [figure for statement, make in _SOURCES for row in _rows(connection, statement, date)
             for figure in make(row)]  # fmt: skip
    places = {name: i for i, name in enumerate(MEANINGS)}
    return sorted(found, key=lambda f: places[f.name])


def _rows(
    connection: duckdb.DuckDBPyConnection, statement: str, date: dt.date
) -> list[dict[str, Any]]:
    relation = connection.execute(f"{statement} WHERE run_date = ? ORDER BY ALL", [date])
    names = [column[0] for column in relation.description]
    return [dict(zip(names, map(_short, row), strict=True)) for row in relation.fetchall()]


def _short(value: Any) -> Any:
    """Doubles to 9 digits: the order in which threads add shows in the last ones."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _rates(r: dict[str, Any]) -> list[Figure]:
    who = r["surface"], r["arm"], r["policy"] or r["attribution"]
    n = r["impressions"]
    return [
        Figure("rate", *who, r["rate"], r["low"], r["high"], n=n),
        Figure("engaged", *who, r["engaged"], n=n),
    ]


def _waiting(r: dict[str, Any]) -> list[Figure]:
    who = r["surface"], r["arm"], ""
    return [
        Figure("waiting", *who, r["share"], n=r["interests"]),
        Figure("waiting days", *who, r["median_days"], n=r["waiting"]),
        Figure("longest wait", *who, r["longest_days"], n=r["waiting"]),
    ]


def _spread(r: dict[str, Any]) -> list[Figure]:
    who = r["surface"], r["arm"], r["what"]
    return [
        Figure("entropy", *who, r["entropy"], n=r["n"]),
        Figure("gini", *who, r["gini"], n=r["n"]),
    ]


def _prior(r: dict[str, Any]) -> list[Figure]:
    who = r["surface"], r["arm"], r["prior_source"]
    n = r["interests"]
    return [Figure("prior", *who, r["share"], n=n), Figure("lean", *who, r["lean"], n=n)]


def _flow(r: dict[str, Any]) -> list[Figure]:
    return [
        Figure("late", "", "", "", r["late_share"], n=r["landed"]),
        Figure("refused", "", "", "", r["refused_share"], n=r["landed"]),
        Figure("unattributed", "", "", "", r["unattributed_share"], n=r["closed"]),
    ]


def _calibration(r: dict[str, Any]) -> list[Figure]:
    name, part = ("calibration", "") if r["bin"] is None else ("calibration bin", str(r["bin"]))
    bounds = r["came"], r["low"], r["high"], r["predicted"]
    return [Figure(name, r["surface"], r["arm"], part, *bounds, n=r["impressions"])]


def _draws(r: dict[str, Any]) -> list[Figure]:
    who = r["surface"], r["arm"], r["policy"]
    share, error = r["stood_for"], 1.96 * r["error"]
    return [
        Figure("draws", *who, share, share - error, share + error, 1.0, n=r["draws"]),
        Figure("draw z", *who, r["z"], expected=0.0, n=r["draws"]),
    ]


_SOURCES = (
    ("SELECT * FROM health_rates", _rates),
    ("SELECT * FROM health_waiting", _waiting),
    ("SELECT * FROM health_spread", _spread),
    ("SELECT * FROM health_prior", _prior),
    ("SELECT * FROM health_flow", _flow),
    ("SELECT * FROM health_calibration", _calibration),
    ("SELECT * FROM health_draws", _draws),
)
