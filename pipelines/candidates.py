"""Step 5 on Beam: QUERIES -> CANDIDATES, already engaged items left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import apache_beam as beam
from threadpoolctl import threadpool_limits

from pipelines.buckets import Bucket
from pipelines.manifests import StoredFile
from pipelines.plan import NightPlan, open_items
from pipelines.steps import add_step, table_of
from retrieval.candidates import retrieve_candidates
from retrieval.index import ExactIndex


@dataclass
class RetrieveCandidates(beam.PTransform):
    """Ask the index with every query, each draw with its own quota."""

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "retrieve candidates" >> beam.Map(retrieve_bucket_candidates, self.plan)


def retrieve_bucket_candidates(bucket: Bucket, plan: NightPlan) -> Bucket:
    """Step 5 for one bucket."""
    files = plan.catalogue["ITEMS"]
    with add_step(bucket, "retrieve_candidates") as result:
        queries = table_of(bucket, "QUERIES")
        candidates = retrieve_candidates(
            queries,
            table_of(bucket, "HISTORY").select(["user_id", "item_id"]),
            open_index(plan.root, files),
            open_items(plan.root, files),
            plan.config.retrieval,
        )
        result.tables = {"CANDIDATES": candidates}
        result.rows = (queries.num_rows, candidates.num_rows)
    return result.bucket()


@lru_cache(maxsize=1)
def open_index(root: str, files: tuple[StoredFile, ...]) -> ExactIndex:
    """The index over the catalogue, once a process.

    From then on a matrix product has one thread: buckets run side by side, and threads of OpenBLAS
    that wait for each other on busy cores took four times as long.
    """
    threadpool_limits(1, user_api="blas")
    return ExactIndex.over(open_items(root, files))
