"""Step 6 on Beam: CANDIDATES -> FEED, with the ledger of penalties."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from pipelines.spacing.inputs import open_spacing
from profiling.schema import ints
from retrieval.feed import rerank_feed
from retrieval.spacing.measures import measure_spacing, measured_users


@dataclass
class RerankFeed(beam.PTransform):
    """Build the feed of every user and surface."""

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "rerank feed" >> beam.Map(rerank_bucket_feed, self.plan)


def rerank_bucket_feed(bucket: Bucket, plan: NightPlan) -> Bucket:
    """Step 6 for one bucket."""
    with add_step(bucket, "rerank_feed") as result:
        candidates, queries = table_of(bucket, "CANDIDATES"), table_of(bucket, "QUERIES")
        items = open_items(plan.root, plan.catalogue["ITEMS"])
        spacing = open_spacing(plan.root, plan.catalogue["ITEMS"], plan.config.spacing)
        feed = rerank_feed(candidates, queries, items, plan.config.feed, spacing=spacing)
        result.tables = {"FEED": feed}
        result.rows = (candidates.num_rows, feed.num_rows)
        if spacing.config.works:
            users = ints(candidates, "user_id")
            measured = candidates.filter(measured_users(users, spacing.config.measured_share))
            unspaced = spacing.without_classes()
            before = rerank_feed(measured, queries, items, plan.config.feed, spacing=unspaced)
            result.counts = measure_spacing(before, feed, candidates, items, spacing)
    return result.bucket()
