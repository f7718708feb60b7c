"""What the spacing classes did in a night, for people; the alarm when a label rate drifts."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.health.records import Alarm
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from retrieval.spacing.measures import JOINT, MILLI, margin, step_of

LEAST_NIGHTS = 3  # before them, a trailing mean says little


def spacing_report(manifest: Manifest) -> list[str]:
    """Lines on what each class did; none for a night without classes. Alarms are `drifts`."""
    classes = [c["id"] for c in manifest.config.get("spacing", {}).get("classes", ())]
    lines = [_line(manifest, one) for one in classes if step_of(one) in manifest.counts]
    if not lines:
        return []
    lines.append(_joint_line(manifest.counts[JOINT]))
    return lines


def drifts(warehouse: Warehouse, manifest: Manifest) -> list[Alarm]:
    """Classes whose label rate left its trailing mean by more than `drift_share` of it."""
    config = manifest.config.get("spacing")
    if config is None:  # a night of before there were classes
        return []
    before = _nights_before(warehouse, manifest, config["drift_nights"])
    found = []
    for one in (c["id"] for c in config["classes"]):
        rate = label_rate(manifest, one)
        rates = [r for r in (label_rate(m, one) for m in before) if r is not None]
        if rate is None or len(rates) < LEAST_NIGHTS:
            continue
        mean = sum(rates) / len(rates)
        if abs(rate - mean) > config["drift_share"] * mean:
            message = (
                f"{rate:.2%} of the candidates carry its label, {mean:.2%} in the nights before; "
                "look at what labels the items before trusting its weight"
            )
            found.append(Alarm(one, message))
    return found


def label_rate(manifest: Manifest, class_id: str) -> float | None:
    """Share of the night's candidates that are of the class; None where it was not counted."""
    counts = manifest.counts.get(step_of(class_id))
    if not counts or not counts["candidates"]:
        return None
    return counts["labelled"] / counts["candidates"]


def _nights_before(warehouse: Warehouse, manifest: Manifest, n: int) -> list[Manifest]:
    found: list[Manifest] = []
    while manifest.parent is not None and len(found) < n:
        manifest = warehouse.manifest(manifest.parent)
        found.append(manifest)
    return found


def _line(manifest: Manifest, class_id: str) -> str:
    c = manifest.counts[step_of(class_id)]
    placed, measured = max(c["placed"], 1), max(c.get("measured_placed", c["placed"]), 1)
    lost = _estimate(c, c["positions_lost"], c.get("positions_lost_squares", 0))
    return (
        f"spacing {class_id}: {c['labelled'] / max(c['candidates'], 1):.2%} of the candidates, "
        f"{c['placed_labelled_before'] / measured:.2%} of the feed without spacing, "
        f"{c['placed_labelled'] / placed:.2%} with; neighbours "
        f"{c['adjacent_before'] / measured:.2%} -> {c['adjacent'] / placed:.2%} of the places; "
        f"positions lost {lost}; decided {c['decided']:,} places; penalty "
        f"{c['demotion_milli'] / MILLI / placed:.4f} a place"
    )


def _joint_line(joint: Mapping[str, int]) -> str:
    before = max(joint["gained_before_milli"], 1)
    given_up = joint["gained_before_milli"] - joint["gained_milli"]
    line = (
        f"spacing, all classes: demoted {joint['demoted']:,} of {joint['placed']:,} places, capped "
        f"{joint['capped']:,}; utility given up {given_up / before:.2%}"
    )
    users, measured = joint.get("users", 0), joint.get("measured_users", 0)
    if measured == users:
        return line
    half = margin(given_up, joint["given_up_milli_squares"], measured, users) * measured / users
    return f"{line} ± {half / before:.2%}, measured on {measured:,} of {users:,} users"


def _estimate(counts: Mapping[str, int], total: int, squares: int) -> str:
    """A sum over all users from the measured ones; nights before this counted all."""
    users, measured = counts.get("users", 0), counts.get("measured_users", 0)
    if measured == users:
        return f"{total:,}"
    half = margin(total, squares, measured, users)
    return f"{total * users / max(measured, 1):,.0f} ± {half:,.0f}"
