"""Settings: what a home admin writes, and the one line each that they get back when it is wrong."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from listener import inputs, settings
from listener.settings import Settings, SettingsError

ALICE = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
BOB = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
CAROL = "cccccccc-cccc-4ccc-8ccc-cccccccccccc"
LIBRARY = "dddddddd-dddd-4ddd-8ddd-dddddddddddd"
EXTERNAL = {
    "SHARED_PATH_PREFIX": "/external_library/alice/",
    "SOURCE_USER_ID": ALICE,
    "TARGET_USER_ID": BOB,
    "TARGET_LIBRARY_ID": LIBRARY,
    "TARGET_PATH_PREFIX": "/external_library/bob/",
}
UPLOADS = {
    "UPLOAD_SOURCE_USER_ID": ALICE,
    "TARGET_USER_ID": BOB,
    "UPLOAD_TARGET_LIBRARY_ID": LIBRARY,
    "TARGET_UPLOAD_PATH_PREFIX": "/external_library/bob-uploads",
}


def job(**changes: Any) -> dict[str, Any]:
    """A good job of config.yaml; a change to None takes a key away."""
    values = {
        "name": "holidays",
        "source_user_id": ALICE,
        "target_user_id": BOB,
        "target_library_id": LIBRARY,
        "source_path_prefix": "/external_library/alice",
        "target_path_prefix": "/external_library/bob",
    } | changes
    return {key: value for key, value in values.items() if value is not None}


def write_config(folder: Path, *jobs: Mapping[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"sync_jobs": [dict(one) for one in jobs]}))


def problems(environ: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings.load(environ, folder)
    for line in caught.value.problems:
        assert "\n" not in line
        assert line.endswith((".", "?")), "each problem says what to do"
    return caught.value.problems


def only_problem(environ: Mapping[str, str], folder: Path) -> str:
    found = problems(environ, folder)
    assert len(found) == 1, found
    return found[0]


# --- what is accepted --------------------------------------------------------------------------------------


def test_defaults_and_the_external_job(tmp_path: Path) -> None:
    read = settings.load(EXTERNAL, tmp_path)
    (one,) = read.jobs
    assert (one.kind, str(one.source_user_id), str(one.target_user_id)) == ("external", ALICE, BOB)
    assert one.source_path_prefix == "/external_library/alice"
    assert one.target_path_prefix == "/external_library/bob"
    assert (read.media_root, read.external_root) == (Path("/data"), Path("/external_library"))
    assert (read.reconcile_interval, read.link_mode, read.workers, read.ml_wait) == (900, "auto", 2, 86400)
    assert (read.http_host, read.http_port, read.log_level, read.log_format) == (
        "127.0.0.1",
        8080,
        "INFO",
        "text",
    )
    assert (read.api_url, read.api_key, read.notes) == ("http://immich_server:2283", None, ())
    database = conninfo_to_dict(read.conninfo)
    assert (
        database
        | {
            "host": "immich_postgres",
            "port": "5432",
            "user": "postgres",
            "password": "postgres",
            "dbname": "immich",
            "application_name": "immich-shared-library",
        }
        == database
    )
    assert int(database["connect_timeout"] or 0) > 0


def test_the_uploads_job_covers_the_media_root(tmp_path: Path) -> None:
    read = settings.load(UPLOADS | {"UPLOAD_LOCATION_MOUNT": "/usr/src/app/upload/"}, tmp_path)
    assert [(one.kind, one.source_path_prefix) for one in read.jobs] == [("uploads", "/usr/src/app/upload")]
    assert str(read.jobs[0].target_user_id) == BOB


def test_uploads_may_go_to_another_user(tmp_path: Path) -> None:
    read = settings.load(EXTERNAL | UPLOADS | {"UPLOAD_TARGET_USER_ID": CAROL}, tmp_path)
    assert {one.name: str(one.target_user_id) for one in read.jobs} == {"external": BOB, "uploads": CAROL}


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKERS=3\nLINK_MODE=copy\nTZ=Europe/Berlin\nDB_DATA_LOCATION=/x\n")
    read = settings.load(EXTERNAL | {"WORKERS": "5", "LINK_MODE": ""}, tmp_path)
    assert (read.workers, read.link_mode) == (5, "copy")


def test_the_older_name_of_the_interval(tmp_path: Path) -> None:
    assert settings.load(EXTERNAL | {"SYNC_INTERVAL_SECONDS": "60"}, tmp_path).reconcile_interval == 60


def test_config_file_wins_and_says_so(tmp_path: Path) -> None:
    write_config(
        tmp_path,
        job(name="one"),
        job(name="two", kind="uploads", source_path_prefix=None, target_path_prefix="/external_library/up"),
    )
    read = settings.load(EXTERNAL, tmp_path)
    assert [(one.name, one.kind, one.source_path_prefix) for one in read.jobs] == [
        ("one", "external", "/external_library/alice"),
        ("two", "uploads", "/data"),
    ]
    assert "SHARED_PATH_PREFIX" in read.notes[0]
    assert "config.yaml" in read.notes[0]


def test_names_in_the_config_file_stay_as_written(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(
        "sync_jobs:\n"
        f"  - {{name: no, source_user_id: {ALICE}, target_user_id: {BOB}, target_library_id: {LIBRARY},\n"
        "     source_path_prefix: /a, target_path_prefix: /external_library/b, album_id: , tags: false}\n"
    )
    (one,) = settings.load({"CONFIG_FILE": "jobs.yaml"}, tmp_path).jobs
    assert (one.name, one.album_id, one.tags) == ("no", None, False)


def test_every_key_of_a_job_reaches_it(tmp_path: Path) -> None:
    given = {"album_id": CAROL, "tags": False, "duplicates": False, "remove_copies": True, "accept_risk": True}
    write_config(
        tmp_path, job(**given), job(name="plain", source_path_prefix="/a", target_path_prefix="/external_library/c")
    )
    keys, plain = settings.load({}, tmp_path).jobs
    assert {name: getattr(keys, name) for name in given} == given | {"album_id": UUID(CAROL)}
    assert (plain.album_id, plain.tags, plain.duplicates, plain.remove_copies, plain.accept_risk) == (
        None, True, True, False, False
    )  # fmt: skip


def test_one_album_for_both_single_jobs(tmp_path: Path) -> None:
    read = settings.load(EXTERNAL | UPLOADS | {"TARGET_ALBUM_ID": CAROL}, tmp_path)
    assert [one.album_id for one in read.jobs] == [UUID(CAROL)] * 2


def test_a_wrong_album_of_two_jobs_is_one_line(tmp_path: Path) -> None:
    line = only_problem(EXTERNAL | UPLOADS | {"TARGET_ALBUM_ID": "holidays"}, tmp_path)
    assert line.startswith("TARGET_ALBUM_ID:")


def test_the_keys_that_the_example_explains_are_good(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "config.example.yaml").read_text()
    keys = re.findall(r"^    # ((?:album_id|tags|duplicates|remove_copies|accept_risk): .*)$", text, re.MULTILINE)
    assert len(keys) == 5
    (tmp_path / "config.yaml").write_text(re.sub(r"^    # (\w+: \S+)$", r"    \1", text, flags=re.MULTILINE))
    (one,) = [job for job in settings.load({}, tmp_path).jobs if job.album_id is not None]
    assert (one.tags, one.duplicates, one.remove_copies, one.accept_risk) == (True, True, False, False)


def test_the_example_files_are_good(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    (tmp_path / "config.yaml").write_text((root / "config.example.yaml").read_text())
    (tmp_path / ".env").write_text((root / ".env.example").read_text())
    assert {one.kind for one in settings.load({}, tmp_path).jobs} == {"external", "uploads"}


def test_db_url_instead_of_the_five(tmp_path: Path) -> None:
    url = "postgresql://me:s%40crit@db.local:6000/photos?sslmode=require&connect_timeout=3"
    read = settings.load(EXTERNAL | {"DB_URL": url, "DB_HOSTNAME": "elsewhere"}, tmp_path)
    database = conninfo_to_dict(read.conninfo)
    assert (database["host"], database["user"], database["password"]) == ("db.local", "me", "s@crit")
    assert (database["sslmode"], database["connect_timeout"]) == ("require", "3")
    assert "DB_HOSTNAME" in read.notes[0]


def test_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("  it's a \\ secret \n")
    (tmp_path / "key").write_text("abc\n")
    environ = EXTERNAL | {"DB_PASSWORD_FILE": "password", "IMMICH_API_KEY_FILE": str(tmp_path / "key")}
    read = settings.load(environ, tmp_path)
    assert conninfo_to_dict(read.conninfo)["password"] == "  it's a \\ secret "
    assert read.api_key == "abc"


@pytest.mark.parametrize("url", ["http://host:2283/", "http://host:2283/api", "http://host:2283/api/"])
def test_the_api_address_is_taken_as_people_write_it(url: str, tmp_path: Path) -> None:
    assert settings.load(EXTERNAL | {"IMMICH_API_URL": url}, tmp_path).api_url == "http://host:2283"


# --- what is refused ---------------------------------------------------------------------------------------


def test_no_job_at_all(tmp_path: Path) -> None:
    line = only_problem({}, tmp_path)
    assert line.startswith("SHARED_PATH_PREFIX:")
    assert "UPLOAD_SOURCE_USER_ID" in line


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    environ = {
        "SHARED_PATH_PREFIX": "/external_library/../alice",
        "TARGET_USER_ID": "bob",
        "TARGET_PATH_PREFIX": "/elsewhere",
        "TARGET_ALBUM_ID": "holidays",
        "WORKERS": "many",
        "SYNC_INTERVAL_SECONDS": "nan",
        "HTTP_PORT": "70000",
        "LOG_LEVEL": "loud",
        "LINK_MODE": "soft",
        "IMMICH_API_URL": "immich_server:2283",
        "DB_URL": "mysql://me@host/db",
    }
    found = {line.split(":")[0] for line in problems(environ, tmp_path)}
    assert found == {*environ, "SOURCE_USER_ID", "TARGET_LIBRARY_ID"}


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("WORKERS", "0", "too small"),
        ("WORKERS", "2.5", "not a whole number"),
        ("RECONCILE_INTERVAL_SECONDS", "0", "too small"),
        ("ML_WAIT_SECONDS", "inf", "number with an end"),
        ("DB_PORT", "0", "too small"),
        ("HTTP_PORT", "65536", "too big"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("DB_HOSTNAME", "http://db", "DB_URL"),
        ("DB_URL", "postgresql://me:hunter2@host", "postgresql://"),
        ("DB_URL", "postgresql://me:hunter2@host/db?sslmud=1", "postgresql://"),
        ("IMMICH_API_URL", "http://me:hunter2@host", "more than"),
        ("IMMICH_API_KEY", "hunter2\x1b[0m", "one line"),
        ("UPLOAD_LOCATION_MOUNT", "data", "absolute"),
        ("UPLOAD_LOCATION_MOUNT", "/", "root of the file system"),
        ("EXTERNAL_LIBRARY_MOUNT", "/a//b", "'/a/b'"),
        ("CONFIG_FILE", "nowhere.yaml", "is not there"),
        ("DB_PASSWORD_FILE", "nowhere", "is not there"),
        ("DB_PASSWORD_FILE", "empty", "is empty"),
        ("IMMICH_API_KEY_FILE", ".", "is a folder"),
        ("IMMICH_API_KEY_FILE", "/dev/zero", "not an ordinary file"),
        ("SOURCE_USER_ID", "alice", "(a UUID)"),
        ("TARGET_USER_ID", ALICE, "source user"),
        ("TARGET_PATH_PREFIX", "/external_library", "below EXTERNAL_LIBRARY_MOUNT"),
        ("TARGET_PATH_PREFIX", "/external_library2/bob", "below EXTERNAL_LIBRARY_MOUNT"),
        ("TARGET_PATH_PREFIX", "/external_library/alice/shared", "inside the source's"),
        ("TARGET_PATH_PREFIX", "/external_library/./bob", "'/external_library/bob'"),
        ("TARGET_PATH_PREFIX", "/external_library/a\tb", "not text"),
        ("SHARED_PATH_PREFIX", "/external_library/bob/x", "holds the source's"),
        ("TARGET_ALBUM_ID", "holidays", "(a UUID)"),
    ],
)
def test_one_wrong_variable_is_one_line(name: str, value: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    environ = EXTERNAL | {name: value}
    line = next(line for line in problems(environ, tmp_path) if word in line)
    assert line.partition(": ")[0] in {name, "TARGET_PATH_PREFIX"}
    assert "hunter2" not in line
    del environ[name]
    settings.load(EXTERNAL | environ, tmp_path)


def test_links_never_go_below_the_media_root(tmp_path: Path) -> None:
    environ = EXTERNAL | {"EXTERNAL_LIBRARY_MOUNT": "/data", "TARGET_PATH_PREFIX": "/data/external/bob"}
    line = only_problem(environ, tmp_path)
    assert line.startswith("TARGET_PATH_PREFIX:")
    assert "below UPLOAD_LOCATION_MOUNT" in line


def test_the_folder_of_the_links_may_not_hold_the_media_root(tmp_path: Path) -> None:
    environ = EXTERNAL | {"UPLOAD_LOCATION_MOUNT": "/external_library/bob/data"}
    assert "holds UPLOAD_LOCATION_MOUNT" in only_problem(environ, tmp_path)


def test_a_secret_in_two_places(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abc")
    environ = EXTERNAL | {"IMMICH_API_KEY": "abc", "IMMICH_API_KEY_FILE": "key"}
    assert "Keep one" in only_problem(environ, tmp_path)


def test_an_unreadable_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"WORKERS=\xff\n")
    assert only_problem(EXTERNAL, tmp_path).startswith(".env:")


@pytest.mark.parametrize(
    ("changes", "key", "word"),
    [
        ({"soruce_user_id": ALICE}, "soruce_user_id", "Did you mean source_user_id?"),
        ({"source_user_id": None}, "source_user_id", "is missing"),
        ({"source_path_prefix": None}, "source_path_prefix", "is missing"),
        ({"kind": "album"}, "kind", "external"),
        ({"kind": "uploads"}, "source_path_prefix", "Leave it out"),
        ({"name": "x" * 101}, "name", "too long"),
        ({"name": ["x"]}, "name", "not a text"),
        ({"target_library_id": {"a": "b"}}, "target_library_id", "UUID"),
        ({"album_id": "holidays"}, "album_id", "(a UUID)"),
        ({"tags": "perhaps"}, "tags", "neither true nor false"),
        ({"duplicates": 2}, "duplicates", "neither true nor false"),
        ({"remove_copies": ["true"]}, "remove_copies", "neither true nor false"),
        ({"accept_risk": "ture"}, "accept_risk", "neither true nor false"),
    ],
)
def test_one_wrong_key_of_a_job_is_one_line(changes: dict[str, Any], key: str, word: str, tmp_path: Path) -> None:
    write_config(tmp_path, job(**changes))
    line = only_problem({}, tmp_path)
    assert line.startswith(f"{key} (config.yaml, job 1 ")
    assert word in line


@pytest.mark.parametrize(
    ("changes", "key", "word"),
    [
        ({"name": "holidays"}, "name", "Give each its own name"),
        ({"source_path_prefix": "/external_library/alice/2024"}, "source_path_prefix", "overlaps"),
        ({"target_path_prefix": "/external_library/bob"}, "target_path_prefix", "overlaps"),
        ({"target_path_prefix": "/external_library/bob/deep"}, "target_path_prefix", "overlaps"),
    ],
)
def test_jobs_may_not_overlap(changes: dict[str, Any], key: str, word: str, tmp_path: Path) -> None:
    other = {
        "name": "work",
        "source_path_prefix": "/external_library/w",
        "target_path_prefix": "/external_library/c",
    }
    write_config(tmp_path, job(), job(**other))
    settings.load({}, tmp_path)
    write_config(tmp_path, job(), job(**(other | changes)))
    line = only_problem({}, tmp_path)
    assert line.startswith(f"{key} (config.yaml, job 2 ")
    assert word in line


def test_the_same_photos_may_go_to_two_users(tmp_path: Path) -> None:
    write_config(tmp_path, job(), job(name="b", target_user_id=CAROL, target_path_prefix="/external_library/carol"))
    assert len(settings.load({}, tmp_path).jobs) == 2


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join([*lines, "sync_jobs: *a29"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sync_jobs: [", "line 1"),
        ("sync_jobs:\n\t- x", "line 2"),
        (bomb(), "aliases"),
        ("sync_jobs: " + "[" * 20_000, "too deeply"),
        ("sync_jobs: []\nsync_jobs: []", "stands twice"),
        ("# " + "x" * 300_000, "larger than"),
        ("sync_jobs: !!python/object/apply:os.system [id]", "job 1"),
        ("- x", "not a mapping"),
        ("", "sync_jobs"),
        ("sync_jobs:", "sync_jobs"),
        ("sync_jobs: [1]", "job 1"),
        ("? [a, b]\n: c", "YAML"),
        ("sync_jobs: []\n---\nsync_jobs: []", "YAML"),
        ("sync_jobs: \x07", "characters"),
    ],
)
def test_a_config_file_that_cannot_be_used(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert any(word in line for line in problems({}, tmp_path)), problems({}, tmp_path)


def test_an_unknown_key_beside_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("sync_job: []")
    assert any("Did you mean sync_jobs?" in line for line in problems({}, tmp_path))


def test_a_config_file_that_docker_made_a_folder_of(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    assert "is a folder" in only_problem(EXTERNAL, tmp_path)


@given(st.dictionaries(st.sampled_from(inputs.variable_names()), st.text(max_size=20).map(str), max_size=8))
def test_no_value_breaks_loading(values: dict[str, str]) -> None:
    here = Path(__file__).parent
    if "config_file" in {name.lower() for name in values}:
        values["CONFIG_FILE"] = "nowhere.yaml"
    found: tuple[str, ...] = ("nothing is wrong.",)
    try:
        settings.load(values, here)
    except SettingsError as failure:
        found = failure.problems
    assert found
    assert all(line.isprintable() for line in found)


# --- secrets and what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, settings.describe])
def test_secrets_are_not_shown(show: Callable[[Settings], object], tmp_path: Path) -> None:
    read = settings.load(EXTERNAL | {"DB_PASSWORD": "hunter2", "IMMICH_API_KEY": "tops3cret"}, tmp_path)
    assert "hunter2" in read.conninfo
    text = str(show(read))
    assert "hunter2" not in text
    assert "tops3cret" not in text


def test_secrets_to_mask(tmp_path: Path) -> None:
    read = settings.load(EXTERNAL | {"DB_PASSWORD": "it's @ll", "IMMICH_API_KEY": "key"}, tmp_path)
    assert {"it's @ll", r"it\'s @ll", "it%27s%20%40ll", "key"} < set(settings.secrets(read))
    harmless = settings.load(EXTERNAL, tmp_path)
    assert "postgres" not in settings.secrets(harmless), "the well-known default is a user name, too"


def test_describe_shows_what_holds(tmp_path: Path) -> None:
    shown = settings.describe(settings.load(EXTERNAL | {"DB_PASSWORD": "x"}, tmp_path))
    assert shown["workers"] == 2
    assert isinstance(shown["conninfo"], dict)
    assert (shown["conninfo"]["host"], shown["conninfo"]["password"]) == ("immich_postgres", "***")
    assert isinstance(shown["jobs"], list)
    assert shown["jobs"][0]["target_user_id"] == BOB


def test_the_schema_knows_every_key() -> None:
    described = settings.schema()["$defs"]["JobInput"]["properties"]
    assert set(described) == set(settings.Job.__dataclass_fields__)
    assert all(info["description"] for info in described.values())


def test_nothing_is_read_but_the_given_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "7")
    assert settings.load(EXTERNAL, tmp_path).workers == 2
    monkeypatch.chdir(tmp_path)
    for name, value in EXTERNAL.items():
        monkeypatch.setitem(os.environ, name, value)
    assert settings.load().workers == 7
