"""Query encoders: one interface, the same bits in any batch, and the arms built on it."""

import numpy as np
import pyarrow as pa
import pytest

from profiling.actions import DEFAULT_ACTIONS
from profiling.items import Items
from profiling.tables import HISTORY, PROFILES, TOPICS
from retrieval.candidates import RetrievalConfig, retrieve_candidates
from retrieval.encoders import Asked, ItemEncoder, ModelEncoder, encode_users
from retrieval.histories import HistoryConfig
from retrieval.index.exact import ExactIndex, Lists
from retrieval.model.serving import RetrievalModel
from retrieval.model.towers import ModelConfig
from tests.pipelines.small_models import untrained
from tests.pipelines.small_world import items_table
from tests.retrieval.test_candidates import queries_of, seen_of

ITEMS = Items.from_table(items_table())
# Of the default width: products of small ones are the same bits in any batch by chance.
MODEL = RetrievalModel(untrained(shape=ModelConfig()), ITEMS)
USERS = 300


def encodings(users=USERS, model=MODEL):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(users, model.history_width)).astype(np.float32)
    return pa.table({"user_id": np.arange(users), "encoding": list(rows)}).cast(
        pa.schema([("user_id", pa.int64()), ("encoding", pa.list_(pa.float32()))])
    )


def asked(n=900, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, n)
    offsets = np.r_[0, np.cumsum(lengths)]
    return Asked(
        rng.integers(0, USERS, n),
        rng.integers(-1, len(ITEMS.ids), n),
        Lists(offsets, rng.integers(0, 8, offsets[-1])),
        rng.uniform(0.1, 1, offsets[-1]).astype(np.float32),
    )


def take(some, which):
    lengths = np.diff(some.conditions.offsets)
    parts = np.split(np.arange(len(some.confidences)), some.conditions.offsets[1:-1])
    places = np.concatenate([parts[i] for i in which]).astype(np.int64)
    offsets = np.r_[0, np.cumsum(lengths[which])]
    return Asked(
        some.user_ids[which],
        some.rows[which],
        Lists(offsets, some.conditions.values[places]),
        some.confidences[places],
    )


def whole(encoder, some):
    vectors, vector_of = encoder.encode(some)
    return vectors[vector_of]


