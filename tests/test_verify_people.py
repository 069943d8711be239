"""The judge on faces and people: in both of Immich's models, in shared cluster groups, and both ways."""

# ruff: noqa: S608 - tables and columns are named in this file

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from listener.tools.verify import render
from tests.conftest import Roots
from tests.copied_photo import Share, wipe
from tests.judging import Break, Do, both, judged, of_mirror, on_releases, rules, run
from tests.source_photo import EMBEDDING, write

pytest_plugins = ("tests.judge_fixtures",)

BOTH = ("3.0.3", "3.3.0")
OLD = ("3.0.3",)
NEW = ("3.3.0",)
on_both = pytest.mark.parametrize("database", BOTH, indirect=True)
on_groups = pytest.mark.parametrize("database", NEW, indirect=True)


def set_person(share: Share, face: UUID, person: UUID | None) -> None:
    column = "personGroupId" if share.groups else "personId"
    share.run(f'UPDATE asset_face SET "{column}" = %(person)s WHERE id = %(face)s', person=person, face=face)


def note_person(share: Share, person: UUID | None) -> None:
    share.run(
        "UPDATE _face_sync_face_map SET target_person_id = %(person)s WHERE target_face_id = %(face)s",
        person=person, face=share.ids["face_copy"],
    )  # fmt: skip


def take_face_away(share: Share) -> None:
    set_person(share, share.ids["face_copy"], None)


def give_face_wrongly(share: Share) -> None:
    other = share.add_person(share.target_user, "Dana")
    set_person(share, share.ids["face_copy"], other)
    note_person(share, other)


def note_wrongly(share: Share) -> None:
    note_person(share, share.add_person(share.target_user, "Dana"))


def add_face(kind: str, **values: Any) -> Do:
    return lambda share: share.insert(
        "asset_face", id=uuid4(), assetId=share.ids["plain_copy"], sourceType=kind, **values
    )


def map_face(share: Share) -> None:
    share.insert(
        "_face_sync_face_map",
        source_face_id=uuid4(), target_face_id=uuid4(), target_asset_id=share.ids["copy"],
        target_user_id=share.target_user,
    )  # fmt: skip


def lose_person(share: Share) -> None:
    Path(share.mirror_thumbnail).unlink()
    share.run("DELETE FROM _face_sync_person_map")
    share.run(f"DELETE FROM person WHERE {share.mirror_row}", **share.ids)


def add_mirror(*, there: bool) -> Do:
    def do(share: Share) -> None:
        share.map_person(uuid4(), share.add_person(share.target_user, "Nobody") if there else uuid4())

    return do


def rewrite_thumbnail(how: Callable[[str, Path], object]) -> Do:
    def do(share: Share) -> None:
        mirror = Path(share.mirror_thumbnail)
        mirror.unlink()
        how(share.generated("thumbs", share.source_user, share.person, ".jpeg"), mirror)

    return do


def rename_thumbnail(share: Share) -> None:
    moved = Path(share.mirror_thumbnail).rename(share.mirror_thumbnail + ".jpg")
    of_mirror(f"\"thumbnailPath\" = '{moved}'")(share)


def empty_thumbnail(share: Share) -> None:
    Path(share.mirror_thumbnail).unlink()
    of_mirror("\"thumbnailPath\" = ''")(share)


def own_feature(share: Share) -> None:
    """Let the target's person have a hand-drawn face as its feature face."""
    face = uuid4()
    share.insert("asset_face", id=face, assetId=share.ids["plain_copy"], sourceType="manual")
    of_mirror(f"\"faceAssetId\" = '{face}'")(share)


def is_original(share: Share) -> UUID:
    """Make the source's person the mirror of one of the target's own, who has the copied face."""
    own = share.add_person(share.target_user, "Carla herself")
    share.map_person(own, share.person, back=True)
    set_person(share, share.ids["face_copy"], own)
    note_person(share, own)
    return own


def forget_mirror(share: Share) -> None:
    Path(share.mirror_thumbnail).unlink()
    share.run("DELETE FROM _face_sync_person_map WHERE source_person_id = %(person)s", **share.ids)
    share.run(f"DELETE FROM person WHERE {share.mirror_row}", **share.ids)


