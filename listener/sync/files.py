"""The files of a copy: thumbnails and videos hardlinked, edited ones copied, the original as an own symlink.

Nothing here knows of the database. Every function brings one file to what it should be, and does nothing where
it is so already; each replaces a file by a rename, so that nobody ever reads half of one.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from listener.immich.layout import Layout, RefusedPathError

LinkMode = Literal["auto", "hardlink", "copy"]
How = Literal["unchanged", "hardlink", "reflink", "copy", "symlink", "removed"]

# A hardlink cannot be: another filesystem or bind mount, not permitted, not supported, too many links.
_NO_HARDLINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file (btrfs, XFS)
# An empty folder may be taken away by another batch between making it and using it.
_FOLDER_ATTEMPTS = 5


class FileProblemError(Exception):
    """A file cannot be brought to what it should be; the text names it and says why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class FileTask:
    """One generated file to be placed.

    shared: one inode with the source's file, else an own copy. once: whatever is there already stays,
    unless it is the source's file itself.
    """

    source: str
    target: str
    shared: bool
    once: bool = False


def place(task: FileTask, layout: Layout, mode: LinkMode) -> How:
    """Make the target file what the source file is. Raises FileProblemError."""
    try:
        source, target = layout.inside_media(task.source), layout.inside_media(task.target)
        if task.once and target.exists() and not (source.exists() and target.samefile(source)):
            return "unchanged"
        stat = source.stat()
        if task.shared and mode != "copy":
            how = _hardlink(source, target, stat, mode)
            if how is not None:
                return how
        return _copy(source, target, stat)
    except RefusedPathError as error:
        raise FileProblemError("refused", str(error)) from error
    except FileNotFoundError as error:
        raise FileProblemError("missing", f"the file {task.source!r} is missing") from error
    except OSError as error:
        raise FileProblemError(
            _kind(error), f"cannot make {task.target!r} from {task.source!r}: {error.strerror}"
        ) from error


def _kind(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "os")


def _hardlink(source: Path, target: Path, stat: os.stat_result, mode: LinkMode) -> How | None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(target.lstat(), stat):
            return "unchanged"
    try:
        _in_folder_of(target, lambda partial: os.link(source, partial))
    except OSError as error:
        if mode == "auto" and error.errno in _NO_HARDLINK:
            return None
        raise
    return "hardlink"


def _copy(source: Path, target: Path, stat: os.stat_result) -> How:
    # The copy carries its source's time: size and time tell whether it is still the same.
    with contextlib.suppress(FileNotFoundError):
        now = target.lstat()
        if (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns) and not os.path.samestat(now, stat):
            return "unchanged"
    how: How = "copy"

    def fill(partial: Path) -> None:
        nonlocal how
        with source.open("rb") as read, partial.open("wb") as write:
            try:
                fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
                how = "reflink"
            except OSError:
                shutil.copyfileobj(read, write, 1 << 20)
        os.utime(partial, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    _in_folder_of(target, fill)
    return how


def _in_folder_of(target: Path, make: Callable[[Path], None]) -> None:
    """Make a generated file beside ``target`` and rename it there, so that the change is one step.

    The name on the way begins with the copy's id as every name in that folder that is ours.
    """
    partial = target.with_name(f"{target.name}.partial")

    def replace() -> None:
        # Left by a crash; an open hardlink would write into the source's file.
        partial.unlink(missing_ok=True)
        try:
            make(partial)
            partial.replace(target)
        finally:
            # Also after success: renaming one name of a file over another of the same file does nothing.
            partial.unlink(missing_ok=True)

    _in_folder(target.parent, replace)


def _in_folder(folder: Path, make: Callable[[], None]) -> None:
    """Make something in a folder, and the folder before it, also where others take empty folders away."""
    for attempt in range(_FOLDER_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            make()
        except FileNotFoundError:
            if attempt == _FOLDER_ATTEMPTS - 1 or folder.is_dir():
                raise
        else:
            return


class OriginalLinks:
    """The originals of one job's copies: each an own symlink below the target prefix.

    Where the target prefix leads through a symlinked directory to the source's files, there is nothing to link:
    ``directory`` is then true, and no link is ever made or taken away.
    """

    def __init__(self, layout: Layout, target_prefix: str) -> None:
        self._layout = layout
        self._prefix = target_prefix
        root = str(layout.external_root)
        own = os.path.realpath(root) + target_prefix.removeprefix(root)
        real = os.path.realpath(target_prefix)
        self.directory = real != own

    def holds(self, path: str) -> bool:
        """Tell whether a path is below the target prefix."""
        return path.startswith(self._prefix + "/")

    def modified_ns(self, original: str) -> int:
        """Return the modification time of a source's original in ns. Raises FileProblemError."""
        try:
            return self._layout.inside_roots(original).stat().st_mtime_ns
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except FileNotFoundError as error:
            raise FileProblemError("missing", f"the original {original!r} is missing") from error
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot read the original {original!r}: {error.strerror}") from error

    def link(self, path: str, original: str) -> How:
        """Make the link of one copy. Raises FileProblemError, also where a file that is not ours is in the way."""
        try:
            target = self._own(path)
            if target.is_symlink():
                if str(target.readlink()) == original:
                    return "unchanged"
                # No other name is used on the way: it could be one of the user's files. A crash between the two
                # steps leaves no link, and the next sweep makes it.
                target.unlink()
            elif target.exists():
                raise FileProblemError("in the way", f"a file that is not ours is in the way at {path!r}: move it away")
            _in_folder(target.parent, lambda: target.symlink_to(original))
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot make the link {path!r}: {error.strerror}") from error
        return "symlink"

    def unlink(self, path: str) -> bool:
        """Take the link of one copy away, and folders that are empty then. Never a file. Raises FileProblemError."""
        if self.directory:
            return False
        try:
            target = self._own(path)
            if not target.is_symlink():
                return False
            target.unlink(missing_ok=True)
            for folder in target.parents:
                if str(folder) == self._prefix or not str(folder).startswith(self._prefix + "/"):
                    break
                folder.rmdir()
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            # The folder is still needed, or another batch was faster.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                raise FileProblemError(_kind(error), f"cannot remove the link {path!r}: {error.strerror}") from error
        return True

    def _own(self, path: str) -> Path:
        self._layout.relative(path, self._prefix)
        target = self._layout.inside_external(path)
        below = str(target.parent).removeprefix(self._prefix)
        if os.path.realpath(target.parent) != os.path.realpath(self._prefix) + below:
            raise RefusedPathError(f"the path {path!r} leads through a symlink out of {self._prefix!r}")
        return target


def remove_files(layout: Layout, folders: Sequence[Path], id_: str, named: Sequence[str]) -> int:
    """Remove the generated files of one copy or person: those its rows name and any other named by its id.

    Folders stay, also empty ones: Immich may just be about to write there. Returns how many files were removed.
    Raises FileProblemError.
    """
    paths = {Path(path) for path in named if id_ in Path(path).name}
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            paths.update(folder / entry.name for entry in os.scandir(folder) if entry.name.startswith(id_))
    removed = 0
    for path in paths:
        try:
            layout.inside_media(str(path.parent))
            path.unlink()
            removed += 1
        except FileNotFoundError:
            continue
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            raise FileProblemError(_kind(error), f"cannot remove {str(path)!r}: {error.strerror}") from error
    return removed
