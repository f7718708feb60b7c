"""Beam's options, parsed once.

Beam looks at its options through views, each of which parses the command line anew. It does so
some 600 times a night, for every transform and type check: a fifth of a small night.
"""

from __future__ import annotations

from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions


class RunnerOptions(PipelineOptions):
    """Options whose views are kept; all of them share one set of values, as Beam's do."""

    def view_as(self, cls: type[Any]) -> Any:
        """The view of class `cls`, the same one every time."""
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        """Without the views: a copy makes its own."""
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}
