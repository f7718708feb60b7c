from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from pipelines.worlds.demo import (
    FURNITURE,
    ITEMS_PER_TOPIC,
    RECIPES,
    TOPIC_NAMES,
    World,
    item_title,
    midnight,
    topics_of,
)
from profiling.decay import DAY_US, HOUR_US
from profiling.items import Items
from profiling.schema import ints
from retrieval.tables import FEED

START = date(2026, 3, 1)
DAY_NUMBER = (START - date(1970, 1, 1)).days


def feed_of(users: np.ndarray, items: np.ndarray, serve_day: date = START) -> pa.Table:
    """One feed a user, the given (n, p) items in order."""
    n, p = items.shape
    return FEED.build(
        {
            "run_date": pa.array([serve_day - timedelta(days=1)] * (n * p)),
            "user_id": np.repeat(users, p),
            "surface": pa.array(["home"] * (n * p)),
            "position": np.tile(np.arange(p), n),
            "serve_date": pa.array([serve_day] * (n * p)),
            "item_id": items.ravel(),
            "draw_id": np.repeat(users, p) * 10 + 1,
            "draws": pa.array([[]] * (n * p), FEED.arrow.field("draws").type),
            "relevance": np.ones(n * p),
            "diversity": np.zeros(n * p),
            "penalties": pa.array([[]] * (n * p), FEED.arrow.field("penalties").type),
            "config_version": pa.array(["v"] * (n * p)),
        }
    )


def feed_of_topic(world: World, topic: int) -> pa.Table:
    items = topic * ITEMS_PER_TOPIC + 1 + np.arange(25)
    return feed_of(world.user_ids, np.tile(items, (len(world.user_ids), 1)))


def test_same_seed_same_world_other_seed_other_world():
    first, again, other = (World.create(50, seed, 0.5) for seed in (1, 1, 2))
    assert first.items_table().equals(again.items_table())
    assert first.past_engagements(START).equals(again.past_engagements(START))
    assert (first.tastes == again.tastes).all()
    assert (first.tastes != other.tastes).any()
    assert not first.items_table().equals(other.items_table())


def test_a_user_is_the_same_in_a_larger_world():
    small, large = World.create(30, 3, 0.5), World.create(300, 3, 0.5)
    assert (small.tastes == large.tastes[:30]).all()
    assert (small.sizes == large.sizes[:30]).all()


@pytest.mark.parametrize("mismatch", [0.0, 0.5, 1.0])
def test_tastes_leave_past_shares_by_the_mismatch(mismatch: float):
    world = World.create(2000, 5, mismatch)
    others = world.user_ids != world.story_user
    sizes, tastes = world.sizes[others], world.tastes[others]
    interests = sizes > 0
    n = interests.sum(axis=1)
    assert n.min() == 4
    assert n.max() == 8
    relative = sizes / sizes.sum(axis=1, keepdims=True) * n[:, None]
    level = tastes.sum(axis=1, where=interests) / n
    if mismatch == 0.0:  # exactly the past: taste = level * share * n
        capped = tastes.max(axis=1) == 0.6
        assert capped.mean() < 0.1
        plain = interests & ~capped[:, None]
        assert np.allclose((tastes / level[:, None])[plain], relative[plain])
    barren = world.barren[others] >= 0
    # binomial: 4 standard errors of a share over 1,999 users
    assert abs(barren.mean() - mismatch) <= 4 * np.sqrt(mismatch * (1 - mismatch) / 1999)
    assert (tastes[barren, world.barren[others][barren]] == 0).all()
    assert (sizes[barren, world.barren[others][barren]] == sizes[barren].max(axis=1)).all()
    assert (tastes[~interests] == 0.01).all()
    kept = interests & ~barren[:, None]
    if kept.any():
        correlation = np.corrcoef(relative[kept], tastes[kept])[0, 1]
        assert (correlation > 0.8) == (mismatch == 0.0)


def test_the_published_story():
    world = World.create(100, 9, 0.0, story_user=17)
    sizes, tastes = world.sizes[16], world.tastes[16]
    assert sizes[RECIPES] == sizes.max() == 60
    assert sizes[FURNITURE] == 4
    assert tastes[RECIPES] == 0.0
    assert tastes[FURNITURE] == tastes.max() == 0.3
    assert world.barren[16] == RECIPES


