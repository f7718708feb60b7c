"""What the README and the packaging say is what the code does."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import profiling
from pipelines.config import NightConfig
from pipelines.store.tables import SCHEMAS
from profiling.actions import Action
from selection.experiments import Arm, Experiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Spelt in halves, so that this file is none that names them.
MACHINE_PATHS = ["/" + folder + "/" for folder in ("work", "root", "home")]
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "proxy." + "golang.org",
    "repo." + "maven",
    "conda." + "anaconda",
    "npm" + "js.",
    "index" + "-url",
]


def flow() -> list[dict[str, str]]:
    """The rows of the table in the README's section 'The night'."""
    section = README.split("## The night\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def named(cell: str) -> Any:
    """What a dotted name in backquotes stands for."""
    module, name = cell.strip("`").rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def words(camel: str) -> str:
    """SelectQueries -> select_queries."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", camel).lower()


FLOW = flow()
BY_TABLE = {row["writes"]: row for row in FLOW}


def test_the_flow_table_is_whole() -> None:
    assert [row["step"][0] for row in FLOW] == ["1", "2", "3", "3", "4", "5", "6"]
    assert list(BY_TABLE) == [
        "PROFILES", "OUTCOMES", "REWARDS", "CLUSTER_REWARDS", "QUERIES", "CANDIDATES", "FEED",
    ]  # fmt: skip


@pytest.mark.parametrize("table", list(BY_TABLE))
def test_one_name_three_places(table: str) -> None:
    row = BY_TABLE[table]
    function, transform = named(row["pure function"]), named(row["transform"])
    assert callable(function)
    assert issubclass(transform, beam.PTransform)
    assert table in SCHEMAS
    file = table.lower()
    assert function.__module__.split(".")[-1] == file
    assert transform.__module__ == f"pipelines.{file}"
    assert function.__name__ == words(transform.__name__)
    assert function.__name__.endswith(file)
    assert function.__module__.split(".")[0] in ("profiling", "selection", "retrieval")


@pytest.mark.parametrize("table", list(BY_TABLE))
def test_what_a_step_reads_exists(table: str) -> None:
    tables = re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", BY_TABLE[table]["reads"])
    assert tables
    assert set(tables) <= set(SCHEMAS)


@pytest.mark.parametrize("table", list(BY_TABLE))
def test_a_transforms_file_calls_its_function(table: str) -> None:
    row = BY_TABLE[table]
    function = row["pure function"].strip("`").rsplit(".", 1)[1]
    source = Path(importlib.import_module(f"pipelines.{table.lower()}").__file__ or "")
    assert function in called_names(source)


def called_names(path: Path) -> list[str]:
    """Names that a file calls, in the order of its lines."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    calls.sort(key=lambda n: (n.func.end_lineno or 0, n.func.end_col_offset or 0))
    return [n.func.id for n in calls if isinstance(n.func, ast.Name)]


def test_the_night_runs_the_steps_in_the_order_of_the_flow() -> None:
    transforms = [row["transform"].strip("`").rsplit(".", 1)[1] for row in FLOW]
    night = called_names(ROOT / "pipelines" / "night.py")
    assert [name for name in night if name in transforms] == transforms


def test_files_that_the_readme_names_exist() -> None:
    paths = re.findall(r"`((?:[a-z]+/)+[a-z_]*(?:\.[a-z]+)?)`", README)
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


# The package


def test_profiling_is_ours() -> None:
    assert profiling.__file__ is not None
    assert Path(profiling.__file__).is_relative_to(ROOT)


def test_python_3_15_is_excluded() -> None:
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [f"3.{m}" for m in range(9, 20) if f"3.{m}" in supported] == [
        "3.11", "3.12", "3.13", "3.14",
    ]  # fmt: skip
    assert "3.15.0" not in supported


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
            assert match, f"not an exact pin: {line!r}"
            name = canonicalize_name(match[1])
            assert name not in found, f"pinned twice: {name}"
            found[name] = Version(match[2])
    return found


def test_every_dependency_is_pinned_exactly_within_its_range() -> None:
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *PROJECT["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pinned = pins()
    assert set(project["optional-dependencies"]) == {"retrieval", "evaluation", "s3", "dev"}
    assert len(wanted) > 20
    for text in wanted:
        requirement = Requirement(text)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_pins_hold_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "@" not in text


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Paths and texts of all files under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    for path in filter(None, listed.stdout.split("\0")):
        if (ROOT / path).exists():
            content = (ROOT / path).read_bytes()
            if b"\0" not in content:
                yield path, content.decode()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git here to list the files")
def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{path}: {word}"
        for path, text in tracked_texts()
        for word in MACHINE_PATHS + REGISTRY_HOSTS
        if word in text
    ]
    assert not found


# Options


def undocumented(config: Any, where: str) -> Iterator[str]:
    for f in fields(config):
        default = f.default if f.default is not MISSING else None
        value = getattr(config, f.name, default)
        if is_dataclass(value) and not isinstance(value, type):
            if not (type(value).__doc__ or "").strip():
                yield f"{where}.{f.name}"
            yield from undocumented(value, f"{where}.{f.name}")
        elif f.default is not MISSING and not f.metadata.get("doc", "").strip():
            yield f"{where}.{f.name}"


@pytest.mark.parametrize("config", [NightConfig(), Action("x"), Arm, Experiment])
def test_every_option_says_what_it_means(config: Any) -> None:
    name = config.__name__ if isinstance(config, type) else type(config).__name__
    assert not list(undocumented(config, name))


def test_an_option_without_a_doc_would_be_found() -> None:
    from dataclasses import dataclass

    @dataclass
    class Silent:
        """Has one."""

        count: int = 3

    assert list(undocumented(Silent(), "Silent")) == ["Silent.count"]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_table_is_declared_in_full(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema.name == name
    assert schema.version >= 1
    assert set(schema.key) <= set(schema.names)
    assert len(set(schema.names)) == len(schema.names)
    assert all(c.meaning.strip() for c in schema.columns)
    assert not any(c.nullable for c in schema.columns if c.name in schema.key)
    assert set(schema.lifts) <= set(schema.names)
    for c in schema.columns:
        assert c.low is None or c.high is None or c.low < c.high
