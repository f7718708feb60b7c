"""What makes many small nights bearable, and a world that several files look at: never changed.

For every transform Beam asks each method of its DoFn for state and timers, several times over: a
third of a night of 40 users. The answer depends on the class alone, and no DoFn of ours has any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.transforms import userstate

from pipelines.config import NightConfig, render_config
from pipelines.importers.keys import hash_id
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.store.manifests import Manifest
from pipelines.store.warehouse import Warehouse
from profiling.schema import ints
from selection.experiments import Arm, Experiment
from selection.outcomes import OutcomeConfig
from selection.queries import SelectionConfig
from tests.pipelines.small_world import day, engagements_table, items_table, serve


@pytest.fixture(scope="session", autouse=True)
def classes_of_dofns_looked_into_once() -> Iterator[None]:
    look, found = userstate.get_dofn_specs, dict[type, Any]()

    def specs(dofn: Any) -> Any:
        if type(dofn) not in found:
            found[type(dofn)] = look(dofn)
        return found[type(dofn)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(userstate, "get_dofn_specs", specs)
        yield


NIGHTS = 3
NAMED, NAME = 3, "ann"  # this user is known by a name in the source
CONFIG = NightConfig(
    draw_days=1,
    outcomes=OutcomeConfig(window_hours=4, lateness_hours=0),
    experiment=Experiment(
        "test",
        "isolated",
        (
            Arm("counts", 0.5, SelectionConfig(policy="counts", queries=2)),
            Arm("reward", 0.5, SelectionConfig(policy="reward", queries=2)),
        ),
    ),
)
SPACING = "diversity: {gamma: 0.2, window: 4}\nclasses:\n" + "".join(
    f"- {{id: topic_{k}, source: {{topic: {k}}}, weight: 0.2, window: 3}}\n" for k in range(6)
)


@dataclass(frozen=True)
class Served:
    """A warehouse, its nights, and how many impressions of night 1's day came a day late."""

    warehouse: Warehouse
    nights: tuple[Manifest, ...]
    late: int
    named: int


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Feeds are served and their impressions land; of day 1 a fifth comes with day 2."""
    root = str(tmp_path_factory.mktemp("served") / "w")
    warehouse = Warehouse.create(root, render_config(CONFIG), buckets=2, spacing_text=SPACING)
    named = int(hash_id(NAME, warehouse.hash_key))
    land(warehouse, {"ITEMS": items_table()}, source="items")
    nights: list[Manifest] = []
    held: pa.Table | None = None
    late = 0
    for i in range(NIGHTS):
        engagements = [_renamed(engagements_table(i, i), named)]
        tables = {}
        if nights:
            shown, did = serve(warehouse.read("FEED", nights[-1]), i)
            engagements.append(did)
            if held is not None:
                late = held.num_rows
                land(warehouse, {"IMPRESSIONS": held}, source="late")
                held = None
            elif i == 1:
                cut = shown.num_rows * 4 // 5
                shown, held = shown.slice(0, cut), shown.slice(cut)
            tables["IMPRESSIONS"] = shown
        tables["ENGAGEMENTS"] = pa.concat_tables(engagements)
        land(warehouse, tables, source=f"day {i}")
        nights.append(run_night(warehouse, day(i), RunOptions(progress=False)))
    return Served(warehouse, tuple(nights), late, named)


def _renamed(table: pa.Table, named: int) -> pa.Table:
    """User `NAMED` under the hash of its name."""
    users = ints(table, "user_id").copy()
    users[users == NAMED] = named
    place = table.schema.get_field_index("user_id")
    return table.set_column(place, table.schema.field(place), pa.array(users))
