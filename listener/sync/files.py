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
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from listener.immich.layout import Layout, RefusedPathError, Root
from listener.ops import logs
from listener.sync.folders import MODE, Entry, held, make_alike, make_link_alike, really_held, within
from listener.sync.names import is_anothers

_limited = logs.Limited(logs.get("files"))

LinkMode = Literal["auto", "hardlink", "copy"]
How = Literal["unchanged", "hardlink", "reflink", "copy", "symlink", "removed"]

# A hardlink cannot be: another filesystem or bind mount, not permitted, not supported, too many links.
_NO_HARDLINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file (btrfs, XFS)
# Linux: a path, and a name in it, in bytes.
_LONGEST_PATH = 4095
_LONGEST_NAME = 255
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


def place(task: FileTask, layout: Layout, mode: LinkMode) -> How:
    """Make the target file what the source file is. Raises FileProblemError."""
    try:
        source, target = layout.inside_media(task.source), layout.inside_media(task.target)
        real = Path(os.path.realpath(source))
        root = layout.media_of(task.target)
        with really_held(real, layout.media_of(task.source)) as origin:
            if task.shared and mode != "copy":
                how = _hardlink(origin, target, root, mode)
                if how is not None:
                    return how
            return _copy(origin, target, root)
    except RefusedPathError as error:
        raise FileProblemError("refused", str(error)) from error
    except FileNotFoundError as error:
        raise FileProblemError("missing", f"the file {task.source!r} is missing") from error
    except OSError as error:
        raise FileProblemError(
            _kind(error), f"cannot make {task.target!r} from {task.source!r}: {_words(error)}"
        ) from error


def _kind(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "os")


def _words(error: OSError) -> str:
    text, todo = error.strerror or str(error), _TO_DO.get(error.errno or 0)
    return f"{text}. {todo}: then it is done by itself" if todo else text


def _hardlink(origin: Entry, target: Path, root: Root, mode: LinkMode) -> How | None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(target.lstat(), _file(origin)):
            return "unchanged"

    def link(partial: Entry) -> None:
        os.link(origin.name, partial.name, src_dir_fd=origin.folder, dst_dir_fd=partial.folder, follow_symlinks=False)

    try:
        _by_a_rename(target, root, link)
    except OSError as error:
        if mode == "auto" and error.errno in _NO_HARDLINK:
            return None
        raise
    return "hardlink"


def _copy(origin: Entry, target: Path, root: Root) -> How:
    like = _file(origin)
    # The copy carries its source's time: size and time tell whether it is still the same.
    with contextlib.suppress(FileNotFoundError):
        now = target.lstat()
        if (now.st_size, now.st_mtime_ns) == (like.st_size, like.st_mtime_ns) and not os.path.samestat(now, like):
            return "unchanged"
    how: How = "copy"

    def fill(partial: Entry) -> None:
        nonlocal how
        # Nobody else may read it before it has its mode.
        with (
            open(origin.open(os.O_RDONLY), "rb") as read,  # noqa: PTH123 - a descriptor has no path
            open(partial.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as write,  # noqa: PTH123
        ):
            try:
                fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
                how = "reflink"
            except OSError:
                shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            make_alike(write.fileno(), like, like.st_mode & MODE)
            os.utime(write.fileno(), ns=(like.st_atime_ns, like.st_mtime_ns))

    _by_a_rename(target, root, fill)
    return how


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

    def modified_ns(self, original: str) -> int:
        """Return the modification time of a source's original in ns. Raises FileProblemError."""
        try:
            found = self._layout.inside_roots(original).lstat()
            if not stat.S_ISLNK(found.st_mode):
                return found.st_mtime_ns
            self._refuse_way_out(original)
            return Path(original).stat().st_mtime_ns
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except FileNotFoundError as error:
            raise FileProblemError("missing", f"the original {original!r} is missing") from error
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot read the original {original!r}: {_words(error)}") from error

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
            raise FileProblemError(_kind(error), f"cannot make the link {path!r}: {_words(error)}") from error
        return how

    def is_anothers(self, path: str) -> bool:
        """Tell whether what is at the place of a link has another name, which this file system takes for the same.

        Raises FileProblemError.
        """
        try:
            return is_anothers(path, self._prefix)
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot look at {path!r}: {_words(error)}") from error

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
            raise FileProblemError(_kind(error), f"cannot read the link {path!r}: {_words(error)}") from error
        return None if replaced or there in {None, original} else _IN_THE_WAY.format(path)

    def _own(self, path: str) -> Path:
        if self._layout.relative(path, self._prefix) != path.removeprefix(self._prefix + "/"):
            raise RefusedPathError(f"the path {path!r} is not plainly below {self._prefix!r}")
        return Path(path)


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


def remove_beside(layout: Layout, prefix: str, path: str) -> bool:
    """Remove the link of a copy, or the XMP beside it, and folders below ``prefix`` that are empty then.

    Never another file. What lies behind a symlink that somebody put in the way is not ours any more. Raises
    FileProblemError.
    """
    if not layout.is_external(path):
        return False
    root = layout.external_of(path)
    try:
        with held(Path(path), root) as entry:
            mode = entry.lstat().st_mode
            if not stat.S_ISLNK(mode) and not (stat.S_ISREG(mode) and path.endswith(".xmp")):
                return False
            if is_anothers(path, prefix):
                return False
            entry.unlink()
        for folder in Path(path).parents:
            if not str(folder).startswith(prefix + "/"):
                break
            with held(folder, root) as entry:
                os.rmdir(entry.name, dir_fd=entry.folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except RefusedPathError as error:
        _limited.warning("links of copies that are gone lie behind a symlink now: they are left", reason=str(error))
        return False
    except OSError as error:
        # The folder is still needed, or another batch was faster.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise FileProblemError(_kind(error), f"cannot remove {path!r}: {_words(error)}") from error
    return True


def remove_files(
    layout: Layout, folders: Sequence[Path], id_: str, named: Sequence[str], *, but: Container[str] = ()
) -> int:
    """Remove the generated files of one copy or person: those given and any other named by its id, ``but`` these.

    Folders stay, also empty ones: Immich may just be about to write there. Returns how many files were removed.
    Raises FileProblemError, and SwappedError where a disk came or went meanwhile: what was not found may be there.
    """
    media = f"{layout.media_root}/"
    paths = {Path(path) for path in named if path.startswith(media) and id_ in Path(path).name}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                paths.update(folder / entry.name for entry in entries if entry.name.startswith(id_))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot look through {str(folder)!r}: {_words(error)}") from error
    removed = 0
    for path in paths:
        if str(path) in but:
            continue
        try:
            layout.inside_media(str(path.parent))
            with really_held(path, layout.media_of(str(path))) as entry:
                entry.unlink()
            removed += 1
        except FileNotFoundError:
            continue
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot remove {str(path)!r}: {_words(error)}") from error
    layout.confirm()
    return removed
