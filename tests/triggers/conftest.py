"""What the tests of the triggers share: an Immich database with the triggers installed, and a user in a job."""

from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest

from listener import tracking, triggers
from tests.conftest import ImmichDatabase
from tests.triggers.immich_writer import Immich, immich_at


@pytest.fixture
async def conn(immich: ImmichDatabase) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(immich.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def writer(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> AsyncIterator[Immich]:
    """Immich with triggers installed and nobody watched."""
    await tracking.migrate(conn)
    await triggers.install(conn)
    with immich_at(immich.conninfo) as made:
        yield made


@pytest.fixture
async def owner(writer: Immich, conn: psycopg.AsyncConnection) -> UUID:
    """A user who is in a job."""
    user = writer.user()
    await tracking.set_watched_users(conn, [user])
    return user
