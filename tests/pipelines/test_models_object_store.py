"""Models on S3: trained, checked, copied once a machine, refused where the copy is not whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems

import pipelines.store.object_stores as object_stores
import retrieval.training.train
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.models import models
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.operate.fingerprint import fingerprint
from pipelines.store.folders import check_folder, open_folder
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from pipelines.training import TrainOptions, train_models
from tests.pipelines.s3_server import Server
from tests.pipelines.small_models import untrained
from tests.pipelines.small_world import day, engagements_table, items_table
from tests.pipelines.test_object_store import BUCKET, KEYS

QUIET = RunOptions(progress=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[Server]:
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        settings = {"AWS_ENDPOINT_URL": server.url, "XDG_CACHE_HOME": str(cache)}
        for name, value in (KEYS | settings).items():
            patch.setenv(name, value)
        patch.setattr(retrieval.training.train, "train", lambda inputs, *a, **o: _read(inputs))
        object_stores._connect.cache_clear()
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        yield server
    object_stores._connect.cache_clear()
    FileSystems.set_options(None)
    server.stop()


def _read(inputs: Any) -> Any:
    """A training that reads its pairs and learns nothing."""
    assert sum(chunk.pairs.num_rows for chunk in inputs.source) > 20
    return untrained()


def run(root: str) -> tuple[Warehouse, Manifest]:
    """Two nights, a model between them."""
    warehouse = Warehouse.create(root, render_config(NightConfig()), buckets=2)
    land(warehouse, {"ITEMS": items_table(), "ENGAGEMENTS": engagements_table(0, 1)}, source="log")
    run_night(warehouse, day(0), QUIET)
    train_models(warehouse, day(0), NightConfig(), TrainOptions())
    return warehouse, run_night(warehouse, day(1), QUIET)


@pytest.fixture(scope="module")
def remote(server: Server) -> tuple[Warehouse, Manifest]:
    return run(f"{BUCKET}/models")


def test_a_model_on_s3_gives_the_same_rows_as_on_a_disk(
    remote: tuple[Warehouse, Manifest], tmp_path: Path
) -> None:
    assert remote[1].model == "1"
    assert fingerprint(*remote) == fingerprint(*run(str(tmp_path / "w")))


def test_its_files_are_fetched_once_a_machine(
    remote: tuple[Warehouse, Manifest], server: Server, cache: Path
) -> None:
    warehouse, _ = remote
    (record,) = models(warehouse.root)
    place = open_folder(warehouse.root, record.folder)
    assert place == cache / "queryloop" / record.folder.digest
    assert {p.name for p in place.iterdir()} == {f.name for f in record.folder.files}
    sent = server.sent
    assert open_folder(warehouse.root, record.folder) == place
    assert server.sent == sent
    assert not [p for p in place.parent.iterdir() if p.name.startswith((".", "train-"))]


def test_a_copy_that_is_not_whole_is_refused(
    remote: tuple[Warehouse, Manifest], cache: Path
) -> None:
    warehouse, _ = remote
    (record,) = models(warehouse.root)
    first = record.folder.files[0]
    wrong = dataclasses.replace(first, digest="0" * 64)
    folder = dataclasses.replace(record.folder, files=(wrong, *record.folder.files[1:]))
    for look in (open_folder, check_folder):
        with pytest.raises(ValueError, match=f"{first.name} is not what was written .* restore"):
            look(warehouse.root, folder)
    assert not (cache / "queryloop" / folder.digest).exists()
    assert not list((cache / "queryloop").glob(".*"))
