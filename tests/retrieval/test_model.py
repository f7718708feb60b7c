"""The model at serving: split equal to whole, unknown things, the folder, the golden one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiling.items import Items
from retrieval.index.exact import Lists
from retrieval.model.inputs import Catalogue
from retrieval.model.serving import RetrievalModel, towers
from retrieval.model.trained import TrainedModel
from tests.retrieval.model_world import MODEL, catalogue, chunk, topics_table, untrained

GOLDEN = Path(__file__).parents[1] / "golden" / "model_v1"


def ask(
    model: RetrievalModel, topics: list[list[int]], queries: list[int], encodings: Any = None
) -> Any:
    offsets = np.r_[0, np.cumsum([len(some) for some in topics])].astype(np.int64)
    values = np.array([t for some in topics for t in some], np.int64)
    if encodings is None:
        encodings = model.encode_histories(chunk().histories.slice(0, len(topics)))
    sure = np.linspace(0.3, 1.0, len(values)).astype(np.float32)
    return model.encode_queries(encodings, Lists(offsets, values), sure, np.array(queries))


def test_the_split_of_serving_is_the_whole_forward_pass() -> None:
    trained, items = untrained(), catalogue()
    model = RetrievalModel(trained, items)
    histories = chunk().histories.slice(0, 3)
    queries = ask(model, [[101], [], [102, 103]], [4, -1, 7])
    bound, params = Catalogue.of(items, items.ids, trained.topic_ids), trained.params
    table = towers.encode_topics(np, params, np.arange(4), trained.topic_content)
    rows = towers.ContextRows(
        np.array([[1, -1], [-1, -1], [3, 2]], np.int32),
        np.array([[0.3, 0], [0, 0], [1.0, 0.65]], np.float32),
        np.array([4, -1, 7], np.int32),
        np.where(np.array([[1], [0], [1]]), items.vectors[[4, 0, 7]], 0).astype(np.float32),
    )
    context = towers.encode_context(np, params, towers.read_context(np, params, rows, table))
    history = towers.encode_histories(np, params, bound.history_rows(histories, MODEL))
    vectors = towers.join(np, params, history, context)
    scores = vectors @ towers.encode_items(np, params, bound.item_rows(slice(None)), table).T
    scores = scores / MODEL.temperature
    scores = scores + towers.item_bias(np, params, bound.ids, trained.prior)
    served = queries @ model.encode_items(items).T
    for b in range(3):  # a row's scores are its logits, scaled
        scale = served[b] @ scores[b] / (scores[b] @ scores[b])
        np.testing.assert_allclose(served[b], scale * scores[b], rtol=1e-4, atol=1e-6)


def test_scores_are_inner_products_within_one() -> None:
    model = RetrievalModel(untrained(), catalogue())
    items, queries = model.encode_items(catalogue()), ask(model, [[101], [], [102]], [1, -1, 2])
    norms = np.linalg.norm(items, axis=1)
    assert norms.max() <= 1 + 1e-6
    assert norms.max() > 0.99
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    assert items.shape == (60, model.width) == (60, 9)
    assert items.dtype == queries.dtype == np.float32


def test_a_stored_encoding_knows_no_condition_and_batches_change_nothing() -> None:
    model = RetrievalModel(untrained(), catalogue())
    histories = chunk().histories.slice(0, 20)
    encoded = model.encode_histories(histories)
    one = np.concatenate([model.encode_histories(histories.slice(i, 1)) for i in range(20)])
    np.testing.assert_allclose(one, encoded, rtol=1e-5, atol=1e-6)
    assert encoded.shape == (20, model.history_width)
    alike = ask(model, [[101], [102]], [-1, -1], encoded[[0, 0]])
    assert np.abs(alike[0] - alike[1]).max() > 0.01


def test_items_unknown_to_training_have_content_and_topics_alone() -> None:
    trained, more = untrained(), catalogue(70)
    model = RetrievalModel(trained, more)
    rows = model.encode_items(more)
    assert np.isfinite(rows).all()
    params = dict(trained.params) | {"item_id": np.full_like(trained.params["item_id"], 9)}
    other = RetrievalModel(replace(trained, params=params), more).encode_items(more)
    angle = np.einsum("ij,ij->i", rows[:, :-1], other[:, :-1]) / (
        np.linalg.norm(rows[:, :-1], axis=1) * np.linalg.norm(other[:, :-1], axis=1)
    )
    np.testing.assert_allclose(angle[60:], 1, rtol=1e-5)
    assert (angle[:60] < 0.999).all()


def test_a_topic_nobody_has_is_no_condition_unless_it_has_a_vector() -> None:
    trained = untrained()
    model = RetrievalModel(trained, catalogue())
    encodings = model.encode_histories(chunk().histories.slice(0, 1))
    free, unknown = (ask(model, [t], [-1], encodings) for t in ([], [999]))
    assert (free == unknown).all()
    with_vector = RetrievalModel(
        trained, catalogue(), topics_table([100, 999], {999: [1.0, 0, 0, 0, 0, 0]})
    )
    assert np.abs(ask(with_vector, [[999]], [-1], encodings) - free).max() > 0.01
    assert (
        ask(with_vector, [[101]], [-1], encodings) == ask(model, [[101]], [-1], encodings)
    ).all()


def test_without_query_items_the_query_item_changes_nothing() -> None:
    trained = untrained()
    deaf = RetrievalModel(replace(trained, config=replace(MODEL, query_item=False)), catalogue())
    encodings = deaf.encode_histories(chunk().histories.slice(0, 1))
    assert (ask(deaf, [[101]], [3], encodings) == ask(deaf, [[101]], [9], encodings)).all()
    heard = RetrievalModel(trained, catalogue())
    assert (ask(heard, [[101]], [3], encodings) != ask(heard, [[101]], [9], encodings)).any()


def test_a_topic_vector_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="the vector of topic 999 has width 2, must be 6"):
        RetrievalModel(untrained(), catalogue(), topics_table([999], {999: [1.0, 0.0]}))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (catalogue(width=5), "reads item vectors of width 6, ITEMS has 5: train a model"),
        (catalogue(version="v2"), "was trained on item vectors 'v1', ITEMS has 'v2'"),
    ],
)
def test_a_catalogue_of_other_vectors_is_refused(items: Items, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalModel(untrained(), items)
    with pytest.raises(ValueError, match=message):
        RetrievalModel(untrained(), catalogue()).encode_items(items)


def test_encodings_of_another_model_are_refused() -> None:
    model = RetrievalModel(untrained(), catalogue())
    with pytest.raises(ValueError, match="history encodings have width 7, the model's have 12"):
        ask(model, [[101]], [-1], np.zeros((1, 7), np.float32))


def test_a_saved_model_comes_back_mapped_and_the_same(tmp_path: Path) -> None:
    sample = np.eye(3, MODEL.width + 1, dtype=np.float32)
    trained = replace(untrained(), sample_queries=sample)
    trained.save(tmp_path / "m")
    back = TrainedModel.load(tmp_path / "m")
    assert back.sample_queries is not None
    assert (back.sample_queries == sample).all()
    assert isinstance(back.params["item_id"], np.memmap)
    assert (back.config, back.cutoff, back.record) == (MODEL, trained.cutoff, trained.record)
    model, other = (RetrievalModel(m, catalogue()) for m in (trained, back))
    assert (model.encode_items(catalogue()) == other.encode_items(catalogue())).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no head", "has no model.json: it is no model, or not wholly written"),
        ("broken head", "model.json cannot be read"),
        ("other program", "says format 'x', must be 'queryloop retrieval model'"),
        ("other schema", "has schema 2, this version reads 1: train again"),
        ("unknown option", "config cannot be read .*colour"),
        ("truncated", "item_id.npy is missing, truncated or foreign"),
        ("missing", "topic_id.npy is missing, truncated or foreign"),
        ("other array", "holds float32 .*, model.json says float32"),
        ("other sample", r"sample_queries has shape \(3, 5\), the config asks for \(3, 9\)"),
        ("other shape", r"item_id has shape \(60, 8\), the config asks for \(60, 16\)"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_wrong(
    tmp_path: Path, damage: str, message: str
) -> None:
    folder = tmp_path / "m"
    sample = np.eye(3, 5, dtype=np.float32) if damage == "other sample" else None
    replace(untrained(), sample_queries=sample).save(folder)
    head: dict[str, Any] = json.loads((folder / "model.json").read_text())
    changes: dict[str, Any] = {
        "other program": {"format": "x"},
        "other schema": {"schema": 2},
        "unknown option": {"config": head["config"] | {"colour": 1}},
        "other shape": {"config": head["config"] | {"width": 16}},
    }
    (folder / "model.json").write_text(json.dumps(head | changes.get(damage, {})))
    file = folder / "param.item_id.npy"
    if damage == "no head":
        (folder / "model.json").unlink()
    elif damage == "broken head":
        (folder / "model.json").write_text("{")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "missing":
        (folder / "param.topic_id.npy").unlink()
    elif damage == "other array":
        shutil.copy(folder / "param.topic_id.npy", file)
    with pytest.raises(ValueError, match=message):
        TrainedModel.load(folder)


def test_the_golden_model_loads_and_answers_as_it_did() -> None:
    items = catalogue(12)
    model = RetrievalModel.load(GOLDEN, items, topics_table())
    expected = np.load(GOLDEN / "expected.npz", allow_pickle=False)
    np.testing.assert_allclose(model.encode_items(items), expected["items"], atol=1e-6)
    histories = model.encode_histories(chunk().histories.slice(0, 3))
    np.testing.assert_allclose(histories, expected["histories"], atol=1e-6)
    queries = ask(model, [[101], [], [102, 103]], [4, -1, 7], histories)
    np.testing.assert_allclose(queries, expected["queries"], atol=1e-6)
