"""The plan of the sweep: a page of it costs what a page holds, however large the library is."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from listener.database import Connection, connect, fetch
from listener.immich import catalog
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout
from listener.settings import Job
from listener.sweep import Sweep
from listener.sync.files import OriginalLinks
from listener.sync.plan import Planner
from listener.tracking import migrate
from tests.conftest import ImmichDatabase, Roots
from tests.house import add_library, add_user

PHOTOS = 8_000
# Each source photo, then its copy, in each table that a sweep reads and that is large in a large library.
_FILL = """
CREATE TEMP TABLE photo AS
SELECT gen_random_uuid() AS id, gen_random_uuid() AS copy, number FROM generate_series(1, {photos}) AS number;
INSERT INTO asset (id, "ownerId", "libraryId", "isExternal", type, "originalPath", "originalFileName", checksum,
                   "fileCreatedAt", "fileModifiedAt", "localDateTime"{more_columns})
SELECT both_sides.id, owner, library, true, 'IMAGE', folder || '/' || number || '.jpg', number || '.jpg',
       sha256(both_sides.id::text::bytea), now(), now(), now(){more_values}
FROM photo, LATERAL (VALUES (photo.id, '{alice}'::uuid, '{of_alice}'::uuid, '{source}'),
                            (photo.copy, '{bob}'::uuid, '{of_bob}'::uuid, '{target}'))
                        AS both_sides (id, owner, library, folder);
