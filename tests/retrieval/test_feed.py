"""Step 6 by hand, the sorted path against the greedy one, terms against a plain greedy."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.items import Items
from retrieval.feed import FeedConfig, _sorted_by, config_version, rerank_feed
from retrieval.spacing.utility import Pool, order_by_relevance, order_feeds, order_greedily
from retrieval.tables import CANDIDATES, FEED
from selection.tables import QUERIES

DAY = dt.date(2022, 4, 20)
N_ITEMS = 60
ITEMS = Items(
    ids=np.arange(100, 100 + N_ITEMS),
    vectors=np.eye(1, 2, dtype=np.float32).repeat(N_ITEMS, axis=0),
    version="v1",
    topic_offsets=np.arange(N_ITEMS + 1),
    topic_ids=np.arange(N_ITEMS) % 3,
    topic_confidences=np.ones(N_ITEMS, np.float32),
    created_at=np.zeros(N_ITEMS, np.int64),
)


def tables(draws):
    """(CANDIDATES, QUERIES) from {(day, user, surface, slot): (draw_id, [(item, score), ...])}."""
    queries, candidates = [], []
    for (day, user, surface, slot), (draw, found) in draws.items():
        of_draw = {"user_id": user, "surface": surface, "slot": slot, "draw_id": draw}
        queries.append(
            of_draw
            | {
                "run_date": DAY + dt.timedelta(days=day),
                "serve_date": DAY + dt.timedelta(days=day + 1),
                "cluster_id": 0,
                "query_type": "item",
                "query_id": 1,
                "weight": 1.0,
                "propensity": 1.0,
                "set_probability": 1.0,
                "policy": "p",
                "arm": "",
                "conditions": [],
            }
        )
        for rank, (item, score) in enumerate(found):
            found_row = {"item_id": item, "score": score, "rank": rank, "condition_matched": True}
            candidates.append(of_draw | found_row)
    return (
        pa.Table.from_pylist(candidates, CANDIDATES.arrow),
        pa.Table.from_pylist(queries, QUERIES.arrow),
    )


def rerank(draws, terms=(), **options):
    candidates, queries = tables(draws)
    return rerank_feed(candidates, queries, ITEMS, FeedConfig(**options), terms=terms)


TWO_DRAWS = {
    (0, 7, "home", 0): (31, [(103, 0.875), (101, 0.75), (105, 0.5)]),
    (0, 7, "home", 1): (32, [(102, 1.0), (101, 0.625), (104, 0.5)]),
}


def test_two_draws_by_hand():
    rows = rerank(TWO_DRAWS).to_pylist()
    assert [row["item_id"] for row in rows] == [102, 103, 101, 104, 105]
    assert [row["position"] for row in rows] == [0, 1, 2, 3, 4]
    # least .5, greatest 1; of item 101 the greater score .75 counts
    expected = [1, (0.875 - 0.5) / 0.5, (0.75 - 0.5) / 0.5, 0, 0]
    assert [row["relevance"] for row in rows] == expected
    assert [row["draw_id"] for row in rows] == [32, 31, 31, 32, 31]
    assert rows[2]["draws"] == [
        {"draw_id": 31, "rank": 1, "score": 0.75},
        {"draw_id": 32, "rank": 1, "score": 0.625},
    ]
    assert rows[0]["draws"] == [{"draw_id": 32, "rank": 0, "score": 1.0}]
    assert {(row["run_date"], row["serve_date"]) for row in rows} == {
        (DAY, DAY + dt.timedelta(days=1))
    }
    assert all(row["penalties"] == [] and row["diversity"] == 0 for row in rows)


def test_the_slot_goes_to_the_draw_where_the_item_ranks_best():
    rows = rerank(
        {
            (0, 7, "home", 0): (31, [(101, 0.9), (102, 0.8)]),
            (0, 7, "home", 1): (9, [(102, 0.7), (103, 0.6)]),
        }
    ).to_pylist()
    owners = {row["item_id"]: row["draw_id"] for row in rows}
    assert owners == {101: 31, 102: 9, 103: 9}
    assert [draw["draw_id"] for draw in rows[1]["draws"]] == [9, 31]
    assert rows[1]["relevance"] == pytest.approx((0.8 - 0.6) / (0.9 - 0.6))


def test_round_robin_by_hand():
    rows = rerank(
        {
            (0, 7, "home", 0): (31, [(101, 0.9), (102, 0.8), (103, 0.7)]),
            (0, 7, "home", 2): (33, [(102, 0.3), (104, 0.2), (105, 0.1)]),
        },
        merge="round_robin",
    ).to_pylist()
    assert [row["item_id"] for row in rows] == [101, 102, 104, 103, 105]
    assert [row["draw_id"] for row in rows] == [31, 33, 33, 31, 33]
    assert [row["relevance"] for row in rows] == [1, 3 / 4, 2 / 4, 1 / 4, 0]


def test_equal_scores_give_a_half_and_go_by_item_id():
    rows = rerank({(0, 7, "home", 0): (31, [(105, 0.5), (101, 0.5), (103, 0.5)])}).to_pylist()
    assert [row["item_id"] for row in rows] == [101, 103, 105]
    assert [row["relevance"] for row in rows] == [0.5] * 3


def test_size_cuts_every_feed_and_feeds_are_apart():
    draws = {
        (day, user, surface, 0): (100 * day + 10 * user + place, [(101 + user, 0.9), (150, 0.1)])
        for day in (0, 1)
        for user in (1, 2)
        for place, surface in enumerate(["related", "home"])
    }
    table = rerank(draws, size=1)
    assert table.num_rows == 8
    keys = list(zip(*(table[name].to_pylist() for name in FEED.key), strict=True))
    assert keys == sorted(set(keys))
    assert [row["item_id"] - 101 for row in table.to_pylist()] == [k[1] for k in keys]
    assert table["relevance"].to_pylist() == [1.0] * 8


def test_empty_in_empty_out():
    queries = tables(TWO_DRAWS)[1]
    feed = rerank_feed(CANDIDATES.empty(), queries, ITEMS, FeedConfig())
    assert feed.equals(FEED.empty())


def test_draws_without_candidates_leave_no_trace():
    assert rerank(TWO_DRAWS | {(0, 3, "home", 0): (50, [])}).equals(rerank(TWO_DRAWS))


def test_refusals():
    candidates, queries = tables(TWO_DRAWS)
    with pytest.raises(ValueError, match="candidates of draw 32, which is not in QUERIES"):
        rerank_feed(candidates, queries.slice(0, 1), ITEMS, FeedConfig())
    with pytest.raises(ValueError, match="candidate 999 is not in ITEMS"):
        rerank({(0, 7, "home", 0): (31, [(999, 0.5)])})
    with pytest.raises(ValueError, match="score nan in CANDIDATES"):
        rerank({(0, 7, "home", 0): (31, [(101, float("nan"))])})
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        FeedConfig(size=0)
    with pytest.raises(ValueError, match="merge must be one of score, round_robin"):
        FeedConfig(merge="best")


# Two terms as a later file would write them: an inverse-distance penalty per topic, and a bonus to
# items whose topic was not yet shown.


@dataclass(frozen=True)
class TopicSpacing:
    name: str
    topic: int
    weight: float
    window: int
    kind: Literal["penalty"] = "penalty"

    def begin(self, pool):
        carries = ITEMS.topic_ids[pool.item_rows] == self.topic
        return RunningSpacing(self, carries, np.repeat(np.arange(len(pool.feeds)), sizes(pool)))


class RunningSpacing:
    def __init__(self, term, carries, feed_of):
        self.term, self.carries, self.feed_of = term, carries, feed_of
        self.placed = []

    def values(self):
        demotion = np.zeros(self.feed_of.max() + 1)
        for distance, hit in enumerate(reversed(self.placed[-self.term.window :]), start=1):
            demotion += hit / distance
        return self.term.weight * demotion[self.feed_of] * self.carries

    def place(self, chosen):
        self.placed.append((chosen >= 0) & self.carries[chosen])


@dataclass(frozen=True)
class NewTopic:
    bonus: float
    name: str = "new_topic"
    kind: Literal["diversity"] = "diversity"

    def begin(self, pool):
        return RunningNewTopic(self.bonus, pool)


class RunningNewTopic:
    def __init__(self, bonus, pool):
        self.bonus = bonus
        self.topics = ITEMS.topic_ids[pool.item_rows]
        self.feed_of = np.repeat(np.arange(len(pool.feeds)), sizes(pool))
        self.shown = np.zeros((len(pool.feeds), 3), bool)

    def values(self):
        return np.where(self.shown[self.feed_of, self.topics], 0.0, self.bonus)

    def place(self, chosen):
        some = np.flatnonzero(chosen >= 0)
        self.shown[some, self.topics[chosen[some]]] = True


def sizes(pool):
    return np.diff(pool.bounds)


def test_a_spacing_term_by_hand():
    # topic of item 100 + i is i % 3: 100, 103, 106 carry topic 0, 101 topic 1
    draws = {(0, 7, "home", 0): (31, [(100, 1.0), (103, 0.875), (106, 0.75), (101, 0.0)])}
    rows = rerank(draws, terms=[TopicSpacing("zero", 0, weight=0.9, window=2)]).to_pylist()
    # after 100: 103 is worth .875 - .9, 101 is worth 0; then at distance 2: .875 - .9 / 2
    assert [row["item_id"] for row in rows] == [100, 101, 103, 106]
    penalties = [row["penalties"][0]["penalty"] for row in rows]
    assert penalties == [0, 0, 0.9 / 2, 0.9]
    assert {row["penalties"][0]["spacing_class"] for row in rows} == {"zero"}
    assert [row["relevance"] for row in rows] == [1, 0, 0.875, 0.75]


TERMS = (
    TopicSpacing("zero", 0, 0.5, 3),
    NewTopic(0.25),
    TopicSpacing("one", 1, 0.25, 2),
)


def plain_greedy(rows, size):
    """TERMS on one feed: (item, relevance) rows to (item, diversity, penalties), in Python."""
    left, placed, out = dict(rows), [], []
    while left and len(placed) < size:

        def worth(item):
            topic = (item - 100) % 3
            back = [(other - 100) % 3 for other in reversed(placed)]
            penalties = [
                (topic == term.topic)
                * term.weight
                * sum(1 / d for d, other in enumerate(back[: term.window], 1) if other == topic)
                for term in (TERMS[0], TERMS[2])
            ]
            return (0.0 if topic in back else 0.25), penalties

        best = max(left, key=lambda i: (left[i] + worth(i)[0] - sum(worth(i)[1]), -i))
        out.append((best, *worth(best)))
        placed.append(best)
        del left[best]
    return out


def random_draws(seed, n_users=6):
    """Scores are multiples of 1/16, least 0, greatest 1: sums are exact, ties abound."""
    rng = np.random.default_rng(seed)
    draws = {}
    for user in range(n_users):
        for surface in ("home", "related")[: 1 + user % 2]:
            for slot in range(3):
                items = 100 + rng.choice(N_ITEMS, rng.integers(2, 15), replace=False)
                scores = np.sort(np.r_[rng.integers(0, 17, len(items) - 2), 0, 16])[::-1] / 16
                draw = int(user * 1000 + rng.integers(0, 300) * 3 + slot + 1)
                draws[(0, user, surface, slot)] = (draw, list(zip(items, scores, strict=True)))
    return draws


def test_terms_equal_a_plain_greedy_per_feed():
    draws = random_draws(5)
    rows = rerank(draws, terms=TERMS, size=12).to_pylist()
    for user, surface in {(key[1], key[2]) for key in draws}:
        pool = {}
        for key, (_, found) in draws.items():
            for item, score in found if key[1:3] == (user, surface) else ():
                pool[int(item)] = max(score, pool.get(int(item), 0))
        mine = [row for row in rows if (row["user_id"], row["surface"]) == (user, surface)]
        wanted = plain_greedy(pool, 12)
        assert [row["item_id"] for row in mine] == [item for item, _, _ in wanted]
        assert [row["diversity"] for row in mine] == [bonus for _, bonus, _ in wanted]
        found = [[entry["penalty"] for entry in row["penalties"]] for row in mine]
        np.testing.assert_allclose(found, [penalties for _, _, penalties in wanted], rtol=1e-12)


def test_a_term_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the term new_topic gave nan"):
        rerank(TWO_DRAWS, terms=[NewTopic(float("nan"))])


def test_config_version_follows_options_and_terms():
    versions = [
        config_version(FeedConfig(), ()),
        config_version(FeedConfig(size=24), ()),
        config_version(FeedConfig(merge="round_robin"), ()),
        config_version(FeedConfig(), TERMS),
        config_version(FeedConfig(), (*TERMS[:2], TopicSpacing("one", 1, 0.5, 2))),
    ]
    assert len(set(versions)) == len(versions)
    assert config_version(FeedConfig(), ()) == versions[0]
    assert rerank(TWO_DRAWS)["config_version"].to_pylist() == [versions[0]] * 5


@pytest.mark.parametrize("terms", [(), TERMS])
@pytest.mark.parametrize("merge", ["score", "round_robin"])
def test_any_sharding_and_any_order_give_the_same_table(merge, terms):
    candidates, queries = tables(random_draws(6))
    config = FeedConfig(size=10, merge=merge)
    whole = rerank_feed(candidates, queries, ITEMS, config, terms=terms).combine_chunks()
    parts = []
    for user in range(6):
        mine = pa.array(candidates["user_id"].to_numpy() == user)
        asked = pa.array(queries["user_id"].to_numpy() == user)
        parts.append(
            rerank_feed(candidates.filter(mine), queries.filter(asked), ITEMS, config, terms=terms)
        )
    assert pa.concat_tables(parts).combine_chunks().equals(whole)
    order = np.random.default_rng(7).permutation(candidates.num_rows)
    shuffled = rerank_feed(
        candidates.take(order), queries.take(np.arange(queries.num_rows)[::-1]), ITEMS, config,
        terms=terms,
    )  # fmt: skip
    assert shuffled.combine_chunks().equals(whole)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), min_size=0, max_size=6),
    st.integers(1, 40),
)
def test_sorting_equals_greedy_without_terms(feeds, size):
    lengths = [len(feed) for feed in feeds]
    pool = Pool(
        bounds=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        item_rows=np.concatenate([np.arange(n) for n in lengths] or [np.zeros(0, int)]),
        relevance=np.array([r / 5 for feed in feeds for r in feed], float),
        feeds=pa.table({"user_id": np.arange(len(feeds))}),
        items=ITEMS,
    )
    one, other = order_by_relevance(pool, size), order_greedily(pool, size, ())
    for name in ("chosen", "feeds", "positions", "diversity", "penalties"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(order_feeds(pool, size).chosen, one.chosen)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.sampled_from(["score", "round_robin"]))
def test_invariants(seed, size, merge):
    draws = random_draws(seed, n_users=3)
    rows = rerank(draws, size=size, merge=merge).to_pylist()
    for user, surface in {(key[1], key[2]) for key in draws}:
        mine = [row for row in rows if (row["user_id"], row["surface"]) == (user, surface)]
        found = {
            (draw, int(item), rank)
            for key, (draw, some) in draws.items()
            if key[1:3] == (user, surface)
            for rank, (item, _) in enumerate(some)
        }
        pool = {item for _, item, _ in found}
        items = [row["item_id"] for row in mine]
        assert len(set(items)) == len(items) == min(size, len(pool))
        assert set(items) <= pool
        assert [row["position"] for row in mine] == list(range(len(mine)))
        relevance = [row["relevance"] for row in mine]
        assert relevance == sorted(relevance, reverse=True)
        for row in mine:
            told = {(entry["draw_id"], row["item_id"], entry["rank"]) for entry in row["draws"]}
            assert told == {entry for entry in found if entry[1] == row["item_id"]}
            assert row["draw_id"] == row["draws"][0]["draw_id"]
            assert row["draws"][0]["rank"] == min(entry["rank"] for entry in row["draws"])


def test_pairs_are_sorted_as_one_key_as_by_two() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 50, (500, 2)), axis=0)
    first, second = rng.permutation(pairs).T
    for scale in (1, 1 << 57):  # the greater does not fit into one key
        found = _sorted_by(first * scale, second)
        assert found.tolist() == np.lexsort((second, first)).tolist()
