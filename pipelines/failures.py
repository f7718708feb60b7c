"""What a command says when it fails: one message with its cure; with --debug all of it."""

from __future__ import annotations

import errno
import logging
import os
import re

# Exit codes; 1 is a command that ran and says no.
REFUSED = 2
FAULT = 70
INTERRUPTED = 130
# What a user can mend; anything else is a fault of ours and ends in its traceback.
_MENDABLE = (ValueError, OSError)
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


def quiet_beam(quiet: bool) -> None:
    """Whether runners keep the tracebacks that they log, and how they end, to themselves."""
    for name in ("apache_beam.runners", "apache_beam.utils.subprocess_server"):
        logging.getLogger(name).setLevel(logging.CRITICAL if quiet else logging.NOTSET)


def was_interrupted(error: BaseException) -> bool:
    """Whether somebody asked to stop; Beam and DuckDB raise that as they do any other error."""
    asked = re.search(r"^(KeyboardInterrupt\b|Query interrupted$)", str(error), re.MULTILINE)
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, RuntimeError) and bool(asked))


def failure_message(error: Exception) -> str | None:
    """What to tell the user; None where it is a fault of ours.

    Beam raises what a worker raised as it is, as a RuntimeError with its name and message, or as
    one with its whole traceback, depending on the error and the runner.
    """
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return place + _with_cure(error.strerror)
    from pipelines.store.warehouse import PublishConflict  # Arrow takes a moment to import

    if isinstance(error, (*_MENDABLE, PublishConflict)):
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
