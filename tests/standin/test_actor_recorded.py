"""The actor writes what Immich writes: held against the recordings."""

from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from psycopg import sql

from listener.standin.actor import NEW, Actor, Picture
from listener.standin.recording import STAMPED, Recording, recorded
from tests.conftest import Roots
from tests.standin.stage import LATER, SUMMER, Stage

pytest_plugins = ("tests.standin.stage_fixtures",)

Change = tuple[str, str, frozenset[str]]
Written = tuple[frozenset[Change], frozenset[frozenset[tuple[str, str]]]]
"""Operations with the columns that they changed, and which of them share transactions."""

LISTEN = """
CREATE TABLE written (
    n bigint GENERATED ALWAYS AS IDENTITY, tx xid8 DEFAULT pg_current_xact_id(), tab text, op text, changed text[]
);
CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO written (tab, op, changed) SELECT TG_TABLE_NAME, TG_OP, CASE WHEN TG_OP = 'UPDATE' THEN ARRAY(
        SELECT key FROM jsonb_each(to_jsonb(NEW)) AS c WHERE c.value IS DISTINCT FROM to_jsonb(OLD) -> c.key
    ) ELSE '{}' END;
    RETURN NULL;
END $$;
"""


def listen(stage: Stage, tables: frozenset[str]) -> None:
    stage.connection.execute(LISTEN)
    for table in tables:
        stage.connection.execute(
            sql.SQL(
                "CREATE TRIGGER zz_note AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW "
                "EXECUTE FUNCTION note_write()"
            ).format(sql.Identifier(table))
        )


def heard(stage: Stage) -> Written:
    lines = stage.all("SELECT tx::text, op, tab, changed FROM written ORDER BY n")
    stage.all("DELETE FROM written")
    return written((tx, op, table, frozenset(changed)) for tx, op, table, changed in lines)


def in_recording(recording: Recording, step: str) -> Written:
    return written(
        (str(transaction.number), s.op, s.table, row.changed)
        for transaction in recording.transactions(step)
        for s in transaction.statements
        for row in s.rows
    )


def written(lines: Iterable[tuple[str, str, str, frozenset[str]]]) -> Written:
    changes: set[Change] = set()
    shared: dict[str, set[tuple[str, str]]] = {}
    for tx, op, table, changed in lines:
        changes.add((op, table, changed - STAMPED))
        shared.setdefault(tx, set()).add((op, table))
    return frozenset(changes), frozenset(frozenset(group) for group in shared.values())


# Immich writes nothing for it; the recording has a line of a text job that ran then.
NOT_COMPARED = {"thumbnails regenerated"}


def differences(mine: Written, theirs: Written) -> str:
    return "; ".join(
        f"only the actor: {set(a - b) or '-'}, only Immich: {set(b - a) or '-'}"
        for a, b in zip(mine, theirs, strict=True)
    )


def recorded_steps(actor: Actor, roots: Roots) -> Iterator[str]:
    """Do what the recorded user did; yields the name of each step after it."""
    photos = roots.external / "carol" / "photos"
    photos.mkdir(parents=True)
    library = actor.add_library(photos)
    yield "start"
    uploads = [actor.upload(f"{n}.jpg", taken=SUMMER, people=[NEW] * 2 if n < 2 else ()) for n in range(8)]
    uploads.append(actor.upload("8.jpg", taken=SUMMER, people=[actor.people()[0]["person"]]))
    uploads.append(actor.upload("9.jpg", taken=SUMMER, people=[NEW], text="LAB"))
    uploads.append(actor.upload("place.jpg", picture=Picture(SUMMER, latitude=53.3, longitude=-6.2)))
    yield "upload photos"
    people = [row["person"] for row in actor.people()]

    def recognise_all(*assets: UUID) -> None:
        for asset in assets:
            for face in actor.faces_of(asset):
                actor.recognise(face["id"], people[-1])

    recognise_all(actor.upload_live_photo(taken=SUMMER, faces=1, text="LAB")[0])
    yield "upload live photo"
    recognise_all(actor.upload("film.mp4", faces=1))
    yield "upload video"
    like = Picture(SUMMER, faces=2, latitude=53.3, longitude=-6.2)
    scanned = actor.scan_library(library, ["0.jpg", "1.jpg", "2.jpg"], picture=like)
    actor.scan_library(library, ["3.jpg"], picture=Picture(SUMMER, text="LAB"))
    recognise_all(*scanned)
    yield "external library scan"
    yield from people_steps(actor, uploads, people)
    yield from photo_steps(actor, uploads)
    yield from library_steps(actor, library, scanned, uploads, recognise_all)
    actor.delete_person(people[-1])
    yield "person deleted"
    first, *rest = actor.detect_faces_again()
    person = actor.recognise(first)
    for face in rest:
        actor.recognise(face, person)
    yield "forced face detection of everybody"


