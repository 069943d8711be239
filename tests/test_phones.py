"""Phones see it: a phone that asks without pause ends with exactly the copies, however slow the commits are."""

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from listener.standin import actor_files as files
from listener.standin.actor import Actor
from listener.standin.actor_rows import delete, insert, update, upsert
from tests.behaviour.conftest import Home, make_home
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots, eventually
from tests.phone import Difference, Phone, polling

RELEASES = ("2.0.0", "2.7.5", "3.3.0")
TAKEN = datetime(2024, 5, 6, 7, 8, 9, 123_000, tzinfo=UTC)
PEOPLE = 20
# Stamped three seconds ahead, and read within moments.
COMES_WITHIN = 30.0

# Every commit of the listener takes a random time, as on a busy disk: a trigger of Immich's tables and ours that is
# run at COMMIT, once for each transaction.
_SLOW = """
CREATE TABLE slowness (least float, most float);
INSERT INTO slowness VALUES (0, 0);
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('face_sync.quiet', true) = 'on' AND coalesce(current_setting('test.slept', true), '') = '' THEN
        PERFORM set_config('test.slept', 'yes', true);
        PERFORM pg_sleep(least + random() * (most - least)) FROM slowness;
    END IF;
    RETURN NULL;
END $$;
"""
_SLOW_TABLES = ("asset", "asset_exif", "asset_face", "person", "stack", "asset_edit")


