"""The disk says no: full, read-only, forbidden, of two file systems; and names at the limits of what a
file may be called. The listener is the real process, the file systems are real ones."""

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.disks import (
    HEALS_WITHIN,
    counted,
    disk,
    failed,
    fill,
    halves,
    healed,
    look,
    mounted,
    moved,
    prepared,
    remount,
    use_up,
)
from tests.house import House, Process
from tests.photos import Photo, PhotoHouse, evented_house, write_files

SOMEBODY = 12345
GROUP = 23456


@pytest.fixture
def new_carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> Callable[..., PhotoHouse]:
    """Return a function that makes carol's house once its roots are what they should be."""
    return partial(evented_house, immich, roots, tmp_path)


@pytest.fixture
def carol(new_carol: Callable[..., PhotoHouse]) -> PhotoHouse:
    return new_carol()


# --- full, read-only, forbidden ----------------------------------------------------------------------------


def test_full_disks_are_told_and_heal_by_themselves_when_there_is_space(
    new_carol: Callable[..., PhotoHouse], roots: Roots
) -> None:
    """First the disk of the thumbnails is full, then that of the links; once a restart comes between."""
    with disk(roots.media), disk(roots.external):
        carol = new_carol()
        old, *new = prepared(carol, 4)
        with carol.house.running() as process:
            carol.rows([old])
            healed(carol, 1, process)
            empty_media, empty_external = fill(roots.media), fill(roots.external)
            carol.rows(new)
            for photo in new:
                failed(carol, photo, "No space left on device", process)
            assert carol.copies() == 1
            assert carol.house.verify().copies == 1
            empty_media()
            # A link needs a block where its text is long: a copy whose original cannot be had is none.
            for photo in new:
                eventually(
                    lambda photo=photo: (  # type: ignore[misc]
                        (carol.copied(photo) and carol.link(photo).is_symlink())
                        or "cannot make the link" in carol.failures().get(photo.id, ("", 0))[0]
                    ),
                    within=HEALS_WITHIN,
                    describe=lambda: process.output[-3000:],
                )
        with carol.house.running(ready=False) as process:
            deep = moved(carol.plan(1, start=50)[0], carol.folder / "2024" / "IMG.jpg")
            empty_external()
            write_files(deep)
            empty_external = fill(roots.external)
            carol.rows([deep])
            reason = failed(carol, deep, "No space left on device", process)
            assert "cannot make the link" in reason
            assert not carol.link(deep).is_symlink()
            empty_external()
            healed(carol, 5, process)


def test_without_an_inode_left_nothing_is_half_made(new_carol: Callable[..., PhotoHouse], roots: Roots) -> None:
    small = ("-t", "tmpfs", "-o", "size=16m,nr_inodes=200", "tmpfs")
    with mounted(roots.media, *small), mounted(roots.external, *small):
        carol = new_carol()
        photos = prepared(carol, 3)
        free_media, free_external = use_up(roots.media), use_up(roots.external)
        with carol.house.running() as process:
            carol.rows(photos)
            for photo in photos:
                failed(carol, photo, "No space left on device", process)
            assert carol.copies() == 0
            free_media()
            for photo in photos:
                failed(carol, photo, "cannot make the link", process)
            free_external()
            healed(carol, 3, process)


def test_a_limit_on_the_size_of_files_fails_the_big_one_only(new_carol: Callable[..., PhotoHouse]) -> None:
    """Needs no disk of its own: what is written past the limit fails in the middle of the file."""
    carol = new_carol(LINK_MODE="copy")
    small, big = prepared(carol, 2)
    big.preview.write_bytes(os.urandom(3 << 20))
    with carol.house.running() as process:
        before = resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
        carol.rows([small, big])
        failed(carol, big, "File too large", process)
        eventually(lambda: carol.copied(small), describe=lambda: process.output[-3000:])
        assert halves(carol) == []
        resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, before)
        healed(carol, 2, process)


