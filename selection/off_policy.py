"""What another policy would have earned: a log's nights become sums by user (estimates follow).

A unit is a user on a surface on a night: the log drew the set S of the user's clusters, cluster c
with probability b_c, S with P_b(S), and draw c earned Y_c (0 where it brought nothing). The policy
in question would have drawn c with e_c and S with P_e(S): both exact, computed by the code that
draws, from the CLUSTER_REWARDS of that night. Weights are

    w_c = e_c / b_c for a draw,    W = P_e(S) / P_b(S) for a set

and E sum_S w_c Y_c = sum_c e_c E Y_c, where what a draw earns does not depend on its company;
E W sum_S Y_c needs no such thing. For anything x_c known before the draw,

    sum_S w_c x_c - sum_c e_c x_c    and    W sum_S x_c - sum_c e_c x_c

have mean 0: with q_c = beta x_c as a model of Y_c they are what doubly robust estimates add.
(Horvitz and Thompson 1952; Dudik, Langford, Li 2011; papers, 5.3.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.compiling import njit
from profiling.schema import FloatArray, IntArray, floats, ints
from selection.keys import name_codes
from selection.policies import SelectionConfig
from selection.queries import Weighed, weigh_clusters
from selection.sampling import Chances, weigh_sets

Mask = npt.NDArray[np.bool_]

FEATURES = ("one", "reward", "reward_per_draw", "importance")  # x_c; the last a share of its user's
LOG = ("nights", "draws", "value", "served", "interests")
DRAW = ("e", "wy", "w", "w2", "hit", "lost", "starved", "focus", *(f"x_{f}" for f in FEATURES))
SET = ("wy", "w", "w2", "hit", "lost", *(f"x_{f}" for f in FEATURES))
COLUMNS = (*(f"draw_{c}" for c in DRAW), *(f"set_{c}" for c in SET))
STARVED = 0.1  # of the chance that all interests alike would have: below it one is starved (ours)
_NEAR = 1e-9  # relative: a probability that differs by more was drawn from another state
_FROM_QUERIES = ("user_id", "surface", "cluster_id", "draw_id", "propensity", "set_probability")


@dataclass(frozen=True)
class LoggedNight:
    """One night of some users.

    Attributes:
        queries: QUERIES of the night.
        cluster_rewards: CLUSTER_REWARDS of the night: what the draws were made from.
        run_date: The night.
        selections: Its config by arm.
        seed: Of the warehouse.
        salt: Of the experiment.
    """

    queries: pa.Table
    cluster_rewards: pa.Table
    run_date: date
    selections: Mapping[str, SelectionConfig]
    seed: int
    salt: str


@dataclass(frozen=True)
class UserSums:
    """Sums over the nights and surfaces of each user.

    Attributes:
        users: (n,) int64 ascending.
        log: (n, len(LOG)) float64: units, draws, what they earned, units with an impression,
            interests that could have been drawn.
        policies: (p, n, len(COLUMNS)) float64, by policy. Of draws: `e` sum of e_c over all
            clusters; sums of w Y, w, w^2, of w where Y is not 0 (`hit`); `lost` sum of e_c where
            b_c is 0; `starved` interests whose e_c is below STARVED times the equal chance;
            `focus` sum of (e_c / sum e)^2, which is 1 where one interest has all; `x_` the terms of
            mean 0. Of sets the same with W; `lost` is probability.
        largest: (p, n, 2) float64 largest w and W.
        items: (q,) int64 query items ascending.
        exposure: (p, q) float64 expected draws of each.
        unknown: Draws left out: the night's state has no such cluster.
        redrawn: Units whose probabilities the state and config of the night do not give.
    """

    users: IntArray
    log: FloatArray
    policies: FloatArray
    largest: FloatArray
    items: IntArray
    exposure: FloatArray
    unknown: int = 0
    redrawn: int = 0

    def column(self, policy: int, name: str) -> FloatArray:
        """(n,) float64 of one of COLUMNS."""
        return self.policies[policy, :, COLUMNS.index(name)]

    def take(self, rows: npt.NDArray[np.generic]) -> UserSums:
        """Some of the users; what was exposed stays that of all."""
        own = (self.users[rows], self.log[rows], self.policies[:, rows], self.largest[:, rows])
        return UserSums(*own, self.items, self.exposure)


def sum_log(
    nights: Sequence[LoggedNight],
    outcomes: pa.Table,
    policies: Sequence[SelectionConfig | None],
) -> UserSums:
    """The sums of the nights of some users.

    Args:
        nights: Their draws and states.
        outcomes: OUTCOMES (user_id, draw_id, value, credit) of any nights; a draw earns the sum of
            value * credit of its rows.
        policies: What is asked about; None is the log's own.
    """
    earned = _Earned.of(outcomes)
    return add_users([_sum_night(night, earned, policies) for night in nights], len(policies))


def add_users(parts: Sequence[UserSums], n_policies: int) -> UserSums:
    """The parts' sums by user; added in their order."""
    users = np.unique(np.concatenate([p.users for p in parts] or [np.zeros(0, np.int64)]))
    n = len(users)
    log, largest = np.zeros((n, len(LOG))), np.zeros((n_policies, n, 2))
    policies = np.zeros((n_policies, n, len(COLUMNS)))
    for part in parts:
        rows = np.searchsorted(users, part.users)
        log[rows] += part.log
        policies[:, rows] += part.policies
        largest[:, rows] = np.maximum(largest[:, rows], part.largest)
    items = np.unique(np.concatenate([p.items for p in parts] or [np.zeros(0, np.int64)]))
    exposure = np.zeros((n_policies, len(items)))
    for part in parts:
        exposure[:, np.searchsorted(items, part.items)] += part.exposure
    unknown, redrawn = (sum(getattr(p, c) for p in parts) for c in ("unknown", "redrawn"))
    return UserSums(users, log, policies, largest, items, exposure, unknown, redrawn)


