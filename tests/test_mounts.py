"""A folder that comes with its first photo, just while somebody looks, is not one whose disk is away."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from listener import mounts
from listener.database import connect
from listener.immich.layout import Layout
from tests.conftest import ImmichDatabase, Roots, eventually_async
from tests.photos import PhotoHouse, photo_house

WAITING = "SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = %s)"


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    made = photo_house(immich, roots, tmp_path)
    made.house.install_triggers()
    made.folder.rmdir()
    return made


@pytest.mark.parametrize("made", [True, False])
async def test_a_folder_made_between_the_look_at_it_and_the_look_at_the_rows(
    carol: PhotoHouse, roots: Roots, made: bool
) -> None:
    (photo,) = carol.plan(1)
    job = carol.house.jobs[0]
    carol.rows([photo])
    # The question to the rows has to wait: this is the moment.
    with psycopg.connect(carol.house.immich.conninfo) as immich:
        immich.execute("LOCK TABLE asset")
        async with await connect(carol.house.immich.conninfo) as connection:
            looking = asyncio.create_task(
                mounts.missing(connection, job, Layout(roots.media, roots.external), frozenset())
            )
            await eventually_async(lambda: _waits(carol.house.immich.conninfo, connection.info.dbname))
            if made:
                photo.original.parent.mkdir(parents=True)
                photo.original.touch()
                photo.preview.parent.mkdir(parents=True)
                photo.preview.touch()
            immich.commit()
            words = await looking
    assert (words is None) is made, words


async def _waits(conninfo: str, database: str) -> bool:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute(WAITING, [database])
        return await cursor.fetchone() is not None
