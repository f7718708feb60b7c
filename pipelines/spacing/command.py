"""`queryloop spacing ...` and `queryloop explain-feed`: an operator's view of the feed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.config import config_from_manifest
from pipelines.config_files import config_of
from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import WarehouseOption, date_option
from pipelines.pages.report import render_report
from pipelines.plan import open_items
from pipelines.progress import told
from pipelines.spacing.file import PAGE, Known, check_spacing, load_spacing
from pipelines.spacing.inputs import changed_files, read_spacing, with_digests
from pipelines.spacing.pages import (
    curve_page,
    preview_page,
    preview_record,
    show_curve,
    show_preview,
)
from pipelines.spacing.preview import Preview, ServedNight, spacing_curve
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.summary import wide_console
from retrieval.spacing.classes import Spacing
from retrieval.spacing.explain import Explanation, Standing

FileArgument = Annotated[Path, typer.Argument(help="a spacing.yaml")]
HtmlOption = Annotated[Path | None, typer.Option(help="HTML page to write, for a browser offline")]
SampleOption = Annotated[int, typer.Option(help="users, chosen by hash")]


def check(
    file: FileArgument,
    warehouse: Annotated[
        str | None, typer.Option("--warehouse", "-w", help="check names and labels against it")
    ] = None,
    page: Annotated[int, typer.Option(help="items on a page, where no warehouse says it")] = PAGE,
    json: JsonOption = False,
) -> None:
    """Check a spacing file: refused (exit 2) or warned of, with file, line, value and cure.

    Example: queryloop spacing check W/spacing.yaml --warehouse W
    """
    known = Known()
    text = file.read_text(encoding="utf-8")
    if warehouse is not None:
        opened = Warehouse.open(warehouse)
        page = config_of(opened).feed.size
        known = known_of(opened, load_spacing(text, str(file), page=page))
    warnings = check_spacing(text, str(file), known, page=page)
    spacing = load_spacing(text, str(file), page=page)
    off = len(spacing.classes) - len(spacing.works)
    if json:
        works = [one.id for one in spacing.works]
        print_json({"file": file, "works": works, "off": off, "warnings": warnings})
        return
    for line in warnings:
        print(f"warning: {line}")
    print(f"{file}: {len(spacing.works)} classes, {off} switched off, {len(warnings)} warnings")


def preview(  # noqa: PLR0913 (one option a decision)
    file: FileArgument,
    warehouse: WarehouseOption,
    user: Annotated[int | None, typer.Option(help="one user's feed, side by side")] = None,
    sample: SampleOption = 500,
    date: Annotated[str | None, date_option("that night; the newest by default")] = None,
    against: Annotated[
        Path | None, typer.Option(help="compare with this file, not with what was served")
    ] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a file would do to the feeds of a night that was served.

    Example: queryloop spacing preview W/spacing.yaml --warehouse W --html preview.html
    """
    opened = Warehouse.open(warehouse)
    with told() as note:
        note("read the night")
        night = ServedNight.of(opened, night_of(opened, date), user=user, sample=sample)
        old = config_from_manifest(night.manifest).spacing
        if against is not None:
            old = _read(against, opened, night.config.size)
        note("rerank it twice")
        found = Preview.of(night, old, _read(file, opened, night.config.size))
    if json:
        print_json(preview_record(found))
    else:
        show_preview(wide_console(), found)
    _write(html, lambda: render_report(preview_page(found, str(file))), quiet=json)


