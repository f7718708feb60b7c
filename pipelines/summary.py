"""What a night prints when it is published: rows in, out, refused and open, and seconds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipelines.logs import tell
from pipelines.models import ModelRecord
from pipelines.spacing.books import spacing_report
from pipelines.store.manifests import Manifest

STEPS = (
    ("build_profiles", "ENGAGEMENTS", "PROFILES"),
    ("attribute_outcomes", "impressions", "OUTCOMES"),
    ("tally_rewards", "OUTCOMES", "REWARDS"),
    ("roll_up_cluster_rewards", "PROFILES", "CLUSTER_REWARDS"),
    ("select_queries", "CLUSTER_REWARDS", "QUERIES"),
    ("retrieve_candidates", "QUERIES", "CANDIDATES"),
    ("rerank_feed", "CANDIDATES", "FEED"),
)


def wide_console(*, quiet: bool = False) -> Console:
    """Written to a file or pipe, tables are as wide as they need to be; a quiet one is nowhere."""
    console = Console(highlight=False, soft_wrap=True, quiet=quiet)
    if not console.is_terminal:
        console.width = 160
    return console


def tell_published(manifest: Manifest) -> None:
    """Log a night's steps and that it is published."""
    night = manifest.date.isoformat()
    for step in (step for step, _, _ in STEPS if step in manifest.counts):
        rows, seconds = manifest.counts[step], manifest.seconds.get(step, 0.0)
        about = {"step": step, "rows_in": rows["in"], "rows": rows["out"], "seconds": seconds}
        tell("step", about={"night": night, **about})
    rows = {name: sum(f.rows for f in files) for name, files in manifest.tables.items()}
    about = {"night": night, "kind": manifest.kind, "manifest": manifest.number, "rows": rows}
    tell("published", about=about | {"seconds": manifest.seconds["all"]})


def show_night(console: Console, manifest: Manifest) -> None:
    """Print one night's books."""
    clock = manifest.seconds["all"]
    title = f"{manifest.kind} {manifest.date}, manifest {manifest.number}, {clock:.1f} s"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, width=96)
    table.add_column("step")
    table.add_column("rows in", justify="right")
    table.add_column("of")
    table.add_column("rows out", justify="right")
    table.add_column("of")
    table.add_column("seconds", justify="right")
    for step, source, target in STEPS:
        if step not in manifest.counts:
            continue
        rows = manifest.counts[step]
        seconds = manifest.seconds.get(step, 0.0)
        table.add_row(step, f"{rows['in']:,}", source, f"{rows['out']:,}", target, f"{seconds:.2f}")
    console.print(table)
    for line in retrieval_lines(manifest):
        console.print(line, highlight=False)
    console.print(account(manifest), highlight=False)
    if sum(manifest.counts[name]["rejected"] for name in ("impressions", "engagements")):
        console.print(
            "why rows were rejected: queryloop sql with "
            f"\"SELECT source, row, reason FROM REJECTED WHERE run_date = '{manifest.date}'\"\n"
        )
    for line in spacing_report(manifest):
        console.print(line, highlight=False, markup=False)


def retrieval_lines(manifest: Manifest) -> list[str]:
    """Which arm of retrieval served whom, and why not another; a line an arm."""
    lines = []
    for name, how in manifest.retrieval.items():
        who = f"{name}: " if name else ""
        asked = f", model {how['model']}" if how["model"] else ""
        fell = f"; fell back: {how['fell_back']}" if how["fell_back"] else ""
        lines.append(f"retrieval: {who}{how['arm']}{asked}{fell}")
    return lines


def show_model(console: Console, record: ModelRecord) -> None:
    """Print what a training made."""
    begun = f"went on from model {record.parent}" if record.parent else "begun anew"
    measured = ", ".join(f"{name} {_short(value)}" for name, value in record.report.items())
    console.print(f"{record}, of {record.learners}, {begun}: {measured}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def account(manifest: Manifest) -> str:
    """What must add up: what was open and landed is closed, open, refused or repeated."""
    c = manifest.counts["impressions"]
    rows = c["outcomes"]
    share = c["attributed_rows"] / rows if rows else 0.0
    events = manifest.counts["engagements"]
    return (
        f"impressions: open {c['open_before']:,} + landed {c['landed']:,}\n"
        f"  = closed {rows:,} + open {c['open_after']:,} + rejected {c['rejected']:,} + duplicates "
        f"{c['duplicates']:,}; attributed {share:.1%}\n"
        f"engagements: landed {events['landed']:,}\n"
        f"  = admitted {events['admitted']:,} + rejected {events['rejected']:,} + duplicates "
        f"{events['duplicates']:,}\n"
    )
