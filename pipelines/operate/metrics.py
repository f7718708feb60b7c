"""A night's books in OpenMetrics' text format, for a scraper of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.store.manifests import Manifest
from pipelines.store.storage import unique_name

_HELP = {
    "queryloop_night_cutoff_seconds": "gauge: end of the newest published night, Unix time",
    "queryloop_night_manifest": "gauge: number of its manifest",
    "queryloop_night_seconds": "gauge: time by the clock, of the jobs and all",
    "queryloop_step_seconds": "gauge: work of a step, summed over buckets",
    "queryloop_rows": "gauge: rows in, out, rejected, open ... of a step",
    "queryloop_table_rows": "gauge: rows of the night's tables",
    "queryloop_table_bytes": "gauge: bytes of the night's tables",
}
Sample = tuple[str, Mapping[str, str], float]


def samples_of(manifest: Manifest) -> list[dict[str, object]]:
    """What the text has, for a program that reads JSON."""
    names = ("name", "labels", "value")
    return [dict(zip(names, sample, strict=True)) for sample in _samples(manifest)]


def render_metrics(manifest: Manifest) -> str:
    """The text of one night; ends with `# EOF`, as OpenMetrics 1.0 asks."""
    lines, last = [], ""
    for name, labels, value in _samples(manifest):
        if name != last:
            kind, text = _HELP[name].split(": ", 1)
            lines += [f"# TYPE {name} {kind}", f"# HELP {name} {text}"]
            last = name
        inner = ",".join(f'{k}="{_escaped(v)}"' for k, v in labels.items())
        lines.append(f"{name}{{{inner}}} {value:g}" if inner else f"{name} {value:.17g}")
    return "\n".join([*lines, "# EOF", ""])


def write_metrics(manifest: Manifest, path: Path) -> None:
    """Put the night's text in place of the last one's, in one step: a scraper sees either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name("." + unique_name(path.name))
    aside.write_text(render_metrics(manifest), encoding="utf-8")
    aside.replace(path)


def _samples(manifest: Manifest) -> Iterable[Sample]:
    yield "queryloop_night_cutoff_seconds", {}, manifest.cutoff / 1e6
    yield "queryloop_night_manifest", {}, float(manifest.number)
    clock = {n: s for n, s in manifest.seconds.items() if n == "all" or n.startswith("job ")}
    for name, seconds in sorted(clock.items()):
        yield "queryloop_night_seconds", {"part": name}, seconds
    for name, seconds in sorted(manifest.seconds.items()):
        if name not in clock:
            yield "queryloop_step_seconds", {"step": name}, seconds
    for step, counts in sorted(manifest.counts.items()):
        for what, rows in sorted(counts.items()):
            yield "queryloop_rows", {"step": step, "what": what}, float(rows)
    for name, files in sorted(manifest.tables.items()):
        yield "queryloop_table_rows", {"table": name}, float(sum(f.rows for f in files))
    for name, files in sorted(manifest.tables.items()):
        yield "queryloop_table_bytes", {"table": name}, float(sum(f.bytes for f in files))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
