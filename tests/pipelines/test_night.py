"""The night on Beam: equal to its twin in memory, to itself however run, and to its rebuild."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import bootstrap, rebuild, run_night, run_nights
from pipelines.operate.fingerprint import compare, fingerprint
from pipelines.store.manifests import Manifest
from pipelines.store.tables import SCHEMAS
from pipelines.store.warehouse import Warehouse
from profiling.history import ProfileConfig
from profiling.items import Items
from profiling.schema import sort_rows
from retrieval.candidates import RetrievalConfig
from retrieval.feed import FeedConfig
from selection.experiments import Arm, Experiment
from selection.outcomes import OutcomeConfig
from selection.policies import SelectionConfig
from tests.pipelines.night_twin import NightTwin
from tests.pipelines.small_world import (
    day,
    engagements_table,
    foreign_impressions,
    items_table,
    serve,
    start_of,
)

QUIET = RunOptions(progress=False)
LEARNING = RunOptions(progress=False, until="rewards")  # where nothing later is looked at
CONFIG = NightConfig(
    profiles=ProfileConfig(alpha=0.8),
    outcomes=OutcomeConfig(window_hours=6, lateness_hours=18),
    retrieval=RetrievalConfig(candidates_per_query=15),
    feed=FeedConfig(size=10),
    experiment=Experiment(
        "night",
        arms=(
            Arm("average", 0.4),
            Arm("evidence", 0.6, SelectionConfig("reward_odds", prior="evidence", beta=4.0)),
        ),
    ),
)
FOREIGN = dataclasses.replace(CONFIG, outcomes=OutcomeConfig(lateness_hours=36, threshold=0.6))
NIGHTS = 5


def make(path: Path, config: NightConfig = CONFIG, buckets: int = 4) -> Warehouse:
    warehouse = Warehouse.create(str(path), render_config(config), buckets=buckets)
    land(warehouse, {"ITEMS": items_table()}, source="items")
    return warehouse


def no_rows(name: str) -> pa.Table:
    return SCHEMAS[name].empty()


def run_loop(warehouse: Warehouse, run: RunOptions = QUIET) -> list[Manifest]:
    """Nights of a served log: what the feed shows comes back with its draw_id."""
    done = []
    for i in range(NIGHTS):
        tables = {"ENGAGEMENTS": engagements_table(i, i)}
        if done:
            shown, did = serve(warehouse.read("FEED", done[-1]), i)
            tables = {
                "IMPRESSIONS": shown,
                "ENGAGEMENTS": pa.concat_tables([tables["ENGAGEMENTS"], did]),
            }
        land(warehouse, tables, source=f"day {i}")
        done.append(run_night(warehouse, day(i), run))
    return done


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, list[Manifest]]:
    warehouse = make(tmp_path_factory.mktemp("loop") / "w")
    return warehouse, run_loop(warehouse)


def copied(loop: tuple[Warehouse, list[Manifest]], path: Path) -> Warehouse:
    """The loop's warehouse, to be changed."""
    shutil.copytree(loop[0].root, path)
    return Warehouse.open(str(path))


def assert_same_rows(name: str, ours: pa.Table, twins: pa.Table) -> None:
    key = SCHEMAS[name].key
    ours, twins = sort_rows(ours, key), sort_rows(twins, key)
    assert ours.num_rows == twins.num_rows, name
    for column in SCHEMAS[name].columns:
        left, right = ours[column.name], twins[column.name]
        if pa.types.is_floating(column.type):
            pair = [np.asarray(c.cast(pa.float64()).to_numpy()) for c in (left, right)]
            np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-12, err_msg=f"{name}.{column}")
        elif column.name not in ("draws", "penalties"):
            assert left.to_pylist() == right.to_pylist(), f"{name}.{column.name}"


