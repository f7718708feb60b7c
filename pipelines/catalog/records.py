"""What manifests and landings say, as small tables for the catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.catalog.meanings import MEANINGS
from pipelines.catalog.pieces import Piece, comment_sql
from pipelines.catalog.sql_text import Moment, table_sql
from pipelines.health.records import Health
from pipelines.store.manifests import Landing, Manifest
from profiling.decay import DAY_US

_TIME = "TIMESTAMP WITH TIME ZONE"
_RATE_COLUMNS = {
    "mean": "DOUBLE",
    "strength": "DOUBLE",
    "user_strength": "DOUBLE",
    "trials": "DOUBLE",
    "per_draw": "DOUBLE",
    "draw_strength": "DOUBLE",
    "users": "BIGINT",
    "clusters": "BIGINT",
    "weight": "DOUBLE",
}


def record_tables(
    chain: Sequence[Manifest], landings: Sequence[Landing], healths: Sequence[Health] = ()
) -> list[Piece]:
    """Every record table; `chain` is oldest first, its last night is the catalogue's."""
    last = chain[-1] if chain else None
    config = last.config if last else {}
    return [
        _settings(last, config),
        _table(
            "actions",
            {"code": "INTEGER", "name": "VARCHAR", "value": "DOUBLE", "positive": "BOOLEAN"},
            [
                (code, a["name"], float(a.get("value", 1.0)), bool(a.get("positive", True)))
                for code, a in enumerate(config.get("actions", ()))
            ],
        ),
        _arms(config),
        *_night_tables(chain, landings),
        _prior(chain),
        _evidence_slopes(chain),
        *_landing_tables(landings),
        _night_health(healths),
    ]


def _table(name: str, columns: dict[str, str], rows: Sequence[Sequence[Any]]) -> Piece:
    def write() -> tuple[str, str]:
        meaning, told = MEANINGS[name]
        comments = comment_sql("TABLE", name, meaning, dict(zip(columns, told, strict=True)))
        return table_sql(name, columns, rows), comments

    return Piece(name, write, alone=True)


def _settings(last: Manifest | None, config: Mapping[str, Any]) -> Piece:
    """One row: what the views must know of the night and its configuration."""
    columns = {
        "manifest": "INTEGER",
        "run_date": "DATE",
        "cutoff": _TIME,
        "half_life_days": "DOUBLE",
        "value_low": "DOUBLE",
        "value_high": "DOUBLE",
        "action_names": "VARCHAR[]",
        "first_open": "DATE",
    }
    outcomes = config.get("outcomes", {})
    row = (
        last.number if last else None,
        last.date if last else None,
        Moment(last.cutoff) if last else None,
        config.get("rewards", {}).get("half_life_days"),
        outcomes.get("value_low"),
        outcomes.get("value_high"),
        [a["name"] for a in config.get("actions", ())],
        _first_open(last) if last and outcomes else None,
    )
    return _table("settings", columns, [row])