def test_read_only_disks_stop_nothing_for_good(new_carol: Callable[..., PhotoHouse], roots: Roots) -> None:
    """Nothing can be made and nothing removed; afterwards both are made up for."""
    memory = ("-t", "tmpfs", "tmpfs")
    with mounted(roots.media, *memory), mounted(roots.external, *memory):
        carol = new_carol()
        kept, doomed, new = prepared(carol, 3)
        with carol.house.running() as process:
            carol.rows([kept, doomed])
            healed(carol, 2, process)
            for root in (roots.media, roots.external):
                remount(root, "ro")
            carol.rows([new])
            carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", doomed.id)
            for photo in (new, doomed):
                failed(carol, photo, "Read-only file system", process)
            assert carol.copies() == 1, "rows wait for no disk"
            assert carol.link(doomed).is_symlink()
            for root in (roots.media, roots.external):
                remount(root, "rw")
            healed(carol, 2, process)
            assert not carol.copied(doomed)
            assert not carol.link(doomed).is_symlink()


# --- somebody else's process -------------------------------------------------------------------------------


@contextlib.contextmanager
def running_as(house: House, user: int, group: int, *, umask: int = 0o022) -> Iterator[Process]:
    """Run the listener as compose does with PUID and PGID. It may read everything: its own Python may be root's."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can run the listener as somebody else, by setpriv")
    log = house.folder / f"listener-{uuid4().hex[:8]}.log"
    rights = () if user == 0 else ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search")
    who = ("--reuid", str(user), "--regid", str(group), "--clear-groups", *rights)
    with log.open("wb") as output:
        popen = subprocess.Popen(
            ["setpriv", *who, sys.executable, "-m", "listener", "run"],
            env=house.environment,
            cwd=house.folder,
            stdout=output,
            stderr=output,
            umask=umask,
        )
    process = Process(popen, log)
    try:
        process.wait_ready()
        yield process
    finally:
        process.end()


def give(root: Path, user: int, group: int, *, folders: int = 0o750, files: int = 0o640) -> None:
    """Give everything below a folder, and itself, an owner and modes."""
    for path in (root, *root.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(folders if path.is_dir() else files)


@contextlib.contextmanager
def unwritable(root: Path) -> Iterator[None]:
    """Let nothing be made in a folder, nor in those below it: a new copy may fall into one that is there already."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*")) if path.is_dir()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_what_root_makes_has_the_owner_and_mode_of_its_neighbours(
    new_carol: Callable[..., PhotoHouse], roots: Roots
) -> None:
    """Whatever the process's umask is: one that hides nothing, and one that hides all."""
    carol = new_carol(LINK_MODE="copy")
    photos = [moved(photo, carol.folder / photo.id.hex / "IMG.jpg") for photo in carol.plan(2)]
    for photo in photos:
        write_files(photo)
    give(roots.media, SOMEBODY, GROUP, folders=0o2770, files=0o640)
    give(roots.external, SOMEBODY + 1, GROUP, folders=0o777, files=0o604)
    before = look(roots.media, roots.external)
    for number, umask in enumerate((0o000, 0o077)):
        with running_as(carol.house, 0, 0, umask=umask) as process:
            carol.rows([photos[number]])
            healed(carol, number + 1, process)
    after = look(roots.media, roots.external)
    assert {path: after[path] for path in before} == before, "a neighbour was changed"
    made = {path: after[path] for path in after.keys() - before.keys()}
    for path, found in made.items():
        below_media = path.is_relative_to(roots.media)
        if path.is_symlink():
            assert found[1:] == (SOMEBODY + 1, GROUP), path
        elif path.is_dir():
            # World-writable is not passed on.
            assert found == ((0o2770, SOMEBODY, GROUP) if below_media else (0o775, SOMEBODY + 1, GROUP)), path
        else:
            assert found == (0o640, SOMEBODY, GROUP), path
    assert len([path for path in made if path.is_file() and not path.is_symlink()]) == 4
    assert len([path for path in made if path.is_symlink()]) == 2