def test_the_beam_night_equals_its_twin(loop: tuple[Warehouse, list[Manifest]]) -> None:
    warehouse, nights = loop
    twin = NightTwin(CONFIG, Items.from_table(items_table()))
    feed, seen_outcomes = no_rows("FEED"), 0
    for i, manifest in enumerate(nights):
        shown, did = serve(feed, i) if i else (no_rows("IMPRESSIONS"), no_rows("ENGAGEMENTS"))
        made = twin.night(day(i), pa.concat_tables([engagements_table(i, i), did]), shown)
        for name, table in made.items():
            assert_same_rows(name, warehouse.read(name, manifest), table)
        assert (manifest.slopes["own"], manifest.slopes["item"]) == pytest.approx(
            (twin.slopes.own, twin.slopes.item), abs=1e-8
        )
        feed = made["FEED"]
        seen_outcomes += made["OUTCOMES"].num_rows
    assert seen_outcomes > 200
    assert manifest.slopes["users"] > 10  # and they were the next night's
    assert made["CLUSTER_REWARDS"].num_rows > 60


def test_impressions_add_up_every_night(loop: tuple[Warehouse, list[Manifest]]) -> None:
    for manifest in loop[1]:
        c = manifest.counts["impressions"]
        closed = c["outcomes"] + c["open_after"] + c["rejected"] + c["duplicates"]
        assert c["open_before"] + c["landed"] == closed
    assert sum(m.counts["impressions"]["outcomes"] for m in loop[1]) > 200


@pytest.mark.parametrize(
    "beam_args",
    [
        ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
        ("--runner=DirectRunner",),
    ],
)
def test_any_runner_and_worker_count_gives_the_same_rows(
    beam_args: tuple[str, ...], loop: tuple[Warehouse, list[Manifest]], tmp_path: Path
) -> None:
    warehouse = make(tmp_path / "w")
    nights = run_loop(warehouse, RunOptions(beam_args=beam_args, progress=False))
    for ours, theirs in zip(nights, loop[1], strict=True):
        assert fingerprint(warehouse, ours) == fingerprint(loop[0], theirs)


def test_another_number_of_buckets_gives_the_same_rows_to_rounding(
    loop: tuple[Warehouse, list[Manifest]], tmp_path: Path
) -> None:
    warehouse = make(tmp_path / "w", buckets=1)
    nights = run_loop(warehouse)
    for found in compare((warehouse, nights[-1]), (loop[0], loop[1][-1])):
        assert found.equal, found


def test_rows_in_another_order_and_other_files_give_the_same_rows(tmp_path: Path) -> None:
    prints = []
    for order in ("one", "many"):
        warehouse = make(tmp_path / order, FOREIGN)
        events, shown = engagements_table(0, 2), foreign_impressions(1, 2, own_actions=False)
        if order == "one":
            land(warehouse, {"ENGAGEMENTS": events, "IMPRESSIONS": shown}, source="all")
        else:
            for part in (2, 0, 1):
                tables = {"IMPRESSIONS": shown, "ENGAGEMENTS": events}
                cut = {n: t.take(np.arange(part, t.num_rows, 3)[::-1]) for n, t in tables.items()}
                land(warehouse, cut, source=f"part {part}")
        run_nights(warehouse, [day(i) for i in range(4)], QUIET)
        head = warehouse.head()
        assert head is not None
        prints.append([fingerprint(warehouse, m) for m in warehouse.chain(head)])
    assert prints[0] == prints[1]


def test_a_night_run_twice_gives_the_same_rows_and_the_same_queries(
    loop: tuple[Warehouse, list[Manifest]], tmp_path: Path
) -> None:
    warehouse, nights = copied(loop, tmp_path / "w"), loop[1]
    again = run_night(warehouse, day(NIGHTS - 1), QUIET)
    assert (again.kind, again.head, again.parent) == ("replay", True, nights[-2].number)
    assert fingerprint(warehouse, again) == fingerprint(warehouse, nights[-1])
    assert again.tables["QUERIES"] == nights[-1].tables["QUERIES"]


def test_an_earlier_night_run_again_replays_its_descendants_on_a_branch(
    loop: tuple[Warehouse, list[Manifest]], tmp_path: Path
) -> None:
    warehouse, nights = copied(loop, tmp_path / "w"), loop[1]
    late = engagements_table(1, 1, per_user=6).slice(0, 5)  # some are new, none is too late
    land(warehouse, {"ENGAGEMENTS": late}, source="late")
    head = run_night(warehouse, day(1), QUIET)
    chain = warehouse.chain(head)
    assert [m.date for m in chain] == [m.date for m in nights]
    assert chain[0] == nights[0]
    assert [m.head for m in chain[1:]] == [False] * (NIGHTS - 2) + [True]
    assert head.tables["FEED"] == nights[-1].tables["FEED"]


