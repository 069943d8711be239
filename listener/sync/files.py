"""The files of a copy: thumbnails and videos hardlinked, edited ones copied, the original as an own symlink.

Nothing here knows of the database. Every function brings one file to what it should be, and does nothing where
it is so already; each replaces a file by a rename, so that nobody ever reads half of one.

Everything is made and removed in folders that are held open (`listener.sync.folders`): what was checked cannot be
swapped for a symlink that leads elsewhere.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from listener.immich.layout import Layout, RefusedPathError, Root
from listener.ops import logs
from listener.sync.folders import MODE, Entry, give_time, held, make_alike, make_link_alike, really_held, within
from listener.sync.means import CANNOT, Means
from listener.sync.names import is_anothers

_limited = logs.Limited(logs.get("files"))

LinkMode = Literal["auto", "hardlink", "copy"]
How = Literal["unchanged", "hardlink", "reflink", "copy", "symlink", "removed"]

_CHUNK = 1 << 20
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file (btrfs, XFS)
# Linux: a path, and a name in it, in bytes.
_LONGEST_PATH = 4095
_LONGEST_NAME = 255
# The first moment of year 1, and that of year 10000: what a date can say. Some file systems hold others.
_FIRST_NS = -62_135_596_800 * 10**9
_END_NS = 253_402_300_800 * 10**9
_RIGHTS = "Check PUID and PGID, and who may write there"
_IN_THE_WAY = "something that is not ours is in the way at {!r}: move it away"
_ONE_NAME = "to this file system {!r} and another copy's link have one name: it gets another one at the next try"
_TO_DO = {
    errno.ENOSPC: "Make room, or check with df -i that there are inodes",
    errno.EDQUOT: "Make room, or raise the quota",
    errno.EROFS: "Mount it for writing",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}


class FileProblemError(Exception):
    """A file cannot be brought to what it should be; the text names it and says why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class FileTask:
    """One generated file to be placed.

    shared: one inode with the source's file, else an own copy.
    """

    source: str
    target: str
    shared: bool


def place(task: FileTask, layout: Layout, mode: LinkMode, means: Means | None = None) -> How:
    """Make the target file what the source file is. Raises FileProblemError.

    means: what is known of the file systems, and what is found out now.
    """
    means = means or Means()
    try:
        source, target = layout.inside_media(task.source), layout.inside_media(task.target)
        real = Path(os.path.realpath(source))
        root = layout.media_of(task.target)
        with really_held(real, layout.media_of(task.source)) as origin:
            if task.shared and mode != "copy":
                how = _hardlink(origin, real, target, root, mode, means)
                if how is not None:
                    return how
            return _copy(origin, target, root, means)
    except RefusedPathError as error:
        raise FileProblemError("refused", str(error)) from error
    except FileNotFoundError as error:
        raise FileProblemError("missing", f"the file {task.source!r} is missing") from error
    except OSError as error:
        raise FileProblemError(
            kind_of(error), f"cannot make {task.target!r} from {task.source!r}: {words_of(error)}"
        ) from error


def kind_of(error: OSError) -> str:
    """Return the kind of failure that an error is."""
    return errno.errorcode.get(error.errno or 0, "os")


def words_of(error: OSError) -> str:
    """Return what is wrong, and what to do."""
    text, todo = error.strerror or str(error), _TO_DO.get(error.errno or 0)
    return f"{text}. {todo}: then it is done by itself" if todo else text


def _hardlink(origin: Entry, source: Path, target: Path, root: Root, mode: LinkMode, means: Means) -> How | None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(target.lstat(), _file(origin)):
            return "unchanged"
    if mode == "auto" and not means.links(source, target):
        return None

    def link(partial: Entry) -> None:
        os.link(origin.name, partial.name, src_dir_fd=origin.folder, dst_dir_fd=partial.folder, follow_symlinks=False)

    try:
        _by_a_rename(target, root, link)
    except OSError as error:
        if mode == "auto" and error.errno in CANNOT:
            means.no_link(source, target, error, partial(_probe, target, root))
            return None
        raise
    return "hardlink"


