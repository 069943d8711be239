"""A stage for the actor: an Immich database without users, folders, and actors for new users of it."""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import psycopg
import pytest

from listener.standin.actor import Actor
from listener.standin.schema import releases
from tests.conftest import ImmichDatabase, Roots
from tests.house import add_user

SUMMER = datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
LATER = datetime(2020, 6, 1, 10, tzinfo=timezone(timedelta(hours=3)))

every_release = pytest.mark.parametrize("stage", releases(), indirect=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """An Immich database without users, folders, and actors for new users of it."""

    immich: ImmichDatabase
    roots: Roots
    actors: ExitStack
    connection: psycopg.Connection[Any]

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.immich.release.split("."))

    def act(self, name: str, user: UUID | None = None, seed: int = 0) -> Actor:
        user = user or add_user(self.immich.conninfo, self.immich.release, name)
        roots = self.roots.media, self.roots.external
        return self.actors.enter_context(Actor(self.immich.conninfo, self.immich.release, user, *roots, seed=seed))

    def all(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []
