"""Everything of one Immich, rows and files, in a form that can be compared between two lives of the same deeds."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from tests.conftest import Roots
from tests.house import House

# How often something was tried or deleted, which process owns a job and what a sweep has seen, is no state.
_LEFT_OUT = ("_audit", "_face_sync_failure", "_face_sync_meta", "_face_sync_seen", "migrations", "migration_overrides")
# Given anew at each write, or at random.
_RANDOM = ("updateId", "createId", "attempts")

# When it was done, in texts too. What was photographed was so earlier.
_NOW = re.compile(r"20(?:2[5-9]|[3-9]\d)-\d\d-\d\d[ T][\d:.+]+Z?")

# When the file of a person's thumbnail was written, as it is noted.
_FILE_TIME = re.compile(r'"time": (?:"\d+"|null)')

State = Mapping[str, list[str]]


def state_of(house: House) -> State:
    """Return the rows of each table, and the files, sorted."""
    found: dict[str, list[str]] = {}
    with psycopg.connect(house.immich.conninfo, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT table_name, array_agg(column_name::text) FILTER (WHERE data_type LIKE 'timestamp%')"
            " FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)"
            " WHERE table_schema = 'public' AND table_type = 'BASE TABLE' GROUP BY table_name ORDER BY table_name"
        ).fetchall()
        for table, times in tables:
            if table.endswith(_LEFT_OUT):
                continue
            text = sql.SQL("SELECT to_jsonb(t) - %s::text[] FROM {} AS t").format(sql.Identifier(table))
            own = ("id",) if table.endswith("_map") else ()
            rows = connection.execute(text, [[*(times or ()), *_RANDOM, *own]]).fetchall()
            found[table] = sorted(_FILE_TIME.sub("", _NOW.sub("now", json.dumps(row))) for (row,) in rows)
    return {**found, "files": _files(house.roots)}


def differences(one: State, other: State) -> dict[str, tuple[list[str], list[str]]]:
    """Return, by table, what is only in the one and only in the other."""
    return {
        table: (sorted(set(one[table]) - set(other[table])), sorted(set(other[table]) - set(one[table])))
        for table in one
        if one[table] != other[table]
    }


def _files(roots: Roots) -> list[str]:
    return sorted(
        f"{path} {path.readlink() if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()}"
        for root in (roots.media, roots.external)
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    )


def leftovers(house: House) -> dict[str, Any]:
    """Return what a crash may leave and a later run takes away: marks of begun copies, half files, failures."""
    return {
        "begun": house.query("SELECT source_asset_id FROM _face_sync_intent"),
        "failed": house.query("SELECT source_asset_id, reason FROM _face_sync_failure"),
        "half": [str(path) for root in (house.roots.media, house.roots.external) for path in root.rglob("*.partial*")],
    }
