"""Two neighbours on one Immich of each release: what one does, the other sees.

Alice shares; bob is shared with. Both act through ``Actor``, which writes what Immich writes. The listener is
the service itself with its triggers, its LISTEN connection and its files, in a thread of this process.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID
from zlib import crc32

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from listener import tracking, triggers
from listener.database import connect
from listener.service import Service
from listener.settings import Job, RemovalLimit, Settings
from listener.standin import schema
from listener.standin.actor import Actor
from listener.tools.verify import Report
from tests.conftest import LISTENER_THREAD, ImmichDatabase, Roots, eventually
from tests.house import House, add_library, add_user
from tests.role import as_listener

START_WITHIN = 20.0
# The tables of the first are those of the second.
SAME_TABLES = {"2.1.0": "2.0.0", "3.1.0": "3.0.3"}
# Before and with lockedProperties, before and with 3.0's media tables, with person groups.
MODELS = ("2.0.0", "2.7.5", "3.0.3", "3.2.0")
NEWEST = "3.3.0"
# What differs little from the next one: a test beside another takes turns with them.
ALIKE = ("2.0.0", "2.7.5")
QUIET_LOOKS = 4
LOOK_EVERY = 0.01


@dataclass
class Home:
    """One Immich with its users, and the jobs between them."""

    immich: ImmichDatabase
    roots: Roots
    folder: Path
    alice: Actor
    bob: Actor
    house: House
    services: ExitStack
    look: psycopg.Connection[Any]
    _running: "Running | None" = field(default=None)

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.immich.release.split("."))

    @property
    def photos(self) -> Path:
        """The folder of alice's external library that is shared."""
        return self.roots.external / "alice" / "photos"

    # --- the listener -----------------------------------------------------------------------------------

    def start(self, *, but: str | None = None, **changes: Any) -> None:
        """Start the listener, with some fields of the settings changed, and wait until it is ready.

        but: what alone keeps it from being so, such as a job that is refused; a part of the reason.
        """
        assert self._running is None
        self._running = Running(self.settings(**changes), but)
        # Not only once for each home: a test may go on with a changed copy of it.
        self.services.callback(self._running.stop)
        self._running.start()

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do something while the listener is down."""
        self.stop()
        yield
        self.start()

    def settings(self, **changes: Any) -> Settings:
        settings = Settings(
            conninfo=make_conninfo(as_listener(self.immich.conninfo), application_name="listener"),
            media_root=self.roots.media,
            external_root=self.roots.external,
            jobs=self.house.jobs,
            api_url="http://127.0.0.1:9",
            api_key=None,
            reconcile_interval=900,
            link_mode="auto",
            workers=2,
            ml_wait=86400,
            removal_limit=RemovalLimit(20, 10.0),
            http_host="127.0.0.1",
            http_port=0,
            log_level="INFO",
            log_format="text",
        )
        return replace(settings, **changes)

    def change_jobs(self, change: Callable[[Job], Job]) -> None:
        """Change the configuration and start the listener anew."""
        self.stop()
        self.house = replace(self.house, jobs=tuple(change(job) for job in self.house.jobs))
        self.start()

    @property
    def service(self) -> Service:
        """The listener that runs."""
        assert self._running is not None
        return self._running.service

    # --- looking ----------------------------------------------------------------------------------------

    def settled(self, *, within: float = 20.0) -> Report:
        """Wait until the judge finds nothing. It is asked when nothing is in hand: judging costs much."""
        if self._running is not None:
            self._running.wait_idle(within)
        return self.house.settled(within=within)

    def copy_of(self, asset: UUID) -> UUID | None:
        """Return bob's copy of alice's asset, if there is one that is not parked."""
        return self._known(
            "SELECT copy.id FROM _face_sync_asset_map AS map JOIN asset AS copy ON copy.id = map.target_asset_id"
            " WHERE map.source_asset_id = %s AND map.target_user_id = %s"
            ' AND NOT (copy."isOffline" AND map.parked IS NOT NULL)',
            asset,
        )

    def shown(self) -> list[UUID]:
        """Return bob's assets that are in some view of Immich's, the trash among them."""
        rows = self.bob.rows.where("asset", ownerId=self.bob.user_id)
        return [row["id"] for row in rows if not (row["visibility"] == "hidden" and row["deletedAt"])]

    def copied(self, asset: UUID) -> UUID:
        """Wait for the copy of an asset and return it."""
        eventually(lambda: self.copy_of(asset), within=10, describe=f"no copy of {asset}")
        copy = self.copy_of(asset)
        assert copy is not None
        return copy

    def mirror_of(self, person: UUID) -> UUID | None:
        """Return the person who stands for alice's person at bob's."""
        return self._known(
            "SELECT target_person_id FROM _face_sync_person_map WHERE source_person_id = %s AND target_user_id = %s",
            person,
        )

    def face_of(self, face: UUID) -> UUID | None:
        """Return bob's copy of alice's face."""
        return self._known(
            "SELECT target_face_id FROM _face_sync_face_map WHERE source_face_id = %s AND target_user_id = %s", face
        )

    def _known(self, text: str, id_: UUID) -> UUID | None:
        row = self.look.execute(text.encode(), [id_, self.bob.user_id]).fetchone()
        return UUID(str(row[0])) if row else None


class Running:
    """The service in a thread with an event loop of its own."""

    def __init__(self, settings: Settings, but: str | None = None) -> None:
        self._settings = settings
        self._but = but
        self._loop = asyncio.new_event_loop()
        self._service: Service | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=LISTENER_THREAD, daemon=True)

    def start(self) -> None:
        self._thread.start()
        eventually(
            lambda: self._failure is not None or (self._service is not None and self._as_wanted()),
            within=START_WITHIN,
            describe=lambda: str(self._service and self._service.readiness.reasons),
        )
        if self._failure is not None:
            raise self._failure

    def _as_wanted(self) -> bool:
        reasons = self.service.readiness.reasons
        return not reasons if self._but is None else len(reasons) == 1 and self._but in reasons[0]

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    def wait_idle(self, within: float) -> None:
        """Wait, no longer than ``within`` seconds, until nothing was in hand at several looks."""
        queue, quiet, end = self.service.queue, 0, time.monotonic() + within
        while quiet < QUIET_LOOKS and time.monotonic() < end:
            quiet = 0 if queue.waiting or queue.in_hand else quiet + 1
            time.sleep(LOOK_EVERY)

    def stop(self) -> None:
        """Stop the service if it still runs."""
        if self._service is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._service.stop)
        self._thread.join(15)
        assert not self._thread.is_alive(), "the listener did not stop"
        self._loop.close()

    def _run(self) -> None:
        async def serve() -> None:
            self._service = Service(self._settings)
            await self._service.run()

        try:
            self._loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - shown by whoever started it
            self._failure = error


def install_triggers(conninfo: str) -> None:
    async def install() -> None:
        async with await connect(conninfo) as connection:
            await tracking.migrate(connection)
            await triggers.install(connection)

    asyncio.run(install())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on releases, of those that its marker ``since``/``until`` names; on all of them in ``make soak``.

    Those are one release of each model of the data, and one of the others, which one by the test's name: so each
    release has its share of tests in every run. A test marked ``variant`` has the models only, and of those before 3.0
    one by its name. Two releases of the same tables are one database (test_schema.py compares them).
    """
    if "release" not in metafunc.fixturenames:
        return
    bounds = metafunc.definition.get_closest_marker("releases")
    since = bounds.kwargs.get("since", "0") if bounds else "0"
    until = bounds.kwargs.get("until", "99") if bounds else "99"
    bounded = [r for r in schema.releases() if _key(since) <= _key(r) <= _key(until)]
    now = [r for r in bounded if SAME_TABLES.get(r) not in bounded]
    turn = crc32(metafunc.function.__name__.encode())
    others = [r for r in now if r not in {*MODELS, NEWEST}]
    alike = [r for r in now if r in ALIKE]
    if metafunc.definition.get_closest_marker("variant"):
        # One that is for none of the models, as for the first of a kind, has all of its own.
        of_models = [r for r in now if r in MODELS and (r not in alike or r == alike[turn % len(alike)])]
        now = of_models or now
    else:
        # The newest is of the last model.
        left_out = MODELS[-1] if NEWEST in now else None
        now = [r for r in now if r != left_out and (r not in others or r == others[turn % len(others)])]
    metafunc.parametrize("release", [pytest.param(r, marks=[] if r in now else pytest.mark.soak) for r in bounded])


