"""One user's story as one HTML page: the same numbers as on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.explain.interests import Interest, Worth
from pipelines.explain.story import UserStory
from pipelines.explain.terminal import (
    DRAWN,
    EARNS,
    FEED,
    SAW,
    drawn_rows,
    earns_rows,
    feed_rows,
    seen_rows,
)
from pipelines.explain.words import counted, growth, leaning, worth_of
from pipelines.pages.charts import SERIES, Series, line_chart
from pipelines.pages.report import (
    Card,
    Listing,
    Picture,
    Report,
    Section,
    grid_of,
    percent,
    telling,
)

TAGS, LINES = 6, 6  # members that are not folded away; interests that are drawn in charts


def story_page(story: UserStory, warehouse: str) -> Report:
    """The page: interests, what they earn, tonight's draws, the feed, what was seen."""
    who = f"{story.name}, {story.user}" if story.name != str(story.user) else story.name
    done = sum(bool(seen.done) for seen in story.seen)
    every = (_interests(story), _earns(story), _tonight(story), _seen(story))
    sections = [section for section in every if section.cards or section.grids]
    return Report(
        title=f"Why user {who} sees what they see",
        lead=" ".join(
            (
                f"As of the night of {story.date}, for what is served on {story.serves}.",
                *story.notes,
            )
        ),
        facts=(
            ("interests", str(len(story.interests))),
            ("queries tonight", str(len(story.draws))),
            ("positions of the feed", str(len(story.places))),
            ("latest impressions", str(len(story.seen))),
            ("of these with an action", str(done)),
        ),
        sections=(*sections, _questions(story, warehouse)),
        footer=f"queryloop explain --warehouse {warehouse} --user {story.name} --date {story.date}",
    )


def _interests(story: UserStory) -> Section:
    return Section(
        "Interests",
        paragraphs=(
            "The bar is the share of the user's importance: engagements, the older the less. In "
            "bold the item that a query asks with, the centre of the others.",
        ),
        cards=tuple(map(_card, story.interests)),
        pictures=tuple(_growth(story)),
    )


def _card(one: Interest) -> Card:
    titles = [m.title for m in one.members if m.item_id != one.medoid.item_id]
    tags = (one.medoid.title, *titles)
    worth = [_tells(w) for w in one.worth]
    return Card(
        title=f"{one.cluster_id}. {one.medoid.title}",
        share=one.share,
        tags=tags[:TAGS],
        more=tags[TAGS:],
        lines=(
            *worth,
            f"{counted(len(one.members), 'item')}, {percent(one.share, 0)} of the importance; "
            f"engaged from {one.first_at} to {one.last_at}",
            f"{one.lineage}; items by night: {growth(one)}",
        ),
        badge="drawn tonight" if any(w.drawn for w in one.worth) else "",
    )


def _tells(worth: Worth) -> str:
    return (
        f"{worth.surface}: reward {worth_of(worth)}, chance tonight {percent(worth.chance)}. "
        f"It leans on: {leaning(worth)}."
    )


def _growth(story: UserStory) -> Sequence[Picture]:
    """Size over the nights; none of a single night."""
    dates = sorted({size.date for one in story.interests for size in one.sizes})
    if len(dates) < 2:
        return ()
    places = {date: i for i, date in enumerate(dates)}
    lines = [
        Series(_short(one), [places[s.date] for s in one.sizes], [s.n_items for s in one.sizes], c)
        for one, c in zip(story.interests[:LINES], SERIES, strict=False)
    ]
    chart = line_chart(
        lines, x_label="night", y_label="items of the interest", shares=False, ticks=_days(dates)
    )
    caption = "How large each of the most important interests was, night by night."
    return (Picture(chart, caption, _HISTORY.format(user=story.user, columns="n_items")),)


def _earns(story: UserStory) -> Section:
    return Section(
        "What each interest earns",
        paragraphs=(
            "Reward is the value of an impression that the interest's queries bring, drawn towards "
            "the average of the user as far as its own record is short. The chance is the exact "
            "probability to be among tonight's queries; it is written down with every draw.",
        ),
        pictures=tuple(_rewards(story)),
        grids=(grid_of("tonight", *_told(EARNS, earns_rows(story)), ("chance",)),)
        if story.draws
        else (),
    )


def _rewards(story: UserStory) -> Sequence[Picture]:
    first = [(one, one.worth[0]) for one in story.interests[:LINES] if one.worth]
    dates = sorted({date for _, worth in first for date, _, _ in worth.earlier} | {story.date})
    if len(dates) < 2:
        return ()
    places = {date: i for i, date in enumerate(dates)}
    lines = []
    for (one, worth), colour in zip(first, SERIES, strict=False):
        nights = [(date, reward) for date, reward, _ in worth.earlier]
        nights.append((story.date, worth.reward))
        x = [places[date] for date, _ in nights]
        lines.append(Series(_short(one), x, [reward for _, reward in nights], colour))
    chart = line_chart(
        lines, x_label="night", y_label="reward: value per impression", shares=False,
        ticks=_days(dates),
    )  # fmt: skip
    caption = "What the loop believed that each earns, night by night."
    return (Picture(chart, caption, _HISTORY.format(user=story.user, columns="reward, drawn")),)


def _tonight(story: UserStory) -> Section:
    return Section(
        "Drawn tonight, and the feed made of it",
        paragraphs=(
            "A position goes to the candidate of the greatest utility among those left: relevance, "
            "and what its newness adds, less what spacing classes take off.",
        ),
        grids=tuple(
            replace(grid_of(caption, *_told(columns, rows), numeric), fold=False)
            for caption, columns, rows, numeric in (
                ("queries", DRAWN, drawn_rows(story), ("slot", "chance", "shown", "done")),
                ("the feed", FEED, feed_rows(story), ("position", "draw")),
            )
            if rows
        ),
    )


def _seen(story: UserStory) -> Section:
    rows = seen_rows(story)
    return Section(
        "Seen and done",
        paragraphs=("Impressions that have closed up to this night, the newest first.",),
        grids=(
            grid_of("impressions", *_told(SAW, rows), ("value",), _SEEN.format(user=story.user)),
        )
        if rows
        else (),
    )


def _questions(story: UserStory, warehouse: str) -> Section:
    return Section(
        "Ask further",
        paragraphs=(f'Run each with: queryloop sql --warehouse {warehouse} "..."',),
        listings=(
            Listing(
                "Every interest tonight, and what its reward leans on",
                "SELECT * FROM cluster_rewards_now WHERE user_id = "
                f"{story.user} ORDER BY importance_share DESC",
            ),
            Listing(
                "Its history, through the interests that it came from",
                f"SELECT * FROM reward_history({story.user})",
            ),
        ),
    )


_HISTORY = (
    "SELECT run_date, cluster_id, title, {columns} FROM cluster_history\n"
    "WHERE user_id = {user} ORDER BY ALL"
)
_SEEN = 'SELECT * FROM outcomes_named WHERE user_id = {user} ORDER BY "at" DESC LIMIT 40'


def _told(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """Of one surface alone its name is left out."""
    return telling(columns, rows, same=("surface",))


def _short(one: Interest) -> str:
    """Its number first: titles that begin alike are told apart."""
    title = f"{one.cluster_id} {one.medoid.title}"
    return title if len(title) <= 14 else title[:13] + "…"


def _days(dates: Sequence[str]) -> list[str]:
    """'05-08' of each date."""
    return [date[5:] for date in dates]
