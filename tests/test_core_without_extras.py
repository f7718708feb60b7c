"""The core runs where the extras `retrieval` and `evaluation` are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

from pipelines.store.warehouse import Warehouse
from tests.pipelines.small_models import add
from tests.pipelines.small_world import day, engagements_table, foreign_impressions, items_table

ROOT = Path(__file__).parents[1]
MODULES = {
    "jax": ("jax", "jaxlib"),
    "optax": ("optax",),
    "faiss-cpu": ("faiss",),
    "implicit": ("implicit",),
}
BLOCKED = [module for modules in MODULES.values() for module in modules]

# Makes the extra's modules impossible to import, and notes which file asked for them.
BLOCK = f"""
import sys
from importlib.abc import MetaPathFinder

asked = []

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            frame = sys._getframe(1)
            while "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            asked.append(frame.f_code.co_filename)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""

IMPORT_ALL = """
import importlib, json, pkgutil

names = []
for package in ("profiling", "selection", "retrieval", "pipelines"):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
print(json.dumps({"names": names, "asked": asked}))
"""

RUN = """
import json
from pipelines.cli import app
from pipelines.store.warehouse import Warehouse

for line in json.loads(sys.argv[1]):
    app(line, standalone_mode=False)
nights = [m for m in Warehouse.open(sys.argv[2]).manifests() if m.kind == "night"]
rows = [{name: sum(f.rows for f in files) for name, files in m.tables.items()} for m in nights]
loaded = sorted(set(sys.modules) & set(sys.argv[3].split(",")))
print(json.dumps({"rows": rows, "loaded": loaded}))
"""


def run(code: str, *args: str) -> dict[str, Any]:
    """The JSON that `code` prints as its last line, run without the extra."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code, *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_blocked_modules_are_those_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = ("retrieval", "evaluation")
    wanted = [text for name in names for text in extras["optional-dependencies"][name]]
    assert {Requirement(text).name for text in wanted} == set(MODULES)
    core = {Requirement(text).name for text in extras["dependencies"]}
    assert not core & set(MODULES)


@pytest.mark.parametrize("module", BLOCKED)
def test_the_block_holds_and_knows_who_asked(module: str, tmp_path: Path) -> None:
    asker = tmp_path / "asker.py"
    asker.write_text(f"try:\n    import {module}\nexcept ModuleNotFoundError:\n    found = False\n")
    code = f"""
import json
sys.path.insert(0, {str(tmp_path)!r})
import asker
print(json.dumps({{"found": asker.found, "asked": asked}}))
"""
    assert run(code) == {"found": False, "asked": [str(asker)]}


def test_no_module_asks_for_the_extra_when_it_is_imported() -> None:
    found = run(IMPORT_ALL)
    names, asked = found["names"], found["asked"]
    assert len(names) > 50
    assert {"retrieval.index.exact", "retrieval.training.train", "pipelines.training"} <= set(names)
    assert not [path for path in asked if Path(path).is_relative_to(ROOT)]


def test_the_night_runs_without_the_extra_and_asks_a_model(tmp_path: Path) -> None:
    paths = {n: str(tmp_path / f"{n}.parquet") for n in ("items", "engagements", "impressions")}
    pq.write_table(items_table(), paths["items"])
    pq.write_table(engagements_table(0, 2), paths["engagements"])
    pq.write_table(foreign_impressions(1, 2, own_actions=True), paths["impressions"])
    warehouse = str(tmp_path / "w")
    night = ["night", "--warehouse", warehouse, "--date"]
    files = [word for name, path in paths.items() for word in (f"--{name}", path)]
    lines = [
        ["init", warehouse, "--buckets", "2"],
        ["import", "tables", "--warehouse", warehouse, *files],
        [*night, day(1).isoformat(), "--until", "queries"],
    ]
    (first,) = run(RUN, json.dumps(lines), warehouse, ",".join(BLOCKED))["rows"]
    assert first["QUERIES"] > 50
    assert "FEED" not in first
    add(Warehouse.open(warehouse), day(1))
    found = run(RUN, json.dumps([[*night, day(2).isoformat()]]), warehouse, ",".join(BLOCKED))
    _, second = found["rows"]
    assert second["QUERIES"] > 50
    assert second["CANDIDATES"] > second["FEED"] > 500
    assert second["ENCODINGS"] > 20
    assert found["loaded"] == []


TRAIN = """
import json
from pipelines.cli import app

code = app(["train", "--warehouse", sys.argv[1], "--date", "2024-03-01"], standalone_mode=False)
print(json.dumps({"code": code}))
"""


def test_training_says_what_to_install(tmp_path: Path) -> None:
    warehouse = Warehouse.create(str(tmp_path / "w"), "", buckets=1)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + TRAIN, warehouse.root],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"code": 2}
    assert "training needs jax; pip install 'queryloop[retrieval]'" in done.stderr