@dataclass(frozen=True)
class _Earned:
    """What each draw with an outcome earned: (m,) ids ascending, users, sums."""

    ids: IntArray
    users: IntArray
    values: FloatArray

    @classmethod
    def of(cls, outcomes: pa.Table) -> _Earned:
        ids, users = ints(outcomes, "draw_id"), ints(outcomes, "user_id")
        order = np.flatnonzero(ids > 0)
        order = order[np.lexsort((users[order], ids[order]))]
        ids, users = ids[order], users[order]
        first = np.ones(len(ids), bool)
        first[1:] = (ids[1:] != ids[:-1]) | (users[1:] != users[:-1])
        values = floats(outcomes, "value")[order] * floats(outcomes, "credit")[order]
        starts = np.flatnonzero(first)
        sums = np.add.reduceat(values, starts) if len(starts) else np.zeros(0)
        return cls(ids[starts], users[starts], sums)

    def by(self, draw_ids: IntArray, users: IntArray) -> tuple[FloatArray, Mask]:
        """(d,) what the draws of these users earned, and whether they brought an impression."""
        if len(self.ids) == 0:
            return np.zeros(len(draw_ids)), np.zeros(len(draw_ids), bool)
        place = np.searchsorted(self.ids, draw_ids)
        last = np.searchsorted(self.ids, draw_ids, side="right")
        for _ in range(int((last - place).max(initial=0))):  # of one id the user's own
            on = (place + 1 < last) & (self.users[np.minimum(place, len(self.ids) - 1)] != users)
            place = place + on
        place = np.minimum(place, len(self.ids) - 1)
        found = (self.ids[place] == draw_ids) & (self.users[place] == users)
        return np.where(found, self.values[place], 0.0), found


@dataclass(frozen=True)
class _Drawn:
    """The log's draws beside the state that they were made from.

    Attributes:
        weighed: The state, weighed by the log's own policy.
        own: The log's design.
        rows: (d,) int64 rows of the state that were drawn.
        group: (d,) int64 units of the draws.
        propensity: (d,) float64 b_c, as logged.
        sets: (g,) float64 P_b(S), as logged; 0 where the unit is left out.
        earned: (d,) float64 Y_c.
        features: (n, len(FEATURES)) float64 x_c.
    """

    weighed: Weighed
    own: Chances
    wanted: Mask
    rows: IntArray
    group: IntArray
    propensity: FloatArray
    sets: FloatArray
    earned: FloatArray
    features: FloatArray

    @property
    def units(self) -> int:
        return len(self.weighed.offsets) - 1

    def by_unit(self, values: FloatArray) -> FloatArray:
        """(g,) sums of values by draw."""
        return np.bincount(self.group, values, minlength=self.units).astype(np.float64)

    def by_row(self, values: FloatArray) -> FloatArray:
        """(g,) sums of (n,) values of all clusters."""
        if not self.units:
            return np.zeros(0)
        return np.add.reduceat(values, self.weighed.offsets[:-1])


