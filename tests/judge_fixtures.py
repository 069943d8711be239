"""A plugin of pytest, named by the tests of the judge: a database of each release with a right share in it."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from listener.standin.postgres import create_database, drop_database
from tests.conftest import Roots
from tests.copied_photo import Share, prepare, wipe


@pytest.fixture(scope="session")
def prepared(server: str, template: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Return a function from a release to a database of it with the tracking tables, made once."""
    made: dict[str, str] = {}

    def prepared_for(release: str) -> str:
        if release not in made:
            name = f"test_verify_{uuid4().hex}"
            made[release] = create_database(server, name, template(release))
            prepare(made[release])
        return made[release]

    yield prepared_for
    for conninfo in made.values():
        drop_database(server, str(conninfo_to_dict(conninfo)["dbname"]))


@pytest.fixture
def database(request: pytest.FixtureRequest, prepared: Callable[[str], str]) -> str:
    """Return the prepared database of the release that the test is run on."""
    return prepared(getattr(request, "param", "3.0.3"))


@pytest.fixture
def share(database: str, roots: Roots) -> Iterator[Share]:
    with psycopg.connect(database, autocommit=True) as conn:
        wipe(conn)
        yield Share(conn, roots)


@pytest.fixture
async def conn(database: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        yield conn
