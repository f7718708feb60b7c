"""What the operators' commands print: tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # what they need of Beam is not needed to print them
    from pipelines.operate.collect import Collection
    from pipelines.operate.difference import Measure, NightDiff
    from pipelines.operate.doctor import Checkup
    from pipelines.operate.erase import Erasure
    from pipelines.operate.forecast import Change, Forecast
    from pipelines.operate.reshard import Resharding
    from pipelines.operate.status import Night, Status, Waiting
    from pipelines.operate.validation import Validation

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def show_status(console: Console, status: Status) -> None:
    """Where a warehouse stands."""
    head = status.head
    rows = [("warehouse", f"{status.root}, {status.buckets} buckets, imports: {status.landings}")]
    if head is None:
        rows.append(("newest night", "none yet"))
    else:
        served = f"{head.queries:,} queries, {head.feed:,} places of feeds"
        rows.append(
            ("newest night", f"{head.date}, {head.kind}, manifest {head.manifest}: {served}")
        )
        rows.append(("its tables", f"{status.bytes / 1e6:,.1f} MB, made in {head.seconds:.1f} s"))
    rows.append(
        ("models", f"{status.models}, newest {status.newest_model}" if status.models else "none")
    )
    rows.append(("waiting", _waiting(status.waiting)))
    rows += [("broke off or runs", f"{s.date}: {_jobs(s.jobs)}") for s in status.staged]
    if status.config_problem:
        rows.append(("configuration", f"cannot be used: {status.config_problem}"))
    elif status.config_changed:
        rows.append(("configuration", "changed since; `queryloop plan` says what"))
    if status.next_night:
        command = f"queryloop night --warehouse {status.root} --date {status.next_night}"
        rows.append(("next", command))
    _pairs(console, rows)


def show_nights(console: Console, nights: Sequence[Night]) -> None:
    """The chain of manifests; models and configurations where there is more than one."""
    models, configs = len({n.model for n in nights}) > 1, len({n.config for n in nights}) > 1
    extra = [name for name, shown in (("model", models), ("config", configs)) if shown]
    names = ["manifest", "night", "kind", *_NUMBERS, *extra, "seconds"]
    narrow = console.width < 110
    table = _table(*(_BROKEN.get(n, n) if narrow else n for n in names))
    if narrow:
        table.padding = (0, 1, 0, 0)
    for n in nights:
        numbers = [n.impressions, n.engagements, n.outcomes, n.rejected, n.queries, n.feed]
        place = f"{n.manifest}" if n.on_chain else f"({n.manifest})"
        cells = [place, f"{n.date}", n.kind, *(f"{x:,}" for x in numbers)]
        cells += [f"{n.model or ''}"] * models + [n.config[:8]] * configs
        table.add_row(*cells, f"{n.seconds:.1f}")
    console.print(table)
    if any(not n.on_chain for n in nights):
        console.print("(n): a branch or a check that readers do not see")


_NUMBERS = ("impressions", "engagements", "outcomes", "rejected", "queries", "feed")
_BROKEN = {  # headings for a terminal of 80 columns
    "manifest": "mani-\nfest",
    "impressions": "impres-\nsions",
    "engagements": "engage-\nments",
    "outcomes": "out-\ncomes",
    "rejected": "re-\njected",
    "seconds": "sec-\nonds",
}


def show_forecast(console: Console, plan: Forecast) -> None:
    """What a night would do and why."""
    rows = [("night", f"{plan.date}, {plan.kind}")]
    if plan.problem:
        rows.append(("refused", plan.problem))
    if plan.replays:
        rows.append(("runs again", ", ".join(map(str, plan.replays))))
    imports = ", ".join(map(str, plan.landings))
    rows.append(("new rows", _waiting(plan.new) + (f"; of imports {imports}" if imports else "")))
    known = "" if plan.known_users is None else f" beside {plan.known_users:,} that have interests"
    rows.append(("users touched", f"{plan.users:,}{known}"))
    rows += [("new in the catalogue", path) for path in plan.catalogue]
    if plan.embedding:
        rows.append(("embedding", f"{_arrow(plan.embedding)}: every profile is built anew"))
    rows += [("changed option", f"{c.name}: {_arrow(c)}") for c in plan.config]
    if plan.new_options:
        rows.append(("new options", f"{plan.new_options} that came with a release, at defaults"))
    rows += [("changed version", f"{c.name}: {_arrow(c)}") for c in plan.versions]
    rows += [
        ("retrieval", f"{name}: {how}" if name else how) for name, how in plan.retrieval.items()
    ]
    if plan.finished:
        rows.append(("goes on from", _jobs(plan.finished)))
    guess = plan.estimate
    if guess.seconds is None:
        rows.append(("time", "unknown: no night was run yet"))
    else:
        of = f"by {guess.nights} past {'night' if guess.nights == 1 else 'nights'}"
        rows.append(("time", f"{guess.seconds:.0f} s, {guess.low:.0f} to {guess.high:.0f} {of}"))
    _pairs(console, rows)


def show_collection(console: Console, found: Collection) -> None:
    """What a collection takes, or would."""
    console.print(f"{found.nights} newest nights stay whole")
    for name, size in sorted(found.tables.items(), key=lambda t: -t[1]):
        console.print(f"  {name}: {size / 1e6:,.1f} MB")
    console.print(f"{found.files:,} files, {found.bytes / 1e6:,.1f} MB")


def show_erasure(console: Console, found: Erasure) -> None:
    """What was erased, and the proof."""
    for name, rows in sorted(found.rows.items()):
        console.print(f"{name}: {rows:,} rows")
    console.print(f"{found.files} files written anew without user {found.user_id}")
    searched = f"{found.searched_rows:,} rows of {found.searched_files:,} files"
    if not found.found:
        console.print(f"searched {searched}: none is of user {found.user_id}")
        console.print("what `export` or `catalog` wrote elsewhere is not searched: write it anew")
        return
    console.print(f"searched {searched}; the user may still be in:")
    for place in found.found:
        console.print(Text(f"  {place}"))


def show_resharding(console: Console, found: Resharding) -> None:
    """What another number of buckets takes, or took."""
    for name, size in sorted(found.tables.items(), key=lambda t: -t[1]):
        console.print(f"  {name}: {size / 1e6:,.1f} MB")
    what = f"{found.files:,} files of {found.nights:,} nights, {found.rows:,} rows"
    verb = "written" if found.done else "to be written"
    console.print(f"{what}, {found.bytes / 1e6:,.1f} MB {verb} anew")
    if found.finished:
        console.print(f"{found.finished:,} of the files had been written by an earlier attempt")
    if not found.done:
        console.print(f"{found.before} buckets would become {found.after}; nothing has changed")
        return
    console.print(f"{found.before} buckets became {found.after}, for every reader from now on")
    console.print("the old files are in no record; `queryloop doctor --clean` removes them")


def show_checkup(console: Console, checkup: Checkup) -> None:
    """What the doctor found, with a cure where there is something to mend."""
    for found in checkup.findings:
        line = Text.assemble((f"{found.state:<5}", _COLOURS[found.state]), f"{found.what}: ")
        console.print(line.append(found.detail))
        if found.cure:
            console.print(Text(f"      {found.cure}"))


def show_validation(console: Console, found: Validation) -> None:
    """Anomalies of a night's input."""
    for name, figures in found.figures.items():
        console.print(f"{name}: {figures.rows:,} rows of {figures.users:,} users")
    if not found.figures:
        console.print(f"nothing has landed for the night of {found.date}")
    against = f"held against {len(found.nights)} nights before"
    if not found.anomalies:
        console.print(f"no anomaly; {against}")
        return
    table = _table("anomaly", "table", "column", "found", left=4)
    for a in found.anomalies:
        table.add_row(a.kind, a.table, a.column, a.detail)
    console.print(table)
    console.print(against)


