"""The role of ``listener role print``: what it may not do, and that its SQL can be run by anybody at any time.

That it may do all that the listener does is shown by all other tests, which run as this role on every release.
"""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.behaviour.conftest import install_triggers
from tests.conftest import ImmichDatabase, Roots
from tests.house import database_url
from tests.photos import PhotoHouse, photo_house
from tests.role import NAME, as_listener, grant

HOSTILE_NAME = 'list"ener; DROP TABLE asset; --'

FORBIDDEN = [
    'DELETE FROM "user"',
    "UPDATE \"user\" SET password = ''",
    "UPDATE \"user\" SET email = ''",
    'SELECT password FROM "user"',
    'SELECT * FROM "user"',
    "INSERT INTO library (name) VALUES ('x')",
    "DELETE FROM library",
    'UPDATE library SET "ownerId" = NULL',
    "SELECT * FROM session",
    "SELECT * FROM api_key",
    "UPDATE api_key SET key = NULL",
    "SELECT * FROM shared_link",
    "UPDATE system_metadata SET value = '{}'",
    "SELECT key FROM system_metadata",
    "SELECT value FROM system_metadata WHERE key = 'maintenance-mode'",
    "CREATE OR REPLACE FUNCTION _face_sync_role.immich_setting(text) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL'",
    "DELETE FROM album",
    'UPDATE album SET "deletedAt" = now()',
    "DELETE FROM album_user",
    "DELETE FROM album_asset",
    "UPDATE tag SET value = 'x'",
    'UPDATE asset_audit SET "deletedAt" = now()',
    "DELETE FROM asset_audit",
    "DELETE FROM kysely_migrations",
    "TRUNCATE asset",
    "CREATE TABLE public.mine (id int)",
    "CREATE SCHEMA mine",
    "CREATE TRIGGER mine AFTER INSERT ON asset EXECUTE FUNCTION asset_delete_audit()",
    "ALTER TABLE asset ADD COLUMN mine int",
    "ALTER TABLE _face_sync_asset_map ADD COLUMN mine int",
    "DROP TABLE _face_sync_asset_map",
    "DROP TRIGGER _face_sync_insert ON asset",
    "CREATE OR REPLACE FUNCTION _face_sync.notify_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE ROLE another",
    f"ALTER ROLE {NAME} SUPERUSER",
    f"ALTER ROLE {NAME} CREATEROLE",
    "COPY asset TO PROGRAM 'cat'",
    "COPY asset TO '/tmp/asset'",
    "SET ROLE pg_read_all_data",
    "SET session_replication_role = replica",
]


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    carol = photo_house(immich, roots, tmp_path)
    install_triggers(immich.conninfo)
    return carol


def refused(conninfo: str, statement: str) -> bool:
    """Tell whether the database refuses a statement for want of a right. Nothing is changed."""
    with psycopg.connect(conninfo) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
        finally:
            connection.rollback()
    return False


def execute(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def rights(conninfo: str) -> list[tuple[object, ...]]:
    """Return every right on a table, a column or a sequence that was given to the role."""
    with psycopg.connect(conninfo) as connection:
        return connection.execute(
            "SELECT relname, NULL::name, acl.privilege_type FROM pg_class AS class, aclexplode(class.relacl) AS acl"
            " WHERE acl.grantee = to_regrole(%(role)s) UNION ALL"
            " SELECT relname, attname, acl.privilege_type FROM pg_class AS class"
            " JOIN pg_attribute AS attribute ON attrelid = class.oid, aclexplode(attacl) AS acl"
            " WHERE acl.grantee = to_regrole(%(role)s) ORDER BY 1, 2, 3",
            {"role": NAME},
        ).fetchall()


def test_it_may_do_nothing_that_the_listener_does_not(carol: PhotoHouse) -> None:
    immich = carol.house.immich.conninfo
    # Immich has these, the stand-in does not.
    execute(immich, "CREATE TABLE session (token bytea)", "CREATE TABLE api_key (key bytea)")
    grant(immich)
    assert [statement for statement in FORBIDDEN if not refused(as_listener(immich), statement)] == []


def test_of_immichs_settings_it_sees_those_that_it_needs(carol: PhotoHouse) -> None:
    """The others hold the secrets of Immich's administrator."""
    immich = carol.house.immich.conninfo
    keys = ("maintenance-mode", "system-flags", "MediaLocation", "system-config")
    for key in keys:
        carol.house.query(
            "INSERT INTO system_metadata (key, value) VALUES (%s, %s::jsonb)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            key,
            '{"is": "there"}',
        )
    with psycopg.connect(as_listener(immich)) as connection:
        seen = [connection.execute("SELECT _face_sync_role.immich_setting(%s)", [key]).fetchone() for key in keys]
    assert seen == [*[({"is": "there"},)] * 3, (None,)]
    execute(immich, "DROP ROLE IF EXISTS passer_by", "CREATE ROLE passer_by")
    try:
        call = "SET ROLE passer_by; SELECT _face_sync_role.immich_setting('system-flags')"
        assert refused(immich, call), "nobody else may ask"
    finally:
        execute(immich, "DROP ROLE passer_by")


def test_purging_takes_out_what_was_made_for_the_role(carol: PhotoHouse) -> None:
    immich = carol.house.immich.conninfo
    as_listener(immich)
    there = "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%%face%%sync%%'"
    assert carol.house.query(there + " AND nspname LIKE '%%role'") == [("_face_sync_role",)]
    assert carol.house.command("triggers", "uninstall", "--purge", "--yes").returncode == 0
    assert carol.house.query(there) == []


def test_it_is_nobody_and_owns_nothing(carol: PhotoHouse) -> None:
    with psycopg.connect(as_listener(carol.house.immich.conninfo)) as connection:
        attributes = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        ).fetchone()
        member = connection.execute(
            "SELECT count(*) FROM pg_auth_members WHERE member = to_regrole(current_user)"
        ).fetchone()
        owned = connection.execute(
            "SELECT count(*) FROM pg_class WHERE relowner = to_regrole(current_user) AND relpersistence <> 't'"
        ).fetchone()
    assert attributes == (False,) * 5
    assert (member, owned) == ((0,), (0,))