def adopt(share: Share) -> UUID:
    """Let the target have merged the mirror into a person of their own."""
    if "adopted" not in share.columns["_face_sync_person_map"]:
        share.run("ALTER TABLE _face_sync_person_map ADD COLUMN adopted boolean NOT NULL DEFAULT false")
    own = share.add_person(share.target_user, "Carlotta")
    set_person(share, share.ids["face_copy"], own)
    note_person(share, own)
    Path(share.mirror_thumbnail).unlink()
    share.run(f"DELETE FROM person WHERE {share.mirror_row}", **share.ids)
    share.run("UPDATE _face_sync_person_map SET target_person_id = %(own)s, adopted = true", own=own)
    return own


def unshare(share: Share) -> None:
    """Let the source's feature face lie on a photo that is not shared; the mirror goes on showing it."""
    private = share.add_asset("private.jpg", originalPath=f"{share.roots.external}/elsewhere/private.jpg")
    face = uuid4()
    share.insert("asset_face", id=face, assetId=private, sourceType="manual")
    share.run(
        'UPDATE person SET "faceAssetId" = %(face)s WHERE "ownerId" = %(owner)s', face=face, owner=share.source_user
    )


def note_shown(share: Share) -> None:
    """Note that the mirror shows a photo that is not shared, whatever it shows."""
    share.run("UPDATE _face_sync_person_map SET written = jsonb_build_object('shows', %(face)s::text)", face=uuid4())
    write(share.mirror_thumbnail, "another face")


def outlive(share: Share) -> None:
    """Let a mirror with a face of the target's own outlive whom it stands for."""
    person = share.add_person(share.target_user, "Own by now")
    add_face("manual", personId=person, personGroupId=person)(share)
    share.map_person(uuid4(), person)


def park_feature(share: Share) -> None:
    """Let a mirror show a copy that is parked."""
    dana = share.add_person(share.target_user, "Dana")
    share.run("UPDATE _face_sync_asset_map SET parked = '{}' WHERE target_asset_id = %(plain_copy)s", **share.ids)
    share.run("UPDATE asset SET \"deletedAt\" = now(), status = 'trashed' WHERE id = %(plain)s", **share.ids)
    share.run(
        'UPDATE asset SET "deletedAt" = now(), "isOffline" = true, visibility = \'hidden\' WHERE id = %(plain_copy)s',
        **share.ids,
    )
    face = uuid4()
    share.insert("asset_face", id=face, assetId=share.ids["plain_copy"], sourceType="manual")
    column = "personGroupId" if share.groups else "id"
    share.run(
        f'UPDATE person SET "faceAssetId" = %(face)s, "thumbnailPath" = %(path)s WHERE "{column}" = %(dana)s',
        face=face, path=f"/data/thumbs/{dana}.jpeg", dana=dana,
    )  # fmt: skip
    share.insert(
        "_face_sync_person_map", source_person_id=uuid4(), target_person_id=dana,
        source_user_id=share.source_user, target_user_id=share.target_user,
    )  # fmt: skip


