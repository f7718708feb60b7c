"""docs/recipes.md: its answers, asked again; run as a script it writes them anew."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.catalog.answers import render
from pipelines.catalog.views import catalog_pieces, open_session
from pipelines.entry import main
from pipelines.landing import land
from pipelines.nights import run_night
from pipelines.store.warehouse import Warehouse
from selection.experiments import Arm, Experiment
from selection.policies import SelectionConfig
from tests.pipelines.small_world import day, engagements_table, serve
from tests.pipelines.test_night import CONFIG, QUIET, make

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
ARMS = (
    Arm("counts", 0.5, SelectionConfig(policy="counts", queries=2, floor=0.1)),
    Arm("reward", 0.5, SelectionConfig(policy="reward_importance", queries=2, floor=0.1)),
)
NIGHTS = 5
RECIPE = re.compile(r"```sql\n(?P<sql>.*?)```\n(?:\n```text\n(?P<text>.*?)```\n)?", re.S)


def make_world(path: Path) -> Warehouse:
    """Forty users in two arms; on the first day they only engage, then they are served."""
    config = dataclasses.replace(CONFIG, experiment=Experiment(name="recipes", arms=ARMS))
    warehouse = make(path, config, buckets=2)
    for i in range(NIGHTS):
        tables = {"ENGAGEMENTS": engagements_table(i, i, per_user=6)}
        if i:
            shown, did = serve(warehouse.read("FEED"), i)
            tables["IMPRESSIONS"] = shown
            tables["ENGAGEMENTS"] = pa.concat_tables([tables["ENGAGEMENTS"], did])
        land(warehouse, tables, source=f"day {i}")
        run_night(warehouse, day(i), QUIET)
    return warehouse


def answered(page: str, warehouse: Warehouse) -> str:
    """The page with the answers that `warehouse` gives."""
    with open_session(warehouse, warehouse.head()) as session:

        def answer(found: re.Match[str]) -> str:
            text = render(session.ask(found["sql"]), "table")
            return f"```sql\n{found['sql']}```\n\n```text\n{text}\n```\n"

        return RECIPE.sub(answer, page)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return make_world(tmp_path_factory.mktemp("recipes") / "w")


def test_the_page_has_the_answers_of_its_world(warehouse):
    page = PAGE.read_text()
    assert answered(page, warehouse) == page


def test_every_macro_has_a_recipe(warehouse):
    asked = " ".join(found["sql"] for found in RECIPE.finditer(PAGE.read_text()))
    asked += " ".join(re.findall(r"`(\w+\(.*?\))`", PAGE.read_text()))
    macros = {p.name for p in catalog_pieces(warehouse, None) if "REPLACE MACRO" in p.make}
    assert macros >= {"lineage", "starved", "arm_lift", "calibration", "propensity_check"}
    assert {name for name in macros if f"{name}(" not in asked} == {
        "counted",
        "measured_margin",
        "quarter_of",
    }  # of the others


def test_the_commands_of_the_page_can_be_typed(warehouse, monkeypatch, tmp_path, capsys):
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        argv = [warehouse.root if word == "W" else word for word in words]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, (line, capsys.readouterr().err)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("outcomes.parquet", "queryloop.duckdb", "starved.csv"),
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(answered(PAGE.read_text(), make_world(Path(place) / "w")))