def test_the_printed_sql_can_be_run_again_and_takes_back_what_is_too_much(carol: PhotoHouse) -> None:
    immich = carol.house.immich.conninfo
    printed = carol.house.command("role", "print", "--name", NAME)
    assert printed.returncode == 0, printed.stderr
    execute(immich, printed.stdout)
    before = rights(immich)
    assert ("asset", None, "INSERT") in before
    assert ("user", "name", "SELECT") in before
    execute(
        immich,
        f'GRANT UPDATE ON "user" TO {NAME}',
        f'GRANT SELECT (password) ON "user" TO {NAME}',
        f"GRANT ALL ON album_user TO {NAME}",
    )
    assert rights(immich) != before
    execute(immich, printed.stdout)
    assert rights(immich) == before


def test_a_name_is_only_ever_a_name(carol: PhotoHouse, server: str) -> None:
    immich = carol.house.immich.conninfo
    printed = carol.house.command("role", "print", "--name", HOSTILE_NAME)
    assert printed.returncode == 0, printed.stderr
    name = sql.Identifier(HOSTILE_NAME)
    try:
        execute(immich, printed.stdout)
        become = sql.SQL("SET ROLE {}; {}")
        may, may_not = (become.format(name, sql.SQL(text)).as_string() for text in ("TABLE asset", 'TABLE "user"'))
        assert not refused(immich, may)
        assert refused(immich, may_not)
    finally:
        with psycopg.connect(immich, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize("name", ["postgres", "", "two\nlines", "x" * 64])
def test_a_name_that_cannot_be_is_refused_with_words(carol: PhotoHouse, name: str) -> None:
    printed = carol.house.command("role", "print", "--name", name)
    assert printed.returncode == 2
    assert printed.stdout == ""
    assert "--name" in printed.stderr


def test_without_our_tables_it_says_who_makes_them(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> None:
    house = replace(photo_house(immich, roots, tmp_path).house, as_immich=True)
    printed = house.command("role", "print")
    assert printed.returncode == 2
    assert "triggers install" in printed.stderr


def test_a_role_that_lacks_a_right_is_told_what_to_do(carol: PhotoHouse) -> None:
    """As after an upgrade of Immich that brought a new table, or the restore of a backup from before the role."""
    immich = carol.house.immich.conninfo
    carol.add(2)
    with carol.house.running():
        assert carol.house.settled().copies == 2
    execute(immich, f"REVOKE INSERT ON asset_exif FROM {NAME}", "DROP SCHEMA _face_sync_role CASCADE")
    process = carol.house.start()
    try:
        assert process.popen.wait(30) == 2
    finally:
        process.end()
    (line,) = [line for line in process.output.splitlines() if "lacks rights" in line]
    assert f"{NAME!r} lacks rights" in line
    assert "INSERT of asset_exif" in line
    assert "EXECUTE of _face_sync_role.immich_setting" in line
    assert f"`listener role print --name {NAME}`" in line
    grant(immich)
    carol.add(1, start=2)
    with carol.house.running():
        assert carol.house.settled().copies == 3


def test_commands_of_a_role_without_rights_say_so_in_words(carol: PhotoHouse) -> None:
    house = carol.house
    as_listener(house.immich.conninfo)
    execute(house.immich.conninfo, f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {NAME}")
    for words in (("status",), ("skipped", "list"), ("failures", "list"), ("verify",), ("reconcile",)):
        done = house.command(*words)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert "listener role print" in done.stderr
        assert "Traceback" not in done.stderr


def test_it_cannot_install_and_says_who_can(carol: PhotoHouse) -> None:
    house = carol.house
    assert house.command("triggers", "uninstall", "--yes").returncode == 0
    as_role = replace(house, as_immich=True, extra={"DB_URL": database_url(as_listener(house.immich.conninfo))})
    done = as_role.command("triggers", "install")
    assert done.returncode == 2
    assert "Connect as the role that Immich uses" in done.stderr
