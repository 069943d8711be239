"""`make mutants` itself: which mutants it makes, how it judges them, and what it says of them."""

import asyncio
import io
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console

from listener import database, tracking
from listener.database import Connection, connect
from listener.immich import catalog
from listener.immich.layout import Layout
from listener.sqlfiles import named_queries
from listener.sync.assets import Rows
from listener.sync.extras import Extras
from listener.sync.people import People
from listener.sync.phones import Phones
from tests.chaos.report import Report
from tests.conftest import ImmichDatabase
from tests.mutants import __main__ as command
from tests.mutants import pythontext, sqltext
from tests.mutants.catalogue import Mutant, of_queries, queries
from tests.mutants.judging import Choice, Judge, failing
from tests.mutants.ledger import KILLED, SURVIVED, UNREACHED, Ledger, Verdict, as_row, equivalents
from tests.mutants.reach import QUERIES, Reach, trace
from tests.mutants.tree import ROOT, Tree

_PLACEHOLDER = re.compile(r"%\(\w+\)s")


def mutated(text: str) -> set[str]:
    return {" ".join(change.applied(text).split()) for change in sqltext.changes(text)}


def test_each_condition_of_a_query_is_dropped_and_each_operator_changed() -> None:
    query = "SELECT id FROM asset WHERE a = 1 AND b IS NULL OR NOT c"
    assert mutated(query) == {
        "SELECT id FROM asset WHERE b IS NULL OR NOT c",
        "SELECT id FROM asset WHERE a = 1 OR NOT c",
        "SELECT id FROM asset WHERE a = 1 AND b IS NULL",
        "SELECT id FROM asset WHERE a <> 1 AND b IS NULL OR NOT c",
        "SELECT id FROM asset WHERE a = 1 AND b IS NOT NULL OR NOT c",
        "SELECT id FROM asset WHERE a = 1 AND b IS NULL OR c",
        "SELECT id FROM asset WHERE a = 1 OR b IS NULL OR NOT c",
        "SELECT id FROM asset WHERE a = 1 AND b IS NULL AND NOT c",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "SELECT FROM a LEFT JOIN b ON b.id = a.id",
            {
                "SELECT FROM a JOIN b ON b.id = a.id",
                "SELECT FROM a LEFT JOIN b ON true",
                "SELECT FROM a LEFT JOIN b ON b.id <> a.id",
            },
        ),
        (
            "SELECT a UNION ALL SELECT b",
            {"SELECT a", "SELECT * FROM (SELECT a) AS branch WHERE false UNION ALL SELECT b"},
        ),
        (
            "((SELECT a) UNION (SELECT b) ORDER BY id)",
            {
                "((SELECT a) ORDER BY id)",
                "(SELECT * FROM ((SELECT a)) AS branch WHERE false UNION (SELECT b) ORDER BY id)",
            },
        ),
        (
            "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = 1 WHERE a.x IS DISTINCT FROM 1",
            {
                "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = 1 WHERE true",
                "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = 1 WHERE a.x IS NOT DISTINCT FROM 1",
            },
        ),
        ("{part} UNION SELECT a", {"{part}", "SELECT * FROM ({part}) AS branch WHERE false UNION SELECT a"}),
        ("UNION SELECT a", {""}),
        ("EXISTS (SELECT FROM a)", {"NOT EXISTS (SELECT FROM a)"}),
        ("SELECT ' = ', \"a = b\" -- x = y AND z", set()),
    ],
)
def test_joins_branches_and_conflicts_have_mutants(query: str, expected: set[str]) -> None:
    assert mutated(query) == expected


def test_statements_entries_of_rules_and_the_sql_in_strings_have_mutants() -> None:
    module = (
        'def f(a):\n    """One = two."""\n    try:\n        g(a)\n    except a.Error:\n        return {"x": 1}\n'
        '\n\nRULE = "a IS NULL"\n'
    )
    found = {change.what for change in (*pythontext.left_out(module), *pythontext.sql_in_strings(module))}
    assert found == {
        "without: g(a)",
        "without: except a.Error",
        'without: return {"x": 1}',
        'without: "x": 1',
        "IS is IS NOT: a IS NULL",
    }


def test_operators_of_python_have_mutants() -> None:
    pytest.importorskip("cosmic_ray", reason="installed by `make mutants`")
    module = "def f(a, b):\n    if a < b and not a:\n        a += 1\n"
    found = {change.applied(module).removeprefix("def f(a, b):\n") for change in pythontext.changes(module)}
    assert found == {
        "    if a <= b and not a:\n        a += 1\n",
        "    if a < b or not a:\n        a += 1\n",
        "    if a < b and  a:\n        a += 1\n",
        "    if not a < b and not a:\n        a += 1\n",
        "    if a < b and not a:\n        a += 2\n",
        "    if a < b and not a:\n        a += 0\n",
        "    if a < b and not a:\n        pass\n",
    }


