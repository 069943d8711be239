"""File systems of our own, and how things stand on them: for tests of what disks do."""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.house import Process
from tests.photos import Photo, PhotoHouse, write_files

HEALS_WITHIN = 30.0


# --- file systems of our own -------------------------------------------------------------------------------


def mount(folder: Path, *words: str) -> None:
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


@contextlib.contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Mount something on a folder until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, *words)
    try:
        yield
    finally:
        unmount(folder)


@contextlib.contextmanager
def disk(folder: Path, *, megabytes: int = 8) -> Iterator[None]:
    """Mount an ext4 of its own on a folder: there a folder and a link need a block, as on most disks."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("an ext4 of its own needs root and mkfs.ext4")
    image = folder.with_name(f"{folder.name}.ext4")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True, capture_output=True)
    with mounted(folder, "-o", "loop", str(image)):
        (folder / "lost+found").rmdir()
        yield


def fill(folder: Path) -> Callable[[], None]:
    """Fill the disk to its last block; returns what frees it."""
    filler = folder / "filler"
    filler.mkdir()
    with (filler / "big").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)
    # What the file system kept back goes into folders, of a block each.
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (filler / str(number)).mkdir()
    return lambda: shutil.rmtree(filler)


def use_up(folder: Path) -> Callable[[], None]:
    """Make files until there is no inode left; returns what frees them."""
    filler = folder / "filler"
    filler.mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (filler / str(number)).touch()
    return lambda: shutil.rmtree(filler)


def remount(folder: Path, how: str) -> None:
    def done() -> bool:
        words = ["mount", "-o", f"remount,{how}", str(folder)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    # Somebody may be writing a file at this moment.
    eventually(done, describe=f"remount of {folder}")


# --- how things stand -------------------------------------------------------------------------------------


def prepared(carol: PhotoHouse, count: int, *, start: int = 0) -> list[Photo]:
    """Return photos whose files are there and whose rows are not."""
    photos = carol.plan(count, start=start)
    for photo in photos:
        write_files(photo)
    return photos


def moved(photo: Photo, original: Path) -> Photo:
    """Return the same planned photo with its original elsewhere."""
    return replace(photo, original=original)


def failed(carol: PhotoHouse, photo: Photo, words: str, process: Process) -> str:
    """Wait until this photo's failure is on record with these words; returns the whole reason."""

    def told() -> bool:
        return words in carol.failures().get(photo.id, ("", 0))[0]

    eventually(told, within=HEALS_WITHIN, describe=lambda: f"{carol.failures()}\n{process.output[-3000:]}")
    return carol.failures()[photo.id][0]


def healed(carol: PhotoHouse, copies: int, process: Process, *, mixed: int = 0) -> None:
    """Wait until all is as it should be, by itself, with so many copies and no failure left.

    mixed: how many files are no hardlinks though others are: the judge cannot see why.
    """
    eventually(
        lambda: carol.copies() == copies and not carol.failures(),
        within=HEALS_WITHIN,
        describe=lambda: f"{carol.copies()} copies, {carol.failures()}\n{process.output[-3000:]}",
    )
    if mixed:
        eventually(lambda: len(carol.house.verify().differences) == mixed, describe=carol.house.verify)
        assert {difference.rule for difference in carol.house.verify().differences} == {"file.inode"}
    else:
        assert carol.house.settled().copies == copies
    assert halves(carol) == []
    assert process.popen.poll() is None
    assert "Traceback" not in process.output


def halves(carol: PhotoHouse) -> list[Path]:
    return [path for root in (carol.house.roots.media, carol.house.roots.external) for path in root.rglob("*.partial")]


def counted(process: Process, how: str) -> float:
    lines = process.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if f'files_total{{how="{how}"}}' in line)


def look(*roots: Path) -> dict[Path, tuple[int, int, int]]:
    """Return mode, owner and group of everything below these folders."""
    found = {path: path.lstat() for root in roots for path in (root, *root.rglob("*"))}
    return {path: (stat.S_IMODE(at.st_mode), at.st_uid, at.st_gid) for path, at in found.items()}
