"""`queryloop sql`: formats, files, the prompt, pipes, and what is made for a statement."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.catalog.pieces import needed
from pipelines.catalog.session import CatalogSession
from pipelines.catalog.views import catalog_pieces, open_session
from pipelines.entry import main
from pipelines.sql import prompt
from pipelines.sql.prompt import Prompt
from pipelines.store.warehouse import Warehouse
from tests.pipelines.test_catalog import D1, make


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return make(str(tmp_path_factory.mktemp("sql") / "w"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch, capsysbinary, warehouse):
    """Runs `queryloop sql`; `stdin` None is a terminal."""

    def command(*words: object, stdin: str | None = None):
        monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else io.StringIO(stdin))
        monkeypatch.setattr(
            sys, "argv", ["queryloop", "sql", "-w", warehouse.root, *map(str, words)]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsysbinary.readouterr()
        return ended.value.code or 0, out, err.decode()

    return command


ASK = (
    "SELECT user_id, list(cluster_id ORDER BY cluster_id) AS c FROM PROFILES GROUP BY 1 ORDER BY 1"
)


def test_every_format_holds_the_same_rows(run, tmp_path):
    assert json.loads(run(ASK, "--format", "json")[1]) == [
        {"user_id": 7, "c": [1, 3]},
        {"user_id": 8, "c": [1]},
    ]
    assert run(ASK, "--format", "csv")[1] == b'user_id,c\n7,"[1, 3]"\n8,[1]\n'
    code, out, _ = run(ASK, "--format", "parquet")  # the output of a test is no terminal
    stored = pq.read_table(io.BytesIO(out))
    assert (code, stored.to_pylist()) == (
        0,
        [{"user_id": 7, "c": [1, 3]}, {"user_id": 8, "c": [1]}],
    )
    code, out, _ = run(ASK, "--format", "parquet", "--out", tmp_path / "new" / "a.parquet")
    assert (code, out) == (0, b"")
    assert pq.read_table(tmp_path / "new" / "a.parquet").equals(stored)
    assert run(ASK, "--date", D1, "--format", "csv")[1] == b'user_id,c\n7,"[1, 2]"\n8,[1]\n'
    run(ASK, "--format", "csv", "--out", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == 'user_id,c\n7,"[1, 3]"\n8,[1]\n'


def test_parquet_is_refused_where_it_cannot_be(run, monkeypatch, tmp_path):
    code, _, err = run("SELECT 1 AS a, 2 AS a", "--format", "parquet")
    assert code == 2
    assert "two columns are named 'a'" in err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, _, err = run(ASK, "--format", "parquet")
    assert code == 2
    assert "give --out FILE or redirect" in err


def test_statements_from_a_pipe_are_answered_in_turn(run, tmp_path):
    script = "CREATE TEMP TABLE t AS SELECT ';' AS a; -- not ; here\nFROM t;\nSELECT 2 AS b"
    assert run("--format", "csv", stdin=script)[1] == b"a\n;\nb\n2\n"
    code, out, err = run("--format", "csv", stdin="SELECT 1 AS a; FROM nowhere; SELECT 3 AS c")
    assert (code, out) == (2, b"a\n1\n")
    assert "nowhere" in err
    code, _, err = run("--out", tmp_path / "x", stdin=script)
    assert code == 2
    assert "2 of the statements give rows" in err
    assert run("--out", tmp_path / "x", "--format", "csv", stdin="SELECT 1 AS a")[0] == 0
    assert (tmp_path / "x").read_text() == "a\n1\n"
    assert "no statement given" in run(stdin=" \n")[2]


def talk(warehouse, capsys, *lines: str) -> tuple[str, str]:
    """What a prompt answers to lines typed; KeyboardInterrupt where a line is '^C'."""
    said = iter(lines)

    def ask(_: str) -> str:
        line = next(said, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    with open_session(warehouse, warehouse.head()) as session:
        Prompt(session, "csv", "W").run(ask)
    printed = capsys.readouterr()
    return printed.out, printed.err


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    monkeypatch.setattr(prompt, "HISTORY", tmp_path / "history")


@pytest.mark.usefixtures("no_home")
def test_the_prompt_takes_several_lines_and_goes_on_after_an_error(warehouse, capsys):
    out, err = talk(
        warehouse,
        capsys,
        *("SELECT user_id,", " ';' AS a", "FROM PROFILES LIMIT 1;"),
        *("SELEC 1;", "SELECT", "^C", "SELECT 5 AS five;", ".format json", "SELECT 6 AS six;"),
        *(".format xml", ".nonsense", ".help", ".quit", "SELECT 9 AS never;"),
    )
    assert "user_id,a\n7,;\n" in out
    assert "five\n5\n" in out
    assert '[{"six": 6}]' in out
    assert "format must be one of" in out
    assert ".nonsense: see .help" in out
    assert "never" not in out
    assert "syntax error" in err


@pytest.mark.usefixtures("no_home")
def test_the_prompt_lists_tables_and_columns(warehouse, capsys):
    out, _ = talk(warehouse, capsys, ".tables REWARD", ".columns draws")
    assert "view,cluster_rewards_now" in out
    assert "macro,reward_history" in out
    assert "IMPRESSIONS" not in out
    assert "propensity,DOUBLE," in out


def test_only_what_a_statement_names_is_made(warehouse):
    pieces = catalog_pieces(warehouse, warehouse.head())

    def made(sql: str) -> set[str] | None:
        few = needed(pieces, sql)
        return None if few is None else {piece.name for piece in few}

    assert made("SELECT 1") == set()
    assert made("SELECT * FROM profiles") == {"PROFILES"}
    assert made('FROM "draw_bins"') == {"draw_bins", "QUERIES"}
    assert made("FROM rewards_now") == {"rewards_now", "REWARDS", "settings", "ITEMS"}
    assert made("SHOW TABLES") is None
    assert made("FROM duckdb_columns()") is None


def test_every_piece_can_be_made_with_what_it_is_said_to_stand_on(warehouse):
    pieces = catalog_pieces(warehouse, warehouse.head())
    assert len({piece.name for piece in pieces}) == len(pieces)
    for piece in pieces:
        few = needed(pieces, f'FROM "{piece.name}"')
        if few is not None:
            with CatalogSession(warehouse.root, few) as session:
                session.make(few)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM query_table('PRO' || 'FILES')",
        "SET VARIABLE t = 'draws'; SELECT count(*) AS n FROM query_table(getvariable('t'))",
        "CREATE TEMP TABLE mine AS FROM rewards_now; SELECT count(*) AS n FROM mine",
        "SELECT count(*) AS n FROM information_schema.tables",
    ],
)
def test_a_statement_gets_the_answer_of_the_whole_catalogue(warehouse, sql):
    with open_session(warehouse, warehouse.head()) as few:
        answer = few.ask(sql).to_pylist()
    with open_session(warehouse, warehouse.head()) as whole:
        whole.ask("SHOW TABLES")
        assert whole.ask(sql).to_pylist() == answer


@pytest.mark.parametrize(
    "own",
    [
        "CREATE OR REPLACE VIEW draws AS SELECT 1 AS x",
        "CREATE TEMP TABLE draws AS FROM QUERIES",
        "DROP VIEW draws",
    ],
)
def test_what_a_statement_puts_in_place_of_a_view_is_left_alone(warehouse, own):
    with open_session(warehouse, warehouse.head()) as session:
        session.ask("SELECT count(*) FROM draws")
        session.ask(own)
        names = session.ask("SHOW TABLES")["name"].to_pylist()
        assert ("draws" in names) == (not own.startswith("DROP"))
        comments = session.ask("SELECT comment FROM catalogue WHERE name = 'calibration'")
        assert comments["comment"].to_pylist()[0].startswith("calibration(bins): ")
        with pytest.raises(ValueError, match="nosuch"):
            session.ask("FROM nosuch")


def test_a_question_imports_neither_beam_nor_numba_nor_the_night(warehouse):
    code = "import sys; sys.argv[1:] = sys.argv[1:]\nfrom pipelines.entry import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "slow = {'apache_beam', 'numba', 'scipy', 'sklearn', 'matplotlib', 'pyarrow.compute'}\n"
    code += "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    asked = "SELECT first_at, n_items AS one, arm FROM starved(0)"
    command = [sys.executable, "-c", code, "sql", "-w", warehouse.root, asked]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "one" in done.stdout
    assert done.stderr == "[]\n"