BREAKS = [
    Break("asset_face.missing", run("DELETE FROM asset_face WHERE id = %(manual_copy)s"), on=BOTH),
    Break("asset_face.extra", run('UPDATE asset_face SET "deletedAt" = now() WHERE id = %(manual)s'), on=BOTH),
    Break(
        "asset_face.extra",
        run("UPDATE asset_face SET \"sourceType\" = 'machine-learning' WHERE id = %(manual)s"),
        where="unassigned",
        on=BOTH,
    ),
    Break("asset_face.extra", add_face("machine-learning"), frozenset({"ml.recognition"}), where="found", on=BOTH),
    Break("asset_face.asset", run('UPDATE asset_face SET "assetId" = %(plain_copy)s WHERE id = %(manual_copy)s')),
    Break("asset_face.column", run('UPDATE asset_face SET "boundingBoxX1" = 5 WHERE id = %(face_copy)s'), on=BOTH),
    Break("asset_face.person", take_face_away, where="nobody's", on=BOTH),
    Break("asset_face.person", give_face_wrongly, frozenset({"face_map.person"}), on=OLD),
    Break("asset_face.person", give_face_wrongly, frozenset({"face_map.person"}), on=NEW, where="group"),
    Break("face_map.person", note_wrongly, on=BOTH),
    Break(
        "asset_face.sourceType",
        run("UPDATE asset_face SET \"sourceType\" = 'exif' WHERE id = %(face_copy)s"),
        on=BOTH,
    ),
    Break("face_search.missing", run('DELETE FROM face_search WHERE "faceId" = %(face_copy)s'), on=BOTH),
    Break(
        "face_search.extra",
        lambda share: share.insert("face_search", faceId=share.ids["manual_copy"], embedding=EMBEDDING),
    ),
    Break(
        "face_search.column",
        run('UPDATE face_search SET embedding = embedding * embedding WHERE "faceId" = %(face_copy)s'),
        on=BOTH,
    ),
    Break("face_map.orphan", map_face),
    Break("person.missing", lose_person, on=BOTH),
    *(
        Break("person.column", of_mirror(change), where=change)
        for change in ("name = 'Clara'", '"birthDate" = NULL', '"isHidden" = false', "color = NULL")
    ),
    Break("person.column", of_mirror("name = ''"), where="no name", on=NEW),
    Break("person.column", of_mirror('"birthDate" = NULL'), where="no birth date", on=NEW),
    Break("person.ownerId", of_mirror('"ownerId" = %(source_user)s'), frozenset({"file.orphan"})),
    *(
        Break("person.faceAssetId", of_mirror(f'"faceAssetId" = {face}'), where=face, on=releases)
        for face, releases in (("NULL", BOTH), ("%(face)s", BOTH), ("%(manual_copy)s", OLD))
    ),
    Break("person.thumbnailPath", rename_thumbnail, on=BOTH),
    Break("ml.person_thumbnails", empty_thumbnail, frozenset({"person.thumbnailPath"}), on=BOTH),
    Break("person.thumbnail.missing", rewrite_thumbnail(lambda _source, _path: None), on=BOTH),
    Break("person.thumbnail.content", rewrite_thumbnail(lambda _, path: write(path, "x"))),
    Break("person.thumbnail.inode", rewrite_thumbnail(os.link), on=BOTH),
    Break("person.thumbnail.private", unshare, on=BOTH),
    Break("person.thumbnail.private", note_shown, frozenset({"person.thumbnail.content"}), where="noted", on=OLD),
    Break("person.thumbnail.private", note_shown, where="noted", on=NEW),
    Break(
        "person.thumbnail.private", park_feature, frozenset({"parked.originalPath", "person.empty"}),
        where="parked", on=BOTH,
    ),
    Break("person_map.orphan", outlive, where="names nobody", on=BOTH),
    Break("person.empty", add_mirror(there=True), on=BOTH),
    Break("person_map.orphan", add_mirror(there=False), on=BOTH),
    Break("person_map.mirror", is_original, on=BOTH),
    Break(
        "person_group.clusterGroupId",
        lambda share: share.run(
            'UPDATE person_group SET "clusterGroupId" = %(other)s WHERE id = %(mirror)s',
            other=share.cluster_group(share.source_user), **share.ids,
        ),
        on=NEW,
    ),
]  # fmt: skip

IN_ONE_GROUP = [
    Break("asset_face.person", take_face_away),
    Break(
        "asset_face.sourceType",
        run("UPDATE asset_face SET \"sourceType\" = 'machine-learning' WHERE id = %(face_copy)s"),
    ),
    Break(
        "face_search.extra",
        lambda share: share.insert("face_search", faceId=share.ids["face_copy"], embedding=EMBEDDING),
    ),
    Break("person.missing", lose_person),
    Break("person.column", of_mirror("name = ''")),
    Break("person.faceAssetId", of_mirror('"faceAssetId" = %(face)s')),
    Break("person.thumbnailPath", rename_thumbnail),
]


@pytest.fixture
def one_group(database: str, roots: Roots) -> Iterator[Share]:
    """Return a share between two users of one cluster group."""
    with psycopg.connect(database, autocommit=True) as conn:
        wipe(conn)
        yield Share(conn, roots, shared_group=True)


