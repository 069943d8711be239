"""Phones see everything that we write, however long it takes to commit.

A phone fetches rows by ``updateId`` up to now and remembers the last one: a row stamped before that and committed
after is never fetched. So whatever a session of ours inserts or updates is stamped three seconds ahead, or as far as a
slow transaction needs (``pg_temp.ahead`` and ``_face_sync.immich_uuid_v7``). A commit that takes longer than that is
noticed when it is over, and its rows are stamped anew. The audit rows by which phones hear of deletions are stamped by
Immich, with the moment: where another one came in between, ours are written once more.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg import sql

from listener.database import Connection, fetch, identifiers, query, statement, writing
from listener.immich.catalog import Catalog
from listener.ops import logs
from listener.settings import Job

log = logs.get("phones")

# As pg_temp.ahead() and _face_sync.immich_uuid_v7() have it where nothing else is said.
STAMPED_AHEAD = 3.0
# So long a deletion may go unseen without a look at what came in between: one of Immich's takes milliseconds, too.
_UNSEEN_DELETION = 0.1
_ATTEMPTS = 5
_BUSY = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)
# What phones sync and we write. Not text (3.0+): its audit rows name nothing that a phone has.
_SYNCED = ("asset", "asset_exif", "asset_face", "asset_edit", "asset_ocr", "person", "stack", "album", "album_asset")


@dataclass(frozen=True, slots=True)
class Transaction:
    """One of ours: no row of its has a stamp before ``since``, and all are stamped so many seconds ``ahead``."""

    since: UUID
    id: str
    started: float
    ahead: float

    def ends_by(self, seconds: float) -> int:
        """Return when so many seconds of it are over, by the server's clock: milliseconds since 1970."""
        return (self.since.int >> 80) + round(seconds * 1000)

    @property
    def took(self) -> float:
        return time.monotonic() - self.started


@dataclass(frozen=True, slots=True)
class Phones:
    """The statements for one catalog."""

    stamp: tuple[bytes, ...]
    announce: tuple[bytes, ...]

    @classmethod
    def compose(cls, catalog: Catalog) -> "Phones":
        """Compose the statements for the tables that this Immich syncs."""
        person = "personGroupId" if catalog.person_groups else "personId"
        deletions = (
            ("asset_audit", ("assetId", "ownerId"), "asset", "id"),
            ("person_audit", (person, "ownerId"), "person", "personGroupId" if catalog.person_groups else "id"),
            ("stack_audit", ("stackId", "userId"), "stack", "id"),
            ("asset_face_audit", ("assetFaceId", "assetId"), "asset_face", "id"),
            ("asset_edit_audit", ("editId", "assetId"), "asset_edit", "id"),
        )

        def passed(audit: str, whose: str) -> sql.Composed:
            if whose == "assetId":
                return query("phones", "passed_by_anybody").format(audit=sql.Identifier(audit))
            return query("phones", "passed_by_the_user").format(
                audit=sql.Identifier(audit), whose=sql.Identifier(whose)
            )

        return cls(
            stamp=tuple(
                statement("phones", "stamp", table=sql.Identifier(table))
                for table in _SYNCED
                if catalog.has(table, "updateId")
            ),
            announce=tuple(
                statement(
                    "phones",
                    "announce",
                    audit=sql.Identifier(audit),
                    columns=identifiers(columns),
                    values=identifiers(columns, of="gone"),
                    passed=passed(audit, columns[1]),
                    again=query("phones", "person_again" if table == "person" else "again").format(
                        table=sql.Identifier(table), key=sql.Identifier(key), name=sql.Identifier("gone", columns[0])
                    ),
                )
                for audit, columns, table, key in deletions
                if catalog.has(audit)
            ),
        )

    @asynccontextmanager
    async def writing(
        self, connection: Connection, job: Job, *, deletes: bool = False, ahead: float = STAMPED_AHEAD
    ) -> AsyncIterator[Transaction]:
        """Open a writing transaction of this job, what it writes being seen by phones. Raises FencedError.

        deletes: it is there to delete, so that each deletion of its is looked after. ahead: for how many seconds what
        it writes is stamped ahead.
        """
        async with writing(connection, job.target_user_id, job.identity):
            transaction = await _begun(connection, ahead)
            yield transaction
        took = transaction.took
        if took >= transaction.ahead:
            log.warning("a commit took long: its rows are stamped anew", job=job.name, seconds=round(took, 3))
            await self._stamp(connection, job, transaction)
        if deletes or took >= _UNSEEN_DELETION:
            await self._announce(connection, transaction)

    async def _stamp(self, connection: Connection, job: Job, transaction: Transaction) -> None:
        """Stamp the rows of a transaction anew, until that is committed in time."""
        for _ in range(_ATTEMPTS):
            try:
                async with writing(connection, job.target_user_id, job.identity):
                    again = await _begun(connection, STAMPED_AHEAD)
                    for text in self.stamp:
                        await connection.execute(text, {"since": transaction.since, "transaction": transaction.id})
            except _BUSY:
                continue
            if again.took < again.ahead:
                return
            transaction = again
        log.error(
            "the database takes too long to commit: phones may not see the last changes until the next ones. "
            "Look at the disk of the database",
            job=job.name,
        )

    async def _announce(self, connection: Connection, transaction: Transaction) -> None:
        """Write audit rows of a transaction once more where another one was seen before them."""
        since, ids = transaction.since, [transaction.id]
        for _ in range(_ATTEMPTS):
            async with connection.pipeline():
                cursors = [
                    await connection.execute(text, {"since": since, "transactions": ids}) for text in self.announce
                ]
                written = [row[0] for cursor in cursors for row in await cursor.fetchall()]
            if not written:
                return
            ids = list(set(written))


async def _begun(connection: Connection, ahead: float) -> Transaction:
    started = time.monotonic()
    ((since, id_, updates_ahead),) = await fetch(connection, query("phones", "begun"), {"ahead": round(ahead * 1000)})
    # A function that was installed by an earlier release of ours knows of no other lead than its own.
    known = updates_ahead >= ahead * 1000
    return Transaction(since, id_, started, ahead if known else STAMPED_AHEAD)
