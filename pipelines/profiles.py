"""Step 1 on Beam: HISTORY with the new ENGAGEMENTS -> PROFILES."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from profiling.history import update_history
from profiling.profiles import ProfileInputs, build_profiles


@dataclass
class BuildProfiles(beam.PTransform):
    """New engagements enter the history; users whose own history changed get new profiles."""

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "build profiles" >> beam.Map(build_bucket_profiles, self.plan)


def build_bucket_profiles(bucket: Bucket, plan: NightPlan) -> Bucket:
    """Step 1 for one bucket."""
    config, items = plan.config, open_items(plan.root, plan.catalogue["ITEMS"])
    with add_step(bucket, "build_profiles") as result:
        update = update_history(
            table_of(bucket, "HISTORY"),
            table_of(bucket, "ENGAGEMENTS"),
            items,
            config.actions,
            config.profiles,
            horizon_us=config.horizon_us,
            parent_cutoff=plan.parent_cutoff,
        )
        inputs = ProfileInputs(
            history=update.history,
            touched=update.touched,
            profiles=table_of(bucket, "PROFILES"),
            past_profiles=table_of(bucket, "PAST_PROFILES"),
            items=items,
        )
        profiles = build_profiles(
            inputs,
            config.profiles,
            config.actions,
            now=plan.cutoff,
            cutoffs=np.array(plan.cutoffs, np.int64),
            horizon_us=config.horizon_us,
        )
        result.tables = {
            "HISTORY": update.history,
            "PROFILES": profiles.profiles,
            "PAST_PROFILES": profiles.past_profiles,
            "REJECTED": update.rejected,
        }
        landed = table_of(bucket, "ENGAGEMENTS").num_rows
        result.counts["engagements"] = {
            "landed": landed,
            "admitted": landed - update.duplicates - update.rejected.num_rows,
            "duplicates": update.duplicates,
            "rejected": update.rejected.num_rows,
        }
        result.rows = (landed, profiles.profiles.num_rows)
    return result.bucket()