def test_items_lie_around_their_topic():
    world = World.create(10, 1, 0.5)
    items = Items.from_table(world.items_table())
    centres = np.array(world.topics_table()["embedding"].to_pylist())
    cosines = items.vectors @ centres.T
    own = cosines[np.arange(len(items.ids)), topics_of(items.ids)]
    assert (cosines.argmax(axis=1) == topics_of(items.ids)).all()
    assert own.min() > 0.85
    main = items.topic_ids[items.topic_offsets[:-1]] - 1
    assert (main == topics_of(items.ids)).all()
    two = np.diff(items.topic_offsets) == 2
    assert 0.1 < two.mean() < 0.15
    assert (items.topic_ids[items.topic_offsets[:-1][two] + 1] - 1 != main[two]).all()
    assert item_title(17) == "Recipes 17"
    assert item_title(ITEMS_PER_TOPIC + 1) == f"{TOPIC_NAMES[1]} 1"


def test_the_past_has_the_stated_sizes_and_ends_before_the_start():
    world = World.create(200, 2, 0.5)
    past = world.past_engagements(START)
    users, items, at = (ints(past, c) for c in ("user_id", "item_id", "at"))
    counts = np.zeros_like(world.sizes)
    np.add.at(counts, (users - 1, topics_of(items)), 1)
    assert (counts == world.sizes).all()
    assert len(np.unique(np.c_[users, items], axis=0)) == past.num_rows  # never an item twice
    assert len(np.unique(ints(past, "event_id"))) == past.num_rows
    assert at.max() < midnight(START)
    assert at.min() >= midnight(START) - 60 * DAY_US


def test_a_day_of_serving():
    world = World.create(3000, 4, 0.5)
    feed = feed_of_topic(world, FURNITURE)
    shown, engaged = world.serve(feed, START)
    users = ints(shown, "user_id")
    come = len(np.unique(users)) / 3000
    assert abs(come - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 3000)
    depths = np.bincount(users)[np.unique(users)]
    assert depths.min() == 10
    assert depths.max() == 25
    assert shown["actions"].null_count == shown.num_rows
    assert (ints(shown, "draw_id") == users * 10 + 1).all()
    # every engagement follows its impression within the hour, on the same day
    seen = zip(users, ints(shown, "item_id"), ints(shown, "at"), strict=True)
    seen_at = {(u, i): t for u, i, t in seen}
    engagements = zip(*(ints(engaged, c) for c in ("user_id", "item_id", "at")), strict=True)
    delays = np.array([t - seen_at[u, i] for u, i, t in engagements])
    assert delays.min() >= 5_000_000
    assert delays.max() < HOUR_US
    assert ints(engaged, "at").max() < (DAY_NUMBER + 1) * DAY_US


def test_engagement_follows_taste():
    world = World.create(3000, 6, 0.5)
    shown, engaged = world.serve(feed_of_topic(world, RECIPES), START)
    chance = world.tastes[ints(shown, "user_id") - 1, RECIPES]
    expected, spread = chance.sum(), np.sqrt((chance * (1 - chance)).sum())
    assert abs(engaged.num_rows - expected) < 4 * spread
    loved = world.tastes[ints(engaged, "user_id") - 1, RECIPES]
    assert (loved > 0).all()  # barren means never
    again = world.serve(feed_of_topic(world, RECIPES), START)
    assert engaged.equals(again[1])


def test_a_feed_of_another_day_or_surface_is_not_served():
    world = World.create(20, 1, 0.5)
    feed = feed_of_topic(world, RECIPES)
    assert world.serve(feed, START + timedelta(days=1))[0].num_rows == 0
    elsewhere = feed.set_column(
        feed.column_names.index("surface"), "surface", pa.array(["related"] * feed.num_rows)
    )
    shown, engaged = world.serve(elsewhere, START)
    assert (shown.num_rows, engaged.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("users", "mismatch", "story_user", "message"),
    [
        (0, 0.5, 1, "at least 1 user, got 0"),
        (10, 1.5, 1, "mismatch must be from 0 to 1, got 1.5"),
        (10, 0.5, 11, "from 1 to 10, got 11"),
    ],
)
def test_impossible_worlds(users: int, mismatch: float, story_user: int, message: str):
    with pytest.raises(ValueError, match=message):
        World.create(users, 1, mismatch, story_user=story_user)
