"""Any order that Immich could have committed in, with notifications lost, doubled and mixed up: one final state.

The listener's rooms run inside the test: a real LISTEN connection, the queue, the reconciler; between the
connection and the queue sits chaos. A sweep ends it, as the listener's does after a lost connection.
"""

import asyncio
import hashlib
import json
import random
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from listener import channel, preflight, tracking, triggers
from listener.channel import Notification
from listener.database import Connection, Pool, connect
from listener.immich.api import Features
from listener.immich.layout import Layout
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.settings import Job
from listener.standin.player import Player, interleave
from listener.standin.postgres import create_database, drop_database
from listener.standin.recording import Transaction, recorded
from listener.sweep import Sweep
from listener.sync.reconciler import Reconciler
from listener.tools.verify import Report, render, verify
from listener.workqueue import Batch, Key, WorkQueue
from tests.conftest import Roots
from tests.house import add_user
from tests.role import address, grant

# Ten whole days, and the straight one before.
pytestmark = pytest.mark.timeout(600)

STEPS = (
    *("start", "upload photos", "upload live photo", "upload video", "external library scan"),
    *("two trashed", "one restored", "one deleted for good", "moved to the locked folder"),
)
# Fixed, since the ids of copies follow from it.
BOB = UUID("b0b00000-0000-4000-8000-000000000001")
LIBRARY = UUID("b0b00000-0000-4000-8000-000000000002")
EVERYTHING = Features(smart_search=True, facial_recognition=True, ocr=True)
# What the time of a write decides.
_TIMES = ["updatedAt", "updateId", "createdAt", "synced_at", "first_at", "last_at", "skipped_at", "attempts"]
_CHILDREN = (
    *("asset_exif", "asset_file", "asset_job_status", "smart_search", "asset_ocr", "ocr_search"),
    *("asset_video", "asset_audio", "asset_keyframe", "asset_edit", "asset_face"),
)
_TRACKING = ("asset_map", "intent", "person_map", "face_map", "skipped", "failure")

Dump = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A database of one release with triggers and bob, to be copied for each play, and the folders of all plays."""

    server: str
    release: str
    template: str
    roots: Roots
    jobs: tuple[Job, ...]

    def play(
        self, order: Callable[[list[Transaction]], list[Transaction]], chaos: "Chaos | None"
    ) -> tuple[Dump, Report]:
        """Play the steps in an order of the caller's into a new database; returns what came of it."""
        for root in (self.roots.media, self.roots.external):
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
        (self.roots.external / "shared").mkdir()
        name = f"play_{uuid.uuid4().hex}"
        conninfo = create_database(self.server, name, self.template)
        try:
            return asyncio.run(self._play(conninfo, order, chaos))
        finally:
            drop_database(self.server, name)

    async def _play(
        self, conninfo: str, order: Callable[[list[Transaction]], list[Transaction]], chaos: "Chaos | None"
    ) -> tuple[Dump, Report]:
        def immich() -> None:
            with Player(conninfo, recorded(self.release), self.roots.media, self.roots.external) as player:
                player.prepare()
                steps = [transaction for step in STEPS for transaction in player.recording.transactions(step)]
                for transaction in order(steps):
                    player.play(transaction)

        await Listener(address(conninfo), self.roots, self.jobs).listen(immich, chaos)
        async with await connect(conninfo) as connection:
            return await dump(connection, self.roots), await verify(connection, self.jobs, self.roots.media)


