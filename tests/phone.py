"""A phone: reads Immich's database as its sync for phones does, without pause, and keeps what it has read.

One round asks for the moment "now - 1 ms" and then, kind by kind in the order of Immich's stream, for what was
deleted and what was changed between the mark of that kind and this moment. The mark is the last row read. What
lies behind its mark by the time that it is committed is never read: that is what the tests look for.

What is kept is the whole row: a phone that holds an equal row has read its last change.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

Key = tuple[UUID, ...]
# The listener stamps its rows three seconds ahead, Immich with the moment.
_AHEAD_MS = 1000
_START = UUID(int=0)

_NOW: LiteralString = "SELECT immich_uuid_v7(now() - interval '1 millisecond')"
_DELETED: LiteralString = """
SELECT row.id, ARRAY[{key}] FROM {table} AS row
WHERE row.id > %(mark)s AND row.id < %(now)s AND {whose} ORDER BY row.id
"""
# The rows as text: they are compared, never looked into.
_CHANGED: LiteralString = """
SELECT row."updateId", ARRAY[{key}], {asset}, to_jsonb(row)::text FROM {table} AS row
WHERE row."updateId" > %(mark)s AND row."updateId" < %(now)s AND {whose} ORDER BY row."updateId"
"""
_THERE: LiteralString = "SELECT ARRAY[{key}], to_jsonb(row)::text FROM {table} AS row WHERE {whose}"

_OWN: LiteralString = 'row."ownerId" = %(user)s'
_OF_OWN_ASSET: LiteralString = (
    'EXISTS (SELECT FROM asset WHERE asset.id = row."assetId" AND asset."ownerId" = %(user)s)'
)
# Immich before and from 3.0 on.
_OWNED_ALBUMS: tuple[LiteralString, LiteralString] = (
    '(SELECT album.id FROM album WHERE album."ownerId" = %(user)s)',
    '(SELECT member."albumId" FROM album_user AS member WHERE member."userId" = %(user)s AND member.role = \'owner\')',
)
# Immich before and from 2.3 on.
_OF_ALBUM: tuple[LiteralString, LiteralString] = ('row."albumsId" IN ', 'row."albumId" IN ')


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of rows that Immich syncs, and the table of its deletions: the columns that name a row, and whose it is.

    asset: the column of its asset if the row goes with that, without a word of Immich's: the phone's own database
    sees to it.
    """

    table: str
    key: tuple[str, ...]
    whose: LiteralString
    audit: str | None = None
    audit_key: tuple[str, ...] = ()
    audit_whose: LiteralString = _OWN
    asset: str | None = None


