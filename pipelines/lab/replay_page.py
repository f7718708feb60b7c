"""A replay as one page of pictures: the same numbers as on the terminal."""

from __future__ import annotations

from typing import Any

from pipelines.lab.replay_views import COLUMNS, MEANING, cells, headline, sections
from pipelines.pages.charts import (
    BLUE,
    GREEN,
    GREY,
    QUIET,
    RED,
    Interval,
    Series,
    interval_chart,
    line_chart,
)
from pipelines.pages.report import Picture, Report, Section, grid_of

_COLORS = {"counts": GREY, "evidence": BLUE, "oracle": GREEN, "reward_importance": RED}


def replay_page(found: dict[str, Any]) -> Report:
    """The page."""
    ours = [r for r in found["rows"] if not r["bound"] and r["policy"] != found["reference"]]
    best = max(ours, key=lambda r: r["uplift_pct"] or 0.0, default=None)
    facts = [("Users", f"{found['users']:,}"), ("Seeds", str(found["seeds"]))]
    if best is not None and best["uplift_pct"] is not None:
        facts.insert(0, ("Best policy", f"{best['policy']} {best['uplift_pct']:+.2f} %"))
    return Report(
        title="Queryloop: which policy would have earned more?",
        lead=headline(found),
        facts=tuple(facts),
        sections=(*(_section(found, t, rows) for t, rows in sections(found)), _nights(found)),
        footer="Made by `queryloop lab`. Intervals: 95 %, users resampled. Nothing is fetched.",
    )


def _section(found: dict[str, Any], title: str, rows: list[dict[str, Any]]) -> Section:
    """A table, and the uplifts of the policies but for the oracle, which would flatten the rest."""
    known = [r for r in rows if r["policy"] not in (found["reference"], "oracle")]
    intervals = [
        Interval(
            r["policy"], r["uplift_pct"] / 100, r["low"] / 100, r["high"] / 100, _color(r["policy"])
        )
        for r in known
        if r["low"] is not None
    ]
    pictures: tuple[Picture, ...] = ()
    if intervals:
        caption = f"Uplift over {found['reference']}, paired by user, with 95 % intervals."
        chart = interval_chart(intervals, label=f"Uplift over {found['reference']}")
        pictures = (Picture(chart, caption),)
    table = grid_of("Policies", COLUMNS, [cells(r) for r in rows], COLUMNS[1:])
    return Section(title, paragraphs=(MEANING,), pictures=pictures, grids=(table,))


def _nights(found: dict[str, Any]) -> Section:
    lines = []
    for policy in dict.fromkeys(row["policy"] for row in found["by_night"]):
        rows = [r for r in found["by_night"] if r["policy"] == policy and r["mean"] is not None]
        lines.append(
            Series(
                policy,
                [r["night"] for r in rows],
                [r["mean"] for r in rows],
                _color(policy),
                quiet=policy not in _COLORS,
            )
        )
    chart = line_chart(lines, x_label="night", y_label="Mean value of what was shown")
    caption = (
        "Night by night. Who finds the good items early has the others left: late nights, and the "
        "ends of the lines, compare what is left, not the policies."
    )
    columns = ("policy", "night", "mean", "shown", "stopped")
    rows = [
        (r["policy"], str(r["night"]), *_mean(r), f"{r['shown']:,}", f"{r['stopped']:g}")
        for r in found["by_night"]
    ]
    table = grid_of("Every night", columns, rows, columns[1:])
    return Section("Night by night", pictures=(Picture(chart, caption),), grids=(table,))


def _mean(row: dict[str, Any]) -> tuple[str]:
    return ("" if row["mean"] is None else f"{row['mean']:.4f}",)


def _color(policy: str) -> str:
    return _COLORS.get(policy, QUIET[sum(policy.encode()) % len(QUIET)])
