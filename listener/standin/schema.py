"""Builds a database shaped like one Immich release, from the facts about its schema.

What flows in is `listener.standin.facts`; what comes out is a database with the release's types, tables,
keys, checks, indexes and triggers, and the rows that a server of that release would have left of itself.
The bodies of the functions are our own (``sql/standin/functions.sql``), written after what the facts say
that they do. `read_facts` reads a catalog back in the form of the facts: the proof that both are alike.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from listener.sqlfiles import named_queries
from listener.standin.facts import (
    Column,
    Facts,
    ForeignKey,
    Index,
    Table,
    Trigger,
    Unique,
    applied_migrations,
    load_facts,
    parse_facts,
    releases,
)

__all__ = ["build", "load_facts", "read_facts", "releases"]


def build(conn: psycopg.Connection[Any], release: str) -> list[str]:
    """Build Immich's schema of a release, such as ``"3.0.3"``, into an empty database.

    One transaction; the role must be allowed to create the extension `vector`. Returns what was left out,
    one line each: the indexes that this PostgreSQL cannot build, because an extension is not installed.
    Raises ValueError for a release without facts, RuntimeError where pgvector is missing.
    """
    facts = load_facts(release)
    with conn.transaction():
        conn.execute("SET LOCAL search_path = public")
        extensions = _create_extensions(conn)
        conn.execute(sql.SQL("\n").join(_schema(facts, extensions)))
        left_out = _create_special_indexes(conn, facts)
        queries = named_queries("standin/build.sql")
        conn.execute(_text(queries["note_migrations"]), {"names": list(applied_migrations(release))})
        conn.execute(_text(queries["note_release"]), {"release": release})
    return left_out


def read_facts(conn: psycopg.Connection[Any]) -> Facts:
    """Read the types and tables of the schema public, of Immich's or anybody's, as facts."""
    queries = named_queries("standin/catalog.sql")
    with conn.transaction(), conn.cursor(row_factory=scalar_row) as cursor:
        # Names outside the search path are printed with their schema, which the facts do not have.
        cursor.execute("SET LOCAL search_path = public")
        enums = cursor.execute(_text(queries["enums"])).fetchone()
        tables = cursor.execute(_text(queries["tables"])).fetchone()
    return parse_facts({"enums": enums, "tables": tables})


def _create_extensions(conn: psycopg.Connection[Any]) -> set[str]:
    queries = named_queries("standin/build.sql")
    with conn.cursor(row_factory=scalar_row) as cursor:
        names: set[str] = set()
        for name in cursor.execute(_text(queries["available_extensions"])).fetchall():
            names.add(name)
            cursor.execute(_text(queries["create_extension"]).format(extension=sql.Identifier(name)))
    if "vector" not in names:
        raise RuntimeError(
            "this PostgreSQL has no extension vector, which Immich's tables of embeddings need: "
            "install pgvector for it (Debian: postgresql-<version>-pgvector) or use the embedded server"
        )
    return names


def _schema(facts: Facts, extensions: set[str]) -> Iterator[sql.Composable]:
    """Yield the statements of everything but the special indexes, in an order in which each can run."""
    functions, queries = named_queries("standin/functions.sql"), named_queries("standin/build.sql")
    for name, labels in facts.enums.items():
        yield sql.SQL("CREATE TYPE {} AS ENUM ({});").format(
            sql.Identifier(name), sql.SQL(", ").join(sql.Literal(label) for label in labels)
        )
    # Defaults and indexes call these, so they stand before the tables.
    yield _text(functions["uuid_generate_v4"])
    yield _text(functions["immich_uuid_v7"])
    yield _text(functions["f_unaccent"])
    if "earthdistance" in extensions:
        yield _text(functions["ll_to_earth_public"])
    yield _text(queries["out_of_scope_tables"])
    yield _text(queries["migration_table"])
    for name, table in facts.tables.items():
        yield from _table(name, table)
    for name, table in facts.tables.items():
        # Keys point in circles (a face has a person, a person a face), so all tables come first.
        for foreign_key in table.foreign_keys:
            yield _foreign_key(name, foreign_key)
    triggers = [(name, trigger) for name, table in facts.tables.items() for trigger in table.triggers]
    names = _names_of_release(facts)
    for function in sorted({trigger.function for _, trigger in triggers}):
        yield _text(functions[function]).format(**names)
    for name, trigger in triggers:
        yield _trigger(name, trigger)


def _names_of_release(facts: Facts) -> dict[str, sql.Identifier]:
    """Return the columns that the trigger functions use and that releases name differently.

    2.3.0 renamed the columns of album_user, album_asset and memory_asset; 3.2.0 the key of person.
    """
    tables = facts.tables

    def first_of(table: str, *candidates: str) -> sql.Identifier:
        return sql.Identifier(next(name for name in candidates if name in tables[table].column_names()))

    return {
        "album_id": first_of("album_user", "albumId", "albumsId"),
        "user_id": first_of("album_user", "userId", "usersId"),
        "asset_id": first_of("album_asset", "assetId", "assetsId"),
        "person_key": first_of("person", "personGroupId", "id"),
        "person_audit_key": first_of("person_audit", "personGroupId", "personId"),
    }


def _table(name: str, table: Table) -> Iterator[sql.Composable]:
    relation = sql.Identifier(name)
    # A column that counts by a sequence of its own, as `serial` makes it.
    counters = [c.name for c in table.columns if (c.default or "").startswith("nextval(")]
    sequences = {column: sql.Identifier(f"{name}_{column}_seq") for column in counters}
    for sequence in sequences.values():
        yield sql.SQL("CREATE SEQUENCE {} AS integer;").format(sequence)
    parts: list[sql.Composable] = [_column(column) for column in table.columns]
    if table.primary_key:
        parts.append(_constraint(table.primary_key.name, "PRIMARY KEY ({})", table.primary_key.columns))
    parts += [_constraint(u.name, "UNIQUE ({})", u.columns) for u in table.unique if u.kind == "constraint"]
    parts += [
        sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(check.name), _text(check.expression))
        for check in table.checks
    ]
    yield sql.SQL("CREATE TABLE {} ({});").format(relation, sql.SQL(", ").join(parts))
    for column, sequence in sequences.items():
        yield sql.SQL("ALTER SEQUENCE {} OWNED BY {}.{};").format(sequence, relation, sql.Identifier(column))
    for unique in table.unique:
        if unique.kind == "index":
            yield _index(name, table, unique)
    for index in table.indexes:
        if index.method == "btree":
            yield _index(name, table, index)


def _create_special_indexes(conn: psycopg.Connection[Any], facts: Facts) -> list[str]:
    """Create the indexes of other kinds than btree and return, as lines, those that cannot be."""
    left_out: list[str] = []
    for name, table in facts.tables.items():
        for index in table.indexes:
            if index.method == "btree":
                continue
            try:
                with conn.transaction():
                    conn.execute(_index(name, table, index))
            except (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedFunction) as error:
                left_out.append(f"index {index.name} on {name}: {error.diag.message_primary}")
    return left_out


def _column(column: Column) -> sql.Composable:
    return sql.SQL(" ").join(
        [
            sql.Identifier(column.name),
            _text(column.type),
            *([] if column.nullable else [sql.SQL("NOT NULL")]),
            *([] if column.default is None else [sql.SQL("DEFAULT"), _text(column.default)]),
        ]
    )


def _constraint(name: str, rule: LiteralString, columns: tuple[str, ...]) -> sql.Composable:
    return sql.SQL("CONSTRAINT {} ").format(sql.Identifier(name)) + sql.SQL(rule).format(_names(columns))


def _foreign_key(table: str, key: ForeignKey) -> sql.Composable:
    return sql.SQL(
        "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {} ON UPDATE {};"
    ).format(
        sql.Identifier(table),
        sql.Identifier(key.name),
        _names(key.columns),
        sql.Identifier(key.references.table),
        _names(key.references.columns),
        _text(key.on_delete),
        _text(key.on_update),
    )


def _index(table_name: str, table: Table, index: Index | Unique) -> sql.Composed:
    columns = table.column_names()
    unique, method, opclasses = (
        ("", index.method, index.opclass) if isinstance(index, Index) else ("UNIQUE", "btree", ())
    )
    parts = [
        sql.SQL("{} {}").format(
            sql.Identifier(part) if part in columns else sql.SQL("({})").format(_text(part)),
            sql.SQL("") if opclass is None else sql.Identifier(opclass),
        )
        for part, opclass in zip_longest(index.columns, opclasses)
    ]
    return sql.SQL("CREATE {} INDEX {} ON {} USING {} ({}) {};").format(
        _text(unique),
        sql.Identifier(index.name),
        sql.Identifier(table_name),
        sql.Identifier(method),
        sql.SQL(", ").join(parts),
        sql.SQL("") if index.where is None else sql.SQL("WHERE ") + _text(index.where),
    )


def _trigger(table: str, trigger: Trigger) -> sql.Composable:
    rows: list[sql.Composable] = []
    if trigger.transition_tables:
        rows.append(sql.SQL("REFERENCING"))
        for word, name in (("OLD", trigger.transition_tables.old), ("NEW", trigger.transition_tables.new)):
            if name is not None:
                rows.append(sql.SQL("{} TABLE AS {}").format(_text(word), sql.Identifier(name)))
    return sql.SQL("CREATE TRIGGER {} {} {} ON {} {} FOR EACH {} {} EXECUTE FUNCTION {}();").format(
        sql.Identifier(trigger.name),
        _text(trigger.timing),
        sql.SQL(" OR ").join(_text(event) for event in trigger.events),
        sql.Identifier(table),
        sql.SQL(" ").join(rows),
        _text(trigger.level),
        sql.SQL("") if trigger.when is None else sql.SQL("WHEN ") + _text(trigger.when),
        sql.Identifier(trigger.function),
    )


def _names(columns: tuple[str, ...]) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)


def _text(text: str) -> sql.SQL:
    """Take SQL text as it is: it comes from files of ours, never from outside."""
    return sql.SQL(text)
