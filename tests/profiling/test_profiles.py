from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.actions import Action
from profiling.decay import DAY_US, HOUR_US
from profiling.history import ProfileConfig, update_history
from profiling.items import Items, unit_rows
from profiling.profiles import ProfileInputs, build_profiles
from profiling.schema import ints
from profiling.tables import HISTORY, PAST_PROFILES, PROFILES
from profiling.ward import ward_labels
from tests.profiling.engagement_rows import engagements

ACTIONS = (
    Action("view", importance=0.5),
    Action("like"),
    Action("hate", -1.0, positive=False),
)
CONFIG = ProfileConfig(alpha=1.0, window_days=10.0, max_items=6)
HORIZON = 2 * DAY_US
START = 100 * DAY_US  # cut-offs are START + k days


def catalogue(n=24, version="v1", seed=0):
    """Items 0, 10, 20, ... around four directions."""
    rng = np.random.default_rng(seed)
    vectors = np.eye(6)[np.arange(n) % 4] + 0.3 * rng.normal(size=(n, 6))
    return Items(
        ids=np.arange(n) * 10,
        vectors=unit_rows(vectors.astype(np.float32)),
        version=version,
        topic_offsets=np.zeros(n + 1, np.int64),
        topic_ids=np.empty(0, np.int64),
        topic_confidences=np.empty(0, np.float32),
        created_at=np.zeros(n, np.int64),
    )


ITEMS = catalogue()


class Chain:
    """Nights one after another, as the pipeline runs them."""

    def __init__(self, config=CONFIG):
        self.config, self.cutoffs = config, []
        self.history = HISTORY.empty()
        self.profiles, self.past = PROFILES.empty(), PAST_PROFILES.empty()

    def night(self, now, rows, items=ITEMS, actions=ACTIONS):
        done = update_history(
            self.history,
            engagements(rows),
            items,
            actions,
            self.config,
            horizon_us=HORIZON,
            parent_cutoff=self.cutoffs[-1] if self.cutoffs else None,
        )
        assert done.rejected.num_rows == 0
        update = build_profiles(
            ProfileInputs(done.history, done.touched, self.profiles, self.past, items),
            self.config,
            actions,
            now=now,
            cutoffs=np.array(self.cutoffs, np.int64),
            horizon_us=HORIZON,
        )
        self.history, self.profiles = done.history, update.profiles
        self.past = update.past_profiles
        self.cutoffs.append(now)
        return self


def day(k):
    return START + round(k * DAY_US)


def plain_profile(rows, cutoff, config=CONFIG, items=ITEMS):
    """One user's clusters: {member ids: (medoid, importance, counts, first, last)}."""
    mine = sorted((r for r in rows if r[4] < cutoff and r[3] != "hate"), key=lambda r: (r[4], r[0]))
    if not mine:
        return {}
    as_of, counted = mine[-1][4], []
    for row in reversed(mine):
        if row[4] < as_of - config.window_us or len({r[2] for r in counted}) == config.max_items:
            break
        counted.append(row)
    ids = np.array(sorted({r[2] for r in counted}))
    vectors = items.vectors[np.searchsorted(items.ids, ids)]
    labels = ward_labels(vectors, config.alpha)
    profile = {}
    for label in range(labels.max() + 1):
        members = ids[labels == label]
        x = vectors[labels == label].astype(float)
        sums = np.round(((x[:, None] - x[None]) ** 2).sum((1, 2)), 6)
        own = [r for r in counted if r[2] in members]
        worth = {"view": 0.5, "like": 1.0}
        importance = sum(
            worth[r[3]] * np.exp(-config.importance_decay * (as_of - r[4]) / DAY_US) for r in own
        )
        counts = [sum(r[3] == name for r in own) for name in ("view", "like", "hate")]
        times = [r[4] for r in own]
        medoid = int(members[np.argmin(sums)])
        profile[tuple(members.tolist())] = (medoid, importance, counts, min(times), max(times))
    return profile


def rows_of(table, user):
    times = ("as_of", "first_at", "last_at", "cutoff")
    for name in times:
        table = table.set_column(table.column_names.index(name), name, pa.array(ints(table, name)))
    return [r for r in table.to_pylist() if r["user_id"] == user]


def check_user(table, user, rows, cutoff, items=ITEMS):
    expected = plain_profile(rows, cutoff, items=items)
    stored = rows_of(table, user)
    assert {tuple(r["item_ids"]) for r in stored} == set(expected)
    for row in stored:
        medoid, importance, counts, first, last = expected[tuple(row["item_ids"])]
        assert row["medoid_item_id"] == medoid
        assert row["importance"] == pytest.approx(importance, rel=1e-12)
        assert row["action_counts"] == counts
        assert (row["first_at"], row["last_at"]) == (first, last)
        assert row["n_items"] == len(row["item_ids"])