def _kinds(columns: set[tuple[str, str]]) -> tuple[_Kind, ...]:
    """Return the kinds in the order of Immich's stream.

    Phones sync neither tags nor person groups. A deleted text (3.0+) is announced under an id that names nothing, so
    that phones keep it until its photo goes.
    """
    groups, short_names = ("person", "personGroupId") in columns, ("album_asset", "albumId") in columns
    person = "personGroupId" if groups else "id"
    owned_albums = _OWNED_ALBUMS[0 if ("album", "ownerId") in columns else 1]
    in_album = ("albumId", "assetId") if short_names else ("albumsId", "assetsId")
    return (
        _Kind("asset", ("id",), _OWN, "asset_audit", ("assetId",)),
        _Kind("stack", ("id",), _OWN, "stack_audit", ("stackId",), 'row."userId" = %(user)s'),
        _Kind("album", ("id",), "row.id IN " + owned_albums),
        _Kind(
            "album_asset",
            in_album,
            _OF_ALBUM[short_names] + owned_albums,
            "album_asset_audit",
            ("albumId", "assetId"),
            _OF_ALBUM[True] + owned_albums,
            asset=in_album[1],
        ),
        _Kind("asset_exif", ("assetId",), _OF_OWN_ASSET, asset="assetId"),
        _Kind("person", (person,), _OWN, "person_audit", ("personGroupId" if groups else "personId",)),
        _Kind(
            "asset_face",
            ("id",),
            _OF_OWN_ASSET,
            "asset_face_audit",
            ("assetFaceId",),
            _OF_OWN_ASSET,
            asset="assetId",
        ),
        _Kind("asset_edit", ("id",), _OF_OWN_ASSET, "asset_edit_audit", ("editId",), _OF_OWN_ASSET, asset="assetId"),
        _Kind("asset_ocr", ("id",), _OF_OWN_ASSET, asset="assetId"),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that the phone does not have as it is. by_immich: its last stamp is Immich's, not the listener's.

    A phone may miss what Immich itself writes: what comes due while it commits moves the phone's mark.
    """

    table: str
    key: Key
    words: str
    by_immich: bool

    def __str__(self) -> str:
        return f"{self.table} {'/'.join(str(part) for part in self.key)}: {self.words}"


@dataclass
class _Shelf:
    """What the phone has of one kind: its statements, its marks, and the rows as ``(asset, row)``."""

    kind: _Kind
    changed: bytes
    deleted: bytes | None
    there: bytes
    mark: UUID = _START
    audit_mark: UUID = _START
    rows: dict[Key, tuple[UUID | None, str]] = field(default_factory=dict)


class Phone:
    """One user's phone. It reads in a thread of its own from ``start`` to ``close``; ``rounds``: how often it did."""

    def __init__(self, conninfo: str, user: UUID) -> None:
        self._user = user
        self._connection = psycopg.connect(conninfo, autocommit=True, application_name="phone")
        self._judge = psycopg.connect(conninfo, autocommit=True, application_name="phone's judge")
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self.rounds = 0
        self._shelves = self._look()
        self._thread = threading.Thread(target=self._run, name="phone", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading; raises what ended the reading before its time."""
        self._stop.set()
        self._thread.join(30)
        self._connection.close()
        self._judge.close()
        if self._failure is not None:
            raise self._failure

    def held(self, table: str) -> int:
        """Return how many rows of a table the phone has."""
        return sum(len(shelf.rows) for shelf in self._shelves if shelf.kind.table == table)

    def differences(self) -> list[Difference]:
        """Return in what the phone's rows are not those of the database."""
        return [difference for shelf in self._shelves for difference in self._differences(shelf)]

    def _differences(self, shelf: _Shelf) -> Iterator[Difference]:
        found = self._judge.execute(shelf.there, {"user": self._user}).fetchall()
        there = {tuple(key): row for key, row in found}
        held = {key: row for key, (_, row) in list(shelf.rows.items())}
        for key in there.keys() | held.keys():
            new = json.loads(there[key]) if key in there else None
            if key not in held:
                words = "the phone never got it"
            elif new is None:
                words = "it is gone, the phone still has it"
            elif held[key] != there[key]:
                old = json.loads(held[key])
                changed = [f"{column} {old[column]} -> {new[column]}" for column in new if old[column] != new[column]]
                words = f"the phone does not know of {', '.join(changed)}"
            else:
                continue
            yield Difference(shelf.kind.table, key, words, by_immich=new is not None and _by_immich(new))

    def _look(self) -> tuple[_Shelf, ...]:
        """Compose the statements for the release that is there."""
        found = self._judge.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
        columns: set[tuple[str, str]] = {(table, column) for table, column in found}
        return tuple(_shelf(kind) for kind in _kinds(columns) if (kind.table, "updateId") in columns)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._round()
                self.rounds += 1
        except Exception as error:  # noqa: BLE001 - raised by close()
            self._failure = error

    def _round(self) -> None:
        ((now,),) = self._fetch(_NOW.encode(), {})
        for shelf in self._shelves:
            if shelf.deleted is not None:
                rows = self._fetch(shelf.deleted, {"mark": shelf.audit_mark, "now": now, "user": self._user})
                if rows:
                    shelf.audit_mark = rows[-1][0]
                    self._forget(shelf, {tuple(key) for _, key in rows})
            for id_, key, asset, row in self._fetch(
                shelf.changed, {"mark": shelf.mark, "now": now, "user": self._user}
            ):
                shelf.mark = id_
                shelf.rows[tuple(key)] = (asset, row)

    def _forget(self, shelf: _Shelf, gone: set[Key]) -> None:
        for key in gone:
            shelf.rows.pop(key, None)
        if shelf.kind.table == "asset":
            for other in self._shelves:
                for key in [key for key, (asset, _) in other.rows.items() if asset is not None and (asset,) in gone]:
                    del other.rows[key]

    def _fetch(self, statement: bytes, params: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        return self._connection.execute(statement, params).fetchall()


def _by_immich(row: Mapping[str, Any]) -> bool:
    stamped_ms = UUID(row["updateId"]).int >> 80
    written_ms = datetime.fromisoformat(row["updatedAt"]).timestamp() * 1000 if "updatedAt" in row else 0
    return stamped_ms - written_ms < _AHEAD_MS


def _shelf(kind: _Kind) -> _Shelf:
    def composed(text: LiteralString, table: str, key: tuple[str, ...], whose: LiteralString) -> bytes:
        return (
            sql.SQL(text)
            .format(
                table=sql.Identifier(table),
                key=sql.SQL(", ").join(sql.Identifier("row", name) for name in key),
                whose=sql.SQL(whose),
                asset=sql.Identifier("row", kind.asset) if kind.asset else sql.SQL("NULL::uuid"),
            )
            .as_bytes(None)
        )

    return _Shelf(
        kind,
        changed=composed(_CHANGED, kind.table, kind.key, kind.whose),
        deleted=composed(_DELETED, kind.audit, kind.audit_key, kind.audit_whose) if kind.audit else None,
        there=composed(_THERE, kind.table, kind.key, kind.whose),
    )


@contextmanager
def polling(conninfo: str, user: UUID) -> Iterator[Phone]:
    """Let a user's phone read without pause until the block ends."""
    phone = Phone(conninfo, user)
    phone.start()
    try:
        yield phone
    finally:
        phone.close()
