"""The night without Beam, buckets or files: the oracle that the Beam night must equal."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.config import NightConfig
from pipelines.plan import cutoff_of
from pipelines.store.tables import SCHEMAS
from profiling.decay import DAY_US
from profiling.history import update_history
from profiling.items import Items
from profiling.profiles import ProfileInputs, build_profiles
from profiling.schema import ints
from retrieval.candidates import retrieve_candidates
from retrieval.feed import rerank_feed
from retrieval.index.exact import ExactIndex
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.cluster_tallies import roll_up_tallies
from selection.draws import draws_of
from selection.evidence import EvidenceInputs, Slopes
from selection.evidence_slopes import fit_slopes, slope_sums
from selection.experiments import fit_arms
from selection.item_rates import add_item_rates, tally_item_rates
from selection.outcomes import OutcomeInputs, attribute_outcomes
from selection.prior import fit_prior, prior_sums
from selection.queries import select_queries
from selection.rewards import RewardInputs, tally_rewards


@dataclass
class NightTwin:
    """All users at once, state in memory."""

    config: NightConfig
    items: Items
    tables: dict[str, pa.Table] = field(default_factory=dict)
    cutoffs: list[int] = field(default_factory=list)
    queries: list[pa.Table] = field(default_factory=list)
    closed: list[pa.Table] = field(default_factory=list)
    slopes: Slopes | None = None

    def table(self, name: str) -> pa.Table:
        return self.tables.get(name, SCHEMAS[name].empty())

    def night(
        self, date: dt.date, engagements: pa.Table, impressions: pa.Table
    ) -> dict[str, pa.Table]:
        """Steps 1 to 6 in order."""
        config, now = self.config, cutoff_of(date)
        parent = self.cutoffs[-1] if self.cutoffs else None
        history = update_history(
            self.table("HISTORY"), engagements, self.items, config.actions, config.profiles,
            horizon_us=config.horizon_us, parent_cutoff=parent,
        )  # fmt: skip
        profiles = build_profiles(
            ProfileInputs(
                history=history.history,
                touched=history.touched,
                profiles=self.table("PROFILES"),
                past_profiles=self.table("PAST_PROFILES"),
                items=self.items,
            ),
            config.profiles, config.actions, now=now,
            cutoffs=np.array(self.cutoffs, np.int64), horizon_us=config.horizon_us,
        )  # fmt: skip
        queries = pa.concat_tables([SCHEMAS["QUERIES"].empty(), *self.queries])
        outcomes = attribute_outcomes(
            OutcomeInputs(
                impressions=impressions, open=self.table("OPEN"), history=history.history,
                draws=draws_of(queries, SCHEMAS["SERVED_DRAWS"].empty()), feed=None,
                profiles=profiles.profiles, past_profiles=profiles.past_profiles,
                items=self.items, last_outcomes=self.table("OUTCOMES"),
            ),
            config.outcomes, config.actions, now=now, run_date=date, parent_cutoff=parent,
        )  # fmt: skip
        made = {
            "HISTORY": outcomes.history, "PROFILES": profiles.profiles,
            "PAST_PROFILES": profiles.past_profiles, "OPEN": outcomes.open,
            "OUTCOMES": outcomes.outcomes, "CLOSED_DRAWS": outcomes.closed_draws,
            "REJECTED": pa.concat_tables([history.rejected, outcomes.rejected]),
        }  # fmt: skip
        self.closed.append(made["OUTCOMES"])
        made |= self._reward(made, now, parent)
        made |= self._serve(made, date)
        self.tables |= made
        self.cutoffs.append(now)
        self.queries.append(made["QUERIES"])
        return made

    def _reward(
        self, made: dict[str, pa.Table], now: int, parent: int | None
    ) -> dict[str, pa.Table]:
        config = self.config
        values = config.outcomes.value_range
        inputs = RewardInputs(made["OUTCOMES"], made["CLOSED_DRAWS"], self.table("REWARDS"))
        rewards = tally_rewards(
            inputs, config.rewards, config.actions, value_range=values, parent_cutoff=parent
        )
        tallies = roll_up_tallies(
            rewards, made["PROFILES"], self.items, config.rewards, now=now, surfaces=config.surfaces
        )
        arms = fit_arms(ints(tallies, "user_id"), config.experiment)
        prior = fit_prior([prior_sums(tallies, arms)], config.prior)
        part = tally_item_rates(
            made["OUTCOMES"], fit_arms(ints(made["OUTCOMES"], "user_id"), config.experiment),
            config.rewards, value_range=values,
        )  # fmt: skip
        item_rates = add_item_rates(
            self.table("ITEM_RATES"), [part], config.rewards, parent_cutoff=parent
        )
        since = now - config.serve_active_days * DAY_US
        served = made["PROFILES"].filter(
            pa.array(made["PROFILES"]["as_of"].cast(pa.int64()).to_numpy() >= since)
        )
        inputs = RollUpInputs(
            profiles=served, rewards=rewards, items=self.items, prior=prior,
            actions=config.actions, experiment=config.experiment,
            evidence=self._evidence(item_rates),
        )  # fmt: skip
        how = {"now": now, "surfaces": config.surfaces, "value_range": values}
        rolled = roll_up_cluster_rewards(inputs, config.rewards, **how)
        self.slopes = fit_slopes(slope_sums(inputs, config.rewards, **how), config.evidence)
        return {"REWARDS": rewards, "ITEM_RATES": item_rates, "CLUSTER_REWARDS": rolled}

    def _evidence(self, item_rates: pa.Table) -> EvidenceInputs:
        arms = frozenset(n for n, s in self.config.selections.items() if s.prior == "evidence")
        near = self.items.vectors @ self.items.vectors.T
        np.fill_diagonal(near, -2.0)
        around = np.argsort(-near.round(6), axis=1, kind="stable")
        return EvidenceInputs(
            arms, pa.concat_tables(self.closed), item_rates,
            around[:, : self.config.evidence.neighbours], self.config.evidence, self.slopes,
        )  # fmt: skip

    def _serve(self, made: dict[str, pa.Table], date: dt.date) -> dict[str, pa.Table]:
        config = self.config
        queries = select_queries(
            made["CLUSTER_REWARDS"], self.items, config.selections, run_date=date,
            seed=config.seed, salt=config.draw_salt,
        )  # fmt: skip
        seen = made["HISTORY"].select(["user_id", "item_id"])
        index = ExactIndex.over(self.items)
        candidates = retrieve_candidates(queries, seen, index, self.items, config.retrieval)
        feed = rerank_feed(candidates, queries, self.items, config.feed)
        return {"QUERIES": queries, "CANDIDATES": candidates, "FEED": feed}
