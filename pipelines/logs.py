"""What a scheduler reads on standard error: plain lines, or one JSON object a line.

    {"time": "2026-03-05T02:11:45.123Z", "level": "info", "event": "step", "command": "night",
     "night": "2026-03-04", "step": "build_profiles", "rows_in": 11, "rows": 7, "seconds": 1.5}

`time`, `level`, `event` and `command` are in every line; `message` where there are words for
people. What other libraries log, and Python's warnings, come as events `log` and `warning`.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

FORMATS = ("text", "json")
_LOGGER = logging.getLogger("queryloop")


def tell(
    event: str,
    message: str = "",
    about: Mapping[str, Any] = MappingProxyType({}),
    *,
    level: int = logging.INFO,
    exc_info: bool = False,
) -> None:
    """Log an event.

    Args:
        event: What happened, one word.
        message: For people; without words the event is in JSON alone.
        about: What belongs to it, plain values.
        level: As of `logging`.
        exc_info: Whether the traceback of the error that is being handled goes with it.
    """
    _LOGGER.log(level, message, exc_info=exc_info, extra={"event": event, "about": about})


def shows_bars() -> bool:
    """Whether standard error is a terminal with somebody before it."""
    return sys.stderr.isatty() and not any(
        isinstance(h.formatter, JsonLines) for h in logging.getLogger().handlers
    )


class JsonLines(logging.Formatter):
    """A record as one line of JSON.

    Attributes:
        about: What is in every line; the command line fills it in as it learns it.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.about = about

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        other = "warning" if record.name == "py.warnings" else "log"
        line = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", other),
            **self.about,
            **getattr(record, "about", {} if record.name == "queryloop" else {"of": record.name}),
        }
        if message := record.getMessage().strip():
            line["message"] = message
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Words(logging.Formatter):
    """A record as people read it."""

    def format(self, record: logging.LogRecord) -> str:
        trace = f"{self.formatException(record.exc_info)}\n" if record.exc_info else ""
        return f"{trace}queryloop: {record.getMessage()}"


@contextmanager
def logging_to_stderr(format: str, about: Mapping[str, Any]) -> Iterator[None]:
    """Log what is told in the block, and with `json` what anybody logs, to standard error.

    Args:
        format: text or json.
        about: See `JsonLines`.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_json, level = format == "json", _LOGGER.level
    listens = logging.getLogger() if as_json else _LOGGER
    if as_json:
        handler.setFormatter(JsonLines(about))
    else:
        handler.setFormatter(_Words())
        handler.addFilter(lambda record: bool(record.getMessage()))
    listens.addHandler(handler)
    logging.captureWarnings(as_json)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = as_json
    try:
        yield
    finally:
        listens.removeHandler(handler)
        logging.captureWarnings(False)
        _LOGGER.setLevel(level)
        _LOGGER.propagate = True