def _first_open(last: Manifest) -> dt.date:
    """The first night whose draws close after `last`, as `selection.draws.closes` has it."""
    return dt.date(1970, 1, 1) + dt.timedelta(days=(last.cutoff - last.horizon_us) // DAY_US - 1)


def _arms(config: Mapping[str, Any]) -> Piece:
    """The arms of the experiment in their order; none without one."""
    experiment = config.get("experiment") or {}
    rows = [
        (place, a["name"], float(a.get("share", 0.5)), a.get("selection", {}).get("policy"))
        for place, a in enumerate(experiment.get("arms", ()))
    ]
    columns = {"place": "INTEGER", "arm": "VARCHAR", "share": "DOUBLE", "policy": "VARCHAR"}
    return _table("arms", columns, rows)


def _night_tables(chain: Sequence[Manifest], landings: Sequence[Landing]) -> list[Piece]:
    nights = [
        (m.number, m.parent, m.kind, m.date, Moment(m.cutoff), m.seed, m.config_digest, *more)
        for m in chain
        for more in [
            (
                m.embedding_version,
                m.runner,
                float(sum(m.seconds.values())),
                m.config.get("spacing", {}).get("drift_nights"),
            )
        ]
    ]
    counts = [(m.date, s, w, n) for m in chain for s, c in m.counts.items() for w, n in c.items()]
    seconds = [(m.date, step, float(s)) for m in chain for step, s in m.seconds.items()]
    spans = _spans(landings)
    inputs = [
        (m.date, g.landing, g.table, g.path, g.row_group, g.rows, *span)
        for m in chain
        for g in m.inputs
        for span in [spans.get((g.path, g.row_group), (None, None))]
    ]
    retrieval = [
        (m.date, arm, how["arm"], how["model"], how["fell_back"])
        for m in chain
        for arm, how in m.retrieval.items()
    ]
    night = {"run_date": "DATE"}
    return [
        _table(
            "nights",
            {"manifest": "INTEGER", "parent": "INTEGER", "kind": "VARCHAR"}
            | night
            | {"cutoff": _TIME, "seed": "BIGINT", "config_digest": "VARCHAR"}
            | {"embedding_version": "VARCHAR", "runner": "VARCHAR", "seconds": "DOUBLE"}
            | {"drift_nights": "INTEGER"},
            nights,
        ),
        _table(
            "night_counts", night | {"step": "VARCHAR", "what": "VARCHAR", "n": "BIGINT"}, counts
        ),
        _table("night_seconds", night | {"step": "VARCHAR", "seconds": "DOUBLE"}, seconds),
        _table(
            "night_inputs",
            night
            | {"landing": "INTEGER", "table_name": "VARCHAR", "path": "VARCHAR"}
            | {"row_group": "INTEGER", "n": "BIGINT", "first_at": _TIME, "last_at": _TIME},
            inputs,
        ),
        _table(
            "night_retrieval",
            night
            | {"arm": "VARCHAR", "asked": "VARCHAR", "model": "INTEGER", "fell_back": "VARCHAR"},
            retrieval,
        ),
    ]


def _spans(landings: Sequence[Landing]) -> dict[tuple[str, int], tuple[Moment, Moment]]:
    """First and last event of every landed row group."""
    return {
        (file.path, group): (Moment(part.first_at), Moment(part.last_at))
        for landing in landings
        for files in landing.tables.values()
        for file in files
        for part in file.parts
        for group in range(part.row_group, part.row_group + part.row_groups)
    }


def _prior(chain: Sequence[Manifest]) -> Piece:
    """The prior of every night by surface and arm; surface NULL: the default of the others."""
    rows = [
        (m.date, rate.get("surface"), rate.get("arm"), *(rate.get(c) for c in _RATE_COLUMNS))
        for m in chain
        if m.prior
        for rate in (m.prior.get("default", {}), *m.prior.get("rates", ()))
    ]
    columns = {"run_date": "DATE", "surface": "VARCHAR", "arm": "VARCHAR"} | _RATE_COLUMNS
    return _table("prior", columns, rows)


def _evidence_slopes(chain: Sequence[Manifest]) -> Piece:
    """How far every night found the evidence to be trusted: the next night went by it."""
    columns = {"own": "DOUBLE", "item": "DOUBLE", "users": "BIGINT", "weight": "DOUBLE"}
    rows = [(m.date, *(m.slopes[c] for c in columns)) for m in chain if m.slopes]
    return _table("evidence_slopes", {"run_date": "DATE"} | columns, rows)


def _landing_tables(landings: Sequence[Landing]) -> list[Piece]:
    head = [
        (i.number, i.source, None if i.starts_at is None else Moment(i.starts_at), list(i.notes))
        for i in landings
    ]
    files = [
        (i.number, name, f.path, f.rows)
        for i in landings
        for name, group in i.tables.items()
        for f in group
    ]
    sources = [
        (i.number, str(s.get("path")), s.get("digest"), s.get("rows"))
        for i in landings
        for s in i.sources
    ]
    landing = {"landing": "INTEGER"}
    return [
        _table(
            "landings",
            landing | {"source": "VARCHAR", "starts_at": _TIME, "notes": "VARCHAR[]"},
            head,
        ),
        _table(
            "landed_files",
            landing | {"table_name": "VARCHAR", "path": "VARCHAR", "n": "BIGINT"},
            files,
        ),
        _table(
            "landing_sources",
            landing | {"path": "VARCHAR", "digest": "VARCHAR", "n": "BIGINT"},
            sources,
        ),
    ]


def _night_health(healths: Sequence[Health]) -> Piece:
    """What each night recorded of the loop, a row a figure."""
    texts = ("figure", "surface", "arm", "part")
    numbers = ("value", "low", "high", "expected")
    columns = {"run_date": "DATE", "manifest": "INTEGER"}
    columns |= dict.fromkeys(texts, "VARCHAR") | dict.fromkeys(numbers, "DOUBLE")
    rows = [
        (*head, *f.key, f.value, f.low, f.high, f.expected, f.n, h.share)
        for h in healths
        for head in [(dt.date.fromisoformat(h.date), h.manifest)]
        for f in h.figures
    ]
    columns |= {"n": "BIGINT", "share": "DOUBLE"}
    return _table("night_health", columns, rows)
