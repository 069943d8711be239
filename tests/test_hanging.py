"""A folder that does not answer pauses its jobs and nothing else: the others go on, and health answers."""

import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.hanging import hanging, impatient, running
from tests.house import Process
from tests.oddities import Oddity
from tests.photos import PhotoHouse, evented_house, write_files

SILENT_WITHIN = 20.0


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def answers_at_once(process: Process) -> bool:
    began = time.monotonic()
    assert process.get("/healthz").status_code == 200
    assert time.monotonic() - began < 1
    return True


def silent(process: Process) -> bool:
    return answers_at_once(process) and "does not answer" in process.get("/readyz").text


def ready(process: Process) -> None:
    eventually(lambda: process.get("/readyz").status_code == 200, within=20, describe=lambda: process.output[-3000:])


def test_a_folder_that_hangs_pauses_its_job_and_the_others_go_on(carol: PhotoHouse, oddity: Oddity) -> None:
    with running(carol.house) as process:
        carol.add(2)
        carol.upload(1, start=50)
        carol.house.settled()
        (private,) = carol.add(1, start=10)
        eventually(lambda: carol.copied(private))
        (late,) = carol.plan(1, start=20)
        write_files(late)
        with hanging(carol.folder):
            carol.rows([late])
            eventually(lambda: silent(process), within=SILENT_WITHIN, describe=lambda: process.output[-3000:])
            assert f"the folder {carol.folder} does not answer" in process.get("/readyz").text
            assert process.metric("silent") == 1
            # The other job shares on, and what nobody may see any more goes also from the one that pauses.
            (upload,) = carol.upload(1, start=60)
            carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", private.id)
            eventually(lambda: carol.copied(upload), describe=lambda: process.output[-3000:])
            eventually(lambda: not carol.copied(private), describe=lambda: process.output[-3000:])
            carol.house.sweep()
            assert not carol.copied(late)
            assert answers_at_once(process)
        eventually(
            lambda: process.get("/readyz").status_code == 200, within=20, describe=lambda: process.output[-3000:]
        )
        assert carol.house.settled().copies == 5
        assert process.metric("silent") == 0
        assert process.metric("reconnects_total") == 0, "nothing had to begin anew"
        assert process.end() == 0
    oddity(
        "the folder of one job hangs, as a share does whose server is away",
        "/readyz, log, metric silent: the folder /external_library/… does not answer",
        "the other jobs, health, and what must be taken out of sight also here; all else when it answers",
    )


@pytest.mark.parametrize("which", ["media", pytest.param("external", marks=pytest.mark.soak)])
def test_a_root_that_hangs_is_told_and_stopping_takes_no_longer(carol: PhotoHouse, which: str, oddity: Oddity) -> None:
    roots = carol.house.roots
    with running(carol.house) as process:
        carol.add(1)
        carol.house.settled()
        with hanging(roots.media if which == "media" else roots.external):
            eventually(lambda: silent(process), within=SILENT_WITHIN, describe=lambda: process.output[-3000:])
            began = time.monotonic()
            process.signal(signal.SIGTERM)
            assert process.popen.wait(9) == 0, process.output
            assert time.monotonic() - began < 9
        assert "Traceback" not in process.output
    oddity(
        "Immich's media folder hangs while the listener is told to stop",
        "/readyz: the folder /data does not answer",
        "health; it ends within seconds",
    )


def test_a_source_that_hangs_at_the_start_refuses_its_job_until_it_answers(carol: PhotoHouse, oddity: Oddity) -> None:
    carol.add(1)
    with hanging(carol.folder), ExitStack() as closing:
        process = impatient(carol.house)
        closing.callback(process.end)
        eventually(
            lambda: "does not answer" in process.get("/readyz").text, within=30, describe=lambda: process.output[-3000:]
        )
        carol.upload(1, start=60)
        eventually(lambda: carol.copies() == 1, within=20, describe=lambda: process.output[-3000:])
        assert answers_at_once(process)
        closing.pop_all()
    try:
        eventually(
            lambda: process.get("/readyz").status_code == 200, within=30, describe=lambda: process.output[-3000:]
        )
        assert carol.house.settled().copies == 2
    finally:
        assert process.end() == 0
    oddity(
        "the source folder of one job hangs when the listener starts",
        "the job is refused: the folder … does not answer. It is tried again by itself",
        "the other jobs; this one within seconds after it answers",
    )


def test_idle_connections_keep_nobody_from_health(carol: PhotoHouse, oddity: Oddity) -> None:
    with running(carol.house) as process, ExitStack() as closing:
        port = int(process.url.rsplit(":", 1)[1])
        for number in range(120):
            idle = closing.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            # Some say nothing at all, some begin and do not go on.
            idle.sendall(b"GET /healthz HTTP/1.1\r\n" if number % 2 else b"")
        for _ in range(3):
            assert answers_at_once(process)
            assert process.get("/readyz").status_code == 200
    oddity("120 connections to the HTTP port that ask for nothing", "nothing", "health answers at once")
