"""What the demo found, in numbers with intervals, and as tables on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.demo.loop import ARMS, COUNTS, EVIDENCE, REWARD, START, DemoRun
from pipelines.demo.measures import (
    Mask,
    StoryRow,
    names_in_order,
    rate,
    uplift,
)
from pipelines.pages.report import percent
from pipelines.worlds.demo import FURNITURE, RECIPES, TOPIC_NAMES
from profiling.bootstrap import Estimate, resample_weights
from profiling.schema import FloatArray

LAST = 3  # days that the verdict is over
STORY_COLUMNS = (
    "day", "interest", "items", "reward", "95 % interval", "leans on", "chance", "shown", "saved",
)  # fmt: skip
STORY_NUMERIC = ("day", "items", "reward", "95 % interval", "chance", "shown", "saved")
STORY_TOPICS = (TOPIC_NAMES[RECIPES], TOPIC_NAMES[FURNITURE])


@dataclass(frozen=True)
class Findings:
    """The run in numbers, each with its interval; computed once, shown twice."""

    run: DemoRun

    @cached_property
    def weights(self) -> FloatArray:
        """The resamples, the same for every interval."""
        return resample_weights(self.run.options.users, self.run.options.seed)

    @cached_property
    def counted(self) -> Mask:
        """(n,) everyone but the story user."""
        return np.asarray(self.run.world.user_ids != self.run.world.story_user)

    @cached_property
    def rates(self) -> list[list[Estimate]]:
        """Engagement rate of every day, by arm."""
        served, counted = (
            self.run.served,
            [self.counted & (self.run.arms == arm) for arm in range(len(ARMS))],
        )
        return [
            [rate(engaged, shown, who, self.weights) for who in counted]
            for engaged, shown in zip(served.engaged, served.shown, strict=True)
        ]

    def uplift_of(self, days: slice, who: Mask | None = None, arm: int = REWARD) -> Estimate:
        """An arm over counts, minus 1, among the users in `who`."""
        who = self.counted if who is None else self.counted & who
        treated, control = who & (self.run.arms == arm), who & (self.run.arms == COUNTS)
        return uplift(self.run.served, days, treated, control, self.weights)

    @cached_property
    def verdict(self) -> list[tuple[str, int, Estimate]]:
        """Uplift of reward over the last days: everyone, with a barren interest, without."""
        return self._verdict_of(REWARD)

    @cached_property
    def evidence_verdict(self) -> list[tuple[str, int, Estimate]]:
        """The same of the arm that leans on evidence."""
        return self._verdict_of(EVIDENCE)

    def _verdict_of(self, arm: int) -> list[tuple[str, int, Estimate]]:
        barren = self.run.world.barren >= 0
        groups = [
            ("all users", self.counted),
            ("with a barren interest", barren),
            ("without one", ~barren),
        ]
        days = slice(-LAST, None)
        return [
            (name, int((who & self.counted).sum()), self.uplift_of(days, who, arm))
            for name, who in groups
            if (who & self.counted).any()
        ]


def sql_statements(run: DemoRun) -> list[tuple[str, str]]:
    """Three statements to try, each with what it answers."""
    user = run.world.story_user
    return [
        (
            "What is each interest of the story user worth tonight, and what does that lean on?",
            "SELECT title, reward, low, high, prior_source, weight, drawn, propensity\n"
            f"FROM cluster_rewards_now WHERE user_id = {user} ORDER BY reward DESC",
        ),
        (
            "How did each come to where it is, night by night?",
            "SELECT run_date, title, lineage, n_items, reward, drawn, impressions, rate\n"
            f"FROM reward_history({user})",
        ),
        (
            "Did interests on the average weight earn their draws, by arm and night?",
            "SELECT run_date, arm, prior_source, clusters, mean_reward, share_of_draws, rate\n"
            "FROM average_weight ORDER BY ALL",
        ),
    ]


def chart_statements(run: DemoRun) -> dict[str, str]:
    """The SQL that has the numbers of each chart; what only the world knows is in no table."""
    user, first = run.world.story_user, START.isoformat()
    mine = f"WHERE user_id = {user} ORDER BY ALL"
    return {
        "rates": (
            "WITH arms AS (SELECT DISTINCT user_id, arm FROM CLUSTER_REWARDS),\n"
            'shown AS (SELECT "at"::DATE AS day, arm, count(*) AS n FROM IMPRESSIONS\n'
            f"          JOIN arms USING (user_id) WHERE user_id <> {user} GROUP BY ALL),\n"
            'engaged AS (SELECT "at"::DATE AS day, arm, count(*) AS n FROM ENGAGEMENTS\n'
            f"            JOIN arms USING (user_id) WHERE user_id <> {user}\n"
            f"            AND \"at\" >= DATE '{first}' GROUP BY ALL)\n"
            "SELECT day, arm, coalesce(engaged.n, 0) / shown.n AS rate\n"
            "FROM shown LEFT JOIN engaged USING (day, arm) ORDER BY ALL"
        ),
        "rewards": (
            "SELECT run_date + 1 AS day, title, reward, low, high, prior_source\n"
            f"FROM cluster_history {mine}"
        ),
        "chances": f"SELECT serve_date, title, propensity, slot FROM draws {mine}",
        "shown": f"SELECT serve_date, title, impressions, rate FROM draws {mine}",
    }


def print_findings(findings: Findings, console: Console) -> None:
    """Rates by night, the verdict, the story, and three SQL statements to try."""
    run = findings.run
    console.print(_rates_table(findings))
    both = zip(findings.verdict, findings.evidence_verdict, strict=True)
    for (name, users, reward), (_, _, evidence) in both:
        uplifts = f"reward {interval_text(reward)}, evidence {interval_text(evidence)}"
        console.print(f"  {name:<22}{users:>6,} users  {escape(uplifts)}", highlight=False)
    console.print(
        f"\n{barren_text(run)}\n\n{checks_text(run)}\n\n{run.retrieval}\n", highlight=False
    )
    console.print(_story_table(run))
    console.print("Three statements to try:", style="bold")
    for question, statement in sql_statements(run):
        console.print(f"\n  {question}", highlight=False, style="italic")
        one_line = " ".join(statement.split())
        command = f'queryloop sql --warehouse {run.root} "{one_line}"'
        console.print(command, soft_wrap=True, highlight=False, markup=False)


def _rates_table(findings: Findings) -> Table:
    last = min(LAST, len(findings.rates))
    table = Table(
        title="Engagement rate by arm, and uplift over raw counts (95 % interval over users)",
        caption=f"Uplift over counts, last {last} days, without the story user:",
        caption_justify="left",
        title_justify="left",
    )
    for name in ("day", *ARMS, "uplift of reward", "uplift of evidence"):
        table.add_column(name, justify="right")
    for day, rates in enumerate(findings.rates):
        ups = [findings.uplift_of(slice(day, day + 1), arm=arm) for arm in (REWARD, EVIDENCE)]
        cells = [f"{one.value:.3f}" for one in rates] + [interval_text(up) for up in ups]
        table.add_row(str(day + 1), *map(escape, cells))
    return table


def _story_table(run: DemoRun) -> Table:
    table = Table(
        title=f"User {run.world.story_user}: many Recipes in the past, a little Furniture",
        caption="chance: probability that tonight's queries include it; * marks those drawn",
        caption_justify="left",
        title_justify="left",
    )
    for name in STORY_COLUMNS:
        table.add_column(name, justify="right" if name in STORY_NUMERIC else "left", no_wrap=True)
    order = {n: i for i, n in enumerate(names_in_order(run.story, STORY_TOPICS))}
    rows = sorted(run.story, key=lambda row: (row.day, order[row.name]))
    for i, row in enumerate(rows):
        last_of_day = i + 1 == len(rows) or rows[i + 1].day != row.day
        style = {STORY_TOPICS[0]: "red", STORY_TOPICS[1]: "green"}.get(row.name, "")
        table.add_row(*story_cells(row), style=style, end_section=last_of_day)
    return table


def story_cells(row: StoryRow) -> tuple[str, ...]:
    """A row under `STORY_COLUMNS`."""
    return (
        str(row.day),
        row.name,
        str(row.n_items),
        f"{row.reward:.3f}",
        f"{row.low:.3f} to {row.high:.3f}",
        row.source,
        f"{row.chance:.2f}{'*' if row.drawn else ' '}",
        "-" if row.shown is None else str(row.shown),
        "-" if row.engaged is None else str(row.engaged),
    )


def barren_text(run: DemoRun) -> str:
    """What became of the interests that earn nothing."""
    if not np.isfinite(run.barren_shares).all():
        return "No user but the story's has an interest that earns nothing."
    first, last = run.barren_shares[0], run.barren_shares[-1]
    by_arm = [
        f"{percent(a)} and {percent(b)} by {name}"
        for a, b, name in zip(first, last, ARMS, strict=True)
    ]
    return (
        "Of their users' impressions, interests that earn nothing took, on the first and on the "
        f"last day, {', '.join(by_arm)}."
    )


def checks_text(run: DemoRun) -> str:
    """What must hold in any world."""
    checks = run.checks
    return (
        f"Of {checks.never_shown:,} rewards of interests never shown, {checks.not_average} differ "
        "from the average they lean on. The smallest reward of any interest was "
        f"{checks.smallest_reward:.4f}, the smallest chance in the reward arm "
        f"{checks.smallest_chance:.4f}."
    )


def rate_text(one: Estimate) -> str:
    """'0.101  [0.097, 0.105]'."""
    return f"{one.value:.3f}  [{one.low:.3f}, {one.high:.3f}]"


def interval_text(one: Estimate) -> str:
    """'+8.3 %  [+4.1, +12.6]'."""
    return f"{100 * one.value:+.1f} %  [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
