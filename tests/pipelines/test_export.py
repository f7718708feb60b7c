"""`queryloop export` and the page docs/serving.md, whose example is run here."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.export.command import export_night
from pipelines.failures import quiet_beam
from pipelines.store.warehouse import Warehouse
from profiling.schema import sort_rows
from selection.tables import QUERIES
from selection.weight_files import open_sampler

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The example's folder, and what it printed."""
    path = DOCS / "examples" / "serving.py"
    spec = importlib.util.spec_from_file_location("serving_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder, printed = tmp_path_factory.mktemp("serving"), []
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "print", lambda *words: printed.append(" ".join(words)), raising=False)
    module.main(folder)
    patch.undo()
    quiet_beam(False)
    return folder, "\n".join(printed)


@pytest.fixture(scope="module")
def warehouse(example: tuple[Path, str]) -> Warehouse:
    return Warehouse.open(str(example[0] / "w"))


def blocks(page: str, language: str) -> list[str]:
    return [part.split("```")[0] for part in page.split(f"```{language}\n")[1:]]


def test_the_page_shows_the_example_and_what_it_prints(example):
    page, code = (DOCS / "serving.md").read_text(), (DOCS / "examples" / "serving.py").read_text()
    python = blocks(page, "python")
    assert len(python) == 2
    for block in python:
        assert block in code, textwrap.shorten(block, 200)
    (text,) = blocks(page, "text")
    assert example[1].strip() == text.strip()


def test_the_command_of_the_page_can_be_typed(warehouse, monkeypatch, tmp_path):
    (line,) = "".join(blocks((DOCS / "serving.md").read_text(), "sh")).splitlines()
    words = [warehouse.root if word == "W" else word for word in line.split()]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    quiet_beam(False)
    assert not ended.value.code
    assert open_sampler("serving").state.run_date.isoformat() == "2024-03-01"


def test_every_format_draws_alike_and_as_the_night_did(warehouse, tmp_path):
    head = warehouse.head()
    assert head is not None
    drawn = []
    for format in ("parquet", "jsonl", "sqlite"):
        export_night(warehouse, head, tmp_path / format, ("weights", "queries"), format)
        sampler = open_sampler(tmp_path / format)
        assert sampler.state.version == f"{head.date}/{head.number}"
        drawn.append([d for user in range(40) for d in sampler.draw(user, "home")])
        requested = sampler.draw(3, "home", "r")
        assert requested == open_sampler(tmp_path / "parquet").draw(3, "home", "r")
    assert drawn[0] == drawn[1] == drawn[2]
    queries = sort_rows(warehouse.read("QUERIES"), QUERIES.key)
    nightly = queries.to_pylist()
    assert [d.draw_id for d in drawn[0]] == [q["draw_id"] for q in nightly]
    assert [d.propensity for d in drawn[0]] == [q["propensity"] for q in nightly]
    record = json.loads((tmp_path / "parquet" / "export.json").read_text())
    stored = pq.read_table(tmp_path / "parquet" / record["tables"]["queries"]["file"])
    assert QUERIES.check(stored).equals(queries)


def test_another_export_of_the_night_is_added_and_of_another_night_takes_over(warehouse, tmp_path):
    first, last = [m for m in warehouse.manifests() if m.kind == "night"][1:]
    export_night(warehouse, first, tmp_path, ("weights",), "parquet")
    export_night(warehouse, first, tmp_path, ("queries",), "jsonl")
    assert set(json.loads((tmp_path / "export.json").read_text())["tables"]) == {
        "weights",
        "queries",
    }
    export_night(warehouse, last, tmp_path, ("weights",), "parquet")
    assert list(json.loads((tmp_path / "export.json").read_text())["tables"]) == ["weights"]
    assert open_sampler(tmp_path).state.run_date == last.date
    assert len(list(tmp_path.glob("weights-*"))) == 2  # a server may still read the other


@pytest.fixture
def exported(warehouse, tmp_path) -> Path:
    export_night(warehouse, warehouse.head(), tmp_path / "x", ("weights",), "parquet")
    return tmp_path / "x"


def edit(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "export.json").read_text())
    record["tables"]["weights"] |= changes.pop("weights", {})
    (folder / "export.json").write_text(json.dumps(record | changes))


def test_an_export_of_another_version_or_damaged_is_refused(exported):
    edit(exported, weights={"version": 9})
    with pytest.raises(ValueError, match="weights of version 9, this reads 1; export again with"):
        open_sampler(exported)
    edit(exported, format=2, weights={"version": 1})
    with pytest.raises(ValueError, match="is of format 2, this reads 1"):
        open_sampler(exported)
    edit(exported, format=1)
    (file,) = exported.glob("weights-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match="is not what was exported"):
        open_sampler(exported)
    file.unlink()
    with pytest.raises(ValueError, match="is gone; export again"):
        open_sampler(exported)
    edit(exported, run_date="some day")
    with pytest.raises(ValueError, match=r"export\.json is damaged"):
        open_sampler(exported)
    edit(exported, tables={"feed": {}})
    with pytest.raises(ValueError, match="holds feed and no weights"):
        open_sampler(exported)
    with pytest.raises(ValueError, match="holds no export"):
        open_sampler(exported / "nowhere")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--table", "users"], "table must be one of weights, queries, feed, got 'users'"),
        (["--format", "xml"], "format must be one of parquet, jsonl, sqlite, got 'xml'"),
        (["--table", "feed"], "has no FEED, so no feed; run it that far"),
        (["--date", "2024-07-01"], "has no night of 2024-07-01"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(
    monkeypatch, capsys, warehouse, tmp_path, words, said
):
    base = ["queryloop", "export", "-w", warehouse.root, "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*base, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    quiet_beam(False)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "export.json").exists()