@st.composite
def worlds(draw, days=6, most=40):
    """Events of three users over some days before START + `days`, by hours."""
    n = draw(st.integers(1, most))
    return [
        (
            k,
            draw(st.integers(0, 2)),
            draw(st.integers(0, 23)) * 10,
            draw(st.sampled_from(["view", "like", "like", "hate"])),
            START + draw(st.integers(0, 24 * days - 1)) * HOUR_US,
        )
        for k in range(n)
    ]


@settings(max_examples=50, deadline=None)
@given(rows=worlds(days=20))
def test_first_version_by_its_plain_twin(rows):
    table = Chain().night(day(20), rows).profiles
    assert table.schema == PROFILES.arrow
    keys = list(zip(ints(table, "user_id"), ints(table, "cluster_id"), strict=True))
    assert keys == sorted(keys)
    for user in range(3):
        own = [r for r in rows if r[1] == user]
        check_user(table, user, own, day(20))
        stored = rows_of(table, user)
        assert [r["cluster_id"] for r in stored] == list(range(1, len(stored) + 1))
        assert all(r["lineage"] == "born" and r["n_born"] == len(stored) for r in stored)
        assert all(r["cutoff"] == day(20) and r["from_cluster_ids"] == [] for r in stored)


def by_arrival(rows, delays, n_nights):
    """Rows per night, each by its time and its delay in hours."""
    parts = [[] for _ in range(n_nights)]
    for row, delay in zip(rows, delays, strict=False):
        parts[(row[4] + delay * HOUR_US - START) // DAY_US].append(row)
    return parts


@settings(max_examples=60, deadline=None)
@given(
    rows=worlds(),
    delays=st.lists(st.sampled_from([0, 0, 5, 20, 30, 47]), min_size=40, max_size=40),
)
def test_late_and_timely_events_end_in_the_same_rows(rows, delays):
    timely, late = Chain(), Chain()
    parts = zip(by_arrival(rows, [0] * 40, 9), by_arrival(rows, delays, 9), strict=True)
    for k, (in_time, delayed) in enumerate(parts):
        timely.night(day(k + 1), in_time)
        late.night(day(k + 1), delayed)
        if k >= 7:  # all have come
            assert late.history.equals(timely.history)
            assert late.profiles.equals(timely.profiles)
            assert late.past.equals(timely.past)


@pytest.mark.parametrize("seed", range(6))
def test_late_and_timely_over_many_nights(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 200))
    events = zip(
        range(n),
        rng.integers(4, size=n).tolist(),
        (rng.integers(24, size=n) * 10).tolist(),
        rng.choice(["view", "like", "hate"], size=n).tolist(),
        (START + rng.integers(24 * 14, size=n) * HOUR_US).tolist(),
        strict=True,
    )
    rows, delays = list(events), rng.integers(48, size=n).tolist()
    timely, late = Chain(), Chain()
    parts = zip(by_arrival(rows, [0] * n, 16), by_arrival(rows, delays, 16), strict=True)
    for k, (in_time, delayed) in enumerate(parts):
        timely.night(day(k + 1), in_time)
        late.night(day(k + 1), delayed)
        for user in range(4):  # every version still held is the profile of all events before it
            own = [r for r in rows if r[1] == user]
            for cutoff in {r["cutoff"] for r in rows_of(timely.past, user)}:
                version = timely.past.filter(pa.array(ints(timely.past, "cutoff") == cutoff))
                check_user(version, user, own, cutoff)
    assert late.history.equals(timely.history)
    assert late.profiles.equals(timely.profiles)
    assert late.past.equals(timely.past)


@settings(max_examples=40, deadline=None)
@given(rows=worlds())
def test_incremental_is_the_profile_of_all_events(rows):
    chain = Chain()
    for k, part in enumerate(by_arrival(rows, [0] * 40, 6)):
        chain.night(day(k + 1), part)
    for user in range(3):
        check_user(chain.profiles, user, [r for r in rows if r[1] == user], day(6))
    users = ints(chain.profiles, "user_id")
    keys = set(zip(users, ints(chain.profiles, "cluster_id"), strict=True))
    assert len(keys) == len(users)
    assert (ints(chain.profiles, "cluster_id") <= ints(chain.profiles, "n_born")).all()


@settings(max_examples=25, deadline=None)
@given(rows=worlds())
def test_a_user_depends_on_no_other(rows):
    together, alone = Chain(), [Chain() for _ in range(3)]
    for k, part in enumerate(by_arrival(rows, [0] * 40, 6)):
        together.night(day(k + 1), part)
        for user, chain in enumerate(alone):
            chain.night(day(k + 1), [r for r in part if r[1] == user])
    for name in ("history", "profiles", "past"):
        apart = pa.concat_tables([getattr(chain, name) for chain in alone])
        assert apart.combine_chunks().equals(getattr(together, name).combine_chunks())


def like(event, item, k, user=1, action="like"):
    return (event, user, item, action, day(k))


def test_idle_users_keep_their_rows():
    chain = Chain().night(day(1), [like(1, 0, 0.5), like(2, 10, 0.6, user=2)])
    before = rows_of(chain.profiles, 1)
    chain.night(day(2), [like(3, 10, 1.5, user=2), like(4, 0, 1.5, action="hate")])
    assert rows_of(chain.profiles, 1) == before
    assert {r["cutoff"] for r in rows_of(chain.profiles, 2)} == {day(2)}
    assert {r["user_id"] for r in chain.past.to_pylist()} == {2}


