"""A replay as tables on the terminal, as one page of pictures, and as Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.lab.replay import Replayed
from profiling.schema import IntArray

WIDTH = 110
COLUMNS = (
    "policy", "mean", "uplift %", "95 %", "gini", "top 10 %", "draws", "empty", "stopped",
)  # fmt: skip
MEANING = (
    "mean: value of what was shown. uplift: over counts, paired by user. gini, top 10 %: how the "
    "exposures fall on the items. empty: draws that brought nothing. stopped: users with no known "
    "outcome left, mean over seeds. The oracle knows tonight's outcomes and no later night's; "
    "uniform asks every interest alike."
)


def print_replay(found: dict[str, Any], console: Console, out: Path | None) -> None:
    """Both tables, and where the rest lies."""
    console.width = max(console.width, WIDTH)
    console.print(headline(found), highlight=False)
    for title, rows in sections(found):
        console.print(f"\n{title}", style="bold", highlight=False)
        table = Table(box=None, pad_edge=False)
        for i, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*cells(row))
        console.print(table)
    console.print(MEANING, style="dim", highlight=False)
    if out is not None:
        console.print(f"With pictures: {out / 'replay.html'}", highlight=False)


def headline(found: dict[str, Any]) -> str:
    """What was replayed, in a sentence."""
    return (
        f"{found['users']:,} users, {found['nights']} nights, {found['queries']} queries x "
        f"{found['per_query']} items, {found['seeds']} seeds; every outcome is known."
    )


def sections(found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Title and rows: all nights, then the first ones."""
    title = f"The first {found['first_nights']} nights: the universe has not run dry yet"
    return [("All nights", found["rows"]), (title, found["first_rows"])]


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One policy."""
    interval = "" if row["low"] is None else f"{row['low']:+.2f}..{row['high']:+.2f}"
    reference = row["uplift_pct"] == 0 and row["low"] == row["high"]
    return (
        row["policy"],
        _text(row["mean"], ".4f"),
        "" if reference else _text(row["uplift_pct"], "+.2f"),
        "" if reference else interval,
        _text(row["gini"], ".3f"),
        _text(row["top_share"], ".3f"),
        f"{row['draws']:,}",
        f"{row['empty_draws']:,}",
        f"{row['stopped']:g}",
    )


def write_replay(
    found: dict[str, Any], runs: Sequence[Replayed], user_ids: IntArray, out: Path
) -> None:
    """replay.json, replay.html, nights.parquet and users.parquet in the folder `out`."""
    # Drawing is imported here: no other command needs it, and it takes half a second.
    from pipelines.lab.replay_page import replay_page
    from pipelines.pages.report import render_report

    out.mkdir(parents=True, exist_ok=True)
    (out / "replay.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (out / "replay.html").write_text(render_report(replay_page(found)), encoding="utf-8")
    pq.write_table(nights_table(runs), out / "nights.parquet")
    pq.write_table(users_table(runs, user_ids), out / "users.parquet")


def nights_table(runs: Sequence[Replayed]) -> pa.Table:
    """A row per policy, seed and night (from 1): what was drawn, shown and earned."""
    parts = []
    for run in runs:
        n = len(run.draws)
        parts.append(
            pa.table(
                {
                    "policy": [run.policy] * n,
                    "seed": np.full(n, run.seed),
                    "night": np.arange(1, n + 1),
                    "value": run.values.sum(axis=1),
                    "shown": run.shown.sum(axis=1),
                    "draws": run.draws,
                    "empty_draws": run.empty,
                    "stopped": run.dry,
                    "idle": run.idle,
                }
            )
        )
    return pa.concat_tables(parts)


def users_table(runs: Sequence[Replayed], user_ids: IntArray) -> pa.Table:
    """A row per policy, seed, night (from 1) and user who was shown something."""
    parts = []
    for run in runs:
        night, user = np.nonzero(run.shown)
        parts.append(
            pa.table(
                {
                    "policy": [run.policy] * len(night),
                    "seed": np.full(len(night), run.seed),
                    "night": night + 1,
                    "user_id": user_ids[user],
                    "value": run.values[night, user],
                    "shown": run.shown[night, user],
                }
            )
        )
    return pa.concat_tables(parts)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
