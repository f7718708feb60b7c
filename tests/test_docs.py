"""Every command of the documents runs as it stands there, in the order of its page.

A page's `python` blocks make what it needs, `yaml` blocks that begin with `# file: NAME` are files,
and every line of its `sh` blocks is a command. `text` blocks are for machines that a test has not.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app

DOCS = Path(__file__).parents[1] / "docs"
FIRST = "own-log.md"  # the others go on with its warehouse, each with a copy
PAGES = (
    "operating.md",
    "tables.md",
    "policy.md",
    "spacing-class.md",
    "cluster.md",
    "limits.md",
    "numbers.md",
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def run_page(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Run the blocks of a page in `folder`; the output of its commands."""
    monkeypatch.chdir(folder)
    printed = []
    for kind, text in _BLOCK.findall((DOCS / name).read_text()):
        if kind == "python":
            exec(compile(text, name, "exec"), {})
        elif kind == "yaml" and (named := re.match(r"# file: (\S+)\n", text)):
            (folder / named[1]).write_text(text)
        elif kind == "sh":
            printed += [run_line(line) for line in text.replace("\\\n", " ").splitlines() if line]
    return printed


def run_line(line: str) -> str:
    words = shlex.split(line)
    assert words[0] == "queryloop", f"{line!r}: a test knows only queryloop; mark the block as text"
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("docs") / "first"
    folder.mkdir()
    patch = pytest.MonkeyPatch()
    printed = run_page(FIRST, patch, folder)
    patch.undo()
    return folder, printed


def test_the_first_page_ends_with_rewards(first: tuple[Path, list[str]]) -> None:
    _, printed = first
    rewards = printed[-4].splitlines()
    assert rewards[0].split() == ["user_id", "title", "reward", "prior_source", "drawn"]
    assert len(rewards) == 2 + 5 + 1
    assert printed[-6].endswith("(0 rows)\n")  # nothing of the log was refused
    assert printed[-2].startswith("User c1 (")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(
    page: str, first: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if page != "spacing-class.md":  # which makes its own
        shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    run_page(page, monkeypatch, tmp_path)


def test_every_page_is_run_or_has_its_own_test() -> None:
    own = {"recipes.md": "test_recipes.py", "serving.md": "test_export.py"}
    for path in DOCS.glob("*.md"):
        known = path.name in (FIRST, *PAGES)
        assert known or list((DOCS.parent / "tests").rglob(own[path.name])), path.name


def test_links_between_pages_lead_somewhere() -> None:
    for path in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
