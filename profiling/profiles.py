"""Step 1b: every user's interests, as versions by cut-off.

A profile as of cut-off C is a function of the user's own positive events before C: read back from
the latest one, at most `window_days` and until `max_items` distinct items are seen; these items are
clustered (Ward), each cluster is stood for by its medoid and weighed by its importance.

A user's PROFILES is a fold over the chain's cut-offs: at each one that has positive events of the
user since the cut-off before, a version is built, and its clusters get their identity from the
version before. An event that comes late throws away the versions it belongs into, and the fold is
played again from the one that remains. So late and timely arrival end in the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profiling.actions import Actions, counts_list
from profiling.decay import importance_weights
from profiling.history import ProfileConfig, positive_events, read_back
from profiling.identity import Clusters, Lineage, no_clusters, trace_lineage
from profiling.items import Items
from profiling.medoids import (
    ClusterSums,
    cluster_medoids,
    group_members,
    number_groups,
    sum_engagements,
)
from profiling.schema import FloatArray, IntArray, group_offsets, ints, sort_rows
from profiling.tables import PAST_PROFILES, PROFILES
from profiling.ward import ward_labels_batch

BoolArray = npt.NDArray[np.bool_]
_FIRST = np.iinfo(np.int64).min
_TRACE = 1e-12  # so that an item whose actions weigh nothing still ties a cluster to its past


@dataclass(frozen=True)
class ProfileInputs:
    """What `build_profiles` reads, all of the same users.

    Attributes:
        history: HISTORY after tonight's `update_history`.
        touched: Its `touched`: user_id, since.
        profiles: PROFILES of the night before.
        past_profiles: PAST_PROFILES of the night before.
        items: The catalogue.
    """

    history: pa.Table
    touched: pa.Table
    profiles: pa.Table
    past_profiles: pa.Table
    items: Items


@dataclass(frozen=True)
class ProfileUpdate:
    """Tonight's PROFILES, and the versions they replaced that may still be asked for."""

    profiles: pa.Table
    past_profiles: pa.Table


@dataclass(frozen=True)
class _Work:
    """Users whose fold goes on tonight, ascending.

    Attributes:
        users: (u,) int64.
        since: (u,) int64; versions with a later cut-off are built again.
        forced: (u,) bool; gets a version tonight even without new events.
    """

    users: IntArray
    since: IntArray
    forced: BoolArray


@dataclass(frozen=True)
class _Events:
    """Positive events by (place of their user, event id): (e,) int64 arrays."""

    user: IntArray
    at: IntArray
    item: IntArray
    code: IntArray

    def of(self, mask: BoolArray) -> _Events:
        if mask.all():
            return self
        return _Events(self.user[mask], self.at[mask], self.item[mask], self.code[mask])


def build_profiles(
    inputs: ProfileInputs,
    config: ProfileConfig,
    actions: Actions,
    *,
    now: int,
    cutoffs: IntArray,
    horizon_us: int,
) -> ProfileUpdate:
    """Bring PROFILES up to cut-off `now`.

    Users without new positive events keep their rows, unless these were clustered by vectors of
    another version than the catalogue's: then they are built again as of `now`. A night whose
    window holds no item of the catalogue makes no version.

    PAST_PROFILES keeps, of the versions that were replaced, those with
    `cutoff > last earlier cut-off - horizon`, and each user's newest before these.

    Args:
        inputs: The tables.
        config: Clustering, window, lineage.
        actions: The configured actions.
        now: Tonight's cut-off, exclusive, microseconds.
        cutoffs: Ascending cut-offs of all earlier nights, microseconds.
        horizon_us: How long after its time an event may still come, microseconds.
    """
    work = _work(inputs, now)
    idle = _without_users(inputs.profiles, work.users)
    current, past = _versions_before(inputs, work)
    events = _positive_events(inputs.history, work.users, actions)
    previous, earliest = _FIRST, int(work.since.min(initial=now))
    for night in (*(int(c) for c in cutoffs), now):
        if night <= earliest:
            previous = night
            continue
        new = np.zeros(len(work.users), np.bool_)
        new[events.user[(events.at >= previous) & (events.at < night)]] = True
        due = (work.since < night) & (new | (work.forced & (night == now)))
        previous = night
        if due.any():
            seen = events.of(due[events.user] & (events.at < night))
            built = _build_version(seen, work.users, current, inputs.items, config, actions, night)
            replaced = pc.is_in(current["user_id"], value_set=_users_of(built))
            past = pa.concat_tables([past, current.filter(replaced)])
            current = pa.concat_tables([current.filter(pc.invert(replaced)), built])
            current = _in_order(current, PROFILES.key)
    profiles = _in_order(pa.concat_tables([idle, current]), PROFILES.key)
    past = pa.concat_tables([_without_users(inputs.past_profiles, work.users), past])
    bound = int(cutoffs[-1]) - horizon_us if len(cutoffs) else _FIRST
    past = _reachable(_in_order(past, PAST_PROFILES.key), profiles, bound)
    return ProfileUpdate(PROFILES.check(profiles), PAST_PROFILES.check(past))


