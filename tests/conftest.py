"""What every test may use: a real PostgreSQL, Immich databases made in milliseconds, folders, waiting."""

import asyncio
import logging
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from listener.standin import schema
from listener.standin.player import Player
from listener.standin.postgres import create_database, drop_database, embedded
from listener.standin.recording import recorded

pytest_plugins = ["tests.oddities"]

# The release for what is not about a release. TEST_RELEASE takes another one: all of it can run on each.
DEFAULT_RELEASE = os.environ.get("TEST_RELEASE", "3.0.3")
LISTENER_THREAD = "listener in a thread"
_POLL_SECONDS = 0.01
# Less than 1 where most waits are in vain: for mutants.
_PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))


class _WithFields(logging.Formatter):
    """What varies in a line of our log is in its fields: a failing test shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)} {getattr(record, 'fields', '')}"


def pytest_sessionstart(session: pytest.Session) -> None:
    plugin = session.config.pluginmanager.get_plugin("logging-plugin")
    assert plugin is not None
    plugin.report_handler.setFormatter(_WithFields("%(asctime)s %(levelname)s %(name)s %(message)s"))


@dataclass(frozen=True, slots=True)
class ImmichDatabase:
    """An empty database shaped like one release of Immich."""

    conninfo: str
    release: str


@dataclass(frozen=True, slots=True)
class Roots:
    """Immich's media root and the root of the external libraries, on one file system."""

    media: Path
    external: Path


def eventually(
    predicate: Callable[[], object],
    *,
    within: float = 10,
    describe: Callable[[], object] | str = "",
    every: float = _POLL_SECONDS,
) -> None:
    """Wait until ``predicate()`` is true, at most ``within`` seconds, then fail.

    ``describe`` tells in the failure what was waited for, or how things stand if it is a function. ``every``: seconds
    between two looks, more where a look costs what the listener needs.
    """
    deadline = time.monotonic() + within * _PATIENCE
    while not predicate():
        if time.monotonic() > deadline:
            _fail(within, describe)
        time.sleep(every)


async def eventually_async(
    predicate: Callable[[], Awaitable[object]],
    *,
    within: float = 10,
    describe: Callable[[], object] | str = "",
) -> None:
    """Wait until ``await predicate()`` is true; otherwise like `eventually`."""
    deadline = time.monotonic() + within * _PATIENCE
    while not await predicate():
        if time.monotonic() > deadline:
            _fail(within, describe)
        await asyncio.sleep(_POLL_SECONDS)


def _fail(within: float, describe: Callable[[], object] | str) -> None:
    text = describe if isinstance(describe, str) else describe()
    pytest.fail(f"not so within {within * _PATIENCE:g} s: {text or 'the awaited condition'}", pytrace=True)


def pytest_configure() -> None:
    """Let the processes of the tests hear SIGINT, also where a shell began this one in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_listener_left() -> Iterator[None]:
    """One that a test leaves behind asks for a database that is gone, all through the tests after it."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == LISTENER_THREAD]


@pytest.fixture
def seed() -> int:
    """TEST_SEED, or a new one each time; in CI always the same, as hypothesis has it: no commit is judged by luck."""
    drawn = int(os.environ.get("TEST_SEED") or (0 if "CI" in os.environ else random.randrange(2**32)))
    print(f"TEST_SEED={drawn}")
    return drawn


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Conninfo of the maintenance database of a server with pgvector; the role may create databases.

    Every worker of pytest-xdist starts a server of its own, so that nothing has to be shared and locked. TEST_POSTGRES
    is its version, 14, 15, 16 or 18; TEST_DATABASE_URL names a server that is there already, of a superuser.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    # Not below pytest's own folder: the server runs as another user where we are root.
    folder = Path(tempfile.mkdtemp(prefix="listener-tests-"))
    try:
        version = int(os.environ.get("TEST_POSTGRES", "18"))
        with embedded(folder / "postgres", version=version, durable=False) as conninfo:
            yield conninfo
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _fresh_database(server: str, template: str | None = None) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    try:
        yield create_database(server, name, template)
    finally:
        drop_database(server, name)


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """Conninfo of a new database without anything in it."""
    with _fresh_database(server) as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[Callable[[str], str]]:
    """Return a function from a release of Immich to the name of its template database, built once."""
    names: dict[str, str] = {}

    def template_of(release: str) -> str:
        if release not in names:
            name = f"template_{uuid.uuid4().hex}"
            conninfo = create_database(server, name)
            names[release] = name
            with psycopg.connect(conninfo) as connection:
                schema.build(connection, release)
        return names[release]

    try:
        yield template_of
    finally:
        for name in names.values():
            drop_database(server, name)


@pytest.fixture
def new_immich(server: str, template: Callable[[str], str]) -> Iterator[Callable[[str], ImmichDatabase]]:
    """Return a function from a release to a new empty Immich database, for tests that need several."""
    with ExitStack() as databases:

        def make(release: str = DEFAULT_RELEASE) -> ImmichDatabase:
            conninfo = databases.enter_context(_fresh_database(server, template(release)))
            return ImmichDatabase(conninfo, release)

        yield make


@pytest.fixture
def immich(request: pytest.FixtureRequest, new_immich: Callable[[str], ImmichDatabase]) -> ImmichDatabase:
    """Return a new empty Immich database of the default release.

    For other releases: ``@pytest.mark.parametrize("immich", ["2.7.5"], indirect=True)``.
    """
    return new_immich(getattr(request, "param", DEFAULT_RELEASE))


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Return new empty folders for Immich's media and external libraries."""
    made = Roots(media=tmp_path / "data", external=tmp_path / "external_library")
    made.media.mkdir()
    made.external.mkdir()
    return made


@pytest.fixture
def player(immich: ImmichDatabase, roots: Roots) -> Iterator[Player]:
    """Return a prepared player of the recording of ``immich``'s release into that database."""
    with Player(immich.conninfo, recorded(immich.release), roots.media, roots.external) as made:
        made.prepare()
        yield made
