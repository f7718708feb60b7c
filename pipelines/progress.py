"""How far a job is: Beam counters on any runner, and a live bar where the job runs in-process."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apache_beam.metrics import Metrics
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from retrieval.training.train import Progress as Training

_DONE: Counter[str] = Counter()  # buckets through each step, in this process


def step_done(step: str, rows_in: int, rows_out: int) -> None:
    """Note that one bucket went through `step`."""
    Metrics.counter("queryloop", f"{step} rows in").inc(rows_in)
    Metrics.counter("queryloop", f"{step} rows out").inc(rows_out)
    _DONE[step] += 1


@contextmanager
def progress_bars(title: str, steps: tuple[str, ...], total: int, *, show: bool) -> Iterator[None]:
    """A bar a step while the block runs, on stderr; nothing where that is no terminal."""
    _DONE.clear()
    if not show or not sys.stderr.isatty():
        yield
        return
    columns = (
        TextColumn("{task.description:<56}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {step: bars.add_task(f"{title} {step}", total=total) for step in steps}
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.1):
                for step, task in tasks.items():
                    bars.update(task, completed=_DONE[step])

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


@contextmanager
def counting_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many are done, of how many; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    with bars:
        task = bars.add_task(title, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


@contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """Say what is being done, on a terminal: the function given takes each new text."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
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

    if not sys.stderr.isatty():

        def tell(now: Training) -> None:
            text = said(now)
            if now.recall == now.recall or now.step == now.steps:
                print(
                    f"{text}, step {now.step} of {now.steps}, {now.seconds:.0f} s", file=sys.stderr
                )

        yield tell
        return
    columns = (TextColumn("{task.description:<56}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("training", total=None)

        def show(now: Training) -> None:
            bars.update(task, description=said(now), completed=now.step, total=now.steps)

        yield show
