"""A night a day under Airflow 3: is it wanted, is its input sound, run it; then a page and alarms.

    QUERYLOOP_WAREHOUSE=/data/W airflow dags test queryloop 2024-03-06

Put this file into Airflow's dags folder. Queryloop stays in an environment of its own:
QUERYLOOP_COMMAND is its `queryloop`. The run of a day makes the night of the day before, UTC.

What an exit code of Queryloop makes Airflow do:

    0      done: the next task
    1      it ran, and the answer is no: failed at once, since it would say the same again; once a
           person has looked, marking the task as a success lets the run go on
    2      it could not run, and nothing was published: tried again, for files may be late
    other  a fault, or a killed process: tried again; a night goes on from its last finished job
    0 of `plan` for a night that is published already: the rest of the run is skipped
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

COMMAND = os.environ.get("QUERYLOOP_COMMAND", "queryloop")
WAREHOUSE = os.environ.get("QUERYLOOP_WAREHOUSE", "/data/W")
PAGES = os.environ.get("QUERYLOOP_PAGES", "/data/pages")
METRICS = os.environ.get("QUERYLOOP_METRICS", "/var/lib/node_exporter/queryloop.prom")
FIRST_RUN = dt.datetime(2024, 3, 2, tzinfo=dt.UTC)  # the day after your first night


def queryloop(name: str, *words: str) -> str:
    """What a command prints; its exit code becomes what Airflow does next."""
    command = [COMMAND, name, "--warehouse", WAREHOUSE, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode == 1:
        raise AirflowFailException(f"{' '.join(command)}: it ran, and the answer is no")
    if done.returncode:
        raise AirflowException(f"{' '.join(command)} ended with exit code {done.returncode}")
    return done.stdout


@dag(
    dag_id="queryloop",
    schedule="15 3 * * *",
    start_date=FIRST_RUN,
    catchup=True,  # nights that were missed are run, oldest first, one after the other
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": dt.timedelta(minutes=20)},
)
def queryloop_nights() -> None:
    """Every task is one command."""

    @task
    def plan(logical_date: dt.datetime) -> str:
        date = (logical_date - dt.timedelta(days=1)).date().isoformat()
        if json.loads(queryloop("plan", "--date", date, "--json"))["kind"] != "night":
            raise AirflowSkipException(f"the night of {date} is published already")
        return date

    @task
    def validate(date: str) -> None:
        queryloop("validate", "--date", date)

    @task(depends_on_past=True)
    def night(date: str) -> None:
        queryloop("night", "--date", date, "--metrics", METRICS)

    @task
    def report(date: str) -> None:
        queryloop("report", "--date", date, "--out", f"{PAGES}/{date}.html")

    @task
    def alarms(date: str) -> None:
        """A night that rings is published all the same: its alarm holds nothing else up."""
        queryloop("health", "--date", date, "--strict")

    date = plan()
    validate(date) >> night(date) >> [report(date), alarms(date)]


queryloop_nights()
