"""A warehouse's configuration as its files stand now: queryloop.yaml and spacing.yaml."""

from __future__ import annotations

from dataclasses import replace

from pipelines.config import ConfigError, NightConfig, load_config
from pipelines.spacing.inputs import spacing_of
from pipelines.store.storage import exists, read_bytes
from pipelines.store.warehouse import Warehouse
from retrieval.spacing.classes import Spacing


def config_of(warehouse: Warehouse) -> NightConfig:
    """The options of the next night.

    Raises:
        ValueError: queryloop.yaml is gone, or an option of either file cannot be used.
    """
    if not exists(warehouse.config_path):
        raise ValueError(
            f"{warehouse.config_path} is gone; restore it, or take the defaults from a new "
            "warehouse of `queryloop init`"
        )
    config = load_config(read_bytes(warehouse.config_path).decode(), warehouse.config_path)
    if config.spacing != Spacing():
        raise ConfigError(f"{warehouse.config_path}: spacing has its own file; move it there")
    return replace(config, spacing=spacing_of(warehouse.root, config.feed.size))
