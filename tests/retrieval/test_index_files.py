"""A saved index is the same index, or refused with the cure."""

import json

import numpy as np
import pytest

from retrieval.index.exact import ExactIndex, Lists
from retrieval.index.files import open_index, save_index
from retrieval.index.planner import IndexConfig, build_index
from tests.retrieval.test_index import assert_same, random_searches, random_world


@pytest.fixture(scope="module")
def items():
    return random_world(n=300)


def carried(items):
    return Lists(items.topic_offsets, items.topic_ids)


def saved(folder, items, kind="exact"):
    index = build_index(ExactIndex.over(items), IndexConfig(kind=kind))
    save_index(folder, index, "model-7")
    return index


def opened(folder, items, width=16, source="model-7"):
    return open_index(folder, items.ids, carried(items), width=width, source=source)


@pytest.mark.parametrize("kind", ["exact", "planned", "ivf"])
def test_opened_it_finds_the_same(tmp_path, items, kind):
    if kind != "exact":
        pytest.importorskip("faiss")
    index = saved(tmp_path / "index", items, kind)
    again = opened(tmp_path / "index", items)
    assert type(again) is type(index)
    searches = random_searches(items, n=80, most_excluded=100)
    assert_same(again.search(searches, 20), index.search(searches, 20))


def test_an_empty_catalogue_is_saved_and_opened(tmp_path):
    items = random_world(n=0)
    saved(tmp_path / "index", items)
    assert len(opened(tmp_path / "index", items).ids) == 0


def test_for_something_else_it_is_refused(tmp_path, items):
    folder = tmp_path / "index"
    saved(folder, items)
    with pytest.raises(ValueError, match="index of width 16, wanted 32: build it again"):
        opened(folder, items, width=32)
    with pytest.raises(ValueError, match="index of vectors 'model-7', wanted 'model-8'"):
        opened(folder, items, source="model-8")
    with pytest.raises(ValueError, match="index of catalogue"):
        opened(folder, random_world(n=300, seed=1))


def test_damaged_it_is_refused(tmp_path, items):
    folder = tmp_path / "index"
    saved(folder, items)
    path = folder / "vectors.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"vectors\.npy has \d+ bytes, \d+ were written"):
        opened(folder, items)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="other content than was written"):
        opened(folder, items)
    path.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        opened(folder, items)


def test_foreign_or_unfinished_it_is_refused(tmp_path, items):
    with pytest.raises(ValueError, match=r"holds no index\.json: no finished index"):
        opened(tmp_path, items)
    about = tmp_path / "index.json"
    about.write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        opened(tmp_path, items)
    for foreign in ([1], {"format": "queryloop.index/99"}):
        about.write_text(json.dumps(foreign))
        with pytest.raises(ValueError, match="is no index of format"):
            opened(tmp_path, items)


def test_it_never_overwrites_and_saves_no_strangers(tmp_path, items):
    saved(tmp_path / "index", items)
    with pytest.raises(FileExistsError):
        saved(tmp_path / "index", items)
    with pytest.raises(TypeError, match="object has no file format"):
        save_index(tmp_path / "other", object(), "model-7")
    np.testing.assert_array_equal(opened(tmp_path / "index", items).vectors, items.vectors)