def test_queries_lose_item_and_condition():
    some = asked(4)._replace(rows=np.array([3, 4, 5, 6]))
    some = some._replace(conditions=Lists(np.array([0, 1, 3, 3, 4]), np.array([7, 8, 9, 7])))
    some = some._replace(confidences=np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    left = some.without(np.array([1, 3]))
    assert left.rows.tolist() == [3, -1, 5, -1]
    assert left.conditions.offsets.tolist() == [0, 1, 1, 1, 1]
    assert (left.conditions.values.tolist(), left.confidences.tolist()) == (
        [7],
        [np.float32(0.1)],
    )
    assert some.without(np.zeros(0, np.int64)).conditions.values.tolist() == [7, 8, 9, 7]


def test_a_query_has_the_same_bits_in_any_batch():
    some, encoder = asked(), ModelEncoder(MODEL, encodings())
    together = whole(encoder, some)
    order = np.random.default_rng(5).permutation(len(some.rows))
    np.testing.assert_array_equal(whole(encoder, take(some, order)), together[order])
    for size in (1, 7, 250):
        part = order[:size]
        np.testing.assert_array_equal(whole(encoder, take(some, part)), together[part])


def test_a_history_has_the_same_bits_in_any_batch():
    rng = np.random.default_rng(4)
    n = 4000
    history = HISTORY.build(
        {
            "user_id": rng.integers(0, USERS, n),
            "event_id": np.arange(n),
            "item_id": rng.integers(0, 120, n),
            "action": np.zeros(n, np.int16),
            "at": rng.integers(0, 10**12, n),
            "impression_id": pa.nulls(n, pa.int64()),
            "credited_id": pa.nulls(n, pa.int64()),
            "content_digest": np.arange(n),
        }
    )
    config = HistoryConfig(recent_items=20, clusters=4)

    def encode(users):
        found = encode_users(
            MODEL, history, PROFILES.empty(), pa.array(users), DEFAULT_ACTIONS, config,
            cutoff=2 * 10**12,
        )  # fmt: skip
        return np.array(found["encoding"].to_pylist(), np.float32)

    together = encode(np.arange(USERS))
    assert np.isfinite(together).all()
    assert len(np.unique(together, axis=0)) > USERS - 5
    for part in (np.arange(3), np.arange(50, 250), np.array([299])):
        np.testing.assert_array_equal(encode(part), together[part])
    assert np.isfinite(encode(np.array([10**6]))).all()  # of whom nothing is known


def test_the_model_is_asked_once_for_all_queries_of_a_user_without_condition():
    some, encoder = asked(), ModelEncoder(MODEL, encodings())
    free = some.without(np.arange(len(some.rows)))
    vectors, vector_of = encoder.encode(free)
    assert len(vectors) == len(np.unique(some.user_ids))
    one = take(free, [17])
    np.testing.assert_array_equal(vectors[vector_of][17], encoder.encode(one)[0][0])


def test_query_rows_have_length_one_and_the_condition_turns_them():
    some, encoder = asked(), ModelEncoder(MODEL, encodings())
    rows = whole(encoder, some)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    conditioned = np.diff(some.conditions.offsets) > 0
    free = whole(encoder, some.without(np.arange(len(some.rows))))
    assert (rows[conditioned] != free[conditioned]).any(axis=1).all()


def test_a_user_without_encoding_is_named():
    encoder = ModelEncoder(MODEL, encodings(5))
    some = asked(1)._replace(user_ids=np.array([99]))
    with pytest.raises(ValueError, match="user 99 has no history encoding"):
        encoder.encode(some)


def test_the_item_encoder_gives_each_item_its_own_vector():
    some = asked(6)._replace(rows=np.array([3, 3, 5, 1, 5, 0]))
    vectors, vector_of = ItemEncoder(ITEMS).encode(some)
    assert len(vectors) == 4
    np.testing.assert_array_equal(vectors[vector_of], ITEMS.vectors[some.rows])


class Noted:
    """An encoder that asks with item 0 and remembers what it was asked."""

    def encode(self, asked):
        self.asked = asked
        return ITEMS.vectors[:1], np.zeros(len(asked.rows), np.int64)


# The small world: item i carries topic i mod 6.
DRAWS = [(5, 0, 11, 1, [1]), (5, 1, 12, 2, [2]), (6, 0, 13, 7, [1]), (6, 0, 14, 8, [2], "related",
         "item")]  # fmt: skip


def serve(arm, encoder=None, **options):
    config = RetrievalConfig(arm=arm, **{"candidates_per_query": 10} | options)
    index = ExactIndex.over(ITEMS)
    return retrieve_candidates(queries_of(DRAWS), seen_of([]), index, ITEMS, config, encoder)


@pytest.mark.parametrize(
    ("arm", "conditioned", "filtered"),
    [("lr", 0, False), ("lr_filter", 0, True), ("cr", 4, False), ("cr_filter", 4, True)],
)
def test_an_arm_says_what_is_asked_and_where(arm, conditioned, filtered):
    encoder = Noted()
    table = serve(arm, encoder, unconditioned_slots=0)
    assert (np.diff(encoder.asked.conditions.offsets) > 0).sum() == conditioned
    assert (encoder.asked.rows >= 0).sum() == conditioned
    assert all(table["condition_matched"].to_pylist()) is filtered
    assert table.num_rows == 40


def test_auto_is_conditioned_and_filtered_where_there_is_a_model_else_index():
    assert serve("auto", Noted()).equals(serve("cr_filter", Noted()))
    assert serve("auto").equals(serve("index"))
    assert serve("index", Noted()).equals(serve("index"))
    with pytest.raises(ValueError, match="the arm lr asks a model, and there is none; train one"):
        serve("lr")


@pytest.mark.parametrize(("slots", "left"), [(0, 4), (1, 1), (2, 0)])
def test_the_last_slots_of_a_user_and_surface_are_asked_without_condition(slots, left):
    encoder = Noted()
    table = serve("cr_filter", encoder, unconditioned_slots=slots)
    assert (np.diff(encoder.asked.conditions.offsets) > 0).sum() == left
    matched = table.group_by("draw_id").aggregate([("condition_matched", "min")])
    held = {r["draw_id"] for r in matched.to_pylist() if r["condition_matched_min"]}
    assert held == [{11, 12, 13, 14}, {11}, set()][slots]


def test_the_index_arm_holds_every_slot_to_its_condition():
    options = {"candidates_per_query": 50, "fill": False}
    table = serve("index", unconditioned_slots=1, **options)
    assert table["draw_id"].to_pylist().count(11) == 19  # the slice, less item 1
    assert table.equals(serve("index", unconditioned_slots=0, **options))


@pytest.mark.parametrize("topic", [99, 12345])  # known by its vector alone, and not at all
def test_a_topic_without_items_is_answered_from_the_whole_catalogue(topic):
    vector = pa.array([[1.0] + [0.0] * 7], pa.list_(pa.float32()))
    topics = TOPICS.build({"topic_id": [99], "name": ["new"], "embedding": vector})
    model = RetrievalModel(untrained(shape=ModelConfig()), ITEMS, topics)
    encoder = ModelEncoder(model, encodings(10, model))
    queries = queries_of([(5, 0, 11, 1, [topic])])
    index = ExactIndex.over(ITEMS, model.encode_items(ITEMS))

    def found(**options):
        config = RetrievalConfig(
            arm="cr_filter", candidates_per_query=10, unconditioned_slots=0, **options
        )
        return retrieve_candidates(queries, seen_of([]), index, ITEMS, config, encoder)

    assert found()["condition_matched"].to_pylist() == [False] * 10
    assert found(fill=False).num_rows == 0