def show_difference(console: Console, diff: NightDiff) -> None:
    """What changed between two nights."""
    from pipelines.operate.forecast import new_options

    new = new_options(diff.config)
    for change in (*(c for c in diff.config if c not in new), *diff.versions):
        console.print(Text(f"{change.name}: {_arrow(change)}"))
    _measures(console, f"rows, {diff.before} and {diff.after}", diff.rows, "{:,.0f}")
    _measures(console, "of what closed", diff.rates, "{:.4f}")
    for name, measures in diff.distributions.items():
        _measures(console, name, measures, "{:,.4g}")
    table = _table("user", "surface", "moved", "interest", "share", "why", left=6)
    table.title = "whose chances moved most"
    for m in diff.moved:
        share = f"{m.share_before:.2f} to {m.share_after:.2f}"
        interest = f"{m.cluster_id} {m.title or ''}".strip()
        table.add_row(f"{m.user_id}", m.surface, f"{m.moved:.2f}", interest, share, m.why)
    console.print(table)


def _measures(console: Console, title: str, measures: Iterable[Measure], form: str) -> None:
    table = _table("", "before", "after", "change", left=1)
    table.title = title
    for m in measures:
        cells = ["" if x is None else form.format(x) for x in (m.before, m.after)]
        table.add_row(m.what, *cells, _change(m))
    console.print(table)


def _change(measure: Measure) -> str:
    if measure.before is None or measure.after is None or not measure.before:
        return ""
    return f"{measure.after / measure.before - 1:+.1%}"


def _arrow(change: Change) -> str:
    return f"{change.before} -> {change.after}"


def _waiting(waiting: Sequence[Waiting]) -> str:
    if not waiting:
        return "nothing"
    return "; ".join(f"{w.table} {w.rows:,} of {w.first} to {w.last}" for w in waiting)


def _jobs(jobs: Sequence[str]) -> str:
    return f"finished jobs {', '.join(jobs)}" if jobs else "no job finished"


def _pairs(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    table = _table("", "", left=2)
    table.show_header = False
    last = ""
    for name, value in rows:
        table.add_row("" if name == last else name, Text(value))
        last = name
    console.print(table)


def _table(*columns: str, left: int = 3) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right", overflow="fold")
    return table
