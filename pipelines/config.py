"""The configuration a user writes (queryloop.yaml) becomes one frozen `NightConfig`.

Every option is a field of the dataclass of the file that uses it; here they are only gathered.
Unknown keys, keys given twice and values out of range are refused with file, line, value and cure.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from profiling.actions import DEFAULT_ACTIONS, Actions, check_actions
from profiling.decay import HOUR_US
from profiling.history import ProfileConfig
from profiling.options import FORBID_UNKNOWN, check_options, option
from retrieval.candidates import RetrievalConfig
from retrieval.feed import FeedConfig
from retrieval.histories import HistoryConfig
from retrieval.learning import TrainingConfig
from retrieval.planner import IndexConfig
from retrieval.towers import ModelConfig
from selection.experiments import Arm, Experiment, selections_of
from selection.outcomes import OutcomeConfig
from selection.prior import PriorConfig
from selection.queries import SelectionConfig
from selection.rewards import RewardConfig


@dataclass(frozen=True)
class NightConfig:
    """Everything that decides what a night does."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    actions: Actions = option(
        DEFAULT_ACTIONS, "what users do; append to the list, never reorder it: places are stored"
    )
    surfaces: tuple[str, ...] = option(("home",), "where queries are drawn for")
    seed: int = option(0, "of every draw", low=0)
    draw_days: int = option(7, "days after its night in which a draw may be shown", low=1)
    serve_active_days: int = option(
        28, "queries and feeds are made for users with a positive engagement this recently", low=1
    )
    rejected_share: float = option(
        0.05, "share of refused rows above which an import or a night stops", low=0.0, high=1.0
    )
    rejected_rows: int = option(1000, "refused rows that never stop anything", low=0)
    profiles: ProfileConfig = field(default_factory=ProfileConfig)
    outcomes: OutcomeConfig = field(default_factory=OutcomeConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    experiment: Experiment | None = option(
        None,
        "arms: each with a selection, which then replaces the one above, and retrieval options",
    )
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    histories: HistoryConfig = field(default_factory=HistoryConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    feed: FeedConfig = field(default_factory=FeedConfig)

    def __post_init__(self) -> None:
        check_options(self)
        check_actions(self.actions)
        if not self.surfaces:
            raise ValueError("surfaces must name at least one surface, got none")
        _ = self.retrievals  # an arm's options are checked here, where they are known

    @property
    def horizon_us(self) -> int:
        """Window and lateness, microseconds: how long an event may still change something."""
        hours = self.outcomes.window_hours + self.outcomes.lateness_hours
        return round(hours * HOUR_US)

    @property
    def selections(self) -> dict[str, SelectionConfig]:
        """The selection of every arm; '' without an experiment."""
        if self.experiment is None:
            return {"": self.selection}
        return selections_of(self.experiment)

    @property
    def retrievals(self) -> dict[str, RetrievalConfig]:
        """The retrieval of every arm; '' without an experiment."""
        if self.experiment is None:
            return {"": self.retrieval}
        return {a.name: _overridden(self.retrieval, a) for a in self.experiment.arms}

    @property
    def draw_salt(self) -> str:
        """What draws are dealt by beside the seed: the experiment's salt, '' without one."""
        return "" if self.experiment is None else self.experiment.salt or self.experiment.name

    @property
    def digest(self) -> str:
        """Of all options, hex."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _overridden(config: RetrievalConfig, arm: Arm) -> RetrievalConfig:
    """`config` with the options that `arm` has otherwise."""
    try:
        options = asdict(config) | dict(arm.retrieval)
        return TypeAdapter(RetrievalConfig).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(["retrieval", *(str(p) for p in first["loc"])])
        problem = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"experiment: arm {arm.name!r}: {path}: {problem}") from error


class ConfigError(ValueError):
    """A configuration file that cannot be used; the message names file, line, value and cure."""


def load_config(text: str, where: str) -> NightConfig:
    """The configuration in YAML `text`; `where` is the file's name, for errors.

    Raises:
        ConfigError: With one line a problem.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where} is no YAML: {problem}; correct it") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: must be `option: value` lines, got {raw!r}")
    problems = [
        f"{where}:{line}: {'.'.join(path)} is given twice; keep one"
        for path, line in _twice(node, ())
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        return TypeAdapter(NightConfig).validate_python(raw)
    except ValidationError as error:
        lines = [_problem(e, node, where) for e in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def render_config(config: NightConfig) -> str:
    """YAML that holds every option, its value and what it means; `load_config` reads it back."""
    head = (
        "# Queryloop's configuration: every option with its default.\n"
        "# A night records what it ran with; a changed option holds from the next night on.\n"
    )
    return head + "\n".join(_render(config, 0)) + "\n"


def _problem(error: Any, node: yaml.Node | None, where: str) -> str:
    path = [str(p) for p in error["loc"]]
    message, value = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        message = "no such option; a file made by `queryloop init` has them all"
    if error["type"] == "value_error":  # of a whole section; the message begins with the option
        path.append(message.split(" ")[0])
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
