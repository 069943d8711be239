"""Replays a recording of a real Immich into a database of its schema, and makes and removes the files.

What flows in is a `Recording`; what comes out is what Immich's server would have done: the same statements
of the same shape in the same transactions, on several connections in turn as Immich's pool does, each file
on disk before the row that names it, and gone after the row is. What the database does by itself (cascades
of foreign keys, Immich's triggers) is in a recording too, and is left to the database.
"""

import hashlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from listener.sqlfiles import named_queries
from listener.standin.recording import STAMPED, Recording, Row, Statement, Transaction, Values

_CONNECTIONS = 3
_FOLDERS = ("upload", "library", "thumbs", "encoded-video", "profile", "backups")

# Tables that Immich writes together in one statement: faces with their embeddings, recognised text with
# its search text, metadata with the streams of a video.
_WRITTEN_AS_ONE = (
    frozenset({"asset_face", "face_search"}),
    frozenset({"asset_ocr", "ocr_search"}),
    frozenset({"asset_exif", "asset_video", "asset_audio", "asset_keyframe"}),
)

# The column that names a row's file.
_FILE_COLUMNS: Mapping[str, str] = {"asset": "originalPath", "asset_file": "path", "person": "thumbnailPath"}

# Columns that hold ids of rows whose transactions have to keep their order.
_ID_COLUMNS = frozenset(
    {
        *("id", "assetId", "faceId", "personId", "tagId", "stackId"),
        *("livePhotoVideoId", "faceAssetId", "primaryAssetId", "parentId", "duplicateId"),
        *("albumId", "albumThumbnailAssetId"),
    }
)

_THUMBNAILS_REGENERATED = frozenset({"thumbnails regenerated", "all thumbnails made anew"})


@dataclass(frozen=True, slots=True)
class Played:
    """A transaction that was played, and when its commit returned (seconds since the epoch)."""

    transaction: Transaction
    committed_at: float


@dataclass(frozen=True, slots=True)
class PlayedStep:
    """A step that was played, with its transactions in the order of their commits."""

    step: str
    transactions: tuple[Played, ...]


class Player:
    """Plays a recording, moved to the given roots, into the database of ``conninfo``.

    ``steps`` are the names of its steps in order, ``recording`` is the moved recording. A context manager:
    it holds connections. Raises psycopg.Error if the database has another schema than the recording. Not
    for use by several threads at once.
    """

    def __init__(self, conninfo: str, recording: Recording, media_root: Path, external_root: Path) -> None:
        self.recording = recording.rerooted(media_root, external_root)
        self.steps = self.recording.steps
        self._media_root = media_root
        self._connections = [psycopg.connect(conninfo, autocommit=True) for _ in range(_CONNECTIONS)]
        self._turn = itertools.cycle(self._connections)
        self._files = _Files()
        self._statements = _Statements(self._connections[0])

    def __enter__(self) -> Self:
        """Return the player itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def prepare(self) -> None:
        """Make what was there before the recording began: the users, the media root's folders and its row."""
        for name in _FOLDERS:
            (self._media_root / name).mkdir(parents=True, exist_ok=True)
        connection = next(self._turn)
        grouped = connection.execute(_query("has_cluster_groups")).fetchone() == (True,)
        make = _query("make_user_in_cluster_group" if grouped else "make_user")
        names = {self.recording.owner_id: "carol", **dict.fromkeys(self.recording.other_users, "dave")}
        for id_, name in names.items():
            connection.execute(make, {"id": id_, "email": f"{name}-{id_[:8]}@example.com", "name": name})
        connection.execute(_query("set_media_location"), {"root": str(self._media_root)})

    def play_step(self, step: str, pace: float | None = None) -> PlayedStep:
        """Play one step.

        ``pace`` is how many times faster than recorded, 1.0 being as recorded; None is as fast as possible.
        """
        transactions = self.recording.transactions(step)
        began, played = time.monotonic(), []
        for transaction in transactions:
            if pace is not None:
                due = (transaction.at_ms - transactions[0].at_ms) / 1000 / pace
                time.sleep(max(0.0, began + due - time.monotonic()))
            played.append(self.play(transaction))
        return PlayedStep(step, tuple(played))

    def play(self, transaction: Transaction) -> Played:
        """Play one transaction, with the files that go before and after it."""
        connection = next(self._turn)
        rows = [(s, row) for s in transaction.statements for row in s.rows]
        for statement, row in rows:
            self._files.before(statement.table, row)
        self._rewrite_thumbnails(connection, rows)
        statements = self._statements.of(transaction)
        if len(statements) == 1:
            connection.execute(*statements[0])
        else:
            with connection.transaction():
                for query, parameters in statements:
                    connection.execute(query, parameters)
        committed_at = time.time()
        for statement, row in rows:
            self._files.after(statement.table, row)
        return Played(transaction, committed_at)

    def _rewrite_thumbnails(self, connection: psycopg.Connection[Any], rows: Iterable[tuple[Statement, Row]]) -> None:
        assets = [
            row.values["id"] if statement.table == "asset" else row.values["assetId"]
            for statement, row in rows
            # Immich writes no row for it; the recording has one of what came with it.
            if (statement.step in _THUMBNAILS_REGENERATED and "assetId" in row.values)
            or (statement.table == "asset" and "thumbhash" in row.changed and row.before("thumbhash"))
        ]
        if assets:
            for (path,) in connection.execute(_query("thumbnails"), {"assets": assets}).fetchall():
                self._files.rewrite(Path(path))


