"""A server that draws per request, logs what it did, and a night that learns from the log.

    python docs/examples/serving.py [FOLDER]

Forty people, six topics, three days. Everybody has engaged with three topics alike and in truth
likes one of them. What the server needs stands between the two lines of `# ---`: no Beam, no
warehouse. The rest is the world around it and the commands that an operator would type.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.catalog.views import query
from pipelines.cli import app
from pipelines.store.warehouse import Warehouse
from profiling.hashing import uniforms

# ---
from selection.request_draws import NoWeights, RequestDraw, served_rows
from selection.weight_files import open_sampler


def serve(folder: Path, requests: Iterable[tuple[int, str, dt.datetime]]) -> Log:
    """Answer requests of (user, request id, time) from the export in `folder`; what to log."""
    sampler, log = open_sampler(folder), Log()
    for user, request_id, at in requests:
        try:
            draws = sampler.draw(user, "home", request_id)
        except NoWeights:
            continue  # new here: serve what is popular, no draw to log
        log.draws += served_rows(draws, at)
        for position, (draw, item) in enumerate(retrieve(draws)):
            log.show(user, request_id, at, position, item, draw.draw_id)
    return log


# ---

USERS, TOPICS, PER_TOPIC, PAGE = 40, 6, 20, 6
FIRST = dt.date(2024, 3, 1)


class Log:
    """What a server writes down."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.draws: list[dict[str, object]] = []
        self.impressions: list[dict[str, object]] = []
        self.engagements: list[dict[str, object]] = []

    def show(
        self, user: int, request: str, at: dt.datetime, position: int, item: int, draw_id: int
    ) -> None:
        """An impression, and what the user made of it: the liked topic three times in five."""
        shown = {"user_id": user, "item_id": item, "at": at + dt.timedelta(seconds=position)}
        more = {"surface": "home", "request_id": request, "position": position, "draw_id": draw_id}
        self.impressions.append(shown | more)
        likes = 0.6 if item // PER_TOPIC == favourite(user) else 0.1
        if uniforms("likes", user, item, text(at))[0] < likes:
            seen = shown["at"] + dt.timedelta(minutes=5)
            self.engagements.append(
                {"user_id": user, "item_id": item, "action": "like", "at": seen}
            )


def retrieve(draws: list[RequestDraw]) -> list[tuple[RequestDraw, int]]:
    """Your candidate generator: here any items of the query's topics, the queries in turn."""
    page = []
    for place in range(PAGE):
        draw = draws[place % len(draws)]
        topic = draw.conditions[0][0]
        chance = uniforms("retrieved", draw.draw_id, place)[0]
        page.append((draw, topic * PER_TOPIC + int(chance * PER_TOPIC)))
    return page


def favourite(user: int) -> int:
    """What the user likes in truth: the second of the three topics."""
    return (user + 1) % TOPICS


def world(folder: Path) -> None:
    """A catalogue, and what people engaged with the day before: three topics each, four items."""
    rng = np.random.default_rng(7)
    vectors = np.eye(TOPICS)[np.arange(TOPICS).repeat(PER_TOPIC)]
    vectors = vectors + 0.05 * rng.normal(size=vectors.shape)
    items = [
        {
            "item_id": i,
            "embedding": v.tolist(),
            "topics": [{"topic_id": i // PER_TOPIC, "confidence": 1.0}],
        }
        for i, v in enumerate(vectors)
    ]
    engaged = [
        {
            "user_id": user,
            "item_id": (user + k) % TOPICS * PER_TOPIC + (user + 5 * j) % PER_TOPIC,
            "action": "like",
            "at": moment(0, 8 + j, user),
        }
        for user in range(USERS)
        for k in range(3)
        for j in range(4)
    ]
    write(folder / "items.parquet", items)
    write(folder / "engaged.parquet", engaged)


def day(i: int) -> dt.date:
    """Day i of the story."""
    return FIRST + dt.timedelta(days=i)


def moment(i: int, hour: int, minute: int = 0) -> dt.datetime:
    """A time of day i."""
    return dt.datetime.combine(day(i), dt.time(hour, minute), dt.UTC)


def text(at: dt.datetime) -> int:
    """A time as a number."""
    return int(at.timestamp())


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(rows), path)


def queryloop(*words: object) -> None:
    """What an operator types."""
    app([str(word) for word in words], standalone_mode=False)


def requests(i: int) -> list[tuple[int, str, dt.datetime]]:
    """Three visits a user on day i."""
    return [
        (user, f"{day(i)}/{user}/{visit}", moment(i, 9 + 4 * visit, user))
        for user in range(USERS)
        for visit in range(3)
    ]


def tell(warehouse: Path, what: str, sql: str) -> None:
    """An answer, as `queryloop sql` prints it."""
    opened = Warehouse.open(str(warehouse))
    print(f"{what}\n{query(opened, sql, opened.head())}\n")


FAVOURITES = """\
SELECT run_date, count(*) AS draws, round(avg((conditions[1].topic_id = (user_id + 1) % 6)::INT), 3)
       AS of_what_they_like
FROM QUERIES GROUP BY ALL ORDER BY run_date"""
CLOSED = "SELECT state, count(*) AS draws FROM CLOSED_DRAWS GROUP BY ALL ORDER BY state"
LOGGED = """\
SELECT attribution, policy LIKE 'reward_importance/%' AS policy_known, count(*) AS impressions,
       min(propensity) > 0 AS propensity_known FROM OUTCOMES GROUP BY ALL"""


def main(folder: Path) -> None:
    """The story."""
    warehouse, serving = folder / "w", folder / "serving"
    world(folder)
    queryloop("init", warehouse, "--buckets", 2)
    config = warehouse / "queryloop.yaml"
    written = config.read_text()
    for change in (("window_hours: 24.0", "window_hours: 1.0"), ("queries: 3", "queries: 1")):
        assert change[0] in written, change
        written = written.replace(*change)
    written = written.replace("lateness_hours: 24.0", "lateness_hours: 1.0")
    config.write_text(written)
    given = ("--items", folder / "items.parquet", "--engagements", folder / "engaged.parquet")
    queryloop("import", "tables", "-w", warehouse, *given)
    queryloop("night", "-w", warehouse, "--date", day(0), "--until", "queries")
    for i in (1, 2):
        queryloop("export", "-w", warehouse, "--out", serving, "--format", "sqlite")
        log = serve(serving, requests(i))
        write(folder / "draws.parquet", log.draws)
        write(folder / "impressions.parquet", log.impressions)
        write(folder / "engagements.parquet", log.engagements)
        logs = [("--served-draws", "draws"), ("--impressions", "impressions")]
        logs.append(("--engagements", "engagements"))
        files = [word for option, name in logs for word in (option, folder / f"{name}.parquet")]
        queryloop("import", "tables", "-w", warehouse, *files)
        queryloop("night", "-w", warehouse, "--date", day(i), "--until", "queries")
    tell(warehouse, "Every impression found its draw:", LOGGED)
    tell(warehouse, "Draws of the first day have closed:", CLOSED)
    tell(warehouse, "Draws of what people like in truth:", FAVOURITES)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))
