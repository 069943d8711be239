"""The listener as a process, seen from outside: how it starts, waits, refuses, stops, comes back and takes over."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import House, Process, add_library, add_user
from tests.photos import PhotoHouse, insert_rows, photo_house, write_files

# Docker kills after ten.
STOPS_WITHIN = 9.0
TAKES_OVER_WITHIN = 25.0


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return photo_house(immich, roots, tmp_path)


def tables_of_ours(conninfo: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(r"SELECT count(*) FROM pg_class WHERE relname LIKE '\_face\_sync%'").fetchone()
    assert row is not None
    return int(row[0])


def half_done(house: House) -> int:
    return len(house.query("SELECT source_asset_id FROM public._face_sync_intent"))


def in_hand(process: Process) -> float:
    return process.metric("keys_in_flight")


def cut(house: House) -> int:
    """End every session of the listener, and wait until they are gone; returns how many there were."""
    rows = house.query(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'immich-shared-library'"
    )
    return len(rows)


@contextmanager
def renamed(server: str, conninfo: str) -> Iterator[None]:
    """Let the database be under another name for a while."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    away = f"away_{uuid4().hex}"
    statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(away)))
        try:
            yield
        finally:
            connection.execute(statement.format(sql.Identifier(away), sql.Identifier(name)))


def test_it_waits_for_the_database_and_then_serves(server: str, carol: PhotoHouse) -> None:
    carol.add(3)
    house = carol.house
    with house.running(ready=False) as process:
        process.wait_ready()
    with renamed(server, house.immich.conninfo):
        process = house.start()
        try:
            eventually(lambda: "trying again" in process.output, within=20, describe=lambda: process.output)
            assert process.get("/healthz").status_code == 200
            answer = process.get("/readyz")
            assert answer.status_code == 503
            assert "not connected to Immich's database" in answer.text
        except BaseException:
            process.end()
            raise
    try:
        process.wait_ready()
        assert house.settled().copies == 3
        assert process.metric("listening") == 1
        assert process.metric("copies_made_total") == 0, "they were there before"
    finally:
        assert process.end() == 0


def test_it_tells_of_its_health_and_work(carol: PhotoHouse) -> None:
    carol.house.install_triggers()
    with carol.house.running() as process:
        assert process.get("/healthz").text == "alive\n"
        assert process.get("/readyz").text == "ready\n"
        carol.add(4)
        assert carol.house.settled().copies == 4
        eventually(lambda: process.metric("copies_made_total") == 4)
        eventually(lambda: process.metric("latency_seconds_count") == 4)
        assert process.metric("notifications_total") > 0
        assert process.metric("listening") == 1
        assert process.metric("failures_total") == 0
        eventually(lambda: process.metric("keys_queued") + process.metric("keys_in_flight") == 0)
        assert process.end() == 0
    assert "Traceback" not in process.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_stopped_in_the_middle_of_its_first_sync_it_goes_on_at_the_next_start(
    carol: PhotoHouse, number: signal.Signals
) -> None:
    house = carol.house
    house.install_triggers()
    # More than two workers hold in hand, which is finished before the end.
    carol.add(1100)
    process = house.start()
    try:
        eventually(lambda: process.popen.poll() is not None or half_done(house), within=30)
        process.signal(number)
        began = time.monotonic()
        code = process.popen.wait(STOPS_WITHIN + 5)
        took = time.monotonic() - began
    finally:
        process.end()
    if number is not signal.SIGKILL:
        assert code == 0, process.output
        assert took < STOPS_WITHIN, f"took {took:.1f} s"
        assert "Traceback" not in process.output
        mapped, copies = house.query(
            "SELECT (SELECT count(*) FROM public._face_sync_asset_map),"
            ' (SELECT count(*) FROM asset WHERE "ownerId" = %s)',
            house.target,
        )[0]
        assert mapped == copies
    assert carol.copies() < 1100, "it was done before it was stopped: the test shows nothing"
    with house.running() as again:
        report = house.settled(within=60)
        assert report.copies == 1100
        # A copy is all there before its mark goes.
        eventually(lambda: half_done(house) == 0, describe=lambda: again.output[-2000:])
        assert again.metric("failures_total") == 0


def test_a_second_stop_changes_nothing(carol: PhotoHouse) -> None:
    with carol.house.running() as process:
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        process.signal(signal.SIGTERM)
        assert process.popen.wait(STOPS_WITHIN) == 0


def test_stopped_while_it_waits_for_the_database_it_ends_at_once(server: str, carol: PhotoHouse) -> None:
    with renamed(server, carol.house.immich.conninfo):
        process = carol.house.start()
        try:
            eventually(lambda: "trying again" in process.output, within=20, describe=lambda: process.output)
            process.signal(signal.SIGTERM)
            assert process.popen.wait(STOPS_WITHIN) == 0
        finally:
            process.end()


