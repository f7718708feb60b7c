"""The configuration a user writes (queryloop.yaml) becomes one frozen `NightConfig`.

Every option is a field of the dataclass of the file that uses it; here they are only gathered.
Soft spacing has a file of its own, spacing.yaml beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from pipelines.health.alarms import HealthConfig
from pipelines.operate.anomalies import ValidationConfig
from pipelines.store.manifests import Manifest
from pipelines.yaml_options import ConfigError, load_options, render_options
from profiling.actions import DEFAULT_ACTIONS, Actions, check_actions
from profiling.history import ProfileConfig
from profiling.options import FORBID_UNKNOWN, check_options, option
from retrieval.candidates import RetrievalConfig
from retrieval.feed import FeedConfig
from retrieval.histories import HistoryConfig
from retrieval.index.planner import IndexConfig
from retrieval.model.towers import ModelConfig
from retrieval.spacing.classes import Spacing
from retrieval.training.learning import TrainingConfig
from selection.evidence import EvidenceConfig
from selection.experiments import Arm, Experiment, selections_of
from selection.outcomes import OutcomeConfig
from selection.prior import PriorConfig
from selection.queries import SelectionConfig
from selection.rewards import RewardConfig

_BESIDE = ("health", "retention", "validation")  # options that change no row


@dataclass(frozen=True)
class RetentionConfig:
    """What `queryloop gc` leaves; nothing is ever deleted without it."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    nights: int = option(35, "newest nights that stay whole", low=1)
    ope_nights: int = option(
        28,
        "nights whose PROFILES, CLUSTER_REWARDS, OUTCOMES and QUERIES stay for the lab to evaluate "
        "a policy on",
        low=0,
    )

    def __post_init__(self) -> None:
        check_options(self)


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
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
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
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    spacing: Spacing = field(default_factory=Spacing, metadata={"file": "spacing.yaml"})

    def __post_init__(self) -> None:
        check_options(self)
        check_actions(self.actions)
        if not self.surfaces:
            raise ValueError("surfaces must name at least one surface, got none")
        _ = self.retrievals  # an arm's options are checked here, where they are known

    @property
    def horizon_us(self) -> int:
        """How long an event may still change something, microseconds."""
        return self.outcomes.horizon_us

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
        """Of all options that change a row, hex."""
        options = {name: value for name, value in asdict(self).items() if name not in _BESIDE}
        text = json.dumps(options, sort_keys=True, default=str)
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


def load_config(text: str, where: str) -> NightConfig:
    """The configuration in YAML `text`; `where` is the file's name, for errors.

    Raises:
        ConfigError: With one line a problem.
    """
    return load_options(NightConfig, text, where)[0]


def config_from_manifest(manifest: Manifest) -> NightConfig:
    """The configuration that a night ran with."""
    raw = dict(manifest.config)
    try:  # what a night wrote is whole; the YAML reader would take a third of a second to find so
        return _adapter().validate_python(raw)
    except ValidationError:
        return load_config(json.dumps(raw), f"manifest {manifest.number}")


@cache
def _adapter() -> TypeAdapter[NightConfig]:
    return TypeAdapter(NightConfig)


def render_config(config: NightConfig) -> str:
    """YAML that holds every option, its value and what it means; `load_config` reads it back.

    What has a file of its own is left out.
    """
    head = (
        "# Queryloop's configuration: every option with its default.\n"
        "# A night records what it ran with; a changed option holds from the next night on.\n"
        "# In brackets stands where a value comes from; (ours): chosen here, no source has it.\n"
    )
    return head + render_options(config)


__all__ = ["ConfigError", "NightConfig", "config_from_manifest", "load_config", "render_config"]