class Chaos:
    """Loses, doubles and holds back notifications at random."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._held: list[Notification] = []
        self.lost = 0

    def passed(self, notification: Notification) -> list[Notification]:
        """Return what arrives when this one is sent."""
        fate = self._rng.random()
        if fate < 0.25:
            self.lost += 1
            return []
        self._held += [notification] * (2 if fate < 0.5 else 1)
        self._rng.shuffle(self._held)
        left = self._rng.randrange(len(self._held) + 1)
        arrived, self._held = self._held[left:], self._held[:left]
        return arrived

    def late(self) -> list[Notification]:
        """Return what was held back to the end."""
        arrived, self._held = self._held, []
        return arrived


@dataclass(frozen=True, slots=True)
class Listener:
    """The rooms of the listener, wired as its service wires them."""

    conninfo: str
    roots: Roots
    jobs: tuple[Job, ...]

    async def listen(self, immich: Callable[[], None], chaos: Chaos | None) -> None:
        """Run while ``immich`` writes, then sweep; returns when all is done."""
        queue, metrics, proven = WorkQueue(rng=random.Random(0)), Metrics(), asyncio.Event()

        def arrived(notification: Notification) -> None:
            for one in chaos.passed(notification) if chaos else [notification]:
                queue.add(one.keys, at=one.at)

        async def on_proven(_: object) -> None:
            proven.set()

        connection, listening = await channel.open_listening(self.conninfo, metrics, arrived)
        owner = uuid.uuid4()
        async with connection, Pool(self.conninfo, 3, owner) as connections:
            catalog = await preflight.check_immich(connection)
            await Ownership(self.jobs, owner).take(connection)
            reconciler = Reconciler.compose(
                catalog,
                layout=Layout(self.roots.media, self.roots.external),
                link_mode="auto",
                metrics=metrics,
                jobs=self.jobs,
                features=lambda: EVERYTHING,
                ml_wait=86400,
                removal_limit=None,
            )

            # As the service has it: one batch at a time for each target user.
            alone = asyncio.Lock()

            async def work() -> None:
                while True:
                    batch = await queue.take(500)
                    async with connections.connection() as worker, alone:
                        failed = await self._reconcile(reconciler, worker, batch)
                    queue.done(batch, failed)

            tasks = [asyncio.create_task(one) for one in (listening.run(on_proven), work(), work())]
            try:
                await self._while_alive(tasks, proven.wait())
                await self._while_alive(tasks, asyncio.to_thread(immich))
                for notification in chaos.late() if chaos else ():
                    queue.add(notification.keys, at=notification.at)
                await self._sweep(connections, queue, reconciler, Sweep.compose(catalog, reconciler.planner, ()))
                idle = queue.until(lambda: queue.waiting + queue.in_hand + queue.pausing == 0)
                await self._while_alive(tasks, asyncio.wait_for(idle, 60))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _reconcile(self, reconciler: Reconciler, connection: Connection, batch: Batch) -> set[Key]:
        failed: set[Key] = set()
        for job in self.jobs:
            outcomes = []
            if ids := batch.ids("asset"):
                outcomes.append(await reconciler.assets(connection, job, ids))
            if ids := batch.ids("person"):
                outcomes.append(await reconciler.people(connection, job, ids))
            for outcome in outcomes:
                failed |= {Key("asset", id_) for id_ in outcome.failed}
                failed |= {Key("person", id_) for id_ in outcome.failed_people}
        return failed

    async def _sweep(self, connections: Pool, queue: WorkQueue, reconciler: Reconciler, sweep: Sweep) -> None:
        for job in self.jobs:
            async with connections.connection() as reader:
                links = reconciler.links(job)
                async for page in sweep.pages(reader, job, links, album_usable=True, everything=False):
                    queue.add(page.keys, urgent=False)

    async def _while_alive(self, tasks: "list[asyncio.Task[None]]", awaited: Any) -> None:
        """Wait for something; a task that fails meanwhile is the failure."""
        waiting = asyncio.ensure_future(awaited)
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()


async def dump(connection: "psycopg.AsyncConnection[Any]", roots: Roots) -> Dump:
    """Return everything of bob's and of ours, comparable between two plays: rows by table, and files."""
    found: dict[str, list[str]] = {}
    mine = '"assetId" IN (SELECT id FROM asset WHERE "ownerId" = %(bob)s)'
    tables = {
        "asset": '"ownerId" = %(bob)s',
        "person": '"ownerId" = %(bob)s',
        "face_search": '"faceId" IN (SELECT face.id FROM asset_face AS face JOIN asset ON asset.id = face."assetId"'
        ' WHERE asset."ownerId" = %(bob)s)',
        **dict.fromkeys(_CHILDREN, mine),
        **{f"_face_sync_{table}": "true" for table in _TRACKING},
    }
    for table, condition in tables.items():
        exists = await (await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table])).fetchone()
        if exists != (True,):
            continue
        text = sql.SQL("SELECT to_jsonb(t) - %(times)s::text[] FROM {} AS t WHERE {}").format(
            sql.Identifier(table),
            sql.SQL(condition),
        )
        rows = await (await connection.execute(text, {"bob": BOB, "times": _TIMES})).fetchall()
        found[table] = sorted(json.dumps(_comparable(table, row)) for (row,) in rows)
    files = [
        f"{path} {path.readlink() if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()}"
        for root in (
            roots.external / "shared",
            roots.media / "thumbs" / str(BOB),
            roots.media / "encoded-video" / str(BOB),
        )
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    ]
    return {**found, "files": sorted(files)}