def test_after_its_connections_are_cut_it_comes_back_and_makes_up_for_it(carol: PhotoHouse) -> None:
    house = carol.house
    house.install_triggers()
    carol.add(20)
    with house.running() as process:
        house.settled()
        assert cut(house) >= 1
        # Nobody may be listening when these come.
        carol.add(20, start=100)
        assert house.settled().copies == 40
        assert process.popen.poll() is None
        process.wait_ready()
        assert process.metric("reconnects_total") >= 1
        carol.add(5, start=200)
        assert house.settled().copies == 45


def test_cut_again_and_again_in_the_middle_of_the_work_it_gets_there(carol: PhotoHouse) -> None:
    house = carol.house
    house.install_triggers()
    carol.add(600)
    with house.running(ready=False) as process:
        for _ in range(3):
            # What is begun stays so while it is away: a cut counts that ends more than its listening session.
            eventually(
                lambda: (half_done(house) and in_hand(process) and cut(house) > 1) or carol.copies() == 600,
                within=30,
                describe=lambda: process.output,
            )
        assert house.settled(within=60).copies == 600
        eventually(lambda: half_done(house) == 0, describe=lambda: process.output[-2000:])
        assert carol.failures() == {}
        assert process.popen.poll() is None, process.output


def test_of_two_one_serves_and_the_other_takes_over_when_the_first_dies(carol: PhotoHouse) -> None:
    house = carol.house
    house.install_triggers()
    carol.add(5)
    with house.running() as first, house.running(ready=False) as second:
        house.settled()
        eventually(lambda: second.metric("listening") == 1, within=20)
        carol.add(5, start=100)
        house.settled()
        assert "serving a job" in first.output
        assert "serving a job" not in second.output
        assert second.metric("copies_made_total") == 0
        first.signal(signal.SIGKILL)
        first.popen.wait(5)
        carol.add(5, start=200)
        assert house.settled(within=TAKES_OVER_WITHIN).copies == 15
        assert "serving a job" in second.output
        eventually(lambda: second.metric("copies_made_total") == 5)
        second.wait_ready()


def test_two_that_start_together_make_no_copy_twice(carol: PhotoHouse) -> None:
    house = carol.house
    carol.add(100)
    with house.running(ready=False) as first, house.running(ready=False) as second:
        eventually(lambda: "serving a job" in first.output + second.output, within=20)
        assert house.settled().copies == 100
        assert first.popen.poll() is None, first.output
        assert second.popen.poll() is None, second.output
        eventually(lambda: (first.output + second.output).count("serving a job") == 2)
        assert first.metric("failures_total") + second.metric("failures_total") == 0


def test_without_triggers_it_warns_and_the_sweep_makes_the_copies(carol: PhotoHouse) -> None:
    carol.add(2)
    slow = carol.with_settings(RECONCILE_INTERVAL_SECONDS="1").house
    with slow.running() as process:
        assert "the triggers are not installed as they should be" in process.output
        assert "listener triggers install" in process.output
        assert slow.settled().copies == 2
        carol.add(3, start=10)
        assert slow.settled().copies == 5
        assert process.metric("latency_seconds_count") == 0, "nobody told of a change"


def refused(house: House) -> list[str]:
    # As Immich's role, so that nothing of ours is there before.
    done = replace(house, as_immich=True).command("run")
    assert done.returncode == 2, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if " INFO " not in line and " WARNING " not in line]


def test_each_wrong_setting_is_one_line_and_nothing_is_touched(carol: PhotoHouse) -> None:
    wrong = carol.with_settings(UPLOAD_LOCATION_MOUNT="media", RECONCILE_INTERVAL_SECONDS="soon", WORKERS="0").house
    lines = refused(wrong)
    for name in ("UPLOAD_LOCATION_MOUNT", "RECONCILE_INTERVAL_SECONDS", "WORKERS"):
        assert len([line for line in lines if line.startswith(f"{name}:")]) == 1, lines
    assert len(lines) == 3, lines
    assert tables_of_ours(carol.house.immich.conninfo) == 0


def test_a_config_file_that_is_not_there_is_told(carol: PhotoHouse) -> None:
    (line,) = refused(carol.with_settings(CONFIG_FILE="none.yaml").house)
    assert line == "CONFIG_FILE: none.yaml is not there. Correct the file, or remove it."
    assert tables_of_ours(carol.house.immich.conninfo) == 0