def test_as_another_user_everything_works_with_what_that_user_may(
    new_carol: Callable[..., PhotoHouse], roots: Roots
) -> None:
    """PUID and PGID are Immich's: what is made is theirs. Then the folder of the thumbnails is taken from them."""
    carol = new_carol()
    first, foreign, later = prepared(carol, 3)
    give(roots.media, SOMEBODY, GROUP)
    give(roots.external, SOMEBODY, GROUP)
    for path in (foreign.preview, foreign.thumbnail):
        os.chown(path, 0, 0)
        path.chmod(0o644)
    before = look(roots.media, roots.external)
    with running_as(carol.house, SOMEBODY, GROUP) as process:
        carol.rows([first, foreign])
        # Linux lets nobody hardlink a file that they neither own nor may write: such a one is copied.
        guarded = Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"
        copied = 2 if guarded else 0
        healed(carol, 2, process, mixed=copied)
        assert counted(process, "copy") + counted(process, "reflink") == copied
        assert ("hardlinks cannot be made here" in process.output) is guarded
        after = look(roots.media, roots.external)
        assert {path: after[path] for path in before} == before
        assert {found[1:] for path, found in after.items() if path not in before and path.stat().st_uid} == {
            (SOMEBODY, GROUP)
        }
        assert {found[0] for path, found in after.items() if path not in before and path.is_dir()} == {0o750}
        with unwritable(roots.media / "thumbs" / str(carol.house.target)):
            carol.rows([later])
            failed(carol, later, "Permission denied", process)
        healed(carol, 3, process, mixed=copied)


# --- hardlinks that cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pytest.param("another file system", marks=pytest.mark.soak), "another mount of the same"]
)
def test_across_mounts_files_are_copied_counted_and_that_is_said_once(
    carol: PhotoHouse, roots: Roots, tmp_path: Path, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    how = ("-t", "tmpfs", "tmpfs") if kind == "another file system" else ("--bind", str(elsewhere))
    with mounted(roots.media / "thumbs" / str(carol.house.target), *how), carol.house.running() as process:
        for number in range(3):
            carol.add(1, start=number)
            healed(carol, number + 1, process)
        assert counted(process, "copy") + counted(process, "reflink") == 6
        assert counted(process, "hardlink") == 0
        assert process.output.count("hardlinks cannot be made here") == 1
        assert process.metric("failures_total") == 0


@pytest.mark.soak
def test_a_file_that_has_all_the_links_it_may_have_is_copied(
    new_carol: Callable[..., PhotoHouse], roots: Roots
) -> None:
    with disk(roots.media, megabytes=32):
        carol = new_carol()
        (photo,) = prepared(carol, 1)
        many = roots.media / "many"
        many.mkdir()
        with contextlib.suppress(OSError):
            for number in range(70_000):
                os.link(photo.preview, many / str(number))
        assert photo.preview.stat().st_nlink < 70_000, "this file system has no such limit"
        with carol.house.running() as process:
            carol.rows([photo])
            healed(carol, 1, process, mixed=1)
            assert (counted(process, "copy"), counted(process, "hardlink")) == (1, 1)


# --- names at the limits -----------------------------------------------------------------------------------


def _names_of_every_byte() -> list[str]:
    """Return names that have, among them, every byte that text in UTF-8 has and a name may have."""
    chars = [chr(code) for code in range(1, 128) if chr(code) != "/"]
    # Every leading byte of two, three and four, with every byte that may follow.
    chars += [chr(code) for code in range(0x80, 0x100)]
    chars += [chr(code) for code in range(0x100, 0x800, 0x40)]
    chars += [chr(code) for code in range(0x800, 0x10000, 0x1000) if not 0xD800 <= code < 0xE000]
    chars += ["\ue000", "\ud7ff", *(chr(code) for code in range(0x10000, 0x110000, 0x40000)), "\U0010ffff"]
    names = [""]
    for char in chars:
        if len((names[-1] + char).encode()) > 240:
            names.append("")
        names[-1] += char
    return [f"{name}.jpg" for name in names]


def test_every_byte_that_a_name_may_have_and_bytes_that_no_row_can_name(carol: PhotoHouse, roots: Roots) -> None:
    names = _names_of_every_byte()
    used = set("".join(names).encode())
    never = {0, ord("/"), 0xC0, 0xC1, *range(0xF5, 0x100)}
    assert used == set(range(256)) - never
    photos = [
        moved(planned, carol.folder / "2024" / name)
        for planned, name in zip(carol.plan(len(names)), names, strict=True)
    ]
    (strange,) = carol.plan(1, start=100)
    # Immich decodes such a name with signs of replacement, and then does not find the file.
    strange = moved(strange, carol.folder / "2024" / "IMG_\ufffd\ufffd.jpg")
    for photo in (*photos, strange):
        write_files(photo)
    strange.original.rename(os.fsdecode(os.fsencode(carol.folder / "2024") + b"/IMG_\xff\xc0.jpg"))
    # Files of the target user's own, beside our links and beside our thumbnails.
    own = [carol.link(photos[0]).parent, roots.media / "thumbs" / str(carol.house.target)]
    for folder in own:
        folder.mkdir(parents=True)
        for name in (bytes(range(1, 47)), b"\xff\xfe\x80.jpg", bytes(range(0x80, 0x100))):
            Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"bob's")
    mine = look(*own)
    with carol.house.running() as process:
        carol.rows([*photos, strange])
        reason = failed(carol, strange, "is missing", process)
        assert "IMG_\ufffd\ufffd.jpg" in reason
        eventually(lambda: carol.copies() == len(photos), describe=lambda: process.output[-3000:])
        for photo in photos:
            assert carol.link(photo).samefile(photo.original)
        carol.house.query('DELETE FROM asset WHERE "ownerId" = %s', carol.house.source)
        eventually(lambda: carol.copies() == 0 and not carol.failures(), describe=lambda: process.output[-3000:])
        assert look(*own).items() >= mine.items()
        for path in own[1].iterdir():
            # The judge takes any file among Immich's that no row names for one of ours.
            if path.is_file():
                path.unlink()
        healed(carol, 0, process)
    assert {path.name for path in own[0].iterdir()} == {path.name for path in mine if path.parent == own[0]}


