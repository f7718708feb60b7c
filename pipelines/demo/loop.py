"""A world whose answer is known, night by night through the same jobs as any warehouse.

Three isolated arms, queries by raw counts, by reward, and by reward that leans on evidence, meet
the same kind of users. Nothing below
knows a taste: it lands what happened, runs the night, serves the feed it made, and measures. Only
the world (see `worlds`) decides what is engaged with.

Outcomes count after 6 hours here, with no lateness, so that a day's morning is learned from on the
same night and its evening on the next: eight nights are enough to see the loop close.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig, render_config
from pipelines.demo.measures import (
    Served,
    StoryNight,
    StoryRow,
    barren_shares,
    count_by_user,
    rows_of_user,
    story_day,
    story_rows,
)
from pipelines.demo.options import DemoOptions
from pipelines.lab.policies import policy_named
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.training import TrainOptions, check_extra, train_models
from pipelines.worlds.demo import ACTION, SURFACE, World
from profiling.actions import Action
from profiling.schema import FloatArray, IntArray, floats, ints
from retrieval.feed import FeedConfig
from retrieval.model.towers import ModelConfig
from retrieval.training.learning import TrainingConfig
from selection.chances import inclusion_chances
from selection.experiments import Arm, Experiment, arms_of
from selection.outcomes import OutcomeConfig

START = dt.date(2026, 3, 1)  # the first day that is served
ARMS = ("counts", "reward", "evidence")
COUNTS, REWARD, EVIDENCE = 0, 1, 2  # places in them
MARKER = "demo.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class DemoRun:
    """What happened.

    Attributes:
        arms: (n,) int64 places in ARMS.
        served: Counts by day and user.
        barren_shares: (days, 3) share of the impressions of users with a barren interest that went
            to it, by arm.
        story: The story user's interests before every day, and after the last.
        checks: What must hold in any world.
        retrieval: What step 5 asked on the last night, and why.
    """

    options: DemoOptions
    world: World
    root: str
    arms: IntArray
    served: Served
    barren_shares: FloatArray
    story: tuple[StoryRow, ...]
    checks: RewardChecks
    retrieval: str


@dataclass(frozen=True)
class RewardChecks:
    """Rows of CLUSTER_REWARDS over all nights that break, or could break, a promise.

    Attributes:
        never_shown: Rows of interests without a record.
        not_average: Of these, rows whose reward is not exactly the average they lean on.
        smallest_reward: Over all rows.
        smallest_chance: Inclusion probability over all rows of the reward arm.
    """

    never_shown: int
    not_average: int
    smallest_reward: float
    smallest_chance: float


def night_config(options: DemoOptions) -> NightConfig:
    """The defaults, but for the arms, the action, the short window, and slots that take turns.

    With them every query is heard in the few positions that a user sees.
    """
    arms = (
        Arm(ARMS[COUNTS], 0.35, policy_named("counts").selection),
        Arm(ARMS[REWARD], 0.35, policy_named("reward_importance").selection),
        Arm(ARMS[EVIDENCE], 0.3, policy_named("evidence").selection),
    )
    return NightConfig(
        actions=(Action(ACTION),),
        surfaces=(SURFACE,),
        seed=options.seed,
        draw_days=1,
        outcomes=OutcomeConfig(window_hours=6, lateness_hours=0),
        experiment=Experiment("demo", "isolated", arms),
        model=ModelConfig(width=16, hidden=32),  # the world has 16 topics and no more
        training=TrainingConfig(epochs=1, uniform_negatives=256),
        feed=FeedConfig(merge="round_robin"),
    )


def play(options: DemoOptions, tell: Tell = lambda line: None) -> DemoRun:
    """Make the world and its warehouse under `options.out`, serve every day, run every night.

    Args:
        options: Size, length, seed, mismatch and place.
        tell: Called with a line of progress after each night.

    Raises:
        FileExistsError: `options.out` holds something that no demo made.
    """
    nightly = night_config(options)
    experiment = nightly.experiment
    assert experiment is not None
    ids = np.arange(1, options.users + 1, dtype=np.int64)
    arms = arms_of(ids, experiment)
    story_user = int(ids[arms == REWARD][0])
    world = World.create(options.users, options.seed, options.mismatch, story_user=story_user)

    root = _clear(options)
    warehouse = Warehouse.create(root, render_config(nightly), buckets=2)
    past = {
        "ITEMS": world.items_table(),
        "TOPICS": world.topics_table(),
        "ENGAGEMENTS": world.past_engagements(START),
    }
    land(warehouse, past, source="the world's past")
    run = RunOptions(progress=False)
    manifests = [run_night(warehouse, START - dt.timedelta(days=1), run, config=nightly)]
    tell(f"night 0  profiles and first queries for {options.users:,} users")
    if options.model:
        tell(f"night 0  {_train(warehouse, nightly, manifests[0].date)}")
    days: list[tuple[pa.Table, pa.Table]] = []
    for i in range(options.nights):
        day = START + dt.timedelta(days=i)
        impressions, engagements = world.serve(warehouse.read("FEED", manifests[-1]), day)
        days.append((impressions, engagements))
        tables = {"IMPRESSIONS": impressions, "ENGAGEMENTS": engagements}
        land(warehouse, tables, source=f"served on {day}")
        manifests.append(run_night(warehouse, day, run, config=nightly))
        tell(
            f"night {i + 1}  {impressions.num_rows:,} impressions, "
            f"{engagements.num_rows:,} engaged with"
        )
    return measure(options, world, warehouse, arms, manifests, days)


def _train(warehouse: Warehouse, config: NightConfig, date: dt.date) -> str:
    """A model an arm, since they learn alone, from the past; what came of it."""
    try:
        check_extra()
    except ValueError as error:
        return f"no model retrieves: {error}"
    started = time.perf_counter()
    made = train_models(warehouse, date, config, TrainOptions(config.seed))
    pairs = sum(int(record.report["pairs"]) for record in made)
    seconds = time.perf_counter() - started
    return (
        f"{len(made)} retrieval models, one an arm, from {pairs:,} engagements in {seconds:.0f} s"
    )


def _retrieval(manifest: Manifest) -> str:
    """What step 5 asked, arm by arm."""
    asked = [
        f"{name} by {how['arm']}" + (f" (model {how['model']})" if how["model"] else "")
        for name, how in manifest.retrieval.items()
    ]
    return f"Retrieval on the last night: {', '.join(asked)}."


def measure(
    options: DemoOptions,
    world: World,
    warehouse: Warehouse,
    arms: IntArray,
    manifests: list[Manifest],
    days: list[tuple[pa.Table, pa.Table]],
) -> DemoRun:
    """What the days and nights say; the story user counts in no mean."""
    counted = np.where(world.user_ids == world.story_user, -1, world.barren)
    served = Served(
        shown=count_by_user((shown for shown, _ in days), options.users),
        engaged=count_by_user((engaged for _, engaged in days), options.users),
    )
    return DemoRun(
        options=options,
        world=world,
        root=warehouse.root,
        arms=arms,
        served=served,
        barren_shares=barren_shares((shown for shown, _ in days), counted, arms, len(ARMS)),
        story=_story(options, world, warehouse, manifests, days),
        checks=_checks(options, warehouse, arms, manifests),
        retrieval=_retrieval(manifests[-1]),
    )


def _story(
    options: DemoOptions,
    world: World,
    warehouse: Warehouse,
    manifests: list[Manifest],
    days: list[tuple[pa.Table, pa.Table]],
) -> tuple[StoryRow, ...]:
    rows: list[StoryRow] = []
    config = night_config(options)
    for i, manifest in enumerate(manifests):
        tables = {
            name: rows_of_user(warehouse.read(name, manifest), world.story_user)
            for name in ("PROFILES", "CLUSTER_REWARDS", "QUERIES")
        }
        rewards, queries = tables["CLUSTER_REWARDS"], tables["QUERIES"]
        chances = _chances(rewards, config, manifest.date)
        night = StoryNight(tables["PROFILES"], rewards, queries, chances)
        seen = None
        if i < len(days):
            shown, engaged = (rows_of_user(table, world.story_user) for table in days[i])
            seen = story_day(shown, engaged, queries)
        rows += story_rows(i + 1, night, seen)
    return tuple(rows)


def _checks(
    options: DemoOptions, warehouse: Warehouse, arms: IntArray, manifests: list[Manifest]
) -> RewardChecks:
    never, wrong, smallest, chance = 0, 0, np.inf, np.inf
    config = night_config(options)
    for manifest in manifests:
        rewards = warehouse.read("CLUSTER_REWARDS", manifest)
        reward, average = floats(rewards, "reward"), floats(rewards, "prior_mean")
        unseen = floats(rewards, "weight") == 0.0
        never += int(unseen.sum())
        wrong += int((reward[unseen] != average[unseen]).sum())
        smallest = min(smallest, float(reward.min(initial=np.inf)))
        mine = rewards.filter(pa.array(arms[ints(rewards, "user_id") - 1] == REWARD))
        chance = min(chance, float(_chances(mine, config, manifest.date).min(initial=np.inf)))
    return RewardChecks(never, wrong, smallest, chance)


def _chances(rewards: pa.Table, config: NightConfig, date: dt.date) -> FloatArray:
    """(n,) inclusion probability of the interests of one arm's users."""
    return inclusion_chances(
        rewards, config.selections, run_date=date, seed=config.seed, salt=config.draw_salt
    )


def _clear(options: DemoOptions) -> str:
    """Make a place; what an earlier demo left there is removed, anything else is not touched."""
    out = options.out
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise FileExistsError(f"{out} holds something that no demo made; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "warehouse", ignore_errors=True)
    (out / MARKER).write_text(json.dumps(asdict(options), default=str) + "\n")
    return str(out / "warehouse")
