"""`queryloop evaluate profiles` over a small log without a night."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.cli import main
from pipelines.config import NightConfig, render_config
from pipelines.evaluate.orderings import ENTRIES, KNEE, ORDERINGS, verdict
from pipelines.evaluate.trial import (
    DEPTHS,
    TrialMaterial,
    TrialOptions,
    gather_trial,
    run_trial,
)
from pipelines.landing import land
from pipelines.plan import cutoff_of
from pipelines.store.warehouse import Warehouse
from profiling.bootstrap import Estimate
from profiling.items import Items
from profiling.profiles import PROFILES
from profiling.schema import ints
from retrieval.evaluation.representatives import METHODS, Method, Trial
from tests.pipelines.small_world import day, engagements_table, foreign_impressions, items_table
from tests.profiling.engagement_rows import first_profiles

LAST = 5
CONFIG = NightConfig()
OPTIONS = TrialOptions(days=2, candidates=14, threshold=0.5)


def quiet(text: str) -> None:
    """Told what begins."""


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    root = tmp_path_factory.mktemp("trial") / "w"
    made = Warehouse.create(str(root), render_config(CONFIG), buckets=2)
    land(made, {"ITEMS": items_table()}, source="items")
    events = {
        "ENGAGEMENTS": engagements_table(0, LAST),
        "IMPRESSIONS": foreign_impressions(1, LAST, own_actions=True),
    }
    land(made, events, source="log")
    return made


@pytest.fixture(scope="module")
def material(warehouse: Warehouse) -> TrialMaterial:
    return gather_trial(warehouse, CONFIG, OPTIONS, quiet)


@pytest.fixture(scope="module")
def found(material: TrialMaterial) -> dict[str, Any]:
    return run_trial(material, quiet)


def test_histories_end_where_what_is_sought_begins(material: TrialMaterial) -> None:
    assert material.until == day(LAST - 2)
    log = engagements_table(0, LAST)
    liked = log.filter(pc.not_equal(log["action"], "hate"))
    before = ints(liked, "at") < cutoff_of(material.until)
    past, future = (liked.filter(pa.array(which)) for which in (before, ~before))
    shown = foreign_impressions(1, LAST, own_actions=True)
    met = pa.concat_tables([t.select(["user_id", "item_id", "at"]) for t in (log, shown)])
    met = met.filter(pa.array(ints(met, "at") < cutoff_of(material.until)))
    histories, sought = material.histories, material.sought

    def items_by_user(table: pa.Table) -> dict[int, set[int]]:
        pairs: dict[int, set[int]] = {}
        for user, item in zip(ints(table, "user_id"), ints(table, "item_id"), strict=True):
            pairs.setdefault(int(user), set()).add(int(item))
        return pairs

    by_user, known, new = items_by_user(past), items_by_user(met), items_by_user(future)
    wanted = {u: new[u] - known.get(u, set()) for u in by_user if u in new}
    assert histories.users.tolist() == sorted(u for u, items in wanted.items() if items)
    for place, user in enumerate(histories.users.tolist()):
        some = slice(histories.offsets[place], histories.offsets[place + 1])
        assert set(histories.rows[some].tolist()) == by_user[user]
        bounds = sought.positives.offsets[place : place + 2]
        assert set(sought.positives.values[slice(*bounds)].tolist()) == wanted[user]


def test_wards_interests_are_those_of_the_night(material: TrialMaterial) -> None:
    items, users = Items.from_table(items_table()), material.histories.users
    now = cutoff_of(material.until)
    events = engagements_table(0, LAST - 2)
    night = first_profiles(events, items, CONFIG.profiles, CONFIG.actions, now)
    trial = Trial(material.histories, items, material.alpha, seed=0)
    by_importance = Method("ward", CONFIG.profiles.importance_decay, drawn=False)
    chosen = trial.chosen(by_importance).lists
    assert night.schema == PROFILES.arrow
    for place, user in enumerate(users.tolist()):
        mine = night.filter(pc.equal(night["user_id"], user))
        order = np.lexsort((ints(mine, "medoid_item_id"), -mine["importance"].to_numpy()))
        rows = chosen.values[chosen.offsets[place] : chosen.offsets[place + 1]]
        assert items.ids[rows].tolist() == ints(mine, "medoid_item_id")[order].tolist()


def test_every_method_has_its_rows_and_curves(found: dict[str, Any]) -> None:
    assert [row["method"] for row in found["rows"]] == [entry.method for entry in ENTRIES]
    curves = {(row["method"], row["vectors"]): row for row in found["curves"]}
    assert set(curves) == {(method, e) for method in METHODS for e in DEPTHS}
    for row in [*found["rows"], *found["curves"]]:
        for figure in ("relevance", "recall", "cosine"):
            assert row[f"{figure}_low"] <= row[figure] <= row[f"{figure}_high"]
    served = next(r for r in found["rows"] if r["label"] == "Ward, lambda 0.01")
    assert served["recall"] == curves["ward_0.01", 3]["recall"]
    last = found["rows"][0]
    assert (last["relevance_lift"], last["recall_lift"]) == (0, 0)
    assert served["recall_lift"] == pytest.approx(served["recall"] / last["recall"] - 1)
    json.dumps(found, allow_nan=False)


def test_more_vectors_are_never_less_near(found: dict[str, Any]) -> None:
    for method in METHODS:
        rows = [row for row in found["curves"] if row["method"] == method]
        for figure in ("relevance", "cosine"):
            values = [row[figure] for row in rows]
            assert values == sorted(values), (method, figure)


def test_an_ordering_is_the_difference_of_its_two_rows(found: dict[str, Any]) -> None:
    rows = {(row["claim"], row["figure"]): row for row in found["orderings"]}
    curves = {(row["method"], row["vectors"]): row for row in found["curves"]}
    assert len(rows) == 2 * (len(ORDERINGS) + 1)
    for ordering in ORDERINGS:
        first, second = (curves[m, e or 3] for m, e in (ordering.first, ordering.second))
        for figure in ("relevance", "recall"):
            row = rows[ordering.claim.format(e=3), figure]
            assert row["difference"] == pytest.approx(first[figure] - second[figure])
    for figure in ("relevance", "recall"):
        one, three, five = (curves["ward_0.01", e][figure] for e in (1, 3, 5))
        assert rows[KNEE, figure]["difference"] == pytest.approx(2 * three - one - five)


def test_an_ordering_is_confirmed_only_by_an_interval_that_leaves_out_0() -> None:
    assert verdict(Estimate(0.2, 0.1, 0.3)) == "confirmed"
    assert verdict(Estimate(0.2, 0.0, 0.3)) == "not confirmed"
    assert verdict(Estimate(0.2, -0.1, 0.3)) == "not confirmed"
    assert verdict(Estimate(-0.2, -0.3, -0.1)) == "reversed"


def test_the_published_lifts_of_an_ordering_are_those_of_the_rows() -> None:
    lifts = {(e.method, e.vectors): e.published for e in ENTRIES}
    for ordering in ORDERINGS:
        first, second = lifts[ordering.first], lifts[ordering.second]
        assert first is not None
        assert second is not None
        assert ordering.published == tuple(zip(first, second, strict=True))
        assert all(above > below for above, below in ordering.published)


def test_fewer_users_are_some_of_all(warehouse: Warehouse, material: TrialMaterial) -> None:
    fewer = TrialOptions(days=2, candidates=14, users=7)
    users = gather_trial(warehouse, CONFIG, fewer, quiet).histories.users
    assert len(users) == 7
    assert np.isin(users, material.histories.users).all()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """(exit code, output, errors) of `queryloop evaluate profiles`."""

    def command(*words: object) -> tuple[Any, str, str]:
        called = ["queryloop", "evaluate", "profiles", *map(str, words)]
        monkeypatch.setattr(sys, "argv", called)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return command


def test_the_command_prints_a_table_or_one_object_and_writes_an_offline_page(
    warehouse: Warehouse, found: dict[str, Any], tmp_path: Path, run: Any
) -> None:
    words = ("-w", warehouse.root, "--days", 2, "--candidates", 14, "--threshold", 0.5)
    code, out, _ = run(*words, "--format", "json", "--out", tmp_path)
    assert code == 0
    assert json.loads(out) == found == json.loads((tmp_path / "profiles.json").read_text())
    page = (tmp_path / "profiles.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"(https?:)?//[a-z]", page)
    assert "complete linkage, as many as Ward" in page
    code, out, _ = run(*words)
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("Ward, centroid "))
    row = next(row for row in found["rows"] if row["label"] == "Ward, centroid")
    assert f"{100 * row['recall']:.1f}" in line
    assert "…" not in out
    assert f"Of {len(found['orderings'])}: " in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--until", day(30)), "none has one with a new item among 0 on the 4 days after"),
        (("--action", "wave"), "there is no action 'wave'"),
        (("--representatives", 8), "representatives must be <= 7, got 8"),
        (("--candidates", 3), "candidates must be >= 7, got 3"),
        (("--format", "csv"), "format must be one of table, json"),
    ],
)
def test_what_cannot_be_tried_says_why(
    warehouse: Warehouse, words: tuple[Any, ...], said: str, run: Any
) -> None:
    code, out, err = run("-w", warehouse.root, *words)
    assert (code, out) == (2, "")
    assert said in err


def test_an_empty_warehouse_says_what_to_do(tmp_path: Path, run: Any) -> None:
    empty = Warehouse.create(str(tmp_path / "w"), render_config(CONFIG), buckets=1)
    code, _, err = run("-w", empty.root)
    assert code == 2
    assert "holds no engagements; run `queryloop import`" in err
