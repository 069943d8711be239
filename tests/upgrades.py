"""Carries a database from one release of Immich to the next, as Immich's own upgrade does: in one transaction.

What differs between the schema facts of two releases becomes DDL. What facts cannot tell, renamed columns and
moved or converted rows, is in ``STEPS``. Rows, and triggers and tables of others, stay where they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from listener.sqlfiles import named_queries
from listener.standin import schema
from listener.standin.facts import Column, Facts, Table, load_facts
from tests.behaviour.upgrade import change_people

MIGRATIONS_LOCK = 200
"""Immich holds this advisory lock, in the form with one argument, while it starts and migrates."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the facts do not tell of one upgrade.

    renames: (table, from, to). first, last: SQL before and after the DDL. using: (table, column) → expression of a
    converted column. fill: (table, column) → value of a new column that must have one.
    """

    renames: tuple[tuple[str, str, str], ...] = ()
    first: tuple[LiteralString, ...] = ()
    using: Mapping[tuple[str, str], LiteralString] = field(default_factory=dict)
    fill: Mapping[tuple[str, str], LiteralString] = field(default_factory=dict)
    last: tuple[LiteralString, ...] = ()


STEPS: dict[str, Step] = {
    "2.3.1": Step(
        renames=(
            ("album_asset", "albumsId", "albumId"),
            ("album_asset", "assetsId", "assetId"),
            ("album_user", "albumsId", "albumId"),
            ("album_user", "usersId", "userId"),
            ("memory_asset", "assetsId", "assetId"),
            ("shared_link_asset", "assetsId", "assetId"),
            ("shared_link_asset", "sharedLinksId", "sharedLinkId"),
            ("tag_asset", "assetsId", "assetId"),
            ("tag_asset", "tagsId", "tagId"),
        )
    ),
    "2.4.1": Step(
        first=(
            (
                'INSERT INTO asset_file ("assetId", type, path) '
                "SELECT id, 'sidecar', \"sidecarPath\" FROM asset WHERE \"sidecarPath\" <> ''"
            ),
        ),
        last=(
            "TRUNCATE ocr_search",
            (
                'INSERT INTO ocr_search ("assetId", text) '
                "SELECT \"assetId\", string_agg(text, ' ' ORDER BY y1, x1) FROM asset_ocr GROUP BY 1"
            ),
        ),
    ),
    "2.5.6": Step(
        last=(
            (
                'UPDATE asset SET width = exif."exifImageWidth", height = exif."exifImageHeight" '
                'FROM asset_exif AS exif WHERE exif."assetId" = asset.id'
            ),
        )
    ),
    "2.6.3": Step(
        first=(
            (
                'INSERT INTO asset_file ("assetId", type, path) '
                "SELECT id, 'encoded_video', \"encodedVideoPath\" FROM asset WHERE \"encodedVideoPath\" <> ''"
            ),
            "UPDATE asset_exif SET rating = NULL WHERE rating = 0",
        )
    ),
    "2.7.5": Step(
        fill={("asset", "checksumAlgorithm"): "CASE WHEN \"isExternal\" THEN 'sha1-path' ELSE 'sha1' END"},
    ),
    "3.0.3": Step(
        first=(
            (
                'DELETE FROM asset_face USING asset, person WHERE asset.id = asset_face."assetId" '
                'AND person.id = asset_face."personId" AND person."ownerId" <> asset."ownerId"'
            ),
            'INSERT INTO album_user ("albumId", "userId", role) SELECT id, "ownerId", \'owner\' FROM album',
        ),
        using={
            ("asset", "duration"): r"CASE WHEN duration ~ '^\d{2}:\d{2}:\d{2}\.\d{3}$' "
            "THEN (extract(epoch FROM duration::interval) * 1000)::integer END",
            ("album_user", "role"): "role::album_user_role_enum",
        },
        last=(
            "UPDATE asset SET visibility = 'timeline' WHERE visibility = 'hidden' AND \"livePhotoVideoId\" IS NOT NULL",
        ),
    ),
}


def upgrade(conninfo: str, release: str) -> None:
    """Carry a database to ``release`` from the one before it. Where a statement fails, nothing is changed."""
    with psycopg.connect(conninfo) as connection:
        migrate(connection, release)


def migrate(connection: psycopg.Connection[Any], release: str) -> None:
    """As ``upgrade``, within the caller's transaction."""
    step, wanted = STEPS.get(release, Step()), load_facts(release)
    connection.execute("SET LOCAL search_path = public")
    for table, old, new in step.renames:
        names = map(sql.Identifier, (table, old, new))
        connection.execute(sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(*names))
    if release == "3.2.0":
        change_people(connection)
    for text in step.first:
        connection.execute(text)
    for statement in _difference(immich_facts(connection), wanted, step):
        connection.execute(sql.Composed([statement]))
    _special_indexes(connection, wanted)
    for text in step.last:
        connection.execute(text)
    connection.execute("INSERT INTO version_history (version) VALUES (%s)", [release])


