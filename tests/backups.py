"""Backups of Immich's database, made and restored with PostgreSQL's own programs as Immich does it."""

import re
import subprocess

import psycopg
import pytest

from listener.standin.postgres import programs_of

OURS = ("--exclude-table=public._face_sync_*", "--exclude-schema=_face_sync*")
_OUR_TRIGGERS = re.compile(r"^(CREATE|COMMENT ON|DROP) TRIGGER (IF EXISTS )?_face_sync_.*$\n?", re.MULTILINE)
_EMPTY = "DROP SCHEMA public CASCADE;\nCREATE SCHEMA public;\n"


def dump(conninfo: str, *, ours: bool = True) -> str:
    """Return a backup as SQL; without ``ours`` as if we had never been there."""
    if ours:
        return _run(conninfo, "pg_dump", "--clean", "--if-exists", "--no-owner")
    return _OUR_TRIGGERS.sub("", _run(conninfo, "pg_dump", "--no-owner", *OURS))


def dump_of_ours(conninfo: str) -> str:
    """Return our tables alone."""
    return _run(conninfo, "pg_dump", "--no-owner", "--table=public._face_sync_*")


def restore(conninfo: str, backup: str, *, at_once: bool = True) -> None:
    """Drop the schema public with everything in it and load a backup, by default in one transaction."""
    load(conninfo, _EMPTY + backup, at_once=at_once)


def load(conninfo: str, text: str, *, at_once: bool = True) -> None:
    """Run SQL; the first error ends it."""
    how = ("--single-transaction",) if at_once else ()
    _run(conninfo, "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", *how, "--file=-", text=text)


def _run(conninfo: str, program: str, *words: str, text: str | None = None) -> str:
    with psycopg.connect(conninfo) as connection:
        version = connection.info.server_version // 10_000
    try:
        folder = programs_of(version)
    except (ValueError, FileNotFoundError) as error:
        pytest.skip(f"no {program} for this server: {error}")
    done = subprocess.run(
        [folder / program, f"--dbname={conninfo}", *words], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
