"""Step 2 on Beam: ripe IMPRESSIONS with ENGAGEMENTS and the draws that were shown -> OUTCOMES."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from profiling.intake import admit_rows
from selection.draws import draws_of
from selection.outcomes import OutcomeInputs, attribute_outcomes


@dataclass
class AttributeOutcomes(beam.PTransform):
    """Impressions whose horizon ended close, once, and are attributed to what caused them."""

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "attribute outcomes" >> beam.Map(attribute_bucket_outcomes, self.plan)


def attribute_bucket_outcomes(bucket: Bucket, plan: NightPlan) -> Bucket:
    """Step 2 for one bucket."""
    config = plan.config
    served, kept, refused = _admit_served_draws(bucket)
    with add_step(bucket, "attribute_outcomes") as result:
        inputs = OutcomeInputs(
            impressions=table_of(bucket, "IMPRESSIONS"),
            open=table_of(bucket, "OPEN"),
            history=table_of(bucket, "HISTORY"),
            draws=draws_of(table_of(bucket, "QUERIES"), kept),
            feed=bucket.tables.get("FEED"),
            profiles=table_of(bucket, "PROFILES"),
            past_profiles=table_of(bucket, "PAST_PROFILES"),
            items=open_items(plan.root, plan.catalogue["ITEMS"]),
            last_outcomes=table_of(bucket, "last OUTCOMES"),
        )
        update = attribute_outcomes(
            inputs,
            config.outcomes,
            config.actions,
            now=plan.cutoff,
            run_date=plan.date,
            parent_cutoff=plan.parent_cutoff,
        )
        result.tables = {
            "OUTCOMES": update.outcomes,
            "OPEN": update.open,
            "CLOSED_DRAWS": update.closed_draws,
            "HISTORY": update.history,
            "SERVED_DRAWS": served,
            "REJECTED": pa.concat_tables([refused, update.rejected]),
        }
        closed = pc.count_distinct(update.outcomes["impression_id"]).as_py()
        attributed = pc.sum(pc.not_equal(update.outcomes["attribution"], "none")).as_py() or 0
        result.counts["impressions"] = {
            "open_before": inputs.open.num_rows,
            "landed": inputs.impressions.num_rows,
            "outcomes": closed,
            "open_after": update.open.num_rows,
            "rejected": update.rejected.num_rows,
            "duplicates": update.duplicates,
            "attributed_rows": attributed,
        }
        result.rows = (inputs.open.num_rows + inputs.impressions.num_rows, closed)
    return result.bucket()


def _admit_served_draws(bucket: Bucket) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Tonight's new SERVED_DRAWS, all that may still be shown, and REJECTED."""
    new, known = table_of(bucket, "SERVED_DRAWS"), table_of(bucket, "earlier SERVED_DRAWS")
    admitted = admit_rows(new, known, [], source="SERVED_DRAWS", id_column="draw_id")
    return admitted.rows, pa.concat_tables([known, admitted.rows]), admitted.rejected
