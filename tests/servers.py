"""PostgreSQL servers of a test's own, to be stopped, frozen, copied and promoted; and a pooler before them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from listener.standin import schema
from listener.standin.postgres import create_database, embedded
from tests.conftest import DEFAULT_RELEASE, eventually

_DATABASE = "immich"
_VERSION = int(os.environ.get("TEST_POSTGRES", "18"))
# A free port may be somebody else's a moment later.
_PORTS = 5
# Neither PostgreSQL nor PgBouncer runs as root.
_ROOT = os.geteuid() == 0


class Server:
    """A server on a folder of data, which is started and stopped at will; its address is another one each time."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._running = contextlib.ExitStack()
        self._conninfo = ""

    def start(self) -> "Server":
        self._conninfo = self._running.enter_context(embedded(self.data_dir, version=_VERSION, durable=False))
        return self

    def stop(self) -> None:
        """Stop it as an update of its container does: every session is ended."""
        self.wake()
        self._running.close()

    @property
    def conninfo(self) -> str:
        """How to reach Immich's database there."""
        return make_conninfo(self._conninfo, dbname=_DATABASE)

    def execute(self, text: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def freeze(self) -> None:
        """Stop every process of the server in its tracks; the machine goes on, and its kernel takes what is sent."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def stand_by(self, data_dir: Path) -> "Server":
        """Return a replica of this server that is following it, not started yet."""
        host = str(conninfo_to_dict(self._conninfo)["host"])
        ((programs,),) = self.execute("SELECT setting FROM pg_config() WHERE name = 'BINDIR'")
        data_dir.mkdir(mode=0o700)
        owner = self.data_dir.stat()
        os.chown(data_dir, owner.st_uid, owner.st_gid)
        command = [f"{programs}/pg_basebackup", "-h", host, "-U", "postgres", "-D", str(data_dir), "-R", "-c", "fast"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=data_dir,
            timeout=60,
            user=owner.st_uid if _ROOT else None,
            group=owner.st_gid if _ROOT else None,
            extra_groups=[] if _ROOT else None,
        )
        assert done.returncode == 0, done.stderr
        return Server(data_dir)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(FileNotFoundError):
            postmaster = int((self.data_dir / "postmaster.pid").read_text().split()[0])
            # The postmaster first: it can start nobody new then.
            for pid in (postmaster, *_children(postmaster)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything; what follows it does not.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(folder.name))
    return found


@contextmanager
def prototype() -> Iterator[Callable[[], Server]]:
    """Yield a function that makes servers, each with an empty Immich database; all end with the block."""
    # Not below pytest's own folder: a server runs as another user where we are root.
    folder = Path(tempfile.mkdtemp(prefix="listener-servers-"))
    made: list[Server] = []
    try:
        with (
            embedded(folder / "prototype", version=_VERSION, durable=False) as conninfo,
            psycopg.connect(create_database(conninfo, _DATABASE)) as connection,
        ):
            schema.build(connection, DEFAULT_RELEASE)

        def make() -> Server:
            data_dir = folder / f"server{len(made)}"
            subprocess.run(["cp", "-a", folder / "prototype", data_dir], check=True)
            made.append(Server(data_dir))
            return made[-1].start()

        yield make
    finally:
        for server in made:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Pooler:
    """A PgBouncer before one server."""

    port: int
    log: Path

    def conninfo(self, conninfo: str) -> str:
        """Return how to reach the same database through the pooler."""
        return make_conninfo(conninfo, host="127.0.0.1", port=self.port)


@contextmanager
def pooler(server: str, mode: str, *, round_robin: bool = False) -> Iterator[Pooler]:
    """Run the real PgBouncer before a server in one of its modes: session, transaction or statement."""
    host = conninfo_to_dict(server)["host"]
    folder = Path(tempfile.mkdtemp(prefix="listener-pooler-"))
    folder.chmod(0o755)
    (folder / "users.txt").write_text('"postgres" ""\n"listener" ""\n')
    settings = f"""
        [databases]
        * = host={host} port=5432
        [pgbouncer]
        listen_addr = 127.0.0.1
        unix_socket_dir =
        auth_type = trust
        auth_file = {folder}/users.txt
        pool_mode = {mode}
        server_round_robin = {int(round_robin)}
        """.replace("        ", "")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for _ in range(_PORTS):
            if (started := _start_pooler(folder, settings, stack)) is not None:
                yield started
                return
        pytest.fail("PgBouncer found no port that was still free")


def _start_pooler(folder: Path, settings: str, stack: contextlib.ExitStack) -> Pooler | None:
    """Start PgBouncer on a free port; None where somebody else took that port first."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "pgbouncer.ini").write_text(f"{settings}\nlisten_port = {port}\n")
    log = folder / "pgbouncer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["pgbouncer", folder / "pgbouncer.ini"],
            stdout=output,
            stderr=output,
            user="nobody" if _ROOT else None,
            extra_groups=[] if _ROOT else None,
        )
    stack.callback(_end, process)
    listens = f"listening on 127.0.0.1:{port}\n"
    eventually(lambda: listens in log.read_text() or process.poll() is not None, within=20, describe=log.read_text)
    if listens in log.read_text():
        return Pooler(port, log)
    assert "Address already in use" in log.read_text(), log.read_text()
    return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(10)
