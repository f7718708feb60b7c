"""Nights served by a model: which one, the same rows however run, and when it is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.catalog.views import query
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.models import Learners, models
from pipelines.night import RunOptions
from pipelines.nights import rebuild, run_night
from pipelines.operate.fingerprint import compare, fingerprint
from pipelines.plan import cutoff_of, plan_night
from pipelines.serving import open_index, plan_serving
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from profiling.history import ProfileConfig
from profiling.items import Items
from retrieval.candidates import RetrievalConfig, retrieve_candidates
from retrieval.encoders import ModelEncoder, encode_users
from retrieval.feed import FeedConfig
from retrieval.index.exact import ExactIndex, Lists, Searches
from retrieval.index.planner import IndexConfig
from retrieval.model.serving import RetrievalModel
from selection.experiments import Arm, Experiment, arms_of
from selection.outcomes import OutcomeConfig
from tests.pipelines.small_models import add, untrained
from tests.pipelines.small_world import day, engagements_table, items_table

QUIET = RunOptions(progress=False)
CONFIG = NightConfig(
    profiles=ProfileConfig(alpha=0.8),
    outcomes=OutcomeConfig(window_hours=6, lateness_hours=18),
    retrieval=RetrievalConfig(candidates_per_query=15),
    feed=FeedConfig(size=10),
)
INDEX = {"": {"arm": "index", "model": None, "fell_back": ""}}
LEARNED = {"": {"arm": "cr_filter", "model": 1, "fell_back": ""}}


def make(path: Path, config: NightConfig = CONFIG, buckets: int = 2) -> Warehouse:
    warehouse = Warehouse.create(str(path), render_config(config), buckets=buckets)
    land(warehouse, {"ITEMS": items_table(), "ENGAGEMENTS": engagements_table(0, 1)}, source="log")
    return warehouse


def with_retrieval(**options: Any) -> NightConfig:
    config = dataclasses.replace(CONFIG.retrieval, **options)
    return dataclasses.replace(CONFIG, retrieval=config)


def serve(path: Path, run: RunOptions = QUIET, buckets: int = 2) -> tuple[Warehouse, Manifest]:
    """Day 0 without a model, day 1 with one."""
    warehouse = make(path, buckets=buckets)
    run_night(warehouse, day(0), run)
    add(warehouse, day(0))
    return warehouse, run_night(warehouse, day(1), run)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, Manifest]:
    return serve(tmp_path_factory.mktemp("served") / "w")


def test_the_manifest_says_what_served(served: tuple[Warehouse, Manifest]) -> None:
    warehouse, second = served
    first = warehouse.chain(second)[0]
    assert (first.retrieval, first.model) == (INDEX, None)
    assert (second.retrieval, second.model) == (LEARNED, "1")
    assert warehouse.read("ENCODINGS", first).num_rows == 0
    assert warehouse.read("CANDIDATES", second)["condition_matched"].to_pylist().count(True) > 500


def test_the_candidates_are_those_of_the_pure_functions(served: tuple[Warehouse, Manifest]) -> None:
    warehouse, manifest = served
    items, queries = Items.from_table(items_table()), warehouse.read("QUERIES", manifest)
    model = RetrievalModel(untrained(), items)
    history, profiles = (warehouse.read(name, manifest) for name in ("HISTORY", "PROFILES"))
    (record,) = models(warehouse.root)
    encodings = encode_users(
        model, history, profiles, pa.array(np.unique(queries["user_id"])), CONFIG.actions,
        record.histories, cutoff=manifest.cutoff,
    )  # fmt: skip
    stored = warehouse.read("ENCODINGS", manifest).sort_by("user_id")
    assert stored.select(["user_id", "encoding"]).to_pydict() == encodings.to_pydict()
    assert set(stored["model"].to_pylist()) == {1}
    found = retrieve_candidates(
        queries,
        history.select(["user_id", "item_id"]),
        ExactIndex.over(items, model.encode_items(items)),
        items,
        CONFIG.retrieval,
        ModelEncoder(model, encodings),
    )
    stored = warehouse.read("CANDIDATES", manifest)
    key = [(c, "ascending") for c in ("user_id", "draw_id", "item_id")]
    assert stored.sort_by(key).to_pydict() == found.sort_by(key).to_pydict()


@pytest.mark.parametrize(
    "beam_args",
    [
        ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
        ("--runner=DirectRunner",),
    ],
)
def test_any_runner_gives_the_same_rows(
    beam_args: tuple[str, ...], served: tuple[Warehouse, Manifest], tmp_path: Path
) -> None:
    ours = serve(tmp_path / "w", RunOptions(beam_args=beam_args, progress=False))
    assert fingerprint(*ours) == fingerprint(*served)


def test_another_number_of_buckets_gives_the_same_candidates(
    served: tuple[Warehouse, Manifest], tmp_path: Path
) -> None:
    ours = serve(tmp_path / "w", buckets=8)
    names = ["QUERIES", "ENCODINGS", "CANDIDATES", "FEED"]
    found = compare(ours, served, tables=names)
    assert [d.status for d in found] == ["equal"] * len(names)


def test_the_catalogue_is_encoded_once_and_run_again_what_was_served_stays(
    served: tuple[Warehouse, Manifest], tmp_path: Path
) -> None:
    shutil.copytree(served[0].root, tmp_path / "w")
    warehouse, second = Warehouse.open(str(tmp_path / "w")), served[1]
    indexes = sorted(Path(warehouse.root, "indexes").iterdir())
    assert [p.suffix for p in indexes].count(".json") == 1
    land(warehouse, {"ENGAGEMENTS": engagements_table(2, 2)}, source="day 2")
    run_night(warehouse, day(2), QUIET)
    assert sorted(Path(warehouse.root, "indexes").iterdir()) == indexes
    add(warehouse, day(1), untrained(seed=5))
    again = run_night(warehouse, day(1), QUIET)
    chain = warehouse.chain(again)
    assert (chain[1].kind, chain[1].retrieval, chain[1].model) == ("replay", LEARNED, "1")
    assert chain[1].tables["ENCODINGS"] == second.tables["ENCODINGS"]
    rebuilt = rebuild(warehouse, day(2), QUIET)
    assert all(d.equal for d in compare((warehouse, again), (warehouse, rebuilt), ignore={}))


def test_a_night_that_broke_off_goes_on_and_another_model_serves_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = make(tmp_path / "w")
    add(warehouse, day(0))

    def broken(*args: Any, **options: Any) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.night.draft_manifest", broken)
        with pytest.raises(OSError, match="gone"):
            run_night(warehouse, day(1), QUIET)
    before = finished_jobs(warehouse)
    assert len(before) == 3
    add(warehouse, day(1), untrained(seed=5))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.night.draft_manifest", broken)
        with pytest.raises(OSError, match="gone"):
            run_night(warehouse, day(1), QUIET)
    after = finished_jobs(warehouse)
    assert before.items() < after.items()
    assert len(after) == 4
    assert run_night(warehouse, day(1), QUIET).model == "2"


def finished_jobs(warehouse: Warehouse) -> dict[str, int]:
    (staged,) = Path(warehouse.root, "staged").iterdir()
    return {p.name: p.stat().st_mtime_ns for p in staged.glob("*.json")}


def damage(warehouse: Warehouse) -> None:
    path = next(Path(warehouse.root, "models").glob("*/param.item_content.npy"))
    path.write_bytes(path.read_bytes()[:-4])


def foreign_items(version: str = "v1", width: int = 8, first: int = 0) -> Items:
    items = Items.from_table(items_table())
    vectors = np.ones((len(items.ids), width), np.float32) / np.float32(np.sqrt(width))
    return dataclasses.replace(items, ids=items.ids + first, version=version, vectors=vectors)


UNUSABLE = {
    "truncated": (None, "param.item_content.npy has .* bytes, not the"),
    "of another width": (foreign_items(width=5), "item vectors of width 5, ITEMS has 8"),
    "of another version": (foreign_items("v7"), "item vectors 'v7', ITEMS has 'v1'"),
    "of another catalogue": (foreign_items(first=10**6), "model 1 .* knows none of the 120 items"),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_model_that_cannot_be_used_stops_the_night(how: str, tmp_path: Path) -> None:
    items, message = UNUSABLE[how]
    warehouse = make(tmp_path / "w")
    add(warehouse, day(1), None if items is None else untrained(items))
    if items is None:
        damage(warehouse)
    with pytest.raises(ValueError, match=f"{message}.*set retrieval.fall_back"):
        run_night(warehouse, day(1), QUIET)
    assert warehouse.manifests() == []
    plan = plan_night(warehouse, with_retrieval(fall_back=True), day(1), None)
    said = plan_serving(plan)[""].to_json()
    assert (said["arm"], said["model"]) == ("index", None)
    assert said["fell_back"]


def test_a_night_that_falls_back_when_told_records_why(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    add(warehouse, day(1))
    damage(warehouse)
    fallen = run_night(warehouse, day(1), QUIET, config=with_retrieval(fall_back=True))
    assert (fallen.retrieval[""]["arm"], fallen.model) == ("index", None)
    assert "bytes, not the" in fallen.retrieval[""]["fell_back"]
    assert warehouse.read("FEED").num_rows > 200
    said = query(warehouse, "SELECT asked, fell_back FROM night_retrieval", fallen, format="csv")
    assert "index" in said
    assert "bytes, not the" in said


def in_every_slice(width: int) -> Searches:
    """One search in the slice of each of the six topics."""
    n = np.arange(6)
    conditions, none = Lists(np.arange(7), n), Lists(np.zeros(2, np.int64), np.zeros(0, np.int64))
    rows = np.eye(width, dtype=np.float32)[:6]
    return Searches(rows, n, conditions, n, none, np.zeros(6, np.int64))


@pytest.mark.parametrize("arm", ["index", "cr_filter"])
def test_other_kinds_of_index_are_stored_too_and_slices_stay_exact(
    arm: str, tmp_path: Path
) -> None:
    warehouse = make(tmp_path / "w")
    add(warehouse, day(1))
    found = []
    for kind in ("exact", "planned"):
        config = dataclasses.replace(with_retrieval(arm=arm), index=IndexConfig(kind, cells=8))
        plan = plan_night(warehouse, config, day(1), None)
        serving = plan_serving(plan)
        assert plan_serving(plan) == serving  # what was made is found again
        index = open_index(plan, serving[""])
        assert type(index).__name__ == {"exact": "ExactIndex", "planned": "PlannedIndex"}[kind]
        found.append(index.search(in_every_slice(8 if arm == "index" else 9), 12))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_index_over_a_model_is_calibrated_by_how_users_ask_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = np.eye(4, 9, dtype=np.float32)
    warehouse, given = make(tmp_path / "w"), []
    trained = dataclasses.replace(untrained(cutoff=cutoff_of(day(1))), sample_queries=sample)
    add(warehouse, day(1), trained)

    def build(exact: ExactIndex, config: IndexConfig, queries: Any, *, seed: int) -> ExactIndex:
        given.append(queries)
        return exact

    monkeypatch.setattr("pipelines.serving.build_index", build)
    for arm in ("cr", "index"):
        config = dataclasses.replace(with_retrieval(arm=arm), index=IndexConfig("ivf"))
        plan_serving(plan_night(warehouse, config, day(1), None))
    assert (given[0] == sample).all()
    assert given[1] is None  # asked with items


def test_an_index_that_cannot_be_built_here_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*args: Any, **options: Any) -> None:
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")

    monkeypatch.setattr("pipelines.serving.build_index", absent)
    warehouse = make(tmp_path / "w")
    config = dataclasses.replace(CONFIG, index=IndexConfig("ivf"))
    with pytest.raises(ValueError, match=r"index.kind ivf needs faiss; pip install"):
        plan_serving(plan_night(warehouse, config, day(1), None))


def test_a_night_up_to_its_queries_asks_no_model(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    add(warehouse, day(1))
    damage(warehouse)
    made = run_night(warehouse, day(1), RunOptions(progress=False, until="queries"))
    assert (made.retrieval, made.model) == ({}, None)


def test_a_model_of_another_schema_is_refused(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    trained = untrained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.model.trained.SCHEMA", 99)
        add(warehouse, day(1), trained)
    with pytest.raises(ValueError, match="schema 99, this version reads"):
        run_night(warehouse, day(1), QUIET)


def test_a_model_trained_past_the_cut_off_is_refused(tmp_path: Path) -> None:
    warehouse = make(tmp_path / "w")
    add(warehouse, day(4))
    assert run_night(warehouse, day(0), QUIET).retrieval == INDEX  # the newest is not for it
    with pytest.raises(ValueError, match="model 1 of 2024-03-05 was trained past the cut-off"):
        run_night(warehouse, day(1), QUIET, config=with_retrieval(model=1))
    with pytest.raises(ValueError, match=r"no model has learned .*run `queryloop train"):
        run_night(warehouse, day(1), QUIET, config=with_retrieval(arm="cr"))


def test_arms_of_an_experiment_are_asked_in_their_own_way(tmp_path: Path) -> None:
    arms = (Arm("plain", 0.5, retrieval={"arm": "index"}), Arm("learned", 0.5))
    experiment = Experiment("compare", "isolated", arms)
    config = dataclasses.replace(CONFIG, experiment=experiment)
    warehouse = make(tmp_path / "w", config)
    add(warehouse, day(1), learners=Learners("compare", "learned"))
    made = run_night(warehouse, day(1), QUIET)
    assert {name: how["arm"] for name, how in made.retrieval.items()} == {
        "plain": "index",
        "learned": "cr_filter",
    }
    encoded = warehouse.read("ENCODINGS")["user_id"].to_numpy()
    assert len(encoded) > 5
    assert (arms_of(encoded, experiment) == 1).all()
    assert set(warehouse.read("CANDIDATES")["user_id"].to_pylist()) > set(encoded.tolist())
    alone = run_night(make(tmp_path / "v", config), day(1), QUIET)
    assert {how["arm"] for how in alone.retrieval.values()} == {"index"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arm": "cf"}, "arm 'b': retrieval.*arm must be one of auto, index"),
        ({"armm": "cr"}, "arm 'b': retrieval.armm"),
        ({"candidates_per_query": "many"}, "arm 'b': retrieval.candidates_per_query.*integer"),
    ],
)
def test_options_of_an_arm_are_checked(options: dict[str, Any], message: str) -> None:
    arms = (Arm("a", 0.5), Arm("b", 0.5, retrieval=options))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, experiment=Experiment("x", "shared", arms))


def test_records_of_arms_are_plain_json(served: tuple[Warehouse, Manifest]) -> None:
    path = Path(served[0].root, "manifests", f"{served[1].number:06d}.json")
    assert json.loads(path.read_text())["retrieval"] == LEARNED
