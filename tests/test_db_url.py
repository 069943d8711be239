"""``DB_URL`` in the forms that Immich takes: understood, or the parameter is named and refused at once."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from listener import settings
from tests.configured import EXTERNAL, only_problem
from tests.oddities import Oddity

IMMICH = {"host": "h", "user": "u", "password": "p", "dbname": "immich"}


def parts(tmp_path: Path, **environ: str) -> dict[str, str]:
    read = conninfo_to_dict(settings.load(EXTERNAL | environ, tmp_path).conninfo)
    wanted = ("host", "port", "user", "password", "dbname", "sslmode", "options", "application_name")
    found = {key: str(read[key]) for key in wanted if key in read}
    if found.get("application_name") == "immich-shared-library":
        del found["application_name"]
    return found


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://u:p@h:5432/immich", {**IMMICH, "port": "5432"}),
        ("postgres://u:p@h/immich", IMMICH),
        (" postgres://u:p@h/immich\n".strip("\n"), IMMICH),
        # TLS.
        ("postgresql://u:p@h/immich?sslmode=require", {**IMMICH, "sslmode": "require"}),
        ("postgresql://u:p@h/immich?sslmode=no-verify", {**IMMICH, "sslmode": "require"}),
        ("postgresql://u:p@h/immich?sslmode=require&uselibpqcompat=true", {**IMMICH, "sslmode": "require"}),
        ("postgresql://u:p@h/immich?sslmode=VERIFY-FULL", {**IMMICH, "sslmode": "verify-full"}),
        ("postgresql://u:p@h/immich?ssl=true", {**IMMICH, "sslmode": "require"}),
        ("postgresql://u:p@h/immich?ssl=0", {**IMMICH, "sslmode": "disable"}),
        # What Immich passes over, or libpq knows.
        ("postgresql://u:p@h/immich?schema=public&encoding=utf8&pgbouncer=true", IMMICH),
        ("postgresql://u:p@h/immich?application_name=mine", {**IMMICH, "application_name": "mine"}),
        ("postgresql://u:p@h/immich?options=-c%20work_mem%3D8MB", {**IMMICH, "options": "-c work_mem=8MB"}),
        # Sockets.
        ("postgresql:///immich?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "immich"}),
        ("postgresql://u@/immich?host=/run/postgresql", {"host": "/run/postgresql", "user": "u", "dbname": "immich"}),
        ("postgresql://u:p@%2Frun%2Fpostgresql/immich", {**IMMICH, "host": "/run/postgresql"}),
        ("socket:/run/postgresql?db=immich", {"host": "/run/postgresql", "dbname": "immich"}),
        ("socket://u:p@/run/postgresql?db=immich&encoding=utf8", {**IMMICH, "host": "/run/postgresql"}),
        ("/run/postgresql immich", {"host": "/run/postgresql", "dbname": "immich"}),
        # Addresses, and several of them.
        ("postgresql://u:p@[fd00::1]:5433/immich", {**IMMICH, "host": "fd00::1", "port": "5433"}),
        ("postgresql://u:p@h1:1,h2:2/immich", {**IMMICH, "host": "h1,h2", "port": "1,2"}),
        # Passwords and names as people write them.
        ("postgresql://u:p%40ss%2Fw%23rd@h/immich", {**IMMICH, "password": "p@ss/w#rd"}),
        ("postgresql://u:p@ss@h/immich", {**IMMICH, "password": "p@ss"}),
        ("postgresql://u:p:a ss%@h/immich", {**IMMICH, "password": "p:a ss%"}),
        ("postgresql://u:p@h/Immich-DB%201", {**IMMICH, "dbname": "Immich-DB 1"}),
    ],
)
def test_an_address_is_understood(url: str, wanted: dict[str, str], tmp_path: Path) -> None:
    assert parts(tmp_path, DB_URL=url) == wanted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:hunter2@h/immich?sslmud=1", "a parameter sslmud, which is not known"),
        ("postgresql://u:hunter2@h/immich?connection_limit=5", "a parameter connection_limit"),
        (
            "postgresql://u:hunter2@h/immich?sslmode=maybe",
            "a parameter sslmode with an unknown value. Known are disable",
        ),
        ("postgresql://u:hunter2@h/immich?ssl=hunter2", "a parameter ssl with an unknown value"),
        ("postgresql://u:hunt#er2@h/immich", "%23"),
        ("postgresql://u:hunt/er2@h/immich", "%2F"),
        ("postgresql://u:p@hunt/er2@h/immich", "at a strange place"),
        ("postgresql://u:p@h?hunter2=x@h/immich", "at a strange place"),
        ("postgresql://u:p@h?hunt=er2&er2=x#@h/immich", "at a strange place"),
        ("postgresql://u:hunter2@h:5432x/immich", "no number behind"),
        ("postgresql://u:hunter2@h/immich#x", "cut off by a #"),
        ("postgresql://u:hunter2@h", "names no database"),
        ("postgresql://u:hunter2@/immich", "names no host"),
        ("socket:/run/postgresql?user=hunter2", "names no database"),
        ("postgresql:u:hunter2", "is not the address of a database"),
        ("mysql://u:hunter2@h/immich", "is not the address of a database"),
        ("host=x password=hunter2", "is not the address of a database"),
        ("postgresql://u:hunter2@[::1/immich", "is not the address of a database"),
        ("postgresql://u:hunter2@h/immich?x", "is not the address of a database"),
    ],
)
def test_what_is_not_understood_is_named_and_no_password_is(
    url: str, words: str, tmp_path: Path, oddity: Oddity
) -> None:
    problem = only_problem(EXTERNAL | {"DB_URL": url}, tmp_path)
    assert problem.startswith("DB_URL: ")
    assert words in problem
    assert "hunt" not in problem
    assert "er2" not in problem
    oddity(
        "DB_URL has a parameter that nobody knows.",
        "DB_URL: has a parameter sslmud, which is not known here. Leave it out.",
        "What Immich takes is taken: sslmode=no-verify, uselibpqcompat, schema, socket:.",
    )


def test_the_mode_of_tls_is_a_variable_as_in_immich(tmp_path: Path) -> None:
    assert "sslmode" not in parts(tmp_path)
    assert parts(tmp_path, DB_SSL_MODE="require")["sslmode"] == "require"
    url = "postgresql://u:p@h/immich"
    assert parts(tmp_path, DB_SSL_MODE="require", DB_URL=url) == IMMICH
    (note,) = settings.load(EXTERNAL | {"DB_SSL_MODE": "require", "DB_URL": url}, tmp_path).notes
    assert note == "DB_URL is set: no effect has DB_SSL_MODE"
    assert "is not a known value" in only_problem(EXTERNAL | {"DB_SSL_MODE": "maybe"}, tmp_path)


@pytest.mark.parametrize(
    "environ", [{"DB_SSL_MODE": "verify-full"}, {"DB_URL": "postgresql://h/x?sslmode=verify-full"}]
)
def test_a_certificate_is_judged_by_the_authorities_that_node_knows_too(
    environ: dict[str, str], tmp_path: Path
) -> None:
    authorities = conninfo_to_dict(settings.load(EXTERNAL | environ, tmp_path).conninfo)["sslrootcert"]
    assert "BEGIN CERTIFICATE" in Path(str(authorities)).read_text("ascii", "replace")
    own = EXTERNAL | {"DB_URL": "postgresql://h/x?sslmode=verify-full&sslrootcert=/own.pem"}
    assert conninfo_to_dict(settings.load(own, tmp_path).conninfo)["sslrootcert"] == "/own.pem"
