"""Tries whether links can be made below a target prefix, and read through, before the first copy is made there.

File systems without symlinks (exFAT, SMB) and mounts that cannot be written let a copy's rows be made, and no link: its
user would see photos that cannot be opened.
"""

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

from listener.immich.layout import Layout, RefusedPathError
from listener.sync.folders import Entry, held

# Unmistakably ours, hidden, and of no suffix that Immich imports.
NAME = ".listener-trial-"
_NO_SYMLINKS = "its file system seems to know no symlinks (as exFAT and some SMB shares): use one that does"
_TO_DO = {
    errno.EROFS: "mount it for writing, without :ro",
    errno.EACCES: "check PUID and PGID, and who may write there",
    **dict.fromkeys((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL), _NO_SYMLINKS),
}
# A full disk is told for each photo, and made up for when there is room.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@functools.cache
def _mine(process: int) -> str:
    """Return how the names of this process's trials begin; a number alone may have been another one's before."""
    return f"{NAME}{process}-{uuid4().hex[:8]}-"


def problem(layout: Layout, prefix: str, originals: Sequence[str]) -> str | None:
    """Return in words why copies below this prefix could not have their originals; None where they can.

    One link is made there, or in the deepest folder above that there is, and removed at once. It leads to one of
    ``originals`` if there is one that can be read, and to nothing else.
    """
    folder = Path(prefix)
    root = layout.external_of(prefix)
    while folder != root.path and not os.path.lexists(folder):
        folder = folder.parent
    original = next((path for path in originals if _readable(layout, path)), None)
    try:
        with held(folder / f"{_mine(os.getpid())}{uuid4().hex[:8]}", root) as entry:
            _remove_left(entry)
            return _try(entry, folder, original)
    except RefusedPathError as error:
        return str(error)
    except OSError as error:
        return None if error.errno in _FULL else _words(f"no link can be made in {folder}", error)


def _try(entry: Entry, folder: Path, original: str | None) -> str | None:
    leads = original or f"{entry.name}-to-nowhere"
    os.symlink(leads, entry.name, dir_fd=entry.folder)
    try:
        if os.readlink(entry.name, dir_fd=entry.folder) != leads:
            return f"a link that was made in {folder} leads elsewhere: {_NO_SYMLINKS}"
        if original is not None:
            with _opened(entry.name, dir_fd=entry.folder) as through, _opened(original) as itself:
                if not os.path.samestat(os.fstat(through), os.fstat(itself)):
                    return f"a link that was made in {folder} leads elsewhere: {_NO_SYMLINKS}"
                os.read(through, 1)
    except OSError as error:
        # One that is gone another process has tidied away, which takes it for left over.
        return _words(f"a link that was made in {folder} cannot be read", error) if _there(entry) else None
    finally:
        entry.unlink(missing_ok=True)
    return None


def _readable(layout: Layout, path: str) -> bool:
    with contextlib.suppress(OSError, RefusedPathError), _opened(str(layout.inside_roots(path))) as file:
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.read(file, 1)
            return True
    return False


@contextlib.contextmanager
def _opened(path: str, dir_fd: int | None = None) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield file
    finally:
        os.close(file)


def _there(entry: Entry) -> bool:
    with contextlib.suppress(FileNotFoundError):
        entry.lstat()
        return True
    return False


def _remove_left(entry: Entry) -> None:
    """Remove what a trial of another process has left that was killed."""
    for name in os.listdir(entry.folder):  # noqa: PTH208 - a descriptor has no path
        if name.startswith(NAME) and not name.startswith(_mine(os.getpid())):
            left = entry.beside(name)
            with contextlib.suppress(OSError):
                if stat.S_ISLNK(left.lstat().st_mode):
                    left.unlink()


def _words(what: str, error: OSError) -> str:
    todo = _TO_DO.get(error.errno or 0)
    return f"{what}: {error.strerror or error}" + (f"; {todo}" if todo else "")
