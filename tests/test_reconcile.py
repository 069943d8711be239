"""``listener reconcile``: with the running listener, without one, and only looking."""

import contextlib
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import House
from tests.photos import Photo, PhotoHouse, photo_house


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    made = photo_house(immich, roots, tmp_path)
    made.house.install_triggers()
    return made


def harm(carol: PhotoHouse, photo: Photo) -> None:
    """Change a photo's text without an event, and take the link of its copy away."""
    carol.house.query(
        "WITH quiet AS MATERIALIZED (SELECT set_config('face_sync.quiet', 'on', false))"
        " UPDATE asset_exif SET description = 'harmed' FROM quiet WHERE \"assetId\" = %s",
        photo.id,
    )
    carol.link(photo).unlink()


def described(house: House, photo: Photo) -> object:
    ((text,),) = house.query(
        "SELECT exif.description FROM asset_exif AS exif JOIN _face_sync_asset_map AS map"
        ' ON map.target_asset_id = exif."assetId" WHERE map.source_asset_id = %s',
        photo.id,
    )
    return text


def test_the_running_listener_is_asked_and_followed_to_the_end(carol: PhotoHouse) -> None:
    house, photos = carol.house, carol.add(30)
    with house.running():
        house.settled()
        for photo in photos[:3]:
            harm(carol, photo)
        done = house.command("reconcile")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "0 copied, 0 removed, 0 failed\n"
        # It does not end before the work is done.
        assert house.verify().ok
        assert [described(house, photo) for photo in photos[:3]] == ["harmed"] * 3

        # Some photos only.
        harm(carol, photos[4])
        harm(carol, photos[5])
        done = house.command("reconcile", "--asset", str(photos[4].id))
        assert done.returncode == 0, done.stderr
        assert carol.link(photos[4]).is_symlink()
        assert not carol.link(photos[5]).is_symlink()
        house.command("reconcile", "--job", "photos")
        assert house.verify().ok


def test_without_a_listener_the_command_does_the_work(carol: PhotoHouse) -> None:
    house, photos = carol.house, carol.add(30)
    done = house.command("reconcile")
    assert (done.returncode, done.stdout) == (0, "30 copied, 0 removed, 0 failed\n"), done.stderr
    assert house.verify().ok
    harm(carol, photos[0])
    house.query("DELETE FROM asset WHERE id = %s", photos[1].id)
    photos[2].original.unlink()
    house.query("UPDATE asset_exif SET description = 'x' WHERE \"assetId\" = %s", photos[2].id)
    done = house.command("reconcile")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("0 copied, 1 removed, 1 failed\n")
    assert "listener failures list" in done.stdout
    assert str(photos[2].original) in house.command("failures", "list").stdout
    assert carol.link(photos[0]).is_symlink()


def test_a_job_whose_listener_dies_meanwhile_is_taken_over(carol: PhotoHouse) -> None:
    house = carol.house
    with house.running() as listener:
        carol.add(3)
        house.settled()
        # It holds the jobs, and answers no more.
        listener.popen.send_signal(19)
        carol.add(5, start=10)
        words = house.folder / "reconcile.log"
        with words.open("wb") as log:
            command = subprocess.Popen(
                [sys.executable, "-m", "listener", "reconcile"],
                env=house.environment,
                cwd=house.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            eventually(lambda: "has not answered yet" in words.read_text(), within=30, describe=words.read_text)
            listener.popen.kill()
            said, _ = command.communicate(timeout=60)
        finally:
            command.kill()
            listener.popen.kill()
    assert said == "5 copied, 0 removed, 0 failed\n"
    assert house.verify().ok


def test_a_dry_run_tells_what_would_change_and_changes_nothing(carol: PhotoHouse) -> None:
    house, photos = carol.house, carol.add(4)
    assert house.command("reconcile").returncode == 0
    done = house.command("reconcile", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "nothing would change\n"), done.stderr

    harm(carol, photos[0])
    house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", photos[1].id)
    (new,) = carol.add(1, start=50)
    done = house.command("reconcile", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["what", "asset", "job", "why"]
    found = {(what, asset) for what, asset, _, _ in lines[1:-1]}
    assert found == {("mend", str(photos[0].id)), ("remove", str(photos[1].id)), ("copy", str(new.id))}
    assert "description" in done.stdout
    assert lines[-1] == [f"{len(lines) - 2} would change"]
    # Of one photo.
    one = house.command("reconcile", "--dry-run", "--asset", str(new.id)).stdout
    assert [line.split("\t")[:2] for line in one.splitlines()[1:-1]] == [["copy", str(new.id)]]

    # Nothing was done, neither in rows nor in files.
    assert house.command("reconcile", "--dry-run").stdout == done.stdout
    assert not carol.link(photos[0]).is_symlink()
    assert not carol.copied(new)
    assert carol.copied(photos[1])


def test_wrong_words_are_refused(carol: PhotoHouse) -> None:
    done = carol.house.command("reconcile", "--job", "fotos")
    assert done.returncode == 2
    assert "--job: 'fotos' is no job of the configuration" in done.stderr
    assert "photos" in done.stderr
    done = carol.house.command("reconcile", *(word for _ in range(101) for word in ("--asset", str(carol.library))))
    assert done.returncode == 2
    assert "Name 100 at most" in done.stderr


def test_a_bar_is_shown_at_a_terminal(carol: PhotoHouse) -> None:
    carol.add(20)
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(ours, 65536):
                seen.extend(chunk)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    done = subprocess.run(
        [sys.executable, "-m", "listener", "reconcile"],
        env={**carol.house.environment, "TERM": "xterm"},
        cwd=carol.house.folder,
        stderr=theirs,
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    assert done.returncode == 0, bytes(seen)
    assert b"photos" in seen
    assert b"20/20" in seen