def _sum_night(
    night: LoggedNight, earned: _Earned, policies: Sequence[SelectionConfig | None]
) -> UserSums:
    queries = night.queries.select(list(_FROM_QUERIES))
    state = _rows_of_users(night.cluster_rewards, ints(queries, "user_id"))
    drawn, brought, unknown, redrawn = _drawn(night, queries, state, earned)
    weighed, kept = drawn.weighed, drawn.sets > 0
    users, place = np.unique(weighed.groups.users[kept], return_inverse=True)
    items, query = np.unique(ints(weighed.rows, "query_id"), return_inverse=True)
    inside = np.repeat(kept, np.diff(weighed.offsets))

    def by_user(columns: Sequence[FloatArray]) -> FloatArray:
        sums = [np.bincount(place, c[kept], minlength=len(users)) for c in columns]
        return np.stack(sums, axis=1).astype(np.float64)

    served = (drawn.by_unit(brought.astype(np.float64)) > 0).astype(np.float64)
    draws = drawn.by_unit(np.ones(len(drawn.rows)))
    interests = np.diff(weighed.offsets).astype(np.float64)
    log = [np.ones(drawn.units), draws, drawn.by_unit(drawn.earned), served, interests]
    sums = np.zeros((len(policies), len(users), len(COLUMNS)))
    largest = np.zeros((len(policies), len(users), 2))
    exposure = np.zeros((len(policies), len(items)))
    for p, policy in enumerate(policies):
        chances, w, ratio = _weights_of(night, drawn, policy, state)
        columns = _draw_columns(drawn, chances, w) + _set_columns(drawn, chances, ratio)
        sums[p] = by_user(columns)
        for j, peak in enumerate((_largest(drawn, w), ratio)):
            np.maximum.at(largest[p, :, j], place, peak[kept])
        exposure[p] = np.bincount(query, chances.propensities * inside, minlength=len(items))
    return UserSums(users, by_user(log), sums, largest, items, exposure, unknown, redrawn)


def _rows_of_users(state: pa.Table, users: IntArray) -> pa.Table:
    """The rows of users who were drawn for; those of a night are far from always all."""
    wanted = np.isin(ints(state, "user_id"), users)
    return state if wanted.all() else state.filter(pa.array(wanted))


def _drawn(
    night: LoggedNight, queries: pa.Table, state: pa.Table, earned: _Earned
) -> tuple[_Drawn, Mask, int, int]:
    """The draws, which of them brought something, draws unknown and units redrawn."""
    weighed = weigh_clusters(
        state, night.selections, run_date=night.run_date, seed=night.seed, salt=night.salt
    )
    groups, offsets = weighed.groups, weighed.offsets
    surfaces = name_codes(queries["surface"], groups.surface_names)
    users, clusters = ints(queries, "user_id"), ints(queries, "cluster_id")
    group, rows = _find_rows(
        groups.users, groups.surfaces, offsets, ints(weighed.rows, "cluster_id"),
        np.searchsorted(groups.users, users), users, surfaces, clusters,
    )  # fmt: skip
    known = rows >= 0
    spoiled = np.zeros(len(offsets) - 1, bool)
    spoiled[group[(group >= 0) & ~known]] = True
    known[known] = ~spoiled[group[known]]
    unknown = int((~known).sum())
    values, brought = earned.by(ints(queries, "draw_id"), users)
    rows, group, values, brought = rows[known], group[known], values[known], brought[known]
    propensity = floats(queries, "propensity")[known]
    sets = np.zeros(len(offsets) - 1)
    sets[group] = floats(queries, "set_probability")[known]
    wanted = np.zeros(weighed.rows.num_rows, bool)
    wanted[rows] = True
    own = weigh_sets(offsets, weighed.weights, weighed.draws, weighed.floors, wanted)
    drawn = _Drawn(weighed, own, wanted, rows, group, propensity, sets, values, _features(weighed))
    other = np.abs(own.propensities[rows] - propensity) > _NEAR * propensity
    differs = drawn.by_unit(other.astype(np.float64)) > 0
    differs |= np.abs(own.sets - sets) > _NEAR * sets
    return drawn, brought, unknown, int((differs & (sets > 0)).sum())


