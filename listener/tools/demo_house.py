"""Everything the demo runs in: a temporary folder, PostgreSQL, an Immich without its server, and the listener.

The listener is the real one, in a process of its own, started and asked as users do it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, LiteralString, Self
from urllib.parse import quote, urlencode
from uuid import UUID

import httpx
import psycopg
import yaml
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import conninfo_to_dict

import listener
from listener.settings import Job
from listener.sqlfiles import named_queries
from listener.standin import schema, snapshot
from listener.standin.player import Player
from listener.standin.postgres import create_database, embedded
from listener.standin.recording import recorded
from listener.standin.server import immich_api
from listener.tools.demo_figures import Copied, Work

RELEASE = "3.0.3"
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
_POLL_SECONDS = 0.05


class DemoError(Exception):
    """The demo cannot go on; the text is for people."""


@dataclass(frozen=True, slots=True)
class House:
    """Immich's database and folders, and two jobs that share all of carol's photos with bob.

    ``untouched`` is the catalog as it was before anything of ours was in it.
    """

    conninfo: str
    media: Path
    player: Player
    jobs: tuple[Job, ...]
    folder: Path
    environment: dict[str, str]
    untouched: dict[str, tuple[int, int]]

    def command(self, *words: str) -> str:
        """Run one command of the listener; return what it printed. Raises DemoError if it failed."""
        done = subprocess.run(
            [sys.executable, "-m", "listener", *words],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"listener {' '.join(words)} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout.strip()

    def work_avoided(self) -> Work:
        """Count the jobs that Immich did not run for the copies."""
        with psycopg.connect(self.conninfo) as connection:
            row = connection.execute(_query("work_avoided")).fetchone()
        return Work(*row or ())

    def left_behind(self) -> list[str]:
        """Return what is not as it was before the triggers came, one line each."""
        return snapshot.differences(self.untouched, snapshot.catalog(self.conninfo))

    @contextmanager
    def running(self) -> Iterator["Process"]:
        """Run the listener until the block ends, and end it as Docker does."""
        log = self.folder / "listener.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "listener", "run"],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = Process(popen, Log(log))
        try:
            process.wait_ready()
            yield process
        finally:
            process.end()


@contextmanager
def build() -> Iterator[House]:
    """Build the house in a new temporary folder; all of it is gone after the block."""
    with ExitStack() as stack:
        # PostgreSQL may run as another user: its folder must not be in one that only we may pass.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="listener-demo-"))).resolve()
        server = stack.enter_context(embedded(folder / "postgres"))
        conninfo = create_database(server, "immich")
        with psycopg.connect(conninfo) as connection:
            schema.build(connection, RELEASE)
        media, external = folder / "data", folder / "external_library"
        player = stack.enter_context(Player(conninfo, recorded(RELEASE), media, external))
        player.prepare()
        jobs = _share(conninfo, UUID(player.recording.owner_id), media, external)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({"sync_jobs": [_as_config(job) for job in jobs]}))
        environment = {
            "PATH": os.environ.get("PATH", ""),
            # The same listener as this one, also where it is not installed.
            "PYTHONPATH": str(Path(listener.__file__).parents[1]),
            "DB_URL": _url(conninfo),
            "UPLOAD_LOCATION_MOUNT": str(media),
            "EXTERNAL_LIBRARY_MOUNT": str(external),
            "IMMICH_API_URL": stack.enter_context(immich_api()),
            "CONFIG_FILE": str(config),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "DEBUG",
        }
        untouched = snapshot.catalog(conninfo)
        yield House(conninfo, media, player, jobs, folder, environment, untouched)


def _share(conninfo: str, carol: UUID, media: Path, external: Path) -> tuple[Job, ...]:
    """Make bob and his library, and share carol's library and carol's uploads with him."""
    # A path that is no folder: Immich's library scan then leaves the copies alone.
    shared = external / "shared"
    shared.mkdir(parents=True)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        bob = _id(connection, "add_user", {"email": "bob@example.com", "name": "bob"})
        library = _id(connection, "add_library", {"owner": bob, "import_path": str(shared / "bob_")})
    photos = str(external / "carol" / "photos")
    return (
        Job("photos", "external", carol, bob, library, photos, str(shared / "bob_photos")),
        Job("uploads", "uploads", carol, bob, library, str(media), str(shared / "bob_uploads")),
    )


def _id(connection: psycopg.Connection[Any], name: str, parameters: dict[str, object]) -> UUID:
    row = connection.execute(_query(name), parameters).fetchone()
    return UUID(str(row[0])) if row else UUID(int=0)


def _query(name: str) -> LiteralString:
    return named_queries("queries/demo.sql")[name]


def _as_config(job: Job) -> dict[str, str]:
    names = ["name", "kind", "source_user_id", "target_user_id", "target_library_id", "target_path_prefix"]
    names += ["source_path_prefix"] if job.kind == "external" else []
    return {name: str(getattr(job, name)) for name in names}


def _url(conninfo: str) -> str:
    parts = conninfo_to_dict(conninfo)
    query = urlencode([(key, str(parts[key])) for key in ("host", "port") if key in parts])
    return f"postgresql://{quote(str(parts['user']))}@/{parts['dbname']}?{query}"


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a log was read: copies made and removed, and lines about a finished copy."""

    made: int
    removed: int
    copied: int


