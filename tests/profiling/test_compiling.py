"""Kernels that different processes compiled into one cache keep to themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = """
import numpy as np
from profiling.compiling import njit

@njit(cache=True)
def sort_in_place(values):
    values.sort()

@njit(cache=True)
def order(values):
    return np.argsort(values)
"""


@pytest.mark.slow
def test_kernels_of_two_processes_do_not_mix_in_a_third(tmp_path: Path) -> None:
    """Without counters of their own, `order` sorts its argument here: the first loaded wins."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    values = "values = np.array([3, 1, 2]);"
    run(tmp_path, values + "sort_in_place(values)")
    run(tmp_path, values + "order(values)")
    both = "more = np.array([9, 8]); sort_in_place(more); found = order(values);"
    printed = run(tmp_path, values + both + "print(values.tolist(), found.tolist())")
    assert printed == "[3, 1, 2] [1, 2, 0]\n"


@pytest.mark.slow
def test_a_kernel_whose_arguments_class_has_moved_is_compiled_anew(tmp_path: Path) -> None:
    pair = "from typing import NamedTuple\nclass Pair(NamedTuple):\n    a: int\n    b: int\n"
    kernel = (
        "from profiling.compiling import njit\n"
        "@njit(cache=True)\ndef add(pair):\n    return pair.a + pair.b\n"
    )
    (tmp_path / "kernels.py").write_text(kernel)
    for place in ("before", "after"):
        (tmp_path / f"{place}.py").write_text(pair)
        code = f"from {place} import Pair; print(add(Pair(1, 2)))"
        assert run(tmp_path, code) == "3\n"
        (tmp_path / f"{place}.py").unlink()


def test_numba_is_imported_by_the_first_kernel_that_is_called(tmp_path: Path) -> None:
    kernels = """
from profiling.compiling import njit

@njit(cache=True)
def square(x):
    return x * x

@njit(cache=True)
def sum_of_squares(x, y):
    return square(x) + square(y)
"""
    (tmp_path / "kernels.py").write_text(kernels)
    code = """
import pickle, sys
print("numba" in sys.modules, pickle.loads(pickle.dumps(square)) is square)
print(sum_of_squares(3, 4), "numba" in sys.modules, square.py_func(5))
"""
    assert run(tmp_path, code) == "False True\n25 True 25\n"


def run(folder: Path, code: str) -> str:
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": path}
    command = [sys.executable, "-c", f"from kernels import *; {code}"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
