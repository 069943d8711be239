"""Settings that an admin gives the listener's role or the whole database change nothing for the listener."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from listener.database import RefusedError
from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.oddities import Oddity
from tests.role import NAME, as_listener

# Each to be taken back by the session itself. Those that this PostgreSQL does not have are left out.
ODD = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "off",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Kiritimati",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-15",
    "xmlbinary": "hex",
    "xmloption": "document",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "off",
    "statement_timeout": "500",
    "lock_timeout": "50",
    "transaction_timeout": "600",
    "idle_in_transaction_session_timeout": "200",
    "idle_session_timeout": "500",
    "client_min_messages": "debug1",
    "exit_on_error": "on",
    "check_function_bodies": "off",
    "plan_cache_mode": "force_custom_plan",
    "jit": "on",
    "jit_above_cost": "0",
    "enable_indexscan": "off",
    "enable_bitmapscan": "off",
    "enable_nestloop": "off",
    "join_collapse_limit": "1",
    "work_mem": "64kB",
    "synchronous_commit": "off",
}


@contextmanager
def odd(home: Home, *, whom: sql.Composable, path: str = "elsewhere, pg_catalog", **values: str) -> Iterator[None]:
    """Give a role in this database, or the database, settings until the block ends."""
    with psycopg.connect(home.immich.conninfo, autocommit=True) as admin:
        there = {row[0].lower() for row in admin.execute("SELECT name FROM pg_settings")}
        try:
            for name, value in values.items():
                if name.lower() in there:
                    admin.execute(sql.SQL("ALTER {} SET {} TO {}").format(whom, sql.SQL(name), sql.Literal(value)))
            admin.execute(sql.SQL("ALTER {} SET search_path TO {}").format(whom, sql.SQL(path)))
            yield
        finally:
            admin.execute(sql.SQL("ALTER {} RESET ALL").format(whom))


def in_database(home: Home) -> sql.Composable:
    name = sql.Identifier(str(conninfo_to_dict(home.immich.conninfo)["dbname"]))
    return sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(NAME), name)


def a_life(home: Home) -> None:
    """What users do, as far as it has to do with texts, times, floats, bytes, arrays and waiting."""
    alice = home.alice
    photo = alice.upload("Søndag \\o/ ✓.jpg", faces=2, people=["new"], text="it's 5 € \\n")
    copy = home.copied(photo)
    alice.describe(photo, "a \\ backslash, a 'quote' and ünïcode ✓")
    still, _ = alice.upload_live_photo("live")
    home.copied(still)
    home.settled()
    alice.trash(photo)
    eventually(lambda: home.copy_of(photo) is None, within=10)
    alice.restore(photo)
    assert home.copied(photo) == copy
    home.settled()


@pytest.mark.variant
def test_a_life_with_every_setting_of_the_role_odd(new_home: Callable[..., Home], oddity: Oddity) -> None:
    home = new_home()
    as_listener(home.immich.conninfo)
    with odd(home, whom=in_database(home), **ODD):
        home.start()
        a_life(home)
        assert home.service.metrics.reconnects._value.get() == 0
        home.stop()
    oddity(
        "Thirty settings of the listener's database role are odd (ALTER ROLE … SET), strings and timeouts among them.",
        "nothing: each session sets them itself",
        "Photos come, change, go and come back as ever.",
    )


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_settings_of_the_database_change_neither_the_triggers_nor_the_listener(new_home: Callable[..., Home]) -> None:
    """They are those of Immich's sessions, too, in which our triggers run."""
    home = new_home()
    as_listener(home.immich.conninfo)
    name = sql.Identifier(str(conninfo_to_dict(home.immich.conninfo)["dbname"]))
    # Immich would not work without its tables in its search path.
    odd_for_immich = {key: value for key, value in ODD.items() if not key.endswith(("timeout", "exit_on_error"))}
    with odd(home, whom=sql.SQL("DATABASE {}").format(name), path="public, elsewhere", **odd_for_immich):
        home.start()
        photo = home.alice.upload("photo.jpg")
        home.copied(photo)
        home.settled()
        home.house.query('UPDATE public.asset SET "isFavorite" = NOT "isFavorite" WHERE id = %s', photo)
        home.house.query("UPDATE public.asset SET visibility = 'locked' WHERE id = %s", photo)
        eventually(lambda: home.copy_of(photo) is None, within=10)
        assert home.service.metrics.trigger_errors._value.get() == 0
        home.stop()


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_a_role_for_which_no_trigger_runs_is_refused(new_home: Callable[..., Home]) -> None:
    home = new_home()
    as_listener(home.immich.conninfo)
    with odd(home, whom=in_database(home), session_replication_role="replica"):
        with pytest.raises(RefusedError, match="session_replication_role is not origin for the role 'listener'"):
            home.start()
        home.stop()