@dataclass(slots=True)
class Log:
    """The listener's log, read on as it grows. For use by several threads."""

    path: Path
    made: int = 0
    removed: int = 0
    copied: list[Copied] = field(default_factory=list)
    port: int | None = None
    _file: IO[bytes] | None = None
    _part: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Self:
        """Take in what was written since the last call."""
        with self._lock:
            if self._file is None:
                self._file = self.path.open("rb")
            *lines, self._part = (self._part + self._file.read()).split(b"\n")
            for line in lines:
                # What is no log line, such as a traceback, is shown when the listener fails.
                if line.startswith(b"{"):
                    self._take(json.loads(line))
        return self

    def _take(self, entry: dict[str, Any]) -> None:
        fields = entry.get("fields", {})
        match entry["message"]:
            case "copied":
                finished = datetime.fromisoformat(entry["time"]).timestamp()
                self.copied.append(Copied(fields["asset"], finished, fields["latency_ms"] / 1000))
            case "reconciled":
                self.made += fields["made"]
                self.removed += fields["removed"] + fields["parked"]
            case "serving metrics and health":
                self.port = fields["port"]

    def mark(self) -> Mark:
        """Return how far it was read."""
        return Mark(self.made, self.removed, len(self.copied))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def tail(self) -> str:
        """Return the last lines, for people."""
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-15:])


@dataclass(slots=True)
class Process:
    """The listener's process."""

    popen: "subprocess.Popen[bytes]"
    log: Log
    exit_code: int | None = None

    def wait_ready(self) -> None:
        """Wait until the listener says that it is ready. Raises DemoError if it does not come to that."""
        if not _within(_READY_SECONDS, lambda: self._ended() or self._ready()) or self._ended():
            raise DemoError(f"the listener did not get ready; the end of its log:\n{self.log.tail()}")

    def wait_quiet(self, seconds: float) -> int:
        """Wait until nothing is heard and nothing is to do, at most some seconds; return the events so far."""
        last = -1

        def quiet() -> bool:
            nonlocal last
            try:
                events, busy = self._counts()
            except httpx.HTTPError as error:
                raise DemoError(
                    f"the listener does not answer: {error}; the end of its log:\n{self.log.tail()}"
                ) from error
            same, last = events == last, events
            return same and not busy

        _within(seconds, quiet)
        if self._ended():
            raise DemoError(f"the listener ended by itself; the end of its log:\n{self.log.tail()}")
        return last

    def end(self) -> None:
        """Stop it as Docker does; ``exit_code`` tells how it ended."""
        if not self._ended():
            self.popen.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self.popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.exit_code = self.popen.wait()
        self.log.read().close()

    def _ended(self) -> bool:
        return self.popen.poll() is not None

    def _ready(self) -> bool:
        port = self.log.read().port
        try:
            return port is not None and self._get("/readyz").status_code == httpx.codes.OK
        except httpx.ConnectError:
            return False  # the port is in the log a moment before it is open

    def _counts(self) -> tuple[int, float]:
        """Return the notifications of Immich's writes so far, and the keys that wait or are in hand."""
        events, busy = 0, 0.0
        for family in text_string_to_metric_families(self._get("/metrics").text):
            for sample in family.samples:
                name = sample.name.removeprefix("immich_shared_library_")
                if name == "notifications_total" and sample.labels["kind"] != "ping":
                    events += int(sample.value)
                elif name in {"keys_queued", "keys_in_flight"}:
                    busy += sample.value
        return events, busy

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.log.port}{path}", timeout=5, trust_env=False, verify=False)  # noqa: S501 - no TLS


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; tell whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True
