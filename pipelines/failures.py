"""What a command says when it fails: one message with its cure, exit 2; with --debug all of it."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipelines.warehouse import PublishConflict

# What a user can mend; anything else is a fault of ours and ends in its traceback.
_MENDABLE = (ValueError, OSError, PublishConflict)
_MENDABLE_NAMES = {
    *("ValueError", "ConfigError", "ArrowInvalid", "OSError", "FileNotFoundError"),
    *("FileExistsError", "PermissionError", "NotADirectoryError", "IsADirectoryError"),
}
_CURES = {
    errno.ENOSPC: "free some space and run it again; nothing of this run is visible",
    errno.EDQUOT: "free some space and run it again; nothing of this run is visible",
    errno.EACCES: "change its mode or owner, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOENT: "give one that exists",
}
_WHERE = re.compile(r" \[while running '[^']*'\]")  # Beam's addition; its steps are in --debug
# What a job server passes on, by what it means.
_OF_CLUSTERS = {
    re.compile(  # of a step that cannot be unpickled there
        r"No module named '(pipelines|profiling|selection|retrieval)\b"
        r"|Can't get attribute '\w+' on <module '(pipelines|profiling|selection|retrieval)\b"
    ): "the workers have no Queryloop, or another version of it; install the driver's wheel in "
    "their environment and start the worker pools again",
    re.compile(r"java\.net\.ConnectException|UNAVAILABLE: io exception"): "the runner reached no "
    "workers, or its job server no cluster; see that the pool of --environment_config runs beside "
    "every TaskManager, and that the job server's --flink-master is up",
}
_RAISED = re.compile(r"(?:\w+\.)*(?P<kind>\w+): (?P<message>.+)")


class CommandGroup(TyperGroup):
    """The commands; a failure that the user can mend ends with its message alone."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except (*_MENDABLE, RuntimeError) as error:
            message = failure_message(error)
            if message is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            print(f"queryloop: {message}", file=sys.stderr)
            raise typer.Exit(2) from None


class BeamCommand(TyperCommand):
    """A command whose unknown options go to Beam, but for those that misspell one of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the command line."""
        ours = [name for p in self.params for name in (*p.opts, *p.secondary_opts)]
        for given in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
            near = [] if given in ours else get_close_matches(given, ours, 1, cutoff=0.8)
            if near and not known_to_beam(given):
                ctx.fail(f"No such option: {given}. Did you mean {near[0]}?")
        return super().parse_args(ctx, args)


def known_to_beam(option: str) -> bool:
    """Whether `--option` is one of Beam's."""
    from pipelines.runner_options import RunnerOptions  # Beam takes a second to import

    return option.lstrip("-").replace("-", "_") in RunnerOptions([]).get_all_options()


def quiet_beam(quiet: bool) -> None:
    """Whether runners keep the tracebacks that they log, and how they end, to themselves."""
    for name in ("apache_beam.runners", "apache_beam.utils.subprocess_server"):
        logging.getLogger(name).setLevel(logging.CRITICAL if quiet else logging.NOTSET)


def failure_message(error: Exception) -> str | None:
    """What to tell the user; None where it is a fault of ours.

    Beam raises what a worker raised as it is, as a RuntimeError with its name and message, or as
    one with its whole traceback, depending on the error and the runner.
    """
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return place + _with_cure(error.strerror)
    if isinstance(error, _MENDABLE):
        return _with_cure(_WHERE.sub("", str(error)))
    for told, message in _OF_CLUSTERS.items():
        if told.search(str(error)):
            return message
    for line in reversed(_WHERE.sub("", str(error)).splitlines()):
        raised = _RAISED.fullmatch(line)
        if raised and raised["kind"] in _MENDABLE_NAMES:
            return _with_cure(re.sub(r"^\[Errno \d+\] ", "", raised["message"]))
    return None


def _with_cure(message: str) -> str:
    for number, cure in _CURES.items():
        if message.startswith(os.strerror(number)):
            return f"{message}; {cure}"
    return message
