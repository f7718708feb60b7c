"""One user's story on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.explain.story import UserStory
from pipelines.explain.words import (
    brought,
    came_from,
    counted,
    did,
    fate,
    growth,
    leaning,
    members,
    why,
)
from pipelines.explain.words import worth_of as reward_text
from pipelines.pages.report import percent

_MEMBERS, _SEEN = 5, 12


def show_story(console: Console, story: UserStory) -> None:
    """Interests, what they earn, tonight's draws, the feed, what was seen."""
    who = f"{story.name} ({story.user})" if story.name != str(story.user) else story.name
    console.print(f"User {who} as of the night of {story.date}, for {story.serves}", style="bold")
    for note in story.notes:
        console.print(note, markup=False)
    show_interests(console, story)
    _show(console, "What each earns tonight", EARNS, earns_rows(story))
    _show(console, "Drawn, and what came of it", DRAWN, drawn_rows(story))
    _show(console, "Why each position of the feed stands where it stands", FEED, feed_rows(story))
    _show(console, "Seen and done lately", SAW, seen_rows(story)[:_SEEN])


EARNS = ("interest", "surface", "reward, 95 % interval", "leans on", "chance", "drawn")
DRAWN = ("slot", "surface", "asked with", "chance", "brought", "shown", "done")
FEED = ("position", "surface", "item", "draw", "why", "then")
SAW = ("when", "surface", "item", "for interest", "done", "value")


def show_interests(console: Console, story: UserStory) -> None:
    """Each interest with its members, the most important first."""
    for one in story.interests:
        console.print(
            f"\n{one.cluster_id}. {one.medoid.title}  {percent(one.share, 0)} of the importance, "
            f"{counted(len(one.members), 'item')}, {one.first_at} to {one.last_at}",
            style="bold",
            markup=False,
        )
        if len(one.members) > 1:
            console.print(f"   with {members(one, _MEMBERS)}", markup=False)
        console.print(f"   {one.lineage}; items by night: {growth(one)}", markup=False, style="dim")


def earns_rows(story: UserStory) -> list[tuple[str, ...]]:
    """A row an interest and surface."""
    return [
        (
            f"{one.cluster_id} {one.medoid.title}",
            worth.surface,
            reward_text(worth),
            leaning(worth),
            percent(worth.chance),
            "drawn" if worth.drawn else "",
        )
        for one in story.interests
        for worth in one.worth
    ]


def drawn_rows(story: UserStory) -> list[tuple[str, ...]]:
    """A row a draw."""
    return [
        (
            str(d.slot),
            d.surface,
            f"{d.title} (interest {d.cluster_id})",
            percent(d.propensity),
            brought(d),
            str(d.shown),
            str(d.done),
        )
        for d in story.draws
    ]


def feed_rows(story: UserStory) -> list[tuple[str, ...]]:
    """A row a position."""
    return [
        (str(p.position), p.surface, p.title, str(p.slot), why(p), fate(p)) for p in story.places
    ]


def seen_rows(story: UserStory) -> list[tuple[str, ...]]:
    """A row an impression, the newest first."""
    return [
        (s.at, s.surface, s.title, came_from(s, story.interests), did(s), f"{s.value:g}")
        for s in story.seen
    ]


def _show(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    if not rows:
        return
    console.print()
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
