"""The report of one night: its figures beside those of the nights before, each with its SQL.

What a chart shows is what its SQL gives on the catalogue: the statement that stands below it is the
one that was asked.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import duckdb

from pipelines.catalog.records import record_tables
from pipelines.catalog.sql_text import quote
from pipelines.config_files import config_of
from pipelines.health.command import check_health, interval, short
from pipelines.health.figures import MEANINGS, nights_before
from pipelines.health.records import Alarm, Figure, Health, read_health
from pipelines.pages.charts import SERIES, Promise, Series, line_chart, promise_chart
from pipelines.pages.report import (
    Grid,
    Listing,
    Picture,
    Report,
    Section,
    grid_of,
    percent,
    telling,
)
from pipelines.spacing.books import spacing_report
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.summary import STEPS, account, retrieval_lines

NIGHTS = 30  # that the charts go back
Row = dict[str, Any]


def night_report(warehouse: Warehouse, manifest: Manifest) -> Report:
    """The page of a night that was published; its health is measured where it was not yet."""
    config = config_of(warehouse).health
    health, alarms = check_health(warehouse, manifest, config)
    chain = [*nights_before(warehouse, manifest, NIGHTS - 1), manifest]
    with _Records(warehouse, chain) as records:
        sections = (
            _verdict(alarms),
            *(make(records) for make in (_rates, _chances, _calibration, _spread, _prior, _draws)),
            _flow(records),
            _books(records, manifest),
            _questions(warehouse, manifest.date),
        )
    return Report(
        title=f"The night of {manifest.date}",
        lead=_lead(manifest, health),
        facts=_facts(health, alarms, manifest),
        sections=sections,
        footer=f"queryloop report --warehouse {warehouse.root} --date {manifest.date}. This page "
        "fetches nothing.",
    )


class _Records:
    """What the nights recorded, as the tables that the catalogue has of them."""

    def __init__(self, warehouse: Warehouse, chain: Sequence[Manifest]) -> None:
        healths = [found for m in chain if (found := read_health(warehouse, m)) is not None]
        self.night = chain[-1].date
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        for table in record_tables(chain, warehouse.landings(), healths):
            self._connection.execute(table.make)

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, sql: str) -> list[Row]:
        found = self._connection.execute(sql)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def figures(self, *names: str) -> str:
        """The statement that asks for figures over the nights."""
        listed = ", ".join(map(quote, names))
        return (
            "SELECT run_date, figure, surface, arm, part, value, low, high, expected, n\n"
            f"FROM night_health WHERE figure IN ({listed}) AND run_date <= {quote(self.night)}\n"
            "ORDER BY ALL"
        )


def _lead(manifest: Manifest, health: Health) -> str:
    sample = "" if health.share == 1.0 else f" Figures are of {health.share:.0%} of the users."
    runner = manifest.runner or "on an unknown runner"
    how = f"with {runner}" if runner.startswith("--") else runner
    made = f"manifest {manifest.number}, {manifest.kind}, run {how}"
    return f"What the night learned and did, and whether the loop is well: {made}.{sample}"


def _facts(health: Health, alarms: list[Alarm], manifest: Manifest) -> tuple[tuple[str, str], ...]:
    rates = [f for f in health.of("rate") if f.value is not None]
    weight = sum(f.n for f in rates)
    rate = sum((f.value or 0.0) * f.n for f in rates) / weight if weight else None
    waiting = health.of("waiting")
    interests = sum(f.n for f in waiting)
    never = sum((f.value or 0.0) * f.n for f in waiting) / interests if interests else None
    return (
        ("alarms", str(len(alarms))),
        ("value per impression", "unknown" if rate is None else f"{rate:.3f}"),
        ("impressions that closed", f"{weight:,}"),
        ("interests never shown", "unknown" if never is None else percent(never)),
        ("interests", f"{interests:,}"),
        ("seconds", f"{manifest.seconds.get('all', 0.0):.1f}"),
    )


def _verdict(alarms: list[Alarm]) -> Section:
    if not alarms:
        return Section("Alarms", paragraphs=("None: no figure left what it was, or was promised.",))
    return Section("Alarms", alarms=tuple(map(str, alarms)))


def _rates(records: _Records) -> Section:
    sql = records.figures("rate")
    return Section(
        "What users did",
        paragraphs=(
            "Value per impression that closed, by arm and policy, with its 95 % interval over "
            "users. Impressions that name no draw have lines of their own: `inferred` are "
            "credited to the user's nearest interest, `none` had no interest near enough.",
        ),
        pictures=(_lines(records, sql, "value per impression", _policy),),
        grids=(_table(records, records.figures("rate", "engaged"), ("rate", "engaged")),),
    )


def _chances(records: _Records) -> Section:
    sql = records.figures("waiting")
    days = records.figures("waiting days", "longest wait")
    return Section(
        "Interests that never had a chance",
        paragraphs=(
            "Interests of which nothing was ever shown, nor drawn tonight. Every interest keeps a "
            "chance; these wait for theirs.",
        ),
        pictures=(
            _lines(records, sql, "share of the interests", _arm, shares=True),
            _lines(records, days, "days since the first engagement", _figure_of),
        ),
    )


def _calibration(records: _Records) -> Section:
    night = quote(records.night)
    sql = (
        "SELECT arm, part AS tenth, expected AS predicted, value AS came, low, high, n\n"
        f"FROM night_health WHERE figure = 'calibration bin' AND run_date = {night}\nORDER BY ALL"
    )
    rows = [r for r in records.rows(sql) if r["low"] is not None and r["predicted"] is not None]
    arms = sorted({r["arm"] for r in rows})
    points = [
        Promise(r["predicted"], r["came"], r["low"], r["high"], _colour(arms.index(r["arm"])))
        for r in rows
    ]
    chart = promise_chart(points, x_label="predicted reward", y_label="value per impression")
    named = ", ".join(f"{arm or 'all'}: {_name(i)}" for i, arm in enumerate(arms))
    over = records.figures("calibration")
    return Section(
        "Does a reward keep its promise?",
        paragraphs=(
            "Tonight's closed impressions by tenths of the reward that was predicted when they "
            "were chosen; on the line what came is what was promised.",
        ),
        pictures=(
            Picture(chart, f"What came, by what was predicted ({named or 'nothing closed'}).", sql),
            _promised(records, over),
        ),
        grids=(_table(records, over, ("calibration",)),),
    )


def _promised(records: _Records, sql: str) -> Picture:
    """What came to what was predicted, night by night."""
    found: dict[str, list[tuple[Any, float]]] = {}
    for r in records.rows(sql):
        if r["value"] is not None and r["expected"]:
            found.setdefault(r["arm"] or "all", []).append(
                (r["run_date"], r["value"] / r["expected"])
            )
    chart = _chart(found, "what came, of what was predicted", shares=True)
    return Picture(chart, "100 %: as much came as was predicted.", sql)


def _spread(records: _Records) -> Section:
    return Section(
        "How widely queries and shown items are spread",
        paragraphs=(
            "Entropy in bits: 2 to its power is how many items, all as frequent, would be as "
            "spread. The Gini coefficient is 0 where all come as often, near 1 where few take all.",
        ),
        pictures=(
            _lines(records, records.figures("entropy"), "entropy, bits", _part),
            _lines(records, records.figures("gini"), "Gini coefficient", _part),
        ),
    )


def _prior(records: _Records) -> Section:
    return Section(
        "What rewards lean on",
        paragraphs=("Interests by what their reward leans on: their own record, or an average.",),
        pictures=(
            _lines(records, records.figures("prior"), "share of the interests", _part, shares=True),
            _lines(records, records.figures("lean"), "weight of the prior", _part, shares=True),
        ),
    )


def _draws(records: _Records) -> Section:
    sql = records.figures("draws", "draw z")
    return Section(
        "Drawn against promised",
        paragraphs=(
            "By their written propensities the draws stand for all interests there are: 1, within "
            "the interval, where they come as often as promised; z is how many standard errors "
            "that is away.",
        ),
        grids=(_table(records, sql, ("draws", "draw z")),),
    )


def _flow(records: _Records) -> Section:
    sql = (
        "SELECT run_date, what, n FROM night_counts WHERE step = 'impressions'\n"
        "  AND what IN ('landed', 'outcomes', 'open_after', 'rejected', 'duplicates')\n"
        f"  AND run_date <= {quote(records.night)} ORDER BY ALL"
    )
    found: dict[str, list[tuple[Any, float]]] = {}
    for r in records.rows(sql):
        found.setdefault(r["what"].replace("_", " "), []).append((r["run_date"], float(r["n"])))
    counts = Picture(_chart(found, "impressions"), "What landed, closed and waits.", sql)
    return Section(
        "Impressions that came, late or unattributed",
        pictures=(
            counts,
            _lines(
                records, records.figures("unattributed", "late", "refused"), "share", _figure_of,
                shares=True,
            ),
        ),
    )  # fmt: skip


def _books(records: _Records, manifest: Manifest) -> Section:
    sql = (
        "SELECT run_date, step, seconds FROM night_seconds\n"
        f"WHERE (step = 'all' OR step LIKE 'job %') AND run_date <= {quote(records.night)}\n"
        "ORDER BY ALL"
    )
    found: dict[str, list[tuple[Any, float]]] = {}
    for r in records.rows(sql):
        found.setdefault(r["step"], []).append((r["run_date"], r["seconds"]))
    steps = [
        (step, f"{c['in']:,}", source, f"{c['out']:,}", target,
         f"{manifest.seconds.get(step, 0.0):.2f}")
        for step, source, target in STEPS
        if (c := manifest.counts.get(step))
    ]  # fmt: skip
    columns = ("step", "rows in", "of", "rows out", "into", "seconds")
    return Section(
        "The night's books",
        paragraphs=(*retrieval_lines(manifest), *spacing_report(manifest)),
        pictures=(Picture(_chart(found, "seconds"), "How long it took.", sql),),
        grids=(grid_of("steps", columns, steps, ("rows in", "rows out", "seconds")),),
        listings=(Listing("What must add up", account(manifest)),),
    )


def _questions(warehouse: Warehouse, date: dt.date) -> Section:
    return Section(
        "Ask further",
        paragraphs=(
            f'Run each with: queryloop sql --warehouse {warehouse.root} "...". The views '
            "health_... have these figures of every night, from the tables themselves.",
        ),
        listings=(
            Listing(
                "Who waits longest", "SELECT * FROM never_had_a_chance ORDER BY first_at LIMIT 20"
            ),
            Listing(
                "Are draws fair, by kind of interest",
                f"SELECT * FROM draw_check WHERE run_date = '{date}' ORDER BY ALL",
            ),
            Listing("All that can be asked", "SELECT * FROM catalogue"),
        ),
    )


def _lines(
    records: _Records, sql: str, label: str, name: Callable[[Row], str], *, shares: bool = False
) -> Picture:
    """A line for each name, over the nights, with intervals where there are any."""
    found: dict[str, list[Row]] = {}
    for r in records.rows(sql):
        if r["value"] is not None:
            found.setdefault(name(r), []).append(r)
    dates = sorted({r["run_date"] for rows in found.values() for r in rows})
    lines = [
        Series(
            line,
            [dates.index(r["run_date"]) for r in rows],
            [r["value"] for r in rows],
            _colour(i),
            _known([r["low"] for r in rows]),
            _known([r["high"] for r in rows]),
        )
        for i, (line, rows) in enumerate(found.items())
    ]
    ticks = [f"{d:%m-%d}" for d in dates]
    chart = line_chart(lines, x_label="night", y_label=label, shares=shares, ticks=ticks)
    return Picture(chart, "; ".join(_meanings(records.rows(sql))), sql)


def _meanings(rows: Iterable[Row]) -> list[str]:
    names = dict.fromkeys(r["figure"] for r in rows)
    return [f"{name}: {MEANINGS[name]}" for name in names]


def _known(values: list[float | None]) -> list[float] | None:
    return [v for v in values if v is not None] if None not in values else None


def _chart(found: dict[str, list[tuple[Any, float]]], label: str, *, shares: bool = False) -> str:
    dates = sorted({date for points in found.values() for date, _ in points})
    lines = [
        Series(name, [dates.index(d) for d, _ in points], [v for _, v in points], _colour(i))
        for i, (name, points) in enumerate(found.items())
    ]
    ticks = [f"{d:%m-%d}" for d in dates]
    return line_chart(lines, x_label="night", y_label=label, shares=shares, ticks=ticks)


def _table(records: _Records, sql: str, names: tuple[str, ...]) -> Grid:
    """The figures of tonight and the night before, newest first."""
    rows = [
        (str(r["run_date"]), r["figure"], r["surface"], r["arm"], _unversioned(r), *_cells(r))
        for r in reversed(records.rows(sql))
        if r["figure"] in names
    ]
    columns = (
        "night",
        "figure",
        "surface",
        "arm",
        "of",
        "value",
        "95 % interval",
        "expected",
        "rows",
    )
    numeric = ("value", "expected", "rows")
    named = f"{', '.join(names)}, night by night"
    return grid_of(named, *telling(columns, rows, same=("figure", "surface")), numeric, sql)


def _cells(r: Row) -> tuple[str, ...]:
    figure = Figure(r["figure"], "", "", "", r["value"], r["low"], r["high"], r["expected"], r["n"])
    expected = "" if figure.expected is None else f"{figure.expected:.4g}"
    return short(figure), interval(figure), expected, f"{figure.n:,}"


def _policy(r: Row) -> str:
    return ", ".join(p for p in (r["arm"], _unversioned(r)) if p) or "all"


def _unversioned(r: Row) -> str:
    """What a figure is of; a policy without the digest of its options, which fills a phone."""
    return str(r["part"].split("/")[0])


def _arm(r: Row) -> str:
    return r["arm"] or r["surface"]


def _part(r: Row) -> str:
    return ", ".join(p for p in (r["arm"], r["part"]) if p)


def _figure_of(r: Row) -> str:
    return ", ".join(p for p in (r["arm"], r["figure"]) if p)


def _colour(i: int) -> str:
    return SERIES[i % len(SERIES)]


def _name(i: int) -> str:
    return ("blue", "red", "green", "ochre", "violet", "grey")[i % len(SERIES)]
