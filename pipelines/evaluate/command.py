"""`queryloop evaluate`: run a study, show it as a table, JSON and pictures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.config_files import config_of
from pipelines.evaluate.learned import Learner
from pipelines.evaluate.material import StudyOptions, gather
from pipelines.evaluate.output import deliver
from pipelines.evaluate.study import run_study
from pipelines.evaluate.trial import TrialOptions, gather_trial, run_trial
from pipelines.progress import told
from pipelines.store.warehouse import Warehouse
from pipelines.training import check_extra


def evaluate_retrieval(
    warehouse: Warehouse,
    options: StudyOptions,
    *,
    learned: bool = True,
    json: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Run the study and print it.

    Args:
        warehouse: Where the nights are.
        options: What is asked.
        learned: Whether models are trained for the learned arms.
        json: Whether it is printed as JSON; progress goes to standard error.
        out: Folder for the report and the JSON; None: neither.

    Raises:
        ValueError: An extra is missing, or there is nothing to evaluate.
    """
    _check_extras(learned=learned)
    config = config_of(warehouse)
    with told() as note:
        note("read the log")
        material = gather(warehouse, config, options)
        with TemporaryDirectory(prefix="queryloop-") as folder:
            train = None
            if learned:
                manifest, users = warehouse.night(options.train_until), material.test.users
                train = Learner(warehouse, manifest, config, users, Path(folder), note).train
            found = run_study(material, options, train, note)
    deliver(found, "retrieval", out, json=json)
    return found


def evaluate_profiles(
    warehouse: Warehouse,
    options: TrialOptions,
    *,
    json: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Put profiles on trial and print how they did.

    Args:
        warehouse: Where the log is; it needs no night.
        options: What is asked.
        json: As in `evaluate_retrieval`.
        out: As in `evaluate_retrieval`.

    Raises:
        ValueError: There is nothing to evaluate.
    """
    with told() as note:
        found = run_trial(gather_trial(warehouse, config_of(warehouse), options, note), note)
    deliver(found, "profiles", out, json=json)
    return found


def _check_extras(*, learned: bool) -> None:
    """Raise ValueError for what is missing now, not after minutes of tuning."""
    if find_spec("implicit") is None:
        raise ValueError("the baselines need implicit; pip install 'queryloop[evaluation]'")
    if learned:
        try:
            check_extra()
        except ValueError as error:
            raise ValueError(f"{error}, or give --no-model") from None
