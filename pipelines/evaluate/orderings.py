"""The rows of the profile trial, and what PinnerSage's tables say about their order.

Numbers are lifts over the last item, from the paper's offline table (Pal et al., KDD 2020, section
5), found on other data, by another relevance (`retrieval.evaluation.nearness`) and without error
bars: only their order is compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from profiling.bootstrap import Estimate
from retrieval.evaluation.measures import Comparison
from retrieval.evaluation.nearness import EVERY

SERVED = 0  # as a number of vectors: as many as the trial asks for
NIGHT = "ward_0.01"
LAST_ITEM = "items@1"
JUDGED = ("relevance", "recall")


class Entry(NamedTuple):
    """A row of the main table.

    Attributes:
        label: What stands for a user; `{e}` is the number of vectors.
        method: In `retrieval.evaluation.representatives.METHODS`.
        vectors: How many.
        published: Lifts in relevance and recall over the last item; None where there is none.
    """

    label: str
    method: str
    vectors: int = SERVED
    published: tuple[float, float] | None = None


ENTRIES = (
    Entry("last item", "items", 1, (0.0, 0.0)),
    Entry("last {e} items", "items"),
    Entry("decayed average, lambda 0", "average_0", 1),
    Entry("decayed average, lambda 0.01", "average_0.01", 1, (0.28, 0.14)),
    Entry("decayed average, lambda 0.1", "average_0.1", 1),
    Entry("decayed average, lambda 0.25", "average_0.25", 1),
    Entry("Ward, one interest drawn", NIGHT, 1, (0.33, 0.18)),
    Entry("k-means, k = 5", "k_means_5", SERVED, (0.91, 0.68)),
    Entry("k-means, as many as Ward", "k_means"),
    Entry("complete linkage, as many as Ward", "complete", SERVED, (0.88, 0.65)),
    Entry("Ward, centroid", "ward_centroid", SERVED, (1.05, 0.81)),
    Entry("Ward, lambda 0", "ward_0", SERVED, (0.97, 0.72)),
    Entry("Ward, lambda 0.1", "ward_0.1", SERVED, (0.94, 0.69)),
    Entry("Ward, lambda 0.01", NIGHT, SERVED, (1.10, 0.88)),
    Entry("Ward, most important first", "ward_top"),
    Entry("Ward, every interest", NIGHT, EVERY),
    Entry("every item of the history", "items", EVERY),
)


class Ordering(NamedTuple):
    """Something the paper reports: the first is above the second.

    Attributes:
        claim: In words.
        first: Method and number of vectors.
        second: The same.
        published: Lift of each, in relevance and in recall.
    """

    claim: str
    first: tuple[str, int]
    second: tuple[str, int]
    published: tuple[tuple[float, float], tuple[float, float]]


ORDERINGS = (
    Ordering(
        "decayed average > last item",
        ("average_0.01", 1), ("items", 1), ((0.28, 0.0), (0.14, 0.0)),
    ),
    Ordering(
        "one drawn > decayed average",
        (NIGHT, 1), ("average_0.01", 1), ((0.33, 0.28), (0.18, 0.14)),
    ),
    Ordering(
        "{e} drawn > decayed average",
        (NIGHT, SERVED), ("average_0.01", 1), ((1.10, 0.28), (0.88, 0.14)),
    ),
    Ordering(
        "{e} drawn > one drawn",
        (NIGHT, SERVED), (NIGHT, 1), ((1.10, 0.33), (0.88, 0.18)),
    ),
    Ordering(
        "Ward > k-means (5)",
        (NIGHT, SERVED), ("k_means_5", SERVED), ((1.10, 0.91), (0.88, 0.68)),
    ),
    Ordering(
        "Ward > complete linkage",
        (NIGHT, SERVED), ("complete", SERVED), ((1.10, 0.88), (0.88, 0.65)),
    ),
    Ordering(
        "k-means (5) > complete linkage",
        ("k_means_5", SERVED), ("complete", SERVED), ((0.91, 0.88), (0.68, 0.65)),
    ),
    Ordering(
        "medoid > centroid",
        (NIGHT, SERVED), ("ward_centroid", SERVED), ((1.10, 1.05), (0.88, 0.81)),
    ),
    Ordering(
        "lambda 0.01 > lambda 0",
        (NIGHT, SERVED), ("ward_0", SERVED), ((1.10, 0.97), (0.88, 0.72)),
    ),
    Ordering(
        "lambda 0 > lambda 0.1",
        ("ward_0", SERVED), ("ward_0.1", SERVED), ((0.97, 0.94), (0.72, 0.69)),
    ),
)  # fmt: skip
KNEE = "gain to 3 > gain from 3 to 5"  # of figure 7, which has no numbers


def ordering_rows(comparison: Comparison, served: int) -> list[dict[str, Any]]:
    """Every ordering in relevance and recall, with what this log says of it."""
    rows = []
    for number, figure in enumerate(JUDGED):
        for ordering in ORDERINGS:
            first, second = (arm(m, e, served) for m, e in (ordering.first, ordering.second))
            found = comparison.difference(first, second, figure)
            claim = ordering.claim.format(e=served)
            rows.append(_row(claim, figure, found) | _published(*ordering.published[number]))
        gain = comparison.gain(
            figure, (f"{NIGHT}@3", f"{NIGHT}@1"), over=(f"{NIGHT}@5", f"{NIGHT}@3")
        )
        rows.append(_row(KNEE, figure, gain) | _published(None, None))
    return rows


def arm(method: str, vectors: int, served: int) -> str:
    """The name of a method with a number of vectors."""
    return f"{method}@{vectors or served}"


def _row(claim: str, figure: str, found: Estimate) -> dict[str, Any]:
    return {
        "claim": claim,
        "figure": figure,
        "difference": found.value,
        "difference_low": found.low,
        "difference_high": found.high,
        "verdict": verdict(found),
    }


def _published(first: float | None, second: float | None) -> dict[str, Any]:
    return {"published_first": first, "published_second": second}


def verdict(found: Estimate) -> str:
    """`confirmed` or `reversed` where the interval leaves out 0, else `not confirmed`."""
    if found.low > 0:
        return "confirmed"
    return "reversed" if found.high < 0 else "not confirmed"