@pytest.fixture
def new_street(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> Iterator[Callable[[str], "Street"]]:
    with ExitStack() as stack:

        def make(release: str) -> Street:
            home = make_home(new_immich(release), roots, tmp_path, stack)
            album = home.bob.album_create("shared with me")
            uploads = replace(home.house.jobs[1], album_id=album)
            home.house = replace(home.house, jobs=(uploads,), extra={"RECONCILE_INTERVAL_SECONDS": "3600"})
            with psycopg.connect(home.immich.conninfo, autocommit=True) as connection:
                connection.execute(_SLOW.encode())
                for table in filter(home.alice.rows.has, _SLOW_TABLES):
                    connection.execute(
                        f"CREATE CONSTRAINT TRIGGER be_slow AFTER INSERT OR UPDATE OR DELETE ON {table}"
                        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION be_slow()".encode()
                    )
            return Street(home)

        yield make


@dataclass
class Street:
    """A home with photos by the hundred, each with a face of one of a few people."""

    home: Home
    people: list[UUID] = field(default_factory=list)
    photos: list[UUID] = field(default_factory=list)
    own: list[UUID] = field(default_factory=list)
    # Of bob: photos of his own, also deleted ones, and copies that he clicked on.
    uploaded: set[UUID] = field(default_factory=set)
    clicked: set[UUID] = field(default_factory=set)

    @property
    def alice(self) -> Actor:
        return self.home.alice

    @property
    def bob(self) -> Actor:
        return self.home.bob

    def commits_take(self, least: float, most: float | None = None) -> None:
        """Let each commit of the listener take so many seconds from now on."""
        self.home.house.query("UPDATE slowness SET least = %s, most = %s", least, most or least)

    def add(self, count: int) -> list[UUID]:
        """Let alice's Immich finish so many uploads at once."""
        if not self.people:
            self.people = [self.alice.create_person(f"person {number}") for number in range(PEOPLE)]
        ids = [self.alice.new_id() for _ in range(count)]
        previews = {id_: self.alice.generated("thumbs", self.alice.user_id, f"{id_}_preview", ".jpeg") for id_ in ids}
        small = {id_: self.alice.generated("thumbs", self.alice.user_id, f"{id_}_thumbnail", ".webp") for id_ in ids}
        originals = {id_: self.alice.generated("upload", self.alice.user_id, id_, ".jpg") for id_ in ids}
        for path in (*previews.values(), *small.values(), *originals.values()):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(f"{path}\n")
            os.utime(path, (TAKEN.timestamp(), TAKEN.timestamp()))
        box = {"imageWidth": 640, "imageHeight": 480}
        box |= {"boundingBoxX1": 10, "boundingBoxY1": 10, "boundingBoxX2": 60, "boundingBoxY2": 70}
        faces = [
            {
                "id": self.alice.new_id(),
                "assetId": id_,
                self.alice.rows.names["face_person"]: self.people[number % PEOPLE],
                "sourceType": "machine-learning",
                **box,
            }
            for number, id_ in enumerate(ids)
        ]
        self.alice.rows.execute(
            insert("asset", *(_asset(self.alice.user_id, id_, str(originals[id_])) for id_ in ids)),
            insert("asset_exif", *({"assetId": id_, "description": f"photo {id_}"} for id_ in ids)),
            insert("asset_face", *faces),
            insert(
                "asset_file",
                *(
                    {"id": self.alice.new_id(), "assetId": id_, "type": kind, "path": str(paths[id_])}
                    for kind, paths in (("preview", previews), ("thumbnail", small))
                    for id_ in ids
                ),
            ),
            insert(
                "asset_job_status",
                *(
                    {"assetId": id_, "metadataExtractedAt": TAKEN, "facesRecognizedAt": TAKEN, "ocrAt": TAKEN}
                    for id_ in ids
                ),
            ),
        )
        self.photos += ids
        return ids

    def describe(self, word: str, *photos: UUID) -> None:
        """Alice writes something about her photos; Immich reads their metadata again."""
        self.alice.rows.execute(update("asset_exif", *({"assetId": id_, "description": word} for id_ in photos)))
        read = files.now()
        self.alice.rows.execute(
            upsert("asset_job_status", *({"assetId": id_, "metadataExtractedAt": read} for id_ in photos))
        )

    def copies(self) -> int:
        """Return how many copies there are that are not parked."""
        ((count,),) = self.home.house.query("SELECT count(*) FROM public._face_sync_asset_map WHERE parked IS NULL")
        return int(str(count))

    def shared(self) -> int:
        """Return how many of alice's photos are to be shared now."""
        ((count,),) = self.home.house.query(
            'SELECT count(*) FROM asset WHERE "ownerId" = %s AND "deletedAt" IS NULL', self.alice.user_id
        )
        return int(str(count))

    def upload_of_bobs(self) -> None:
        """Bob's phone uploads a photo of his own: Immich writes his rows while the listener does."""
        id_ = self.bob.new_id()
        path = f"{self.bob.media_root}/upload/{id_}.jpg"
        self.bob.rows.execute(insert("asset", {**_asset(self.bob.user_id, id_, path), "thumbhash": None}))
        self.bob.rows.execute(insert("asset_exif", {"assetId": id_, "description": "bob's own"}))
        self.bob.rows.execute(update("asset", {"id": id_, "thumbhash": b"\x01"}))
        self.own.append(id_)
        self.uploaded.add(id_)

    def favourite(self, *copies: UUID, favourite: bool = True) -> None:
        """Bob clicks on copies."""
        self.bob.favourite(*copies, favourite=favourite)
        self.clicked |= {*copies}


def _asset(owner: UUID, id_: UUID, path: str) -> dict[str, object]:
    return {
        "id": id_, "ownerId": owner, "type": "IMAGE", "originalPath": path, "originalFileName": f"{id_}.jpg",
        "checksum": hashlib.sha1(path.encode(), usedforsecurity=False).digest(), "checksumAlgorithm": "sha1",
        "fileCreatedAt": TAKEN, "fileModifiedAt": TAKEN, "localDateTime": TAKEN, "createdAt": TAKEN,
        "thumbhash": b"\x01\x02", "width": 640, "height": 480, "deviceId": "phone", "deviceAssetId": str(id_),
    }  # fmt: skip


@contextmanager
def phone_of_bob(street: Street) -> Iterator[Phone]:
    with polling(street.home.immich.conninfo, street.bob.user_id) as phone:
        yield phone


def holds_exactly_the_copies(street: Street, phone: Phone) -> None:
    """Wait until all is copied and due, and the phone has all of it, as it is now."""
    copies = street.home.house.settled(within=60).copies
    assert copies == street.copies()

    def missed() -> list[str]:
        return [str(difference) for difference in phone.differences() if not by_immich(difference)]

    def by_immich(difference: Difference) -> bool:
        """Tell whether Immich wrote it: it may itself let a phone miss that."""
        clicked = difference.table == "asset" and difference.by_immich and difference.key[0] in street.clicked
        return clicked or difference.key[0] in street.uploaded

    eventually(lambda: not missed(), within=COMES_WITHIN, describe=lambda: "\n".join(missed()[:20]))
    assert phone.held("asset") >= copies


def something_happens(street: Street, rng: random.Random) -> None:
    """One thing that alice, bob or Immich's jobs do, as Immich writes it: statement by statement."""
    alice = street.alice
    some = rng.sample(street.photos, min(len(street.photos), rng.choice((1, 1, 5, 50))))
    face_person = alice.rows.names["face_person"]
    match rng.randrange(8):
        case 0 | 1:
            street.describe(f"{rng.random()}", *some)
        case 2:
            alice.rows.execute(update("asset", *({"id": id_, "thumbhash": rng.randbytes(8)} for id_ in some)))
        case 3:
            person = rng.choice(street.people)
            faces = [face["id"] for id_ in some[:5] for face in alice.faces_of(id_)]
            alice.rows.execute(update("asset_face", *({"id": face, face_person: person} for face in faces)))
        case 4:
            alice.name_person(rng.choice(street.people), f"named {rng.random()}")
        case 5:
            alice.trash(*some)
        case 6:
            alice.restore(*some)
        case 7:
            copies = [id_ for id_ in (street.home.copy_of(photo) for photo in some[:3]) if id_ is not None]
            street.favourite(*copies, favourite=rng.random() < 0.5)


@contextmanager
def bob_uploads(street: Street) -> Iterator[None]:
    """Let Immich write rows of bob's own all the time: each that the phone reads moves its mark."""
    done = threading.Event()
    failures: list[Exception] = []

    def upload() -> None:
        try:
            while not done.wait(0.02):
                street.upload_of_bobs()
                if len(street.own) % 3 == 0:
                    street.bob.rows.execute(delete("asset", {"id": street.own.pop(0)}))
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=upload, name="bob", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)
    if failures:
        raise failures[0]