def _key(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def make_home(
    immich: ImmichDatabase,
    roots: Roots,
    folder: Path,
    stack: ExitStack,
    *,
    both_ways: bool = False,
    ids: Mapping[str, UUID] | None = None,
) -> Home:
    """Make a home whose listener is not started yet; ``stack`` closes it. Both ways: bob's uploads go to alice too.

    ``ids`` are those of the users, for a life that is to be lived again.
    """
    with psycopg.connect(immich.conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO system_metadata (key, value) VALUES ('MediaLocation', %s)",
            [Jsonb({"location": str(roots.media)})],
        )
    alice, bob = (
        stack.enter_context(
            Actor(
                immich.conninfo,
                immich.release,
                add_user(immich.conninfo, immich.release, name, (ids or {}).get(name)),
                roots.media,
                roots.external,
                seed=number,
            )
        )
        for number, name in enumerate(("alice", "bob"))
    )
    shared = roots.external / "shared"
    shared.mkdir(exist_ok=True)
    library = add_library(immich.conninfo, bob.user_id, str(shared / "bob_"))
    photos = str(roots.external / "alice" / "photos")
    media = str(roots.media)
    jobs = [
        Job("photos", "external", alice.user_id, bob.user_id, library, photos, str(shared / "bob_photos")),
        Job("uploads", "uploads", alice.user_id, bob.user_id, library, media, str(shared / "bob_uploads")),
    ]
    if both_ways:
        back = add_library(immich.conninfo, alice.user_id, str(shared / "alice_"))
        jobs.append(Job("back", "uploads", bob.user_id, alice.user_id, back, media, str(shared / "alice_uploads")))
    install_triggers(immich.conninfo)
    look = stack.enter_context(psycopg.connect(immich.conninfo, autocommit=True))
    return Home(immich, roots, folder, alice, bob, House(immich, roots, tuple(jobs), folder), stack, look)


@pytest.fixture
def new_home(
    release: str, new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> Iterator[Callable[..., Home]]:
    """Return ``make_home`` for this test's release and folders."""
    with ExitStack() as stack:
        yield lambda **how: make_home(new_immich(release), roots, tmp_path, stack, **how)


@pytest.fixture
def home(new_home: Callable[..., Home]) -> Home:
    """Return a home with its listener running."""
    made = new_home()
    made.start()
    return made