def _work(inputs: ProfileInputs, now: int) -> _Work:
    touched, since = ints(inputs.touched, "user_id"), ints(inputs.touched, "since")
    other = pc.not_equal(inputs.profiles["embedding_version"], inputs.items.version)
    stale = np.setdiff1d(ints(inputs.profiles.filter(other), "user_id"), touched)
    users = np.r_[touched, stale]
    order = np.argsort(users, kind="stable")
    return _Work(
        users[order],
        np.r_[since, np.full(len(stale), now - 1)][order],
        np.r_[np.zeros(len(touched), np.bool_), np.ones(len(stale), np.bool_)][order],
    )


def _versions_before(inputs: ProfileInputs, work: _Work) -> tuple[pa.Table, pa.Table]:
    """PROFILES rows of the newest version not to be built again, and of those before it."""
    tables = [t.cast(PROFILES.arrow) for t in (inputs.profiles, inputs.past_profiles)]
    rows = pa.concat_tables(tables)
    users, cutoff = ints(rows, "user_id"), ints(rows, "cutoff")
    place, ours = _places(work.users, users)
    ours[ours] = cutoff[ours] <= work.since[place[ours]]
    rows, place, cutoff = rows.filter(pa.array(ours)), place[ours], cutoff[ours]
    newest = np.full(len(work.users), _FIRST)
    np.maximum.at(newest, place, cutoff)
    latest = cutoff == newest[place]
    current = sort_rows(rows.filter(pa.array(latest)), PROFILES.key)
    return current, rows.filter(pa.array(~latest))


def _positive_events(history: pa.Table, users: IntArray, actions: Actions) -> _Events:
    place, wanted = _places(users, ints(history, "user_id"))
    wanted &= positive_events(history, actions)
    if not wanted.all():
        history, place = history.filter(pa.array(wanted)), place[wanted]
    ids = ints(history, "event_id")
    if not ((place[1:] > place[:-1]) | ((place[1:] == place[:-1]) & (ids[1:] > ids[:-1]))).all():
        order = np.lexsort((ids, place))
        history, place = history.take(pa.array(order)), place[order]
    columns = (ints(history, name) for name in ("at", "item_id", "action"))
    return _Events(place, *columns)


def _build_version(
    events: _Events,
    all_users: IntArray,
    current: pa.Table,
    items: Items,
    config: ProfileConfig,
    actions: Actions,
    cutoff: int,
) -> pa.Table:
    """PROFILES rows of all users of `events`, all of which lie before `cutoff`."""
    bounds = group_offsets(events.user)
    members = _Members.read(events, bounds, items, config)
    users = all_users[events.user[bounds[:-1]]][members.of_users]
    labels = ward_labels_batch(members.offsets, members.rows, items.vectors, config.alpha)
    groups, user_offsets = number_groups(labels, members.offsets)
    as_of = np.maximum.reduceat(events.at, bounds[:-1])
    worth = np.array([a.importance for a in actions])[events.code] * importance_weights(
        events.at, np.repeat(as_of, np.diff(bounds)), config.importance_decay
    )
    new = _clusters(members, groups, user_offsets, worth, items)
    counted = members.of_events >= 0
    sums = sum_engagements(
        groups[members.of_events[counted]],
        events.at[counted],
        events.code[counted],
        worth[counted],
        (len(new.medoids), len(actions)),
    )
    lineage = _lineage(new, users, current, items, config.lineage_threshold)
    n_clusters = np.diff(user_offsets)
    return PROFILES.build(
        {
            "user_id": np.repeat(users, n_clusters),
            "as_of": np.repeat(as_of[members.of_users], n_clusters),
            "n_born": np.repeat(lineage.n_born, n_clusters),
            "cutoff": np.full(len(new.medoids), cutoff),
            "embedding_version": pa.repeat(items.version, len(new.medoids)),
            **_cluster_columns(new, sums, lineage),
        }
    )


def _clusters(
    members: _Members, groups: IntArray, user_offsets: IntArray, worth: FloatArray, items: Items
) -> Clusters:
    """Tonight's clusters; `worth` (e,) is what each event adds to importance."""
    order, offsets = group_members(groups, int(user_offsets[-1]))
    counted = members.of_events >= 0
    weights = np.bincount(members.of_events[counted], worth[counted], len(members.items))
    medoids = order[cluster_medoids(offsets, members.rows[order], items.vectors)]
    return Clusters(
        user_offsets=user_offsets,
        member_offsets=offsets,
        members=members.items[order],
        weights=np.maximum(weights[order], _TRACE),
        medoids=members.items[medoids],
        medoid_rows=members.rows[medoids],
        ids=np.zeros(len(medoids), np.int64),
    )


