"""Step 3 on Beam: OUTCOMES, closed draws and last night's REWARDS -> REWARDS."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from profiling.schema import ints
from selection.cluster_tallies import roll_up_tallies
from selection.experiments import NO_ARM, fit_arms
from selection.item_rates import tally_item_rates
from selection.prior import prior_sums
from selection.rewards import RewardInputs, tally_rewards


@dataclass
class TallyRewards(beam.PTransform):
    """Sums are carried by decay and grow by tonight's outcomes.

    Beside them, sums for the prior, and this bucket's part of ITEM_RATES.
    """

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "tally rewards" >> beam.Map(tally_bucket_rewards, self.plan)


def tally_bucket_rewards(bucket: Bucket, plan: NightPlan) -> Bucket:
    """Step 3 for one bucket."""
    config = plan.config
    with add_step(bucket, "tally_rewards") as result:
        outcomes = table_of(bucket, "OUTCOMES")
        inputs = RewardInputs(
            outcomes=outcomes,
            closed_draws=table_of(bucket, "CLOSED_DRAWS"),
            rewards=table_of(bucket, "REWARDS"),
        )
        rewards = tally_rewards(
            inputs,
            config.rewards,
            config.actions,
            value_range=config.outcomes.value_range,
            parent_cutoff=plan.parent_cutoff,
        )
        learners = fit_arms(ints(outcomes, "user_id"), config.experiment)
        item_rates = tally_item_rates(
            outcomes, learners, config.rewards, value_range=config.outcomes.value_range
        )
        tallies = roll_up_tallies(
            rewards,
            table_of(bucket, "PROFILES"),
            open_items(plan.root, plan.catalogue["ITEMS"]),
            config.rewards,
            now=plan.cutoff,
            surfaces=config.surfaces,
        )
        arms = (
            fit_arms(ints(tallies, "user_id"), config.experiment) if config.experiment else NO_ARM
        )
        result.tables = {"REWARDS": rewards, "ITEM_RATES": item_rates}
        result.sums = prior_sums(tallies, arms).to_pylist()
        result.rows = (outcomes.num_rows, rewards.num_rows)
    return result.bucket()
