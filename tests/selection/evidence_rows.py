"""Outcomes and item rates for the tests of the evidence prior."""

from typing import Any

import numpy as np
import pyarrow as pa

from selection.evidence import OUTCOME_COLUMNS
from selection.tables import ITEM_RATES, OUTCOMES
from tests.selection.reward_rows import NOW


def outcome_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """OUTCOMES; every row an impression of user 1 just before the cut-off, of value 0."""
    full = {
        "draw_id": 0, "run_date": 0, "user_id": 1, "query_type": "", "query_id": None,
        "cluster_id": None, "item_id": 10, "at": NOW, "surface": "home", "arm": "", "policy": "",
        "position": None, "examination": 1.0, "value": 0.0, "actions": 0, "credit": 1.0,
        "attribution": "none", "propensity": None,
    }  # fmt: skip
    made = [full | {"impression_id": i} | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist(made, schema=OUTCOMES.arrow)


def evidence_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Of OUTCOMES, the columns that the evidence is made of."""
    return outcome_rows(rows).select(list(OUTCOME_COLUMNS))


def rate_rows(rows: list[dict[str, Any]]) -> pa.Table:
    full = {"surface": "home", "arm": "", "impressions": 1, "as_of": NOW}
    return pa.Table.from_pylist([full | row for row in rows], schema=ITEM_RATES.arrow)


def all_neighbours(vectors: np.ndarray, k: int) -> np.ndarray:
    """(n, k) rows nearest to each row, itself left out, by brute force; -1 where there are none."""
    near = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(near, -np.inf)
    found = np.argsort(-near.round(6), axis=1, kind="stable")[:, :k]
    found[np.take_along_axis(near, found, axis=1) == -np.inf] = -1
    rest = np.full((len(vectors), max(0, k - found.shape[1])), -1)
    return np.concatenate([found, rest], axis=1)
