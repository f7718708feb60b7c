"""Every command: its help, its example, its JSON; completion, and what is imported for it."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.commands import COMMANDS, GROUPS, docstring, load
from pipelines.entry import main
from pipelines.json_output import as_json
from pipelines.lab.policies import NamedPolicy
from selection.policies import SelectionConfig
from tests.pipelines.test_catalog import D1, D2, D3, make

ROOT = Path(__file__).parents[2]
SLOW = ("apache_beam", "numba", "pyarrow", "scipy", "duckdb")
Complete = Callable[[str], list[str]]


def every_command() -> Iterator[tuple[str, str]]:
    """Each command as it is typed, and the function that it is."""
    for name, place in COMMANDS.items():
        if isinstance(place, str):
            yield name, place
        else:
            yield from ((f"{name} {inner}", of) for inner, of in place.items())


@pytest.mark.parametrize(("name", "place"), list(every_command()))
def test_a_command_has_help_json_and_an_example_that_parses(name: str, place: str) -> None:
    command, paragraphs = load(name.split()[-1], place), docstring(place).split("\n\n")
    assert len(paragraphs[0]) > 20
    assert inspect.getdoc(command.callback) == docstring(place)  # of the file that is imported
    assert "--json" in {option for p in command.params for option in p.opts}
    unexplained = [p.name for p in command.params if not p.help]
    assert not unexplained
    examples = [p.removeprefix("Example: ") for p in paragraphs if p.startswith("Example: ")]
    assert paragraphs[-1].startswith("Example: ")
    for example in examples:
        said = ["queryloop", *name.split()]
        words = shlex.split(example)
        assert words[: len(said)] == said
        assert not command.make_context(name, words[len(said) :]).args


def test_every_group_says_what_it_is_for() -> None:
    assert set(GROUPS) == {name for name, of in COMMANDS.items() if not isinstance(of, str)}


def test_the_readme_names_no_command_that_is_not_there() -> None:
    known = {name.split()[0] for name, _ in every_command()}
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {w for t in texts for w in re.findall(r"\bqueryloop ([a-z]+[a-z-]*)", t.read_text())}
    assert named <= known


def test_every_event_of_the_log_is_in_the_table_of_operating() -> None:
    told = re.compile(r'\btell\(\s*"(\w+)"(?: if \w+ else "(\w+)")?')
    sources = (path.read_text() for path in (ROOT / "pipelines").rglob("*.py"))
    events = {name for text in sources for found in told.findall(text) for name in found if name}
    page = (ROOT / "docs" / "operating.md").read_text()
    table = page.partition("| event |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {
        *events, "warning", "log",
    }  # fmt: skip


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """What bash is offered for the last word of a command line."""

    def words(line: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["queryloop"])
        monkeypatch.setenv("_QUERYLOOP_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out.split()

    return words


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("queryloop ni", ["night", "nights"]),
        ("queryloop lab re", ["replay"]),
        ("queryloop night --str", ["--strict"]),
        ("queryloop --log-format ", ["text", "json"]),
        ("queryloop night --until q", ["queries"]),
        ("queryloop lab gate --format ", ["table", "json"]),
        ("queryloop lab gate --policy thom", ["thompson", "thompson_evidence"]),
        ("queryloop lab replay --policies counts,rew", ["counts,reward", "counts,reward_importance",
                                                       "counts,reward_odds"]),
        ("queryloop export --table w", ["weights"]),
        ("queryloop sql -w nowhere --date 2", []),
        ("queryloop sql --date 2", []),
    ],
)  # fmt: skip
def test_names_and_values_are_completed(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_dates_are_those_of_the_warehouse(complete: Complete, tmp_path: Path) -> None:
    root, dates = make(str(tmp_path / "w")).root, [str(d) for d in (D3, D2, D1)]
    following = str(D3 + dt.timedelta(days=1))
    assert complete(f"queryloop sql -w {root} --date ") == dates
    assert complete(f"queryloop diff -w {root} {dates[0][:-1]}") == dates
    assert complete(f"queryloop night -w {root} --from ") == [following, *dates]


def test_completion_and_help_import_nothing_slow() -> None:
    code = (
        "import sys\nfrom pipelines.entry import main\n"
        "for sys.argv[1:] in ([], ['--help'], ['night', '--help'], ['status', '--help']):\n"
        "    try:\n        main()\n    except SystemExit:\n        pass\n"
        f"print(sorted(set({SLOW}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "Example: queryloop night" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_a_shell_takes_the_script_that_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "queryloop"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipelines "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_QUERYLOOP_COMPLETE=source_bash queryloop)"\n'
        "COMP_WORDS=(queryloop lab tu); COMP_CWORD=2\n"
        '_queryloop_completion queryloop; echo "${COMPREPLY[@]}"'
    )
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env)
    assert done.stdout == "tune\n", done.stderr


def test_json_is_one_line_that_any_reader_takes() -> None:
    record = {
        "night": dt.date(2024, 3, 1),
        "path": Path("a/b"),
        "policy": NamedPolicy(SelectionConfig(), "größer"),
        "share": np.float32(0.5),
        "users": np.arange(3),
        "unknown": float("nan"),
        1: (True, None, {"x": np.inf}),
    }
    text = as_json(record)
    assert "\n" not in text
    assert "größer" in text
    read = json.loads(text, parse_constant=pytest.fail)
    assert read.pop("policy")["selection"]["policy"] == SelectionConfig().policy
    assert read == {
        "night": "2024-03-01",
        "path": "a/b",
        "share": 0.5,
        "users": [0, 1, 2],
        "unknown": None,
        "1": [True, None, {"x": None}],
    }
