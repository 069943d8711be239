"""Settings that are wrong: one line for each, with what to do about it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener import inputs, settings
from listener.settings import SettingsError
from tests.configured import ALICE, CAROL, EXTERNAL, job, only_problem, problems, write_config


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
        ("REMOVAL_LIMIT", "many", "not a number of copies and a percentage"),
        ("REMOVAL_LIMIT", "20,30", "not a number of copies and a percentage"),
        ("REMOVAL_LIMIT", "110%", "not between 0 and 100"),
        ("REMOVAL_LIMIT", "-1", "like 20,10%, or off"),
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
        ("EXTERNAL_LIBRARY_MOUNTS", "/external_library,nas", "absolute"),
        ("EXTERNAL_LIBRARY_MOUNTS", "/mnt/a,/mnt/b", "not below EXTERNAL_LIBRARY_MOUNTS"),
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