def immich_facts(connection: psycopg.Connection[Any]) -> Facts:
    """Read Immich's part of a database: without tables and triggers of ours, and tables that no facts tell of."""
    found = schema.read_facts(connection)
    known = {table for release in schema.releases() for table in load_facts(release).tables}
    return Facts(
        found.enums,
        {
            name: replace(table, triggers=tuple(t for t in table.triggers if not t.name.startswith("_face_sync_")))
            for name, table in found.tables.items()
            if name in known
        },
    )


def differences(found: Facts, release: str) -> list[str]:
    """Name the tables in which a database is not what the facts of a release say; none if it is that release."""
    wanted = load_facts(release)
    lines = [] if found.enums == wanted.enums else ["enums"]
    for name in sorted(found.tables.keys() | wanted.tables.keys()):
        one, two = found.tables.get(name), wanted.tables.get(name)
        if one is None or two is None:
            lines.append(f"{name} is {'missing' if one is None else 'left over'}")
            continue
        # Indexes that need an extension, which this PostgreSQL may not have.
        built = {index.name for index in one.indexes}
        two = replace(two, indexes=tuple(i for i in two.indexes if i.method == "btree" or i.name in built))
        lines += [f"{name}.{part}" for part in Table.__dataclass_fields__ if getattr(one, part) != getattr(two, part)]
    return lines


def _difference(now: Facts, wanted: Facts, step: Step) -> Iterator[sql.Composable]:
    """Yield the DDL that makes a schema the wanted one, in an order in which each statement can run."""
    kept = {name: (now.tables[name], table) for name, table in wanted.tables.items() if name in now.tables}
    new = {name: table for name, table in wanted.tables.items() if name not in now.tables}
    for name, (old, table) in kept.items():
        yield from _drop_what_differs(name, old, table)
    for name, labels in wanted.enums.items():
        if name not in now.enums:
            yield sql.SQL("CREATE TYPE {} AS ENUM ({})").format(
                sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, labels))
            )
    for name, table in new.items():
        yield from schema._table(name, table)
    for name, (old, table) in kept.items():
        yield from _columns(name, old, table, step)
    for name, (old, table) in kept.items():
        yield from _add_keys(name, old, table)
    yield from _references_and_triggers(now, wanted)
    for name in now.tables.keys() - wanted.tables.keys():
        yield sql.SQL("DROP TABLE {}").format(sql.Identifier(name))


def _references_and_triggers(now: Facts, wanted: Facts) -> Iterator[sql.Composable]:
    nothing = Table(columns=())
    for name, table in wanted.tables.items():
        before = now.tables.get(name, nothing).foreign_keys
        yield from (schema._foreign_key(name, key) for key in table.foreign_keys if key not in before)
    functions = named_queries("standin/functions.sql")
    names = schema._names_of_release(wanted)
    for function in sorted({trigger.function for table in wanted.tables.values() for trigger in table.triggers}):
        text: str = functions[function].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
        yield schema._text(text).format(**names)
    for name, table in wanted.tables.items():
        known = now.tables.get(name, nothing).triggers
        yield from (schema._trigger(name, trigger) for trigger in table.triggers if trigger not in known)


