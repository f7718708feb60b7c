"""Where `queryloop` begins: what holds for every command, and how one ends."""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any, Literal

import typer

from pipelines.commands import COMMANDS, LazyGroup, collect_rarely
from pipelines.failures import (
    FAULT,
    INTERRUPTED,
    REFUSED,
    failure_message,
    quiet_beam,
    was_interrupted,
)
from pipelines.logs import logging_to_stderr, tell


class CommandGroup(LazyGroup):
    """All commands; a failure that the user can mend ends with its message alone."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.hold(COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called, and log how it ended."""
        started, code = time.perf_counter(), 0
        ctx.obj = {"command": ""}
        with logging_to_stderr(ctx.params["log_format"], ctx.obj):
            try:
                return super().invoke(ctx)
            except typer.Exit as ended:
                code = ended.exit_code
                raise
            except (Exception, KeyboardInterrupt) as error:
                code = _ended(error, ctx.params)
                raise typer.Exit(code) from None
            finally:
                seconds = round(time.perf_counter() - started, 3)
                tell("finished", about={"exit_code": code, "seconds": seconds})


def _ended(error: Exception | KeyboardInterrupt, asked: dict[str, Any]) -> int:
    """Tell why a command failed; its exit code."""
    if was_interrupted(error):
        cure = "finished jobs stay, run it again to go on from them"
        tell("interrupted", f"interrupted; {cure}", level=logging.ERROR)
        return INTERRUPTED
    assert isinstance(error, Exception)
    if isinstance(error, typer.Abort) or hasattr(error, "format_message"):  # how to type it
        if asked["log_format"] == "text":
            raise error
        tell("usage", getattr(error, "format_message", lambda: "aborted")(), level=logging.ERROR)
        return int(getattr(error, "exit_code", 1))
    message = failure_message(error)
    fault = message is None
    tell(
        "fault" if fault else "failed",
        message or f"{type(error).__name__}: {error}; a fault of ours, please report it",
        level=logging.ERROR,
        exc_info=fault or asked["debug"],
    )
    return FAULT if fault else REFUSED


def queryloop(
    debug: Annotated[
        bool, typer.Option("--debug", help="show tracebacks, and what Beam's runner logs")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(
            envvar="QUERYLOOP_LOG_FORMAT",
            help="of standard error; json: one object a line, for a scheduler",
        ),
    ] = "text",
) -> None:
    """What holds for every command."""
    quiet_beam(not debug)


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decides which of a user's interests query the candidate generator tonight, "
    "and learns from what came of it.",
)
app.callback()(queryloop)


def main() -> None:
    """Run the command line."""
    collect_rarely()
    app(prog_name="queryloop")
