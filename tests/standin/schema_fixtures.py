"""A plugin of pytest, named by the tests of the schema: one database for each release, as empty for every test."""

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from listener.standin import schema
from listener.standin.postgres import create_database, drop_database
from tests.conftest import DEFAULT_RELEASE
from tests.standin.releases import Database


@pytest.fixture(scope="module")
def conninfo_of(server: str, template: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Return a function from a release to the conninfo of a database that the tests here share."""
    made: dict[str, str] = {}

    def database(release: str) -> str:
        if release not in made:
            made[release] = create_database(server, f"schema_{uuid.uuid4().hex}", template(release))
        return made[release]

    yield database
    for conninfo in made.values():
        drop_database(server, str(conninfo_to_dict(conninfo)["dbname"]))


@pytest.fixture
def db(request: pytest.FixtureRequest, conninfo_of: Callable[[str], str]) -> Iterator[Database]:
    """Return a database of 3.0.3, or of the releases that `on` names; nothing of a test stays in it."""
    release = getattr(request, "param", DEFAULT_RELEASE)
    with psycopg.connect(conninfo_of(release)) as conn, conn.transaction(force_rollback=True):
        yield Database(conn, release, schema.load_facts(release))
