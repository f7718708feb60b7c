"""YAML that a user writes becomes a frozen dataclass of options, and back.

Unknown keys, keys given twice and values out of range are refused with file, line, value and cure.
Nothing here knows a warehouse or Beam: it runs at request time too.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration file that cannot be used; the message names file, line, value and cure."""


Locate = Callable[[str], str]


def load_options(type_: type[T], text: str, where: str) -> tuple[T, Locate]:
    """The options in YAML `text`, and a function from `a.b.0.c` to `file:line: a.b.0.c`.

    Args:
        type_: A frozen dataclass of options.
        text: YAML.
        where: The file's name, for errors.

    Raises:
        ConfigError: With one line a problem.
    """
    node = None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-02-31
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else _unreadable(node)
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where}:{line}: is no YAML: {problem}; correct it") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}:1: must be `option: value` lines, got {raw!r}")
    problems = [
        f"{where}:{line}: {'.'.join(path)} is given twice; keep one"
        for path, line in _twice(node, ())
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        found = TypeAdapter(type_).validate_python(raw)
    except ValidationError as error:
        lines = [_problem(e, node, where) for e in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error

    def locate(path: str) -> str:
        return f"{where}:{_line(node, path.split('.'))}: {path}"

    return found, locate


def render_options(config: Any) -> str:
    """YAML that holds every option of a dataclass, its value and what it means."""
    return "\n".join(_render(config, 0)) + "\n"


def _problem(error: Any, node: yaml.Node | None, where: str) -> str:
    path = [str(p) for p in error["loc"]]
    message, value = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        message = "no such option; a file made by `queryloop init` has them all"
    if error["type"] == "value_error":  # of a whole section; the message begins with the option
        path += message.split(" ")[0].split(".")
        message = message.partition(" ")[2]
    shown = "" if isinstance(value, dict | list) else f", got {value!r}"
    return f"{where}:{_line(node, path)}: {'.'.join(path)}: {message}{shown}"


def _line(node: yaml.Node | None, path: list[str]) -> int:
    """The line of the deepest node on `path`."""
    line = 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == step]
            if not found:
                return line
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and step.isdigit():
            node = node.value[int(step)]
            line = node.start_mark.line + 1
    return line


def _unreadable(node: yaml.Node | None) -> int:
    """The line of the first scalar that looks like a date and is none."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.safe_load(node.value)
        except ValueError:
            return int(node.start_mark.line) + 1
        except yaml.YAMLError:
            pass
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            if line := _unreadable(part):
                return line
    return 0


def _twice(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Keys that a mapping has twice: PyYAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*path, key.value), key.start_mark.line + 1
            seen.add(key.value)
            yield from _twice(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _twice(value, (*path, str(i)))


def _render(config: Any, depth: int) -> list[str]:
    pad, lines = "  " * depth, []
    for f in fields(config):
        value = getattr(config, f.name)
        doc = f.metadata.get("doc", "")
        if "file" in f.metadata:
            continue
        if is_dataclass(value):
            title = (type(value).__doc__ or "").strip().split("\n")[0]
            lines += ["", f"{pad}# {title}", f"{pad}{f.name}:", *_render(value, depth + 1)]
            continue
        if choices := f.metadata.get("choices"):
            doc += f" (one of {', '.join(choices)})"
        lines += [f"{pad}# {line}" for line in textwrap.wrap(doc, 96 - len(pad))]
        lines += _render_value(f.name, value, pad)
    return lines


def _render_value(name: str, value: Any, pad: str) -> list[str]:
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        rows = [json.dumps(_plain(v)) for v in value]
        return [f"{pad}{name}:", *[f"{pad}  - {row}" for row in rows]]
    if isinstance(value, tuple):
        value = list(value)
    return [f"{pad}{name}: {json.dumps(value)}"]


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as a dict, defaults left out but for the first two fields."""
    kept = {}
    for i, f in enumerate(fields(value)):
        v = getattr(value, f.name)
        if i < 2 or f.default is MISSING or v != f.default:
            kept[f.name] = _plain(v) if is_dataclass(v) else v
    return kept
