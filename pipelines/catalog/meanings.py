"""What the catalogue's small tables and their columns mean, in the columns' order."""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "settings": (
        "one row: the night that this catalogue shows, and what its views must know of it",
        (
            "number of the night's manifest",
            "the night",
            "its end, exclusive: everything before it has happened",
            "days in which a record loses half its weight",
            "least value of an outcome",
            "greatest value of an outcome",
            "the configured actions; action i is bit i - 1 of a mask",
            "draws of nights from this date on have not closed",
        ),
    ),
    "actions": (
        "the configured actions",
        (
            "place in the configured order, from 0: the bit of a mask",
            "the action",
            "what it adds to the value of an outcome",
            "whether it makes an item part of the user's interests",
        ),
    ),
    "arms": (
        "the arms of the experiment, the first is what others are compared with; none without one",
        ("place in the configured order, from 0", "the arm", "share of the users", "its policy"),
    ),
    "nights": (
        "the nights of the chain, oldest first",
        (
            "number of the manifest",
            "number of the manifest that it went on from",
            "bootstrap, night, replay or rebuild",
            "the night",
            "its end, exclusive",
            "of its draws",
            "digest of every option that it ran with",
            "of the item vectors",
            "where it ran",
            "work and clock of all steps together",
            "nights that the alarm of a spacing class looks back",
        ),
    ),
    "night_counts": (
        "what every night counted, step by step",
        ("the night", "the step, or what was counted", "in, out, duplicates, ...", "rows"),
    ),
    "night_seconds": (
        "time of every night by step",
        (
            "the night",
            "a step (work, summed over buckets), or job 1 to 3, all (clock)",
            "seconds",
        ),
    ),
    "night_inputs": (
        "the landed row groups that every night consumed",
        (
            "the night",
            "the import that brought them",
            "IMPRESSIONS, ENGAGEMENTS or SERVED_DRAWS",
            "file, relative to the warehouse",
            "row group of the file",
            "rows",
            "when its first event happened",
            "when its last event happened",
        ),
    ),
    "night_retrieval": (
        "what served each arm's candidates every night",
        (
            "the night",
            "arm of the experiment, '' without one",
            "arm of retrieval: index, lr, lr_filter, cr or cr_filter",
            "number of the model; null where none was asked",
            "why the arm index stood in, '' where it did not",
        ),
    ),
    "prior": (
        "the prior that every night fitted, by surface and arm",
        (
            "the night",
            "where; null: for surfaces that have no row of their own",
            "arm of the experiment, '' if none, null in the row for all",
            "rate over all users, y in [0, 1]",
            "k: impressions that the prior is worth to an interest",
            "K: impressions that the global rate is worth to a user's average",
            "effective impressions that it was fitted on",
            "impressions per draw over all users",
            "draws that this prior is worth",
            "users that it was fitted on",
            "interests that it was fitted on",
            "their weight",
        ),
    ),
    "evidence_slopes": (
        "how far every night found the evidence to be trusted; the night after it goes by that",
        (
            "the night that fitted them",
            "slope of the log odds of what the user did with items like the query",
            "slope of the log odds of what everyone did with items around it",
            "users that they were fitted on; 0: as configured",
            "weight of those users' impressions, decayed",
        ),
    ),
    "landings": (
        "the imports",
        ("number of the import", "what was imported", "its first impression", "what was decided"),
    ),
    "landed_files": (
        "the files that imports landed",
        ("the import", "the table", "file, relative to the warehouse", "rows"),
    ),
    "landing_sources": (
        "the files that imports read",
        ("the import", "where the file was", "its SHA-256", "its rows"),
    ),
    "night_health": (
        "the figures that each of the last 60 nights recorded of the loop, one row a figure: what "
        "the views health_... say, over the night's own files",
        (
            "the night",
            "number of its manifest",
            "which: rate, waiting, gini, calibration, ...",
            "where; empty: everywhere",
            "arm of the experiment, empty if none",
            "which of several: a policy, a source of the prior, queries or shown items, a tenth",
            "the number",
            "of its 95 % interval, where it has one",
            "of its 95 % interval, where it has one",
            "what was promised: the predicted reward, or 1",
            "rows that it is from: impressions, interests or draws",
            "of the users that it is from: whole buckets of a large warehouse are a sample",
        ),
    ),
}
