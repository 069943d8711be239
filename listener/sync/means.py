"""What the file systems at hand can: tried once in a session, and remembered.

Hardlinks, shared blocks, and times are not everywhere to be had, and file systems say so in many ways. A file may also
stand alone with it: it has too many links, or belongs to somebody else. Whose matter it is, a link between two names of
our own tells.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from listener.sync.folders import Entry

# "It cannot be", as file systems of all kinds say it. That there is no room, or nobody may write, is none of them.
CANNOT = frozenset(
    {
        errno.EXDEV,
        errno.EPERM,
        errno.EACCES,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EINVAL,
        errno.ENOTTY,
        errno.EIO,
        errno.EMLINK,
    }
)
# The rest of a time in ns that coarse file systems leave out, from FAT to NTFS.
_GRAINS = (2_000_000_000, 1_000_000_000, 10_000_000, 1_000_000, 1_000, 100)
_CHUNK = 1 << 20


class Means:
    """What was found out in this session. Threads may use it together: what is found twice is found the same."""

    def __init__(self) -> None:
        self._apart: set[tuple[str, str]] = set()
        self._links: dict[str, bool] = {}
        self._no_clones: set[tuple[int, int]] = set()
        self._no_times: set[int] = set()

    def links(self, source: Path, target: Path) -> bool:
        """Tell whether a hardlink between the folders of these files may be, as far as is known."""
        return (_folder(source), _folder(target)) not in self._apart

    def no_link(self, source: Path, target: Path, error: OSError, probe: Callable[[], None]) -> None:
        """Remember what it means that a hardlink cannot be. ``probe`` links a file of our own beside the target.

        Raises OSError where that fails for want of room, or of the right to write.
        """
        if error.errno == errno.EMLINK:
            return
        folder = _folder(target)
        if error.errno != errno.EXDEV and folder not in self._links:
            try:
                probe()
                self._links[folder] = True
            except OSError as refused:
                if refused.errno not in CANNOT:
                    raise
                self._links[folder] = False
        if error.errno == errno.EXDEV or not self._links[folder]:
            self._apart.add((_folder(source), folder))

    def clones(self, source: int, target: int) -> bool:
        """Tell whether blocks may be shared between these devices, as far as is known."""
        return (source, target) not in self._no_clones

    def no_clone(self, source: int, target: int, error: OSError) -> None:
        """Remember that blocks cannot be shared; for some files alone that may be so, too."""
        if error.errno in {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.ENOSYS}:
            self._no_clones.add((source, target))

    def no_times(self, device: int) -> None:
        """Remember that a file cannot be given a time there."""
        self._no_times.add(device)

    def same(self, origin: Entry, like: os.stat_result, target: Path, now: os.stat_result) -> bool:
        """Tell whether a copy is still what it was copied from: by size and time, or by its bytes. Raises OSError."""
        if not stat.S_ISREG(now.st_mode) or now.st_size != like.st_size or os.path.samestat(now, like):
            return False
        if now.st_dev in self._no_times:
            return _same_bytes(origin, target)
        # As exactly as this file system keeps it.
        grain = next((grain for grain in _GRAINS if now.st_mtime_ns % grain == 0), 1)
        return abs(now.st_mtime_ns - like.st_mtime_ns) < grain


def _folder(file: Path) -> str:
    """Return the folder that stands for a file system: a user's, below which Immich makes two more."""
    return str(file.parents[min(2, len(file.parents) - 1)])


def _same_bytes(origin: Entry, target: Path) -> bool:
    with (
        open(origin.open(os.O_RDONLY), "rb") as one,  # noqa: PTH123 - a descriptor has no path
        open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as other,  # noqa: PTH123
    ):
        while chunk := one.read(_CHUNK):
            if chunk != other.read(_CHUNK):
                return False
        return not other.read(1)
