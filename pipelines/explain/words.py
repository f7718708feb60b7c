"""Numbers of one user's story as sentences."""

from __future__ import annotations

from pipelines.explain.interests import Interest, Worth
from pipelines.explain.places import Drawn, Place, Seen
from pipelines.pages.report import percent


def leaning(worth: Worth) -> str:
    """What a reward leans on."""
    if worth.prior_source == "global average":
        return f"nothing known of this user: the average of all users, {worth.prior_mean:.3f}"
    if worth.prior_source == "user average" or worth.weight <= 0:
        return f"no record of its own: this user's average, {worth.prior_mean:.3f}"
    own = worth.weight / (worth.weight + worth.prior_strength)
    rate = "" if worth.raw_rate is None else f" ({worth.raw_rate:.3f})"
    return (
        f"{percent(own, 0)} its own record of {worth.weight:.1f} impressions{rate}, the rest this "
        f"user's average, {worth.prior_mean:.3f}"
    )


def counted(n: int, noun: str) -> str:
    """'1 item', '2 items'."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def worth_of(worth: Worth) -> str:
    """A reward with its interval."""
    return f"{worth.reward:.3f} ({worth.low:.3f} to {worth.high:.3f})"


def growth(interest: Interest) -> str:
    """'4 > 6 > 9 items'; nights without a change are left out."""
    sizes = [s.n_items for s in interest.sizes]
    changes = [n for i, n in enumerate(sizes) if i == 0 or n != sizes[i - 1]]
    kept = changes if len(changes) <= 6 else [changes[0], *changes[-5:]]
    return " > ".join(map(str, kept))


def members(interest: Interest, most: int) -> str:
    """Titles of its members, the medoid first."""
    titles = [m.title for m in interest.members if m.item_id != interest.medoid.item_id]
    rest = len(titles) - most
    return ", ".join(titles[:most]) + (f" and {rest} more" if rest > 0 else "")


def brought(draw: Drawn) -> str:
    """What a draw brought."""
    places = len(draw.positions)
    feed = f"{counted(places, 'place')} of the feed" if places else "no place of the feed"
    first = f", the first at {draw.positions[0]}" if places else ""
    return f"{counted(draw.candidates, 'candidate')}, {draw.on_topic} on topic; {feed}{first}"


def why(place: Place) -> str:
    """Why an item stands where it stands."""
    parts = [f"relevance {place.relevance:.3f}, number {place.rank + 1} of {place.candidates}"]
    if place.diversity:
        parts.append(f"newness adds {place.diversity:.3f}")
    parts += [f"{name} takes {penalty:.3f}" for name, penalty in place.penalties.items()]
    if place.rival is None:
        parts.append("nothing else was left")
    elif abs(place.margin) < 1e-9:
        parts.append(f"as good as {place.rival}, the smaller id")
    else:
        parts.append(f"beats {place.rival} by {place.margin:.3f}")
    if place.decided_by:
        parts.append(f"only since {', '.join(place.decided_by)} works")
    return "; ".join(parts)


def fate(place: Place) -> str:
    """Whether it was seen, and what the user did."""
    return ", ".join(place.done) if place.done else "shown" if place.shown else ""


def did(seen: Seen) -> str:
    """What the user did with an impression."""
    return ", ".join(seen.done) or "nothing"


def came_from(seen: Seen, interests: tuple[Interest, ...]) -> str:
    """The interest that an impression is attributed to."""
    if seen.cluster_id is None:
        return "no interest"
    names = {i.cluster_id: i.medoid.title for i in interests}
    told = names.get(seen.cluster_id)
    how = "" if seen.attribution == "logged" else f", {seen.attribution}"
    return f"{seen.cluster_id}" + (f" {told}" if told else "") + how