def _features(weighed: Weighed) -> FloatArray:
    rows, offsets = weighed.rows, weighed.offsets
    reward, importance = floats(rows, "reward"), floats(rows, "importance")
    per_draw = floats(rows, "reward_per_draw")
    totals = np.add.reduceat(importance, offsets[:-1]) if len(offsets) > 1 else np.zeros(0)
    totals[totals == 0] = 1.0
    share = importance / np.repeat(totals, np.diff(offsets))
    per_draw = np.where(np.isnan(per_draw), reward, per_draw)
    return np.stack([np.ones(len(reward)), reward, per_draw, share], axis=1)


def _weights_of(
    night: LoggedNight, drawn: _Drawn, policy: SelectionConfig | None, state: pa.Table
) -> tuple[Chances, FloatArray, FloatArray]:
    """The policy's chances, (d,) w of the draws and (g,) W of the sets."""
    if policy is None:
        return drawn.own, np.ones(len(drawn.rows)), np.ones(drawn.units)
    arms = dict.fromkeys(night.selections, policy)
    asked = weigh_clusters(state, arms, run_date=night.run_date, seed=night.seed, salt=night.salt)
    b = drawn.own.propensities
    chances = weigh_sets(
        asked.offsets, asked.weights, asked.draws, asked.floors, drawn.wanted,
        barred=b == 0.0, held=b == 1.0,
    )  # fmt: skip
    sizes = np.minimum(asked.draws, np.diff(asked.offsets))
    chances.supported[sizes != drawn.by_unit(np.ones(len(drawn.rows)))] = 0.0
    w = chances.propensities[drawn.rows] / drawn.propensity
    known = drawn.sets > 0
    ratio = np.divide(chances.sets, drawn.sets, where=known, out=np.zeros(drawn.units))
    return chances, w, ratio


def _draw_columns(drawn: _Drawn, chances: Chances, w: FloatArray) -> list[FloatArray]:
    e, y, by_unit = chances.propensities, drawn.earned, drawn.by_unit
    lost = np.where(drawn.own.propensities == 0.0, e, 0.0)
    offsets = drawn.weighed.offsets
    drawn_for = np.repeat(drawn.by_row(e), np.diff(offsets))
    alike = drawn_for / np.repeat(np.diff(offsets), np.diff(offsets))
    starved = (e < STARVED * alike).astype(np.float64)
    shares = (e / drawn_for) ** 2
    terms = [by_unit(w * x[drawn.rows]) - drawn.by_row(e * x) for x in drawn.features.T]
    sums = [by_unit(v) for v in (w * y, w, w * w, w * (y != 0))]
    return [
        drawn.by_row(e), *sums, *(drawn.by_row(v) for v in (lost, starved, shares)), *terms
    ]  # fmt: skip


def _set_columns(drawn: _Drawn, chances: Chances, ratio: FloatArray) -> list[FloatArray]:
    """The constant's term is W - 1: with it the number of sets is known, not estimated."""
    e, by_unit = chances.propensities, drawn.by_unit
    hit = by_unit((drawn.earned != 0).astype(np.float64)) > 0
    terms = [ratio * by_unit(x[drawn.rows]) - drawn.by_row(e * x) for x in drawn.features.T[1:]]
    lost = np.maximum(1.0 - chances.supported, 0.0)
    value = by_unit(drawn.earned)
    return [ratio * value, ratio, ratio * ratio, ratio * hit, lost, ratio - 1.0, *terms]


def _largest(drawn: _Drawn, w: FloatArray) -> FloatArray:
    peaks = np.zeros(drawn.units)
    np.maximum.at(peaks, drawn.group, w)
    return peaks


@njit(cache=True, nogil=True)
def _find_rows(  # noqa: PLR0913 (arrays of one key)
    group_users: IntArray,
    group_surfaces: IntArray,
    offsets: IntArray,
    clusters: IntArray,
    starts: IntArray,
    users: IntArray,
    surfaces: IntArray,
    wanted: IntArray,
) -> tuple[IntArray, IntArray]:
    """(d,) group and row of each draw, -1 where there is none; `starts`: its user's first group."""
    group, rows = np.full(len(users), -1, np.int64), np.full(len(users), -1, np.int64)
    for i in range(len(users)):
        g = starts[i]
        while g < len(group_users) and group_users[g] == users[i]:
            if group_surfaces[g] == surfaces[i]:
                group[i] = g
                for row in range(offsets[g], offsets[g + 1]):
                    if clusters[row] == wanted[i]:
                        rows[i] = row
                break
            g += 1
    return group, rows
