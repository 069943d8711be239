"""What install makes: every definition as text, with the hash by which status knows it again."""

import hashlib
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from listener import sqlfiles

# What Immich writes without a mark in another of these tables: a tag that is deleted (``tag_asset`` only), and text
# that thumbnails made anew leave empty (``ocr_search`` only).
TABLES: Final = (
    "asset",
    "asset_job_status",
    "asset_file",
    "smart_search",
    "asset_face",
    "person",
    "stack",
    "tag_asset",
    "ocr_search",
)
"""Immich 2.0 to 3.3 has all of these, but for ``ocr_search``, which is there from 2.2 on."""
_NOT_EVERYWHERE: Final = frozenset({"ocr_search"})

EVENTS: Final = ("insert", "update", "delete")
FUNCTIONS: Final = ("notify_change", "guard_original", "immich_uuid_v7")

GUARD: Final = "_face_sync_guard"
GUARD_FUNCTION: Final = "guard_original"
QUERIES: Final = "queries/triggers.sql"


@dataclass(frozen=True, slots=True)
class Definition:
    """What makes one function or trigger."""

    create: str
    comment: str
    """The whole text of the COMMENT, with the hash."""
    set_comment: str


def trigger_name(event: str) -> str:
    """Return the name of the trigger of one event, the same on every table."""
    return f"_face_sync_{event}"


def trigger_definition(table: str, event: str) -> Definition:
    """Return the trigger of one table and event."""
    template = sqlfiles.named_queries("triggers/statement_triggers.sql")[event]
    return _define_trigger(template, table, trigger_name(event))


def guard_definition() -> Definition:
    """Return the guard of originals."""
    return _define_trigger(sqlfiles.named_queries("triggers/guard_trigger.sql")["guard"], "asset", GUARD)


def _define_trigger(template: LiteralString, table: str, trigger: str) -> Definition:
    names = {"table": sql.Identifier("public", table), "trigger": sql.Identifier(trigger)}
    create = sql.SQL(template).format(**names).as_string()
    comment = _comment(create)
    set_comment = sql.SQL(sqlfiles.named_queries(QUERIES)["comment_trigger"])
    return Definition(create, comment, set_comment.format(**names, comment=sql.Literal(comment)).as_string())


def function_definition(name: str) -> Definition:
    """Return one of FUNCTIONS."""
    create = sqlfiles.read_sql(f"triggers/{name}.sql").strip()
    comment = _comment(create)
    set_comment = sql.SQL(sqlfiles.named_queries(QUERIES)["comment_function"])
    return Definition(
        create,
        comment,
        set_comment.format(function=sql.Identifier("_face_sync", name), comment=sql.Literal(comment)).as_string(),
    )


def _comment(definition: str) -> str:
    return f"immich-shared-library {hashlib.sha256(definition.encode()).hexdigest()[:16]}"


def render_install_sql(*, guard: bool = False) -> str:
    """Return what install does as SQL to be run by hand, for example by a database administrator.

    It makes the same definitions with the same hashes, so status reads them as installed. Running it again
    is safe; it stops with an error where a table is locked for longer than two seconds.
    """
    head = (
        "-- Functions and triggers of immich-shared-library. Run by a role that owns Immich's tables.\n"
        "-- Each part is a short transaction; if one ends with a lock timeout, run all of it again.\n"
        "BEGIN;\nSET LOCAL lock_timeout = '2s';\nCREATE SCHEMA IF NOT EXISTS _face_sync;"
    )
    parts = [head]
    for name in FUNCTIONS:
        definition = function_definition(name)
        parts += [f"{definition.create};", f"{definition.set_comment};"]
    parts.append("COMMIT;")
    for table in TABLES:
        parts.append("BEGIN;\nSET LOCAL lock_timeout = '2s';")
        for event in EVENTS:
            definition = trigger_definition(table, event)
            statements = (definition.create, definition.set_comment)
            parts += [_where_there_is(table, text) if table in _NOT_EVERYWHERE else f"{text};" for text in statements]
        parts.append("COMMIT;")
    if guard:
        definition = guard_definition()
        parts += ["BEGIN;\nSET LOCAL lock_timeout = '2s';", f"{definition.create};", f"{definition.set_comment};"]
        parts += ["COMMIT;", f"{sqlfiles.named_queries(QUERIES)['guard_deleted']};"]
    return "\n\n".join(parts) + "\n"


def _where_there_is(table: str, statement: str) -> str:
    """Return a statement to be run by hand that does nothing where this Immich has no such table."""
    template = sql.SQL(sqlfiles.named_queries("triggers/statement_triggers.sql")["where_there_is"])
    return template.format(table=sql.Literal(f"public.{table}"), statement=sql.Literal(statement)).as_string()