def test_postgresql_understands_every_mutant_of_a_whole_query(immich: ImmichDatabase) -> None:
    """Else anything would kill it."""
    assert asyncio.run(_prepared(immich.conninfo)) > 100


async def _prepared(conninfo: str) -> int:
    """Prepare the queries that can be, and their mutants. Return how many mutants there were."""
    done, refusals = 0, dict[str, str]()
    async with await connect(conninfo) as connection:
        await tracking.migrate(connection)
        for file in sorted((ROOT / QUERIES).glob("*.sql")):
            text = file.read_text()
            for mutant in of_queries(f"{QUERIES}/{file.name}", text):
                query = mutant.before
                if query not in refusals:
                    refusals[query] = "a part" if "{" in query else await _refusal(connection, query)
                if refusals[query]:
                    continue
                start, changed = text.index(query), mutant.applied(text)
                wrong = changed[start : start + len(query) + len(changed) - len(text)]
                assert not await _refusal(connection, wrong), mutant.name
                done += 1
    return done


async def _refusal(connection: Connection, query: str) -> str:
    numbers: dict[str, int] = {}
    text = _PLACEHOLDER.sub(lambda found: f"${numbers.setdefault(found[0], len(numbers) + 1)}", query)
    try:
        async with connection.transaction():
            await connection.execute(f"PREPARE mutant AS {text}".encode())
            await connection.execute("DEALLOCATE mutant")
    except psycopg.Error as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file", ["extras", "people", "phones", "rows"])
