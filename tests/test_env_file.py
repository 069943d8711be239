"""``.env`` gives what docker compose makes of it, or an error with the line's number, and never another password."""

from pathlib import Path

import pytest

from listener import envfile, settings
from listener.settings import SettingsError
from tests.configured import EXTERNAL, only_problem
from tests.oddities import Oddity

# Each as docker compose (compose-go 2) reads it.
VALUES = [
    ("A=plain", "plain"),
    ("A = spaces around  ", "spaces around"),
    ("export A=exported", "exported"),
    ("A=", ""),
    ("A=\nB=1", ""),
    ("# A=0\n\n  # more\nA=1", "1"),
    ("A=one # comment", "one"),
    ("A=pass#word", "pass#word"),
    ("A=#word", "#word"),
    ("A=one\nA=two", "two"),
    ("A=it's", "it's"),
    ("A=a=b:c", "a=b:c"),
    ("A=back\\slash\\n", "back\\slash\\n"),
    ("\ufeffA=after a mark", "after a mark"),
    ("A=dos\r\nB=1\r\n", "dos"),
    ("A='dos'\r\nB=1\r\n", "dos"),
    # Single quotes are literal.
    ("A='$B ${B} $$ \\n # \"'", '$B ${B} $$ \\n # "'),
    ("A='it\\'s'", "it's"),
    ("A='one' # comment", "one"),
    ("A='two\nlines'", "two\nlines"),
    # Double quotes have escapes and variables.
    ('A="a # b"', "a # b"),
    ('A="say \\"x\\""', 'say "x"'),
    ('A="two\\nlines\\tand \\\\ and \\q"', "two\nlines\tand \\ and \\q"),
    ('A="two\nlines"', "two\nlines"),
    ('A="\\0101 \\07"', "A \\7"),
    ('A="\\$B"', "$B"),
    ('A="$B$"', "of the environment$"),
    # Variables.
    ("A=$B", "of the environment"),
    ("A=${B}!", "of the environment!"),
    ("A=pa$$word", "pa$word"),
    ("A=pa$1word$", "pa$1word$"),
    ("A=pa$ word", "pa$ word"),
    ("C=1\nA=$C$C", "11"),
    ("B=of the file\nA=$B", "of the environment"),
    ("A=x${NOBODY}y$NOBODY", "xy"),
    ("A=${NOBODY:-default}", "default"),
    ("A=${EMPTY:-default}", "default"),
    ("A=${EMPTY-default}", ""),
    ("A=${NOBODY-a${NOBODY:-b}c}d", "abcd"),
    ("A=${B:+other}${NOBODY+none}${EMPTY+there}", "otherthere"),
    ("A=${B:?is needed}", "of the environment"),
]
ERRORS = [
    ("A: hunter2", 1, "a colon"),
    ("B=1\nA='hunter2", 2, "never closed"),
    ('\n\nA="hunter2\nB=1\n', 3, "never closed"),
    ("A='hunter'2", 1, "behind a closing quote"),
    ('A="hunter" 2', 1, "behind a closing quote"),
    ("A=${hunter2", 1, "$$"),
    ("A=${2hunter}", 1, "$$"),
    ("A=${hunter2!}", 1, "$$"),
    ("A=${hunter2:?is needed}", 1, "not set"),
    ("B=1\nhunter2 hunter2\n", 2, "NAME=value"),
    ("=hunter2", 1, "NAME=value"),
    ("B='two\nlines'\nA hunter2=x", 3, "NAME=value"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_value_is_what_compose_makes_of_it(text: str, value: str) -> None:
    assert envfile.parse(text, {"B": "of the environment", "EMPTY": ""}).values["A"] == value


@pytest.mark.parametrize(("text", "line", "words"), ERRORS)
def test_what_cannot_be_read_is_told_by_its_line_and_not_by_what_it_says(
    text: str, line: int, words: str, tmp_path: Path, oddity: Oddity
) -> None:
    (tmp_path / ".env").write_text(text)
    problem = only_problem(EXTERNAL, tmp_path)
    assert problem.startswith(f".env: line {line} ")
    assert words in problem
    assert "hunter" not in problem
    oddity(
        ".env has an open quote, KEY: value, or a line that is none.",
        ".env: line 2 opens a quote that is never closed",
        "Nothing starts with another password than the one that was meant.",
    )


def test_a_name_alone_is_what_the_environment_has() -> None:
    assert envfile.parse("A\nB=1\nA", {}).values == {"B": "1"}


@pytest.mark.parametrize("password", ["pa'ss", 'pa"ss', "pa$$ss", "$ecret", "pa#ss # x", "back\\slash", "ünï ${x}"])
def test_any_password_can_be_written_in_single_quotes(password: str, tmp_path: Path) -> None:
    quoted = password.replace("'", "\\'")
    (tmp_path / ".env").write_text(f"DB_PASSWORD='{quoted}'\n", "utf-8")
    assert password in settings.secrets(settings.load(EXTERNAL, tmp_path))


def test_a_dollar_sign_that_stands_for_nothing_is_told_and_is_empty_as_in_compose(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_PASSWORD=pass$word\nDB_USERNAME=me\nOTHERS=$what\n")
    read = settings.load(EXTERNAL, tmp_path)
    assert settings.secrets(read)[-1] == "pass"
    (note,) = read.notes
    assert note.startswith("DB_PASSWORD: its value in .env names a variable that is not set")
    assert "word" not in note


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TARGET_USERID", "TARGET_USER_ID"),
        ("target_user_id", "TARGET_USER_ID"),
        ("SHARED_PATH_PREFX", "SHARED_PATH_PREFIX"),
        ("UPLOAD_TARGET_USER", "UPLOAD_TARGET_USER_ID"),
        ("LINKMODE", "LINK_MODE"),
        ("DB_PASSWD", "DB_PASSWORD"),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_told(name: str, meant: str, tmp_path: Path, oddity: Oddity) -> None:
    (tmp_path / ".env").write_text(f"{name}=hunter2\n")
    (note,) = settings.load(EXTERNAL, tmp_path).notes
    assert note == f"{name}: is no variable of the listener: it has no effect. Did you mean {meant}?"
    (tmp_path / ".env").unlink()
    assert settings.load(EXTERNAL | {name: "hunter2"}, tmp_path).notes == (note,)
    oddity(
        "TARGET_USERID is set for TARGET_USER_ID.",
        "TARGET_USERID: is no variable of the listener: it has no effect. Did you mean TARGET_USER_ID?",
        "All other settings hold; variables of Immich's own are no mistakes.",
    )


def test_where_something_is_missing_the_name_that_is_nearly_it_is_told_beside_it(tmp_path: Path) -> None:
    environ = dict(EXTERNAL)
    environ["TARGET_USERID"] = environ.pop("TARGET_USER_ID")
    with pytest.raises(SettingsError) as refused:
        settings.load(environ, tmp_path)
    assert [line.split(":")[0] for line in refused.value.problems] == ["TARGET_USER_ID", "TARGET_USERID"]
    assert "Did you mean TARGET_USER_ID?" in refused.value.problems[1]


def test_immichs_own_variables_are_no_mistakes(tmp_path: Path) -> None:
    names = {
        *("UPLOAD_LOCATION", "DB_DATA_LOCATION", "THUMB_LOCATION", "ENCODED_VIDEO_LOCATION", "PROFILE_LOCATION"),
        *("BACKUP_LOCATION", "IMMICH_VERSION", "IMMICH_LOG_LEVEL", "IMMICH_HOST", "IMMICH_PORT", "IMMICH_CONFIG_FILE"),
        *("IMMICH_MEDIA_LOCATION", "IMMICH_WORKERS_INCLUDE", "IMMICH_API_METRICS_PORT", "IMMICH_TRUSTED_PROXIES"),
        *("DB_VECTOR_EXTENSION", "DB_STORAGE_TYPE", "DB_SKIP_MIGRATIONS", "DB_USERNAME_FILE", "DB_HOSTNAME_FILE"),
        *("DB_URL_FILE", "DB_DATABASE_NAME_FILE", "REDIS_HOSTNAME", "REDIS_PORT", "REDIS_URL", "REDIS_USERNAME"),
        *("REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_DBINDEX", "REDIS_SOCKET", "MACHINE_LEARNING_WORKERS"),
        *("POSTGRES_PASSWORD", "POSTGRES_USER", "POSTGRES_DB", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TZ"),
        *("NODE_ENV", "PATH", "HOME", "HOSTNAME", "USERNAME"),
    }
    assert settings.load(EXTERNAL | dict.fromkeys(names, "x"), tmp_path).notes == ()
