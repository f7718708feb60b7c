"""Kernels compiled by several processes and kept in one cache must not share names inside.

numba tells inner functions of one name and type apart by a counter that begins at 1 in every
process (numba issue 10486). So a cached kernel that sorts in place and one that only asks for the
order, compiled by two processes, may both hold `run_quicksort1` number 25; a third process that
loads both runs one of them for both, without a word. Seen: PROFILES with permuted members. Here
every process counts from a place of its own; what is computed does not depend on it.
"""

from __future__ import annotations

import itertools
import os
import secrets

from numba.core.bytecode import FunctionIdentity


def count_from_elsewhere() -> None:
    """Let numba's counter go on from a random number, which no other process will come near."""
    if not hasattr(FunctionIdentity, "_unique_ids"):
        raise ImportError(
            "this numba names compiled functions in another way than versions 0.62 to 0.68; "
            "install one of those"
        )
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(96))


count_from_elsewhere()
os.register_at_fork(after_in_child=count_from_elsewhere)
