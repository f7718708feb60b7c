"""One user's story: what it says is what the tables have, and only the user's bucket is read."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import config_from_manifest
from pipelines.entry import main
from pipelines.explain.interests import _lineage
from pipelines.explain.story import UserStory, story_of
from pipelines.explain.words import growth, leaning, why
from pipelines.failures import quiet_beam
from pipelines.spacing.command import explain_lines
from pipelines.spacing.preview import ServedNight
from pipelines.store import tables as stored
from pipelines.store.manifests import Manifest
from profiling.schema import ints
from selection.chances import inclusion_chances
from tests.pipelines.conftest import NAME, Served


def user_with_places(served: Served, night: int) -> int:
    """A served user whose feed of that night was seen."""
    shown = {
        r["user_id"]
        for m in served.nights[night + 1 :]
        for r in served.warehouse.read("OUTCOMES", m).to_pylist()
        if r["actions"]
    }
    fed = set(served.warehouse.read("FEED", served.nights[night])["user_id"].to_pylist())
    return int(min(shown & fed))


@pytest.fixture(scope="module")
def story(served: Served) -> UserStory:
    date = served.nights[1].date.isoformat()
    return story_of(served.warehouse, str(user_with_places(served, 1)), date)


def rows(served: Served, name: str, night: Manifest, user: int) -> list[dict[str, Any]]:
    return [r for r in served.warehouse.read(name, night).to_pylist() if r["user_id"] == user]


def test_interests_are_the_profile_with_titles(served: Served, story: UserStory) -> None:
    profile = rows(served, "PROFILES", served.nights[1], story.user)
    assert {one.cluster_id for one in story.interests} == {r["cluster_id"] for r in profile}
    for row in profile:
        (one,) = [i for i in story.interests if i.cluster_id == row["cluster_id"]]
        assert one.medoid.title == f"item {row['medoid_item_id']}"
        assert [m.item_id for m in one.members] == row["item_ids"]
        assert one.sizes[-1].n_items == row["n_items"]
    shares = [one.share for one in story.interests]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    earlier = rows(served, "PROFILES", served.nights[0], story.user)
    sizes = {r["cluster_id"]: r["n_items"] for r in earlier}
    assert sizes
    for one in story.interests:
        assert (one.cluster_id in sizes) == (len(one.sizes) == 2)
        if one.cluster_id in sizes:
            assert one.sizes[0].n_items == sizes[one.cluster_id]
            assert one.lineage.startswith(f"known since the night of {served.nights[0].date}")
        else:
            assert one.lineage.startswith("new tonight")


def test_what_an_interest_came_from_is_told_once_for_each_version() -> None:
    """A user without new engagements has the same version, with its origin, on every night."""
    dates = [dt.date(2024, 3, i) for i in (1, 2, 3, 4)]

    def version(made: dt.date, lineage: str, origin: list[int]) -> dict[str, Any]:
        own = {"cluster_id": 7, "medoid_item_id": 70, "cutoff": made}
        return own | {"lineage": lineage, "from_cluster_ids": origin}

    split, took = version(dates[0], "split", [3]), version(dates[2], "merged", [3, 7])
    past = [(dates[0], [split]), (dates[1], [split]), (dates[2], [took])]
    assert _lineage(took, past, {70: "shoes"}) == (
        "known since the night of 2024-03-01; split from 3 on 2024-03-01; took in 3 on 2024-03-03"
    )


def test_chances_are_the_propensities_that_were_drawn_with(served: Served) -> None:
    """Of all users: what is computed again is what QUERIES have of those drawn."""
    for night in served.nights:
        config = config_from_manifest(night)
        rewards = served.warehouse.read("CLUSTER_REWARDS", night)
        queries = {
            (q["user_id"], q["cluster_id"]): q["propensity"]
            for q in served.warehouse.read("QUERIES", night).to_pylist()
        }
        assert len(queries) > 30
        for arm in ("counts", "reward"):
            mine = rewards.filter([a == arm for a in rewards["arm"].to_pylist()])
            found = inclusion_chances(
                mine, config.selections, run_date=night.date, seed=night.seed, salt=config.draw_salt
            )
            keys = zip(
                ints(mine, "user_id").tolist(), ints(mine, "cluster_id").tolist(), strict=True
            )
            drawn = {k: p for k, p in zip(keys, found.tolist(), strict=True) if k in queries}
            assert drawn == {k: pytest.approx(queries[k], rel=1e-9) for k in drawn}
            assert len(drawn) > 10


def test_worth_and_draws_are_those_of_the_night(served: Served, story: UserStory) -> None:
    queries = rows(served, "QUERIES", served.nights[1], story.user)
    assert [d.draw_id for d in story.draws] == [q["draw_id"] for q in queries]
    drawn = {q["cluster_id"] for q in queries}
    later = rows(served, "OUTCOMES", served.nights[2], story.user)
    for draw in story.draws:
        mine = [r for r in later if r["draw_id"] == draw.draw_id]
        assert (draw.shown, draw.done) == (len(mine), sum(r["actions"] > 0 for r in mine))
        assert draw.on_topic <= draw.candidates
    assert sum(draw.shown for draw in story.draws) > 0
    for row in rows(served, "CLUSTER_REWARDS", served.nights[1], story.user):
        (one,) = [i for i in story.interests if i.cluster_id == row["cluster_id"]]
        (worth,) = one.worth
        assert (worth.reward, worth.low, worth.high) == (row["reward"], row["low"], row["high"])
        assert worth.drawn == (row["cluster_id"] in drawn)
        assert len(worth.earlier) == len(one.sizes) - 1


def test_every_position_is_explained_as_explain_feed_does(served: Served, story: UserStory) -> None:
    night = ServedNight.of(served.warehouse, served.nights[1], user=story.user, sample=1)
    assert len(story.places) == 25
    feed = rows(served, "FEED", served.nights[1], story.user)
    assert [p.item_id for p in story.places] == [r["item_id"] for r in feed]
    assert any(p.penalties for p in story.places)
    assert any(p.because for p in story.places)
    for place, row in zip(story.places, feed, strict=True):
        assert place.relevance == pytest.approx(row["relevance"])
        assert place.diversity == pytest.approx(row["diversity"])
        assert list(place.decided_by) == row["decided_by"]
    for position in (0, 7):
        said = "\n".join(explain_lines(night, story.user, "home", position))
        place = story.places[position]
        assert f"item {place.item_id}" in said
        assert f"relevance {place.relevance:.6f} (place {place.rank} by relevance)" in said
        assert f"beats {place.rival} by {place.margin:.3f}" in why(place)
    done = [p for p in story.places if p.done]
    assert done
    assert all(p.shown for p in done)


def test_what_was_seen_is_told_newest_first(served: Served) -> None:
    user = user_with_places(served, 0)
    told = story_of(served.warehouse, str(user), served.nights[2].date.isoformat())
    every = [r for m in served.nights for r in rows(served, "OUTCOMES", m, user)]
    assert len(told.seen) == min(40, len(every))
    assert [s.at for s in told.seen] == sorted((s.at for s in told.seen), reverse=True)
    assert sum(bool(s.done) for s in told.seen) == sum(r["actions"] > 0 for r in every)
    assert told.notes[-1].startswith("Nothing of tonight's queries can have been shown yet")


def test_a_user_may_be_called_by_the_name_of_the_source(served: Served) -> None:
    told = story_of(served.warehouse, NAME)
    assert (told.user, told.name) == (served.named, NAME)
    assert told.interests
    with pytest.raises(ValueError, match="knows no user 'nobody'"):
        story_of(served.warehouse, "nobody")
    with pytest.raises(ValueError, match="knows no user '99999'"):
        story_of(served.warehouse, "99999")


def test_only_the_users_bucket_is_read(
    served: Served, story: UserStory, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, bool]] = []
    original = stored._read_groups

    def spy(root: str, file: Any, name: str, groups: Any, columns: Any) -> Any:
        read.append((name, groups is None))
        return original(root, file, name, groups, columns)

    monkeypatch.setattr(stored, "_read_groups", spy)
    story_of(served.warehouse, str(story.user), story.date)
    assert {name for name, whole in read if whole} == {"ITEMS"}
    assert {"PROFILES", "CANDIDATES", "OUTCOMES"} <= {name for name, whole in read if not whole}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def command(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["queryloop", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    yield command
    quiet_beam(False)


def test_terminal_json_and_page_tell_the_same(
    served: Served, story: UserStory, run: Any, tmp_path: Path
) -> None:
    words = ("explain", "-w", served.warehouse.root, "--user", story.user, "--date", story.date)
    said = run(*words, "--html", tmp_path / "user.html")
    page = (tmp_path / "user.html").read_text()
    raw = json.loads(run(*words, "--json"))
    assert raw["user"] == story.user
    assert [p["item_id"] for p in raw["places"]] == [p.item_id for p in story.places]
    for one in story.interests:
        for text in (f"{one.cluster_id}. {one.medoid.title}", one.lineage):
            assert text in said
            assert text in page
        assert growth(one) in said
        for worth in one.worth:
            assert leaning(worth).replace("'", "&#39;") in page
    assert page.count("drawn tonight") == len({d.cluster_id for d in story.draws})
