"""Reads a database's whole catalog as numbers, to tell whether anything was left behind."""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from listener.sqlfiles import named_queries

_QUERIES = "standin/snapshot.sql"


def catalog(conninfo: str) -> dict[str, tuple[int, int]]:
    """Return the number and a checksum of the rows of every system catalog of this database, by name.

    What PostgreSQL keeps there for itself is left out: statistics, and what vacuum notes.
    """
    queries = named_queries(_QUERIES)
    with psycopg.connect(conninfo) as connection:
        names = connection.execute(sql.SQL(queries["system_catalogs"])).fetchall()
        counted = {
            "pg_class": sql.SQL(queries["count_classes"]),
            "pg_namespace": sql.SQL(queries["count_namespaces"]),
        }
        parts = [
            counted.get(name, sql.SQL(queries["count_rows"])).format(
                name=sql.Literal(name), table=sql.Identifier("pg_catalog", name)
            )
            for (name,) in names
        ]
        found = connection.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall()
    return {name: (count, checksum) for name, count, checksum in found}


def differences(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return one line for each system catalog that is not as it was."""
    return [
        f"{name}: {before.get(name, (0, 0))[0]} rows before, {after.get(name, (0, 0))[0]} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
