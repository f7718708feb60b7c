"""One contract for every step of the night, and for the way its buckets travel."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.candidates import retrieve_bucket_candidates
from pipelines.cluster_rewards import roll_up_bucket
from pipelines.config import NightConfig
from pipelines.feed import rerank_bucket_feed
from pipelines.landing import land
from pipelines.models import Learners
from pipelines.outcomes import attribute_bucket_outcomes
from pipelines.plan import NightPlan, cutoff_of
from pipelines.profiles import build_bucket_profiles
from pipelines.queries import select_bucket_queries
from pipelines.rewards import tally_bucket_rewards
from pipelines.runners.buckets import (
    Bucket,
    BucketCoder,
    read_tables,
)
from pipelines.runners.shuffle import gather_bucket, split_landed
from pipelines.serving import plan_serving
from pipelines.store.manifests import Part, StoredFile
from pipelines.store.tables import SCHEMAS, TableWriter
from pipelines.store.warehouse import EVENT_TABLES, Warehouse
from profiling.hashing import buckets_of, hash63
from profiling.history import ProfileConfig
from profiling.schema import TableSchema, ints, sort_rows
from retrieval.candidates import RetrievalConfig
from retrieval.feed import FeedConfig
from selection.experiments import Arm, Experiment
from selection.outcomes import OutcomeConfig
from selection.prior import PRIOR_SUMS, fit_prior
from selection.queries import SelectionConfig
from tests.pipelines.small_models import add
from tests.pipelines.small_world import (
    day,
    engagements_table,
    foreign_impressions,
    items_table,
    serve,
    start_of,
)

NIGHTS = 5
CONFIG = NightConfig(
    profiles=ProfileConfig(alpha=0.8),
    outcomes=OutcomeConfig(window_hours=6, lateness_hours=18, credit="equal"),
    retrieval=RetrievalConfig(candidates_per_query=12),
    feed=FeedConfig(size=10),
    experiment=Experiment(
        name="arms",
        arms=(
            Arm("counts", 0.5, SelectionConfig(policy="counts")),
            Arm("reward", 0.5, SelectionConfig(policy="reward", queries=3)),
        ),
    ),
)
Tables = dict[str, pa.Table]


@dataclass(frozen=True)
class Step:
    """A step on one bucket: what it reads, and what it makes."""

    call: Callable[..., Bucket]
    reads: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.call.__name__


BUILD = Step(
    build_bucket_profiles,
    ("ENGAGEMENTS", "HISTORY", "PROFILES", "PAST_PROFILES"),
    ("HISTORY", "PROFILES", "PAST_PROFILES", "REJECTED"),
)
ATTRIBUTE = Step(
    attribute_bucket_outcomes,
    (
        *("IMPRESSIONS", "OPEN", "HISTORY", "QUERIES", "SERVED_DRAWS", "earlier SERVED_DRAWS"),
        *("FEED", "PROFILES", "PAST_PROFILES", "last OUTCOMES"),
    ),
    ("OUTCOMES", "OPEN", "CLOSED_DRAWS", "HISTORY", "SERVED_DRAWS", "REJECTED"),
)
TALLY = Step(
    tally_bucket_rewards, ("OUTCOMES", "CLOSED_DRAWS", "REWARDS", "PROFILES"), ("REWARDS",)
)
ROLL_UP = Step(roll_up_bucket, ("PROFILES", "REWARDS"), ("CLUSTER_REWARDS",))
SELECT = Step(select_bucket_queries, ("CLUSTER_REWARDS",), ("QUERIES",))
RETRIEVE = Step(
    retrieve_bucket_candidates, ("QUERIES", "HISTORY", "PROFILES"), ("CANDIDATES", "ENCODINGS")
)
RERANK = Step(rerank_bucket_feed, ("CANDIDATES", "QUERIES"), ("FEED",))
STEPS = (BUILD, ATTRIBUTE, TALLY, ROLL_UP, SELECT, RETRIEVE, RERANK)
every_step = pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)


def schema_of(name: str) -> TableSchema:
    return SCHEMAS[name.rsplit(" ", 1)[-1]]


class Night:
    """The last night of a small log: its plan, its prior, and what each step read."""

    def __init__(self, root: str) -> None:
        warehouse = Warehouse.create(root, "", buckets=4)
        landing = land(warehouse, {"ITEMS": items_table()}, source="items")
        self.catalogue = {"ITEMS": landing.tables["ITEMS"], "TOPICS": ()}
        self.root = root
        add(warehouse, day(0), learners=Learners("arms", "reward"))  # the other arm has none
        self.inputs: dict[str, Tables] = {}
        state: Tables = {}
        for i in range(NIGHTS):
            self.plan = self.plan_of(i)
            self.serving = plan_serving(self.plan)
            state = self.run(state | new_rows(i, state))

    def plan_of(self, i: int) -> NightPlan:
        return NightPlan(
            root=self.root,
            buckets=1,
            kind="night",
            date=day(i),
            cutoff=cutoff_of(day(i)),
            parent=i or None,
            cutoffs=tuple(cutoff_of(day(k)) for k in range(i)),
            config=CONFIG,
            inputs=(),
            state={},
            nearby={},
            past_outcomes=(),
            catalogue=self.catalogue,
            given={},
        )

    def run(self, tables: Tables) -> Tables:
        """The night on one bucket; the state that the next one reads."""
        past = {name: tables.get(name, SCHEMAS[name].empty()) for name in ("QUERIES", "FEED")}
        learned = Bucket(0, tables)
        for step in (BUILD, ATTRIBUTE, TALLY):
            learned = self.step(step, learned)
        sums = pa.Table.from_pylist(learned.sums, PRIOR_SUMS.arrow)
        self.prior = fit_prior([sums], CONFIG.prior)
        kept = learned.tables
        chosen = Bucket(0, {n: kept[n] for n in ("PROFILES", "REWARDS")})
        chosen = self.step(SELECT, self.step(ROLL_UP, chosen))
        read = {n: kept[n] for n in ("HISTORY", "PROFILES")}
        served = Bucket(0, {"QUERIES": chosen.tables["QUERIES"], **read})
        served = self.step(RERANK, self.step(RETRIEVE, served))
        draws = pa.concat_tables([table_in(tables, "earlier SERVED_DRAWS"), kept["SERVED_DRAWS"]])
        state = {n: kept[n] for n in ("HISTORY", "OPEN", "PROFILES", "PAST_PROFILES", "REWARDS")}
        return state | {
            "last OUTCOMES": kept["OUTCOMES"],
            "earlier SERVED_DRAWS": draws,
            "last FEED": served.tables["FEED"],
            **{n: pa.concat_tables([t, served.tables[n]]) for n, t in past.items()},
        }

    def step(self, step: Step, bucket: Bucket) -> Bucket:
        self.inputs[step.name] = {n: table_in(bucket.tables, n) for n in step.reads}
        return self.call(step, bucket)

    def call(self, step: Step, bucket: Bucket) -> Bucket:
        if step is ROLL_UP:
            return step.call(bucket, self.plan, self.prior)
        if step is RETRIEVE:
            return step.call(bucket, self.plan, self.serving)
        return step.call(bucket, self.plan)

    def made(self, step: Step, tables: Tables) -> Tables:
        """What a step makes of these tables."""
        bucket = self.call(step, Bucket(0, dict(tables)))
        return {name: bucket.tables[name] for name in step.makes}

    def try_made(self, step: Step, tables: Tables) -> tuple[Tables | None, str]:
        """What a step makes, as it would be written; None and the error where it cannot."""
        try:
            return {n: SCHEMAS[n].check(t) for n, t in self.made(step, tables).items()}, ""
        except (KeyError, ValueError) as error:
            return None, str(error)


def table_in(tables: Tables, name: str) -> pa.Table:
    return tables[name] if name in tables else schema_of(name).empty()


def new_rows(i: int, state: Tables) -> Tables:
    """What lands before night i: served and foreign impressions, per-request draws, bad rows."""
    events = engagements_table(i, i)
    again = events.slice(0, 3)  # duplicates
    unknown = changed(events.slice(3, 2), "item_id", [10_000, 10_001])
    unknown = changed(unknown, "event_id", [5, 6])
    tables = {"ENGAGEMENTS": pa.concat_tables([events, again, unknown])}
    if not i:
        return tables
    shown, did = serve(state["last FEED"], i)
    foreign = foreign_impressions(i, i, own_actions=True).slice(0, 40)
    drawn = served_draws(shown, i)
    ids = ints(shown, "draw_id").tolist()
    ids[: drawn.num_rows] = drawn["draw_id"].to_pylist()
    ids[-1] = 3  # no such draw
    shown = changed(shown, "draw_id", ids)
    return {
        "ENGAGEMENTS": pa.concat_tables([tables["ENGAGEMENTS"], did]),
        "IMPRESSIONS": pa.concat_tables([shown, foreign, shown.slice(5, 2)]),
        "SERVED_DRAWS": pa.concat_tables([drawn, drawn.slice(0, 2)]),
    }


def served_draws(shown: pa.Table, i: int) -> pa.Table:
    """A draw made per request for each of the first impressions."""
    shown = shown.slice(0, 6)
    users, n = ints(shown, "user_id"), shown.num_rows
    ids = hash63("per request", users, i, ints(shown, "item_id"))
    texts = {"query_type": "item", "policy": "live/1", "arm": "", "state_version": "s"}
    return SCHEMAS["SERVED_DRAWS"].build(
        {
            **{name: [text] * n for name, text in texts.items()},
            "draw_id": ids,
            "user_id": users,
            "request_id": [f"r{k}" for k in range(n)],
            "at": np.full(n, start_of(i)),
            "surface": shown["surface"],
            "cluster_id": np.ones(n, np.int64),
            "query_id": users,
            "propensity": np.full(n, 0.5),
            "set_probability": np.full(n, 0.25),
            "content_digest": ids,
        }
    )


def changed(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(column)
    return table.set_column(table.column_names.index(column), field, pa.array(values, field.type))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(str(tmp_path_factory.mktemp("steps") / "w"))


def bytes_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def in_key_order(name: str, table: pa.Table) -> pa.Table:
    more = ("raw",) if name == "REJECTED" else ()  # one row may be refused many times
    return sort_rows(table, schema_of(name).key + more)


def assert_same(step: Step, ours: Tables, theirs: Tables) -> None:
    for name in step.makes:
        left, right = in_key_order(name, ours[name]), in_key_order(name, theirs[name])
        assert left.equals(right), name


@every_step
def test_the_inputs_are_worth_testing_with(step: Step, night: Night) -> None:
    for name, table in night.inputs[step.name].items():
        assert table.num_rows > 5, name
    for name, table in night.made(step, night.inputs[step.name]).items():
        assert table.num_rows > 0, name


@every_step
def test_output_has_the_schema_sorted_by_a_unique_key_within_its_ranges(
    step: Step, night: Night
) -> None:
    for name, table in night.made(step, night.inputs[step.name]).items():
        schema = SCHEMAS[name]
        assert table.schema.names == schema.names, name
        assert table.schema.types == schema.arrow.types, name
        schema.check_ranges(schema.check(table))
        order = pc.sort_indices(table, [(k, "ascending") for k in schema.key]).to_numpy()
        keys = table.select(list(schema.key))
        assert keys.take(order).equals(keys), f"{name} is not sorted by {schema.key}"
        if name != "REJECTED":
            assert keys.group_by(schema.key).aggregate([]).num_rows == table.num_rows, name


@every_step
def test_empty_in_empty_out(step: Step, night: Night) -> None:
    for tables in ({}, {n: schema_of(n).empty() for n in step.reads}):
        for name, table in night.made(step, tables).items():
            assert table.num_rows == 0, name
            assert table.schema.types == SCHEMAS[name].arrow.types, name


@every_step
@pytest.mark.parametrize("shards", [2, 7, 10_000])
def test_any_sharding_of_the_users_gives_the_same_table(
    shards: int, step: Step, night: Night
) -> None:
    inputs = night.inputs[step.name]
    users = np.unique(np.concatenate([ints(t, "user_id") for t in inputs.values()]))
    shard_of = dict(zip(users.tolist(), (hash63("shard", users) % shards).tolist(), strict=True))
    parts: list[Tables] = []
    for shard in sorted(set(shard_of.values())):
        members = pa.array([u for u, s in shard_of.items() if s == shard], pa.int64())
        part = {n: t.filter(pc.is_in(t["user_id"], members)) for n, t in inputs.items()}
        parts.append(night.made(step, part))
    assert len(parts) > 1
    together = {n: pa.concat_tables([p[n] for p in parts]) for n in step.makes}
    assert_same(step, together, night.made(step, inputs))


@every_step
@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_rows_give_the_same_table(seed: int, step: Step, night: Night) -> None:
    rng = np.random.default_rng(seed)
    inputs = night.inputs[step.name]
    shuffled = {n: t.take(rng.permutation(t.num_rows)) for n, t in inputs.items()}
    made, expected = night.made(step, shuffled), night.made(step, inputs)
    if step is ATTRIBUTE:  # hands HISTORY on in the order in which step 1 made it
        made["HISTORY"] = sort_rows(made["HISTORY"], SCHEMAS["HISTORY"].key)
    for name in step.makes:
        assert made[name].equals(expected[name]), name


@every_step
def test_twice_gives_the_same_bytes_and_leaves_the_input(step: Step, night: Night) -> None:
    inputs = night.inputs[step.name]
    before = {n: bytes_of(t) for n, t in inputs.items()}
    first, second = night.made(step, inputs), night.made(step, inputs)
    assert {n: bytes_of(t) for n, t in first.items()} == {n: bytes_of(t) for n, t in second.items()}
    assert {n: bytes_of(t) for n, t in inputs.items()} == before


@every_step
def test_a_step_names_the_column_that_it_misses_or_does_not_need_it(
    step: Step, night: Night
) -> None:
    inputs = of_few_users(night.inputs[step.name])
    expected = without_raw(night.made(step, inputs))
    for name, table in inputs.items():
        named = 0
        for column in table.column_names:
            without = inputs | {name: table.drop_columns([column])}
            made, problem = night.try_made(step, without)
            assert made is not None or column in problem, f"{name}.{column}: {problem}"
            if made is None:
                named += 1
            else:
                assert_same(step, without_raw(made), expected)
        assert named, f"nothing of {name} is needed"


def without_raw(tables: Tables) -> Tables:
    """Without the copy of refused rows, which has the columns that they came with."""
    return {
        n: changed(t, "raw", [""] * t.num_rows) if n == "REJECTED" else t for n, t in tables.items()
    }


def of_few_users(tables: Tables) -> Tables:
    few = pa.array(range(12), pa.int64())
    return {n: t.filter(pc.is_in(t["user_id"], few)) for n, t in tables.items()}


STORED = sorted({n for s in STEPS for n in s.reads} - set(EVENT_TABLES))


@pytest.mark.parametrize("name", STORED)
def test_a_wrong_column_is_named_where_a_bucket_is_read(
    name: str, night: Night, tmp_path: Path
) -> None:
    (step, *_) = (s for s in STEPS if name in s.reads)
    table = night.inputs[step.name][name]
    column = schema_of(name).key[-1]
    place = table.column_names.index(column)
    wrong = {
        "is list": table.set_column(place, column, pa.array([[1]] * table.num_rows)),
        f"has no column '{column}'": table.drop_columns([column]),
        "is null": table.set_column(place, column, pa.nulls(table.num_rows, table[column].type)),
    }
    for i, (message, rows) in enumerate(wrong.items()):
        rows = pa.table(rows.columns, names=rows.column_names)  # where null is allowed
        file = StoredFile(f"{i}.parquet", rows.num_rows, 1, "", (Part(0, 0, 1, rows.num_rows),))
        pq.write_table(rows, tmp_path / file.path)
        with pytest.raises(ValueError, match=f"{file.path}.*{column}") as error:
            read_tables(Bucket(0), str(tmp_path), {name: (file,)})
        assert message in str(error.value)


@every_step
def test_a_wrong_column_or_value_is_named_where_a_table_is_written(
    step: Step, night: Night, tmp_path: Path
) -> None:
    for name, table in night.made(step, night.inputs[step.name]).items():
        ranged = [c for c in SCHEMAS[name].columns if c.low is not None]
        writer = TableWriter(str(tmp_path), name, "t")
        with pytest.raises(
            ValueError, match=f"write: {name} has no column '{table.column_names[0]}'"
        ):
            writer.write(table.drop_columns(table.column_names[:1]), 0)
        for column in ranged:
            values = table[column.name].to_pylist()
            values[1] = type(column.low or 0)(column.low or 0) - 1
            with pytest.raises(ValueError, match=f"write: {name}, row 1: {column.name} "):
                writer.write(changed(table, column.name, values), 0)
        assert writer.finish() == ()


# Buckets on their way


def test_a_bucket_travels_whole(night: Night) -> None:
    coder = BucketCoder()
    tables = night.inputs[ATTRIBUTE.name] | {"REWARDS": SCHEMAS["REWARDS"].empty()}
    tables["IMPRESSIONS"] = pa.concat_tables([tables["IMPRESSIONS"].slice(i, 2) for i in (4, 0)])
    bucket = Bucket(
        3, tables, {"step": {"in": 4, "out": 2}}, {"step": 0.1 + 0.2}, [{"surface": "ü", "n": 1.5}]
    )
    back = coder.decode(coder.encode(bucket))
    assert (back.number, back.counts, back.seconds) == (3, bucket.counts, bucket.seconds)
    assert back.sums == bucket.sums
    assert list(back.tables) == list(tables)
    for name, table in tables.items():
        assert back.tables[name].equals(table), name
        assert back.tables[name].schema.equals(table.schema, check_metadata=True), name
    assert coder.decode(coder.encode(Bucket(0))) == Bucket(0)


@pytest.mark.parametrize("name", ["ENGAGEMENTS", "IMPRESSIONS"])
def test_a_slice_travels_as_its_own_bytes(name: str, night: Night) -> None:
    step = BUILD if name == "ENGAGEMENTS" else ATTRIBUTE
    table = night.inputs[step.name][name]
    large = pa.concat_tables([table] * (100_000 // table.num_rows)).combine_chunks()
    coder = BucketCoder()
    whole = len(coder.encode(Bucket(0, {name: large})))
    encoded = coder.encode(Bucket(0, {name: large.slice(50_000, 1)}))
    assert whole > 5_000_000
    assert len(encoded) < 2_000  # the schema is half of it
    assert coder.decode(encoded).tables[name].equals(large.slice(50_000, 1))


def test_new_rows_go_to_their_users_buckets_whatever_the_order(
    night: Night, tmp_path: Path
) -> None:
    warehouse = Warehouse.create(str(tmp_path / "w"), "", buckets=4)
    events, shown = engagements_table(0, 3), foreign_impressions(1, 3, own_actions=True)
    land(warehouse, {"ENGAGEMENTS": events.slice(0, 50), "IMPRESSIONS": shown}, source="one")
    land(warehouse, {"ENGAGEMENTS": events.slice(50)}, source="two")
    groups = warehouse.pending(set(), cutoff_of(dt.date(2030, 1, 1)))
    folder = str(tmp_path / "split")
    split = [part for g in groups for part in split_landed(g, warehouse.root, 4, folder)]
    plan = replace(night.plan, cutoffs=(), parent=None)
    seen = 0
    for number in range(4):
        parts = [bucket for n, bucket in split if n == number]
        assert len(parts) > 2
        results = []
        for order in (parts, parts[::-1], parts[1:] + parts[:1]):
            gathered = gather_bucket((number, iter(order)))
            assert (buckets_of(ints(gathered.tables["ENGAGEMENTS"], "user_id"), 4) == number).all()
            results.append(build_bucket_profiles(gathered, plan).tables)
        seen += sum(t.num_rows for n, t in gathered.tables.items())
        for other in results[1:]:
            assert_same(BUILD, results[0], other)
    assert seen == events.num_rows + shown.num_rows
