import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from listener.standin.postgres import create_database, drop_database, embedded
from tests.conftest import eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="listener-test-postgres-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def _one(conninfo: str, query: str) -> object:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("version", [16, 18])
def test_a_server_of_each_version_has_vectors_and_is_gone_afterwards(folder: Path, version: int) -> None:
    with embedded(folder / "pg", version=version, durable=False) as conninfo:
        assert int(str(_one(conninfo, "SHOW server_version_num"))) // 10000 == version
        assert _one(conninfo, "SHOW max_connections") == "100"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")

    assert not _answers(conninfo)
    assert not (folder / "pg" / "postmaster.pid").exists()


def test_durable_servers_keep_their_data_and_run_side_by_side(folder: Path) -> None:
    with embedded(folder / "one") as one, embedded(folder / "two", durable=False) as two:
        assert _one(one, "SHOW fsync") == "on"
        assert _one(two, "SHOW fsync") == "off"
        with psycopg.connect(one) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded(folder / "one") as again:
        assert _one(again, "SELECT answer FROM kept") == 42


def test_the_server_ends_when_its_process_is_killed(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from listener.standin.postgres import embedded\n"
        "with embedded(Path(sys.argv[1]), durable=False) as conninfo:\n"
        "    print(conninfo, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, folder / "pg"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        conninfo = owner.stdout.readline().decode().strip()
        assert _answers(conninfo)
        owner.send_signal(signal.SIGKILL)

    eventually(lambda: not _answers(conninfo), describe="the server is gone")
    shutil.rmtree(str(conninfo_to_dict(conninfo)["host"]))


def test_a_server_that_cannot_start_shows_its_log(folder: Path) -> None:
    with embedded(folder / "pg", durable=False):
        pass
    (folder / "pg" / "postgresql.auto.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(RuntimeError, match="no_such_setting"), embedded(folder / "pg", durable=False):
        pass


def test_an_unknown_version_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="PostgreSQL 12"), embedded(folder / "pg", version=12):
        pass


def test_a_database_is_copied_from_its_template_and_dropped_in_use(server: str) -> None:
    original = create_database(server, "original_of_a_copy")
    try:
        with psycopg.connect(original) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS x")
        copy = create_database(server, "copy_of_an_original", "original_of_a_copy")
        user = psycopg.connect(copy, autocommit=True)
        assert user.execute("SELECT x FROM t").fetchone() == (1,)
        drop_database(server, "copy_of_an_original")
        with pytest.raises(psycopg.OperationalError):
            user.execute("SELECT 1")
        assert not _answers(copy)
    finally:
        drop_database(server, "original_of_a_copy")
