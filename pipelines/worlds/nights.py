"""Nights of a planted world by the steps of the real ones, without Beam, retrieval or feed.

Tally, prior, roll-up and selection are the functions that a night runs, so a log made here is what
the warehouse would hold: QUERIES with their propensities, OUTCOMES, and the CLUSTER_REWARDS that
every draw was made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pyarrow as pa

from pipelines.plan import cutoff_of
from pipelines.worlds.planted import ACTIONS, START, SURFACE, People, nearest_planted
from profiling.schema import FloatArray, IntArray, floats, group_offsets, ints
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.cluster_tallies import roll_up_tallies
from selection.evidence import EvidenceConfig, EvidenceInputs, Slopes
from selection.evidence_slopes import fit_slopes, slope_sums
from selection.experiments import NO_ARM, fit_arms
from selection.item_rates import add_item_rates, tally_item_rates
from selection.off_policy import LoggedNight
from selection.policies import SelectionConfig
from selection.prior import PriorConfig, fit_prior, prior_sums
from selection.queries import select_queries, weigh_clusters
from selection.rewards import RewardConfig, RewardInputs, tally_rewards
from selection.sampling import sample_sets, weigh_sets
from selection.tables import ITEM_RATES, OUTCOMES, REWARDS


@dataclass(frozen=True)
class Loop:
    """How the nights of a world are run."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)


@dataclass(frozen=True)
class PlayedNight:
    """A night and what its draws brought on the day after."""

    number: int
    log: LoggedNight
    outcomes: pa.Table
    closed_draws: pa.Table


def play_nights(people: People, loop: Loop, nights: int) -> Iterator[PlayedNight]:
    """Run nights 0 to `nights - 1`, each learning from what is known of those before."""
    profiles, known = people.profiles(), Known(REWARDS.empty(), ITEM_RATES.empty(), ())
    neighbours = None
    if loop.selection.prior == "evidence":
        neighbours = nearest_planted(loop.evidence.neighbours)
    waiting: list[tuple[pa.Table, pa.Table]] = []
    for number in range(nights):
        ripe = number - 1 - people.rules.delay
        if ripe >= 0:
            known = _learn(waiting[ripe], known, people, loop, number)
        state, slopes = _roll_up(profiles, known, people, loop, number, neighbours)
        known = replace(known, slopes=slopes)
        log = _select(state, people, loop, number)
        outcomes, closed = people.serve(log.queries, number)
        waiting.append((outcomes, closed))
        yield PlayedNight(number, log, outcomes, closed)


@dataclass(frozen=True)
class Known:
    """What the nights have learned: REWARDS, ITEM_RATES and the outcomes that evidence reads."""

    rewards: pa.Table
    item_rates: pa.Table
    outcomes: tuple[pa.Table, ...]
    slopes: Slopes | None = None


def _learn(
    brought: tuple[pa.Table, pa.Table], known: Known, people: People, loop: Loop, number: int
) -> Known:
    outcomes, closed = brought
    parent, value_range = _cutoff(number - 1), people.rules.value_range
    rewards = tally_rewards(
        RewardInputs(outcomes, closed, known.rewards),
        loop.rewards,
        ACTIONS,
        value_range=value_range,
        parent_cutoff=parent,
    )
    if loop.selection.prior != "evidence":
        return Known(rewards, known.item_rates, ())
    arms = fit_arms(ints(outcomes, "user_id"), None)
    part = tally_item_rates(outcomes, arms, loop.rewards, value_range=value_range)
    rates = add_item_rates(known.item_rates, [part], loop.rewards, parent_cutoff=parent)
    return Known(rewards, rates, (*known.outcomes, outcomes)[-loop.evidence.days :], known.slopes)


