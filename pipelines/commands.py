"""Every command, by the function that it is; its file is imported when it is called.

What a night needs takes seconds to import: a question, a status, the help of one command and the
completion of a name do without.
"""

from __future__ import annotations

import ast
import gc
import importlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipelines.logs import tell

Table = Mapping[str, "str | Mapping[str, str]"]

COMMANDS: Table = {
    "demo": "pipelines.cli:demo",
    "init": "pipelines.cli:init",
    "import": {"kuairand": "pipelines.cli:kuairand", "tables": "pipelines.cli:tables"},
    "plan": "pipelines.operate.command:plan",
    "validate": "pipelines.operate.command:check_input",
    "night": "pipelines.cli:night",
    "resume": "pipelines.operate.command:resume",
    "train": "pipelines.cli:train",
    "status": "pipelines.operate.command:status",
    "nights": "pipelines.operate.command:nights",
    "diff": "pipelines.operate.command:diff",
    "health": "pipelines.health.command:health",
    "report": "pipelines.health.command:report",
    "metrics": "pipelines.operate.command:metrics",
    "sql": "pipelines.sql.command:sql",
    "catalog": "pipelines.sql.command:catalog",
    "explain": "pipelines.explain.command:explain",
    "explain-feed": "pipelines.spacing.command:explain_feed",
    "spacing": {
        "check": "pipelines.spacing.command:check",
        "preview": "pipelines.spacing.command:preview",
        "curve": "pipelines.spacing.command:curve",
        "diff": "pipelines.spacing.command:diff",
    },
    "lab": {
        "policies": "pipelines.lab.command:policies",
        "replay": "pipelines.lab.command:replay",
        "kuairec": "pipelines.lab.command:kuairec",
        "evaluate": "pipelines.lab.evaluate_command:lab_evaluate",
        "gate": "pipelines.lab.gate_command:lab_gate",
        "tune": "pipelines.lab.tune_command:lab_tune",
    },
    "evaluate": {
        "retrieval": "pipelines.evaluate.app:retrieval",
        "profiles": "pipelines.evaluate.app:profiles",
    },
    "export": "pipelines.export.command:export",
    "fingerprint": "pipelines.cli:fingerprint",
    "doctor": "pipelines.operate.command:doctor",
    "gc": "pipelines.operate.command:gc",
    "erase": "pipelines.operate.command:erase",
    "reshard": "pipelines.operate.command:reshard",
}
GROUPS = {
    "import": "Bring a log into a warehouse.",
    "spacing": "Diversity and spacing classes of the feed.",
    "lab": "Which policy earns its keep, shown before it ships.",
    "evaluate": "Ask the log whether something else is better.",
}
BEAM = ("night",)  # commands that hand what they do not know to Beam
_TO_BEAM = {"allow_extra_args": True, "ignore_unknown_options": True}


_COLLECTS = gc.get_threshold()


def collect_rarely() -> None:
    """Until a command starts: imports make what stays, and to look through it takes time."""
    gc.set_threshold(200_000, 20, 20)


class LazyGroup(TyperGroup):
    """Commands whose files are imported when they are called."""

    def hold(self, table: Table) -> None:
        """Have the commands of `table`, and no others."""
        self.commands: Any = LazyCommands(table)


class LazyCommands(Mapping[str, Any]):
    """A table of commands as what the command line makes of it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Any:
        place = self._table[name]
        return LazyCommand(name, place) if isinstance(place, str) else _group(name, place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class LazyCommand(TyperCommand):
    """A command that knows its help, and its options once it is called or completed."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name, help=docstring(place))
        self.place = place

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Parse the command line, by the options of the function."""
        if parent is None or extra.get("resilient_parsing"):  # of a completion
            return load(str(self.name), self.place).make_context(info_name, args, parent, **extra)
        path = f"{parent.command_path} {info_name}".partition(" ")[2]
        if isinstance(parent.obj, dict):  # what a log says in every line
            parent.obj["command"] = path
        for given in (arg.partition("=")[0] for arg in args):
            if given in _of_all(parent):
                parent.fail(f"{given} goes before the command: queryloop {given} {path} ...")
        made = load(str(self.name), self.place).make_context(info_name, args, parent, **extra)
        gc.set_threshold(*_COLLECTS)
        tell("started")
        return made


class BeamCommand(TyperCommand):
    """A command whose unknown options go to Beam, but for those that misspell one of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the command line."""
        ours = [name for p in self.params for name in (*p.opts, *p.secondary_opts)]
        for given in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
            near = [] if given in ours else get_close_matches(given, ours, 1, cutoff=0.8)
            if near and not _known_to_beam(given):
                ctx.fail(f"No such option: {given}. Did you mean {near[0]}?")
        return super().parse_args(ctx, args)


def load(name: str, place: str) -> Any:
    """The command of a function, `module:function`, with its options."""
    module, function = place.split(":")
    alone = typer.Typer(add_completion=False)
    how: Any = {"cls": BeamCommand, "context_settings": _TO_BEAM} if name in BEAM else {}
    alone.command(name, **how)(getattr(importlib.import_module(module), function))
    return typer.main.get_command(alone)


def docstring(place: str) -> str:
    """What a function says of itself, read from its file without importing it."""
    module, function = place.split(":")
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node) or ""
    raise LookupError(f"{path} has no function {function}; correct pipelines.commands.COMMANDS")


def _of_all(context: Any) -> set[str]:
    """Options that stand before the command."""
    params = context.find_root().command.params
    return {name for p in params for name in p.opts if name != "--help"}


def _group(name: str, table: Table) -> LazyGroup:
    app = typer.Typer(cls=LazyGroup, help=GROUPS[name], no_args_is_help=True, add_completion=False)
    app.callback()(lambda: None)
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    group.name = name
    group.hold(table)
    return group


def _known_to_beam(option: str) -> bool:
    from pipelines.runners.options import RunnerOptions  # Beam takes a second to import

    return option.lstrip("-").replace("-", "_") in RunnerOptions([]).get_all_options()
