"""Settings: what a home admin writes, and what becomes of it."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from psycopg.conninfo import conninfo_to_dict

from listener import settings
from listener.settings import RemovalLimit, Settings
from tests.configured import ALICE, BOB, CAROL, EXTERNAL, LIBRARY, UPLOADS, job, only_problem, write_config


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


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ("", RemovalLimit(20, 10)),
        ("20,10%", RemovalLimit(20, 10)),
        ("2.5% , 100", RemovalLimit(100, 2.5)),
        ("0", RemovalLimit(0, 0)),
        ("5%", RemovalLimit(0, 5)),
        ("Off", None),
    ],
)
def test_the_limit_of_removal_is_a_number_and_a_share(tmp_path: Path, given: str, limit: RemovalLimit | None) -> None:
    assert settings.load(EXTERNAL | {"REMOVAL_LIMIT": given}, tmp_path).removal_limit == limit


@pytest.mark.parametrize(
    ("given", "roots"),
    [
        ({}, ["/external_library"]),
        ({"EXTERNAL_LIBRARY_MOUNT": "/mnt/a"}, ["/mnt/a"]),
        ({"EXTERNAL_LIBRARY_MOUNTS": "/external_library, /mnt/nas/photos/,"}, ["/external_library", "/mnt/nas/photos"]),
        ({"EXTERNAL_LIBRARY_MOUNTS": "/external_library:/mnt/b"}, ["/external_library", "/mnt/b"]),
        (
            {"EXTERNAL_LIBRARY_MOUNT": "/external_library", "EXTERNAL_LIBRARY_MOUNTS": "/mnt/b"},
            ["/external_library", "/mnt/b"],
        ),
    ],
)
def test_external_libraries_may_have_several_mounts(tmp_path: Path, given: dict[str, str], roots: list[str]) -> None:
    job = EXTERNAL | {"TARGET_PATH_PREFIX": f"{roots[-1]}/bob"}
    read = settings.load(job | given, tmp_path)
    assert [str(root) for root in (read.external_root, *read.more_roots)] == roots


def test_without_a_mount_the_media_root_is_immichs(tmp_path: Path) -> None:
    assert settings.load(EXTERNAL, tmp_path).follows_immich
    assert not settings.load(EXTERNAL | {"UPLOAD_LOCATION_MOUNT": "/data"}, tmp_path).follows_immich
