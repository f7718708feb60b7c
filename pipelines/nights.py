"""Which nights are run: the next one, several, an earlier one again, or all of them as a check."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from pipelines.config import NightConfig, config_from_manifest
from pipelines.config_files import config_of
from pipelines.night import RunOptions, run_plan
from pipelines.plan import cutoff_of, date_of, plan_night
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import EVENT_TABLES, PublishConflict, Warehouse
from profiling.decay import DAY_US

Report = Callable[[Manifest], None]


def run_night(
    warehouse: Warehouse,
    date: dt.date,
    run: RunOptions | None = None,
    *,
    config: NightConfig | None = None,
    allow_gap: bool = False,
) -> Manifest:
    """Run the night of `date`: the next one, or an earlier one again.

    An earlier night replays its descendants' profiles, outcomes and rewards on a branch, with what
    was served as given, and then moves the head.

    Raises:
        ValueError: `date` leaves out nights, lies before the first one, or nothing has landed.
        PublishConflict: Another night was published meanwhile.
    """
    run, config = run or RunOptions(), config or config_of(warehouse)
    head = warehouse.head()
    if head is None or head.kind == "bootstrap" or date > head.date:
        check_next(warehouse, head, date, allow_gap=allow_gap)
        plan = plan_night(warehouse, config, date, head)
        return run_plan(warehouse, plan, run, expected_head=head.number if head else None)
    return replay(warehouse, date, run, config)


def run_nights(
    warehouse: Warehouse,
    dates: list[dt.date],
    run: RunOptions | None = None,
    *,
    allow_gap: bool = False,
    report: Report = lambda manifest: None,
) -> list[Manifest]:
    """Run the nights of `dates` in order, telling `report` after each."""
    config, done = config_of(warehouse), []
    for date in dates:
        done.append(run_night(warehouse, date, run, config=config, allow_gap=allow_gap))
        report(done[-1])
        allow_gap = False
    return done


def bootstrap(warehouse: Warehouse, run: RunOptions | None = None) -> Manifest | None:
    """Profiles as of the first landed impression, so that it can be attributed.

    Only before the first night, with impressions and a catalogue landed; otherwise None. What lands
    later, but still before the first night, bootstraps anew: the order of imports does not matter.
    """
    head = warehouse.head()
    starts = [
        landing.starts_at for landing in warehouse.landings() if landing.starts_at is not None
    ]
    if not starts or not warehouse.catalogue()["ITEMS"]:
        return None
    if head is not None and head.kind != "bootstrap":
        return None
    cutoff = min(starts)
    date = date_of(cutoff - DAY_US)
    plan = plan_night(warehouse, config_of(warehouse), date, None, kind="bootstrap", cutoff=cutoff)
    if head is not None and (head.inputs, head.catalogue) == (plan.inputs, plan.catalogue):
        return None
    return run_plan(
        warehouse, plan, run or RunOptions(), expected_head=head.number if head else None
    )


def replay(warehouse: Warehouse, date: dt.date, run: RunOptions, config: NightConfig) -> Manifest:
    """Run an earlier night and its descendants again on a branch; the last one moves the head.

    Each takes what has landed by now and lies before its cut-off; what it served stays.
    """
    head = warehouse.head()
    chain = warehouse.chain(head)
    first = next((i for i, m in enumerate(chain) if m.date == date and m.kind != "bootstrap"), None)
    if head is None or first is None:
        warehouse.night(date)  # raises, naming the nights there are
        raise ValueError(f"{warehouse.root} has no night of {date}")
    parent = chain[first - 1] if first else None
    for old in chain[first:]:
        plan = plan_night(
            warehouse,
            config,
            old.date,
            parent,
            kind="replay",
            cutoff=old.cutoff,
            given=old,
        )
        last = old.number == head.number
        parent = run_plan(warehouse, plan, run, head=last, expected_head=head.number)
    assert parent is not None
    return parent


def rebuild(
    warehouse: Warehouse,
    date: dt.date,
    run: RunOptions | None = None,
    *,
    report: Report = lambda manifest: None,
) -> Manifest:
    """Replay steps 1 to 3 of the recorded nights from the raw events, up to `date`, as a check.

    With each night's own configuration, inputs and catalogue, and the published QUERIES as given.
    The result is a branch that no reader follows.
    """
    run = run or RunOptions()
    parent: Manifest | None = None
    for old in warehouse.chain(warehouse.night(date)):
        plan = plan_night(
            warehouse,
            config_from_manifest(old),
            old.date,
            parent,
            kind="bootstrap" if old.kind == "bootstrap" else "rebuild",
            cutoff=old.cutoff,
            inputs=old.inputs,
            catalogue=dict(old.catalogue),
            given=old,
        )
        parent = run_plan(warehouse, plan, run, head=False)
        report(parent)
    assert parent is not None
    return parent


def check_next(
    warehouse: Warehouse, head: Manifest | None, date: dt.date, *, allow_gap: bool
) -> None:
    """Raise ValueError where `date` cannot be the night after `head`, with the cure."""
    if not warehouse.landings():
        raise ValueError(f"nothing has landed in {warehouse.root}; run `queryloop import` first")
    if head is None or head.kind == "bootstrap":
        _check_first(warehouse, head, date)
        return
    missing = (date - head.date).days - 1
    if missing and not allow_gap:
        first = head.date + dt.timedelta(days=1)
        raise ValueError(
            f"the last night is {head.date}; running {date} would leave out {missing} "
            f"{'night' if missing == 1 else 'nights'}. Run --from {first} --to {date}, or pass "
            "--allow-gap if nothing was served on those days"
        )


def _check_first(warehouse: Warehouse, head: Manifest | None, date: dt.date) -> None:
    if head is not None and cutoff_of(date) <= head.cutoff:
        raise ValueError(
            f"{warehouse.root} has no impression before the end of {date}; the first landed is of "
            f"{date_of(head.cutoff)}: begin with that night"
        )
    if head is None and not warehouse.pending(set(), cutoff_of(date)):
        firsts = [
            part.first_at
            for landing in warehouse.landings()
            for name in EVENT_TABLES
            for file in landing.tables.get(name, ())
            for part in file.parts
        ]
        known = f"the first landed is of {date_of(min(firsts))}" if firsts else "none has landed"
        raise ValueError(
            f"{warehouse.root} has no event before the end of {date}; {known}: begin with its night"
        )


__all__ = ["PublishConflict", "bootstrap", "rebuild", "replay", "run_night", "run_nights"]
