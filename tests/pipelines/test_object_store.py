"""A warehouse on an S3 server of this machine: the same rows, atomic publication, bounded reads."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems

import pipelines.catalog.duckdb_files as duckdb_files
import pipelines.feed
import pipelines.store.object_stores as object_stores
from pipelines.catalog.views import query, write_catalog
from pipelines.cli import main
from pipelines.config import NightConfig, render_config
from pipelines.landing import land
from pipelines.night import RunOptions
from pipelines.nights import run_night
from pipelines.operate.fingerprint import fingerprint
from pipelines.store.manifests import Manifest
from pipelines.store.object_stores import READ_AHEAD, use_options, without_secrets
from pipelines.store.storage import (
    HashingSink,
    create_exclusive,
    exists,
    join,
    list_names,
    open_binary,
    read_bytes,
    remove_files,
)
from pipelines.store.tables import read_files, read_row_group, write_table
from pipelines.store.warehouse import PublishConflict, Warehouse
from profiling.hashing import hash63
from selection.outcomes import OutcomeConfig
from tests.pipelines.s3_server import Server
from tests.pipelines.small_world import day, engagements_table, foreign_impressions, items_table

QUIET = RunOptions(progress=False)
CONFIG = NightConfig(outcomes=OutcomeConfig(lateness_hours=0, threshold=0.5))  # rewards by day 1
BUCKET = "s3://warehouses"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": server.url}).items():
            patch.setenv(name, value)
        object_stores._connect.cache_clear()
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        yield server
    object_stores._connect.cache_clear()
    FileSystems.set_options(None)
    server.stop()


@pytest.fixture
def root(server: Server, request: pytest.FixtureRequest) -> str:
    name = request.node.name.translate(str.maketrans("[]", "--"))
    return f"{BUCKET}/tests/{name}"


def make(root: str) -> Warehouse:
    warehouse = Warehouse.create(root, render_config(CONFIG), buckets=2)
    tables = {
        "ITEMS": items_table(),
        "ENGAGEMENTS": engagements_table(0, 1),
        "IMPRESSIONS": foreign_impressions(0, 1, own_actions=True),
    }
    land(warehouse, tables, source="log")
    return warehouse


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, list[Manifest]]:
    warehouse = make(str(tmp_path_factory.mktemp("local") / "w"))
    return warehouse, [run_night(warehouse, day(i), QUIET) for i in (0, 1)]


Loop = tuple[Warehouse, list[Manifest], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def remote(server: Server) -> Loop:
    """Two nights on S3, and what a reader saw in the middle of the second."""
    warehouse, seen = make(f"{BUCKET}/remote"), []
    first = run_night(warehouse, day(0), QUIET)

    def reading(*args: Any, **options: Any) -> Any:
        reader = Warehouse.open(warehouse.root)
        head = reader.head()
        assert head is not None
        rows = query(reader, "SELECT count(*) AS n FROM QUERIES", head, format="csv")
        seen.append({"head": head.number, "rows": rows, "prints": fingerprint(reader, head)})
        return rerank_feed(*args, **options)

    rerank_feed = pipelines.feed.rerank_feed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.feed, "rerank_feed", reading)
        second = run_night(warehouse, day(1), QUIET)
    return warehouse, [first, second], seen


def test_nights_on_s3_give_the_same_rows_as_on_a_disk(
    remote: Loop, local: tuple[Warehouse, list[Manifest]]
) -> None:
    for ours, theirs in zip(remote[1], local[1], strict=True):
        assert fingerprint(remote[0], ours) == fingerprint(local[0], theirs)
    assert min(remote[0].read(name).num_rows for name in ("REWARDS", "QUERIES", "FEED")) > 20


def test_readers_during_a_night_see_the_night_before(remote: Loop) -> None:
    warehouse, (first, _), seen = remote
    assert len(seen) == warehouse.buckets
    rows = f"n\n{first.tables['QUERIES'][0].rows}"
    expected = {"head": 1, "rows": rows, "prints": fingerprint(warehouse, first)}
    assert seen == [expected] * len(seen)


def test_a_published_night_leaves_nothing_staged(remote: Loop) -> None:
    warehouse, nights, _ = remote
    named = {
        f.path for m in nights for t in (m.tables, m.catalogue) for fs in t.values() for f in fs
    }
    named |= {
        f.path for landing in warehouse.landings() for fs in landing.tables.values() for f in fs
    }
    client = boto3.client("s3")
    prefix = warehouse.root.removeprefix(BUCKET + "/") + "/"
    stored = client.list_objects_v2(Bucket=BUCKET.removeprefix("s3://"), Prefix=prefix)["Contents"]
    paths = {o["Key"].removeprefix(prefix) for o in stored}
    assert {p for p in paths if p.startswith("data/")} == named
    assert not [p for p in paths if p.startswith("staged/")]


@pytest.mark.parametrize("statement", ["accounting", "ITEMS", "REWARDS", "PROFILES_ALL"])
def test_sql_answers_as_on_a_disk(
    statement: str, remote: Loop, local: tuple[Warehouse, list[Manifest]]
) -> None:
    sql = f"SELECT * FROM {statement} ORDER BY ALL"
    answers = [query(w, sql, m[-1], format="csv") for w, m in (remote[:2], local)]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) > 2


def test_a_catalogue_of_a_remote_warehouse_names_its_objects(remote: Loop, tmp_path: Path) -> None:
    write_catalog(remote[0], tmp_path / "q.duckdb", remote[1][-1])
    with duckdb.connect(str(tmp_path / "q.duckdb"), read_only=True) as connection:
        text = connection.sql("SELECT sql FROM duckdb_views() WHERE view_name = 'QUERIES'")
        assert f"{remote[0].root}/data/QUERIES/" in str(text.fetchall())


class SlowFile(io.BytesIO):
    """Lets another thread in before every read, as a store far away does."""

    def read(self, size: int | None = -1) -> bytes:
        time.sleep(0.001)
        return super().read(size)


def test_duckdb_reads_one_file_from_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"a": np.arange(1_000_000), "b": hash63("b", np.arange(1_000_000))})
    pq.write_table(rows, tmp_path / "x", row_group_size=20_000)

    def local(path: str) -> Path:
        return tmp_path / path.rpartition("/")[2]

    def slow(path: str) -> io.BytesIO:
        return SlowFile(local(path).read_bytes())

    monkeypatch.setattr(duckdb_files, "open_binary", slow)
    monkeypatch.setattr(duckdb_files, "exists", lambda path: local(path).exists())
    monkeypatch.setattr(duckdb_files, "file_size", lambda path: local(path).stat().st_size)
    with duckdb.connect(config={"threads": 8}) as connection:
        duckdb_files.register_files(connection, "s3://bucket")
        sql = "SELECT sum(a), sum(b), sum(a * (b % 100)) FROM read_parquet('{}')"
        for _ in range(2):
            answers = [
                connection.sql(sql.format(place)).fetchall()
                for place in ("s3://bucket/x", tmp_path / "x")
            ]
            assert answers[0] == answers[1]


CRASH = """
import os, signal, sys, datetime as dt
from pipelines.store.warehouse import Warehouse
from pipelines.nights import run_night
from pipelines.night import RunOptions
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
Warehouse.publish = die
date = dt.date.fromisoformat(sys.argv[2])
run_night(Warehouse.open(sys.argv[1]), date, RunOptions(progress=False))
"""


def test_a_crash_before_publish_leaves_the_old_night_and_the_rerun_goes_on(
    root: str, local: tuple[Warehouse, list[Manifest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = make(root)
    first = run_night(warehouse, day(0), QUIET)
    arguments = [sys.executable, "-c", CRASH, root, str(day(1))]
    killed = subprocess.run(arguments, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    assert warehouse.head() == first
    assert fingerprint(warehouse, first) == fingerprint(local[0], local[1][0])

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("the crashed run finished this job; its record is to be taken up")

    for step in ("profiles.build_profiles", "queries.select_queries", "feed.rerank_feed"):
        monkeypatch.setattr(f"pipelines.{step}", never)
    again = run_night(warehouse, day(1), QUIET)
    assert fingerprint(warehouse, again) == fingerprint(local[0], local[1][1])


def at_once(n: int, act: Callable[[int], Any]) -> list[Any]:
    """What `act` of 0 to n-1 gives or raises, begun together."""
    barrier = threading.Barrier(n)

    def one(i: int) -> Any:
        barrier.wait()
        try:
            return act(i)
        except PublishConflict as error:
            return error

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def test_of_many_creators_one_wins_and_its_bytes_stay(root: str) -> None:
    for round_ in range(5):
        path = join(root, f"{round_}.json")
        won = at_once(6, lambda i, path=path: create_exclusive(path, b"%d" % i))
        assert won.count(True) == 1
        assert read_bytes(path) == b"%d" % won.index(True)


def test_of_two_publishers_one_wins_and_the_other_is_told(remote: Loop, root: str) -> None:
    warehouse = make(root)
    drafts = [dataclasses.replace(remote[1][0], seed=i) for i in range(2)]
    done = at_once(2, lambda i: warehouse.publish(drafts[i], None))
    lost = [d for d in done if isinstance(d, PublishConflict)]
    assert len(lost) == 1
    assert "nothing of this run is visible" in str(lost[0])
    assert [m.seed for m in warehouse.manifests()] == [1 - done.index(lost[0])]


def test_a_put_whose_answer_was_lost_is_known_as_ours(server: Server, root: str) -> None:
    server.lose_answers = 1
    assert create_exclusive(join(root, "a.json"), b"ours")
    assert not create_exclusive(join(root, "a.json"), b"ours")
    assert server.lose_answers == 0


def test_a_store_without_conditional_puts_is_refused(server: Server, root: str) -> None:
    object_stores._keeps_conditions.clear()
    server.ignore_conditions = True
    try:
        with pytest.raises(ValueError, match=r"ignores If-None-Match.*conditional writes"):
            Warehouse.create(root, "", buckets=2)
    finally:
        server.ignore_conditions = False
    with pytest.raises(ValueError, match="is no warehouse"):
        Warehouse.open(root)


def test_publishing_where_no_atomic_create_is_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"atomic create, known for local disks and s3://"):
        create_exclusive("gs://bucket/warehouse.json", b"{}")


def test_one_row_group_does_not_read_the_whole_object(server: Server, root: str) -> None:
    rng, n = np.random.default_rng(0), 2_500_000  # three row groups of a file that does not shrink
    events = engagements_table(0, 0).slice(0, 1).take(np.zeros(n, np.int64))
    place = events.column_names.index("event_id")
    ids = pa.array(rng.integers(0, 1 << 62, n))
    events = events.set_column(place, events.schema.field(place), ids)
    (file,) = write_table(root, "ENGAGEMENTS", events, "big")
    assert file.bytes > 6 * READ_AHEAD  # and it went up in parts
    before = server.sent
    rows = read_row_group(root, "ENGAGEMENTS", file.path, 1)
    assert rows.num_rows == 1 << 20
    assert server.sent - before < 0.42 * file.bytes + 2 * READ_AHEAD
    assert read_files(root, "ENGAGEMENTS", (file,)).equals(events)


def test_a_reader_gives_the_bytes_of_any_range(root: str) -> None:
    content = np.random.default_rng(1).bytes(3 * READ_AHEAD + 5)
    create_exclusive(join(root, "x"), content)
    with open_binary(join(root, "x")) as source:
        for start, n in [(0, 4), (READ_AHEAD - 2, 9), (5, READ_AHEAD * 2), (len(content) - 3, 9)]:
            source.seek(start)
            assert source.read(n) == content[start : start + n]
        assert source.seek(-7, os.SEEK_END) == len(content) - 7
        assert source.read() == content[-7:]
        assert source.read(1) == b""


def test_names_lie_right_below_and_all_are_removed(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a", "c", "below/d"):
        create_exclusive(join(root, name), b"")
    create_exclusive(root + "2", b"")  # begins alike, lies elsewhere
    assert list_names(root) == ["a", "b", "c"]
    assert list_names(join(root, "nothing")) == []
    monkeypatch.setattr(object_stores, "_BATCH", 2)
    remove_files(root)
    remove_files(root)
    assert list_names(root) == []
    assert exists(join(root, "below", "d"))
    assert exists(root + "2")


def test_a_discarded_or_unclosed_file_never_reaches_the_store(root: str) -> None:
    sinks = [HashingSink(join(root, name)) for name in ("given up", "unclosed", "closed")]
    for sink in sinks:
        sink.write(b"1234")
    sinks[0].discard()
    sinks[2].close()
    sinks[1]._file.close()  # as when its process ends
    assert list_names(root) == ["closed"]
    assert read_bytes(join(root, "closed")) == b"1234"


def test_what_is_gone_or_damaged_is_named(root: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_bytes(join(root, "nothing.json"))
    (file,) = write_table(root, "ITEMS", items_table(), "damaged")
    path = join(root, file.path)
    whole = read_bytes(path)
    remove_files(path.rpartition("/")[0])
    with pytest.raises(ValueError, match=r"data/ITEMS/damaged-.*the file is gone or damaged"):
        read_files(root, "ITEMS", (file,))
    create_exclusive(path, whole[:-30])
    object_stores._size_of.cache_clear()
    with pytest.raises(ValueError, match=r"data/ITEMS/damaged-.*the file is gone or damaged"):
        read_files(root, "ITEMS", (file,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "Could not connect.*127.0.0.1:9.*AWS_ENDPOINT",
        ),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials.*AWS_ACCESS_KEY_ID"),
        ({}, "NoSuchBucket.*the bucket is there"),
    ],
)
def test_a_store_that_does_not_answer_is_a_clear_error_soon(
    change: dict[str, str],
    message: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    object_stores._connect.cache_clear()
    monkeypatch.setattr(sys, "argv", ["queryloop", "init", "s3://no-such-bucket/w"])
    started = time.monotonic()
    with pytest.raises(SystemExit, match="2"):
        main()
    object_stores._connect.cache_clear()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "s3://no-such-bucket/w" in said
    assert re.search(message, said), said
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("package", ["boto3", "fsspec"])
def test_without_the_extra_the_cure_is_said(
    package: str, remote: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    object_stores._connect.cache_clear()
    with pytest.raises(ValueError, match=rf"{package}; pip install 'queryloop\[s3\]'"):
        query(remote[0], "SELECT 1", remote[1][-1])


def test_the_command_line_runs_on_beams_options_and_writes_no_key_down(
    server: Server,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def queryloop(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["queryloop", *words])
        with pytest.raises(SystemExit, match="0"):
            main()
        return capsys.readouterr().out

    for name, table in (("items", items_table()), ("engagements", engagements_table(0, 0))):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    queryloop("init", root, "--buckets", "2")
    files = [w for n in ("items", "engagements") for w in (f"--{n}", f"{tmp_path}/{n}.parquet")]
    assert "landed as import 1" in queryloop("import", "tables", "-w", root, *files)

    with monkeypatch.context() as patch:  # nothing but Beam's options says where the store is
        for name in (*KEYS, "AWS_ENDPOINT_URL"):
            patch.delenv(name)
        object_stores._connect.cache_clear()
        beam_args = [f"--s3_endpoint_url={server.url}", "--s3_access_key_id", "public"]
        beam_args += ["--s3_secret_access_key=unspoken", "--s3_region_name=us-east-1"]
        queryloop("night", "-w", root, "--date", str(day(0)), *beam_args)
    use_options(())
    object_stores._connect.cache_clear()
    (manifest,) = Warehouse.open(root).manifests()
    assert "unspoken" not in str(manifest)
    assert f"--s3_endpoint_url={server.url}" in manifest.runner
    assert queryloop("sql", "SELECT 41 + 1 AS n", "-w", root, "--format", "csv") == "n\n42\n"
    assert queryloop("fingerprint", "-w", root).startswith("CANDIDATES ")


def test_secrets_are_left_out_however_they_are_given() -> None:
    given = ("--s3_secret_access_key", "x", "--s3_session_token=y", "--runner=DirectRunner")
    shown = ("--s3_secret_access_key", "***", "--s3_session_token=***", "--runner=DirectRunner")
    assert without_secrets(given) == shown
