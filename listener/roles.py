"""The role that ``listener run`` needs, and no more: what it may do with which table, and the SQL that grants it.

The tracking tables and the triggers belong to the role that Immich uses: ``triggers install`` makes both. The
listener's own role reads and writes rows, and owns nothing. A right on a whole table also covers the columns that an
upgrade of Immich adds, since copies get every column; tables with secrets are granted by the column, and by a function
where rows differ.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from listener.database import Connection, fetch, query
from listener.immich.catalog import COPIED_TABLES, Catalog

DEFAULT_NAME: Final = "listener"

# PostgreSQL cuts longer ones, in bytes.
_LONGEST_NAME: Final = 63
_WRITTEN: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


class RoleError(Exception):
    """No role can be written for this database; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Right:
    """One right on a table of Immich's; without columns it is on the whole table."""

    privilege: str
    columns: tuple[str, ...] = ()


def _rights(*privileges: str, update: tuple[str, ...] = (), select: tuple[str, ...] = ()) -> tuple[Right, ...]:
    by_column = {"SELECT": select, "UPDATE": update}
    return (
        *(Right(privilege) for privilege in privileges),
        *(Right(privilege, columns) for privilege, columns in by_column.items() if columns),
    )


# Tables and columns that a release of Immich has not are left out. The audit tables are written by Immich's own
# triggers, with the rights of whoever deletes; what goes by cascade is deleted with the rights of its owner.
RIGHTS: Final[Mapping[str, tuple[Right, ...]]] = {
    **dict.fromkeys(("asset", "asset_file", "asset_face", "face_search", "person"), _rights(*_WRITTEN)),
    **dict.fromkeys(COPIED_TABLES, _rights(*_WRITTEN)),
    "stack": _rights("SELECT", "INSERT", "DELETE", update=("primaryAssetId", "updateId")),
    "person_group": _rights("SELECT", "INSERT", update=("clusterGroupId",)),
    # Immich 3.3: a trigger on person deletes the shares of a deleted one.
    "person_user": _rights("SELECT", "DELETE"),
    "tag": _rights("SELECT", "INSERT", "DELETE"),
    "tag_asset": _rights("SELECT", "INSERT", "DELETE"),
    "tag_closure": _rights("SELECT", "INSERT"),
    "album": _rights("SELECT", update=("albumThumbnailAssetId", "updateId")),
    "album_asset": _rights("SELECT", "INSERT", update=("updateId",)),
    "album_user": _rights("SELECT"),
    "user": _rights(select=("id", "name", "deletedAt", "clusterGroupId")),
    "library": _rights(select=("id", "name", "ownerId", "importPaths", "exclusionPatterns", "deletedAt")),
    # Which release is it? Three rows of system_metadata are given by a function (role.sql).
    "version_history": _rights(select=("version", "createdAt")),
    **dict.fromkeys(
        ("asset_audit", "asset_edit_audit", "asset_face_audit", "person_audit", "stack_audit"),
        _rights("SELECT", "INSERT"),
    ),
    # Up to PostgreSQL 17 what goes by cascade is told of with the rights of whoever deletes, too.
    **dict.fromkeys(("asset_ocr_audit", "album_asset_audit", "memory_asset_audit"), _rights("INSERT")),
    "memory": _rights(select=("id",)),
}


async def render(connection: Connection, found: Catalog, name: str = DEFAULT_NAME) -> str:
    """Return the SQL that makes the role and grants it what ``run`` needs on this database; to be run again at will.

    Raises RoleError where the tracking tables are not there yet, or where the name is that of a role with more rights.
    """
    if not found.has("_face_sync_meta"):
        raise RoleError("the tracking tables are not there yet. As the role that Immich uses, run: triggers install")
    if not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST_NAME:
        raise RoleError(f"--name: {name!r} is no name for a role: take up to {_LONGEST_NAME} plain characters")
    standing = await fetch(connection, query("role", "standing"), {"name": name})
    if any(standing and standing[0]):
        raise RoleError(f"--name: the role {name!r} is a superuser or owns Immich's tables: choose another name")
    names = {
        "name": sql.Identifier(name),
        "name_text": sql.Literal(name),
        "database": sql.Identifier(connection.info.dbname),
    }
    parts = [query("role", block).format(**names) for block in ("head", "trigger_errors")]
    grant = query("role", "grant_table")
    grants = [
        grant.format(privileges=privileges, table=sql.Identifier(table), **names)
        for table, privileges in _by_table(found)
    ]
    return sql.SQL("\n\n").join([*parts, sql.SQL("\n").join(grants), sql.SQL("COMMIT;\n")]).as_string()


async def lacking(connection: Connection, found: Catalog) -> list[str]:
    """Return what the connected role may not do and should, such as ``UPDATE of asset``, one line each."""
    wanted = [
        (right.privilege, table, column) for table, right in _there(found) for column in (right.columns or (None,))
    ]
    privileges, relations, attributes = zip(*wanted, strict=True)
    rows = await fetch(
        connection,
        query("role", "lacking"),
        {"privileges": list(privileges), "relations": list(relations), "attributes": list(attributes)},
    )
    return [f"{privilege} of {table}" + (f".{column}" if column else "") for privilege, table, column in rows]


def _there(found: Catalog) -> Iterator[tuple[str, Right]]:
    """Yield the rights with the tables and columns that this Immich has."""
    ours = dict.fromkeys((table for table in found.tables if table.startswith("_face_sync_")), _rights(*_WRITTEN))
    for table, rights in {**RIGHTS, **ours}.items():
        for right in rights if found.has(table) else ():
            columns = tuple(column for column in right.columns if found.has(table, column))
            if columns or not right.columns:
                yield table, Right(right.privilege, columns)


def _by_table(found: Catalog) -> Iterator[tuple[str, sql.Composable]]:
    """Yield each table once, with its rights as GRANT has them."""
    granted: dict[str, list[sql.Composable]] = {}
    for table, right in _there(found):
        columns = sql.SQL(", ").join(map(sql.Identifier, right.columns))
        granted.setdefault(table, []).append(
            sql.SQL(right.privilege) + (sql.SQL(" (") + columns + sql.SQL(")") if right.columns else sql.SQL(""))
        )
    for table, privileges in granted.items():
        yield table, sql.SQL(", ").join(privileges)
