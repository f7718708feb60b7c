"""What a cluster without a record of its own is worth, and how many impressions that belief weighs.

The model, per surface and arm, of an outcome y in [0, 1] of a cluster c of a user u:

    E[m_u] = m, Var(m_u) = sigma^2 / K;   E[theta_c | u] = m_u, Var(theta_c | u) = sigma^2 / k;
    E[y | theta_c] = theta_c, E Var(y | theta_c) = sigma^2

so k and K are in impressions, and the best linear estimates (Buehlmann and Straub 1970) are those
of design, section 4:

    r_c = (V_c + k m_u) / (n_c + k),  m_u = (sum s_c rate_c + K m) / (sum s_c + K)

With yes-or-no outcomes and Beta truths, k is a + b of the clusters around their user's mean.

Every variance is estimated from products of *different* outcomes or clusters, whose noise is
independent, so no sampling variance is in it that would have to be known:

    E[(sum_i x_i z_i)^2 - sum_i x_i^2 z_i^2] / ((sum x)^2 - sum x^2) = E[(theta_c - centre)^2],
    z = y - centre, exactly, for any weights x (decay included) and any y, binary or not.

This is Kish's correction without its approximation: what is left of the squared mean once its
sampling variance is taken out, n = (sum x)^2 / sum x^2 being the effective number of outcomes. All
terms are sums that add up over users and buckets, so one pass over the data is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from profiling.options import FORBID_UNKNOWN, check_options, option
from profiling.schema import Column, FloatArray, IntArray, TableSchema, floats, ints
from profiling.tables import F64, I64, TEXT
from selection.keys import key_bounds, name_codes, name_column, names_in

# Weight of a cluster in the fit: n / (n + 20), of pairs (n - 1) / (n - 1 + 20). Any number gives
# consistent estimates; this one wastes little where k is between 5 and 100.
WORKING_STRENGTH = 20.0
_FAMILIES = {
    "all": "outcomes, weight b = n / (n + 20) per cluster",
    "own": "outcomes, weight t = (n - 1) / (n + 19) per cluster",
    "pair": "pairs of outcomes of one cluster, weight t",
    "user": "pairs of clusters of one user, weight rising to 1 with their number",
    "other": "pairs of clusters of one user, weight: the sum of t of the user",
}

# In memory only. `s_0, s_1, s_2` give the second moment about any centre: s_2 - 2 c s_1 + c^2 s_0.
PRIOR_SUMS = TableSchema(
    "PRIOR_SUMS",
    1,
    ("surface", "arm"),
    (
        Column("surface", TEXT, "where"),
        Column("arm", TEXT, "arm of an isolated experiment, '' if all are pooled"),
        Column("users", I64, "with a record", low=0),
        Column("clusters", I64, "with a record", low=0),
        Column("weight", F64, "of their outcomes", low=0),
        Column("draw_w", F64, "closed draws", low=0),
        Column("drawn_w", F64, "weight of the outcomes that draws brought", low=0),
        Column("mean_0", F64, "weights of the users in the mean, in impressions", low=0),
        Column("mean_1", F64, "sum of weight * mean of y of the user", low=0),
        Column("lone_0", F64, "sum of t over users with one cluster", low=0),
        *(Column(f"{f}_{j}", F64, f"{_FAMILIES[f]}, y^{j}") for f in _FAMILIES for j in range(3)),
    ),
)
_TERMS = PRIOR_SUMS.names[2:]


@dataclass(frozen=True)
class PriorConfig:
    """What is believed before anything was seen, and the bounds of what is fitted."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    default_mean: float = option(
        0.05,
        "mean of y before any record; one impression of it stays in, so that no mean is 0",
        low=1e-9,
        high=1 - 1e-9,
    )
    default_strength: float = option(
        20.0, "k before any record, in impressions (design: evidence prior)", low=0.01
    )
    default_user_strength: float = option(
        20.0, "K before any record, in impressions (ours)", low=0.01
    )
    default_groups: float = option(
        20.0, "clusters and users that the defaults weigh in the variances (ours)", low=0.01
    )
    strength_low: float = option(1.0, "least k and K, in impressions (ours)", low=0.01)
    strength_high: float = option(
        10_000.0, "largest k and K, also where a variance comes out as 0 or less (ours)", low=1.0
    )
    draw_strength: float = option(
        5.0, "draws that the prior of impressions per draw is worth (ours)", low=0.01
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.strength_low > self.strength_high:
            raise ValueError(
                f"strength_low must be <= strength_high, got {self.strength_low:g} > "
                f"{self.strength_high:g}"
            )


@dataclass(frozen=True)
class RatePrior:
    """The fitted prior of one surface and arm; rates in units of y.

    Attributes:
        mean: m, in (0, 1).
        strength: k, impressions that a user's mean is worth to a cluster.
        user_strength: K, impressions that m is worth to a user's mean.
        trials: Yes-or-no outcomes that one impression is worth: 1 where y is 0 or 1, more where y
            varies less than such an outcome of its mean would.
        per_draw: Weighted impressions per closed draw; None where no draw ever closed.
        draw_strength: Draws that `per_draw` is worth to a cluster.
        users: Users with a record.
        clusters: Clusters with a record.
        weight: The decayed weight of their outcomes.
    """

    mean: float
    strength: float
    user_strength: float
    trials: float = 1.0
    per_draw: float | None = None
    draw_strength: float = 5.0
    users: int = 0
    clusters: int = 0
    weight: float = 0.0


@dataclass(frozen=True)
class Prior:
    """The priors by (surface, arm), and the one where nothing was ever seen."""

    default: RatePrior
    rates: Mapping[tuple[str, str], RatePrior]

    def of(self, surface: str, arm: str) -> RatePrior:
        """The prior of the arm, else of all arms pooled (''), else the default."""
        pooled = self.rates.get((surface, ""), self.default)
        return self.rates.get((surface, arm), pooled)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; floats survive the round trip exactly."""
        rates = [{"surface": s, "arm": a, **asdict(r)} for (s, a), r in sorted(self.rates.items())]
        return {"default": asdict(self.default), "rates": rates}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prior:
        """The inverse of `to_json`."""
        rates = {}
        for row in data["rates"]:
            fitted = {k: v for k, v in row.items() if k not in ("surface", "arm")}
            rates[row["surface"], row["arm"]] = RatePrior(**fitted)
        return cls(RatePrior(**data["default"]), rates)


def prior_sums(tallies: pa.Table, arms: str | Sequence[str] | pa.Array[Any]) -> pa.Table:
    """PRIOR_SUMS of one bucket's CLUSTER_TALLIES: one row per surface and arm, in that order.

    Args:
        tallies: Rows in any order; those without a record (w = 0) only add their draws.
        arms: The arm of each row's user, (n,), or one for all: '' where arms learn together.
    """
    n = tallies.num_rows
    one = name_column(np.zeros(n, np.int64), [arms]) if isinstance(arms, str) else pa.array(arms)
    arm_column = pa.chunked_array([one], pa.string())
    surfaces, arm_names = names_in(tallies["surface"]), names_in(arm_column)
    group = name_codes(tallies["surface"], surfaces) * len(arm_names)
    group += name_codes(arm_column, arm_names)
    present = np.unique(group)
    users = ints(tallies, "user_id")
    recorded = np.flatnonzero(
        np.any([floats(tallies, c) != 0 for c in ("w", "draw_w", "drawn_w")], axis=0)
    )  # the others add nothing
    order = recorded[
        np.lexsort((ints(tallies, "cluster_id")[recorded], group[recorded], users[recorded]))
    ]
    columns = {c: floats(tallies, c)[order] for c in ("w", "wy", "w2", "w2y", "w2y2")}
    group, users = group[order], users[order]
    size = len(surfaces) * len(arm_names)

    def add(groups: IntArray, values: FloatArray) -> FloatArray:
        return np.bincount(groups, values, minlength=size)[present].astype(np.float64)

    sums = {c: add(group, floats(tallies, c)[order]) for c in ("draw_w", "drawn_w")}
    seen = (columns["w"] > 0) & (columns["w2"] > 0)
    terms = _user_terms(users[seen], group[seen], {c: v[seen] for c, v in columns.items()})
    groups = terms.pop("group").astype(np.int64)
    sums |= {c: add(groups, v) for c, v in terms.items()}
    sums |= {c: sums[c].astype(np.int64) for c in ("users", "clusters")}
    surface, arm = np.divmod(present, max(len(arm_names), 1))
    names = {"surface": name_column(surface, surfaces), "arm": name_column(arm, arm_names)}
    return PRIOR_SUMS.build(names | sums)


def _user_terms(
    users: IntArray, group: IntArray, columns: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """The terms of PRIOR_SUMS by user and group, (g,) each; rows sorted by both, w > 0."""
    w, wy, w2, w2y, w2y2 = (columns[c] for c in ("w", "wy", "w2", "w2y", "w2y2"))
    starts = key_bounds(users, group[:, None])[:-1]

    def add(values: FloatArray) -> FloatArray:
        return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)

    n = w * w / w2
    spare = np.maximum(n - 1.0, 0.0)
    b = n / (n + WORKING_STRENGTH)
    t = spare / (spare + WORKING_STRENGTH)
    pair = 1.0 / (w2 * (spare + WORKING_STRENGTH))  # t / ((sum x)^2 - sum x^2)
    rate, y1, y2 = wy / w, w2y / w2, w2y2 / w2
    b_sum, b_rate, t_sum = add(b), add(b * rate), add(t)
    impressions = WORKING_STRENGTH * b_sum
    mean_weight = impressions * WORKING_STRENGTH / (impressions + WORKING_STRENGTH)
    terms: dict[str, FloatArray] = {
        "group": group[starts].astype(np.float64),
        "users": np.ones(len(starts)),
        "clusters": add(np.ones(len(w))),
        "weight": add(w),
        "mean_0": mean_weight,
        "mean_1": mean_weight * b_rate / b_sum,
    }
    of_outcomes = {
        "all": (b, b * y1, b * y2),
        "own": (t, t * y1, t * y2),
        "pair": (t, pair * (w * wy - w2y), pair * (wy * wy - w2y2)),
    }
    terms |= {f"{f}_{j}": add(v[j]) for f, v in of_outcomes.items() for j in range(3)}
    # Pairs of different clusters: (sum b z)^2 - sum (b z)^2, z = rate - centre.
    several = terms["clusters"] > 1
    both = b_sum * b_sum - add(b * b)
    one = np.divide(b_sum * b_rate - add(b * b * rate), both, where=several, out=both * 0)
    two = np.divide(b_rate * b_rate - add((b * rate) ** 2), both, where=several, out=both * 0)
    for family, weight in (("user", both / (1.0 + both)), ("other", t_sum)):
        weight = np.where(several, weight, 0.0)
        terms |= {f"{family}_0": weight, f"{family}_1": weight * one, f"{family}_2": weight * two}
    terms["lone_0"] = np.where(several, 0.0, t_sum)
    return terms


def fit_prior(sums: Sequence[pa.Table | Sequence[Mapping[str, Any]]], config: PriorConfig) -> Prior:
    """The prior of every surface and arm, by moments that hold no sampling variance.

    Args:
        sums: PRIOR_SUMS of every bucket, as a table or its rows, in the buckets' order, in which
            they are added.
        config: Defaults and bounds. Default strengths enter the variances as `default_groups`
            clusters and users would, so few records move them little and none leave them as they
            are; the default mean enters as one impression.
    """
    totals: dict[tuple[str, str], dict[str, float]] = {}
    tables = [t.to_pylist() if isinstance(t, pa.Table) else t for t in sums]
    for row in (row for rows in tables for row in rows):
        total = totals.setdefault((row["surface"], row["arm"]), dict.fromkeys(_TERMS, 0.0))
        for name in _TERMS:
            total[name] += row[name]
    default = RatePrior(
        config.default_mean,
        _bounded(config.default_strength, config),
        _bounded(config.default_user_strength, config),
        draw_strength=config.draw_strength,
    )
    return Prior(default, {key: _fit(total, config) for key, total in sorted(totals.items())})


def _fit(total: Mapping[str, float], config: PriorConfig) -> RatePrior:
    m = (total["mean_1"] + config.default_mean) / (total["mean_0"] + 1.0)

    centre = total["mean_1"] / total["mean_0"] if total["mean_0"] else m

    def about(family: str) -> float:
        zero, one, two = (total[f"{family}_{j}"] for j in range(3))
        return two - 2 * centre * one + centre * centre * zero

    extra = config.default_groups
    # What the defaults are worth in variance: parts of the outcomes' own, which is never 0 here.
    typical = (about("all") + m * (1 - m)) / (total["all_0"] + 1.0)
    of_cluster, of_user = typical / config.default_strength, typical / config.default_user_strength
    clusters = total["own_0"] + extra
    sigma2 = max((about("own") - about("pair") + extra * typical) / clusters, 1e-3 * typical)
    # Of a user with one cluster only the sum of both variances shows: split as by default.
    both = max((about("pair") + extra * (of_cluster + of_user)) / clusters, 0.0)
    split = both * of_user / (of_cluster + of_user)
    user_variance = (about("user") + extra * split) / (total["user_0"] + extra)
    user_strength = _bounded(_ratio(sigma2, user_variance), config)
    others = about("other") + total["lone_0"] * sigma2 / user_strength
    cluster_variance = (about("pair") - others + extra * of_cluster) / clusters
    spread = (total["own_1"] - total["own_2"]) / clusters
    draws = total["draw_w"]
    return RatePrior(
        mean=m,
        strength=_bounded(_ratio(sigma2, cluster_variance), config),
        user_strength=user_strength,
        trials=1.0 + min(max(spread, 0.0) / sigma2, 1e4),
        # One draw that brought one impression stays in, so that it is never 0.
        per_draw=(total["drawn_w"] + 1.0) / (draws + 1.0) if draws > 0 else None,
        draw_strength=config.draw_strength,
        users=int(total["users"]),
        clusters=int(total["clusters"]),
        weight=total["weight"],
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else np.inf


def _bounded(strength: float, config: PriorConfig) -> float:
    return float(min(max(strength, config.strength_low), config.strength_high))
