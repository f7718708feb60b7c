"""How far a job is: Beam counters on any runner, and a live bar where the job runs in-process.

Where standard error is no terminal, or the log is JSON, a bar becomes a line of the log every
`EVERY` seconds: what is over sooner says nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from pipelines.logs import shows_bars, tell

if TYPE_CHECKING:
    from retrieval.training.train import Progress as Training

EVERY = 10.0  # seconds between lines
_DONE: Counter[str] = Counter()  # buckets through each step, in this process


def step_done(step: str, rows_in: int, rows_out: int) -> None:
    """Note that one bucket went through `step`."""
    from apache_beam.metrics import Metrics  # a second to import: bars do without it

    Metrics.counter("queryloop", f"{step} rows in").inc(rows_in)
    Metrics.counter("queryloop", f"{step} rows out").inc(rows_out)
    _DONE[step] += 1


@contextmanager
def progress_bars(title: str, steps: tuple[str, ...], total: int, *, show: bool) -> Iterator[None]:
    """A bar a step while the block runs, on stderr; elsewhere a line every `EVERY` seconds."""
    _DONE.clear()
    if not show:
        yield
        return
    if not shows_bars():
        began = time.perf_counter()

        def line() -> None:
            seconds, done = time.perf_counter() - began, {step: _DONE[step] for step in steps}
            of = ", ".join(f"{step} {n} of {total}" for step, n in done.items())
            tell("progress", f"{title} {of}, {seconds:.0f} s", {"of": total, **done})

        with _ticking(line, EVERY):
            yield
        return
    with _bars(TextColumn("{task.description:<56}"), BarColumn(), MofNCompleteColumn()) as bars:
        tasks = {step: bars.add_task(f"{title} {step}", total=total) for step in steps}

        def update() -> None:
            for step, task in tasks.items():
                bars.update(task, completed=_DONE[step])

        with _ticking(update, 0.1):
            yield


@contextmanager
def counting_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many are done, of how many."""
    if not shows_bars():
        due = _Due()

        def line(done: int, of: int) -> None:
            if due():
                tell(
                    "progress",
                    f"{title} {done:,} of {of:,}",
                    {"what": title, "done": done, "of": of},
                )

        yield line
        return
    with _bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


@contextmanager
def told(*, show: bool = True) -> Iterator[Callable[[str], None]]:
    """Say what is being done: the function given takes each new text."""
    if not show:
        yield lambda text: None
        return
    if not shows_bars():
        due = _Due()
        yield lambda text: tell("progress", text) if due() else None
        return
    with _bars(SpinnerColumn(), TextColumn("{task.description}")) as bars:
        task = bars.add_task("", total=None)
        yield lambda text: bars.update(task, description=text)


@contextmanager
def training_bar() -> Iterator[Callable[[Training], None]]:
    """A bar with the loss and the newest recall; on no terminal, a line whenever recall is new."""
    recall = "?"

    def said(now: Training) -> str:
        nonlocal recall
        if now.recall == now.recall:  # nan between epochs
            recall = f"{now.recall:.3f}"
        return f"epoch {now.epoch + 1}, loss {now.loss:.3f}, recall at 100 {recall}"

    if not shows_bars():

        def line(now: Training) -> None:
            text = said(now)
            if now.recall == now.recall or now.step == now.steps:
                text += f", step {now.step} of {now.steps}, {now.seconds:.0f} s"
                tell("progress", text, {"loss": now.loss, "done": now.step, "of": now.steps})

        yield line
        return
    columns = (TextColumn("{task.description:<56}"), BarColumn(), MofNCompleteColumn())
    with _bars(*columns, transient=False) as bars:
        task = bars.add_task("training", total=None)

        def show(now: Training) -> None:
            bars.update(task, description=said(now), completed=now.step, total=now.steps)

        yield show


def _bars(*columns: ProgressColumn, transient: bool = True) -> Progress:
    console = Console(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=transient)


class _Due:
    """True `EVERY` seconds, and not before."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def __call__(self) -> bool:
        now = time.perf_counter()
        if now - self._last < EVERY:
            return False
        self._last = now
        return True


@contextmanager
def _ticking(act: Callable[[], None], every: float) -> Iterator[None]:
    """Act every so many seconds while the block runs, in a thread of its own."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            act()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