def test_an_empty_database_is_not_immichs(carol: PhotoHouse, empty_database: str) -> None:
    house = replace(carol.house, immich=ImmichDatabase(empty_database, "3.0.3"))
    (line,) = refused(house)
    assert "not that of an Immich 2.0 or later" in line
    assert "DB_DATABASE_NAME" in line
    assert tables_of_ours(empty_database) == 0


def test_an_immich_before_2_0_is_refused(carol: PhotoHouse, empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for table in ("assets", "users", "libraries", "person", "asset_faces"):
            connection.execute(sql.SQL("CREATE TABLE {} (id uuid PRIMARY KEY)").format(sql.Identifier(table)))
    house = replace(carol.house, immich=ImmichDatabase(empty_database, "3.0.3"))
    (line,) = refused(house)
    assert "older than 2.0" in line
    assert tables_of_ours(empty_database) == 0


def test_the_library_of_somebody_else_is_refused(carol: PhotoHouse) -> None:
    house = carol.house
    dave = add_user(house.immich.conninfo, house.immich.release, "dave")
    library = add_library(house.immich.conninfo, dave, "/external_library/dave")
    lines = refused(replace(house, jobs=tuple(replace(job, target_library_id=library) for job in house.jobs)))
    assert len(lines) == 2
    assert all("is not the target user's" in line for line in lines)
    assert {line.split("'")[1] for line in lines} == {"photos", "uploads"}
    assert tables_of_ours(house.immich.conninfo) == 0


def test_every_id_that_is_nobodys_is_one_line(carol: PhotoHouse) -> None:
    job = replace(carol.house.jobs[0], source_user_id=uuid4(), target_user_id=uuid4(), target_library_id=uuid4())
    lines = refused(replace(carol.house, jobs=(job,)))
    assert [line.split()[2] for line in lines] == ["source_user_id", "target_user_id", "target_library_id"], lines
    assert tables_of_ours(carol.house.immich.conninfo) == 0


def test_tracking_tables_of_a_newer_version_are_left_alone(carol: PhotoHouse) -> None:
    house = carol.house
    house.install_triggers()
    house.query("UPDATE public._face_sync_meta SET value = '99' WHERE key = 'schema_version'")
    (line,) = refused(house)
    assert "version 99" in line
    assert house.query("SELECT value FROM public._face_sync_meta WHERE key = 'schema_version'") == [("99",)]


def test_a_port_that_is_taken_is_told(carol: PhotoHouse) -> None:
    with carol.house.running() as process:
        port = process.url.rsplit(":", 1)[1]
        (line,) = refused(carol.with_settings(HTTP_PORT=port).house)
    assert line.startswith("HTTP_PORT: cannot serve")


def test_what_was_under_way_before_the_first_start_is_looked_for(carol: PhotoHouse) -> None:
    """The triggers spoke for nobody when it was written, and the first sweep did not see it yet."""
    house = carol.with_settings(RECONCILE_INTERVAL_SECONDS="3600").house
    house.install_triggers()
    (photo,) = carol.plan(1)
    write_files(photo)
    assert house.environment, "asking for it makes the role"
    with psycopg.connect(house.immich.conninfo) as immich:
        insert_rows(immich, house.source, [photo], library=carol.library)
        with house.running() as process:
            immich.commit()
            eventually(lambda: carol.copied(photo), within=20, describe=lambda: process.output[-3000:])


def test_a_set_of_users_that_another_listener_made_its_own_is_made_whole_again(carol: PhotoHouse) -> None:
    """Each listener makes it that of its own jobs when it starts."""
    house = carol.with_settings(RECONCILE_INTERVAL_SECONDS="3600").house
    house.install_triggers()
    (photo,) = carol.plan(1)
    write_files(photo)
    with house.running() as process, psycopg.connect(house.immich.conninfo) as immich:
        immich.execute("DELETE FROM public._face_sync_watch")
        insert_rows(immich, house.source, [photo], library=carol.library)
        immich.commit()
        eventually(lambda: carol.copied(photo), within=20, describe=lambda: process.output[-3000:])
        (later,) = carol.add(1, start=1)
        eventually(lambda: carol.copied(later), describe=lambda: process.output[-3000:])


def test_what_a_trigger_could_not_tell_is_looked_for(carol: PhotoHouse) -> None:
    house = carol.house
    house.install_triggers()
    (photo,) = carol.add(1)
    with house.running() as listener:
        house.settled()
        with psycopg.connect(house.immich.conninfo) as blocker:
            # Longer than the trigger waits: Immich's statement goes on, and nobody is told.
            blocker.execute("LOCK TABLE public._face_sync_watch IN ACCESS EXCLUSIVE MODE")
            house.query("UPDATE asset SET \"originalFileName\" = 'new.jpg' WHERE id = %s", photo.id)
        eventually(lambda: listener.metric("trigger_errors") > 0, within=30)
        house.settled()