@pytest.mark.parametrize(("database", "wrong"), on_releases(BREAKS), indirect=["database"])
async def test_one_thing_wrong_is_told_by_its_rule(
    share: Share, conn: psycopg.AsyncConnection[Any], wrong: Break
) -> None:
    wrong.do(share)

    report = await judged(share, conn)

    assert rules(report) == {wrong.rule} | wrong.also, render(report)
    assert all(difference.job in {"photos", "uploads"} and difference.detail for difference in report.differences)


@on_groups
async def test_people_of_one_cluster_group_are_shared(one_group: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    report = await judged(one_group, conn)

    assert report.differences == (), render(report)
    assert report.rows["face_search"] == 0


@on_groups
@pytest.mark.parametrize("wrong", IN_ONE_GROUP, ids=str)
async def test_one_thing_wrong_in_one_cluster_group(
    one_group: Share, conn: psycopg.AsyncConnection[Any], wrong: Break
) -> None:
    wrong.do(one_group)

    assert rules(await judged(one_group, conn)) == {wrong.rule} | wrong.also


def own_faces(share: Share) -> None:
    """Hand-drawn faces, a copied face deleted, another given to somebody else, a favourite person."""
    dana = share.add_person(share.target_user, "Dana")
    for person in (dana, share.mirror_id):
        add_face("manual", personId=person, personGroupId=person)(share)
    run('UPDATE asset_face SET "deletedAt" = now() WHERE id = %(manual_copy)s')(share)
    set_person(share, share.ids["face_copy"], dana)
    of_mirror('"isFavorite" = true')(share)


def own_view(share: Share) -> None:
    """From 3.2 on a person's name and looks, and which face stands for them, are each user's own."""
    of_mirror("name = 'Carlotta', \"birthDate\" = '1991-01-01', \"isHidden\" = false, color = NULL")(share)
    own_feature(share)
    write(share.mirror_thumbnail, "another face of Carla")


def two_in_one(share: Share) -> None:
    """The target merged the mirror of one source's person into that of another."""
    other = share.add_person(share.source_user, "Karl")
    set_person(share, share.manual_face, other)
    set_person(share, share.ids["manual_copy"], share.mirror_id)
    share.run("UPDATE _face_sync_face_map SET target_person_id = %(mirror)s", **share.ids)
    share.map_person(other, share.mirror_id)


def own_words(share: Share) -> None:
    """What the target says of a mirror is theirs: where it is not what was written, or the source has not said."""
    note = '{"name": "Carla", "isHidden": true, "color": null}'
    share.run(f"UPDATE _face_sync_person_map SET written = '{note}'")
    of_mirror("name = 'Mum', \"isHidden\" = false")(share)
    share.run('UPDATE person SET "birthDate" = NULL WHERE "ownerId" = %(source_user)s', **share.ids)


ALLOWED = [
    (own_words, OLD),
    (own_faces, BOTH),
    (own_view, NEW),
    (adopt, BOTH),
    (both(adopt, lambda share: set_person(share, share.face, None), run("DELETE FROM asset_face WHERE id = %(face)s"),
          run("DELETE FROM asset_face WHERE id = %(face_copy)s"), run("DELETE FROM _face_sync_face_map"
              " WHERE source_face_id = %(face)s")), BOTH),
    (both(is_original, forget_mirror), BOTH),
    (two_in_one, BOTH),
]  # fmt: skip


@pytest.mark.parametrize(
    ("database", "allowed"),
    [pytest.param(release, do, id=f"{i}-{release}") for i, (do, on) in enumerate(ALLOWED) for release in on],
    indirect=["database"],
)
async def test_what_the_target_user_did_with_people_is_left_to_them(
    share: Share, conn: psycopg.AsyncConnection[Any], allowed: Do
) -> None:
    allowed(share)

    report = await judged(share, conn)

    assert report.differences == (), render(report)


@on_both
async def test_a_wrong_original_is_told(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    """With jobs both ways a face of the target's own person may not go to anybody else."""
    is_original(share)
    forget_mirror(share)
    give_face_wrongly(share)

    assert rules(await judged(share, conn)) == {"asset_face.person", "face_map.person"}