def test_incremental_equals_rebuilt(loop: tuple[Warehouse, list[Manifest]]) -> None:
    warehouse, nights = loop
    rebuilt = rebuild(warehouse, day(NIGHTS - 1), QUIET)
    assert warehouse.head() == nights[-1]  # a check moves nothing
    differences = compare((warehouse, nights[-1]), (warehouse, rebuilt))
    assert {"HISTORY", "PROFILES", "OUTCOMES", "REWARDS"} <= {d.table for d in differences}
    for found in differences:
        assert found.equal, found


@pytest.mark.parametrize("own_actions", [True, False])
def test_late_files_end_in_the_same_tables(own_actions: bool, tmp_path: Path) -> None:
    heads = []
    events, shown = engagements_table(0, 4), foreign_impressions(1, 4, own_actions=own_actions)
    for late in (False, True):
        warehouse = make(tmp_path / f"{late}", FOREIGN)
        for i in range(8):
            tables = {"ENGAGEMENTS": arriving(events, i, "event_id", late)}
            tables["IMPRESSIONS"] = arriving(shown, i, "impression_id", late)
            land(warehouse, tables, source=f"day {i}")
            head = run_night(warehouse, day(i), LEARNING)
        heads.append((warehouse, head))
    for found in compare(*heads):
        if found.table in ("HISTORY", "PROFILES", "OUTCOMES", "REWARDS", "OPEN"):
            assert found.equal, found


def arriving(table: pa.Table, i: int, id_column: str, late: bool) -> pa.Table:
    """Rows that land on day i: those of the day, or up to a day later by their id."""
    days = (table["at"].cast(pa.int64()).to_numpy() - start_of(0)) // (start_of(1) - start_of(0))
    delay = table[id_column].to_numpy() % 2 if late else 0
    return table.filter(pa.array(days + delay == i))


def test_bootstrap_profiles_attribute_the_first_impressions(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w", FOREIGN)
    starts_at = start_of(1)
    land(
        warehouse,
        {
            "ENGAGEMENTS": engagements_table(0, 2),
            "IMPRESSIONS": foreign_impressions(1, 2, own_actions=True),
        },
        source="log",
        starts_at=starts_at,
    )
    started = bootstrap(warehouse, LEARNING)
    assert started is not None
    assert started.cutoff == starts_at
    run_nights(warehouse, [day(1), day(2), day(3)], LEARNING)
    head = warehouse.head()
    assert head is not None
    outcomes = pa.concat_tables([warehouse.read("OUTCOMES", m) for m in warehouse.chain(head)])
    first_day = outcomes.filter(pa.array(outcomes["at"].cast(pa.int64()).to_numpy() < start_of(2)))
    assert first_day.num_rows > 50
    assert set(first_day["attribution"].to_pylist()) == {"inferred", "none"}


def test_flipping_a_days_actions_changes_no_attribution_and_no_closing(tmp_path: Path) -> None:
    kept = []
    for flip in (False, True):
        warehouse = make(tmp_path / f"{flip}", FOREIGN)
        shown = foreign_impressions(1, 3, own_actions=True)
        did = [
            ["like"] if flip and not a else [] if flip else a for a in shown["actions"].to_pylist()
        ]
        shown = shown.set_column(8, "actions", pa.array(did, pa.list_(pa.string())))
        land(warehouse, {"ENGAGEMENTS": engagements_table(0, 0), "IMPRESSIONS": shown}, source="x")
        run_nights(warehouse, [day(i) for i in range(5)], LEARNING)
        head = warehouse.head()
        assert head is not None
        outcomes = pa.concat_tables([warehouse.read("OUTCOMES", m) for m in warehouse.chain(head)])
        kept.append(outcomes)
    same = ["impression_id", "run_date", "attribution", "query_id", "cluster_id", "draw_id"]
    assert kept[0].select(same).equals(kept[1].select(same))
    assert not kept[0]["value"].equals(kept[1]["value"])


def test_until_queries_needs_no_retrieval(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    land(warehouse, {"ENGAGEMENTS": engagements_table(0, 0)}, source="day 0")
    manifest = run_night(warehouse, day(0), RunOptions(until="queries", progress=False))
    assert manifest.tables["QUERIES"]
    assert "FEED" not in manifest.tables