def interleave(transactions: Sequence[Transaction], rng: random.Random) -> list[Transaction]:
    """Return the transactions in a random order that a real Immich could have committed them in.

    Two that touch the same asset, person, face, stack, tag or library keep their order. Writes of an asset
    touch its library only when they insert it.
    """
    last: dict[str, int] = {}
    waits_for: list[set[int]] = []
    followers: list[list[int]] = [[] for _ in transactions]
    for index, transaction in enumerate(transactions):
        touched = touched_ids(transaction)
        before = {last[touched_id] for touched_id in touched if touched_id in last}
        waits_for.append(before)
        for earlier in before:
            followers[earlier].append(index)
        last.update(dict.fromkeys(touched, index))
    ready = [index for index, before in enumerate(waits_for) if not before]
    order: list[Transaction] = []
    while ready:
        chosen = ready.pop(rng.randrange(len(ready)))
        order.append(transactions[chosen])
        for follower in followers[chosen]:
            waits_for[follower].discard(chosen)
            if not waits_for[follower]:
                ready.append(follower)
    return order


def touched_ids(transaction: Transaction) -> frozenset[str]:
    """Return the ids of all that a transaction writes or refers to, but not those of users."""
    return frozenset(itertools.chain.from_iterable(_row_ids(s, row) for s in transaction.statements for row in s.rows))


def _row_ids(statement: Statement, row: Row) -> Iterator[str]:
    columns = _ID_COLUMNS
    if statement.op == "INSERT":
        columns |= {"libraryId"}
    for values in (row.new, row.old):
        for column in columns & (values or {}).keys():
            if values and values[column] is not None:
                yield values[column]


class _Statements:
    """Makes the statements of a transaction, from the keys in the database's catalog."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        with connection.cursor(row_factory=tuple_row) as cursor:
            found = cursor.execute(_query("primary_keys")).fetchall()
            self._keys: dict[str, list[str]] = dict(found)
        with connection.cursor(row_factory=dict_row) as cursor:
            self._cascades = cursor.execute(_query("cascades")).fetchall()

    def of(self, transaction: Transaction) -> list[tuple[sql.Composed, dict[str, Jsonb]]]:
        """Return the statements to execute, each with its parameters."""
        left = _merged_inserts(self._without_own_work(transaction.statements))
        made = [self._statement(statement, f"rows_{n}") for n, statement in enumerate(left)]
        tables = {statement.table for statement in left}
        if len(made) > 1 and any(tables <= group for group in _WRITTEN_AS_ONE):
            parts = [sql.SQL("part_{} AS ({})").format(n, query) for n, (query, _) in enumerate(made[:-1])]
            query = sql.SQL("WITH {} {}").format(sql.SQL(", ").join(parts), made[-1][0])
            return [(query, {name: rows for _, parameters in made for name, rows in parameters.items()})]
        return made

    def _without_own_work(self, statements: Sequence[Statement]) -> list[Statement]:
        """Leave out the rows that the database writes by itself in this transaction."""
        deleted = {
            (s.table, column, value)
            for s in statements
            if s.op == "DELETE"
            for row in s.rows
            for column, value in row.values.items()
            if isinstance(value, str)
        }
        edited = any(s.table == "asset_edit" for s in statements)
        left = []
        for statement in statements:
            rows = tuple(row for row in statement.rows if not self._is_own_work(statement, row, deleted, edited=edited))
            if rows:
                left.append(
                    Statement(statement.step, statement.at_ms, statement.tx, statement.table, statement.op, rows)
                )
        return left

    def _is_own_work(self, statement: Statement, row: Row, deleted: set[tuple[str, str, str]], *, edited: bool) -> bool:
        # 2.5+: triggers on asset_edit keep asset.isEdited.
        if edited and statement.table == "asset" and row.changed == {"isEdited"}:
            return True
        for key in self._cascades:
            if key["child"] != statement.table:
                continue
            column = key["child_column"]
            parent = (key["parent"], key["parent_column"], row.before(column))
            if parent not in deleted:
                continue
            if statement.op == "DELETE" and key["deletes"]:
                return True
            if statement.op == "UPDATE" and not key["deletes"] and row.changed == {column}:
                return True
        return False

    def _statement(self, statement: Statement, name: str) -> tuple[sql.Composed, dict[str, Jsonb]]:
        parts = {"table": sql.Identifier(statement.table), "rows": sql.Placeholder(name)}
        parameters = {name: Jsonb([dict(row.values) for row in statement.rows])}
        if statement.table == "asset_job_status" and statement.op != "DELETE":
            columns = _marks(statement)
            return _block("upsert").format(
                **parts,
                columns=_names(["assetId", *columns]),
                excluded=sql.SQL(", ").join(
                    sql.SQL("{} = excluded.{}").format(sql.Identifier(c), sql.Identifier(c)) for c in columns
                ),
            ), parameters
        if statement.op == "INSERT":
            columns = sorted(statement.rows[0].values.keys() - STAMPED)
            return _block("insert").format(**parts, columns=_names(columns)), parameters
        keys = self._keys[statement.table]
        parts["same_row"] = _pairs(keys, " AND ", table=statement.table)
        if statement.op == "DELETE":
            return _block("delete").format(**parts), parameters
        # An update that changed nothing still fired the triggers.
        nothing = ["updatedAt"] if "updatedAt" in statement.rows[0].values else keys
        columns = sorted(frozenset().union(*(row.changed for row in statement.rows))) or nothing
        return _block("update").format(**parts, changes=_pairs(columns, ", ")), parameters


def _merged_inserts(statements: Iterable[Statement]) -> list[Statement]:
    """Put together rows of one statement that the recording split, as another job's line came in between."""
    merged: list[Statement] = []
    for s in statements:
        last = merged[-1] if merged else None
        if last is not None and (last.table, last.op) == (s.table, "INSERT") == (s.table, s.op):
            merged[-1] = Statement(s.step, s.at_ms, s.tx, s.table, s.op, last.rows + s.rows)
        else:
            merged.append(s)
    return merged