def test_postgresql_understands_every_mutant_of_a_part(
    file: str, immich: ImmichDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the listener composes them."""
    queries = dict(named_queries(f"queries/{file}.sql"))
    text = (ROOT / QUERIES / f"{file}.sql").read_text()
    made: Any = {"extras": Extras, "people": People, "phones": Phones, "rows": Rows}[file]
    monkeypatch.setattr(database, "named_queries", lambda name: queries if f"/{file}." in name else named_queries(name))

    async def run() -> None:
        async with await connect(immich.conninfo) as connection:
            await tracking.migrate(connection)
            found = await catalog.read(connection)
            parts = (found, Layout(Path("/data"), Path("/external"))) if made is Rows else (found,)
            base = set(_statements(made.compose(*parts)))
            for mutant in of_queries(f"{QUERIES}/{file}.sql", text):
                start, changed = text.index(mutant.before), mutant.applied(text)
                wrong = changed[start : start + len(mutant.before) + len(changed) - len(text)]
                with pytest.MonkeyPatch.context() as once:
                    once.setitem(queries, mutant.block, wrong.strip())
                    for statement in {*_statements(made.compose(*parts))} - base:
                        assert not await _refusal(connection, statement.decode()), mutant.name

    asyncio.run(run())


def _statements(composed: object) -> list[bytes]:
    if isinstance(composed, bytes):
        return [composed]
    parts = composed if isinstance(composed, tuple) else _fields_of(composed)
    return [text for part in parts for text in _statements(part)]


def _fields_of(composed: object) -> list[object]:
    return [getattr(composed, one.name) for one in fields(composed)] if is_dataclass(composed) else []


def _mutant(what: str = "> 1 is > 9") -> Mutant:
    """Return a mutant that takes names which stand twice; one of the tests of its module sees that."""
    text = (ROOT / "listener/sqlfiles.py").read_text()
    start = text.index("> 1}")
    return Mutant("listener/sqlfiles.py", "named_queries", text, sqltext.Change(start, start + 3, "> 9", what), 1)


SEES = "tests/test_sqlfiles.py::test_a_name_that_stands_twice_is_refused"
SEES_NOT = "tests/test_sqlfiles.py::test_a_missing_file_is_an_error"


def test_a_mutant_is_killed_by_a_test_that_sees_it_and_lives_where_none_does(tmp_path: Path) -> None:
    judge = Judge(Tree.of_checkout(tmp_path / "tree"), None, 1)
    killed = judge.judge(_mutant(), [SEES_NOT, SEES], 1)
    assert (killed.outcome, killed.test) == (KILLED, SEES)
    assert judge.judge(_mutant(), [SEES_NOT], 1).outcome == SURVIVED
    assert judge.judge(_mutant(), [], 1).outcome == UNREACHED
    assert judge.tests([SEES_NOT, SEES], 1).code == 0, "the mutant was left in"
    assert (ROOT / "listener/sqlfiles.py").read_text() == _mutant().before


def test_what_a_test_reaches_is_found_by_running_it(tmp_path: Path) -> None:
    tree = Tree.of_checkout(tmp_path / "tree")
    trace(tree)
    assert "/*reached sql/queries/people.sql:may_go*/" in tree.read("sql/queries/people.sql")
    test = "tests/test_files.py::test_a_shared_file_is_one_inode_and_the_second_time_nothing_happens"
    tree.test(["-p", "reached", test], {}, within=60)
    reach = Reach.of_run(tree.folder / "reached", {"tests/test_files.py": "its digest"})
    assert reach.tests["listener/sync/files.py:place"] == [test]
    assert "listener/sync/clearing.py:remove_files" not in reach.tests
    assert reach.stale({"tests/test_files.py": "its digest", "tests/test_path.py": "its digest"}) == [
        "tests/test_path.py"
    ]


def test_the_tests_that_killed_the_like_come_first_then_those_that_are_about_it_and_little_else() -> None:
    stacks = replace(_mutant(), path="sql/queries/extras.sql", block="stack_make")
    one, other, about, elsewhere = "tests/test_a.py::x", "tests/test_b.py::x", "tests/test_stacks.py::x", "tests/c::x"
    seconds = dict.fromkeys((one, other, about, elsewhere), 5.0)
    reach = Reach({stacks.place: [one, other, about], "other": [one, about, elsewhere]}, seconds, {})
    assert Choice(reach, None).of(stacks, {}) == [about, other, one]
    assert Choice(reach, None).of(stacks, {one: 2}) == [one, about, other]
    assert Choice(reach, 10).of(stacks, {}) == [about, other]


def test_a_survivor_that_nobody_explains_makes_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, console = tmp_path / "page.md", Console(record=True, width=160, file=io.StringIO())
    monkeypatch.setattr(command, "_PAGE", page)
    page.write_text("# What faults do\n")
    mutant, other = _mutant(), _mutant("a | b is a & b")
    lives, dies = Verdict(SURVIVED, "", 3, 1.0), Verdict(KILLED, SEES, 3, 1.0)
    assert command.show({mutant: dies}, [mutant], console) == 0
    assert command.show({mutant: lives, other: lives}, [mutant, other], console) == 1
    page.write_text(f"# What mutants survive\n\n{as_row(mutant.name, 'It is so.')}\n")
    assert command.show({mutant: lives, other: lives}, [mutant, other], console) == 1
    page.write_text(f"{page.read_text()}{as_row(other.name, 'That, too.')}\n")
    assert equivalents(page) == {mutant.name: "It is so.", other.name: "That, too."}
    assert command.show({mutant: lives, other: lives}, [mutant, other], console) == 0
    command.show({mutant: dies}, [mutant], console)
    assert f"explained, but a test kills it: {mutant.name}" in console.export_text()


def test_what_is_known_is_known_as_long_as_the_code_is_the_same(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state" / "results.sqlite")
    verdict = Verdict(KILLED, SEES, 3, 1.0)
    ledger.note(_mutant(), verdict)
    ledger.close()
    again = Ledger(tmp_path / "state" / "results.sqlite")
    assert again.known(_mutant()) == verdict
    assert again.known(replace(_mutant(), before="other")) is None
    assert again.kills(_mutant()) == {SEES: 1}
    assert again.kills(replace(_mutant(), block="other")) == {}
    again.close()


def test_the_test_that_failed_is_read_from_what_pytest_says() -> None:
    text = "FAILED tests/a/test_b.py::test_c[2.0.0-so it is] - AssertionError: no\n1 failed"
    assert failing(text) == "tests/a/test_b.py::test_c[2.0.0-so it is]"
    assert failing("ERROR tests/test_b.py\n!!!") == "tests/test_b.py"


def test_every_query_that_is_explained_has_that_mutant() -> None:
    names = {mutant.name for mutant in queries()}
    explained = {name for name in equivalents(ROOT / "docs" / "reliability.md") if ".sql:" in name}
    assert explained <= names


def test_a_run_of_chaos_leaves_what_is_said_of_mutants() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    report = Report([], 1, "3.0.3", "18", 60.0)
    new = report.page(page)
    assert new.startswith(report.markdown())
    assert new.endswith(page[page.index("\n# What mutants survive") :])
    assert report.page("") == report.markdown()
