"""Step 4 on Beam: CLUSTER_REWARDS -> QUERIES, every draw with its probability."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from selection.queries import select_queries


@dataclass
class SelectQueries(beam.PTransform):
    """Draw tonight's query clusters of every user and surface."""

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "select queries" >> beam.Map(select_bucket_queries, self.plan)


def select_bucket_queries(bucket: Bucket, plan: NightPlan) -> Bucket:
    """Step 4 for one bucket."""
    config = plan.config
    with add_step(bucket, "select_queries") as result:
        rewards = table_of(bucket, "CLUSTER_REWARDS")
        queries = select_queries(
            rewards,
            open_items(plan.root, plan.catalogue["ITEMS"]),
            config.selections,
            run_date=plan.date,
            seed=config.seed,
            salt=config.draw_salt,
        )
        result.tables = {"QUERIES": queries}
        result.rows = (rewards.num_rows, queries.num_rows)
    return result.bucket()
