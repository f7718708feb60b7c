"""Policies as the lab's commands are asked about them: a name, with options where wanted."""

from __future__ import annotations

from dataclasses import fields, replace

from pydantic import TypeAdapter, ValidationError

from pipelines.lab.policies import policy_named
from selection.policies import SelectionConfig

LOGGED = "logged"
MEANING = "a policy by name, options after colons: thompson, reward:beta=4:floor=0.1"


def policy_asked(text: str, night: SelectionConfig) -> SelectionConfig | None:
    """The policy that `text` names; None for the log's own.

    Args:
        text: `logged`, or a name of `lab policies` with `:option=value` after it.
        night: The log's selection: an option that neither the text nor the name sets is as there.

    Raises:
        ValueError: The name or an option is unknown, or a value out of its range.
    """
    name, *options = text.split(":")
    if name == LOGGED:
        if options:
            raise ValueError(f"{text!r}: the log's own policy takes no options")
        return None
    named, default = policy_named(name).selection, SelectionConfig()
    if named.policy == night.policy and named.floor == default.floor:
        named = replace(named, beta=night.beta)
    own = {
        f.name: getattr(named, f.name)
        for f in fields(named)
        if getattr(named, f.name) != getattr(default, f.name) or f.name == "policy"
    }
    return replace(night, **(own | dict(_option(option, text, night) for option in options)))


def _option(option: str, text: str, night: SelectionConfig) -> tuple[str, object]:
    name, equals, value = option.partition("=")
    known = {f.name: type(getattr(night, f.name)) for f in fields(night) if f.name != "policy"}
    if not equals or name not in known:
        raise ValueError(
            f"{text!r}: {option!r} is no option; write name=value, of {', '.join(known)}"
        )
    try:
        return name, TypeAdapter(known[name]).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{text!r}: {name}: {problem}, got {value!r}") from None
