"""Beam's options parsed once are Beam's options."""

from __future__ import annotations

import copy
import pickle

import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    StandardOptions,
    TypeOptions,
)

from pipelines.runners.options import RunnerOptions

ARGS = ["--runner=DirectRunner", "--direct_num_workers=3", "--experiments=a", "--foreign=7"]


def test_they_hold_what_beams_own_hold() -> None:
    ours, theirs = RunnerOptions(ARGS), PipelineOptions(ARGS)
    for view in (DebugOptions, DirectOptions, StandardOptions, TypeOptions):
        assert vars(ours.view_as(view)._visible_options) == vars(
            theirs.view_as(view)._visible_options
        )
    for drop in (False, True):
        found, wanted = (
            o.get_all_options(drop_default=drop, retain_unknown_options=True)
            for o in (ours, theirs)
        )
        assert found == wanted
    assert found["direct_num_workers"] == 3


def test_views_are_kept_and_share_their_values() -> None:
    options = RunnerOptions(ARGS)
    view = options.view_as(DirectOptions)
    assert options.view_as(DirectOptions) is view
    view.view_as(StandardOptions).runner = "PrismRunner"
    assert options.view_as(StandardOptions).runner == "PrismRunner"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_has_views_and_values_of_its_own(copied: object) -> None:
    options = RunnerOptions(ARGS)
    options.view_as(DirectOptions).direct_num_workers = 5
    other = copied(options)  # type: ignore[operator]
    assert other.view_as(DirectOptions).direct_num_workers == 5
    other.view_as(DirectOptions).direct_num_workers = 8
    assert options.view_as(DirectOptions).direct_num_workers == 5