def people_steps(actor: Actor, uploads: list[UUID], people: list[UUID]) -> Iterator[str]:
    first, second, third, *_ = people
    actor.name_person(first, "Ada")
    yield "person renamed"
    actor.change_person(first, name="Ada L.", birthDate=date(1990, 12, 10), isFavorite=True, color="#aa3355")
    yield "person born, favourite, colour"
    actor.hide_person(second)
    yield "person hidden"
    actor.merge_people(first, third)
    yield "people merged"
    face, other = actor.faces_of(uploads[1])
    actor.reassign_face(face["id"], second)
    yield "face reassigned"
    actor.delete_face(other["id"])
    yield "face deleted softly"
    actor.draw_face(uploads[0], first)
    yield "face drawn by hand"


def photo_steps(actor: Actor, uploads: list[UUID]) -> Iterator[str]:
    actor.describe(uploads[0], "At the sea")
    yield "description edited"
    actor.set_date(uploads[1], LATER)
    yield "date edited"
    actor.edit(uploads[10], latitude=48.8566, longitude=2.3522, rating=4)
    yield "place and rating edited"
    actor.favourite(uploads[3])
    yield "favourite"
    actor.archive(uploads[3])
    yield "archived"
    actor.tag("trip/sea", uploads[0], uploads[1])
    yield "tagged"
    actor.stack(uploads[4], uploads[5])
    yield "stacked"
    actor.crop(uploads[0], x=0, y=0, width=100, height=150)
    yield "cropped"
    actor.undo_edits(uploads[0])
    yield "crop undone"
    actor.trash(uploads[8], uploads[9])
    yield "two trashed"
    actor.restore(uploads[9])
    yield "one restored"
    actor.delete_for_good(uploads[8])
    yield "one deleted for good"
    actor.lock(uploads[7])
    yield "moved to the locked folder"
    actor.refresh_thumbnails(uploads[0])
    yield "thumbnails regenerated"
    actor.find_faces(uploads[0])
    yield "faces refreshed"


def library_steps(
    actor: Actor, library: UUID, scanned: list[UUID], uploads: list[UUID], recognise: Callable[..., None]
) -> Iterator[str]:
    photo = Path(actor.asset(scanned[0])["originalPath"])
    hidden = photo.rename(photo.parents[1] / "away")
    actor.scan_library(library)
    yield "external file vanished"
    hidden.rename(photo)
    actor.scan_library(library)
    yield "external file returned"
    other_day = SUMMER + timedelta(days=1)
    actor.change_file(scanned[1], taken=other_day, latitude=None, longitude=None, text="OTHER")
    actor.scan_library(library)
    actor.find_duplicates(scanned[1], uploads[0])
    recognise(scanned[1])
    yield "external file changed"


@pytest.mark.parametrize("stage", ["2.7.5", "3.0.3"], indirect=True)
def test_it_writes_as_the_recorded_immich_did(stage: Stage) -> None:
    recording = recorded(stage.immich.release)
    listen(stage, frozenset(statement.table for statement in recording.statements))
    actor = stage.act("carol")
    compared = []
    for step in recorded_steps(actor, stage.roots):
        mine, theirs = heard(stage), in_recording(recording, step)
        compared.append(step)
        if step not in NOT_COMPARED:
            assert mine == theirs, f"{step}: {differences(mine, theirs)}"
    assert tuple(compared) == recording.steps
