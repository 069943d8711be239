"""File systems that cannot do what others can: what is tried, how often, and what is made instead."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from listener.immich.layout import Layout
from listener.ops import logs
from listener.sync import folders
from listener.sync.files import FileProblemError, FileTask, How, OriginalLinks, place
from listener.sync.means import CANNOT, Means

pytest_plugins = ("tests.file_fixtures",)

OLD_NS = 1_500_000_000_123_456_789


class Disk:
    """The thumbnails of two users, and what is placed of them in one session."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.means = Means()

    def task(self, name: str, *, content: bytes = b"picture", shared: bool = True) -> FileTask:
        source, target = (self.layout.media_root / "thumbs" / user / "aa" / "bb" / name for user in ("alice", "bob"))
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content)
        os.utime(source, ns=(OLD_NS, OLD_NS))
        return FileTask(str(source), str(target), shared=shared)

    def place(self, task: FileTask) -> How:
        return place(task, self.layout, "auto", self.means)

    def placed(self, name: str) -> How:
        return self.place(self.task(name))


@pytest.fixture
def disk(layout: Layout) -> Disk:
    return Disk(layout)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Let a call of the file layer fail, for some names or all, and list what it was asked for."""

    def refuse(call: str, number: int, *only: str) -> list[object]:
        asked: list[object] = []
        real = getattr(os, call)

        def refusing(*args: object, **how: object) -> object:
            asked.append(args[0])
            if not only or args[0] in only:
                raise OSError(number, os.strerror(number))
            return real(*args, **how)

        monkeypatch.setattr(os, call, refusing)
        return asked

    return refuse


@pytest.mark.parametrize("number", sorted(CANNOT - {errno.EMLINK}))
def test_a_file_system_without_hardlinks_is_asked_once(
    disk: Disk, refuse: Callable[..., list[object]], number: int
) -> None:
    asked = refuse("link", number)
    assert disk.placed("one.webp") in {"copy", "reflink"}
    tries = len(asked)
    assert tries == (1 if number == errno.EXDEV else 2)
    assert {disk.placed(f"{count}.webp") for count in range(5)} <= {"copy", "reflink"}
    assert len(asked) == tries
    assert disk.place(disk.task("one.webp")) == "unchanged"
    assert not list(disk.layout.media_root.rglob("*.partial"))


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EPERM, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_have_another_link_stands_for_itself(
    disk: Disk, refuse: Callable[..., list[object]], number: int
) -> None:
    """It has too many, or belongs to somebody else (fs.protected_hardlinks)."""
    refuse("link", number, "odd.webp", "odd2.webp")
    assert disk.placed("odd.webp") in {"copy", "reflink"}
    assert disk.placed("next.webp") == "hardlink"
    assert disk.placed("odd2.webp") in {"copy", "reflink"}
    assert disk.placed("last.webp") == "hardlink"
    assert not list(disk.layout.media_root.rglob("*.partial"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_want_of_room_stays_a_failure_and_is_not_remembered(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, refuse: Callable[..., list[object]], number: int
) -> None:
    with monkeypatch.context():
        refuse("link", number)
        with pytest.raises(FileProblemError) as told:
            disk.placed("a.webp")
    assert told.value.kind == errno.errorcode[number]
    monkeypatch.undo()
    assert disk.placed("a.webp") == "hardlink"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
@pytest.mark.parametrize("call", ["utime", "fchmod", "fchown"])
def test_what_is_only_an_attribute_is_tolerated_and_told_once(
    disk: Disk,
    refuse: Callable[..., list[object]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    number: int,
) -> None:
    monkeypatch.setattr(folders, "_once", logs.Limited(folders.log, period=float("inf")))
    tasks = [disk.task(f"{count}.jpeg", shared=False) for count in range(2)]
    Path(tasks[0].source).chmod(0o640)
    refuse(call, number)
    with caplog.at_level(logging.WARNING):
        assert [disk.place(task) in {"copy", "reflink"} for task in tasks] == [True, True]
        # However it is judged: nothing is copied again and again.
        assert [disk.place(task) for task in tasks] == ["unchanged"] * 2
    assert sum("cannot be given" in record.getMessage() for record in caplog.records) <= 1
    if call == "utime":
        assert "cannot be given the times" in caplog.text
        monkeypatch.undo()
        Path(tasks[0].source).write_bytes(b"another")
        assert disk.place(tasks[0]) in {"copy", "reflink"}
        assert Path(tasks[0].target).read_bytes() == b"another"


@pytest.mark.parametrize("grain", [100, 1_000, 10_000_000, 1_000_000_000, 2_000_000_000])
def test_a_disk_that_keeps_times_coarsely_is_not_written_again_and_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, grain: int
) -> None:
    real = os.utime

    def coarse(path: int, *, ns: tuple[int, int]) -> None:
        real(path, ns=(ns[0] - ns[0] % grain, ns[1] - ns[1] % grain))

    task = disk.task("a.jpeg", shared=False)
    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", coarse)
        assert disk.place(task) in {"copy", "reflink"}
        assert disk.place(task) == "unchanged"
    os.utime(task.source, ns=(OLD_NS, OLD_NS + 2 * grain))
    assert disk.place(task) in {"copy", "reflink"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EOVERFLOW, errno.ESTALE])
def test_the_time_of_an_original_that_cannot_be_read_is_immichs(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whose photo it is, and whether it is one, is known by then."""
    folder = layout.external_root / "alice"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"original")
    (folder / "link.jpg").symlink_to("a.jpg")
    links = OriginalLinks(layout, str(layout.external_root / "bob"), str(folder))

    real = Path.stat

    def fail(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if follow_symlinks:
            raise OSError(number, os.strerror(number))
        return real(path, follow_symlinks=False)

    monkeypatch.setattr(Path, "stat", fail)
    assert links.modified_ns(str(folder / "link.jpg")) is None
