"""Steps 1 and 2 see the users who are due; what is settled of the others waits beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import apache_beam as beam
import pyarrow as pa

from pipelines.plan import NightPlan, open_items
from pipelines.runners.buckets import Bucket
from pipelines.runners.steps import table_of
from profiling.history import fading_rows
from profiling.schema import ints, sort_rows
from profiling.tables import HISTORY, PROFILES
from selection.settled import DueInputs, due_queries, due_users, of_users, replace_users

_STATE = (HISTORY, PROFILES)  # with rows of every user; the other tables hold what is going on
_DUE = "due users"
_FADED = "faded rows"  # of whole HISTORY


@dataclass
class SetAsideSettled(beam.PTransform):
    """HISTORY and PROFILES become those of due users, and stay whole under another name."""

    plan: NightPlan

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "set aside" >> beam.Map(set_aside_settled, self.plan)


@dataclass
class BringBackSettled(beam.PTransform):
    """HISTORY and PROFILES are whole again, with what the steps made of the due users."""

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """One call a bucket."""
        return buckets | "bring back" >> beam.Map(bring_back_settled)


def set_aside_settled(bucket: Bucket, plan: NightPlan) -> Bucket:
    """The bucket with the rows of due users under the tables' own names."""
    config = plan.config
    whole = {s.name: _by_user(table_of(bucket, s.name), s.key) for s in _STATE}
    users = due_users(
        DueInputs(
            engagements=table_of(bucket, "ENGAGEMENTS"),
            impressions=table_of(bucket, "IMPRESSIONS"),
            open=table_of(bucket, "OPEN"),
            profiles=whole["PROFILES"],
            past_profiles=table_of(bucket, "PAST_PROFILES"),
            embedding_version=open_items(plan.root, plan.catalogue["ITEMS"]).version,
        ),
        config.outcomes,
        now=plan.cutoff,
    )
    faded = fading_rows(
        whole["HISTORY"],
        config.actions,
        config.profiles,
        horizon_us=config.horizon_us,
        parent_cutoff=plan.parent_cutoff,
    )
    tables = {name: t.filter(pa.array(of_users(t, users))) for name, t in whole.items()}
    tables |= {f"whole {name}": t for name, t in whole.items()}
    tables["QUERIES"] = due_queries(
        table_of(bucket, "QUERIES"),
        users,
        config.outcomes,
        now=plan.cutoff,
        parent_cutoff=plan.parent_cutoff,
    )
    tables |= {_DUE: pa.table({"user_id": users}), _FADED: pa.table({"row": faded})}
    return replace(bucket, tables=bucket.tables | tables)


def bring_back_settled(bucket: Bucket) -> Bucket:
    """The bucket with whole HISTORY and PROFILES."""
    tables = dict(bucket.tables)
    users, faded = ints(tables.pop(_DUE), "user_id"), ints(tables.pop(_FADED), "row")
    for schema in _STATE:
        whole, gone = tables.pop(f"whole {schema.name}"), faded if schema is HISTORY else None
        tables[schema.name] = replace_users(whole, users, tables[schema.name], gone)
    books = bucket.counts["build_profiles"] | {"out": tables["PROFILES"].num_rows}
    return replace(bucket, tables=tables, counts=bucket.counts | {"build_profiles": books})


def _by_user(table: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Stored rows are in key order; what is not is put so."""
    users = ints(table, "user_id")
    return table if (users[1:] >= users[:-1]).all() else sort_rows(table, key)