def _probe(target: Path, root: Root) -> None:
    """Make a file and a hardlink to it where a file is to be, and remove both. Raises OSError."""

    def probe(entry: Entry) -> None:
        one, two = entry.beside(f"{entry.name[:40]}.one.partial"), entry.beside(f"{entry.name[:40]}.two.partial")
        try:
            os.close(one.open(os.O_WRONLY | os.O_CREAT))
            two.unlink(missing_ok=True)
            os.link(one.name, two.name, src_dir_fd=one.folder, dst_dir_fd=two.folder, follow_symlinks=False)
        finally:
            one.unlink(missing_ok=True)
            two.unlink(missing_ok=True)

    within(target, root, probe, really_held)


def _copy(origin: Entry, target: Path, root: Root, means: Means) -> How:
    like = _file(origin)
    # The copy carries its source's time: size and time tell whether it is still the same.
    with contextlib.suppress(FileNotFoundError):
        if means.same(origin, like, target, target.lstat()):
            return "unchanged"
    how: How = "copy"

    def fill(partial: Entry) -> None:
        nonlocal how
        # Nobody else may read it before it has its mode.
        with (
            open(origin.open(os.O_RDONLY), "rb") as read,  # noqa: PTH123 - a descriptor has no path
            open(partial.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as write,  # noqa: PTH123
        ):
            device = os.fstat(write.fileno()).st_dev
            how = _fill(read, write, like.st_dev, device, means)
            write.flush()
            make_alike(write.fileno(), like, like.st_mode & MODE)
            if not give_time(write.fileno(), like):
                means.no_times(device)

    _by_a_rename(target, root, fill)
    return how


def _fill(read: BinaryIO, write: BinaryIO, source: int, target: int, means: Means) -> How:
    """Bring the bytes of one file into another: by sharing blocks between the devices, or by copying."""
    if means.clones(source, target):
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError as error:
            means.no_clone(source, target, error)
        else:
            return "reflink"
    shutil.copyfileobj(read, write, _CHUNK)
    return "copy"


def _file(origin: Entry) -> os.stat_result:
    found = origin.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise FileProblemError("not a file", f"{origin.name!r} is not a file")
    return found


def _by_a_rename(target: Path, root: Root, make: Callable[[Entry], None]) -> None:
    """Make a generated file beside ``target`` and rename it there, so that the change is one step.

    The name on the way begins with the copy's id as every name in that folder that is ours. It is cut: the file's
    own name may be as long as a name can be.
    """

    def replace(entry: Entry) -> None:
        partial = entry.beside(f"{entry.name[:48]}.partial")
        # Left by a crash; an open hardlink would write into the source's file.
        partial.unlink(missing_ok=True)
        try:
            make(partial)
            os.replace(partial.name, entry.name, src_dir_fd=partial.folder, dst_dir_fd=entry.folder)
        finally:
            # Also after success: renaming one name of a file over another of the same file does nothing.
            partial.unlink(missing_ok=True)

    within(target, root, replace, really_held)


def fits(path: str) -> bool:
    """Tell whether a path, and each name in it, is short enough to be a file's."""
    names = os.fsencode(path)
    return len(names) <= _LONGEST_PATH and all(len(name) <= _LONGEST_NAME for name in names.split(b"/"))


class OriginalLinks:
    """The originals of one job's copies: each an own symlink below the target prefix.

    Where the target prefix leads through a symlinked directory to the source's files, there is nothing to link:
    ``directory`` is then true, and no link is ever made or taken away. source_prefix: no original may be a link that
    leads out of it.
    """

    def __init__(self, layout: Layout, target_prefix: str, source_prefix: str | None = None) -> None:
        self._layout = layout
        self._prefix = target_prefix
        self._source_prefix = source_prefix
        self._root = layout.external_of(target_prefix)
        root = str(self._root.path)
        own = layout.leads_to(root) + target_prefix.removeprefix(root)
        self.directory = layout.leads_to(target_prefix) != own

    def holds(self, path: str) -> bool:
        """Tell whether a path is below the target prefix."""
        return path.startswith(self._prefix + "/")

    def modified_ns(self, original: str) -> int | None:
        """Return the modification time of a source's original in ns; None for one that cannot be read or written down.

        Raises FileProblemError where there is no original, or none that may be shared.
        """
        try:
            found: os.stat_result | None = self._layout.inside_roots(original).lstat()
            if found is not None and stat.S_ISLNK(found.st_mode):
                self._refuse_way_out(original)
                found = _behind(original)
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except FileNotFoundError as error:
            raise FileProblemError("missing", f"the original {original!r} is missing") from error
        except OSError as error:
            raise FileProblemError(
                kind_of(error), f"cannot read the original {original!r}: {words_of(error)}"
            ) from error
        return found.st_mtime_ns if found is not None and _FIRST_NS <= found.st_mtime_ns < _END_NS else None

    def _refuse_way_out(self, original: str) -> None:
        """Raise FileProblemError for a link that leads out of the source prefix, and out of its own folder."""
        if self._source_prefix is None:
            return
        real = os.path.realpath(original)
        # A folder within the library may be a symlink: what is in it is part of the library.
        within = {os.path.realpath(self._source_prefix), os.path.realpath(os.path.dirname(original))}  # noqa: PTH120
        if not any(real.startswith(folder.rstrip("/") + "/") for folder in within):
            raise FileProblemError(
                "refused",
                f"the original {original!r} is itself a symlink, and leads to {real!r}, out of the shared folder "
                f"{self._source_prefix!r}: it is no photo of its own, such as a copy that this program once made, "
                "and is not shared. If it is to be, put the file itself there",
            )

    def link(self, path: str, original: str) -> How:
        """Make the link of one copy.

        Raises FileProblemError, also where a file that is not ours is in the way, and SwappedError.
        """
        try:
            target = self._own(path)
            if not self._root.path.is_dir() and self._root.was is None:
                raise FileProblemError("unmounted", f"{str(self._root.path)!r} is not there: mount it")
            how: How = "unchanged"

            def link(entry: Entry) -> None:
                nonlocal how
                there = _readlink(entry)
                if there == original:
                    return
                if there is not None:
                    if is_anothers(path, self._prefix):
                        raise FileProblemError("one name", _ONE_NAME.format(path))
                    # No other name is used on the way: it could be one of the user's files. A crash between the two
                    # steps leaves no link, and the next sweep makes it.
                    entry.unlink()
                os.symlink(original, entry.name, dir_fd=entry.folder)
                make_link_alike(entry)
                how = "symlink"

            within(target, self._root, link)
        except FileExistsError as error:
            raise FileProblemError("in the way", _IN_THE_WAY.format(path)) from error
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            raise FileProblemError(kind_of(error), f"cannot make the link {path!r}: {words_of(error)}") from error
        return how

    def is_anothers(self, path: str) -> bool:
        """Tell whether what is at the place of a link has another name, which this file system takes for the same.

        Raises FileProblemError.
        """
        try:
            return is_anothers(path, self._prefix)
        except OSError as error:
            raise FileProblemError(kind_of(error), f"cannot look at {path!r}: {words_of(error)}") from error

    def in_the_way(self, path: str, original: str | None, *, replaced: bool) -> str | None:
        """Return in words what is at the place of a link and is none of ours; None where there is nothing, or ours.

        replaced: a link of ours is there already, wherever it leads. Raises FileProblemError.
        """
        try:
            with held(self._own(path), self._root) as entry:
                there = _readlink(entry)
        except FileNotFoundError:
            return None
        except (FileExistsError, NotADirectoryError):
            return _IN_THE_WAY.format(path)
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            raise FileProblemError(kind_of(error), f"cannot read the link {path!r}: {words_of(error)}") from error
        return None if replaced or there in {None, original} else _IN_THE_WAY.format(path)

    def _own(self, path: str) -> Path:
        if self._layout.relative(path, self._prefix) != path.removeprefix(self._prefix + "/"):
            raise RefusedPathError(f"the path {path!r} is not plainly below {self._prefix!r}")
        return Path(path)


def _behind(original: str) -> os.stat_result | None:
    """Return what a link leads to, None where that cannot be asked. Raises FileNotFoundError."""
    try:
        return Path(original).stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        _limited.warning("the time of an original cannot be read: Immich's own is taken", reason=error.strerror)
        return None


def _readlink(entry: Entry) -> str | None:
    """Return where a symlink leads, None if nothing is there. Raises FileExistsError for anything else."""
    try:
        return os.readlink(entry.name, dir_fd=entry.folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        raise
