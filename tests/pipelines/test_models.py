"""Models in the warehouse: what makes one visible, which one a night may use, what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.config import NightConfig, render_config
from pipelines.models import Learners, NoModel, model_for, models
from pipelines.plan import cutoff_of
from pipelines.store.folders import check_folder, open_folder
from pipelines.store.warehouse import Warehouse
from tests.pipelines.small_models import add, untrained
from tests.pipelines.small_world import day


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse.create(str(tmp_path / "w"), render_config(NightConfig()), buckets=1)


def test_a_model_is_read_back_as_it_was_added(warehouse: Warehouse) -> None:
    made = add(warehouse, day(3), learners=Learners("x", "a"))
    assert models(warehouse.root) == [made]
    assert (made.number, made.date, made.cutoff) == (1, day(3), cutoff_of(day(3)))
    check_folder(warehouse.root, made.folder)
    assert {f.name for f in made.folder.files} > {"model.json", "param.item_id.npy"}


def test_models_added_at_once_get_numbers_of_their_own(warehouse: Warehouse) -> None:
    trained = untrained()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: add(warehouse, day(i), trained), range(4)))
    assert sorted(m.number for m in made) == [1, 2, 3, 4]
    assert sorted(models(warehouse.root), key=lambda m: m.date) == made


def test_a_night_uses_the_newest_model_up_to_its_cut_off(warehouse: Warehouse) -> None:
    for i in (2, 4, 3, 3):
        add(warehouse, day(i), untrained())
    records = models(warehouse.root)

    def number(i: int, named: int = 0) -> int:
        return model_for(records, cutoff_of(day(i)), Learners(), named).number

    assert [number(i) for i in (2, 3, 4, 9)] == [1, 4, 2, 2]
    assert number(9, named=3) == 3
    with pytest.raises(NoModel, match=r"from all users up to 2024-03-02 .*train --date 2024-03-02"):
        number(1)


def test_a_model_named_by_the_config_must_fit(warehouse: Warehouse) -> None:
    add(warehouse, day(4), untrained())
    add(warehouse, day(2), untrained(), Learners("x", "a"))
    records, cutoff = models(warehouse.root), cutoff_of(day(3))
    with pytest.raises(ValueError, match="model 1 of 2024-03-05 was trained past the cut-off"):
        model_for(records, cutoff, Learners(), 1)
    with pytest.raises(ValueError, match=r"model 2 .* learned from arm 'a' of experiment 'x'"):
        model_for(records, cutoff, Learners(), 2)
    with pytest.raises(ValueError, match=r"no model 7, only: 1, 2; correct retrieval.model"):
        model_for(records, cutoff, Learners(), 7)
    with pytest.raises(NoModel, match="arm 'b' of experiment 'x'"):
        model_for(records, cutoff, Learners("x", "b"))


def test_damaged_files_are_named(warehouse: Warehouse) -> None:
    made = add(warehouse, day(1))
    path = Path(warehouse.root, made.folder.path, "param.item_id.npy")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    open_folder(warehouse.root, made.folder)  # the driver has looked at the bytes
    with pytest.raises(ValueError, match=r"param.item_id.npy is not what was written .* train"):
        check_folder(warehouse.root, made.folder)
    for broken, problem in ((content[:-9], "bytes, not the"), (None, "is gone")):
        path.unlink() if broken is None else path.write_bytes(broken)
        for look in (check_folder, open_folder):
            with pytest.raises(ValueError, match=f"param.item_id.npy .*{problem}"):
                look(warehouse.root, made.folder)


def test_a_damaged_record_is_named(warehouse: Warehouse) -> None:
    add(warehouse, day(1))
    path = Path(warehouse.root, "models", "000001.json")
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"format": 9}))
    with pytest.raises(ValueError, match=r"000001.json is of warehouse format 9"):
        models(warehouse.root)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"000001.json is damaged"):
        models(warehouse.root)


def test_a_training_that_broke_off_leaves_no_model(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.store.folders.HashingSink.write", full)
    with pytest.raises(OSError, match="No space"):
        add(warehouse, day(1))
    assert models(warehouse.root) == []
