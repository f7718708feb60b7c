"""A class written into spacing.yaml goes through the whole night, and every book knows it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.catalog.views import query_rows
from pipelines.cli import app
from pipelines.config import ConfigError, NightConfig, config_from_manifest, render_config
from pipelines.config_files import config_of
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.spacing.books import drifts, spacing_report
from pipelines.spacing.file import load_spacing
from pipelines.spacing.inputs import changed_files, read_spacing
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from profiling.history import ProfileConfig
from profiling.items import Items
from profiling.tables import ITEMS
from retrieval.candidates import RetrievalConfig
from retrieval.feed import FeedConfig, rerank_feed
from retrieval.spacing.labels import ItemLabels, feed_spacing
from retrieval.spacing.measures import margin, measured_users
from selection.experiments import Arm, Experiment
from selection.outcomes import OutcomeConfig
from tests.pipelines.small_world import WIDTH, day, engagements_table, items_table, serve

CONFIG = NightConfig(
    profiles=ProfileConfig(alpha=0.8),
    outcomes=OutcomeConfig(window_hours=6, lateness_hours=0),
    retrieval=RetrievalConfig(candidates_per_query=15),
    feed=FeedConfig(size=10),
    experiment=Experiment(name="spacing", arms=(Arm("off", 0.5), Arm("on", 0.5))),
)
SPACING = """\
measured_share: 0.8
diversity: {gamma: 0.1, window: 4}
tables:
- {name: quality, path: quality.parquet}
classes:
- id: gore
  description: only in one arm
  source: {label: gore, threshold: 0.6}
  weight: 0.3
  window: 5
  activation: {arms: ["on"]}
- id: topic_2
  source: {topic: 2}
  kernel: {shape: exponential, half_distance: 2}
  weight: 0.2
  window: 4
- id: risky
  source: {column: quality.risk, threshold: 0.9}
  weight: 0.1
