"""Spacing classes as data: kernels, where they work, who is a member, what is named as wrong."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from profiling.items import Items
from retrieval.feed import FeedConfig, pool_of, rerank_feed
from retrieval.spacing.classes import (
    Activation,
    Kernel,
    LabelTable,
    Source,
    Spacing,
    SpacingClass,
    joint_demotion,
)
from retrieval.spacing.diversity import Diversity, EmbeddingPart
from retrieval.spacing.explain import explain_position
from retrieval.spacing.labels import ItemLabels, feed_spacing
from retrieval.spacing.measures import margin, measure_spacing, measured_users, step_of
from retrieval.spacing.terms import FeedSpacing
from tests.retrieval.test_feed import DAY, random_draws, tables

N = 60
ITEMS = Items(
    ids=np.arange(100, 100 + N),
    vectors=np.random.default_rng(2).normal(size=(N, 4)).astype(np.float32),
    version="v1",
    topic_offsets=np.arange(N + 1),
    topic_ids=np.arange(N) % 3,
    topic_confidences=np.linspace(0, 1, N).astype(np.float32),
    created_at=np.zeros(N, np.int64),
)
TOPIC = SpacingClass("topic", Source(topic=0, threshold=0.01), weight=0.3, window=3)
GORE = SpacingClass("gore", Source(label="gore", threshold=0.7), weight=0.25, window=4)
RISK = SpacingClass("risk", Source(column="q.risk", threshold=0.5), weight=0.2, window=2)
TABLES = {"q": pa.table({"item_id": [103, 159, 7], "risk": [0.5, 0.49, 1.0]})}


def labels(*rows: tuple[int, list[tuple[str, float]]]) -> pa.Table:
    return pa.table(
        {
            "item_id": [item for item, _ in rows],
            "labels": pa.array(
                [[{"label": n, "score": s} for n, s in given] for _, given in rows],
                pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())])),
            ),
        }
    )


def every_item(**scores: float) -> pa.Table:
    found = {int(name[1:]): score for name, score in scores.items()}
    return labels(*((i, [("gore", found[i])] if i in found else []) for i in range(100, 100 + N)))


def prepared(*classes: SpacingClass, diversity: Diversity | None = None) -> FeedSpacing:
    tagged = every_item(i101=0.7, i102=0.69, i105=1.0, i130=0.9)
    config = Spacing(
        diversity or Diversity(), tables=(LabelTable("q", "q.parquet"),), classes=classes
    )
    return feed_spacing(config, ITEMS, ItemLabels.from_table(tagged, ITEMS), TABLES)


def test_kernels_fall_as_they_say() -> None:
    np.testing.assert_allclose(Kernel().values(4), [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(Kernel("exponential", 2.0).values(4), [1, 0.5**0.5, 0.5, 0.5**1.5])
    steps = Kernel("piecewise", steps=((2, 1.0), (3, 0.25)))
    np.testing.assert_allclose(steps.values(5), [1, 1, 0.25, 0, 0])
    one = SpacingClass("a", Source(label="x"), weight=0.3, window=3)
    assert one.greatest_demotion == pytest.approx(0.3 * (1 + 1 / 2 + 1 / 3))


def test_members_come_from_labels_topics_and_columns() -> None:
    found = prepared(TOPIC, GORE, RISK).members
    assert ITEMS.ids[found[:, 1]].tolist() == [101, 105, 130]  # .7 as float32 reaches .7
    assert ITEMS.ids[found[:, 2]].tolist() == [103]
    # item 100 + i has topic i % 3 with confidence i / 59
    assert ITEMS.ids[found[:, 0]].tolist() == list(range(103, 160, 3))


def test_of_one_id_the_later_row_holds() -> None:
    table = pa.concat_tables([every_item(i101=1.0), labels((101, []), (102, [("gore", 0.8)]))])
    found = ItemLabels.from_table(table, ITEMS)
    assert ITEMS.ids[found.rows].tolist() == [102]


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1])
def test_a_label_score_out_of_range_is_named(score: float) -> None:
    with pytest.raises(ValueError, match=r"item 105: label 'gore' has score .* \[0, 1\]"):
        ItemLabels.from_table(every_item(i105=score), ITEMS)


def test_a_column_out_of_range_or_absent_is_named() -> None:
    config = Spacing(tables=(LabelTable("q", "q"),), classes=(RISK,))
    bad = {"q": pa.table({"item_id": [103], "risk": [7.0]})}
    with pytest.raises(ValueError, match=r"item 103: column 'q\.risk' has score 7"):
        feed_spacing(config, ITEMS, ItemLabels(), bad)
    with pytest.raises(ValueError, match="table 'q' has no column 'risk'; it has item_id, x"):
        feed_spacing(config, ITEMS, ItemLabels(), {"q": pa.table({"item_id": [1], "x": [1]})})


def test_a_candidate_without_an_embedding_is_named() -> None:
    diversity = Diversity(0.5, embeddings=(EmbeddingPart("q.vector"),))
    config = Spacing(diversity, tables=(LabelTable("q", "q"),))
    table = {"q": pa.table({"item_id": [101, 102], "vector": [[1.0, 0.0], [0.0, 1.0]]})}
    spacing = feed_spacing(config, ITEMS, ItemLabels(), table)
    candidates, queries = tables({(0, 7, "home", 0): (31, [(101, 0.9), (103, 0.8), (102, 0.7)])})
    with pytest.raises(ValueError, match=r"candidate 103 has no embedding of q\.vector"):
        rerank_feed(candidates, queries, ITEMS, FeedConfig(), spacing=spacing)


def test_where_a_class_works_is_the_same_for_one_feed_and_for_many() -> None:
    day = dt.date(2022, 4, 21)
    rows = list(product(["home", "related"], ["", "a"], [1, 2], [day, day + dt.timedelta(days=1)]))
    feeds = pa.table(
        {
            "surface": [r[0] for r in rows],
            "arm": [r[1] for r in rows],
            "user_id": [r[2] for r in rows],
            "serve_date": pa.array([r[3] for r in rows], pa.date32()),
        }
    )
    segments = pa.table({"user_id": [1, 1], "segment": ["new", "quiet"]})
    spacing = feed_spacing(Spacing(), ITEMS, ItemLabels(), {}, segments)
    of = {1: frozenset({"new", "quiet"}), 2: frozenset[str]()}
    seen = set()
    for surfaces, groups, arms, first, last in product(
        ((), ("home",)), ((), ("new", "x")), ((), ("a",)), (None, day), (None, day)
    ):
        where = Activation(surfaces, groups, arms, first, last)
        many = spacing.active(where, feeds)
        one = [where.holds(s, of[u], a, d) for s, a, u, d in rows]
        assert many.tolist() == one
        seen.add(sum(one))
    assert {1, 16} <= seen


def test_a_class_works_only_where_it_is_active_and_its_members_are_told_everywhere() -> None:
    home_only = replace(TOPIC, activation=Activation(surfaces=("home",)))
    candidates, queries = tables(random_draws(5))
    feed = rerank_feed(candidates, queries, ITEMS, FeedConfig(), spacing=prepared(home_only))
    rows = feed.to_pylist()
    taken = {row["surface"]: 0.0 for row in rows}
    for row in rows:
        taken[row["surface"]] += row["penalties"][0]["penalty"]
    assert taken["home"] > 0
    assert taken["related"] == 0
    members = [row for row in rows if row["spacing_classes"] == ["topic"]]
    assert {row["surface"] for row in members} == {"home", "related"}
    assert all(row["item_id"] % 3 == 100 % 3 for row in members)


def test_nothing_switched_on_is_the_feed_of_before() -> None:
    candidates, queries = tables(random_draws(6))
    plain = rerank_feed(candidates, queries, ITEMS, FeedConfig())
    assert rerank_feed(candidates, queries, ITEMS, FeedConfig(), spacing=prepared()).equals(plain)


def test_removing_a_class_removes_it_and_the_version_says_so() -> None:
    candidates, queries = tables(random_draws(6))

    def feed(*classes: SpacingClass) -> pa.Table:
        spacing = prepared(*classes, diversity=Diversity(0.2, 3))
        return rerank_feed(candidates, queries, ITEMS, FeedConfig(), spacing=spacing)

    both, one = feed(TOPIC, GORE), feed(TOPIC)
    assert [p["spacing_class"] for p in both["penalties"][0].as_py()] == ["topic", "gore"]
    assert [p["spacing_class"] for p in one["penalties"][0].as_py()] == ["topic"]
    versions = {t["config_version"][0].as_py() for t in (both, one, feed())}
    assert len(versions) == 3


def test_the_order_of_rows_and_the_sharding_change_nothing() -> None:
    candidates, queries = tables(random_draws(8))
    spacing = prepared(TOPIC, GORE, RISK, diversity=Diversity(0.4, 3))
    whole = rerank_feed(candidates, queries, ITEMS, FeedConfig(size=9), spacing=spacing)
    order = np.random.default_rng(1).permutation(candidates.num_rows)
    shuffled = candidates.take(order)
    again = rerank_feed(shuffled, queries, ITEMS, FeedConfig(size=9), spacing=spacing)
    assert again.combine_chunks().equals(whole.combine_chunks())
    parts = []
    for user in range(6):
        mine = candidates.filter(pa.array(candidates["user_id"].to_numpy() == user))
        parts.append(rerank_feed(mine, queries, ITEMS, FeedConfig(size=9), spacing=spacing))
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())


def test_joint_demotion_tells_surfaces_and_arms_apart() -> None:
    home = replace(GORE, activation=Activation(surfaces=("home",)))
    arm = replace(RISK, activation=Activation(surfaces=("related",), arms=("a",)))
    total, together = joint_demotion(
        Spacing(classes=(TOPIC, home, arm), tables=(LabelTable("q", "q"),))
    )
    assert together == ("topic", "gore")
    assert total == pytest.approx(TOPIC.greatest_demotion + GORE.greatest_demotion)


def test_what_classes_do_is_measured_by_hand() -> None:
    # topic 0: items 103, 106, 109; relevance 1, .9, .8, .5, .0
    found = [(103, 1.0), (106, 0.9), (109, 0.8), (104, 0.5), (101, 0.0)]
    candidates, queries = tables({(0, 7, "home", 0): (31, found)})
    spacing = prepared(TOPIC)
    bounds = FeedConfig(size=4)
    after = rerank_feed(candidates, queries, ITEMS, bounds, spacing=spacing)
    before = rerank_feed(candidates, queries, ITEMS, bounds, spacing=spacing.without_classes())
    # 103; 106 at .9 - .3 = .6; then 109 at .8 - .3 - .15 = .35 < .5: 104; then 109 at .8 - .15 - .1
    assert after["item_id"].to_pylist() == [103, 106, 104, 109]
    counts = measure_spacing(before, after, candidates, ITEMS, spacing)
    assert counts[step_of("topic")] == {
        "users": 1, "measured_users": 1, "candidates": 5, "labelled": 3, "placed": 4,
        "placed_labelled": 3, "adjacent": 1, "decided": 1, "demotion_milli": 550,
        "measured_placed": 4, "measured_labelled": 3, "placed_labelled_before": 3,
        "labelled_squares": 0, "measured_adjacent": 1, "adjacent_before": 2, "positions_lost": 1,
        "positions_lost_squares": 1,
    }  # fmt: skip
    assert counts["spacing"] == {
        "users": 1, "measured_users": 1,
        "placed": 4, "demoted": 2, "capped": 0, "demotion_milli": 550,
        "gained_before_milli": 3200, "gained_milli": 3200, "given_up_milli_squares": 0,
    }  # fmt: skip


def test_of_some_measured_users_the_books_are_theirs_and_add_up_over_any_sharding() -> None:
    candidates, queries = tables(random_draws(3))
    spacing = prepared(TOPIC, GORE, diversity=Diversity(0.1, 3))
    users = candidates["user_id"].to_numpy()

    def books(of: np.ndarray, measured: np.ndarray) -> dict[str, dict[str, int]]:
        mine, some = (candidates.filter(np.isin(users, who)) for who in (of, measured))
        feeds = [
            rerank_feed(part, queries, ITEMS, FeedConfig(size=9), spacing=how)
            for part, how in ((some, spacing.without_classes()), (mine, spacing))
        ]
        return measure_spacing(*feeds, mine, ITEMS, spacing)

    everyone = np.unique(users)
    some = everyone[::2]
    found, whole, alone = books(everyone, some), books(everyone, everyone), books(some, some)
    for step, counts in found.items():
        for name, count in counts.items():
            theirs = name.startswith(("measured", "placed_labelled_before", "adjacent_before",
                                      "positions", "gained", "given", "labelled_sq"))  # fmt: skip
            assert count == (alone if theirs else whole)[step][name], (step, name)
    assert found[step_of("topic")]["positions_lost"] > 0
    halves = [books(everyone[:3], everyone[:2]), books(everyone[3:], everyone[3:4])]
    both = books(everyone, everyone[[0, 1, 3]])
    for step, counts in both.items():
        for name, count in counts.items():
            assert abs(count - sum(half[step][name] for half in halves)) <= ("milli" in name)


def test_the_margin_of_measured_users_covers_the_sum_over_all() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = rng.lognormal(1.0, 0.8, 500)
        some = values[measured_users(rng.integers(1 << 62, size=500), 0.2)]
        half = margin(some.sum(), (some**2).sum(), len(some), 500)
        covered += abs(some.mean() * 500 - values.sum()) < half
    assert 0.91 < covered / 400 < 0.98
    assert margin(7.0, 49.0, 500, 500) == 0.0
    assert np.isnan(margin(7.0, 49.0, 1, 500))


def test_an_item_that_fell_off_the_feed_lost_its_way_to_the_end() -> None:
    found = [(103, 1.0), (106, 0.9), (104, 0.8), (101, 0.0)]
    candidates, queries = tables({(0, 7, "home", 0): (31, found)})
    spacing = prepared(TOPIC)
    bounds = FeedConfig(size=2)
    after = rerank_feed(candidates, queries, ITEMS, bounds, spacing=spacing)
    before = rerank_feed(candidates, queries, ITEMS, bounds, spacing=spacing.without_classes())
    assert after["item_id"].to_pylist() == [103, 104]
    counts = measure_spacing(before, after, candidates, ITEMS, spacing)
    assert counts[step_of("topic")]["positions_lost"] == 1


def test_a_position_is_explained_by_the_same_numbers_as_the_ledger() -> None:
    draws = {key: value for key, value in random_draws(9).items() if key[1:3] == (1, "home")}
    candidates, queries = tables(draws)
    spacing = prepared(TOPIC, GORE, diversity=Diversity(0.1, 3))
    feed = rerank_feed(candidates, queries, ITEMS, FeedConfig(size=40), spacing=spacing)
    pool = pool_of(candidates, queries, ITEMS, FeedConfig(size=40))
    placed = feed["item_id"].to_numpy()
    some_cause = False
    for position, row in enumerate(feed.to_pylist()):
        found = explain_position(pool, spacing, placed, position)
        assert found.chosen.item_id == row["item_id"]
        assert found.chosen.diversity == pytest.approx(row["diversity"], abs=1e-9)
        ledger = {p["spacing_class"]: p["penalty"] for p in row["penalties"]}
        assert found.chosen.penalties == pytest.approx(ledger)
        by_class = dict.fromkeys(ledger, 0.0)
        for cause in found.chosen.causes:
            assert placed[cause.position] == cause.item_id
            by_class[cause.spacing_class] += cause.penalty
            some_cause = True
        assert by_class == pytest.approx(ledger)
        assert list(found.decided_by) == row["decided_by"]
        if found.rival is not None:
            assert found.rival.utility <= found.chosen.utility + 1e-9
            assert found.rival.item_id not in placed[: position + 1]
    assert some_cause
    with pytest.raises(ValueError, match="item 7 of the feed is no candidate"):
        explain_position(pool, spacing, np.array([7]), 0)


def test_days_of_serving_switch_a_class_on_and_off() -> None:
    later = replace(TOPIC, activation=Activation(first_day=DAY + dt.timedelta(days=2)))
    candidates, queries = tables(random_draws(5))
    feed = rerank_feed(candidates, queries, ITEMS, FeedConfig(), spacing=prepared(later))
    assert not any(p["penalty"] for row in feed["penalties"].to_pylist() for p in row)
