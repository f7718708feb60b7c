"""spacing.yaml: every wrong file is refused or warned of by its line, and `init`'s is read back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import ConfigError
from pipelines.spacing.command import differences
from pipelines.spacing.file import (
    EXAMPLES,
    Known,
    check_spacing,
    load_spacing,
    render_spacing,
)
from retrieval.spacing.classes import Spacing

GOOD = "classes:\n- id: a\n  source: {label: gore}\n"


def of_class(text: str) -> str:
    return GOOD + "".join(f"  {line}\n" for line in text.splitlines())


# text, line of the problem, words of the message
BAD = {
    "unknown option": ("gama: 1\n", 1, ["gama", "no such option"]),
    "unknown option of a class": (of_class("wait: 1"), 4, ["classes.0.wait", "no such option"]),
    "unknown option of a kernel": (of_class("kernel: {form: inverse}"), 4, ["kernel.form"]),
    "unknown option of a source": (
        "classes:\n- id: a\n  source: {label: x, score: 1}\n", 3, ["source.score"],
    ),
    "an option twice": (of_class("weight: .1\nweight: .2"), 5, ["weight", "given twice"]),
    "no YAML": ("classes: [\n", 2, ["no YAML"]),
    "a list at the top": ("- a\n", 1, ["option: value"]),
    "an object of Python": ("!!python/object/apply:os.getcwd []\n", 1, ["no YAML"]),
    "a negative weight": (of_class("weight: -0.1"), 4, ["weight", ">= 0", "-0.1"]),
    "an infinite weight": (of_class("weight: .inf"), 4, ["weight", "hard filter"]),
    "a weight that is no number": (of_class("weight: .nan"), 4, ["weight", "nan"]),
    "a weight in words": (of_class("weight: much"), 4, ["weight", "'much'"]),
    "a runaway class": (
        of_class("weight: 0.9"), 4, ["at most 0.438", "2.283", "class_bound", "0.9"],
    ),
    "a kernel that rises": (
        of_class("kernel: {shape: piecewise, steps: [[1, 0.5], [3, 0.9]]}"), 4, ["steps", "fall"],
    ),
    "a kernel that stays": (
        of_class("kernel: {shape: piecewise, steps: [[5, 1.0]]}"), 4, ["must fall within"],
    ),
    "a kernel that goes inwards": (
        of_class("kernel: {shape: piecewise, steps: [[3, 1.0], [2, .5]]}"), 4, ["outwards"],
    ),
    "an infinite kernel": (
        of_class("kernel: {shape: piecewise, steps: [[1, .inf]]}"), 4, ["finite"],
    ),
    "steps beyond the window": (
        of_class("window: 2\nkernel: {shape: piecewise, steps: [[1, 1.0], [9, .5]]}"), 5,
        ["kernel", "distance 9", "window of 2"],
    ),
    "a piecewise kernel without steps": (
        of_class("kernel: {shape: piecewise}"), 4, ["steps", "piecewise"],
    ),
    "steps of another kernel": (
        of_class("kernel: {shape: inverse, steps: [[1, 1.0]]}"), 4, ["steps", "no other"],
    ),
    "an exponential kernel that does not fall": (
        of_class("kernel: {shape: exponential}"), 4, ["half_distance", "above 0"],
    ),
    "an unknown kernel": (
        of_class("kernel: {shape: gauss}"), 4, ["shape", "inverse, exponential, piecewise"],
    ),
    "no window": (of_class("window: 0"), 4, ["window", ">= 1"]),
    "a window beyond the page": (of_class("window: 26\nweight: .01"), 4, ["at most 25", "26"]),
    "a window in half items": (of_class("window: 2.5"), 4, ["window"]),
    "an identifier twice": (
        GOOD + "- id: b\n  source: {topic: 1}\n- id: a\n  source: {topic: 2}\n", 6,
        ["classes.2.id", "'a' twice"],
    ),
    "an empty identifier": ("classes:\n- id: ''\n  source: {label: x}\n", 2, ["id", "letter"]),
    "an odd identifier": ("classes:\n- id: a b\n  source: {label: x}\n", 2, ["id", "'a b'"]),
    "no source": ("classes:\n- id: a\n", 2, ["source"]),
    "two sources": (
        "classes:\n- id: a\n  source: {label: x, topic: 3}\n", 3, ["exactly one", "got 2"],
    ),
    "a source of nothing": ("classes:\n- id: a\n  source: {}\n", 3, ["exactly one", "got 0"]),
    "a threshold above 1": (
        "classes:\n- id: a\n  source: {label: x, threshold: 1.5}\n", 3, ["threshold", "<= 1"],
    ),
    "a threshold of 0": (
        "classes:\n- id: a\n  source: {label: x, threshold: 0}\n", 3, ["threshold", "above 0"],
    ),
    "a column without its table": (
        "classes:\n- id: a\n  source: {column: q.risk}\n", 3, ["'q'", "does not declare"],
    ),
    "a column of no table": (
        "classes:\n- id: a\n  source: {column: risk}\n", 3, ["TABLE.COLUMN", "'risk'"],
    ),
    "a table twice": (
        "tables:\n- {name: q, path: a}\n- {name: q, path: b}\n", 3, ["'q' twice"],
    ),
    "days that end before they begin": (
        of_class("activation: {first_day: 2024-03-02, last_day: 2024-03-01}"), 4, ["last_day"],
    ),
    "a day that is none": (of_class("activation: {first_day: someday}"), 4, ["first_day"]),
    "a day not in the calendar": (of_class("activation: {first_day: 2024-02-31}"), 4, ["day"]),
    "a negative gamma": ("diversity: {gamma: -1}\n", 1, ["gamma", ">= 0"]),
    "no window of diversity": ("diversity:\n  window: 0\n", 2, ["window", ">= 1"]),
    "an unknown variant": ("diversity:\n  variant: dpp\n", 2, ["variant", "ssd"]),
    "an embedding of no table": (
        "diversity:\n  embeddings:\n  - {source: image}\n", 3, ["item or TABLE.COLUMN", "'image'"],
    ),
    "embeddings that weigh nothing": (
        "diversity:\n  embeddings:\n  - {source: item, weight: 0}\n", 2, ["embeddings", "got 0"],
    ),
    "no cap": ("joint_cap: 0\n", 1, ["joint_cap", ">= 0.01"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_file_is_refused_with_its_line(kind: str) -> None:
    text, line, words = BAD[kind]
    with pytest.raises(ConfigError) as error:
        load_spacing(text, "s.yaml")
    message = str(error.value)
    assert message.startswith(f"s.yaml:{line}: ")
    for word in words:
        assert word in message


WARNED = {
    "a joint demotion above the cap": (
        "joint_cap: 0.5\n" + of_class("weight: .4"), 2, ["a can take 0.913", "cap of 0.5"],
    ),
    "a class that weighs nothing": (of_class("weight: 0"), 4, ["no effect"]),
    "a label that no item carries": (GOOD, 3, ["no item carries label 'gore'", "0.5"]),
    "an unknown surface": (
        of_class("activation: {surfaces: [hone]}"), 4, ["'hone'", "there are: home"],
    ),
    "an unknown arm": (of_class("activation:\n  arms: [treated]"), 5, ["'treated'", "none"]),
    "an unknown segment": (of_class("activation: {segments: [x]}"), 4, ["'x'", "new"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WARNED)
def test_what_is_hardly_meant_is_warned_of_with_its_line(kind: str) -> None:
    text, line, words = WARNED[kind]
    known = Known(surfaces=("home",), arms=("",), segments=("new",), labelled={"a": 0})
    found = [w for w in check_spacing(text, "s.yaml", known) if words[0] in w]
    assert len(found) == 1
    assert found[0].startswith(f"s.yaml:{line}: ")
    for word in words:
        assert word in found[0]


def test_a_good_file_warns_of_nothing() -> None:
    known = Known(surfaces=("home",), arms=("",), segments=(), labelled={"a": 5})
    assert check_spacing(GOOD, "s.yaml", known) == []
    assert check_spacing("", "s.yaml", Known()) == []


def test_the_file_that_init_writes_is_read_back_and_its_examples_hold() -> None:
    text = render_spacing(Spacing())
    assert load_spacing(text, "f") == Spacing()
    assert text.endswith("classes: []\n" + EXAMPLES)
    tables = "tables:\n- {name: quality, path: quality.parquet}\n"
    examples = tables + "classes:\n" + re.sub("(?m)^# ", "", EXAMPLES)
    assert [c.id for c in load_spacing(examples, "f").classes] == [
        "graphic", "politics", "low_quality",
    ]  # fmt: skip
    assert len(load_spacing(examples, "f").works) == 2


def test_a_difference_is_told_class_by_class() -> None:
    old = load_spacing(GOOD + "- id: gone\n  source: {topic: 1}\n", "a")
    new = load_spacing(
        "diversity: {gamma: .5}\n" + of_class("weight: .2\nkernel: {shape: exponential, "
        "half_distance: 3}") + "- id: new\n  source: {topic: 1}\n", "b",
    )  # fmt: skip
    assert list(differences(old, new)) == [
        "diversity.gamma: 0.0 -> 0.5",
        "class a: weight: 0.1 -> 0.2",
        "class a: kernel.shape: inverse -> exponential",
        "class a: kernel.half_distance: 0.0 -> 3.0",
        "class gone: removed",
        "class new: added",
    ]
    assert list(differences(old, old)) == []


def test_check_and_diff_at_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(of_class("weight: -1"))
    run = CliRunner().invoke
    found = run(app, ["spacing", "check", str(good)])
    assert found.exit_code == 0
    assert "1 classes, 0 switched off, 0 warnings" in found.output
    refused = run(app, ["spacing", "check", str(bad)])
    assert refused.exit_code == 2
    assert f"{bad}:4: classes.0.weight" in refused.output + capsys.readouterr().err
    assert run(app, ["spacing", "diff", str(good), str(good)]).output == "no difference\n"