def all_day(street: Street, phone: Phone, count: int, seed: int) -> None:
    """Photos come, change and go while bob's own photos do too."""
    rng = random.Random(seed)
    street.commits_take(0, 0.6)
    with street.home.house.running(ready=False):
        with bob_uploads(street):
            for _ in range(4):
                street.add(count // 4)
                for _ in range(8):
                    something_happens(street, rng)
                # All of them may be in the trash.
                eventually(lambda: street.copies() >= street.shared() / 2, within=150)
            for _ in range(20):
                something_happens(street, rng)
        street.commits_take(0)
        holds_exactly_the_copies(street, phone)
    assert phone.rounds > 100, "the phone hardly asked"


@pytest.mark.parametrize(
    "release", [*(pytest.param(release, marks=pytest.mark.soak) for release in RELEASES[:-1]), RELEASES[-1]]
)
@pytest.mark.timeout(600)
def test_at_full_load_with_slow_commits(release: str, new_street: Callable[[str], Street], seed: int) -> None:
    street = new_street(release)
    with phone_of_bob(street) as phone:
        all_day(street, phone, 200, seed)


@pytest.mark.soak
@pytest.mark.parametrize("release", RELEASES)
def test_the_same_with_thousands_of_photos(release: str, new_street: Callable[[str], Street], seed: int) -> None:
    street = new_street(release)
    with phone_of_bob(street) as phone:
        all_day(street, phone, 4000, seed)


def test_a_commit_takes_longer_than_its_rows_are_stamped_ahead(new_street: Callable[[str], Street]) -> None:
    """By the time that the rows can be read, the phone has long passed them."""
    street = new_street(DEFAULT_RELEASE)
    house = street.home.house
    street.add(20)
    with phone_of_bob(street) as phone, house.running():
        holds_exactly_the_copies(street, phone)
        street.commits_take(3.3)
        changed = street.photos[:5]
        fresh = street.add(20)
        street.describe("another word", *changed)
        # Meanwhile the phone sees photos of bob's own, again and again.
        while street.copies() < 20 + len(fresh):
            street.upload_of_bobs()
        street.commits_take(0)
        holds_exactly_the_copies(street, phone)


def test_a_deletion_is_committed_late(new_street: Callable[[str], Street]) -> None:
    """Bob deletes photos of his own while copies go: the phone hears of his first, and still of ours."""
    street = new_street(DEFAULT_RELEASE)
    street.add(20)
    for _ in range(300):
        street.upload_of_bobs()
    with phone_of_bob(street) as phone, street.home.house.running():
        holds_exactly_the_copies(street, phone)
        street.commits_take(1)
        street.alice.lock(*street.photos[:15])
        while street.copies() > 5:
            if not street.own:
                street.upload_of_bobs()
            street.bob.rows.execute(delete("asset", {"id": street.own.pop()}))
        street.commits_take(0)
        holds_exactly_the_copies(street, phone)
        assert phone.held("person") == 5


def test_a_deletion_of_faces_is_committed_late(new_street: Callable[[str], Street]) -> None:
    """Immich deletes faces of bob's own meanwhile, as when they are detected again."""
    street = new_street(DEFAULT_RELEASE)
    photos = street.add(20)
    for _ in range(10):
        street.upload_of_bobs()
    bobs = [street.bob.draw_face(street.own[0], street.bob.create_person("somebody")) for _ in range(150)]

    street.uploaded |= {*bobs}

    def copied() -> int:
        ((count,),) = street.home.house.query("SELECT count(*) FROM public._face_sync_face_map")
        return int(str(count))

    with phone_of_bob(street) as phone, street.home.house.running():
        holds_exactly_the_copies(street, phone)
        assert copied() == 20
        street.commits_take(1)
        for photo in photos[:15]:
            street.alice.rows.execute(
                delete("asset_face", *({"id": face["id"]} for face in street.alice.faces_of(photo)))
            )
        while copied() > 5:
            if bobs:
                street.bob.rows.execute(delete("asset_face", {"id": bobs.pop()}))
        street.commits_take(0)
        holds_exactly_the_copies(street, phone)


def test_copies_that_go_and_come_back_within_moments(new_street: Callable[[str], Street]) -> None:
    """They come back under the same id: no deletion may be heard after the return, and no return before it."""
    street = new_street(DEFAULT_RELEASE)
    photos = street.add(20)
    with phone_of_bob(street) as phone, street.home.house.running():
        street.home.house.settled()
        before = {photo: street.home.copy_of(photo) for photo in photos}
        street.commits_take(0, 0.4)
        for _ in range(3):
            street.alice.lock(*photos)
            eventually(lambda: street.copies() < 10, within=20)
            street.alice.unlock(*photos)
            eventually(lambda: street.copies() > 10, within=20)
            copies = [copy for copy in map(street.home.copy_of, photos) if copy is not None]
            # Immich itself stamps this with the moment: the phone has the photo before it is due.
            street.favourite(*copies)
        street.commits_take(0)
        holds_exactly_the_copies(street, phone)
        assert {photo: street.home.copy_of(photo) for photo in photos} == before


def test_what_the_listener_changes_is_stamped_ahead(new_street: Callable[[str], Street]) -> None:
    """Immich's triggers stamp what is updated, and Immich's own updates keep the stamp of their moment."""
    street = new_street(DEFAULT_RELEASE)
    (photo,) = street.add(1)
    house = street.home.house
    with house.running():
        house.settled()
        copy = street.home.copied(photo)
        street.describe("another word", photo)
        house.settled()
    ahead = 'SELECT "updateId" > immich_uuid_v7("updatedAt" + interval \'2.9 s\') FROM asset_exif WHERE "assetId" = %s'
    assert house.query(ahead, copy) == [(True,)]
    assert house.query(ahead, photo) == [(False,)]