def curve(
    file: FileArgument,
    warehouse: WarehouseOption,
    spacing_class: Annotated[str, typer.Option("--class", help="whose weight goes from 0 to 1")],
    sample: SampleOption = 500,
    date: Annotated[str | None, date_option("that night; the newest by default")] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Exposure of a class, its neighbouring pairs and the utility given up, by its weight.

    Example: queryloop spacing curve W/spacing.yaml --warehouse W --class long_videos
    """
    opened = Warehouse.open(warehouse)
    with told() as note:
        note("read the night")
        night = ServedNight.of(opened, night_of(opened, date), user=None, sample=sample)
        new = _read(file, opened, night.config.size)
        points = spacing_curve(night, new, spacing_class, note=note)
    if json:
        print_json({"class": spacing_class, "users": night.users, "points": points})
    else:
        show_curve(wide_console(), points)
    _write(html, lambda: render_report(curve_page(points, spacing_class, str(file))), quiet=json)


def diff(before: FileArgument, after: FileArgument, json: JsonOption = False) -> None:
    """Say what differs between two spacing files, class by class.

    Example: queryloop spacing diff old.yaml W/spacing.yaml
    """
    old, new = (load_spacing(f.read_text(encoding="utf-8"), str(f)) for f in (before, after))
    lines = list(differences(old, new))
    if json:
        print_json({"differences": lines})
    else:
        print(*(lines or ["no difference"]), sep="\n")


def explain_feed(
    warehouse: WarehouseOption,
    user: Annotated[int, typer.Option(help="whose feed")],
    position: Annotated[int, typer.Option(help="from 0")],
    surface: Annotated[str, typer.Option(help="which feed")] = "home",
    date: Annotated[str | None, date_option("that night; the newest by default")] = None,
    json: JsonOption = False,
) -> None:
    """Say why an item stands where it stands: its utility, what caused it, the rival it beat.

    Example: queryloop explain-feed --warehouse W --user 17 --position 0
    """
    opened = Warehouse.open(warehouse)
    night = ServedNight.of(opened, night_of(opened, date), user=user, sample=1)
    if json:
        print_json(explain_record(night, user, surface, position))
    else:
        print(*explain_lines(night, user, surface, position), sep="\n")


def explain_lines(night: ServedNight, user: int, surface: str, position: int) -> Iterator[str]:
    """The explanation of one position of the FEED that was served.

    Raises:
        ValueError: There is no such position.
    """
    row, found = _explained(night, user, surface, position)
    config = config_from_manifest(night.manifest)
    changed = changed_files(config.spacing, night.warehouse.root)
    if changed:
        yield f"note: {', '.join(changed)} changed since that night; members may differ from then"
    yield f"user {user}, {surface}, position {position} of the night of {night.manifest.date}"
    yield from _standing_lines("stands there", found.chosen, night)
    draws = ", ".join(f"{d['draw_id']} (rank {d['rank']})" for d in row["draws"])
    yield f"  retrieved by draw {draws}; config version {row['config_version']}"
    yield from _rival_lines(found, night)


def explain_record(night: ServedNight, user: int, surface: str, position: int) -> dict[str, Any]:
    """The same as `--json` has it: the row of FEED, the item that stands there, its rival."""
    row, found = _explained(night, user, surface, position)
    return {"night": night.manifest.date, **row, **asdict(found)}


def _explained(
    night: ServedNight, user: int, surface: str, position: int
) -> tuple[dict[str, Any], Explanation]:
    feed, explained = night.explained(user, surface)
    if not 0 <= position < feed.num_rows:
        raise ValueError(
            f"the feed of user {user} on {surface!r} has {feed.num_rows} positions from 0; "
            f"there is no {position}"
        )
    row: dict[str, Any] = feed.slice(position, 1).to_pylist()[0]
    return row, explained(position)


def _rival_lines(found: Explanation, night: ServedNight) -> Iterator[str]:
    if found.rival is None:
        yield "no other candidate was left"
        return
    yield from _standing_lines("the rival it beat", found.rival, night)
    margin = found.chosen.utility - found.rival.utility
    yield f"  by {margin:.6f}" + (", the smaller item id" if abs(margin) < 1e-9 else "")
    classes = ", ".join(found.decided_by)
    yield f"decided by: {classes or 'no class: it would stand there without any one of them'}"


def _standing_lines(what: str, one: Standing, night: ServedNight) -> Iterator[str]:
    title = night.titles.get(one.item_id)
    yield f"{what}: item {one.item_id}" + (f", {title}" if title else "")
    yield (
        f"  utility {one.utility:.6f} = relevance {one.relevance:.6f} (place {one.rank} by "
        f"relevance) + diversity {one.diversity:.6f} - penalties {sum(one.penalties.values()):.6f}"
    )
    for name, penalty in one.penalties.items():
        if penalty > 0:
            yield f"  {name}: -{penalty:.6f}"
        for cause in one.causes:
            if cause.spacing_class == name:
                yield (
                    f"    -{cause.penalty:.6f} for item {cause.item_id} at position "
                    f"{cause.position}"
                )


def known_of(warehouse: Warehouse, spacing: Spacing) -> Known:
    """What the warehouse has, for the checks of names."""
    config, catalogue = config_of(warehouse), warehouse.catalogue()
    if not catalogue["ITEMS"]:
        return Known(surfaces=config.surfaces, arms=tuple(config.selections))
    every = replace(spacing, classes=tuple(replace(c, enabled=True) for c in spacing.classes))
    items = open_items(warehouse.root, catalogue["ITEMS"])
    prepared = read_spacing(warehouse.root, catalogue, every, items)
    counts = prepared.members.sum(axis=0)
    return Known(
        surfaces=config.surfaces,
        arms=tuple(config.selections),
        segments=tuple(prepared.segments),
        labelled={c.id: int(n) for c, n in zip(every.classes, counts, strict=True)},
    )


def differences(old: Spacing, new: Spacing) -> Iterator[str]:
    """What changed, one line a field; classes are told apart by their identifiers."""
    before, after = ({c.id: c for c in s.classes} for s in (old, new))
    yield from _fields("", replace(old, classes=()), replace(new, classes=()))
    for one in sorted(before.keys() | after.keys()):
        if one not in after:
            yield f"class {one}: removed"
        elif one not in before:
            yield f"class {one}: added"
        else:
            yield from _fields(f"class {one}: ", before[one], after[one])


def _fields(place: str, old: Any, new: Any) -> Iterator[str]:
    for f in fields(old):
        left, right = getattr(old, f.name), getattr(new, f.name)
        if is_dataclass(left) and is_dataclass(right):
            yield from _fields(f"{place}{f.name}.", left, right)
        elif left != right:
            yield f"{place}{f.name}: {_shown(left)} -> {_shown(right)}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def _read(file: Path, warehouse: Warehouse, page: int) -> Spacing:
    return with_digests(
        load_spacing(file.read_text(encoding="utf-8"), str(file), page=page), warehouse.root
    )


def night_of(warehouse: Warehouse, date: str | None) -> Manifest:
    """The night of `date`, else the newest that served feeds.

    Raises:
        ValueError: There is none.
    """
    if date is not None:
        return warehouse.night(dt.date.fromisoformat(date))
    for manifest in reversed(warehouse.chain(warehouse.head())):
        if manifest.tables.get("FEED") and manifest.tables.get("CANDIDATES"):
            return manifest
    raise ValueError(f"{warehouse.root} has served no feed yet; run `queryloop night` first")


def _write(path: Path | None, page: Any, *, quiet: bool) -> None:
    if path is not None:
        path.write_text(page(), encoding="utf-8")
        typer.echo(f"wrote {path}", err=quiet)