INSERT INTO asset_exif ("assetId") SELECT id FROM asset;
INSERT INTO asset_job_status ("assetId", "metadataExtractedAt") SELECT id, now() FROM asset;
INSERT INTO asset_file ("assetId", type, path)
SELECT id, kind, '/data/thumbs/' || id || kind FROM asset, unnest(ARRAY['preview', 'thumbnail']) AS kind;
INSERT INTO asset_face ("assetId") SELECT id FROM asset;
INSERT INTO tag (id, "userId", value)
SELECT gen_random_uuid(), '{alice}', 'tag ' || number FROM generate_series(1, 200) AS number;
INSERT INTO tag_asset ({tag_asset}, {tag_tag})
SELECT photo.id, tag.id FROM photo JOIN tag ON tag.value = 'tag ' || photo.number % 200;
INSERT INTO public._face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id)
SELECT id, copy, '{alice}', '{bob}' FROM photo;
INSERT INTO public._face_sync_base (target_asset_id) SELECT copy FROM photo;
INSERT INTO public._face_sync_face_map (source_face_id, target_face_id, target_asset_id, target_user_id)
SELECT gen_random_uuid(), gen_random_uuid(), copy, '{bob}' FROM photo;
INSERT INTO public._face_sync_tag_map (target_asset_id, value) SELECT copy, 'tag' FROM photo;
INSERT INTO public._face_sync_album_map (target_asset_id, album_id) SELECT copy, gen_random_uuid() FROM photo;
INSERT INTO public._face_sync_skipped (source_asset_id, target_user_id, other_asset_id)
SELECT gen_random_uuid(), '{bob}', copy FROM photo;
CREATE TEMP TABLE being AS
SELECT both_sides.id, owner FROM photo, LATERAL (VALUES (photo.id, '{alice}'::uuid), (photo.copy, '{bob}'))
                                            AS both_sides (id, owner);
{groups}
INSERT INTO person ({person}, "ownerId") SELECT id, owner FROM being;
INSERT INTO public._face_sync_person_map (source_person_id, target_person_id, source_user_id, target_user_id)
SELECT id, copy, '{alice}', '{bob}' FROM photo;
"""
# Immich 3.2+.
_GROUPS = """
INSERT INTO person_group (id, "clusterGroupId")
SELECT being.id, "clusterGroupId" FROM being JOIN "user" ON "user".id = owner;
"""


def _of_release(found: Catalog) -> dict[str, str]:
    """Return the parts of what fills the tables that differ between releases."""
    more = {"checksumAlgorithm": "'sha1-path'", "deviceAssetId": "both_sides.id", "deviceId": "'photos'"}
    more = {f'"{column}"': value for column, value in more.items() if found.has("asset", column)}
    plural = "s" if found.has("tag_asset", "tagsId") else ""
    return {
        "more_columns": "".join(f", {column}" for column in more),
        "more_values": "".join(f", {value}" for value in more.values()),
        "tag_asset": f'"asset{plural}Id"',
        "tag_tag": f'"tag{plural}Id"',
        "groups": _GROUPS if found.person_groups else "",
        "person": '"personGroupId"' if found.person_groups else "id",
    }


@pytest.mark.parametrize("immich", [pytest.param("2.0.0", marks=pytest.mark.soak), "3.0.3", "3.3.0"], indirect=True)
async def test_no_large_table_is_read_as_a_whole(immich: ImmichDatabase, roots: Roots) -> None:
    alice, bob = (add_user(immich.conninfo, immich.release, name) for name in ("alice", "bob"))
    source, target = str(roots.external / "alice"), str(roots.external / "shared" / "bob")
    job = Job("photos", "external", alice, bob, add_library(immich.conninfo, bob, target), source, target)
    async with await connect(immich.conninfo) as connection:
        await migrate(connection)
        found = await catalog.read(connection)
        filled = _FILL.format(
            **_of_release(found),
            photos=PHOTOS,
            alice=alice,
            bob=bob,
            of_alice=add_library(immich.conninfo, alice, source),
            of_bob=job.target_library_id,
            source=source,
            target=target,
        )
        await connection.execute(filled.encode())
        everything = Features(smart_search=True, facial_recognition=True, ocr=True)
        sweep = Sweep.compose(found, Planner.compose(found, [job], lambda: everything, 0), ())
        links = OriginalLinks(Layout(roots.media, roots.external), target)

        async def pages() -> list[int]:
            found = sweep.pages(connection, job, links, album_usable=True, everything=False)
            return [len(page.found) async for page in found]

        # Another job of the same users leaves them to this one.
        other = replace(job, name="uploads", kind="uploads", source_path_prefix="/data", target_path_prefix="/not/here")
        named = sweep.pages(connection, other, links, album_usable=True, everything=True)
        assert [found.key async for page in named for found in page.found if found.key.kind == "asset"] == []

        # The large tables have their statistics, the others none yet, as in a new Immich.
        await connection.execute("ANALYZE")
        assert sum(await pages()) == 2 * PHOTOS
        large = {name for (name,) in await fetch(connection, _LARGE.encode(), {})}
        assert {"asset", "asset_face", "asset_file", "_face_sync_asset_map", "person", "tag_asset"} <= large
        for statement in (sweep.assets, sweep.people):
            nodes = [*_nodes(await _plan(connection, statement, job))]
            whole = [node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] in large]
            assert not whole, json.dumps(whole, indent=1)
            sorts = [node for node in nodes if "Sort" in node["Node Type"] and node["Plan Rows"] >= PHOTOS]
            assert not sorts, json.dumps(sorts, indent=1)


_LARGE = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND reltuples > 2000"
)


async def _plan(connection: Connection, text: bytes, job: Job) -> dict[str, Any]:
    """Return the plan with which the server runs the statement again and again, as it was prepared."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text.decode())))
    values: dict[str, object] = {
        "source_user": job.source_user_id,
        "target_user": job.target_user_id,
        "after": UUID(int=0),
        "limit": 2000,
        "job": 1,
        "circumstances": "",
        "uploads": False,
        "source_prefix": job.source_path_prefix,
        "target_prefix": job.target_path_prefix,
        "other_prefixes": "{}",
    }
    for place, name in enumerate(names, start=1):
        text = text.replace(f"%({name})s".encode(), f"${place}".encode())
    name = f"pinned_{uuid4().hex}"
    types = {"uploads": "boolean", "limit": "bigint", "job": "bigint", "other_prefixes": "text[]"} | dict.fromkeys(
        ("source_prefix", "target_prefix", "circumstances"), "text"
    )
    declared = ", ".join(types.get(name, "uuid") for name in names)
    await connection.execute(f"PREPARE {name} ({declared}) AS ".encode() + text)
    given = ", ".join(f"'{values[name]}'" for name in names)
    rows = await fetch(connection, f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({given})".encode(), {})
    plan: dict[str, Any] = rows[0][0][0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