def test_names_and_paths_at_their_longest(carol: PhotoHouse) -> None:
    """What fits for the source and not for its copy fails alone, in words, before anything of it is made."""
    job = carol.house.jobs[0]
    longer = len(job.target_path_prefix) - len(job.source_path_prefix)
    assert longer > 0

    def path_of(bytes_: int) -> Path:
        left = bytes_ - len(str(carol.folder)) - 1
        names = ["d" * 200] * (left // 201 - 1)
        left -= 201 * len(names)
        return carol.folder.joinpath(*names, "e" * (left // 2), "f" * (left - left // 2 - 1))

    plans = carol.plan(5)
    longest_name = moved(plans[0], carol.folder / ("n" * 251 + ".jpg"))
    fits = moved(plans[1], path_of(4095 - longer))
    too_long = moved(plans[2], path_of(4095))
    # A generated file with the longest name: on its way to its place it has another one.
    thumbnail = plans[3].thumbnail.with_name(f"{plans[3].id}_{'t' * 213}.webp")
    long_thumbnail = Photo(plans[3].id, plans[3].original, plans[3].preview, thumbnail)
    # PostgreSQL has an index of paths, whose entries are shorter than a path may be.
    noise = "/".join(os.urandom(100).hex() for _ in range(13))[: 2660 - len(str(carol.folder))]
    no_entry = moved(plans[4], carol.folder / noise)
    assert (len(str(fits.original)), len(str(too_long.original))) == (4095 - longer, 4095)
    assert len(thumbnail.name) == 255
    photos = [longest_name, fits, too_long, long_thumbnail, no_entry]
    for photo in photos:
        write_files(photo)
    with carol.house.running() as process:
        carol.rows(photos)
        assert "shorten target_path_prefix" in failed(carol, too_long, "too long", process).lower()
        failed(carol, no_entry, "index row", process)
        eventually(lambda: carol.copies() == 3, describe=lambda: process.output[-3000:])
        for photo in (longest_name, fits, long_thumbnail):
            assert carol.link(photo).samefile(photo.original)
        assert {difference.source_asset_id for difference in carol.house.verify().differences} == {
            too_long.id,
            no_entry.id,
        }
        thumbs = carol.house.roots.media / "thumbs" / str(carol.house.target)
        assert len([path for path in thumbs.rglob("*_*") if path.is_file()]) == 6 + 2, "only the refused one is begun"
        carol.house.query("DELETE FROM asset WHERE id = ANY(%s)", [too_long.id, no_entry.id])
        healed(carol, 3, process)
