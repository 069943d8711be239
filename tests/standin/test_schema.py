"""The stand-in for Immich's schema: the same catalog as the facts say."""

from dataclasses import replace

import psycopg
import pytest

from listener.standin import facts, schema
from tests.behaviour.conftest import SAME_TABLES
from tests.standin.releases import RELEASES, Database, numbers, on

pytest_plugins = ("tests.standin.schema_fixtures",)


def test_all_twelve_releases_are_there_oldest_first() -> None:
    assert len(RELEASES) == 12
    assert (RELEASES[0], RELEASES[-1]) == ("2.0.0", "3.3.0")
    assert sorted(RELEASES, key=numbers) == list(RELEASES)


@pytest.mark.parametrize(("release", "as_in"), SAME_TABLES.items())
def test_releases_that_behaviour_tests_take_for_one_have_the_same_tables(release: str, as_in: str) -> None:
    one, other = schema.load_facts(release), schema.load_facts(as_in)
    assert (one.tables, one.enums) == (other.tables, other.enums)


def test_a_release_without_facts_is_refused_by_name(empty_database: str) -> None:
    with psycopg.connect(empty_database) as conn, pytest.raises(ValueError, match=r"1\.99\.0.*2\.0\.0, "):
        schema.build(conn, "1.99.0")


@pytest.mark.parametrize("release", RELEASES)
def test_the_catalog_of_a_built_database_is_the_facts(empty_database: str, release: str) -> None:
    with psycopg.connect(empty_database) as conn:
        left_out = {line.split()[1]: line for line in schema.build(conn, release)}
        built = schema.read_facts(conn)
        extensions = {name for (name,) in conn.execute("SELECT extname FROM pg_extension")}
    expected = schema.load_facts(release)

    assert built.enums == expected.enums
    assert built.tables.keys() - expected.tables.keys() == {"memory", "shared_link", "kysely_migrations"}
    unbuildable: set[str] = set()
    for name, table in expected.tables.items():
        for index in table.indexes:
            trigram = "gin_trgm_ops" in index.opclass and "pg_trgm" not in extensions
            globe = "ll_to_earth_public" in index.columns[0] and "earthdistance" not in extensions
            if trigram or globe:
                unbuildable.add(index.name)
                assert f" on {name}: " in left_out[index.name]
        indexes = tuple(index for index in table.indexes if index.name not in unbuildable)
        assert built.tables[name] == replace(table, indexes=indexes), name
    assert left_out.keys() == unbuildable


def test_a_difference_in_any_part_of_a_table_shows(empty_database: str) -> None:
    """The comparison itself: each of these changes must make the catalog unlike the facts."""
    changes = (
        "ALTER TABLE person ALTER color SET NOT NULL",
        "ALTER TABLE person ALTER name SET DEFAULT 'x'",
        "ALTER TABLE person ALTER color TYPE text",
        'ALTER TABLE person DROP CONSTRAINT "person_birthDate_chk"',
        'ALTER TABLE person DROP CONSTRAINT "person_faceAssetId_fkey"',
        'DROP INDEX "person_updateId_idx"',
        'DROP TRIGGER "person_updatedAt" ON person',
        # The same trigger without its condition.
        """CREATE OR REPLACE TRIGGER person_delete_audit AFTER DELETE ON person
        REFERENCING OLD TABLE AS old FOR EACH STATEMENT EXECUTE FUNCTION person_delete_audit()""",
    )
    with psycopg.connect(empty_database) as conn:
        schema.build(conn, "3.0.3")
        before = schema.read_facts(conn).tables["person"]
        for change in changes:
            with conn.transaction(force_rollback=True):
                conn.execute(change)
                assert schema.read_facts(conn).tables["person"] != before, change
        assert schema.read_facts(conn).tables["person"] == before


def test_a_build_that_fails_leaves_nothing(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("CREATE TABLE asset (id integer)")
        with pytest.raises(psycopg.errors.DuplicateTable):
            schema.build(conn, "3.0.3")
        assert schema.read_facts(conn).tables.keys() == {"asset"}
        assert schema.read_facts(conn).enums == {}


@on()
def test_a_server_of_the_release_seems_to_have_been_here(db: Database) -> None:
    assert db.rows("version_history", "version") == [(db.release,)]
    noted = [name for (name,) in db.rows("kysely_migrations", "name")]
    assert sorted(noted) == sorted(facts.applied_migrations(db.release))
    assert len(noted) >= 35


def test_releases_with_unknown_migrations_show_those_of_the_one_before() -> None:
    assert facts.applied_migrations("3.3.0") == facts.applied_migrations("3.1.0")
    assert facts.applied_migrations("3.1.0") != facts.applied_migrations("3.0.3")
