"""What a batch of keys costs does not grow with the library: no statement of it reads a large table as a whole."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests import role
from tests.chaos.deeds import Deeds
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import House, add_user
from tests.photos import add_rows, plan_photos

# Photos of somebody else's, and to the planner 25 times as many: it is told that pages cost so much more to read.
OTHERS = 8_000
_TIMES = 25
_MORE_OF_OTHERS = """
INSERT INTO asset_face ("assetId") SELECT id FROM asset;
INSERT INTO stack ("primaryAssetId", "ownerId") SELECT id, "ownerId" FROM asset;
INSERT INTO tag ("userId", value) SELECT "ownerId", id::text FROM asset;
"""
_PEOPLE = 'INSERT INTO person (id, "ownerId") SELECT id, "ownerId" FROM asset'
# Immich 3.2+.
_GROUPS = """
INSERT INTO person_group (id, "clusterGroupId")
SELECT asset.id, "clusterGroupId" FROM asset JOIN "user" ON "user".id = "ownerId";
INSERT INTO person ("personGroupId", "ownerId") SELECT id, "ownerId" FROM asset;
"""
_READ = """
SELECT large.relname, seq_scan FROM pg_class AS large JOIN pg_stat_user_tables AS read ON read.relid = large.oid
WHERE schemaname = 'public' AND reltuples > 2000
"""


def fill(immich: ImmichDatabase, roots: Roots) -> None:
    """Let somebody have many photos, people, stacks and tags; the planner knows of them."""
    somebody = add_user(immich.conninfo, immich.release, "somebody")
    add_rows(immich.conninfo, somebody, plan_photos(roots, somebody, OTHERS))
    with psycopg.connect(immich.conninfo, autocommit=True) as connection:
        connection.execute(_MORE_OF_OTHERS.encode())
        groups = connection.execute("SELECT to_regclass('person_group') IS NOT NULL").fetchone() == (True,)
        connection.execute((_GROUPS if groups else _PEOPLE).encode())
        connection.execute("ANALYZE")


def appear_large(house: House) -> None:
    """Let whole tables be as dear to the listener's role as if they had so many times as many pages."""
    with psycopg.connect(house.immich.conninfo, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} IN DATABASE {} SET seq_page_cost = {}").format(
                sql.Identifier(role.NAME), sql.Identifier(connection.info.dbname), _TIMES
            )
        )


def read_as_a_whole(house: House) -> dict[str, int]:
    """Return how often each large table was. A session counts what it read before the server forgets it."""
    others = """SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    eventually(lambda: not house.query(others))
    return {str(table): int(str(count)) for table, count in house.query(_READ)}


@pytest.mark.parametrize("release", [*(pytest.param(r, marks=pytest.mark.soak) for r in ("2.0.0", "3.0.3")), "3.3.0"])
def test_what_happened_to_some_photos_is_found_by_index(
    release: str, new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> None:
    """Everything that can happen to photos happens while no listener runs; then one starts, sweeps and mends."""
    immich = new_immich(release)
    fill(immich, roots)
    with ExitStack() as acting:
        deeds = Deeds(immich, roots, tmp_path, acting, photos=30)
        house = deeds.house
        house.install_triggers()
        deeds.move_in()
        with house.running():
            house.settled()
        appear_large(house)
        for kind in deeds.kinds:
            deeds.do(kind)
        deeds.find()
    before = read_as_a_whole(house)
    assert {"asset", "asset_exif", "asset_file", "smart_search", "person", "asset_face", "stack", "tag"} <= set(before)
    with house.running() as process:
        eventually(lambda: process.metric("sweeps_total") >= 1, describe=lambda: process.output[-3000:])
        eventually(
            lambda: process.metric("keys_queued") + process.metric("keys_in_flight") == 0,
            describe=lambda: process.output[-3000:],
        )
        assert process.metric("copies_made_total") >= 4, process.output[-3000:]
        assert process.metric("copies_removed_total") >= 1
    assert read_as_a_whole(house) == before
    assert house.settled().ok
