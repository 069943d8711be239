"""Paths that lead astray: nothing outside the roots is written, linked into or unlinked, and nothing that is not ours.

A maze of folders and symlinks is built at random, rows point into it, and the real reconciler works on it while every
call that changes a file is traced.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from listener.database import connect
from listener.immich import catalog
from listener.immich.api import Features
from listener.immich.layout import Layout
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.standin.postgres import create_database, drop_database
from listener.sync.reconciler import Reconciler
from tests.conftest import DEFAULT_RELEASE, Roots
from tests.house import add_library, add_user
from tests.photos import Photo, add_rows
from tests.role import as_listener
from tests.tracing import Change, everything, traced, tracing

NOTHING_ON = Features(smart_search=False, facial_recognition=False, ocr=False)

NAMES = st.sampled_from(["a", "b", "c"])
CROOKED = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "", "a.jpg", "\n"]), min_size=1, max_size=5)
LEADS = st.sampled_from(
    ["a", "../b", "..", "../../..", ".", "{here}", "{outside}", "{outside}/a", "{carol}", "{bob}", "{media}", "/", "x"]
)
AREAS = st.sampled_from(["{carol}", "{bob}", "{thumbs_carol}", "{thumbs_bob}", "{media}", "{outside}"])


@st.composite
def spots(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a place in an area, and what it is: a folder, a file, or where a symlink leads."""
    name = "/".join([draw(AREAS), *draw(st.lists(NAMES, min_size=1, max_size=3))])
    return name, draw(st.just("folder") | st.just("file") | LEADS)


@dataclass(frozen=True, slots=True)
class Maze:
    """The folders of one example, and what stands for them in texts."""

    root: Path
    source: UUID
    target: UUID

    @property
    def roots(self) -> Roots:
        return Roots(self.root / "data", self.root / "external_library")

    @property
    def words(self) -> dict[str, str]:
        media, external = self.roots.media, self.roots.external
        return {
            "media": str(media), "carol": str(external / "carol"), "bob": str(external / "shared" / "bob"),
            "outside": str(self.root / "outside"), "thumbs_carol": str(media / "thumbs" / str(self.source)),
            "thumbs_bob": str(media / "thumbs" / str(self.target)),
        }  # fmt: skip

    def make(self) -> None:
        for folder in self.words.values():
            Path(folder).mkdir(parents=True, exist_ok=True)
        (self.root / "outside" / "secret").write_text("not to be touched")

    def build(self, plan: Sequence[tuple[str, str]]) -> None:
        """Put everything there, wherever it leads; what cannot be, is not. Never out of the maze."""
        for text, kind in plan:
            path = Path(text.format(**self.words))
            if not os.path.realpath(path).startswith(f"{self.root}/"):
                continue
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "folder":
                    path.mkdir()
                elif kind == "file":
                    path.write_text(f"{path.name} of somebody")
                else:
                    path.symlink_to(kind.format(here=path, **self.words))


@pytest.fixture(scope="module", autouse=True)
def _tracing() -> Iterator[None]:
    with tracing():
        yield


@pytest.fixture(scope="module")
def database(server: str, template: Callable[[str], str]) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    conninfo = create_database(server, name, template(DEFAULT_RELEASE))
    try:
        yield conninfo
    finally:
        drop_database(server, name)


async def reconcile(conninfo: str, roots: Roots, job: Job, ids: Sequence[UUID], mode: Any) -> list[Change]:
    """Reconcile these photos; returns what was changed."""
    async with await connect(conninfo) as connection:
        reconciler = Reconciler.compose(
            await catalog.read(connection),
            layout=Layout(roots.media, roots.external).as_seen(),
            link_mode=mode,
            metrics=Metrics(),
            jobs=[job],
            features=lambda: NOTHING_ON,
            ml_wait=0,
            removal_limit=None,
        )
        with traced() as changes:
            await reconciler.assets(connection, job, ids)
        return changes


