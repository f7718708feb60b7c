"""The ranker at request time: no Beam, a file pushed under load, the last good one kept."""

from __future__ import annotations

import datetime as dt
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import ConfigError
from pipelines.ranker import FeedRanker
from retrieval.spacing.requests import Candidates, Context, RankedFeed

ROOT = Path(__file__).parents[2]
HOME = Context("home", dt.date(2024, 3, 1))
FILE = "classes:\n- id: gore\n  source: {{label: gore}}\n  weight: {weight}\n"
CALLS, THREADS = 10_000, 4


def push(path: Path, text: str) -> None:
    aside = path.with_suffix(".aside")
    aside.write_text(text)
    os.replace(aside, path)


def some(n: int = 12) -> Candidates:
    rng = np.random.default_rng(4)
    return Candidates(np.arange(n), rng.random(n), labels={"gore": rng.random(n)})


def test_the_request_path_never_imports_beam() -> None:
    code = (
        "import sys, pipelines.ranker\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('apache_beam', 'duckdb', 'jax')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_changed_file_is_taken_up_and_a_wrong_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spacing.yaml"
    push(path, FILE.format(weight=0.1))
    ranker = FeedRanker.from_config(path, size=8)
    first = ranker.rank(some(), HOME)
    push(path, FILE.format(weight=0.3))
    second = ranker.rank(some(), HOME)
    assert first.version != second.version == ranker.version
    np.testing.assert_allclose(second.penalties.max(), 3 * first.penalties.max(), rtol=0.9)
    with caplog.at_level(logging.WARNING):
        push(path, FILE.format(weight=-1))
        third, fourth = ranker.rank(some(), HOME), ranker.rank(some(), HOME)
    assert third.version == fourth.version == second.version
    assert third.item_ids.tolist() == second.item_ids.tolist()
    assert f"{path}:4: classes.0.weight" in third.stale
    assert third.stale == fourth.stale == ranker.stale
    assert len(caplog.records) == 1
    path.unlink()
    assert "No such file" in ranker.rank(some(), HOME).stale
    push(path, FILE.format(weight=0.1))
    last = ranker.rank(some(), HOME)
    assert (last.version, last.stale) == (first.version, "")


def test_a_wrong_file_at_the_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spacing.yaml"
    path.write_text("classes: 5\n")
    with pytest.raises(ConfigError, match=r"spacing\.yaml:1: classes"):
        FeedRanker.from_config(path)
    path.write_text(FILE.format(weight=0.1) + "  window: 11\n")
    with pytest.raises(ConfigError, match="at most 10, the items on a page"):
        FeedRanker.from_config(path, size=10)


@pytest.mark.slow
def test_files_pushed_among_10000_calls_on_four_threads_fail_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "spacing.yaml"
    texts = [FILE.format(weight=w) for w in (0.05, 0.2, 0.4)]
    wanted: dict[str, RankedFeed] = {}
    for text in texts:
        push(path, text)
        feed = FeedRanker.from_config(path, size=8).rank(some(), HOME)
        wanted[feed.version] = feed
    assert len({f.item_ids.tobytes() + f.penalties.tobytes() for f in wanted.values()}) == 3
    ranker = FeedRanker.from_config(path, size=8)
    found: list[list[RankedFeed]] = [[] for _ in range(THREADS)]
    halfway = threading.Event()

    def call(into: list[RankedFeed]) -> None:
        items = some()
        for i in range(CALLS // THREADS):
            into.append(ranker.rank(items, HOME))
            if i == CALLS // THREADS // 4:
                halfway.set()

    threads = [threading.Thread(target=call, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    halfway.wait(60)
    push(path, texts[0])
    push(path, "classes: wrong\n")
    push(path, texts[1])
    for thread in threads:
        thread.join()
    feeds = [feed for into in found for feed in into]
    assert len(feeds) == CALLS  # no call failed
    for feed in feeds:
        same = wanted[feed.version]
        assert feed.item_ids.tobytes() == same.item_ids.tobytes()
        assert feed.penalties.tobytes() == same.penalties.tobytes()
    last = ranker.rank(some(), HOME)
    assert last.version == list(wanted)[1]
    assert {list(wanted)[1], list(wanted)[2]} <= {f.version for f in [*feeds, last]}
