"""What a demo can be told; light, so that the command line knows it without the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiling.options import check_options, option


@dataclass(frozen=True)
class DemoOptions:
    """A demo."""

    users: int = option(2000, "users of the simulated world", low=20, high=100_000)
    nights: int = option(8, "days that are served, each followed by its night", low=1, high=60)
    seed: int = option(1, "of the world and of every draw", low=0)
    mismatch: float = option(
        0.5, "how far tastes differ from past engagements, 0 to 1", low=0.0, high=1.0
    )

    out: Path = option(Path("demo"), "folder for the warehouse and the report")
    model: bool = option(
        False,  # compiling its training takes the first run past a minute
        "whether a model retrieves from the second day on, where it can be trained",
    )

    def __post_init__(self) -> None:
        check_options(self)
