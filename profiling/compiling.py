"""Kernels compiled by several processes and kept in one cache must not share names inside.

numba tells inner functions of one name and type apart by a counter that begins at 1 in every
process (numba issue 10486). So a cached kernel that sorts in place and one that only asks for the
order, compiled by two processes, may both hold `run_quicksort1` number 25; a third process that
loads both runs one of them for both, without a word. Seen: PROFILES with permuted members. Here
every process counts from a place of its own; what is computed does not depend on it.

A cache outlives the code that filled it. Its index names the classes that a kernel's arguments
have, and numba reads it before it asks whether the source has changed: a class that has moved since
ends in an import error. Such an index is as good as none.

So every kernel takes its `njit` from here; what has no kernel need not wait for numba's import.
"""

from __future__ import annotations

import itertools
import os
import secrets
from typing import Any

from numba import njit
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import IndexDataCacheFile

__all__ = ["njit"]


def count_from_elsewhere() -> None:
    """Let numba's counter go on from a random number, which no other process will come near."""
    if not hasattr(FunctionIdentity, "_unique_ids"):
        raise ImportError(
            "this numba names compiled functions in another way than versions 0.62 to 0.68; "
            "install one of those"
        )
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(96))


def skip_stale_indexes() -> None:
    """Compile anew where a cache was filled by code whose classes lay elsewhere."""
    load = IndexDataCacheFile._load_index

    def load_index(self: IndexDataCacheFile) -> Any:
        try:
            return load(self)
        except (ImportError, AttributeError):
            return {}

    IndexDataCacheFile._load_index = load_index


count_from_elsewhere()
skip_stale_indexes()
os.register_at_fork(after_in_child=count_from_elsewhere)
