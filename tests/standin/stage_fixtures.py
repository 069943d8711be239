"""A plugin of pytest, named by the tests of the actor: a stage on one database for each release."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from listener.standin.postgres import create_database, drop_database
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots
from tests.standin.stage import Stage


@pytest.fixture(scope="module")
def databases(server: str, template: Callable[[str], str]) -> Iterator[Callable[[str], ImmichDatabase]]:
    """One database for each release: making a new one for each test takes most of the time."""
    made: dict[str, tuple[str, ImmichDatabase]] = {}

    def of(release: str) -> ImmichDatabase:
        if release not in made:
            name = f"actor_{uuid4().hex}"
            made[release] = name, ImmichDatabase(create_database(server, name, template(release)), release)
        return made[release][1]

    try:
        yield of
    finally:
        for name, _ in made.values():
            drop_database(server, name)


@pytest.fixture
def stage(request: pytest.FixtureRequest, databases: Callable[[str], ImmichDatabase], roots: Roots) -> Iterator[Stage]:
    immich = databases(getattr(request, "param", DEFAULT_RELEASE))
    with psycopg.connect(immich.conninfo, autocommit=True) as connection:
        with ExitStack() as actors:
            made = Stage(immich, roots, actors, connection)
            yield made
        connection.execute("DROP TABLE IF EXISTS written CASCADE")
        connection.execute("DROP FUNCTION IF EXISTS note_write CASCADE")
        for table in ("stack", "album", "user", "move_history", *(["cluster_group"] * (made.release >= (3, 2)))):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
