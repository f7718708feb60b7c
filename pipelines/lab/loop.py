"""One night of a replay: the night's own step functions, all users at once, nothing stored.

The loop that `pipelines.night` runs on Beam, closed: tonight's QUERIES meet outcomes that are
known, and what they bring is tomorrow night's OUTCOMES and ENGAGEMENTS. An impression counts on the
night of its day: it has no window and nothing comes late.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig
from pipelines.plan import cutoff_of
from profiling.actions import Action
from profiling.decay import DAY_US
from profiling.hashing import hash63
from profiling.history import update_history
from profiling.items import Items
from profiling.profiles import ProfileInputs, build_profiles
from profiling.schema import FloatArray, IntArray, ints
from profiling.tables import ENGAGEMENTS, HISTORY, PAST_PROFILES, PROFILES
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.cluster_tallies import roll_up_tallies
from selection.draws import close_draws, draws_of
from selection.evidence import EvidenceInputs, Slopes
from selection.evidence_slopes import fit_slopes, slope_sums
from selection.experiments import NO_ARM, fit_arms
from selection.item_rates import add_item_rates, tally_item_rates
from selection.outcomes import OutcomeConfig
from selection.policies import SelectionConfig
from selection.prior import fit_prior, prior_sums
from selection.queries import select_queries
from selection.rewards import RewardInputs, tally_rewards
from selection.tables import ITEM_RATES, OUTCOMES, QUERIES, REWARDS, SERVED_DRAWS

FIRST = dt.date(2024, 1, 1)  # the day of what was shown at the beginning
SURFACE, ACTION = "home", "liked"


@dataclass(frozen=True)
class Shown:
    """What the users of a day saw.

    Attributes:
        user_ids: (s,) int64.
        item_ids: (s,) int64.
        values: (s,) float64 in [0, 1].
        liked: (s,) bool, whether the item enters its user's interests.
        draws: (s,) int64 rows of last night's QUERIES; -1 at the beginning.
    """

    user_ids: IntArray
    item_ids: IntArray
    values: FloatArray
    liked: np.ndarray[tuple[int], np.dtype[np.bool_]]
    draws: IntArray


@dataclass(frozen=True)
class LoopState:
    """What a night leaves to the next one: the night's tables."""

    history: pa.Table = field(default_factory=HISTORY.empty)
    profiles: pa.Table = field(default_factory=PROFILES.empty)
    past_profiles: pa.Table = field(default_factory=PAST_PROFILES.empty)
    rewards: pa.Table = field(default_factory=REWARDS.empty)
    item_rates: pa.Table = field(default_factory=ITEM_RATES.empty)
    outcomes: tuple[pa.Table, ...] = ()
    queries: pa.Table = field(default_factory=QUERIES.empty)
    cutoffs: tuple[int, ...] = ()
    slopes: Slopes | None = None

    @property
    def parent_cutoff(self) -> int | None:
        """The cut-off of the night before."""
        return self.cutoffs[-1] if self.cutoffs else None


@dataclass(frozen=True)
class Loop:
    """What all nights of a replay share.

    Attributes:
        config: Of the night; its selection is the policy.
        neighbours: The items around each item, (n, k) rows.
        start_counts: Whether what was shown at the beginning are impressions, whose outcomes are
            evidence; otherwise only engagements, from before there was a feed.
    """

    items: Items
    config: NightConfig
    neighbours: IntArray
    start_counts: bool = True


def loop_config(config: NightConfig, selection: SelectionConfig, seed: int) -> NightConfig:
    """`config` as a replay runs it: one surface, one action, no window, one policy."""
    return replace(
        config,
        actions=(Action(ACTION),),
        surfaces=(SURFACE,),
        seed=seed,
        draw_days=1,
        outcomes=OutcomeConfig(window_hours=0.0, lateness_hours=0.0),
        selection=selection,
        experiment=None,
    )


def learn(loop: Loop, state: LoopState, shown: Shown, night: int) -> LoopState:
    """Steps 1 to 3: what was shown on day `night` enters every record."""
    config, now = loop.config, cutoff_of(day_of(night))
    history = update_history(
        state.history,
        _engagements(shown, night),
        loop.items,
        config.actions,
        config.profiles,
        horizon_us=config.horizon_us,
        parent_cutoff=state.parent_cutoff,
    )
    built = build_profiles(
        ProfileInputs(
            history.history, history.touched, state.profiles, state.past_profiles, loop.items
        ),
        config.profiles,
        config.actions,
        now=now,
        cutoffs=np.array(state.cutoffs, np.int64),
        horizon_us=config.horizon_us,
    )
    outcomes = _outcomes(shown, state.queries, night)
    if night == 0 and not loop.start_counts:
        outcomes = OUTCOMES.empty()
    closed = close_draws(
        draws_of(state.queries, SERVED_DRAWS.empty()),
        outcomes,
        horizon_us=config.horizon_us,
        now=now,
        parent_cutoff=state.parent_cutoff,
    )
    rewards = tally_rewards(
        RewardInputs(outcomes, closed, state.rewards),
        config.rewards,
        config.actions,
        value_range=config.outcomes.value_range,
        parent_cutoff=state.parent_cutoff,
    )
    return LoopState(
        history=history.history,
        profiles=built.profiles,
        past_profiles=built.past_profiles,
        rewards=rewards,
        item_rates=_item_rates(loop, state, outcomes),
        outcomes=(*state.outcomes, outcomes)[-config.evidence.days :],
        cutoffs=(*state.cutoffs, now),
        slopes=state.slopes,
    )


