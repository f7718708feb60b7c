"""Step 3, second pass, on Beam: REWARDS rolled up to tonight's clusters -> CLUSTER_REWARDS."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evidence import EvidenceSource, read_evidence
from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from profiling.decay import DAY_US
from profiling.schema import ints
from selection.cluster_rewards import RollUpInputs, roll_up_cluster_rewards
from selection.evidence_slopes import slope_sums
from selection.prior import Prior


@dataclass
class RollUpClusterRewards(beam.PTransform):
    """Rates shrunk to the user's and the global average, for the users who are served."""

    plan: NightPlan
    prior: Prior
    evidence: EvidenceSource | None = None

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "roll up" >> beam.Map(roll_up_bucket, self.plan, self.prior, self.evidence)


def roll_up_bucket(
    bucket: Bucket, plan: NightPlan, prior: Prior, evidence: EvidenceSource | None = None
) -> Bucket:
    """Step 3's second pass for one bucket."""
    config = plan.config
    with add_step(bucket, "roll_up_cluster_rewards") as result:
        profiles = active_profiles(table_of(bucket, "PROFILES"), plan)
        inputs = RollUpInputs(
            profiles=profiles,
            rewards=table_of(bucket, "REWARDS"),
            items=open_items(plan.root, plan.catalogue["ITEMS"]),
            prior=prior,
            actions=config.actions,
            experiment=config.experiment,
            evidence=None if evidence is None else read_evidence(bucket, plan, evidence),
        )
        now, surfaces, values = plan.cutoff, config.surfaces, config.outcomes.value_range
        rolled = roll_up_cluster_rewards(
            inputs, config.rewards, now=now, surfaces=surfaces, value_range=values
        )
        result.sums = slope_sums(
            inputs, config.rewards, now=now, surfaces=surfaces, value_range=values
        )
        result.tables = {"CLUSTER_REWARDS": rolled}
        result.rows = (profiles.num_rows, rolled.num_rows)
    return result.bucket()


def active_profiles(profiles: pa.Table, plan: NightPlan) -> pa.Table:
    """Profiles of users with a positive engagement within `serve_active_days`."""
    since = plan.cutoff - plan.config.serve_active_days * DAY_US
    return profiles.filter(pc.greater_equal(pa.array(ints(profiles, "as_of")), since))
