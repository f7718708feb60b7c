"""Step 5 on Beam: QUERIES -> CANDIDATES, already engaged items left out."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import add_step, table_of
from pipelines.serving import ArmServing, Serving, open_index, open_model
from profiling.schema import sort_rows
from retrieval.candidates import retrieve_candidates
from retrieval.encoders import ModelEncoder, encode_users
from retrieval.tables import CANDIDATES, ENCODINGS


@dataclass
class RetrieveCandidates(beam.PTransform):
    """Ask the index with every query, each draw with its own quota."""

    plan: NightPlan
    serving: Serving

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "retrieve candidates" >> beam.Map(
            retrieve_bucket_candidates, self.plan, self.serving
        )


def retrieve_bucket_candidates(bucket: Bucket, plan: NightPlan, serving: Serving) -> Bucket:
    """Step 5 for one bucket, arm by arm."""
    with add_step(bucket, "retrieve_candidates") as result:
        queries = table_of(bucket, "QUERIES")
        parts = []
        for name, arm in serving.items():
            mine = queries.filter(pc.equal(queries["arm"], name))
            encodings = encode_bucket(bucket, mine, plan, arm)
            parts.append((encodings, retrieve_arm(bucket, mine, encodings, plan, arm)))
        candidates = pa.concat_tables([CANDIDATES.empty(), *(found for _, found in parts)])
        encoded = pa.concat_tables([ENCODINGS.empty(), *(encodings for encodings, _ in parts)])
        result.tables = {
            "CANDIDATES": sort_rows(candidates, CANDIDATES.key),
            "ENCODINGS": sort_rows(encoded, ENCODINGS.key),
        }
        result.rows = (queries.num_rows, candidates.num_rows)
    return result.bucket()


def encode_bucket(bucket: Bucket, queries: pa.Table, plan: NightPlan, arm: ArmServing) -> pa.Table:
    """ENCODINGS of the users who ask this arm's model, each once."""
    if arm.model is None:
        return ENCODINGS.empty()
    model = open_model(plan, arm.model)
    users = pc.unique(queries["user_id"])
    history, profiles = (table_of(bucket, name) for name in ("HISTORY", "PROFILES"))
    actions, reads = plan.config.actions, arm.model.histories
    encoded = encode_users(model, history, profiles, users, actions, reads, cutoff=plan.cutoff)
    return ENCODINGS.build(
        {
            "run_date": pa.repeat(pa.scalar(plan.date), encoded.num_rows),
            "user_id": encoded["user_id"],
            "model": pa.repeat(pa.scalar(arm.model.number), encoded.num_rows),
            "encoding": encoded["encoding"],
        }
    )


def retrieve_arm(
    bucket: Bucket, queries: pa.Table, encodings: pa.Table, plan: NightPlan, arm: ArmServing
) -> pa.Table:
    """CANDIDATES of one arm's queries."""
    encoder = None
    if arm.model is not None:
        encoder = ModelEncoder(open_model(plan, arm.model), encodings)
    return retrieve_candidates(
        queries,
        table_of(bucket, "HISTORY").select(["user_id", "item_id"]),
        open_index(plan, arm),
        open_items(plan.root, plan.catalogue["ITEMS"]),
        arm.config,
        encoder,
    )
