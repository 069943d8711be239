"""Point 15: a database with another sidecar's tables and copies is taken over, and what is wrong there mended."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from listener import tracking, triggers
from listener.database import connect
from listener.standin.actor_rows import insert
from tests.behaviour.conftest import Home, make_home
from tests.conftest import ImmichDatabase, Roots, eventually

TAKEN = datetime(2023, 4, 5, 6, 7, 8, tzinfo=UTC)

ASSET_MAP = (
    "CREATE TABLE _face_sync_asset_map (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), source_asset_id uuid NOT NULL,"
    " target_asset_id uuid NOT NULL UNIQUE, source_user_id uuid NOT NULL, target_user_id uuid NOT NULL,"
    " synced_at timestamptz NOT NULL DEFAULT now(), UNIQUE ({unique}))"
)
PERSON_MAP = (
    "CREATE TABLE _face_sync_person_map (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), source_person_id uuid NOT NULL,"
    " target_person_id uuid NOT NULL, source_user_id uuid NOT NULL, target_user_id uuid NOT NULL,"
    " UNIQUE (source_person_id, target_user_id))"
)
SKIPPED = (
    "CREATE TABLE _face_sync_skipped (source_asset_id uuid, {user} reason text,"
    " skipped_at timestamptz DEFAULT now(), PRIMARY KEY ({key}))"
)


@dataclass
class OtherSidecar:
    """What the other sidecar left: its tables of one version, and copies as it made them."""

    home: Home
    version: int
    copies: dict[UUID, UUID] = field(default_factory=dict)
    people: dict[UUID, UUID] = field(default_factory=dict)

    @property
    def one_group(self) -> bool:
        """From version 3 on it wrote the source's own people into the target's faces (Immich 3.2+)."""
        return self.version >= 3

    def install(self) -> None:
        query = self.home.house.query
        asyncio.run(self._forget_ours())
        query("CREATE TABLE _face_sync_meta (key text PRIMARY KEY, value text NOT NULL)")
        query("INSERT INTO _face_sync_meta VALUES ('schema_version', %s)", str(self.version))
        key = "source_asset_id" if self.version == 1 else "source_asset_id, target_user_id"
        query(ASSET_MAP.format(unique=key))
        query(SKIPPED.format(user="" if self.version == 1 else "target_user_id uuid,", key=key))
        if not self.one_group:
            query(PERSON_MAP)
            query("CREATE INDEX ON _face_sync_person_map (target_person_id)")
        photos, uploads = (Path(job.target_path_prefix) for job in self.home.house.jobs)
        photos.symlink_to(self.home.photos)
        uploads.symlink_to(self.home.roots.media)

    def skip(self, source: UUID, reason: str) -> None:
        if self.version == 1:
            self.home.house.query("INSERT INTO _face_sync_skipped VALUES (%s, %s)", source, reason)
        else:
            self.home.house.query(
                "INSERT INTO _face_sync_skipped VALUES (%s, %s, %s)", source, self.home.bob.user_id, reason
            )

    def copy(self, *sources: UUID) -> None:
        for source in sources:
            self._copy(source)

    def _copy(self, source: UUID) -> None:
        alice, bob = self.home.alice, self.home.bob
        rows = alice.rows
        asset = alice.asset(source)
        job = self.home.house.jobs[0 if asset["isExternal"] else 1]
        copy = self.copies[source] = uuid4()
        path = job.target_path_prefix + asset["originalPath"].removeprefix(job.source_path_prefix)
        made = {
            **asset, "id": copy, "ownerId": bob.user_id, "libraryId": job.target_library_id, "isExternal": True,
            "originalPath": path, "livePhotoVideoId": None, "stackId": None, "updateId": uuid4(),
        }  # fmt: skip
        rows.execute(insert("asset", made))
        rows.execute(insert("asset_exif", {**alice.exif(source), "assetId": copy, "updateId": uuid4()}))
        marks = {
            name: datetime.now(UTC) for name in ("metadataExtractedAt", "facesRecognizedAt", "duplicatesDetectedAt")
        }
        rows.execute(insert("asset_job_status", {"assetId": copy, **marks}))
        for row in rows.where("smart_search", assetId=source):
            rows.execute(insert("smart_search", {**row, "assetId": copy}))
        for file in alice.files_of(source):
            # The sidecar's row it copied as it is.
            new = file["path"] if file["type"] == "sidecar" else self._link(file["path"], source, copy)
            rows.execute(
                insert("asset_file", {**file, "id": uuid4(), "assetId": copy, "path": new, "updateId": uuid4()})
            )
        self.home.house.query(
            "INSERT INTO _face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id)"
            " VALUES (%s, %s, %s, %s)",
            source, copy, alice.user_id, bob.user_id,
        )  # fmt: skip
        for face in alice.faces_of(source):
            self._copy_face(face, copy)

    def _copy_face(self, face: dict[str, Any], copy: UUID) -> None:
        alice = self.home.alice
        person, id_ = face.pop("person"), uuid4()
        column = alice.rows.names["face_person"]
        made = {**face, "id": id_, "assetId": copy, column: None, "updateId": uuid4()}
        alice.rows.execute(insert("asset_face", made))
        for row in alice.rows.where("face_search", faceId=face["id"]):
            alice.rows.execute(insert("face_search", {**row, "faceId": id_}))
        if person is not None:
            mirror = self._person(person, id_)
            self.home.house.query(f'UPDATE asset_face SET "{column}" = %s WHERE id = %s', mirror, id_)  # noqa: S608

    def _person(self, person: UUID, face: UUID) -> UUID:
        if person in self.people:
            return self.people[person]
        alice, bob = self.home.alice, self.home.bob
        mirror = self.people[person] = person if self.one_group else uuid4()
        row = alice.person(person)
        if alice.has_groups and not self.one_group:
            group = alice.rows.the("user", id=bob.user_id)["clusterGroupId"]
            alice.rows.execute(insert("person_group", {"id": mirror, "clusterGroupId": group}))
        made = {
            **row, alice.rows.names["person_id"]: mirror, "ownerId": bob.user_id, "faceAssetId": face,
            "thumbnailPath": self._link(row["thumbnailPath"], person, mirror), "updateId": uuid4(),
        }  # fmt: skip
        alice.rows.execute(insert("person", made))
        if not self.one_group:
            self.home.house.query(
                "INSERT INTO _face_sync_person_map (source_person_id, target_person_id, source_user_id, target_user_id)"
                " VALUES (%s, %s, %s, %s)",
                person, mirror, alice.user_id, bob.user_id,
            )  # fmt: skip
        return mirror

    def _link(self, path: str, source: UUID, copy: UUID) -> str:
        """Hardlink any file to where the target's is, edited ones and people's too."""
        folder = Path(path).relative_to(self.home.roots.media).parts[0]
        new = self.home.bob.generated(folder, self.home.bob.user_id, copy, "")
        new = new.with_name(Path(path).name.replace(str(source), str(copy)))
        new.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, new)
        return str(new)

    async def _forget_ours(self) -> None:
        async with await connect(self.home.immich.conninfo) as connection:
            await triggers.uninstall(connection, purge=True)


def adopt(home: Home) -> None:
    """Do what a user does who changes over: install the triggers, with the guard, and start."""

    async def install() -> None:
        async with await connect(home.immich.conninfo) as connection:
            await tracking.migrate(connection)
            await triggers.install(connection, guard=True)

    asyncio.run(install())
    home.start()


Seen = dict[str, tuple[int, int, bytes]]


def files_not_ours(home: Home) -> Seen:
    """Return inode, time and content of every file of alice's, and of bob's own uploads."""
    media, users = home.roots.media, (home.alice.user_id, home.bob.user_id)
    folders = [media / name / str(home.alice.user_id) for name in ("upload", "thumbs", "encoded-video", "library")]
    folders += [media / "upload" / str(users[1]), home.photos]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.fixture
def other(
    immich_release: str, version: int, new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> Iterator[OtherSidecar]:
    with ExitStack() as stack:
        home = make_home(new_immich(immich_release), roots, tmp_path, stack)
        home.photos.mkdir(parents=True)
        made = OtherSidecar(home, version)
        made.install()
        yield made


@dataclass(frozen=True, slots=True)
class Lived:
    """What there was before: alice's photos with their copies, and what is bob's own."""

    scanned: list[UUID]
    photo: UUID
    still: UUID
    motion: UUID
    person: UUID
    double: UUID
    own: UUID
    album: UUID
    copies: dict[UUID, UUID]


def lived_with(other: OtherSidecar) -> Lived:
    """Let alice and bob live with the other sidecar, up to a change that it did not follow."""
    home, alice, bob = other.home, other.home.alice, other.home.bob
    if other.one_group:
        bob.join_cluster_group(alice.user_id)
    library = alice.add_library(home.photos)
    scanned = alice.scan_library(library, ["2023/one.jpg", "two.jpg"])
    photo = alice.upload("faces.jpg", faces=3, people=["new", "new"], text="words")
    still, motion = alice.upload_live_photo("live")
    double = alice.upload("double.jpg", taken=TAKEN)
    person = alice.person_of(alice.faces_of(photo)[0]["id"])
    assert person is not None
    alice.name_person(person, "Grace")
    alice.describe(scanned[0], "before")
    if home.release >= (2, 5):
        alice.crop(photo)
    own = bob.upload("double.jpg", taken=TAKEN)
    other.copy(*scanned, photo, still, motion)
    other.skip(double, "duplicate_filename")
    copies = dict(other.copies)
    bob.favourite(copies[scanned[1]])
    album = bob.album_create("mine", copies[scanned[1]], own)
    alice.describe(scanned[0], "after it was copied")
    return Lived(scanned, photo, still, motion, person, double, own, album, copies)


@pytest.mark.parametrize(
    ("immich_release", "version", "own_links"),
    [
        ("2.4.1", 1, False),
        ("2.7.5", 1, False),
        ("2.7.5", 2, True),
        ("3.0.3", 2, False),
        ("3.0.3", 2, True),
        ("3.3.0", 2, False),
        ("3.3.0", 3, False),
        ("3.3.0", 4, True),
    ],
)
def test_another_sidecars_copies_are_adopted_and_mended(other: OtherSidecar, *, own_links: bool) -> None:
    """``own_links``: with the change-over the copies move from a symlinked directory to links of their own."""
    home = other.home
    alice, bob = home.alice, home.bob
    there = lived_with(other)
    scanned, photo, copies = there.scanned, there.photo, there.copies
    late = alice.upload("late.jpg")
    before = files_not_ours(home)

    if own_links:
        shared = home.roots.external / "shared"
        home.house = replace(
            home.house,
            jobs=tuple(replace(job, target_path_prefix=str(shared / f"own_{job.name}")) for job in home.house.jobs),
        )
    adopt(home)
    home.settled()

    assert files_not_ours(home) == before, "a file that is not ours was touched"
    assert {source: home.copy_of(source) for source in copies} == copies, "ids are kept"
    assert set(bob.assets()) == {*copies.values(), there.own, home.copied(late)}, "nothing is there twice"
    assert home.copy_of(there.double) is None
    assert bob.exif(copies[scanned[0]])["description"] == "after it was copied"
    assert bob.asset(copies[scanned[1]])["isFavorite"]
    assert bob.album_assets(there.album) == {copies[scanned[1]], there.own}
    assert bob.asset(copies[there.still])["livePhotoVideoId"] == copies[there.motion]
    assert not [file for copy in copies.values() for file in bob.files_of(copy) if file["type"] == "sidecar"]
    assert len(bob.faces_of(copies[photo])) == 2, "as many as alice has people on it"
    assert bob.person_of(bob.faces_of(copies[photo])[0]["id"]) == other.people[there.person]
    assert {row["person"] for row in bob.people()} == set(other.people.values()), "and nobody twice"
    assert bob.person(other.people[there.person])["name"] == "Grace"
    theirs = {seen[0] for path, seen in before.items() if str(alice.user_id) in path}
    separate = [Path(row["thumbnailPath"]) for row in bob.people()]
    separate += [Path(file["path"]) for file in bob.files_of(copies[photo]) if file.get("isEdited")]
    assert not [path for path in separate if path.stat().st_ino in theirs], "what bob may rewrite is his own file"
    links = [Path(bob.asset(copy)["originalPath"]) for copy in copies.values()]
    assert [link.is_symlink() for link in links] == [own_links] * len(links)
    assert all(link.exists() for link in links)

    # And from now on they are copies as all others: deleted by bob, or gone with their source.
    bob.delete_for_good(copies[scanned[0]])
    alice.trash(photo)
    eventually(lambda: home.copy_of(photo) is None and home.copy_of(scanned[0]) is None)
    home.settled()
    assert files_not_ours(home) == before
    alice.restore(photo)
    home.settled()
    assert home.copied(photo) == copies[photo]
    assert home.copy_of(scanned[0]) is None
    assert files_not_ours(home) == before