"""
IDS = ["gore", "topic_2", "risky"]


def labelled_items() -> pa.Table:
    """Every third item carries the label `gore` with .6 or more, another third with less."""
    table = items_table()
    scores = [[{"label": "gore", "score": [0.8, 0.5][i % 3]}] if i % 3 < 2 else []
              for i in range(table.num_rows)]  # fmt: skip
    schema = ITEMS.of_width(WIDTH)
    place = schema.names.index("labels")
    return table.set_column(place, "labels", pa.array(scores, schema.arrow.field("labels").type))


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, list[Manifest]]:
    root = tmp_path_factory.mktemp("spaced") / "w"
    warehouse = Warehouse.create(str(root), render_config(CONFIG), buckets=2, spacing_text=SPACING)
    quality = {"item_id": np.arange(120), "risk": np.arange(120) / 119}
    pq.write_table(pa.table(quality), root / "quality.parquet")
    land(warehouse, {"ITEMS": labelled_items()}, source="items")
    nights: list[Manifest] = []
    for i in range(2):
        tables = {"ENGAGEMENTS": engagements_table(i, i)}
        if nights:
            shown, did = serve(warehouse.read("FEED", nights[-1]), i)
            tables["IMPRESSIONS"] = shown
            tables["ENGAGEMENTS"] = pa.concat_tables([tables["ENGAGEMENTS"], did])
        land(warehouse, tables, source=f"day {i}")
        nights.append(run_night(warehouse, day(i), RunOptions(progress=False)))
    return warehouse, nights


def penalty(row: dict[str, Any], name: str) -> float:
    return sum(p["penalty"] for p in row["penalties"] if p["spacing_class"] == name)


def test_the_ledger_of_every_class_is_in_the_feed(spaced: Any) -> None:
    warehouse, nights = spaced
    rows = warehouse.read("FEED", nights[0]).to_pylist()
    assert {tuple(p["spacing_class"] for p in row["penalties"]) for row in rows} == {tuple(IDS)}
    for name in IDS:
        assert sum(penalty(row, name) for row in rows) > 0
        assert any(name in row["decided_by"] for row in rows)
        assert all(penalty(row, name) == 0 for row in rows if name not in row["spacing_classes"])
    for row in rows:
        expected = [("gore", row["item_id"] % 3 == 0), ("topic_2", row["item_id"] % 6 == 2),
                    ("risky", row["item_id"] / 119 >= 0.9)]  # fmt: skip
        assert row["spacing_classes"] == [name for name, member in expected if member]


def test_the_night_is_the_step_on_its_candidates(spaced: Any) -> None:
    warehouse, nights = spaced
    table = labelled_items()
    items = Items.from_table(table)
    config = config_of(warehouse)
    quality = {"quality": pq.read_table(Path(warehouse.root) / "quality.parquet")}
    spacing = feed_spacing(config.spacing, items, ItemLabels.from_table(table, items), quality)
    candidates, queries = (warehouse.read(n, nights[1]) for n in ("CANDIDATES", "QUERIES"))
    feed = rerank_feed(candidates, queries, items, config.feed, spacing=spacing)
    served = warehouse.read("FEED", nights[1])
    key = [("user_id", "ascending"), ("position", "ascending")]
    assert served.sort_by(key).combine_chunks().equals(feed.sort_by(key).combine_chunks())


def test_the_manifest_records_the_classes_and_the_digest_of_their_table(spaced: Any) -> None:
    warehouse, nights = spaced
    spacing = config_from_manifest(nights[0]).spacing
    assert spacing == config_of(warehouse).spacing
    assert [c.id for c in spacing.classes] == IDS
    assert len(spacing.tables[0].digest) == 16
    changed = replace(spacing.tables[0], digest="another")
    other = replace(config_of(warehouse), spacing=replace(spacing, tables=(changed,)))
    assert other.digest != nights[0].config_digest == config_of(warehouse).digest


def test_the_books_say_what_each_class_did(spaced: Any) -> None:
    warehouse, nights = spaced
    feed = warehouse.read("FEED", nights[1]).to_pylist()
    counts = nights[1].counts["spacing gore"]
    assert counts["placed"] == len(feed)
    assert counts["placed_labelled"] == sum("gore" in row["spacing_classes"] for row in feed)
    assert counts["decided"] == sum("gore" in row["decided_by"] for row in feed)
    everywhere = nights[1].counts["spacing topic_2"]
    assert everywhere["measured_adjacent"] < everywhere["adjacent_before"]
    assert counts["positions_lost"] > 0
    who = np.unique([row["user_id"] for row in feed])
    some = who[measured_users(who, 0.8)].tolist()
    assert (counts["users"], counts["measured_users"]) == (len(who), len(some))
    assert 0 < len(some) < len(who)
    assert counts["measured_placed"] == sum(row["user_id"] in some for row in feed)
    lines = spacing_report(nights[1])
    assert [line.split(":")[0] for line in lines] == [
        *(f"spacing {name}" for name in IDS), "spacing, all classes",
    ]  # fmt: skip
    found = query_rows(warehouse, "SELECT * FROM spacing_by_night ORDER BY ALL", nights[1])
    by_night = {(r["run_date"], r["spacing_class"]): r for r in found.to_pylist()}
    assert len(by_night) == 6
    row = by_night[(day(1), "gore")]
    assert row["label_rate"] == counts["labelled"] / counts["candidates"]
    before = nights[0].counts["spacing gore"]
    assert row["trailing_rate"] == before["labelled"] / before["candidates"]
    assert row["drift"] == pytest.approx(row["label_rate"] / row["trailing_rate"] - 1)
    assert by_night[(day(0), "gore")]["drift"] is None
    n, users = counts["measured_users"], counts["users"]
    half = margin(counts["positions_lost"], counts["positions_lost_squares"], n, users)
    assert row["positions_lost"] == pytest.approx(counts["positions_lost"] * users / n)
    assert row["positions_lost_margin"] == pytest.approx(half)
    gap = counts["placed_labelled_before"] - counts["measured_labelled"]
    assert row["exposure_without"] - row["exposure"] == pytest.approx(
        gap / counts["measured_placed"]
    )
    half = margin(gap, counts["labelled_squares"], n, users) * n / users
    assert row["exposure_margin"] == pytest.approx(half / counts["measured_placed"])
    assert f"measured on {n} of {users} users" in lines[-1]


def test_the_view_looks_back_as_many_nights_as_are_configured(spaced: Any, tmp_path: Path) -> None:
    warehouse, nights = spaced
    shutil.copytree(warehouse.root, tmp_path / "w")
    copied, last = Warehouse.open(str(tmp_path / "w")), nights[1]
    for i, labelled in enumerate([100, 200, 300, 400, 500]):
        counts = {**nights[1].counts, "spacing gore": nights[1].counts["spacing gore"]
                  | {"candidates": 1000, "labelled": labelled}}  # fmt: skip
        if i == 1:
            del counts["spacing gore"]  # the class was switched off: its night counts all the same
        config = last.config | {"spacing": last.config["spacing"] | {"drift_nights": 3}}
        draft = replace(nights[1], number=last.number + 1, parent=last.number, date=day(2 + i),
                        counts=counts, config=config, inputs=())  # fmt: skip
        last = copied.publish(draft, last.number)
    found = query_rows(copied, "SELECT * FROM spacing_by_night", last).to_pylist()
    rates = {r["run_date"]: r["trailing_rate"] for r in found if r["spacing_class"] == "gore"}
    assert rates[day(6)] == pytest.approx((0.3 + 0.4) / 2)
    assert rates[day(5)] == pytest.approx((0.1 + 0.3) / 2)


def test_arms_are_compared_per_class(spaced: Any) -> None:
    warehouse, nights = spaced
    rows = query_rows(warehouse, "SELECT * FROM spacing_arms", nights[1]).to_pylist()
    found = {(r["run_date"], r["spacing_class"], r["arm"]): r for r in rows}
    assert len(found) == 2 * 3 * 2
    on, off = found[(day(0), "gore", "on")], found[(day(0), "gore", "off")]
    assert on["penalty_per_place"] > 0
    assert off["penalty_per_place"] == 0
    assert off["decided"] == 0 < on["decided"]
    assert on["neighbours"] < off["neighbours"]
    feed = warehouse.read("FEED", nights[0]).to_pylist()
    arms = {q["draw_id"]: q["arm"] for q in warehouse.read("QUERIES", nights[0]).to_pylist()}
    for arm, row in (("on", on), ("off", off)):
        mine = [f for f in feed if arms[f["draw_id"]] == arm]
        assert row["places"] == len(mine)
        assert row["exposure"] == np.mean(["gore" in f["spacing_classes"] for f in mine])
        assert row["impressions"] > 20
        assert 0 < row["rate"] < 1


def run(*args: str) -> str:
    found = CliRunner().invoke(app, list(args))
    assert found.exit_code == 0, found.output
    return found.output


def test_preview_curve_and_explanation_at_the_command_line(spaced: Any, tmp_path: Path) -> None:
    warehouse, nights = spaced
    file = tmp_path / "new.yaml"
    file.write_text("classes:\n- {id: gore, source: {label: gore, threshold: 0.6}, weight: 0.4}\n")
    where = ("-w", warehouse.root)
    page = tmp_path / "p.html"
    said = run("spacing", "preview", str(file), *where, "--sample", "9", "--html", str(page))
    assert "9 users of the night of 2024-03-02" in said
    assert "gore, before" in said
    assert "gore, after" in said
    html = page.read_text()
    assert "<svg" in html
    assert "http" not in html.replace("http://www.w3.org", "")
    user = str(warehouse.read("FEED", nights[1])["user_id"][0].as_py())
    one = run("spacing", "preview", str(file), *where, "--user", user)
    assert "moved" in one
    curve = run("spacing", "curve", str(file), *where, "--class", "gore", "--html", str(page))
    shares = [float(line.split()[1]) for line in curve.splitlines()[1:12]]
    assert shares[0] > shares[3] > 0
    assert sorted(shares, reverse=True) == shares
    row = next(
        r for r in warehouse.read("FEED", nights[1]).to_pylist()
        if penalty(r, "topic_2") and r["position"]
    )  # fmt: skip
    told = run("explain-feed", *where, "--user", str(row["user_id"]), "--position",
               str(row["position"]))  # fmt: skip
    assert f"stands there: item {row['item_id']}" in told
    assert f"topic_2: -{penalty(row, 'topic_2'):.6f}" in told
    assert "at position" in told
    assert "the rival it beat: item" in told
    checked = run("spacing", "check", f"{warehouse.root}/spacing.yaml", *where)
    assert "3 classes, 0 switched off, 0 warnings" in checked
    refused = CliRunner().invoke(app, ["explain-feed", *where, "--user", user, "--position", "99"])
    assert refused.exit_code == 2


def test_a_class_that_moved_from_its_trailing_mean_raises_the_alarm(spaced: Any) -> None:
    night = spaced[1][1]
    rates = [100, 104, 96, 100]

    def manifest(number: int, labelled: int) -> Manifest:
        counts = {k: dict(v) for k, v in night.counts.items()}
        counts["spacing gore"] |= {"candidates": 1000, "labelled": labelled}
        return replace(night, number=number, parent=number - 1 if number else None, counts=counts)

    earlier = [manifest(i, labelled) for i, labelled in enumerate(rates)]
    warehouse = cast(Warehouse, SimpleNamespace(manifest=lambda number: earlier[number]))
    steady, moved = manifest(4, 149), manifest(4, 151)
    assert drifts(warehouse, steady) == []
    (found,) = drifts(warehouse, moved)
    assert str(found).startswith("ALARM gore: 15.10% of the candidates carry its label, 10.00% in")
    assert drifts(warehouse, replace(moved, parent=1)) == []  # two nights say too little


def test_init_writes_the_file_and_what_is_wrong_with_it_stops_the_night(tmp_path: Path) -> None:
    root = tmp_path / "w"
    run("init", str(root))
    warehouse = Warehouse.open(str(root))
    assert config_of(warehouse) == NightConfig()
    path = root / "spacing.yaml"
    path.write_text(SPACING)
    with pytest.raises(ValueError, match=r"quality\.parquet .* is not there"):
        config_of(warehouse)
    path.write_text("classes: [{id: a, source: {topic: 1}, window: 26, weight: .1}]\n")
    with pytest.raises(ConfigError, match=r"spacing\.yaml:1: .*at most 25"):
        config_of(warehouse)
    path.unlink()
    assert config_of(warehouse) == NightConfig()
    with (root / "queryloop.yaml").open("a") as file:
        file.write("spacing: {joint_cap: 1.0}\n")
    with pytest.raises(ConfigError, match="spacing has its own file"):
        config_of(warehouse)


def test_an_explanation_says_where_a_table_changed_since(spaced: Any, tmp_path: Path) -> None:
    warehouse, _ = spaced
    spacing = config_of(warehouse).spacing
    assert changed_files(spacing, warehouse.root) == []
    other = tmp_path / "quality.parquet"
    pq.write_table(pa.table({"item_id": [1], "risk": [1.0]}), other)
    moved = replace(spacing.tables[0], path=str(other))
    assert changed_files(replace(spacing, tables=(moved,)), warehouse.root) == ["quality"]


def test_a_feed_from_before_spacing_has_no_classes() -> None:
    warehouse = Warehouse.open(str(Path(__file__).parents[1] / "golden" / "v1"))
    statement = "SELECT spacing_classes, decided_by FROM FEED"
    rows = query_rows(warehouse, statement, warehouse.head()).to_pylist()
    assert rows == [{"spacing_classes": [], "decided_by": []}] * 4
    arms = query_rows(warehouse, "SELECT * FROM spacing_arms", warehouse.head())
    assert {"exposure", "neighbours", "rate"} <= set(arms.column_names)


def test_user_segments_come_from_a_file(spaced: Any, tmp_path: Path) -> None:
    warehouse, nights = spaced
    file = tmp_path / "segments.csv"
    file.write_text("user_id,segment\n3,new\n4,new\n3,quiet\n")
    spacing = load_spacing(
        f"segments: {file}\n" + SPACING.replace('arms: ["on"]', "segments: [new]"), "s"
    )
    items = Items.from_table(labelled_items())
    found = read_spacing(warehouse.root, nights[0].catalogue, spacing, items)
    assert {name: users.tolist() for name, users in found.segments.items()} == {
        "new": [3, 4], "quiet": [3],
    }  # fmt: skip
    feed = warehouse.read("QUERIES", nights[0])
    active = found.active(spacing.classes[0].activation, feed)
    assert set(feed["user_id"].to_numpy()[active]) <= {3, 4}


def test_a_manifest_from_before_spacing_has_none(spaced: Any) -> None:
    _, nights = spaced
    old = {k: v for k, v in nights[0].config.items() if k != "spacing"}
    before = replace(nights[0], config=json.loads(json.dumps(old)))
    assert config_from_manifest(before).spacing.classes == ()
    assert spacing_report(before) == []