def _comparable(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the map's own ids, which are random, and the times that are noted of a mirrored person."""
    content = {key: value for key, value in row.items() if not (key == "id" and "_map" in table)}
    if written := content.get("written"):
        times = {"time", "created", "source_created"}
        content["written"] = {key: value for key, value in written.items() if key not in times}
    return content


@pytest.fixture(scope="module", params=["2.7.5", "3.0.3"])
def stage(
    request: pytest.FixtureRequest,
    server: str,
    template: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    release = request.param
    folder = tmp_path_factory.mktemp("interleaving")
    roots = Roots(folder / "data", folder / "external_library")
    carol = UUID(recorded(release).owner_id)
    jobs = (
        Job(
            "photos",
            "external",
            carol,
            BOB,
            LIBRARY,
            f"{roots.external}/carol/photos",
            f"{roots.external}/shared/photos",
        ),
        Job("uploads", "uploads", carol, BOB, LIBRARY, str(roots.media), f"{roots.external}/shared/uploads"),
    )
    name = f"stage_{uuid.uuid4().hex}"
    conninfo = create_database(server, name, template(release))
    try:
        add_user(conninfo, release, "bob", BOB)
        with psycopg.connect(conninfo) as connection:
            connection.execute(
                'INSERT INTO library (id, name, "ownerId", "importPaths", "exclusionPatterns")'
                " VALUES (%s, %s, %s, %s, %s)",
                (LIBRARY, "shared", BOB, [], []),
            )
        asyncio.run(_prepare(conninfo, {carol, BOB}))
        grant(conninfo)
        yield Stage(server, release, name, roots, jobs)
    finally:
        drop_database(server, name)


async def _prepare(conninfo: str, users: set[UUID]) -> None:
    async with await connect(conninfo) as connection:
        await tracking.migrate(connection)
        await tracking.set_watched_users(connection, users)
        await triggers.install(connection)


@pytest.fixture(scope="module")
def straight(stage: Stage) -> Dump:
    """What comes of the recording in its own order, with every notification heard."""
    found, report = stage.play(lambda transactions: transactions, None)
    assert report.ok, render(report)
    assert len(found["asset"]) == 29
    return found


def _same_in_any_order(stage: Stage, straight: Dump, seed: int) -> None:
    note(f"seed {seed}")
    rng = random.Random(seed)
    chaos = Chaos(random.Random(rng.random()))
    found, report = stage.play(lambda transactions: interleave(transactions, rng), chaos)
    assert chaos.lost > 0
    assert report.ok, f"seed {seed}: {render(report)}"
    differing = {
        table: (sorted(set(straight[table]) - set(found[table])), sorted(set(found[table]) - set(straight[table])))
        for table in straight
        if straight[table] != found[table]
    }
    assert not differing, f"seed {seed}: straight order, this order: {json.dumps(differing, indent=1)}"


def _plays(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        print_blob=True,
        # A seed cannot be made simpler.
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow],
    )


SEEDS = st.integers(0, 2**63)


@_plays(10)
@given(seed=SEEDS)
def test_the_final_state_is_the_same(stage: Stage, straight: Dump, seed: int) -> None:
    _same_in_any_order(stage, straight, seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@_plays(100)
@given(seed=SEEDS)
def test_the_final_state_is_the_same_in_many_more_orders(stage: Stage, straight: Dump, seed: int) -> None:
    _same_in_any_order(stage, straight, seed)
