"""Folders held open while something is made or removed in them.

A path is checked and then used, and whoever may write somewhere below our folders could swap a folder for a symlink in
between: the same path would then lead to the source's own files. So folders are opened one by one from a root
downwards, no symlink is followed on the way, and everything happens by name in the folder that is open.

What we make gets the mode and, where we run as root, the owner of its neighbour: a folder and a link those of the
folder around them, a copy those of the file it is made from. No neighbour is ever changed.
"""

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from listener.immich.layout import RefusedPathError, Root, identity
from listener.ops import logs

log = logs.get("folders")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# An empty folder may be taken away by another batch between making it and using it.
_ATTEMPTS = 5
# What of a neighbour's mode is passed on: never writing for everybody, and no program that runs as its owner.
MODE = 0o775
_SETGID = 0o2000
_once = logs.Limited(log, period=math.inf)
# Root without the right to, or a file system that knows no owners.
_OWNERS = "files cannot be given the owner and mode of those around them: set PUID and PGID to Immich's user"
_TIMES = "files cannot be given the times of those they are copied from: they are compared by their bytes"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder that is held open: a descriptor. What it is, is asked without following a symlink."""

    folder: int
    name: str

    def lstat(self) -> os.stat_result:
        """Return what is there. Raises FileNotFoundError."""
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    def open(self, flags: int) -> int:
        """Open a file, and never a symlink. Returns the descriptor; a file that is made is its owner's alone."""
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.folder)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the name."""
        with contextlib.suppress(*([FileNotFoundError] if missing_ok else [])):
            os.unlink(self.name, dir_fd=self.folder)

    def beside(self, name: str) -> "Entry":
        """Return another name in the same folder."""
        return Entry(self.folder, name)


@contextlib.contextmanager
def held(path: Path, root: Root, *, make: bool = False) -> Iterator[Entry]:
    """Hold the folder of ``path`` open, which is ``root`` or below it; no symlink is followed from the root on.

    With ``make``, folders that are missing are made, never the root. Raises RefusedPathError where a symlink is on the
    way or the path is not below the root, SwappedError where the root is another folder than it was, OSError, and
    FileNotFoundError where the folder is not there.
    """
    if not path.is_relative_to(root.path) or ".." in path.parts:
        raise RefusedPathError(f"the path {str(path)!r} leads out of {str(root.path)!r}")
    try:
        folder = os.open(root.path, _FOLDER)
    except OSError:
        root.confirm(identity(root.path))
        raise
    try:
        found = os.fstat(folder)
        root.confirm((found.st_dev, found.st_ino))
        for part in path.relative_to(root.path).parts[:-1]:
            below = _step(folder, part, path, make=make)
            os.close(folder)
            folder = below
        yield Entry(folder, path.name)
    finally:
        os.close(folder)


def really_held(path: Path, root: Root, *, make: bool = False) -> contextlib.AbstractContextManager[Entry]:
    """Do as `held`, where symlinks above the file are in order as long as they stay below the root."""
    real = replace(root, path=Path(os.path.realpath(root.path)))
    return held(Path(os.path.realpath(path.parent), path.name), real, make=make)


def within(
    path: Path,
    root: Root,
    make: Callable[[Entry], None],
    hold: Callable[..., contextlib.AbstractContextManager[Entry]] = held,
) -> None:
    """Make something in a folder, and the folder before it, also where others take empty folders away."""
    for attempt in range(_ATTEMPTS):
        try:
            with hold(path, root, make=True) as entry:
                make(entry)
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1 or path.parent.is_dir():
                raise
        else:
            return


def make_alike(made: int, neighbour: os.stat_result, mode: int) -> None:
    """Give a file or folder that we made and have open a mode, and the owner of its neighbour.

    Only root can give things away, else they are ours (PUID and PGID).
    """

    def change() -> None:
        if os.geteuid() == 0:
            os.fchown(made, neighbour.st_uid, neighbour.st_gid)
        # The process's umask may have taken some away. What a folder passes on by itself stays.
        now = os.fstat(made).st_mode
        if now & MODE != mode:
            os.fchmod(made, mode | now & _SETGID)

    _changed(change, _OWNERS)


def give_time(made: int, like: os.stat_result) -> bool:
    """Give a file that we made and have open the time of another one. Tell whether this file system lets us."""
    return _changed(lambda: os.utime(made, ns=(like.st_atime_ns, like.st_mtime_ns)), _TIMES)


def make_link_alike(link: Entry) -> None:
    """Give a symlink that we made the owner of its folder."""
    around = os.fstat(link.folder)

    def change() -> None:
        if os.geteuid() == 0:
            os.chown(link.name, around.st_uid, around.st_gid, dir_fd=link.folder, follow_symlinks=False)

    _changed(change, _OWNERS)


def _changed(change: Callable[[], None], words: str) -> bool:
    """Change what is only an attribute: where that is refused, the file is there all the same."""
    try:
        change()
    except FileNotFoundError:
        raise
    except (OSError, OverflowError) as error:
        _once.warning(words, reason=error.strerror if isinstance(error, OSError) else str(error))
        return False
    return True


def _step(folder: int, name: str, path: Path, *, make: bool) -> int:
    """Open one folder in another."""
    try:
        if make:
            with contextlib.suppress(FileNotFoundError):
                return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            return _made(folder, name)
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and _is_symlink(folder, name):
            raise RefusedPathError(f"the path {str(path)!r} leads through a symlink: {name!r}") from error
        raise


def _made(folder: int, name: str) -> int:
    around = os.fstat(folder)
    mode = around.st_mode & MODE
    try:
        os.mkdir(name, mode, dir_fd=folder)
    except FileExistsError:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)  # another batch was faster
    made = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        make_alike(made, around, mode)
    except BaseException:
        os.close(made)
        raise
    return made


def _is_symlink(folder: int, name: str) -> bool:
    try:
        os.readlink(name, dir_fd=folder)
    except OSError:
        return False
    return True
