"""The next values of an iterator made in a thread, while the last is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_AHEAD = 4
_END = object()


def made_ahead(values: Iterable[T]) -> Iterator[T]:
    """The same values in the same order; what raises in the thread is raised here.

    The thread ends when the caller stops asking.
    """
    waiting: queue.Queue[Any] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(value: Any) -> None:
        while not stop.is_set():
            try:
                return waiting.put(value, timeout=0.1)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for value in values:
                put(value)
                if stop.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(_Raised(error))

    thread = threading.Thread(target=fill, name="made ahead", daemon=True)
    thread.start()
    try:
        while (value := waiting.get()) is not _END:
            if isinstance(value, _Raised):
                raise value.error
            yield value
    finally:
        stop.set()
        thread.join()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
