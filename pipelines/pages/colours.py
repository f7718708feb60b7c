"""The colours of our pages, light and dark; charts name them, so that one SVG serves both."""

from __future__ import annotations

# Hex in the light, in the dark.
COLOURS = {
    "grey": ("#868c97", "#9aa1ad"),
    "blue": ("#2563c9", "#7aa7f7"),
    "red": ("#c2482f", "#f08a72"),
    "green": ("#1d8a6b", "#4fc3a1"),
    "ochre": ("#a5750f", "#d9b04c"),
    "violet": ("#7a4fb5", "#b79bee"),
}
