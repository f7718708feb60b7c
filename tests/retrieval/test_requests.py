"""One feed from arrays: the same as the step's; a candidate that cannot be judged is named."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from retrieval.feed import FeedConfig, rerank_feed
from retrieval.spacing.classes import Activation, Source, Spacing, SpacingClass
from retrieval.spacing.diversity import Diversity
from retrieval.spacing.labels import ItemLabels, feed_spacing
from retrieval.spacing.requests import Candidates, Context, RankedFeed, rank_candidates
from tests.retrieval.test_feed import DAY, random_draws, tables
from tests.retrieval.test_spacing import ITEMS, every_item

HOME = Context("home", DAY + dt.timedelta(days=1))
GORE = SpacingClass("gore", Source(label="gore"), weight=0.3, window=4)
TOPIC = SpacingClass("topic", Source(topic=0, threshold=0.01), weight=0.25, window=3)
CONFIG = Spacing(Diversity(0.3, 3), classes=(GORE, TOPIC))


def some(n: int = 12, seed: int = 0, first: int = 100) -> Candidates:
    rng = np.random.default_rng(seed)
    return Candidates(
        item_ids=np.arange(first, first + n),
        relevance=rng.random(n),
        embeddings={"item": rng.normal(size=(n, 3)).astype(np.float32)},
        labels={"gore": rng.random(n)},
        topics={0: rng.random(n)},
    )


def part(items: Candidates, rows: np.ndarray) -> Candidates:
    return Candidates(
        items.item_ids[rows],
        items.relevance[rows],
        *(
            {k: v[rows] for k, v in m.items()}
            for m in (items.embeddings, items.labels, items.topics)
        ),
    )


def rank(items: Candidates, config: Spacing = CONFIG, **options) -> RankedFeed:
    return rank_candidates(config, items, HOME, **({"size": 8} | options))


def test_a_request_gives_the_feed_of_the_step() -> None:
    draws = {key: value for key, value in random_draws(4).items() if key[1:3] == (1, "home")}
    candidates, queries = tables(draws)
    labels = ItemLabels.from_table(every_item(i101=0.7, i107=0.9, i130=0.9, i144=1.0), ITEMS)
    spacing = feed_spacing(CONFIG, ITEMS, labels, {})
    feed = rerank_feed(candidates, queries, ITEMS, FeedConfig(size=10), spacing=spacing)
    ids = np.unique(candidates["item_id"].to_numpy())
    scores = candidates.group_by("item_id").aggregate([("score", "max")]).sort_by("item_id")
    rows = ITEMS.rows_of(ids)
    carries = ITEMS.topic_ids[rows] == 0
    order = np.random.default_rng(0).permutation(len(ids))
    found = rank(
        Candidates(
            ids[order],
            scores["score_max"].to_numpy()[order],
            {"item": ITEMS.vectors[rows][order]},
            {"gore": spacing.members[rows, 0][order].astype(float)},
            {0: (carries * ITEMS.topic_confidences[rows])[order]},
        ),
        size=10,
    )
    assert found.item_ids.tolist() == feed["item_id"].to_pylist()
    np.testing.assert_allclose(found.diversity, feed["diversity"].to_numpy(), atol=1e-9)
    ledger = [[p["penalty"] for p in row] for row in feed["penalties"].to_pylist()]
    np.testing.assert_allclose(found.penalties, ledger)
    assert found.classes == ("gore", "topic")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"relevance": float("nan")}, "relevance is nan, must be a number"),
        ({"relevance": float("inf")}, "relevance is inf, must be a number"),
        ({"embedding": float("nan")}, "it has no embedding 'item'"),
        ({"label": 1.5}, "label 'gore' has score 1.5, must lie in [0, 1]"),
        ({"label": float("nan")}, "label 'gore' has score nan, must lie in [0, 1]"),
        ({"topic": -0.25}, "topic 0 has score -0.25, must lie in [0, 1]"),
        ({"id": 104}, "its id came before in the same request"),
    ],
)
def test_a_candidate_that_cannot_be_judged_is_named_and_left_out(
    change: dict[str, float], reason: str
) -> None:
    items = some()
    if "relevance" in change:
        items.relevance[7] = change["relevance"]
    if "embedding" in change:
        items.embeddings["item"][7, 1] = change["embedding"]
    if "label" in change:
        items.labels["gore"][7] = change["label"]
    if "topic" in change:
        items.topics[0][7] = change["topic"]
    if "id" in change:
        items.item_ids[7] = change["id"]
    found = rank(items, size=20)
    bad = int(items.item_ids[7])
    assert found.refused == ((bad, reason),)
    assert len(found.item_ids) == 11
    assert (
        found.item_ids.tolist()
        == rank(part(items, np.delete(np.arange(12), 7)), size=20).item_ids.tolist()
    )


def test_a_score_that_no_class_asks_for_refuses_nothing() -> None:
    items = some()
    items.labels["gore"][3] = 7.0
    assert rank(items, Spacing(classes=(TOPIC,))).refused == ()


def test_labels_that_are_not_there_leave_the_class_out_and_say_so() -> None:
    items = some()
    bare = Candidates(items.item_ids, items.relevance, {}, {}, items.topics)
    found = rank(bare)
    assert found.classes == ("topic",)
    assert found.left_out == (
        "gore: the candidates carry no label 'gore'",
        "diversity: the candidates carry no embedding 'item'",
    )
    assert not found.diversity.any()


def test_arrays_of_another_length_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"labels\['gore'\] must have one entry per item id, 2, got 1"
    ):
        Candidates(np.arange(2), np.zeros(2), labels={"gore": np.zeros(1)})


def test_a_tail_counts_as_placed() -> None:
    items = some(20)
    first = rank(items, size=6).item_ids - 100
    later = np.setdiff1d(np.arange(20), first)
    rest, shown = part(items, later), part(items, first)
    page = rank_candidates(CONFIG, rest, HOME, shown, size=6)
    alone = rank_candidates(CONFIG, rest, HOME, size=6)
    assert page.item_ids.tolist() != alone.item_ids.tolist()
    assert page.diversity[0] > 0
    assert page.penalties.sum() > alone.penalties.sum()
    assert alone.penalties[0].sum() == alone.diversity[0] == 0
    assert not set(page.item_ids) & set(shown.item_ids)


def test_a_tail_without_labels_is_said() -> None:
    tail = some(3, first=500)
    bare = Candidates(tail.item_ids, tail.relevance, tail.embeddings, {}, tail.topics)
    found = rank(some(), tail=bare)
    assert found.left_out == ("gore, as to the tail: it carries no label 'gore'",)


def test_a_class_works_where_the_context_says() -> None:
    only = Activation(surfaces=("related",), segments=("new",), arms=("b",))
    config = Spacing(classes=(SpacingClass("gore", Source(label="gore"), activation=only),))
    where = Context("related", HOME.day, frozenset({"new"}), "b")
    assert rank_candidates(config, some(), where, size=5).classes == ("gore",)
    assert rank(some(), config).classes == ()


def test_without_classes_and_diversity_it_is_the_sort_by_relevance() -> None:
    items = some(30)
    found = rank(items, Spacing(), size=30)
    assert found.item_ids.tolist() == items.item_ids[np.argsort(-items.relevance)].tolist()
    assert found.penalties.shape == (30, 0)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("shown", [0, 2])
def test_none_and_one(n: int, shown: int) -> None:
    found = rank(some(n), tail=some(shown, first=900))
    assert len(found.item_ids) == n
    assert found.penalties.shape == (n, 2)
    assert not found.refused
