"""The evidence prior: which interest without a record of its own is likely to be good.

A user's average says nothing about *which* interest is good. Two sources do: what this user did
with items like the query, and what everyone did with items around it (ours; design, section 4).
For a query q of user u, with the user's ripe impressions i (weight x_i, outcome y_i in [0, 1]), the
items j around q with the sums (V_j, I_j) of ITEM_RATES, and the prior's m and m_u:

    w_i = x_i max(0, cos(e_q, e_i))^2       h = (sum_i w_i y_i + 1 m_u) / (sum_i w_i + 1), i != q
    g_j = (V_j + 10 m) / (I_j + 10)         G = mean of g_j over the 20 items nearest to q
    p = sigmoid(logit m_u + a (logit h - logit m_u)
                          + b (logit G - mean of logit G over the user's queries on the surface))

where the slopes a and b are fitted over all users (`selection.evidence_slopes`; in the design 1 and
.7), and a cluster with V_c of n_c impressions has r_c = (V_c + 20 p_c) / (n_c + 20). All sums are
decayed to the cut-off. Engagements without an impression are in none of them: they would be
positives without their negatives. Nor is an impression that is not ripe: its "no" may become "yes".
Nor, in h, is the impression of q itself: it was liked, or q would be no query, and one success is
left out wherever trials go on until it comes (Haldane 1945). With it, h was highest where a user
has seen nothing else: on KuaiRec it correlated with what queries brought by -.02, without by +.01.

The differences below are written so that a user about whom nothing is known has exactly m_u for
every query; then selection falls back to counts. The items around q leave out q itself: a query
never brings its own item.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profiling.compiling import njit
from profiling.decay import half_life_weights
from profiling.items import Items
from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import FloatArray, IntArray, floats, ints
from selection.keys import name_codes, sort_keys

# Of OUTCOMES, what the evidence is made of.
OUTCOME_COLUMNS = (
    *("user_id", "item_id", "surface", "at", "impression_id", "draw_id"),
    *("examination", "credit", "value"),
)
_LEAST = 1e-12  # a rate is held this far from 0 and 1 before its logit is taken


@dataclass(frozen=True)
class EvidenceConfig:
    """The evidence prior of selections with `prior: evidence`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    days: int = option(
        28, "how far back a user's own impressions are evidence, in days of the log (ours)", low=1
    )
    similarity_exponent: float = option(
        2.0, "exponent of the cosine of query and item (found on films and jokes)", low=0, high=64
    )
    own_strength: float = option(
        1.0,
        "impressions that the user's average is worth to h (found on films and jokes)",
        low=0.01,
    )
    item_strength: float = option(
        10.0, "impressions that m is worth to an item's rate (found on films and jokes)", low=0.01
    )
    neighbours: int = option(
        20, "items around a query whose rates are averaged (found on films and jokes)", low=1
    )
    own_weight: float = option(
        1.0, "slope a of the log odds of h, before any is fitted (the design's)", low=0, high=8
    )
    item_weight: float = option(
        0.7, "slope b of the log odds of G, before any is fitted (films and jokes)", low=0, high=8
    )
    slope_strength: float = option(
        500.0,
        "impressions that these two are worth to the fit over all users; .inf keeps them as they "
        "are (ours)",
        low=0,
    )
    strength: float = option(
        20.0, "impressions that p is worth to a cluster (found on films and jokes)", low=0.01
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Slopes:
    """How far the parts of the evidence are trusted.

    Attributes:
        own: a, of h.
        item: b, of G.
        users: That they were fitted on; 0: as configured.
        weight: Of those users' impressions, decayed.
    """

    own: float
    item: float
    users: int = 0
    weight: float = 0.0


@dataclass(frozen=True)
class EvidenceInputs:
    """What the evidence prior reads beside the records of queries.

    Attributes:
        arms: Whose users lean on it; '' stands for no experiment.
        outcomes: `OUTCOME_COLUMNS` of the users' ripe impressions, rows in any order.
        item_rates: ITEM_RATES of tonight.
        neighbours: (n, k) int64, the items nearest to each item of the catalogue, as rows of it;
            -1 where there are no more.
        config: Options.
        slopes: As fitted the night before; None: as configured.
    """

    arms: frozenset[str]
    outcomes: pa.Table
    item_rates: pa.Table
    neighbours: IntArray
    config: EvidenceConfig = field(default_factory=EvidenceConfig)
    slopes: Slopes | None = None


@dataclass(frozen=True)
class QueryGroups:
    """Tonight's queries, a group of rows for every user and surface.

    Attributes:
        bounds: (g + 1,) int64 bounds of the groups.
        users: (g,) int64 ascending; a user has a group on each surface.
        surfaces: (g,) int64 places in `surface_names`.
        surface_names: Ascending.
        arms: (g,) the arm of each group's user.
        fits: (g,) the arm whose fits hold for that user, as `fit_arms` gives it.
        queries: (n,) int64 rows of the catalogue, -1 where unknown.
        mean: (n,) float64, m of the row's surface and arm, units of y.
        user_mean: (n,) float64, m_u.
    """

    bounds: IntArray
    users: IntArray
    surfaces: IntArray
    surface_names: list[str]
    arms: npt.NDArray[np.str_]
    fits: npt.NDArray[np.str_]
    queries: IntArray
    mean: FloatArray
    user_mean: FloatArray


@dataclass(frozen=True)
class Evidence:
    """Of every query, (n,): whether its arm leans on it, h, G and p in units of y, else NaN.

    `strength`: impressions that p is worth.
    """

    used: npt.NDArray[np.bool_]
    own: FloatArray
    item: FloatArray
    prior: FloatArray
    strength: float


def no_evidence(n: int) -> Evidence:
    """For n queries of arms that do not lean on it."""
    unknown = np.full(n, np.nan)
    return Evidence(np.zeros(n, np.bool_), unknown, unknown, unknown, 1.0)


def weigh_evidence(
    groups: QueryGroups,
    inputs: EvidenceInputs,
    items: Items,
    *,
    now: int,
    half_life_days: float,
    value_range: tuple[float, float],
) -> Evidence:
    """The two parts of the evidence and the prior that they make, for every query.

    Args:
        groups: The queries.
        inputs: Outcomes, item rates, neighbours, constants.
        items: The catalogue.
        now: The cut-off, microseconds.
        half_life_days: Of every sum.
        value_range: (lo, hi) of an outcome's value.
    """
    config, sizes = inputs.config, np.diff(groups.bounds)
    slopes = inputs.slopes or Slopes(config.own_weight, config.item_weight)
    mine = np.isin(groups.arms, sorted(inputs.arms))
    used = np.repeat(mine, sizes)
    shown = shown_items(groups, inputs.outcomes, items, mine, now, half_life_days, value_range)
    own = own_evidence(groups, shown, items, config)
    item = item_evidence(groups, inputs, items, now, half_life_days)
    odds, mean = logit(item), logit(groups.user_mean)
    first = np.repeat(groups.bounds[:-1], sizes)
    above = odds - odds[first]
    centre = np.repeat(_mean(above, groups.bounds), sizes)
    total = mean + slopes.own * (logit(own) - mean) + slopes.item * (above - centre)
    nothing = (own == groups.user_mean) & (above == centre)  # then exactly m_u
    p = np.where(nothing, groups.user_mean, 1.0 / (1.0 + np.exp(-total)))
    unused = np.where(used, 0.0, np.nan)
    return Evidence(used, own + unused, item + unused, p + unused, config.strength)


class ShownItems(NamedTuple):
    """The users' ripe impressions, by group of queries.

    Attributes:
        bounds: (g + 1,) int64.
        rows: (o,) int64 rows of the catalogue.
        weights: (o,) float64, examination * credit, decayed to the cut-off.
        values: (o,) float64, y in [0, 1].
    """

    bounds: IntArray
    rows: IntArray
    weights: FloatArray
    values: FloatArray


def shown_items(
    groups: QueryGroups,
    outcomes: pa.Table,
    items: Items,
    mine: npt.NDArray[np.bool_],
    now: int,
    half_life_days: float,
    value_range: tuple[float, float],
) -> ShownItems:
    """Of the groups in `mine`, in the order of their time."""
    codes = name_codes(outcomes["surface"], groups.surface_names)
    group = _groups_of(groups, ints(outcomes, "user_id"), codes)
    rows = items.rows_of(ints(outcomes, "item_id"))
    kept = (group >= 0) & (rows >= 0)
    kept[kept] = mine[group[kept]]
    outcomes, group, rows = outcomes.filter(pa.array(kept)), group[kept], rows[kept]
    at = ints(outcomes, "at")
    keys = np.stack([at, ints(outcomes, "impression_id"), ints(outcomes, "draw_id")], axis=1)
    group, _, order = sort_keys(group, keys)
    lo, hi = value_range
    weights = floats(outcomes, "examination") * floats(outcomes, "credit")
    weights *= half_life_weights(at, now, half_life_days)
    values = np.clip((floats(outcomes, "value") - lo) / (hi - lo), 0.0, 1.0)
    bounds = np.searchsorted(group, np.arange(len(groups.users) + 1)).astype(np.int64)
    return ShownItems(bounds, rows[order], weights[order], values[order])


def _groups_of(groups: QueryGroups, users: IntArray, surfaces: IntArray) -> IntArray:
    """(n,) int64: the group of each user on each surface, -1 where there is none."""
    if len(groups.users) == 0:
        return np.full(len(users), -1, np.int64)
    several = len(groups.surface_names)
    known = groups.users[::several]
    place = np.minimum(np.searchsorted(known, users), len(known) - 1)
    found = (known[place] == users) & (surfaces >= 0)
    return np.where(found, place * several + surfaces, -1).astype(np.int64)


def own_evidence(
    groups: QueryGroups, shown: ShownItems, items: Items, config: EvidenceConfig
) -> FloatArray:
    """(n,) float64 h of every query, in (0, 1)."""
    weight, lift = _near_queries(
        groups.bounds,
        groups.queries,
        groups.user_mean,
        shown,
        np.ascontiguousarray(items.vectors),
        config.similarity_exponent,
    )
    return np.asarray(groups.user_mean + lift / (weight + config.own_strength))


@njit(cache=True, nogil=True)
def _near_queries(
    bounds: IntArray,
    queries: IntArray,
    centre: FloatArray,
    shown: ShownItems,
    vectors: npt.NDArray[np.float32],
    exponent: float,
) -> tuple[FloatArray, FloatArray]:
    """(n,) sums of w_i and of w_i (y_i - centre) over the impressions of each query's group.

    Added one by one: the same bits in any batch.
    """
    weight, lift = np.zeros(len(queries)), np.zeros(len(queries))
    width = vectors.shape[1]
    for g in range(len(bounds) - 1):
        for c in range(bounds[g], bounds[g + 1]):
            if queries[c] < 0:
                continue
            query = vectors[queries[c]]
            for i in range(shown.bounds[g], shown.bounds[g + 1]):
                if shown.rows[i] == queries[c]:
                    continue  # see the module
                item, cosine = vectors[shown.rows[i]], 0.0
                for d in range(width):
                    cosine += float(query[d]) * float(item[d])
                if cosine <= 0.0:
                    continue
                near = cosine * cosine if exponent == 2.0 else cosine**exponent
                weight[c] += near * shown.weights[i]
                lift[c] += near * shown.weights[i] * (shown.values[i] - centre[c])
    return weight, lift


def item_evidence(
    groups: QueryGroups, inputs: EvidenceInputs, items: Items, now: int, half_life_days: float
) -> FloatArray:
    """(n,) float64 G of every query, in (0, 1): m where nothing around it was ever shown."""
    rates, config = inputs.item_rates, inputs.config
    sizes = np.diff(groups.bounds)
    surface, fits = np.repeat(groups.surfaces, sizes), np.repeat(groups.fits, sizes)
    fade = half_life_weights(ints(rates, "as_of"), now, half_life_days)
    shown, brought = floats(rates, "w") * fade, floats(rates, "wy") * fade
    rows, item = items.rows_of(ints(rates, "item_id")), groups.mean.copy()
    codes, arms = name_codes(rates["surface"], groups.surface_names), sorted(set(groups.fits))
    arm_codes = name_codes(rates["arm"], arms)
    for code in np.unique(surface):
        for place, name in enumerate(arms):
            asked = np.flatnonzero((surface == code) & (fits == name) & (groups.queries >= 0))
            held = (codes == code) & (arm_codes == place) & (rows >= 0)
            if not len(asked) or not held.any():
                continue
            m = groups.mean[asked[0]]
            above = np.zeros(len(items.ids) + 1)  # the last is of no item
            above[rows[held]] = (brought[held] - shown[held] * m) / (
                shown[held] + config.item_strength
            )
            around = inputs.neighbours[groups.queries[asked]]
            there = np.maximum((around >= 0).sum(axis=1), 1)
            item[asked] = m + above[around].sum(axis=1) / there
    return item


def _mean(values: FloatArray, bounds: IntArray) -> FloatArray:
    """(g,) float64 mean of each group."""
    if len(values) == 0:
        return np.zeros(len(bounds) - 1)
    return np.asarray(np.add.reduceat(values, bounds[:-1]) / np.diff(bounds))


def logit(rates: FloatArray) -> FloatArray:
    """Log odds, (n,) float64 to the same; rates are held a little from 0 and 1."""
    held = np.clip(rates, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(held / (1.0 - held)))
