"""The night on Prism, the runner that Beam makes its default: the same rows as in-process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.operate.fingerprint import fingerprint
from pipelines.store.warehouse import Warehouse
from selection.outcomes import OutcomeConfig
from tests.pipelines.small_world import day, engagements_table, foreign_impressions, items_table
from tests.prism import ROOT, prism_options

CONFIG = NightConfig(outcomes=OutcomeConfig(lateness_hours=0, threshold=0.5))  # rewards by day 1


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    try:
        return prism_options()
    except RuntimeError as error:
        pytest.skip(str(error))


def make(path: Path) -> Warehouse:
    warehouse = Warehouse.create(str(path), render_config(CONFIG), buckets=4)
    tables = {
        "ITEMS": items_table(),
        "ENGAGEMENTS": engagements_table(0, 1),
        "IMPRESSIONS": foreign_impressions(0, 1, own_actions=True),
    }
    land(warehouse, tables, source="log")
    return warehouse


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(400)  # the first time it is built
def test_two_nights_on_prism_give_the_same_rows(options: tuple[str, ...], tmp_path: Path) -> None:
    here, there = make(tmp_path / "here"), make(tmp_path / "there")
    ours = [run_night(here, day(i), RunOptions(progress=False)) for i in (0, 1)]
    words = ["night", "-w", there.root, "--from", str(day(0)), "--to", str(day(1))]
    command = [sys.executable, "-m", "pipelines", *words, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = there.chain(there.head())
    assert [fingerprint(there, m) for m in theirs] == [fingerprint(here, m) for m in ours]
    assert all("PrismRunner" in m.runner for m in theirs)
    assert here.read("REWARDS").num_rows > 20
