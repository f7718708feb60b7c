"""`queryloop train`: what it learns from, what it leaves, how it goes on, and what it refuses."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import retrieval.training.train
from pipelines.cli import app
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.models import Learners, models
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.pairs import bucket_pairs
from pipelines.plan import cutoff_of
from pipelines.store.warehouse import Warehouse
from pipelines.training import TrainOptions, train_models
from profiling.actions import Action
from profiling.history import ProfileConfig
from retrieval.candidates import RetrievalConfig
from retrieval.model.towers import ModelConfig
from retrieval.training.learning import TrainingConfig
from selection.experiments import Arm, Experiment, arms_of
from selection.outcomes import OutcomeConfig
from tests.pipelines.small_models import add, untrained
from tests.pipelines.small_world import (
    day,
    engagements_table,
    items_table,
    serve,
)

QUIET = RunOptions(progress=False)
CONFIG = NightConfig(
    profiles=ProfileConfig(alpha=0.8),
    outcomes=OutcomeConfig(window_hours=6, lateness_hours=0),
    model=ModelConfig(width=8, hidden=16),
    training=TrainingConfig(epochs=2, batch_size=32, uniform_negatives=16, heldout_share=0.1),
)
TWO = Experiment("two", "isolated", (Arm("a", 0.5), Arm("b", 0.5)))


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Two nights; the second day's feed was seen, so that draws are known."""
    root = tmp_path_factory.mktemp("training") / "w"
    made = Warehouse.create(str(root), render_config(CONFIG), buckets=2)
    land(made, {"ITEMS": items_table(), "ENGAGEMENTS": engagements_table(0, 0)}, source="day 0")
    first = run_night(made, day(0), QUIET)
    shown, did = serve(made.read("FEED", first), 1)
    land(made, {"IMPRESSIONS": shown, "ENGAGEMENTS": did}, source="day 1")
    land(made, {"ENGAGEMENTS": engagements_table(1, 1)}, source="day 1 elsewhere")
    run_night(made, day(1), QUIET)
    return made


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `train` was asked, which here trains nothing."""
    asked: list[Any] = []

    def train(inputs: Any, *args: Any, **options: Any) -> Any:
        asked.append((dataclasses.replace(inputs, source=list(inputs.source)), options))
        return untrained(seed=options["seed"])

    monkeypatch.setattr(retrieval.training.train, "train", train)
    return asked


def pairs_of(inputs: Any) -> pa.Table:
    return pa.concat_tables([chunk.pairs for chunk in inputs.source])


def copied(warehouse: Warehouse, path: Path) -> Warehouse:
    """The same nights without any model."""
    shutil.copytree(warehouse.root, path, ignore=shutil.ignore_patterns("models", "staged"))
    return Warehouse.open(str(path))


def test_a_real_training_makes_a_model_that_the_next_night_asks(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    ours, told = copied(warehouse, tmp_path / "w"), []
    (made,) = train_models(ours, day(1), CONFIG, TrainOptions(seed=3), told.append)
    assert models(ours.root) == [made]
    assert (made.cutoff, made.seed, made.parent) == (cutoff_of(day(1)), 3, None)
    assert made.report["pairs"] > 60
    assert made.report["loss"] == pytest.approx(told[-1].loss)
    assert told[-1].step == told[-1].steps
    assert not list(Path(ours.root, "staged").iterdir())
    land(ours, {"ENGAGEMENTS": engagements_table(2, 2)}, source="day 2")
    night = run_night(ours, day(2), QUIET)
    assert (night.model, night.retrieval[""]["arm"]) == ("1", "cr_filter")


def test_pairs_are_cut_at_the_nights_and_know_their_draws(
    warehouse: Warehouse, trainings: list[Any]
) -> None:
    train_models(warehouse, day(1), CONFIG, TrainOptions(fresh=True))
    inputs, _ = trainings[0]
    pairs = pairs_of(inputs)
    assert inputs.cutoffs.tolist() == [cutoff_of(day(0)), cutoff_of(day(1))]
    assert pairs["at"].cast(pa.int64()).to_numpy().max() < cutoff_of(day(1))
    logged = pairs.filter(pa.array(pairs["query_item_id"].is_valid()))
    assert logged.num_rows > 5
    assert all(logged["logged_topics"].to_pylist())
    for chunk in inputs.source:
        wanted = {(r["user_id"], r["cutoff"]) for r in chunk.pairs.to_pylist()}
        assert wanted == {(r["user_id"], r["cutoff"]) for r in chunk.histories.to_pylist()}


def test_profiles_that_stay_over_nights_count_once(warehouse: Warehouse) -> None:
    head = warehouse.head()
    assert head is not None
    chain = warehouse.chain(head)
    chunk = bucket_pairs(warehouse, chain, CONFIG, CONFIG.histories, 0, learners=Learners())
    medoids = [r["cluster_item_ids"] for r in chunk.histories.to_pylist()]
    assert any(medoids)
    assert all(len(some) == len(set(some)) for some in medoids)


def test_training_goes_on_from_the_newest_model_unless_told_to_begin_anew(
    warehouse: Warehouse, trainings: list[Any], tmp_path: Path
) -> None:
    ours = copied(warehouse, tmp_path / "w")

    def train(i: int, **options: Any) -> tuple[int | None, bool]:
        (made,) = train_models(ours, day(i), CONFIG, TrainOptions(**options))
        return made.parent, trainings[-1][0].warm_start is None

    assert train(1) == (None, True)
    assert train(0) == (None, True)  # the model of day 1 has seen too much
    assert train(1) == (1, False)
    assert train(1, fresh=True) == (None, True)
    path = next(Path(ours.root, models(ours.root)[3].folder.path).glob("param.item_id.npy"))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"param.item_id.npy has 0 bytes.*--fresh begins without"):
        train(1)


def test_a_training_that_broke_off_goes_on(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = copied(warehouse, tmp_path / "w")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.training.add_model", full)
        with pytest.raises(OSError, match="No space"):
            train_models(ours, day(1), CONFIG, TrainOptions())
    (work,) = Path(ours.root, "staged").iterdir()
    kept = {p.name: p.stat().st_mtime_ns for p in work.glob("*.arrow")}
    assert len(kept) == 4
    assert (work / "checkpoint.npz").exists()
    seen = []
    store = retrieval.training.train.train

    def watched(inputs: Any, *args: Any, **options: Any) -> Any:
        seen.append({p.name: p.stat().st_mtime_ns for p in work.glob("*.arrow")})
        return store(inputs, *args, **options)

    monkeypatch.setattr(retrieval.training.train, "train", watched)
    (made,) = train_models(ours, day(1), CONFIG, TrainOptions())
    assert seen == [kept]
    monkeypatch.undo()
    (again,) = train_models(ours, day(1), CONFIG, TrainOptions(fresh=True))
    arrays = [
        {f.name: f.digest for f in m.folder.files if f.name.endswith(".npy")} for m in (made, again)
    ]
    assert len(arrays[0]) > 20
    assert arrays[0] == arrays[1]


def test_arms_that_learn_alone_get_models_of_their_own(
    warehouse: Warehouse, trainings: list[Any], tmp_path: Path
) -> None:
    ours = copied(warehouse, tmp_path / "w")
    isolated = dataclasses.replace(CONFIG, experiment=TWO)
    made = train_models(ours, day(1), isolated, TrainOptions())
    assert [m.learners for m in made] == [Learners("two", "a"), Learners("two", "b")]
    users = [np.unique(pairs_of(inputs)["user_id"].to_numpy()) for inputs, _ in trainings]
    assert [set(arms_of(some, TWO)) for some in users] == [{0}, {1}]
    shared = dataclasses.replace(TWO, learning="shared")
    config = dataclasses.replace(CONFIG, experiment=shared)
    assert len(train_models(ours, day(1), config, TrainOptions())) == 1


def none_positive(config: NightConfig) -> NightConfig:
    actions = tuple(Action(a.name, 0.0) for a in config.actions)
    return dataclasses.replace(config, actions=actions)


def index_alone(config: NightConfig) -> NightConfig:
    return dataclasses.replace(config, retrieval=RetrievalConfig(arm="index"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (none_positive, "no positive engagement of all users up to 2024-03-02 to learn from"),
        (index_alone, "every arm asks the arm index, which needs no model"),
    ],
)
def test_nothing_to_learn_is_said(
    change: Callable[[NightConfig], NightConfig], message: str, warehouse: Warehouse
) -> None:
    with pytest.raises(ValueError, match=message):
        train_models(warehouse, day(1), change(CONFIG), TrainOptions(fresh=True))


def test_a_night_that_was_not_run_is_named(warehouse: Warehouse) -> None:
    with pytest.raises(ValueError, match="no night of 2024-03-06; nights run: 2024-03-01 to"):
        train_models(warehouse, day(5), CONFIG, TrainOptions())


def test_the_command_says_what_it_made(
    warehouse: Warehouse,
    trainings: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = copied(warehouse, tmp_path / "w")
    add(ours, day(0))
    line = ["train", "--warehouse", ours.root, "--date", day(1).isoformat(), "--seed", "7"]
    app(line, standalone_mode=False)
    told = capsys.readouterr().out
    assert told.startswith("model 2 of 2024-03-02, of all users, went on from model 1: pairs ")
    app([*line, "--fresh"], standalone_mode=False)
    assert "model 3 of 2024-03-02, of all users, begun anew" in capsys.readouterr().out
    assert [options["seed"] for _, options in trainings] == [7, 7]


def test_items_without_a_vector_are_refused(tmp_path: Path) -> None:
    ours = Warehouse.create(str(tmp_path / "w"), render_config(CONFIG), buckets=1)
    items = items_table()
    empty = pa.array([None] * items.num_rows, items["embedding"].type)
    place = items.column_names.index("embedding")
    tables = {"ITEMS": items.set_column(place, "embedding", empty)}
    with pytest.raises(ValueError, match="ITEMS, row 0: embedding is null; it must be content"):
        land(ours, tables, source="items")