def _cluster_columns(new: Clusters, sums: ClusterSums, lineage: Lineage) -> dict[str, Any]:
    """The columns of PROFILES that differ by cluster."""
    offsets = pa.array(new.member_offsets.astype(np.int32))
    return {
        "cluster_id": lineage.ids,
        "medoid_item_id": new.medoids,
        "item_ids": pa.ListArray.from_arrays(offsets, pa.array(new.members)),
        "n_items": np.diff(new.member_offsets),
        "action_counts": counts_list(sums.action_counts),
        "importance": sums.importance,
        "first_at": sums.first_at,
        "last_at": sums.last_at,
        "lineage": lineage.names(),
        "from_cluster_ids": lineage.sources(),
    }


@dataclass(frozen=True)
class _Members:
    """The distinct items of each user's window that the catalogue knows, by ascending id.

    Attributes:
        of_users: (v,) bool; which of the users have any.
        offsets: (u + 1,) int64 bounds of those users' members.
        items: (m,) int64.
        rows: (m,) int64 rows of the catalogue.
        of_events: (e,) int64 member of each event; -1 where it does not count.
    """

    of_users: BoolArray
    offsets: IntArray
    items: IntArray
    rows: IntArray
    of_events: IntArray

    @classmethod
    def read(
        cls, events: _Events, bounds: IntArray, items: Items, config: ProfileConfig
    ) -> _Members:
        member, found, offsets = read_back(
            bounds, events.at, events.item, config.window_us, config.max_items
        )
        rows = items.rows_of(found)
        known = rows >= 0
        if not known.all():
            places = np.r_[0, np.cumsum(known)]
            member[member >= 0] = np.where(known, places[:-1], -1)[member[member >= 0]]
            found, rows, offsets = found[known], rows[known], places[offsets]
        some = offsets[1:] > offsets[:-1]
        return cls(some, np.r_[0, offsets[1:][some]], found, rows, member)


def _lineage(
    new: Clusters, users: IntArray, current: pa.Table, items: Items, threshold: float
) -> Lineage:
    """The identity of new clusters, by the `current` rows (in key order) of their users."""
    of_users = pc.is_in(current["user_id"], value_set=pa.array(users))
    old = current.filter(of_users)
    if not old.num_rows:
        nobody = np.zeros(len(users), np.int64)
        return trace_lineage(new, no_clusters(len(users)), nobody, items.vectors, threshold)
    lists = old["item_ids"].combine_chunks()
    old_users, medoids = ints(old, "user_id"), ints(old, "medoid_item_id")
    ends = np.searchsorted(old_users, users, side="right")
    starts = np.searchsorted(old_users, users)
    same = np.asarray(pc.equal(old["embedding_version"], items.version).to_numpy())
    before = Clusters(
        user_offsets=np.r_[0, ends].astype(np.int64),
        member_offsets=np.r_[0, np.cumsum(ints(old, "n_items"))].astype(np.int64),
        members=lists.flatten().to_numpy(),
        weights=np.empty(0),
        medoids=medoids,
        medoid_rows=np.where(same, items.rows_of(medoids), -1),
        ids=ints(old, "cluster_id"),
    )
    n_born = np.where(ends > starts, ints(old, "n_born")[np.minimum(starts, len(old_users) - 1)], 0)
    return trace_lineage(new, before, n_born, items.vectors, threshold)


def _reachable(past: pa.Table, profiles: pa.Table, bound: int) -> pa.Table:
    """Past versions with a cut-off after `bound`, and each user's newest up to it."""
    users, first = np.unique(ints(profiles, "user_id"), return_index=True)
    holds = ints(profiles, "cutoff")[first]
    past_users, cutoff = ints(past, "user_id"), ints(past, "cutoff")
    place, ours = _places(users, past_users)
    newest = np.full(len(users) + 1, _FIRST)
    newest[:-1][holds <= bound] = bound
    older = cutoff <= bound
    place[~ours] = len(users)
    np.maximum.at(newest, place[older], cutoff[older])
    return past.filter(pa.array(~older | (cutoff == newest[place])))


def _places(sorted_ids: IntArray, wanted: IntArray) -> tuple[IntArray, BoolArray]:
    """(n,) place of each wanted id in `sorted_ids`, and whether it is there."""
    if not len(sorted_ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    places = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
    return places, sorted_ids[places] == wanted


def _users_of(table: pa.Table) -> pa.Array:
    return pc.unique(table["user_id"].combine_chunks())


def _without_users(table: pa.Table, users: IntArray) -> pa.Table:
    if not len(users) or not table.num_rows:
        return table
    return table.filter(pc.invert(pc.is_in(table["user_id"], value_set=pa.array(users))))


def _in_order(table: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Rows by `key`; a table that is in order already is not copied."""
    columns = [ints(table, name) for name in key]
    after, same = np.zeros(max(table.num_rows - 1, 0), np.bool_), True
    for column in columns:
        after = after | (same & (column[1:] > column[:-1]))
        same = same & (column[1:] == column[:-1])
    return table if after.all() else table.take(pa.array(np.lexsort(columns[::-1])))
