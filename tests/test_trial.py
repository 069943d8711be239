"""Before the first copy below a prefix it is tried whether its original can be had: else the job pauses."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from listener import mounts
from listener.immich.layout import Layout
from listener.sync import trial
from tests.behaviour.conftest import Home, make_home
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.disks import HEALS_WITHIN, healed, mounted, remount
from tests.photos import PhotoHouse, evented_house

pytest_plugins = ("tests.file_fixtures",)


@pytest.fixture
def prefix(roots: Roots) -> Path:
    made = roots.external / "shared" / "bob"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def original(roots: Roots) -> str:
    path = roots.external / "a.jpg"
    path.write_text("picture")
    return str(path)


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def test_where_links_work_nothing_is_left_of_the_trial(layout: Layout, prefix: Path, original: str) -> None:
    (prefix / "of his own.jpg").touch()
    for originals in ([], [original], [f"{original}.is-missing", original], ["/etc/hostname"]):
        assert trial.problem(layout, str(prefix), originals) is None
    assert [path.name for path in prefix.iterdir()] == ["of his own.jpg"]


def test_a_folder_that_is_not_there_yet_is_not_made(layout: Layout, prefix: Path, original: str) -> None:
    assert trial.problem(layout, str(prefix / "photos" / "2024"), [original]) is None
    assert list(prefix.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.EPERM, "know no symlinks"),
        (errno.EOPNOTSUPP, "know no symlinks"),
        (errno.EROFS, "without :ro"),
        (errno.EACCES, "check PUID and PGID"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_where_no_link_can_be_made_it_says_why(
    number: int, todo: str, layout: Layout, prefix: Path, original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "symlink", refuse(number))
    words = trial.problem(layout, str(prefix), [original])
    assert words is not None
    assert str(prefix) in words
    assert todo in words


def test_a_full_disk_is_told_for_each_photo(layout: Layout, prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "symlink", refuse(errno.ENOSPC))
    assert trial.problem(layout, str(prefix), []) is None


def test_a_link_that_cannot_be_read_through_goes_again(
    layout: Layout, prefix: Path, original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def not_through(path: Any, flags: int, *args: Any, dir_fd: int | None = None, **more: Any) -> int:
        if str(path).startswith(trial.NAME):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return opened(path, flags, *args, dir_fd=dir_fd, **more)

    monkeypatch.setattr(os, "open", not_through)
    assert "cannot be read" in str(trial.problem(layout, str(prefix), [original]))
    assert list(prefix.iterdir()) == []
    # As SMB shares make them that keep only a text.
    monkeypatch.setattr(os, "readlink", lambda *_, **__: "elsewhere")
    assert "leads elsewhere" in str(trial.problem(layout, str(prefix), []))
    assert list(prefix.iterdir()) == []


def test_what_a_killed_trial_has_left_goes_and_nothing_else(layout: Layout, prefix: Path) -> None:
    left, file = (prefix / f"{trial.NAME}{name}" for name in ("left", "file"))
    left.symlink_to("nowhere")
    file.touch()
    assert trial.problem(layout, str(prefix), []) is None
    assert {*prefix.iterdir()} == {file}


def test_one_that_another_process_takes_for_left_over_was_made_all_the_same(
    layout: Layout, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.readlink

    def gone(path: str, *, dir_fd: int) -> str:
        os.unlink(path, dir_fd=dir_fd)
        return read(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", gone)
    assert trial.problem(layout, str(prefix), []) is None


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def test_below_a_mount_for_reading_only_no_copy_is_shown_before_it_is_mounted_for_writing(
    carol: PhotoHouse, roots: Roots
) -> None:
    carol.add(2)
    shared = roots.external / "shared"
    with mounted(shared, "-t", "tmpfs", "none"):
        remount(shared, "ro")
        checked = carol.house.command("check")
        assert checked.returncode == 1
        assert "danger   links of 'photos': no link can be made in" in checked.stdout
        assert "without :ro" in carol.house.command("reconcile").stderr
        with carol.house.running(ready=False) as process:
            eventually(lambda: process.metric("paused") == 2, within=HEALS_WITHIN)
            assert "without :ro" in process.get("/readyz").text
            carol.house.sweep()
            eventually(lambda: process.metric("sweeps_total") >= 2, within=HEALS_WITHIN)
            assert carol.copies() == 0
            assert carol.failures() == {}, "it is no fault of the photos'"
            remount(shared, "rw")
            process.wait_ready()
            healed(carol, 2, process)


@pytest.fixture
def home(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> Iterator[Home]:
    with ExitStack() as stack:
        yield make_home(immich, roots, tmp_path, stack)


def test_a_file_system_without_symlinks_is_tried_again_and_loses_what_is_locked(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_TRIED_AGAIN", 0.1)
    home.start()
    photo = home.alice.upload("a.jpg")
    home.settled()
    home.stop()
    symlink = os.symlink
    monkeypatch.setattr(os, "symlink", refuse(errno.EPERM))
    home.start(but="know no symlinks")
    new = home.alice.upload("b.jpg")
    home.alice.lock(photo)
    eventually(lambda: home.copy_of(photo) is None)
    assert home.copy_of(new) is None
    monkeypatch.setattr(os, "symlink", symlink)
    home.copied(new)
    home.settled()
