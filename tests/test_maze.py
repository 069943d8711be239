"""Paths that lead astray: nothing outside the roots is written, linked into or unlinked, and nothing that is not ours.

A maze of folders and symlinks is built at random, rows point into it, and the real reconciler works on it while every
call that changes a file is traced. And an attacker who may write below our folders swaps one for a symlink between any
two calls: a check that is made before the use must hold at the use.
"""

import asyncio
import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from listener.sync.files import FileProblemError, FileTask, OriginalLinks, place, remove_files
from listener.sync.reconciler import Reconciler
from tests.conftest import DEFAULT_RELEASE, Roots
from tests.house import add_library, add_user
from tests.photos import Photo, add_rows
from tests.role import as_listener

NOTHING_ON = Features(smart_search=False, facial_recognition=False, ocr=False)


# --- tracing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A call that changes a file, and where it really was at that moment."""

    call: str
    place: str


@dataclass
class Trace:
    """Every change that this process makes to files while it is on: an audit hook cannot be taken out again."""

    on: bool = False
    changes: list[Change] = field(default_factory=list)

    def note(self, call: str, path: Any, folder: int = -1, *, follow: bool = False) -> None:
        if self.on and not isinstance(path, int):
            self.changes.append(Change(call, _real(os.fsdecode(path), folder, follow=follow)))
        elif self.on:
            self.changes.append(Change(call, _opened(path)))

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        match event, args:
            case "os.link", (_, target, _, folder):
                self.note(event, target, folder)
            case "os.symlink", (_, target, folder):
                self.note(event, target, folder)
            case "os.rename", (source, target, source_folder, folder):
                self.note(event, source, source_folder)
                self.note(event, target, folder)
            case (("os.remove" | "os.rmdir"), (path, folder)):
                self.note(event, path, folder)
            case "os.mkdir", (path, _, folder):
                self.note(event, path, folder)
            case (("os.chmod" | "os.utime" | "os.truncate" | "os.chown" | "os.lchown"), (path, *_)):
                # None of ours but by a descriptor, or for a symlink itself.
                self.note(event, path, args[-1] if isinstance(args[-1], int) else -1)
            case "open", (path, _, int(flags)) if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                # The event has no folder: such calls come through `opened`.
                if isinstance(path, str) and path.startswith("/"):
                    self.note("open for writing", path, follow=True)

    def opened(self, real: Callable[..., int]) -> Callable[..., int]:
        """Return os.open, traced also where it opens in a folder."""

        def traced(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.note("open for writing", path, dir_fd, follow=not flags & os.O_NOFOLLOW)
            return real(path, flags, mode, dir_fd=dir_fd)

        return traced


def _real(path: str, folder: int, *, follow: bool) -> str:
    above = _opened(folder) if folder >= 0 else str(Path.cwd())
    whole = Path(f"{above}/{path}" if not path.startswith("/") else path)
    return os.path.realpath(whole) if follow else f"{os.path.realpath(whole.parent)}/{whole.name}"


def _opened(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


TRACE = Trace()


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> Iterator[None]:
    sys.addaudithook(TRACE.hook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", TRACE.opened(os.open))
        yield
    TRACE.on = False


@contextlib.contextmanager
def traced() -> Iterator[list[Change]]:
    TRACE.changes.clear()
    TRACE.on = True
    try:
        yield TRACE.changes
    finally:
        TRACE.on = False


def everything(*roots: Path) -> dict[str, tuple[str, bytes]]:
    """Return each name below some folders, with what it is and holds; no symlink is followed."""
    found = {}
    for root in roots:
        for above, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = Path(above, name)
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    found[str(path)] = "symlink", os.fsencode(path.readlink())
                elif stat.S_ISDIR(mode):
                    found[str(path)] = "folder", b""
                else:
                    found[str(path)] = "file", path.read_bytes()
    return found


# --- the maze ------------------------------------------------------------------------------------------------

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


@pytest.fixture(scope="module")
def database(server: str, template: Callable[[str], str]) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    conninfo = create_database(server, name, template(DEFAULT_RELEASE))
    try:
        yield conninfo
    finally:
        drop_database(server, name)


async def reconcile(conninfo: str, roots: Roots, job: Job, ids: Sequence[UUID], mode: Any) -> None:
    async with await connect(conninfo) as connection:
        reconciler = Reconciler.compose(
            await catalog.read(connection),
            media_root=roots.media,
            external_root=roots.external,
            link_mode=mode,
            metrics=Metrics(),
            features=NOTHING_ON,
            ml_wait=0,
        )
        with traced():
            await reconciler.assets(connection, job, ids)


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
        asyncio.run(reconcile(listener, roots, job, ids, mode))
        paths |= {row[0] for row in execute(database, 'SELECT "originalPath" FROM asset WHERE "ownerId" = %s', bob)}
        copies |= {str(row[0]) for row in execute(database, "SELECT target_asset_id FROM _face_sync_asset_map")}
        check(maze, there, paths | {way[0].replace(words["carol"], words["bob"], 1) for way in ways}, copies)


def check(maze: Maze, before: Mapping[str, tuple[str, bytes]], ours: set[str], copies: set[str]) -> None:
    """Check what was traced, and that everything is still there but what is ours."""
    bob, media = maze.words["bob"], os.path.realpath(maze.roots.media)
    made = {change.place for change in TRACE.changes if change.call == "os.mkdir"}
    for change in TRACE.changes:
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


# --- between the check and the use ---------------------------------------------------------------------------

CALLS = (
    *(
        "stat",
        "lstat",
        "readlink",
        "open",
        "link",
        "symlink",
        "rename",
        "replace",
        "unlink",
        "remove",
        "mkdir",
        "rmdir",
    ),
    *("chmod", "chown", "lchown", "utime", "scandir", "listdir", "access"),
)


@dataclass
class Attacker:
    """Swaps a folder for a symlink just before the n-th call that has to do with files."""

    folder: Path
    victim: Path
    at: int
    calls: int = 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self._swap()
            return call(*args, **kwargs)

        return wrapped

    def _swap(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            _rename(self.folder, self.folder.with_name("away"))
        with contextlib.suppress(OSError):
            _symlink(self.victim, self.folder)


_rename, _symlink = os.rename, os.symlink


@dataclass(frozen=True, slots=True)
class Scene:
    """Bob's folder with links, his folder of thumbnails, and a folder of alice's that is none of his."""

    root: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.root / "data", self.root / "external_library")

    @property
    def links(self) -> OriginalLinks:
        return OriginalLinks(self.layout, str(self.root / "external_library" / "shared" / "bob"))

    @property
    def linked(self) -> Path:
        return self.root / "external_library" / "shared" / "bob" / "2024"

    @property
    def generated(self) -> Path:
        return self.root / "data" / "thumbs" / "bob" / "11"

    @property
    def picture(self) -> Path:
        return self.root / "data" / "thumbs" / "alice" / "p.jpeg"

    def build(self, victim: Path) -> None:
        for folder in (self.linked / "deep", self.generated, self.picture.parent, victim / "deep"):
            folder.mkdir(parents=True)
        self.picture.write_text("picture")
        for name in ("made.jpg", "moved.jpg", "gone.jpg"):
            (self.linked / name).symlink_to("/old") if name != "made.jpg" else None
            (victim / name).write_text("alice's") if name == "gone.jpg" else None
        (victim / "moved.jpg").symlink_to("/alice's own")
        (self.linked / "deep" / "last.jpg").symlink_to("/old")
        (self.generated / "id_old.jpeg").write_text("old")
        (victim / "id_old.jpeg").write_text("alice's")
        (victim / "id_there.jpeg").write_text("alice's")
        (self.generated / "id_there.jpeg").write_text("old")


DEEDS: Mapping[str, tuple[str, Callable[[Scene], object]]] = {
    "link": ("linked", lambda scene: scene.links.link(str(scene.linked / "made.jpg"), "/new")),
    "link anew": ("linked", lambda scene: scene.links.link(str(scene.linked / "moved.jpg"), "/new")),
    "link deeper": ("linked", lambda scene: scene.links.link(str(scene.linked / "b" / "c" / "made.jpg"), "/new")),
    "unlink": ("linked", lambda scene: scene.links.unlink(str(scene.linked / "gone.jpg"))),
    "unlink the last": ("linked", lambda scene: scene.links.unlink(str(scene.linked / "deep" / "last.jpg"))),
    "hardlink": ("generated", lambda scene: place(
        FileTask(str(scene.picture), str(scene.generated / "id_there.jpeg"), shared=True), scene.layout, "auto")),
    "copy": ("generated", lambda scene: place(
        FileTask(str(scene.picture), str(scene.generated / "id_there.jpeg"), shared=False), scene.layout, "auto")),
    "copy deeper": ("generated", lambda scene: place(
        FileTask(str(scene.picture), str(scene.generated / "a" / "id_new.jpeg"), shared=False), scene.layout, "auto")),
    "remove": ("generated", lambda scene: remove_files(
        scene.layout, [scene.generated], "id_", [str(scene.generated / "id_old.jpeg")])),
}  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS)
def test_a_folder_swapped_for_a_symlink_at_any_moment_leads_nowhere(
    deed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    which, act = DEEDS[deed]
    tries = 0
    while True:
        tries += 1
        scene = Scene(tmp_path.resolve() / str(tries))
        # Alice's folder is below the same root, where only the folder itself is forbidden; or outside the media root.
        victim = scene.root / ("external_library/alice/2024" if which == "linked" else "outside")
        scene.build(victim)
        links = scene.links
        assert not links.directory
        attacker = Attacker(getattr(scene, which), victim, at=tries)
        before = everything(victim)
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, attacker.wrap(getattr(os, name)))
            with contextlib.suppress(FileProblemError):
                act(scene)
        assert everything(victim) == before, f"swapped before call {tries}"
        if attacker.calls < tries:
            break
    assert tries > 5, "the attacker never came to act"
