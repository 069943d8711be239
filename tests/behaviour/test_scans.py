"""Point 14: what a library scan does to copies heals at once."""

import os
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually

# A file of ext4 has 65,000 links at most, and the copies have as many.
LINKS = 30_000


def offline(home: Home, *, limit: int = 100) -> list[object]:
    """Return assets in bob's shared library that are offline or in the trash."""
    library = home.house.jobs[0].target_library_id
    rows = home.house.query(
        'SELECT id FROM asset WHERE "libraryId" = %s AND ("isOffline" OR "deletedAt" IS NOT NULL) LIMIT %s',
        library,
        limit,
    )
    return [row[0] for row in rows]


def test_copies_that_a_scan_takes_offline_heal_and_those_without_original_follow_their_source(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    scanned = alice.scan_library(library, [f"{n}.jpg" for n in range(3)])
    still, motion = alice.upload_live_photo("live")
    home.settled()
    shared = home.house.jobs[0].target_library_id
    copies = {asset: home.copied(asset) for asset in (*scanned, still, motion)}
    bob.archive(copies[scanned[0]])
    bob.favourite(copies[scanned[1]])
    trashed = copies[scanned[2]]
    bob.trash(trashed)
    home.settled()

    bob.set_exclusions(shared, "**/*")
    bob.scan_library(shared)
    eventually(lambda: set(offline(home)) <= {trashed}, describe=lambda: offline(home))
    home.settled()
    assert {asset: home.copy_of(asset) for asset in copies} == copies
    assert bob.asset(copies[scanned[0]])["visibility"] == "archive"
    assert bob.asset(copies[scanned[1]])["isFavorite"]
    assert bob.asset(trashed)["status"] == "trashed", "its user threw it away, no scan"
    bob.set_exclusions(shared)
    bob.scan_library(shared)
    assert set(offline(home)) <= {trashed}, "with the advised settings a scan finds nothing to do"
    assert len(bob.assets()) == len(copies), "and imports nothing"

    # While the listener is down: healed when it starts.
    with home.stopped():
        home.house.query('UPDATE asset SET "isOffline" = true, "deletedAt" = now() WHERE id = %s', copies[scanned[0]])
    home.settled()
    assert not bob.asset(copies[scanned[0]])["isOffline"]

    # The original is really gone: bob's scan sees it first, alice's own scan decides.
    path = Path(alice.asset(scanned[0])["originalPath"])
    content, times = path.read_bytes(), path.stat().st_mtime_ns
    path.unlink()
    bob.scan_library(shared)
    alice.scan_library(library)
    eventually(lambda: home.copy_of(scanned[0]) is None)
    home.settled()
    path.write_bytes(content)
    os.utime(path, ns=(times, times))
    alice.scan_library(library)
    home.settled()
    assert home.copied(scanned[0]) == copies[scanned[0]]
    assert bob.asset(copies[scanned[0]])["visibility"] == "archive"


@pytest.mark.releases(since="3.0.3", until="3.0.3")
@pytest.mark.parametrize(
    ("count", "others"),
    [
        # Past 10,000 rows in one statement the trigger names no keys any more, whosever they are.
        (100, 10_000),
        pytest.param(70_000, 0, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_thousands_of_assets_that_one_statement_takes_offline_heal(home: Home, count: int, others: int) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    (one,) = alice.scan_library(library, ["one.jpg"])
    home.settled()
    multiply(home, one, count)
    home.house.query(
        "INSERT INTO asset SELECT made.* FROM asset AS one, generate_series(1, %s) AS number,"
        " jsonb_populate_record(one, jsonb_build_object('id', gen_random_uuid(), 'ownerId', %s::text,"
        " 'libraryId', %s::text, 'checksum', sha256(number::text::bytea))) AS made WHERE one.id = %s",
        others,
        bob.user_id,
        bob.add_library(home.roots.external / "bob"),
        one,
    )
    limit = 20 + count / 40
    eventually(lambda: copies(home) == count + 1, within=limit, describe=lambda: f"{copies(home)} copies")

    home.house.query('UPDATE asset SET "isOffline" = true, "deletedAt" = now() WHERE "ownerId" = %s', bob.user_id)
    eventually(lambda: not offline(home, limit=1), within=limit, describe=lambda: f"{offline(home)} are offline")
    home.settled(within=limit)


def copies(home: Home) -> object:
    return home.house.query("SELECT count(*) FROM _face_sync_asset_map")[0][0]


def multiply(home: Home, one: UUID, count: int) -> None:
    """Make many photos like this one, with files of their own, as long ago as needs no machine learning."""
    alice = home.alice
    ids = [alice.new_id() for _ in range(count)]
    asset = alice.asset(one)
    template = Path(asset["originalPath"])
    paths = [str(template.with_name(f"{id_}.jpg")) for id_ in ids]
    files = alice.files_of(one)
    file_paths: list[str] = []
    known: dict[str, Path] = {}
    for number, (id_, path) in enumerate(zip(ids, paths, strict=True)):
        if number % LINKS == 0:
            template = Path(shutil.copy2(template, path))
        else:
            os.link(template, path)
        for file in files:
            name = Path(file["path"]).name.replace(str(one), str(id_))
            new = alice.generated("thumbs", alice.user_id, id_, "").with_name(name)
            new.parent.mkdir(parents=True, exist_ok=True)
            if number % LINKS == 0:
                known[file["type"]] = Path(shutil.copy2(file["path"], new))
            else:
                os.link(known[file["type"]], new)
            file_paths.append(str(new))
    home.house.query(
        "INSERT INTO asset SELECT made.* FROM asset AS one,"
        " unnest(%s::uuid[], %s::text[]) WITH ORDINALITY AS new(id, path, number),"
        " jsonb_populate_record(one, jsonb_build_object('id', new.id, 'originalPath', new.path,"
        " 'originalFileName', new.id || '.jpg', 'createdAt', now() - interval '2 days',"
        " 'fileCreatedAt', now() - new.number * interval '1 minute',"
        " 'checksum', sha256(new.path::bytea))) AS made WHERE one.id = %s",
        ids,
        paths,
        one,
    )
    for table in ("asset_exif", "asset_job_status"):
        home.house.query(
            f"INSERT INTO {table} SELECT made.* FROM {table} AS one, unnest(%s::uuid[]) AS new(id),"  # noqa: S608
            " jsonb_populate_record(one, jsonb_build_object('assetId', new.id)) AS made WHERE one.\"assetId\" = %s",
            ids,
            one,
        )
    home.house.query(
        "INSERT INTO asset_file SELECT made.* FROM asset_file AS one,"
        " unnest(%s::uuid[], %s::text[], %s::text[]) AS new(id, type, path),"
        " jsonb_populate_record(one, jsonb_build_object('id', gen_random_uuid(), 'assetId', new.id, 'path', new.path))"
        ' AS made WHERE one."assetId" = %s AND one.type = new.type',
        [id_ for id_ in ids for _ in files],
        [file["type"] for _ in ids for file in files],
        file_paths,
        one,
    )