def execute(conninfo: str, statement: str, *params: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []


def point(conninfo: str, photo: Photo, original: str, preview: str, thumbnail: str) -> None:
    execute(conninfo, 'UPDATE asset SET "originalPath" = %s WHERE id = %s', original, photo.id)
    for kind, path in (("preview", preview), ("thumbnail", thumbnail)):
        execute(conninfo, 'UPDATE asset_file SET path = %s WHERE "assetId" = %s AND type = %s', path, photo.id, kind)


ROWS = st.lists(st.tuples(CROOKED, CROOKED, CROOKED, AREAS, AREAS), min_size=2, max_size=6)


@settings(
    max_examples=15,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    # An example takes a tenth of a second: one that fails is told as it is.
    phases=[Phase.explicit, Phase.generate],
)
@given(
    before=st.lists(spots(), max_size=12),
    meanwhile=st.lists(spots(), max_size=12),
    swapped=st.lists(st.tuples(NAMES, LEADS), max_size=3),
    rows=ROWS,
    mode=st.sampled_from(["auto", "copy"]),
)
def test_no_way_leads_out_of_the_maze(
    database: str,
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[str, str]],
    meanwhile: list[tuple[str, str]],
    swapped: list[tuple[str, str]],
    rows: list[tuple[list[str], list[str], list[str], str, str]],
    mode: str,
) -> None:
    """Copies are made in a maze, the maze changes, half of the sources go, and the copies are made right again."""
    carol, bob = (add_user(database, DEFAULT_RELEASE, f"{name}-{uuid4().hex}") for name in ("carol", "bob"))
    maze = Maze(tmp_path_factory.mktemp("maze").resolve(), carol, bob)
    maze.make()
    roots, words = maze.roots, maze.words
    library = add_library(database, bob, "/nowhere")
    job = Job("maze", "external", carol, bob, library, words["carol"], words["bob"])
    # One straight photo, so that there is always something to be made, moved and removed.
    straight = Photo(uuid4(), Path(words["carol"], "a/a.jpg"), Path(words["thumbs_carol"], "a/p"), Path("x"))
    photos = [straight, *(Photo(uuid4(), Path(f"{number}"), Path("x"), Path("x")) for number in range(len(rows)))]
    add_rows(database, carol, photos, library=add_library(database, carol, words["carol"]))
    maze.build(before)
    ways = [(f"{words['carol']}/a/a.jpg", f"{words['thumbs_carol']}/a/p", f"{words['thumbs_carol']}/a/t")]
    for original, preview, thumbnail, area, other_area in rows:
        ways.append(
            (
                "/".join([words["carol"], *original]),
                "/".join([area.format(**words), *preview]),
                "/".join([other_area.format(**words), *thumbnail]),
            )
        )
    for photo, way in zip(photos, ways, strict=True):
        point(database, photo, *way)
        for path in way:
            maze.build([(path.replace("{", "{{").replace("}", "}}"), "file")])
    ids = [photo.id for photo in photos]
    listener = as_listener(database)
    for step in ("make", "mend", "remove"):
        if step != "make":
            # Folders of ours become symlinks, and whatever else stands in the way.
            for name, lead in swapped:
                folder = Path(words["bob"], name)
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
                    folder.symlink_to(lead.format(here=folder, **words))
            maze.build(meanwhile)
        if step == "remove":
            execute(database, "DELETE FROM asset WHERE id = ANY(%s)", ids[::2])
        there = everything(maze.root)
        paths = {row[0] for row in execute(database, 'SELECT "originalPath" FROM asset WHERE "ownerId" = %s', bob)}
        copies = {str(row[0]) for row in execute(database, "SELECT target_asset_id FROM _face_sync_asset_map")}
        changes = asyncio.run(reconcile(listener, roots, job, ids, mode))
        paths |= {row[0] for row in execute(database, 'SELECT "originalPath" FROM asset WHERE "ownerId" = %s', bob)}
        copies |= {str(row[0]) for row in execute(database, "SELECT target_asset_id FROM _face_sync_asset_map")}
        check(maze, changes, there, paths | {way[0].replace(words["carol"], words["bob"], 1) for way in ways}, copies)


def check(
    maze: Maze, changes: Sequence[Change], before: Mapping[str, tuple[str, bytes]], ours: set[str], copies: set[str]
) -> None:
    """Check what was changed, and that everything is still there but what is ours."""
    bob, media = maze.words["bob"], os.path.realpath(maze.roots.media)
    made = {change.place for change in changes if change.call == "os.mkdir"}
    for change in changes:
        where = change.place
        assert where.startswith((f"{bob}/", f"{media}/thumbs/", f"{media}/encoded-video/")), change
        if where.startswith(f"{media}/") and where not in made:
            # In the media root everything that is ours is named by an id of ours: 36 characters.
            assert len(Path(where).name) >= 36, change
        if where.startswith(f"{bob}/"):
            assert change.call in {"os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"}, change
    now = everything(maze.root)
    for path, (kind, content) in before.items():
        name = Path(path).name
        ours_here = (path in ours and kind == "symlink") or (
            path.startswith(media) and any(name.startswith(copy) for copy in copies)
        )
        emptied = kind == "folder" and path.startswith(f"{bob}/")
        assert ours_here or emptied or now.get(path) == (kind, content), path