def _drop_what_differs(name: str, old: Table, new: Table) -> Iterator[sql.Composable]:
    relation = sql.Identifier(name)
    for trigger in old.triggers:
        if trigger not in new.triggers:
            yield sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger.name), relation)
    constraints = [key.name for key in old.foreign_keys if key not in new.foreign_keys]
    constraints += [check.name for check in old.checks if check not in new.checks]
    constraints += [u.name for u in old.unique if u not in new.unique and u.kind == "constraint"]
    if old.primary_key is not None and old.primary_key != new.primary_key:
        constraints.append(old.primary_key.name)
    for constraint in constraints:
        yield sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(relation, sql.Identifier(constraint))
    indexes = [u.name for u in old.unique if u not in new.unique and u.kind == "index"]
    indexes += [index.name for index in old.indexes if index not in new.indexes]
    for index in indexes:
        yield sql.SQL("DROP INDEX {}").format(sql.Identifier(index))


def _columns(name: str, old: Table, new: Table, step: Step) -> Iterator[sql.Composable]:
    relation = sql.Identifier(name)
    before = {column.name: column for column in old.columns}
    for column in new.columns:
        if column.name not in before:
            yield from _new_column(relation, name, column, step)
        elif column != before[column.name]:
            yield from _changed_column(relation, before[column.name], column, step.using.get((name, column.name)))
    for column in old.columns:
        if column.name not in new.column_names():
            yield sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(relation, sql.Identifier(column.name))


def _new_column(relation: sql.Identifier, table: str, column: Column, step: Step) -> Iterator[sql.Composable]:
    value = step.fill.get((table, column.name))
    made = replace(column, nullable=True) if value else column
    yield sql.SQL("ALTER TABLE {} ADD COLUMN {}").format(relation, schema._column(made))
    if value:
        this = sql.Identifier(column.name)
        yield sql.SQL("UPDATE {} SET {} = ({})::{}").format(relation, this, sql.SQL(value), schema._text(column.type))
        yield sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL").format(relation, this)


def _changed_column(
    relation: sql.Identifier, old: Column, new: Column, using: LiteralString | None
) -> Iterator[sql.Composable]:
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(relation, sql.Identifier(new.name))
    if old.default is not None and old.default != new.default:
        yield alter + sql.SQL("DROP DEFAULT")
    if old.type != new.type:
        assert using is not None, f"{relation} {new.name}: no rule for its rows"
        yield alter + sql.SQL("TYPE {} USING {}").format(schema._text(new.type), sql.SQL(using))
    if new.default is not None and old.default != new.default:
        yield alter + sql.SQL("SET DEFAULT ") + schema._text(new.default)
    if old.nullable != new.nullable:
        yield alter + sql.SQL("DROP NOT NULL" if new.nullable else "SET NOT NULL")


def _add_keys(name: str, old: Table, new: Table) -> Iterator[sql.Composable]:
    add = sql.SQL("ALTER TABLE {} ADD ").format(sql.Identifier(name))
    if new.primary_key is not None and old.primary_key != new.primary_key:
        yield add + schema._constraint(new.primary_key.name, "PRIMARY KEY ({})", new.primary_key.columns)
    for check in new.checks:
        if check not in old.checks:
            yield add + sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(check.name), schema._text(check.expression))
    for unique in new.unique:
        if unique not in old.unique:
            yield (
                schema._index(name, new, unique)
                if unique.kind == "index"
                else add + schema._constraint(unique.name, "UNIQUE ({})", unique.columns)
            )
    for index in new.indexes:
        if index not in old.indexes and index.method == "btree":
            yield schema._index(name, new, index)


def _special_indexes(connection: psycopg.Connection[Any], wanted: Facts) -> None:
    """Create the indexes of other kinds than btree that are missing and can be built here."""
    there = {index.name for table in schema.read_facts(connection).tables.values() for index in table.indexes}
    missing = {
        name: replace(table, indexes=tuple(index for index in table.indexes if index.name not in there))
        for name, table in wanted.tables.items()
    }
    schema._create_special_indexes(connection, Facts({}, missing))
