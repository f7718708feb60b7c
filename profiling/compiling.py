"""Kernels: compiled by numba when they are first called, and kept in a cache.

Numba takes a quarter of a second to import, and most commands call no kernel. So every kernel takes
its `njit` from here, and numba is imported by the first one that is called.

Kernels compiled by several processes and kept in one cache must not share names inside. Numba tells
inner functions of one name and type apart by a counter that begins at 1 in every process (numba
issue 10486). So a cached kernel that sorts in place and one that only asks for the order, compiled
by two processes, may both hold `run_quicksort1` number 25; a third process that loads both runs one
of them for both, without a word. Seen: PROFILES with permuted members. Here every process counts
from a place of its own; what is computed does not depend on it.

A cache outlives the code that filled it. Its index names the classes that a kernel's arguments
have, and numba reads it before it asks whether the source has changed: a class that has moved since
ends in an import error. Such an index is as good as none.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["njit"]

_LOCK = threading.RLock()


def njit(**options: Any) -> Any:
    """`numba.njit` with its options, as a decorator."""

    def kernel(function: Callable[..., Any]) -> Any:
        return Kernel(function, options)

    return kernel


class Kernel:
    """A function that is compiled when it is first called, by itself or by another kernel."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._options = function, options
        self._compiled: Any = None

    def __call__(self, *args: Any) -> Any:
        return (self._compiled or self._dispatcher())(*args)

    def __getattr__(self, name: str) -> Any:
        """All else that a compiled function has: its statistics, its plain function."""
        return getattr(self._dispatcher(), name)

    def __reduce__(self) -> str:
        """It travels by its name, as functions do."""
        return str(self.__qualname__)

    @property
    def _numba_type_(self) -> Any:
        """How numba asks for the type of a value: in another kernel it is what it compiles to."""
        return self._dispatcher()._numba_type_

    def _dispatcher(self) -> Any:
        with _LOCK:
            if self._compiled is None:
                self._compiled = _prepared_numba().njit(**self._options)(self._function)
        return self._compiled


@functools.cache
def _prepared_numba() -> Any:
    import numba

    count_from_elsewhere()
    skip_stale_indexes()
    os.register_at_fork(after_in_child=count_from_elsewhere)
    return numba


def count_from_elsewhere() -> None:
    """Let numba's counter go on from a random number, which no other process will come near."""
    from numba.core.bytecode import FunctionIdentity

    if not hasattr(FunctionIdentity, "_unique_ids"):
        raise ImportError(
            "this numba names compiled functions in another way than versions 0.62 to 0.68; "
            "install one of those"
        )
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(96))


def skip_stale_indexes() -> None:
    """Compile anew where a cache was filled by code whose classes lay elsewhere."""
    from numba.core.caching import IndexDataCacheFile

    load = IndexDataCacheFile._load_index

    def load_index(self: Any) -> Any:
        try:
            return load(self)
        except (ImportError, AttributeError):
            return {}

    IndexDataCacheFile._load_index = load_index