def _roll_up(
    profiles: pa.Table,
    known: Known,
    people: People,
    loop: Loop,
    number: int,
    neighbours: IntArray | None,
) -> tuple[pa.Table, Slopes]:
    now, surfaces = _cutoff(number), [SURFACE]
    tallies = roll_up_tallies(
        known.rewards, profiles, people.items, loop.rewards, now=now, surfaces=surfaces
    )
    prior = fit_prior([prior_sums(tallies, NO_ARM)], loop.prior)
    evidence = None
    if neighbours is not None:
        outcomes = pa.concat_tables([OUTCOMES.empty(), *known.outcomes])
        evidence = EvidenceInputs(
            frozenset({NO_ARM}), outcomes, known.item_rates, neighbours, loop.evidence, known.slopes
        )
    inputs = RollUpInputs(profiles, known.rewards, people.items, prior, ACTIONS, evidence=evidence)
    values = people.rules.value_range
    rolled = roll_up_cluster_rewards(
        inputs, loop.rewards, now=now, surfaces=surfaces, value_range=values
    )
    sums = slope_sums(inputs, loop.rewards, now=now, surfaces=surfaces, value_range=values)
    return rolled, fit_slopes(sums, loop.evidence)


def _select(state: pa.Table, people: People, loop: Loop, number: int) -> LoggedNight:
    selections, run_date = {"": loop.selection}, START + timedelta(days=number)
    queries = select_queries(
        state, people.items, selections, run_date=run_date, seed=people.seed, salt=""
    )
    return LoggedNight(queries, state, run_date, selections, people.seed, "")


def _cutoff(number: int) -> int:
    return cutoff_of(START + timedelta(days=number))


@dataclass(frozen=True)
class Truth:
    """What a policy is truly worth from the states of a log, summed over its nights.

    Attributes:
        value: Expected value of the draws.
        draws: Expected number of draws.
        units: Users times nights.
    """

    value: float
    draws: float
    units: float

    def __add__(self, other: Truth) -> Truth:
        """The truth of both logs together."""
        return Truth(self.value + other.value, self.draws + other.draws, self.units + other.units)


def true_value(
    people: People, night: PlayedNight, policy: SelectionConfig, *, rounds: int = 8
) -> Truth:
    """The value of `policy` from the state of a night: every cluster by its exact chance.

    Where draws compete it depends on the whole set: then the mean over `rounds` sets of every user,
    each with its exact expectation.
    """
    log = night.log
    weighed = weigh_clusters(
        log.cluster_rewards, {"": policy}, run_date=log.run_date, seed=log.seed, salt=log.salt
    )
    design = (weighed.offsets, weighed.weights, weighed.draws, weighed.floors)
    sizes = np.minimum(weighed.draws, np.diff(weighed.offsets))
    worth = people.values(night.number + 1, sizes)
    e = weigh_sets(*design, np.zeros(len(worth), bool)).propensities
    if people.rules.competing == 0.0:
        return Truth(float(e @ worth), float(e.sum()), float(len(sizes)))
    total = 0.0
    for i in range(rounds):
        keys = weighed.keys ^ np.uint64(0x9E37_79B9 * (i + 1))
        sets = sample_sets(*design, keys)
        user = np.repeat(np.arange(len(sizes)), np.diff(sets.offsets))
        total += float((worth[sets.rows] * people.kept(sets.rows, user)).sum())
    return Truth(total / rounds, float(e.sum()), float(len(sizes)))


def best_share(people: People, night: PlayedNight) -> float:
    """Share of the draws that went to interests among the user's truly best, as many as drawn."""
    draws = np.diff(group_offsets(ints(night.log.queries, "user_id")))
    worth = people.values(night.number + 1, draws)
    rank = _ranks(worth, people.offsets)
    rows = people.rows_of(night.log.queries)
    return float((rank[rows] < np.repeat(draws, draws)).mean())


def mean_value(night: PlayedNight) -> float:
    """Value per draw that the night's draws earned."""
    return float(floats(night.outcomes, "value").sum() / max(night.log.queries.num_rows, 1))


def _ranks(values: FloatArray, offsets: IntArray) -> IntArray:
    """(n,) place of each value among its group's, the largest 0."""
    group = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((-values, group))
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values)) - offsets[group[order]]
    return ranks