class Chosen(NamedTuple):
    """CLUSTER_REWARDS and QUERIES of a night, and what it fitted for the next one."""

    cluster_rewards: pa.Table
    queries: pa.Table
    slopes: Slopes


def choose(loop: Loop, state: LoopState, night: int) -> Chosen:
    """The second pass of step 3, and step 4, of `night`."""
    config, now = loop.config, cutoff_of(day_of(night))
    tallies = roll_up_tallies(
        state.rewards,
        state.profiles,
        loop.items,
        config.rewards,
        now=now,
        surfaces=config.surfaces,
    )
    inputs = RollUpInputs(
        profiles=state.profiles,
        rewards=state.rewards,
        items=loop.items,
        prior=fit_prior([prior_sums(tallies, NO_ARM)], config.prior),
        actions=config.actions,
        evidence=_evidence(loop, state),
    )
    surfaces, value_range = config.surfaces, config.outcomes.value_range
    rolled = roll_up_cluster_rewards(
        inputs, config.rewards, now=now, surfaces=surfaces, value_range=value_range
    )
    sums = slope_sums(inputs, config.rewards, now=now, surfaces=surfaces, value_range=value_range)
    queries = select_queries(
        rolled,
        loop.items,
        config.selections,
        run_date=day_of(night),
        seed=config.seed,
        salt=config.draw_salt,
    )
    return Chosen(rolled, queries, fit_slopes(sums, config.evidence))


def day_of(night: int) -> dt.date:
    """The date of a night; what night i draws is shown on day i + 1."""
    return FIRST + dt.timedelta(days=night)


def _item_rates(loop: Loop, state: LoopState, outcomes: pa.Table) -> pa.Table:
    if loop.config.selection.prior != "evidence":
        return state.item_rates
    config = loop.config.rewards
    arms = fit_arms(ints(outcomes, "user_id"), None)
    part = tally_item_rates(outcomes, arms, config, value_range=loop.config.outcomes.value_range)
    return add_item_rates(state.item_rates, [part], config, parent_cutoff=state.parent_cutoff)


def _evidence(loop: Loop, state: LoopState) -> EvidenceInputs | None:
    if loop.config.selection.prior != "evidence":
        return None
    return EvidenceInputs(
        frozenset({NO_ARM}),
        pa.concat_tables(state.outcomes),
        state.item_rates,
        loop.neighbours,
        loop.config.evidence,
        state.slopes,
    )


def _times(shown: Shown, night: int) -> IntArray:
    """(s,) microseconds: at noon, a user's items a second apart, in the order shown."""
    noon = cutoff_of(day_of(night)) - DAY_US // 2
    return noon + 1_000_000 * _positions(shown)


def _positions(shown: Shown) -> IntArray:
    """(s,) int64 place of each item among its user's, in the order given."""
    order = np.argsort(shown.user_ids, kind="stable")
    users = shown.user_ids[order]
    first = np.searchsorted(users, users)
    positions = np.empty(len(users), np.int64)
    positions[order] = np.arange(len(users)) - first
    return positions


def _engagements(shown: Shown, night: int) -> pa.Table:
    """ENGAGEMENTS: the items that were liked."""
    liked = shown.liked
    users, items = shown.user_ids[liked], shown.item_ids[liked]
    n = len(users)
    ids = hash63("replayed event", users, items)
    return ENGAGEMENTS.build(
        {
            "event_id": ids,
            "user_id": users,
            "item_id": items,
            "action": pa.array([ACTION] * n, pa.string()),
            "at": _times(shown, night)[liked],
            "impression_id": pa.nulls(n, pa.int64()),
            "synthetic": np.zeros(n, bool),
            "content_digest": ids,
        }
    )


def _outcomes(shown: Shown, queries: pa.Table, night: int) -> pa.Table:
    """OUTCOMES as step 2 writes them: of logged draws; what was shown at first has none."""
    drawn = shown.draws >= 0
    draws = queries.take(pa.array(shown.draws, mask=~drawn))
    texts = {c: draws[c].fill_null("") for c in ("query_type", "arm", "policy")}
    n = len(shown.user_ids)
    return OUTCOMES.build(
        {
            **texts,
            **{c: draws[c] for c in ("query_id", "cluster_id", "propensity")},
            "impression_id": hash63("replayed impression", shown.user_ids, shown.item_ids),
            "draw_id": draws["draw_id"].fill_null(0),
            "run_date": pa.repeat(pa.scalar(day_of(night)), n),
            "user_id": shown.user_ids,
            "item_id": shown.item_ids,
            "at": _times(shown, night),
            "surface": pa.array([SURFACE] * n, pa.string()),
            "position": _positions(shown),
            "examination": np.ones(n),
            "value": shown.values,
            "actions": shown.liked.astype(np.int64),
            "credit": np.ones(n),
            "attribution": pa.array(np.where(drawn, "logged", "none").tolist(), pa.string()),
        }
    )
