"""KuaiRec's cut as a universe: what its files mean, and vectors from words alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.lab.kuairec import CAPTIONS, OUTCOMES, KuaiRecOptions, kuairec_universe

HEAD = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,"
    "first_level_category_name,second_level_category_id,second_level_category_name,"
    "third_level_category_id,third_level_category_name"
)
ROWS = [
    "1,UNKNOWN,猫咪在家玩,[],7,a,70,b,-124,UNKNOWN",
    "2,猫咪,猫咪在外玩,[],7,a,70,b,-124,UNKNOWN",
    "3,UNKNOWN,足球比赛精彩,[足球],8,c,80,d,-124,UNKNOWN",
    "4,UNKNOWN,足球比赛开始",  # a caption with a line break in it
    ",[],8,c,-124,UNKNOWN,-124,UNKNOWN",
    "5,UNKNOWN,UNKNOWN,[],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN",
]
RATIOS = [f"{user},{item},{0.4 * item + 0.1 * user}" for user in (9, 3) for item in (5, 1, 2, 3, 4)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / CAPTIONS).write_text("\n".join([HEAD, *ROWS]) + "\n", encoding="utf-8")
    (tmp_path / OUTCOMES).write_text("\n".join(RATIOS) + "\n")
    return tmp_path


def test_outcomes_are_whether_a_video_was_seen_to_its_end(source: Path) -> None:
    got = kuairec_universe(source, KuaiRecOptions(start=2, width=4))
    assert got.user_ids.tolist() == [3, 9]
    assert got.items.ids.tolist() == [1, 2, 3, 4, 5]
    ratios = [0.4 * item + 0.1 * user for user in (3, 9) for item in (1, 2, 3, 4, 5)]
    assert got.known.values.tolist() == [float(r >= 1) for r in ratios]
    assert got.start.reshape(2, 5).sum(axis=1).tolist() == [2, 2]


def test_another_seed_starts_with_other_videos(source: Path) -> None:
    starts = {
        tuple(kuairec_universe(source, KuaiRecOptions(start=2, width=4, seed=s)).start.tolist())
        for s in range(6)
    }
    assert len(starts) > 2


def test_like_captions_and_categories_lie_together(source: Path) -> None:
    items = kuairec_universe(source, KuaiRecOptions(start=2, width=4)).items
    near = items.vectors @ items.vectors.T
    assert near[0, 1] > 0.5 > abs(near[0, 2])
    assert near[2, 3] > 0.5 > abs(near[1, 3])
    assert np.linalg.norm(items.vectors, axis=1) == pytest.approx(np.ones(5))


def test_vectors_know_nothing_of_who_watched_what(source: Path) -> None:
    before = kuairec_universe(source, KuaiRecOptions(start=2, width=4)).items.vectors
    (source / OUTCOMES).write_text("3,1,0.2\n")
    after = kuairec_universe(source, KuaiRecOptions(start=1, width=4)).items.vectors
    assert (before == after).all()


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"random\.txt: no such file"):
        kuairec_universe(tmp_path, KuaiRecOptions())
    (tmp_path / OUTCOMES).write_text("3,1,much\n")
    with pytest.raises(ValueError, match="must be lines of user,video,watch ratio"):
        kuairec_universe(tmp_path, KuaiRecOptions())
