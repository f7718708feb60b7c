"""The command line: bad input ends with one message and exit 2, or as a row of REJECTED."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import progress
from pipelines.cli import main
from pipelines.failures import failure_message, quiet_beam
from pipelines.logs import logging_to_stderr, tell
from pipelines.store.tables import _footer
from pipelines.store.warehouse import Warehouse
from tests.pipelines.small_world import (
    FIRST,
    day,
    engagements_table,
    foreign_impressions,
    items_table,
)

FAR = FIRST.replace(year=2099)


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command as `queryloop` would, in this process."""

    def command(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["queryloop", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Said(code, printed.out, printed.err)

    yield command
    quiet_beam(False)


def refused(said: Said, *words: str) -> None:
    """It was refused with one message that has these words, and no traceback."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("queryloop: "), said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def parquet(path: Path, table: pa.Table | list[dict[str, Any]]) -> Path:
    table = table if isinstance(table, pa.Table) else pa.Table.from_pylist(table)
    pq.write_table(table, path)
    return path


def without(table: pa.Table, *columns: str) -> pa.Table:
    return table.drop_columns([*columns, "content_digest"])


def log_files(folder: Path) -> list[object]:
    """Options of `import tables` for the small world's first two days."""
    return [
        *("--items", parquet(folder / "items.parquet", items_table())),
        *("--engagements", parquet(folder / "e.parquet", without(engagements_table(0, 2)))),
        *("--impressions", parquet(folder / "i.parquet", shown(1, 2))),
    ]


def shown(first: int, last: int) -> pa.Table:
    return without(foreign_impressions(first, last, own_actions=True))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with an import, its bootstrap profiles and one night; copy it to change it."""
    folder = tmp_path_factory.mktemp("cli")
    patch = pytest.MonkeyPatch()
    for words in (
        ["init", folder / "w", "--buckets", 2],
        ["import", "tables", "-w", folder / "w", *log_files(folder)],
        ["night", "-w", folder / "w", "--date", day(1)],
    ):
        patch.setattr(sys, "argv", ["queryloop", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    patch.undo()
    return folder / "w"


@pytest.fixture
def warehouse(imported: Path, tmp_path: Path) -> Path:
    shutil.copytree(imported, tmp_path / "w")
    return tmp_path / "w"


def records(warehouse: Path) -> list[str]:
    """What readers go by: its names change with whatever becomes visible."""
    return sorted(p.as_posix() for f in ("landed", "manifests") for p in (warehouse / f).glob("*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "{w}"], "is a warehouse already; choose another directory"),
        (["init", "{w}3", "--buckets", "3"], "power of two up to 65536, got 3"),
        (["night", "-w", "{w}no", "--date", day(2)], "is no warehouse; make one with `queryloop"),
        (["night", "-w", "{w}"], "give --date D, or --from D1 and --to D2"),
        (["night", "-w", "{w}", "--date", day(2), "--to", day(3)], "give --date D, or --from"),
        (["night", "-w", "{w}", "--date", "2024-02-30"], "'2024-02-30' is no date; write YYYY-MM"),
        (["night", "-w", "{w}", "--from", day(3), "--to", day(2)], "lies before --from"),
        (["night", "-w", "{w}", "--date", FAR], "lies in the future, today is"),
        (["night", "-w", "{w}", "--date", day(0)], f"no night of {day(0)}; nights run: {day(1)}"),
        (["night", "-w", "{w}", "--date", day(4)], f"leave out 2 nights. Run --from {day(2)}"),
        (
            ["night", "-w", "{w}", "--date", day(2), "--until", "noon"],
            "rewards, queries, feed, got",
        ),
        (["night", "-w", "{w}", "--date", day(2), "--colour", "red"], "--colour: no option of"),
        (
            ["night", "-w", "{w}", "--date", day(2), "--direct_num_worker", "2"],
            "nor of Beam; the nearest is --direct_num_workers",
        ),
        (["night", "-w", "{w}", "--date", day(2), "feed"], "'feed' belongs to no option"),
        (
            ["night", "-w", "{w}", "--date", day(2), "--direct_num_workers", "x"],
            "invalid int value",
        ),
        (["night", "-w", "{w}", "--date", day(2), "--runner", "No"], "Unexpected pipeline runner"),
        (["night", "-w", "{w}", "--date", day(2), "--rebuild"], f"no night of {day(2)}"),
        (["sql", "-w", "{w}", "SELEC 1"], "syntax error at or near"),
        (["sql", "-w", "{w}", " "], "the statement is empty"),
        (["sql", "-w", "{w}", "FROM nowhere"], "lists the views"),
        (
            ["sql", "-w", "{w}", "FROM QUERIES", "--format", "xml"],
            "table, json, csv, parquet, got 'xml'",
        ),
        (["sql", "-w", "{w}", "FROM QUERIES", "--date", day(9)], f"no night of {day(9)}"),
        (["fingerprint", "-w", "{w}", "--compare", "77"], "has no manifest 77"),
        (["import", "tables", "-w", "{w}"], "give at least one of --items"),
        (["import", "tables", "-w", "{w}", "--items", "{w}.gone"], "no such file, folder or glob"),
        (["import", "kuairand", "{w}.gone", "-w", "{w}"], "no such folder. Give the KuaiRand-Pure"),
    ],
)
def test_a_command_that_cannot_be_run_says_why(
    run: Run, imported: Path, words: list[object], said: str
) -> None:
    before = records(imported)
    refused(run(*(str(w).replace("{w}", str(imported)) for w in words)), said)
    assert records(imported) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["night", "--date", "2024-03-01"], "Missing option '--warehouse'"),
        (["sql", "-w", "w", "--colour", "red", "FROM x"], "No such option: --colour"),
        (["init", "w", "--buckets", "many"], "Invalid value for '--buckets'"),
        (["nigth"], "No such command 'nigth'. Did you mean 'night'"),
        (["explian"], "Did you mean 'explain'"),
        (["lab", "repaly"], "No such command 'repaly'. Did you mean 'replay'?"),
        (["import", "tabels"], "Did you mean 'tables'?"),
        (["status", "--jso"], "No such option: --jso (Possible options: --json)"),
        (["sql", "-w", "w", "--dat", "2024-03-01"], "(Possible options: --date"),
        (["night", "--warehous", "w", "--date", "2024-03-01"], "Did you mean --warehouse?"),
        (["night", "-w", "w", "--untill=feed"], "No such option: --untill. Did you mean --until?"),
        (["--debgu", "status"], "No such option: --debgu (Possible options: --debug)"),
    ],
)
def test_wrong_usage_is_told_with_the_usage(run: Run, words: list[str], said: str) -> None:
    found = run(*words)
    assert found.code == 2
    assert "Usage: queryloop" in found.err
    assert said in found.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("floor: 0.05", "floor: 7"), "selection.floor: must be <= 1, got 7"),
        (("seed: 0", "seed: many"), "seed: Input should be a valid integer"),
        (("seed: 0", "colour: 1"), "colour: no such option"),
        (("seed: 0", "seed: 0\nseed: 1"), "seed is given twice; keep one"),
        (("seed: 0", "seed: ["), "is no YAML"),
    ],
)
def test_a_wrong_configuration_is_named_with_its_line(
    run: Run, warehouse: Path, change: tuple[str, str], said: str
) -> None:
    path = warehouse / "queryloop.yaml"
    text = path.read_text()
    assert text.count(change[0]) == 1
    path.write_text(text.replace(*change))
    refused(run("night", "-w", warehouse, "--date", day(2)), f"{path}", said)
    path.unlink()
    refused(run("night", "-w", warehouse, "--date", day(2)), "queryloop.yaml is gone; restore it")


@pytest.mark.parametrize("name", ["warehouse.json", "manifests/000001.json", "landed/000001.json"])
def test_records_of_another_version_or_damaged_are_named(
    run: Run, warehouse: Path, name: str
) -> None:
    path = warehouse / name
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"format": 99}))
    refused(run("night", "-w", warehouse, "--date", day(2)), str(path), "format 99", "reads 1")
    for damaged in (b"", b"[]", path.read_bytes()[:40], json.dumps({"format": 1}).encode()):
        path.write_bytes(damaged)
        found = run("night", "-w", warehouse, "--date", day(2))
        refused(found, str(path), "is damaged", "restore it from a backup")


def test_what_a_worker_raised_is_told_in_one_line_and_in_full_with_debug(
    run: Run, warehouse: Path
) -> None:
    head = Warehouse.open(str(warehouse)).head()
    assert head is not None
    path = warehouse / head.tables["PROFILES"][0].path
    path.write_bytes(path.read_bytes()[:50])
    _footer.cache_clear()
    night = ["night", "-w", warehouse, "--date", day(2)]
    found = run(*night)
    refused(found, str(path), "cannot be read as Parquet", "restore it")
    assert found.err.count("\n") == 1
    assert "while running" not in found.err
    debug = run("--debug", *night)
    assert debug.code == 2
    assert "Traceback" in debug.err
    assert debug.err.splitlines()[-1] == found.err.strip()
    refused(run("sql", "-w", warehouse, "FROM PROFILES"), str(path), "restore it")


def test_causes_in_beams_words() -> None:
    wrapped = "OSError: [Errno 28] No space left on device: '/w/f' [while running 'write/x']"
    assert failure_message(RuntimeError(wrapped)) == (
        "No space left on device: '/w/f'; free some space and run it again; nothing of this run is "
        "visible"
    )
    reported = 'Traceback (most recent call last):\n  File "x"\nValueError: it is bad\n\n  more\n'
    assert failure_message(RuntimeError(reported)) == "it is bad"
    assert failure_message(RuntimeError("KeyError: 'x' [while running 'y']")) is None
    denied = PermissionError(13, "Permission denied", "/w/f")
    assert failure_message(denied) == (
        "/w/f: Permission denied; change its mode or owner, or choose another place"
    )


def test_an_import_again_lands_only_what_is_new(run: Run, warehouse: Path, tmp_path: Path) -> None:
    said = run("import", "tables", "-w", warehouse, *log_files(tmp_path))
    assert said.code == 0
    assert f"{items_table().num_rows} rows of ITEMS had landed before: left out" in said.out
    again = Warehouse.open(str(warehouse)).landings()[-1]
    assert again.tables == {}
    assert again.starts_at is None
    more = parquet(tmp_path / "more.parquet", without(engagements_table(2, 3)))
    said = run("import", "tables", "-w", warehouse, "--engagements", more)
    old, new = engagements_table(2, 2).num_rows, engagements_table(3, 3).num_rows
    assert f"{old} rows of ENGAGEMENTS had landed before" in said.out
    landed = Warehouse.open(str(warehouse)).landings()[-1].tables["ENGAGEMENTS"]
    assert sum(f.rows for f in landed) == new


def test_rejected_rows_of_imports_and_nights_can_be_asked_for(
    run: Run, warehouse: Path, tmp_path: Path
) -> None:
    good = {"user_id": 1, "item_id": 1, "action": "like", "at": "2024-03-03T01:00:00Z"}
    changes: list[dict[str, Any]] = [
        *({"event_id": 9_000_000}, {"event_id": 9_000_000, "user_id": 2}),  # one id, two users
        *({"event_id": 9_000_001}, {"event_id": 9_000_001, "action": "hate"}),  # and contents
        *({"action": "buy"}, {"at": "1961-03-03"}, {"at": "2099-03-03"}, {"item_id": 987_654}),
        *({"at": "2024-02-01"},),  # late
    ]
    rows = [{"event_id": 9_000_010 + i} | good | c for i, c in enumerate(changes)]
    events = parquet(tmp_path / "bad.parquet", rows)
    draws = [{"impression_id": 77, "draw_id": 4_242} | good]
    impressions = parquet(tmp_path / "badi.parquet", draws).rename(tmp_path / "shown.parquet")
    said = run(
        *("import", "tables", "-w", warehouse),
        *("--engagements", events, "--impressions", impressions),
    )
    assert said.code == 0
    assert "FROM REJECTED" in said.out
    for i in (2, 3, 4):
        night = run("night", "-w", warehouse, "--date", day(i))
        assert night.code == 0
        refusing = f"REJECTED WHERE run_date = '{day(i)}'" in night.out
        assert refusing == bool(re.search(r"\+ rejected [1-9]", night.out))
    asked = "SELECT landing, run_date, source, reason FROM REJECTED"
    found = json.loads(run("sql", "-w", warehouse, "--format", "json", asked).out)
    reasons = sorted((r["landing"] is None, r["source"], r["reason"]) for r in found)
    expected = [
        (False, "ENGAGEMENTS", "event_id came with another user before"),
        (False, "bad.parquet", "action is 'buy'"),
        (False, "bad.parquet", "at is '1961-03-03': a time must not be before 1970"),
        (False, "bad.parquet", "at is '2099-03-03': it is in the future"),
        (True, "ENGAGEMENTS", "at is more than 48 h before the last cut-off"),
        (True, "ENGAGEMENTS", "event_id came with other content before"),
        (True, "ENGAGEMENTS", "item_id is not in ITEMS"),
        (True, "IMPRESSIONS", "draw_id 4242 is no draw of user 1"),
    ]
    assert [r[:2] for r in reasons] == [e[:2] for e in expected]
    assert all(r[2].startswith(e[2]) for r, e in zip(reasons, expected, strict=True)), reasons


def test_before_the_first_night_the_order_of_imports_does_not_matter(
    run: Run, tmp_path: Path
) -> None:
    run("init", tmp_path / "w", "--buckets", 2)
    options = [log_files(tmp_path)[i : i + 2] for i in (0, 2, 4)]
    for given in (options[2], options[1], options[0]):  # impressions, engagements, items
        said = run("import", "tables", "-w", tmp_path / "w", *given)
        assert said.code == 0
        assert ("there are no ITEMS yet" in said.out) == (given is not options[0])
        if given is not options[0]:
            night = run("night", "-w", tmp_path / "w", "--date", day(1))
            refused(night, "has no ITEMS; import a catalogue first")
    assert "bootstrap profiles at 2024-03-02T" in said.out
    opened = Warehouse.open(str(tmp_path / "w"))
    head = opened.head()
    assert head is not None
    assert head.kind == "bootstrap"
    assert opened.read("PROFILES").num_rows > 0
    early = run("night", "-w", tmp_path / "w", "--date", day(0))
    refused(early, f"no impression before the end of {day(0)}; the first landed is of {day(1)}")


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_scheduler_reads_each_step_of_a_night_and_how_it_ended(run: Run, warehouse: Path) -> None:
    said = run("--log-format", "json", "night", "-w", warehouse, "--date", day(2), "--json")
    assert said.code == 0
    lines, night = lines_of(said.err), lines_of(said.out)
    assert all({"time", "level", "event", "command"} <= set(line) for line in lines)
    assert [line["event"] for line in lines] == [
        *("started", "job", "job", "job", *["step"] * 7, "published", "finished")
    ]
    times = [dt.datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert times[0].tzinfo == dt.UTC
    assert {line["command"] for line in lines} == {"night"}
    assert {line["night"] for line in lines[1:-1]} == {str(day(2))}
    steps = {line["step"]: line for line in lines if line["event"] == "step"}
    assert steps["rerank_feed"]["rows"] == night[0]["rows"]["FEED"] > 0
    assert steps["select_queries"]["seconds"] >= 0
    assert lines[-2]["manifest"] == night[0]["manifest"]
    assert lines[-1]["exit_code"] == 0
    assert night[0]["alarms"] == []
    assert len(night) == 1


def test_a_scheduler_reads_why_a_command_failed(
    run: Run, imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERYLOOP_LOG_FORMAT", "json")
    for words, event, message in (
        (["night", "-w", imported, "--date", FAR], "failed", "lies in the future"),
        (["night", "-w", imported, "--dat", FAR], "usage", "Did you mean --date?"),
        (["nigth"], "usage", "Did you mean 'night'"),
        (["status", "-w", imported, "--debug"], "usage", "goes before the command"),
    ):
        said = run(*words)
        *_, why, end = lines_of(said.err)
        assert (said.code, said.out) == (2, "")
        assert (why["event"], why["level"]) == (event, "error")
        assert message in why["message"]
        assert (end["event"], end["exit_code"]) == ("finished", 2)


def test_warnings_and_what_others_log_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("json", {"command": "night"}), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
        logging.getLogger("apache_beam.io").warning("no %s", "disk")
        tell("note", "it is late", {"night": FIRST}, level=logging.WARNING)
    first, second, third = lines_of(capsys.readouterr().err)
    assert (first["event"], first["of"]) == ("warning", "py.warnings")
    assert "UserWarning: old" in first["message"]
    assert (second["event"], second["of"], second["message"]) == (
        *("log", "apache_beam.io", "no disk"),
    )
    assert (third["event"], third["night"], third["level"]) == ("note", str(FIRST), "warning")
    assert not logging.getLogger("queryloop").handlers


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_fault_of_ours_has_a_code_of_its_own_and_its_traceback(
    run: Run, imported: Path, monkeypatch: pytest.MonkeyPatch, json_lines: bool
) -> None:
    def broken(warehouse: Warehouse) -> None:
        raise KeyError("x")

    monkeypatch.setattr("pipelines.operate.status.status_of", broken)
    said = run(*(["--log-format", "json"] if json_lines else []), "status", "-w", imported)
    assert said.code == 70
    if json_lines:
        fault = lines_of(said.err)[-2]
        assert fault["event"] == "fault"
        assert 'raise KeyError("x")' in fault["traceback"]
    else:
        assert "Traceback" in said.err
        assert said.err.splitlines()[-1].startswith("queryloop: KeyError: 'x'; a fault of ours")


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        RuntimeError("KeyboardInterrupt [while running '3 Tally']"),
        RuntimeError("Query interrupted"),
    ],
)
def test_an_interrupt_is_no_fault_wherever_it_is_met(
    run: Run, imported: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stopped(warehouse: Warehouse) -> None:
        raise error

    monkeypatch.setattr("pipelines.operate.status.status_of", stopped)
    said = run("status", "-w", imported)
    assert said.code == 130
    assert said.err == (
        "queryloop: interrupted; finished jobs stay, run it again to go on from them\n"
    )


def test_without_a_terminal_a_long_job_says_a_line_now_and_then(
    run: Run, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = run("night", "-w", warehouse, "--date", day(2))
    assert quiet.err == ""
    monkeypatch.setattr(progress, "EVERY", 0.001)
    said = run("night", "-w", warehouse, "--date", day(2))  # again: it is replayed
    lines = said.err.splitlines()
    assert all(line.startswith("queryloop: ") for line in lines)
    assert any("job 1 of 3: build_profiles" in line for line in lines)
    assert "\r" not in said.err
    monkeypatch.setattr(progress, "EVERY", 0.0)
    doctor = run("doctor", "-w", warehouse)
    assert "queryloop: files 1 of " in doctor.err


@pytest.mark.parametrize(
    "words",
    [
        ["init", "{w}2"],
        ["fingerprint", "-w", "{w}"],
        ["fingerprint", "-w", "{w}", "--compare", "{w}", "--all"],
        ["metrics", "-w", "{w}"],
        ["resume", "-w", "{w}"],
        ["catalog", "-w", "{w}", "--out", "{w}.duckdb"],
        ["report", "-w", "{w}", "--out", "{w}.html"],
        ["export", "-w", "{w}", "--out", "{w}out"],
        ["spacing", "check", "{w}/spacing.yaml", "-w", "{w}"],
        ["spacing", "preview", "{w}/spacing.yaml", "-w", "{w}", "--html", "{w}.html"],
        ["spacing", "diff", "{w}/spacing.yaml", "{w}/spacing.yaml"],
        ["lab", "policies"],
        ["import", "tables", "-w", "{w}", "--items", "{w}/../items.parquet"],
        ["night", "-w", "{w}", "--date", day(1), "--rebuild"],
    ],
)
def test_json_is_one_value_on_the_only_line(
    run: Run, imported: Path, tmp_path: Path, words: list[object]
) -> None:
    shutil.copytree(imported, tmp_path / "w")
    shutil.copy(imported.parent / "items.parquet", tmp_path)
    said = run(*(str(w).replace("{w}", str(tmp_path / "w")) for w in words), "--json")
    assert said.code == 0, said.err
    assert all(isinstance(value, dict) for value in lines_of(said.out))
    assert len(said.out.splitlines()) == (words[0] != "resume")  # of which there was nothing


def with_vectors(items: pa.Table, version: str, width: int) -> list[dict[str, Any]]:
    rows = items.to_pylist()
    return [
        r | {"embedding": (r["embedding"] * 2)[:width], "embedding_version": version} for r in rows
    ]


def test_items_of_another_model_replace_the_catalogue_or_are_refused(
    run: Run, warehouse: Path, tmp_path: Path
) -> None:
    items, before = items_table(), records(warehouse)

    def imported_items(rows: list[dict[str, Any]]) -> Said:
        path = parquet(tmp_path / "new.parquet", rows)
        return run("import", "tables", "-w", warehouse, "--items", path)

    part = with_vectors(items.slice(2), "v2", 8)
    refused(
        imported_items(part), "vectors never mix", "Import all 120", "2 are lacking, the first is 0"
    )
    mixed = [*with_vectors(items.slice(0, 1), "v2", 8), *with_vectors(items.slice(1), "v3", 8)]
    refused(imported_items(mixed), "mixes embedding versions v2, v3")
    same = with_vectors(items, "v1", 5)
    refused(imported_items(same), "width 5", "another embedding_version")
    assert records(warehouse) == before
    said = imported_items(with_vectors(items, "v2", 5))
    assert said.code == 0
    assert "ITEMS replace the catalogue" in said.out
    assert run("night", "-w", warehouse, "--date", day(2)).code == 0
    opened = Warehouse.open(str(warehouse))
    assert set(opened.read("PROFILES")["embedding_version"].to_pylist()) == {"v2"}
    assert opened.head().embedding_version == "v2"  # type: ignore[union-attr] # there is one


def test_text_ids_never_mix_with_integers(run: Run, warehouse: Path, tmp_path: Path) -> None:
    before = records(warehouse)
    event = {"user_id": "ann", "item_id": 1, "action": "like", "at": "2024-03-03T01:00:00Z"}
    path = parquet(tmp_path / "e.parquet", [event])
    said = run("import", "tables", "-w", warehouse, "--engagements", path)
    refused(said, "user ids are text, but those in", "are integers", "begin another warehouse")
    assert records(warehouse) == before


def test_too_many_bad_rows_land_nothing_and_name_the_first(
    run: Run, warehouse: Path, tmp_path: Path
) -> None:
    config = warehouse / "queryloop.yaml"
    config.write_text(config.read_text().replace("rejected_rows: 1000", "rejected_rows: 3"))
    bad = {"user_id": 1, "item_id": 1, "action": "buy", "at": "2024-03-03T01:00:00Z"}
    path = parquet(tmp_path / "bad.parquet", [bad] * 4)
    before = records(warehouse)
    said = run("import", "tables", "-w", warehouse, "--engagements", path)
    refused(
        said, "4 of 4 rows were refused", "bad.parquet, row 1: action is 'buy'", "Mend the files"
    )
    assert records(warehouse) == before


def test_the_books_of_a_night_fit_a_terminal(run: Run, warehouse: Path) -> None:
    said = run("night", "-w", warehouse, "--date", day(2))
    assert "rerank_feed" in said.out
    assert max(map(len, said.out.splitlines())) <= 100
