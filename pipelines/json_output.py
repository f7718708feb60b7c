"""`--json` of every command: one JSON value in one line, the last of standard output.

Progress, warnings and errors are on standard error; a command that fails prints no JSON, its exit
code says how it ended.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON in one line on standard output, instead of text")
]


def print_json(record: Any) -> None:
    """Print dataclasses and what they hold as one line of JSON, at once: a pipe may be read."""
    print(as_json(record), flush=True)


def as_json(record: Any) -> str:
    """The line; days are ISO, a number that is none is null."""
    return json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # of NumPy
        return _plain(value.tolist())
    return str(value) if isinstance(value, dt.date | Path) else repr(value)
