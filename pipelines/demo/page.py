"""The demo as one page of pictures: the same numbers as on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.demo.loop import ARMS, EVIDENCE, DemoRun
from pipelines.demo.measures import StoryRow, names_in_order
from pipelines.demo.views import (
    LAST,
    STORY_COLUMNS,
    STORY_NUMERIC,
    STORY_TOPICS,
    Findings,
    barren_text,
    chart_statements,
    checks_text,
    interval_text,
    rate_text,
    sql_statements,
    story_cells,
)
from pipelines.pages.charts import (
    BLUE,
    GREEN,
    GREY,
    QUIET,
    RED,
    Interval,
    Series,
    dot_chart,
    interval_chart,
    line_chart,
)
from pipelines.pages.report import Listing, Picture, Report, Section, grid_of, percent
from profiling.bootstrap import Estimate
from profiling.schema import FloatArray

_COLORS = (GREY, BLUE, GREEN)  # of ARMS


def demo_page(findings: Findings) -> Report:
    """The page: the verdict, the arms, the story user, what to ask next."""
    run = findings.run
    options, (_, _, overall) = run.options, findings.verdict[0]
    _, _, evidence = findings.evidence_verdict[0]
    counts, reward, _ = findings.rates[-1]
    return Report(
        title="Queryloop: does learning what a query earned pay?",
        lead=(
            f"A simulated world of {options.users:,} users, whose tastes differ from their past "
            f"engagements by a mismatch of {options.mismatch:g}. A third of them get their queries "
            "by raw counts of past engagements, a third by reward: what the queries brought, night "
            "by night, and a third by a reward that leans on evidence: what the user did with "
            "items like the query, and everyone with items around it. All go through the same Beam "
            "jobs as any warehouse. Nothing here is scripted; another seed gives another world."
        ),
        facts=(
            (f"Uplift of reward, last {LAST} days", interval_text(overall)),
            (f"Uplift of evidence, last {LAST} days", interval_text(evidence)),
            ("Engagement rate by counts, last day", percent(counts.value)),
            ("Engagement rate by reward, last day", percent(reward.value)),
        ),
        sections=(_arms(findings), _story(run), _questions(run)),
        footer=(
            f"Made by `queryloop demo --users {options.users} --nights {options.nights} --seed "
            f"{options.seed} --mismatch {options.mismatch:g}`. This page fetches nothing."
        ),
    )


def _arms(findings: Findings) -> Section:
    run = findings.run
    rows = [
        (str(day + 1), *map(rate_text, rates), *_day_uplifts(findings, day))
        for day, rates in enumerate(findings.rates)
    ]
    columns = ("day", *(f"by {name}" for name in ARMS), "uplift of reward", "uplift of evidence")
    both = zip(findings.verdict, findings.evidence_verdict, strict=True)
    groups = [
        (name, f"{n:,}", interval_text(reward), interval_text(evidence))
        for (name, n, reward), (_, _, evidence) in both
    ]
    return Section(
        "The three arms",
        paragraphs=(barren_text(run), checks_text(run), run.retrieval),
        pictures=(*_arm_pictures(findings), *_barren_pictures(run)),
        grids=(
            grid_of("Engagement rate with its 95 % interval", columns, rows, columns),
            grid_of(
                f"Uplift over the last {LAST} days; the story user is left out",
                ("who", "users", "uplift of reward", "uplift of evidence"),
                groups,
                ("users", "uplift of reward", "uplift of evidence"),
            ),
        ),
    )


def _arm_pictures(findings: Findings) -> tuple[Picture, Picture]:
    nights, sql = _nights(findings.run), chart_statements(findings.run)
    rates = [
        _band(f"by {name}", nights, [day[arm] for day in findings.rates], _COLORS[arm])
        for arm, name in enumerate(ARMS)
    ]
    return (
        Picture(
            line_chart(rates, x_label="day", y_label="engaged impressions"),
            "Engagement rate of each arm with its 95 % interval (bootstrap over users). The first "
            "queries are drawn before anything is known.",
            sql["rates"],
        ),
        Picture(
            interval_chart(
                [Interval(name, e.value, e.low, e.high) for name, _, e in findings.verdict],
                label=f"uplift of reward over counts, last {LAST} days",
            ),
            "A barren interest is a user's largest one that earns nothing today. Users without one "
            "have less to gain. It is of the rates of the last days.",
            sql["rates"],
        ),
    )


def _barren_pictures(run: DemoRun) -> tuple[Picture, ...]:
    """None where on some day an arm showed nothing to users with a barren interest."""
    if not np.isfinite(run.barren_shares).all():
        return ()
    nights = _nights(run)
    shares = [
        Series(f"by {name}", nights, run.barren_shares[:, arm].tolist(), _COLORS[arm])
        for arm, name in enumerate(ARMS)
    ]
    return (
        Picture(
            line_chart(shares, x_label="day", y_label="impressions spent on barren interests"),
            "Users with a barren interest: the share of what they saw that came from it. Every "
            "interest keeps a chance, so that it may come back. Which one is barren only the world "
            "knows; no table has it.",
        ),
    )


def _nights(run: DemoRun) -> list[int]:
    return list(range(1, run.options.nights + 1))


def _story(run: DemoRun) -> Section:
    sql = chart_statements(run)
    names = names_in_order(run.story, STORY_TOPICS)
    colors = {STORY_TOPICS[0]: RED, STORY_TOPICS[1]: GREEN}
    quiet = (QUIET[i % len(QUIET)] for i in range(len(names)))
    palette = [colors.get(name) or next(quiet) for name in names]
    rewards = [_story_line(run.story, n, c, "reward") for n, c in zip(names, palette, strict=True)]
    chances = [_story_line(run.story, n, c, "chance") for n, c in zip(names, palette, strict=True)]
    shown, engaged = (_story_counts(run, names, field) for field in ("shown", "engaged"))
    order = {name: i for i, name in enumerate(names)}
    rows = sorted(run.story, key=lambda row: (row.day, order[row.name]))
    return Section(
        f"One user: many {STORY_TOPICS[0]} in the past, a little {STORY_TOPICS[1]}",
        paragraphs=(
            f"User {run.world.story_user}, in the reward arm, saved "
            f"{run.world.sizes[run.world.story_user - 1].max()} recipes and does not care for them "
            "any more. The few pieces of furniture are what this user is after today. The loop "
            "knows neither; it is left out of all means above.",
        ),
        pictures=(
            Picture(
                line_chart(rewards, x_label="day", y_label="reward: value per impression"),
                "What the loop believes each interest earns, before each day; bands are 95 % "
                "intervals of the two interests of the story.",
                sql["rewards"],
            ),
            Picture(
                line_chart(chances, x_label="day", y_label="chance to be among tonight's queries"),
                "The exact chance of each interest to be drawn; QUERIES have that of the drawn.",
                sql["chances"],
            ),
            Picture(
                dot_chart(names, shown, engaged, palette),
                "What its queries brought on each day and what was engaged with. No dot: not "
                "drawn, or the user did not come.",
                sql["shown"],
            ),
        ),
        grids=(
            grid_of(
                "Night by night: * marks what was drawn; the last rows are for the day to come",
                STORY_COLUMNS,
                [story_cells(row) for row in rows],
                STORY_NUMERIC,
            ),
        ),
    )


def _questions(run: DemoRun) -> Section:
    listings = [Listing(question, sql) for question, sql in sql_statements(run)]
    night = f"queryloop report --warehouse {run.root} --out night.html"
    user = f"queryloop explain --warehouse {run.root} --user {run.world.story_user}"
    listings += [
        Listing("How the loop did, night by night", night),
        Listing("Why the story user sees what they see", f"{user} --html user.html"),
    ]
    return Section(
        "Three questions to ask it",
        paragraphs=(f'Run each with: queryloop sql --warehouse {run.root} "..."',),
        listings=tuple(listings),
    )


def _band(name: str, nights: Sequence[int], estimates: list[Estimate], color: str) -> Series:
    return Series(
        name,
        nights,
        [e.value for e in estimates],
        color,
        [e.low for e in estimates],
        [e.high for e in estimates],
    )


def _day_uplifts(findings: Findings, day: int) -> tuple[str, str]:
    days = slice(day, day + 1)
    reward, evidence = findings.uplift_of(days), findings.uplift_of(days, arm=EVIDENCE)
    return interval_text(reward), interval_text(evidence)


def _story_line(rows: tuple[StoryRow, ...], name: str, color: str, field: str) -> Series:
    mine = [row for row in rows if row.name == name]
    told = name in STORY_TOPICS
    band = told and field == "reward"
    return Series(
        name,
        [row.day for row in mine],
        [getattr(row, field) for row in mine],
        color,
        [row.low for row in mine] if band else None,
        [row.high for row in mine] if band else None,
        quiet=not told,
    )


def _story_counts(run: DemoRun, names: list[str], field: str) -> FloatArray:
    """(names, days) float64 of `shown` or `engaged`."""
    counts = np.zeros((len(names), run.options.nights))
    for row in run.story:
        if row.day <= run.options.nights:
            counts[names.index(row.name), row.day - 1] = getattr(row, field)
    return counts
