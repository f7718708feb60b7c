"""Step 2: attribute_outcomes. Ripe impressions close, once, with what came of them and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.actions import Actions, action_codes, action_masks, mask_values
from profiling.decay import HOUR_US
from profiling.intake import Admitted, Refusal, admit_rows, rejected_rows
from profiling.items import Items
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import IntArray, floats, ints, sort_rows
from profiling.tables import REJECTED
from selection.attribution import credited_rows, inferred_credits, logged_credits
from selection.draws import DRAWS, SHOWN_COLUMNS, close_draws, match_rows
from selection.tables import OPEN, OUTCOMES

_CREDIT_RULES = ("slot_winner", "equal", "score")
LAST_COLUMNS = ("user_id", "impression_id", "draw_id")  # read of the night before
_VERSION_COLUMNS = ["user_id", "cutoff", "medoid_item_id", "cluster_id"]


@dataclass(frozen=True)
class OutcomeConfig:
    """When an impression closes, what it is worth and what it is credited to."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    window_hours: float = option(
        24.0,
        "how long after an impression an engagement still counts, in hours; lines with their own "
        "actions have 0 (ours)",
        low=0.0,
        high=8760.0,
    )
    lateness_hours: float = option(
        24.0,
        "how much later than it happened a row may land, in hours (ours)",
        low=0.0,
        high=8760.0,
    )
    threshold: float = option(
        0.5,
        "least cosine of item and medoid to infer the interest where the log names no draw; .85 is "
        "published for user interest clusters, but leaves 98 % of KuaiRand unattributed, and from "
        ".4 on its long views lie above what the video alone explains",
        low=-1.0,
        high=1.0,
    )
    credit: str = option(
        "slot_winner",
        "who is credited where several draws brought the item: the draw that took the slot, all of "
        "them equally, or by score (ours)",
        choices=_CREDIT_RULES,
    )
    value_low: float = option(0.0, "values of outcomes are clipped to at least this (ours)")
    value_high: float = option(1.0, "values of outcomes are clipped to at most this (ours)")
    examination: tuple[float, ...] = option(
        (),
        "probability that the user looked, by position from 0; the last holds beyond its end; "
        "empty: 1 everywhere",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.value_low < self.value_high:
            raise ValueError(
                f"value_low must be below value_high, got {self.value_low!r} and "
                f"{self.value_high!r}"
            )
        wrong = [p for p in self.examination if not 0 <= p <= 1]
        if wrong:
            raise ValueError(f"examination must be probabilities in [0, 1], got {wrong[0]!r}")

    @property
    def value_range(self) -> tuple[float, float]:
        """(lo, hi) of a value: y = (value - lo) / (hi - lo)."""
        return self.value_low, self.value_high

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return round(self.window_hours * HOUR_US)

    @property
    def lateness_us(self) -> int:
        """The lateness in microseconds."""
        return round(self.lateness_hours * HOUR_US)

    @property
    def horizon_us(self) -> int:
        """Both: how long an event may still change something."""
        return self.window_us + self.lateness_us


@dataclass(frozen=True)
class OutcomeInputs:
    """The tables of one bucket of users.

    Attributes:
        impressions: New IMPRESSIONS.
        open: OPEN of last night.
        history: HISTORY of tonight, all engagements of the window and lateness in it.
        draws: DRAWS of `draws.draws_of`: those that may still be named or close.
        feed: FEED rows of these draws, or None; read where the credit is shared.
        profiles: PROFILES of tonight.
        past_profiles: PAST_PROFILES of tonight.
        items: The catalogue.
        last_outcomes: The columns `LAST_COLUMNS` of the parent night's OUTCOMES, or none.
    """

    impressions: pa.Table
    open: pa.Table
    history: pa.Table
    draws: pa.Table
    feed: pa.Table | None
    profiles: pa.Table
    past_profiles: pa.Table
    items: Items
    last_outcomes: pa.Table


@dataclass(frozen=True)
class OutcomeUpdate:
    """What the night made of the impressions.

    Open before + new impressions = impressions in `outcomes` + `open` + `rejected` + `duplicates`.

    Attributes:
        outcomes: OUTCOMES of tonight.
        open: OPEN, impressions not yet ripe.
        closed_draws: CLOSED_DRAWS of tonight.
        history: HISTORY with `credited_id` of the engagements that tonight's outcomes used.
        rejected: REJECTED.
        duplicates: Impressions that came again.
    """

    outcomes: pa.Table
    open: pa.Table
    closed_draws: pa.Table
    history: pa.Table
    rejected: pa.Table
    duplicates: int


def attribute_outcomes(
    inputs: OutcomeInputs,
    config: OutcomeConfig,
    actions: Actions,
    *,
    now: int,
    run_date: date,
    parent_cutoff: int | None,
) -> OutcomeUpdate:
    """Close the impressions whose horizon `at + window + lateness` is not after the cut-off.

    Args:
        inputs: The tables, in any order of rows.
        config: When, how much, to whom.
        actions: The configured actions.
        now: The cut-off in microseconds, exclusive.
        run_date: Written to every row.
        parent_cutoff: The cut-off of the night before; None on the first.

    Returns:
        The tables, sorted by key (`history` in the order it came).

    Source: design, sections 3 (Time) and 4 (Attribution; Reward, closing of draws).
    """
    admitted = _admit(inputs, config, actions, parent_cutoff)
    pending = pa.concat_tables([inputs.open, _open_rows(admitted.rows, actions)])
    closing, still_open = _close(pending, config, now)
    credits, unknown = _attribute(closing, inputs, config)
    events, credited = _join(inputs.history, closing, still_open, config.window_us)
    masks = _action_masks(closing, inputs.history, events, credited)
    shown = _shown(closing, masks, config, actions)
    outcomes = _build_outcomes(shown, credits, run_date)
    counted = ~np.isin(credited, unknown)
    rejected = [admitted.rejected, _unknown_draws(closing, unknown)]
    return OutcomeUpdate(
        outcomes=outcomes,
        open=still_open,
        closed_draws=close_draws(
            inputs.draws,
            pa.concat_tables([t.select(SHOWN_COLUMNS) for t in (outcomes, inputs.last_outcomes)]),
            horizon_us=config.horizon_us,
            now=now,
            parent_cutoff=parent_cutoff,
        ),
        history=_mark_credited(inputs.history, closing, events[counted], credited[counted]),
        rejected=sort_rows(pa.concat_tables(rejected), REJECTED.key),
        duplicates=admitted.duplicates,
    )


def _close(pending: pa.Table, config: OutcomeConfig, now: int) -> tuple[pa.Table, pa.Table]:
    """The impressions that are ripe at the cut-off and those that stay open, both by key."""
    pending = sort_rows(pending, OPEN.key)
    ripe = ripe_impressions(pending, config, now)
    return pending.filter(pa.array(ripe)), pending.filter(pa.array(~ripe))


def ripe_impressions(pending: pa.Table, config: OutcomeConfig, now: int) -> npt.NDArray[np.bool_]:
    """(n,) bool: which OPEN rows close at the cut-off `now`, in microseconds."""
    return (_horizons(pending, config) <= now) & (ints(pending, "at") < now)


def _horizons(impressions: pa.Table, config: OutcomeConfig) -> IntArray:
    """(n,) int64: when each closes; what users did in the window is all in by then."""
    own = impressions["actions"].is_valid().to_numpy()
    window = np.where(own, 0, config.window_us)
    return ints(impressions, "at") + window + config.lateness_us


def _admit(
    inputs: OutcomeInputs, config: OutcomeConfig, actions: Actions, parent_cutoff: int | None
) -> Admitted:
    new = inputs.impressions
    unknown_item = inputs.items.rows_of(ints(new, "item_id")) < 0
    refusals = [
        Refusal(unknown_item, "item_id is not in ITEMS; land the item first"),
        Refusal(
            _has_unknown_action(new, actions),
            "actions names one that is not configured; add it to the configured actions or leave "
            f"it out of the log; configured are {', '.join(a.name for a in actions)}",
        ),
    ]
    if parent_cutoff is not None:
        late = (_horizons(new, config) <= parent_cutoff) & (ints(new, "at") < parent_cutoff)
        refusals.append(
            Refusal(
                late,
                "late: at + window + lateness had ended the night before; land rows sooner or "
                f"raise lateness_hours, now {config.lateness_hours:g}",
            )
        )
    key, last = ("user_id", "impression_id"), inputs.last_outcomes
    again = pc.is_in(last["impression_id"], value_set=new["impression_id"].combine_chunks())
    last = last.filter(again)
    closed = match_rows([ints(last, k) for k in key], [ints(new, k) for k in key]) >= 0
    refusals.append(Refusal(closed, "impression_id closed the night before, with other content"))
    return admit_rows(new, inputs.open, refusals, source="IMPRESSIONS", id_column="impression_id")


def _has_unknown_action(impressions: pa.Table, actions: Actions) -> npt.NDArray[np.bool_]:
    lists = impressions["actions"].combine_chunks()
    unknown = action_codes(pc.list_flatten(lists), actions) < 0
    mask = np.zeros(len(lists), bool)
    mask[pc.list_parent_indices(lists).to_numpy()[unknown]] = True
    return mask


def _open_rows(admitted: pa.Table, actions: Actions) -> pa.Table:
    """OPEN rows of IMPRESSIONS: the list of actions becomes a mask."""
    absent = admitted["actions"].is_null().to_numpy()
    masks = pa.array(action_masks(admitted["actions"], actions), mask=absent)
    place = admitted.column_names.index("actions")
    return OPEN.check(admitted.set_column(place, "actions", masks))


def _attribute(
    closing: pa.Table, inputs: OutcomeInputs, config: OutcomeConfig
) -> tuple[pa.Table, IntArray]:
    """CREDITS of the closing impressions, and the rows whose draw is unknown."""
    draws = sort_rows(inputs.draws, DRAWS.key)
    logged, unknown = logged_credits(closing, draws, inputs.feed, config.credit)
    profiles = [inputs.profiles, inputs.past_profiles]
    versions = pa.concat_tables([p.select(_VERSION_COLUMNS) for p in profiles])
    inferred = inferred_credits(closing, versions, inputs.items, config.threshold)
    return pa.concat_tables([logged, inferred]), unknown


def _join(
    history: pa.Table, closing: pa.Table, still_open: pa.Table, window_us: int
) -> tuple[IntArray, IntArray]:
    """(row of `history`, row of `closing`) of the engagements that closing impressions get.

    Impressions still open take part, so that an engagement waits for its own impression to close.
    """
    own = closing["actions"].is_valid().to_numpy()
    rows = np.flatnonzero(~own)
    waiting = [
        closing.take(rows),
        still_open.filter(still_open["actions"].is_null()),
    ]
    credited = credited_rows(history, pa.concat_tables(waiting), window_us)
    events = np.flatnonzero((credited >= 0) & (credited < len(rows)))
    return events, rows[credited[events]]


def _action_masks(
    closing: pa.Table, history: pa.Table, events: IntArray, credited: IntArray
) -> IntArray:
    """(n,) int64: the actions of each closing impression, its own or joined."""
    masks, _ = _nullable_ints(closing, "actions")
    codes = history["action"].to_numpy()[events].astype(np.int64)
    np.bitwise_or.at(masks, credited, np.int64(1) << codes)
    return masks


def _nullable_ints(table: pa.Table, name: str) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """A column's values, 0 where absent, and where it is absent."""
    column: Any = table[name]
    return column.fill_null(0).to_numpy().astype(np.int64), column.is_null().to_numpy().copy()


def _mark_credited(
    history: pa.Table, closing: pa.Table, events: IntArray, credited: IntArray
) -> pa.Table:
    if len(events) == 0:
        return history
    ids, absent = _nullable_ints(history, "credited_id")
    ids[events] = ints(closing, "impression_id")[credited]
    absent[events] = False
    place = history.column_names.index("credited_id")
    return history.set_column(place, history.schema.field(place), pa.array(ids, mask=absent))


def _shown(closing: pa.Table, masks: IntArray, config: OutcomeConfig, actions: Actions) -> pa.Table:
    """What OUTCOMES says of each closing impression, whoever is credited."""
    impressions = closing.select(
        ["impression_id", "user_id", "item_id", "at", "surface", "position"]
    )
    columns: dict[str, Any] = {
        "examination": _examination(closing, config.examination),
        "value": np.clip(mask_values(masks, actions), config.value_low, config.value_high),
        "actions": masks,
    }
    for name, column in columns.items():
        impressions = impressions.append_column(name, pa.array(column))
    return impressions


def _build_outcomes(shown: pa.Table, credits: pa.Table, run_date: date) -> pa.Table:
    """OUTCOMES: a row per credit, the impression's columns beside it."""
    outcomes = shown.take(credits["row"])
    for name in credits.column_names[1:]:
        outcomes = outcomes.append_column(name, credits[name])
    dates = pa.repeat(pa.scalar(run_date, pa.date32()), outcomes.num_rows)
    outcomes = outcomes.append_column("run_date", dates)
    return sort_rows(OUTCOMES.check(outcomes), OUTCOMES.key)


def _examination(closing: pa.Table, curve: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """(n,) float64 by position; 1 where the position or the curve is not known."""
    positions = floats(closing, "position")
    known = np.isfinite(positions) & bool(curve)
    looked = np.ones(len(positions))
    if curve:
        places = np.minimum(positions[known].astype(np.int64), len(curve) - 1)
        looked[known] = np.array(curve)[places]
    return looked


def _unknown_draws(closing: pa.Table, unknown: IntArray) -> pa.Table:
    rows = closing.take(unknown)
    reasons = [
        f"draw_id {draw} is no draw of user {user}; land its SERVED_DRAWS before the impression's "
        "horizon ends, or leave draw_id null"
        for draw, user in zip(ints(rows, "draw_id"), ints(rows, "user_id"), strict=True)
    ]
    return rejected_rows(
        rows,
        np.ones(rows.num_rows, bool),
        np.array(reasons, object),
        source="IMPRESSIONS",
        id_column="impression_id",
    )