def test_identity_goes_on_and_ids_are_not_used_again():
    config = replace(CONFIG, window_days=1.0, lineage_threshold=1.0)
    chain = Chain(config).night(day(1), [like(1, 0, 0.5), like(2, 10, 0.5)])
    assert [r["cluster_id"] for r in rows_of(chain.profiles, 1)] == [1, 2]
    chain.night(day(3), [like(3, 10, 2.5)])  # item 0 leaves the window
    assert [(r["cluster_id"], r["lineage"]) for r in rows_of(chain.profiles, 1)] == [
        (2, "continued")
    ]
    chain.night(day(5), [like(4, 0, 4.5)])
    row = rows_of(chain.profiles, 1)[0]
    assert (row["cluster_id"], row["lineage"], row["n_born"]) == (3, "born", 3)


def test_an_item_of_no_importance_still_ties_a_cluster_to_its_past():
    free = (replace(ACTIONS[0], importance=0.0), *ACTIONS[1:])
    config = replace(CONFIG, lineage_threshold=1.0)
    chain = Chain(config).night(day(1), [like(1, 0, 0.5, action="view"), like(2, 40, 0.5)])
    chain.night(day(2), [like(3, 0, 1.5, action="view")], actions=free)
    ids = {i: r["cluster_id"] for r in rows_of(chain.profiles, 1) for i in r["item_ids"]}
    assert ids == {0: 1, 40: 1}
    chain.night(day(20), [like(4, 0, 19.5, action="view")], actions=free)
    row = rows_of(chain.profiles, 1)[0]
    assert (row["importance"], row["item_ids"], row["lineage"]) == (0.0, [0], "continued")


def test_other_vectors_rebuild_everyone_tonight():
    chain = Chain().night(day(1), [like(k, 10 * k, 0.5, user=k % 2) for k in range(12)])
    again = catalogue(version="v2", seed=5)
    chain.night(day(2), [], items=again)
    assert set(chain.profiles["embedding_version"].to_pylist()) == {"v2"}
    assert set(ints(chain.profiles, "cutoff")) == {day(2)}
    rows = [like(k, 10 * k, 0.5, user=k % 2) for k in range(12)]
    for user in (0, 1):
        check_user(chain.profiles, user, [r for r in rows if r[1] == user], day(2), items=again)
    assert all(r["from_cluster_ids"] for r in rows_of(chain.profiles, 0))
    assert set(chain.past["embedding_version"].to_pylist()) == {"v1"}
    # Once rebuilt, an idle night changes nothing.
    before = chain.profiles
    assert chain.night(day(3), [], items=again).profiles.equals(before)


def test_items_gone_from_the_catalogue_are_left_out():
    chain = Chain().night(day(1), [like(1, 0, 0.5), like(2, 230, 0.5), like(3, 230, 0.5, user=2)])
    smaller = catalogue(n=23)  # without item 230
    smaller = replace(smaller, vectors=ITEMS.vectors[:23])
    chain.night(day(2), [like(4, 10, 1.5), like(5, 20, 1.2, user=3)], items=smaller)
    members = [i for r in rows_of(chain.profiles, 1) for i in r["item_ids"]]
    assert sorted(members) == [0, 10]
    assert rows_of(chain.profiles, 2)[0]["item_ids"] == [230]
    # A night that leaves a user without any known item makes no version.
    touched = pa.table({"user_id": [2], "since": [day(2.5)]})
    late = HISTORY.build(
        {
            "user_id": np.array([2]),
            "event_id": np.array([9]),
            "item_id": np.array([230]),
            "action": pa.array([1], pa.int16()),
            "at": np.array([day(2.5)]),
            "impression_id": pa.nulls(1, pa.int64()),
            "credited_id": pa.nulls(1, pa.int64()),
            "content_digest": np.array([1]),
        }
    )
    inputs = ProfileInputs(late, touched, chain.profiles, chain.past, smaller)
    done = build_profiles(
        inputs,
        CONFIG,
        ACTIONS,
        now=day(3),
        cutoffs=np.array([day(1), day(2)]),
        horizon_us=HORIZON,
    )
    assert done.profiles.equals(chain.profiles)


def test_past_versions_are_kept_as_long_as_they_can_be_asked_for():
    chain = Chain()
    seen = []
    for k in range(1, 8):
        chain.night(day(k), [like(k, 10 * k, k - 0.5)] if k != 6 else [])
        seen.append(sorted({(c - START) // DAY_US for c in ints(chain.past, "cutoff")}))
    # After night k: cut-offs after (k - 1) - 2, and the newest up to that.
    assert seen == [[], [1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4], [4, 5]]


def test_no_users():
    chain = Chain().night(day(1), [])
    assert chain.profiles.equals(PROFILES.empty())
    assert chain.past.equals(PAST_PROFILES.empty())
