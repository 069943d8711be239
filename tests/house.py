"""A house with everything in it: a played Immich, a target user with a library, and the listener as a process.

The listener is the real one, started as users start it and looked at as they do: by its exit code, its log,
its HTTP side, and ``verify``.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4, uuid5

import httpx
import psycopg
import yaml
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from listener.database import connect
from listener.settings import Job
from listener.standin import schema
from listener.tools.verify import Report, render, verify
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.role import as_listener

START_WITHIN = 30.0
SETTLE_WITHIN = 30.0
JUDGED_EVERY = 0.1
# Asked again and again: a client of its own would read the certificates each time, in 50 ms.
_HTTP = httpx.Client(verify=False, timeout=5, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))  # noqa: S501 - no TLS


@dataclass(frozen=True, slots=True)
class House:
    """Immich's database and folders, a source user with a library, and a target user with theirs.

    The listener connects as a role of its own, which only may what ``run`` needs. ``as_immich``: as Immich's role, for
    what needs more: installing, and a first start in a database without our tables.
    """

    immich: ImmichDatabase
    roots: Roots
    jobs: tuple[Job, ...]
    folder: Path
    extra: Mapping[str, str] = field(default_factory=dict)
    as_immich: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets, and nothing else of this machine's."""
        conninfo = self.immich.conninfo if self.as_immich else as_listener(self.immich.conninfo)
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump({"sync_jobs": [_as_config(job) for job in self.jobs]}))
        return {
            "PATH": os.environ["PATH"],
            "DB_URL": database_url(conninfo),
            "UPLOAD_LOCATION_MOUNT": str(self.roots.media),
            "EXTERNAL_LIBRARY_MOUNT": str(self.roots.external),
            "IMMICH_API_URL": "http://127.0.0.1:9",
            "CONFIG_FILE": str(config),
            "HTTP_PORT": "0",
            "HTTP_HOST": "127.0.0.1",
            "LOG_LEVEL": "DEBUG",
            **self.extra,
        }

    def command(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command of the listener to its end."""
        return subprocess.run(
            [sys.executable, "-m", "listener", *words],
            env=(replace(self, as_immich=True) if words[0] == "triggers" else self).environment,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def install_triggers(self) -> None:
        done = self.command("triggers", "install")
        assert done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def running(self, *, ready: bool = True) -> Iterator["Process"]:
        """Run the listener as a process of its own until the block ends."""
        process = self.start()
        try:
            if ready:
                process.wait_ready()
            yield process
        finally:
            process.end()

    def start(self) -> "Process":
        log = self.folder / f"listener-{uuid4().hex[:8]}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "listener", "run"],
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )
        return Process(popen, log)

    def verify(self) -> Report:
        async def judge() -> Report:
            async with await connect(self.immich.conninfo) as connection:
                return await verify(connection, self.jobs, self.roots.media)

        return asyncio.run(judge())

    def settled(self, *, within: float = SETTLE_WITHIN) -> Report:
        """Wait until the judge finds nothing; returns its report. Fails with what still differs."""
        last: list[Report] = []

        def right() -> bool:
            last[:] = [self.verify()]
            return last[0].ok

        eventually(right, within=within, describe=lambda: render(last[0]), every=JUDGED_EVERY)
        return last[0]

    def query(self, text: str, *params: object) -> list[tuple[object, ...]]:
        """Run one statement as Immich would: our triggers hear it."""
        with psycopg.connect(self.immich.conninfo, autocommit=True) as connection:
            cursor = connection.execute(text.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def sweep(self) -> None:
        """Let the listener look through everything now, as it does by itself from time to time."""
        self.query("SELECT pg_notify('immich_shared_library', %s)", json.dumps({"v": 1, "kind": "sweep"}))

    @property
    def source(self) -> UUID:
        return self.jobs[0].source_user_id

    @property
    def target(self) -> UUID:
        return self.jobs[0].target_user_id


@dataclass(frozen=True, slots=True)
class Process:
    """The listener's process."""

    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        eventually(lambda: self._port() is not None or self.popen.poll() is not None, within=START_WITHIN)
        assert self._port() is not None, self.output
        return f"http://127.0.0.1:{self._port()}"

    def _port(self) -> str | None:
        found = re.search(r'serving metrics and health.*port(?:=|": )(\d+)', self.output)
        return found[1] if found else None

    def get(self, path: str) -> httpx.Response:
        return _HTTP.get(self.url + path)

    def wait_ready(self) -> None:
        eventually(
            lambda: self.popen.poll() is not None or self.get("/readyz").status_code == 200,
            within=START_WITHIN,
            describe=lambda: self.output[-4000:],
        )
        assert self.popen.poll() is None, self.output

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        pattern = rf"^immich_shared_library_{name}(?:\{{[^}}]*\}})? (\S+)$"
        return sum(float(value) for value in re.findall(pattern, self.get("/metrics").text, re.MULTILINE))

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> int:
        """Stop it as Docker does, and return its exit code."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise


def database_url(conninfo: str) -> str:
    """Return the address of a database in the form that DB_URL takes."""
    parts = conninfo_to_dict(conninfo)
    account = quote(str(parts["user"])) + (f":{quote(str(parts['password']))}" if "password" in parts else "")
    query = urlencode([(key, str(value)) for key, value in parts.items() if key in {"host", "port"}])
    return f"postgresql://{account}@/{parts['dbname']}?{query}"


def _as_config(job: Job) -> dict[str, str]:
    config = {
        "name": job.name,
        "kind": job.kind,
        "source_user_id": str(job.source_user_id),
        "target_user_id": str(job.target_user_id),
        "target_library_id": str(job.target_library_id),
        "target_path_prefix": job.target_path_prefix,
    }
    if job.album_id is not None:
        config["album_id"] = str(job.album_id)
    return config | ({"source_path_prefix": job.source_path_prefix} if job.kind == "external" else {})


def add_user(conninfo: str, release: str, name: str, user_id: UUID | None = None) -> UUID:
    """Make a user, with a cluster group of their own where this release has such."""
    user_id = user_id or uuid4()
    columns: dict[str, object] = {"id": user_id, "email": f"{name}@example.com", "name": name, "password": ""}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if "clusterGroupId" in schema.load_facts(release).tables["user"].column_names():
            # Follows from the user's, for lives that are compared with each other.
            columns["clusterGroupId"] = uuid5(user_id, "cluster group")
            connection.execute("INSERT INTO cluster_group (id) VALUES (%s)", [columns["clusterGroupId"]])
        insert = sql.SQL('INSERT INTO "user" ({}) VALUES ({})').format(
            sql.SQL(", ").join(sql.Identifier(column) for column in columns),
            sql.SQL(", ").join(sql.Placeholder() for _ in columns),
        )
        connection.execute(insert, list(columns.values()))
    return user_id


def add_library(conninfo: str, owner: UUID, import_path: str) -> UUID:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(
            'INSERT INTO library (name, "ownerId", "importPaths", "exclusionPatterns")'
            " VALUES ('shared with me', %s, %s, '{}') RETURNING id",
            (owner, [import_path]),
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def share(immich: ImmichDatabase, roots: Roots, source: UUID | str, folder: Path, *, photos: str) -> House:
    """Make a target user, bob, with whom both the library below ``photos`` and the uploads are shared."""
    source = UUID(str(source))
    bob = add_user(immich.conninfo, immich.release, f"bob-{uuid4().hex[:6]}")
    # No folder of this name: Immich's library scan then leaves the copies alone.
    library = add_library(immich.conninfo, bob, str(roots.external / "shared" / f"bob_{bob}_"))
    shared = roots.external / "shared"
    shared.mkdir(exist_ok=True)
    jobs = (
        Job("photos", "external", source, bob, library, photos, str(shared / f"bob_{bob}_photos")),
        Job("uploads", "uploads", source, bob, library, str(roots.media), str(shared / f"bob_{bob}_uploads")),
    )
    return House(immich, roots, jobs, folder)