def _marks(statement: Statement) -> list[str]:
    """Return the columns that an upsert of asset_job_status gave: Immich gives one."""
    given = {c for row in statement.rows for c in row.changed}
    if statement.op == "INSERT":
        given = {c for row in statement.rows for c, value in row.values.items() if value is not None}
    return sorted(given - {"assetId"})


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _pairs(columns: Iterable[str], between: LiteralString, table: str | None = None) -> sql.Composed:
    """Return ``column = played.column`` for each column, the left side qualified by the table if given."""
    return sql.SQL(between).join(
        sql.SQL("{} = played.{}").format(sql.Identifier(*([table] if table else []), column), sql.Identifier(column))
        for column in columns
    )


def _block(name: str) -> sql.SQL:
    return sql.SQL(_query(name))


def _query(name: str) -> LiteralString:
    return named_queries("standin/player.sql")[name]


class _Files:
    """Makes and removes files as Immich does around its rows."""

    def __init__(self) -> None:
        self._written: Counter[Path] = Counter()

    def before(self, table: str, row: Row) -> None:
        """Make the file that a row is going to name; take away the one whose loss it is going to tell."""
        column = _FILE_COLUMNS.get(table)
        if column is None or row.new is None or not row.new[column]:
            return
        path = Path(row.new[column])
        if table == "asset":
            if row.new["isOffline"]:
                path.unlink(missing_ok=True)
            elif row.old is None or row.changed & {column, "fileModifiedAt", "isOffline"}:
                _write_original(path, row.new)
        elif row.old is None or column in row.changed or (table == "person" and not row.changed):
            # An update of a person that changes nothing tells that the thumbnail was written anew.
            self.rewrite(path)

    def after(self, table: str, row: Row) -> None:
        """Remove the file that a deleted row named, and the one that a row no longer names."""
        column = _FILE_COLUMNS.get(table)
        if column is None or row.old is None:
            return
        path = row.old.get(column)
        if path and (row.new is None or row.new[column] != path):
            Path(path).unlink(missing_ok=True)

    def rewrite(self, path: Path) -> None:
        """Write a file with contents it never had, in place: the inode stays."""
        self._written[path] += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(f"{path} {self._written[path]}"))


def _write_original(path: Path, asset: Values) -> None:
    """Write an original: the same content again as long as its modification time is the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_content(f"{asset['id']} {asset['fileModifiedAt']}"))
    modified = (datetime.fromisoformat(asset["fileModifiedAt"]) - datetime.fromtimestamp(0, UTC)) // timedelta(
        microseconds=1
    )
    os.utime(path, ns=(modified * 1000, modified * 1000))


def _content(seed: str) -> bytes:
    return f"standing in for a picture: {seed}\n".encode() + hashlib.sha256(seed.encode()).digest() * 64
