"""Traces every call of this process that changes a file, with the place where it really was at that moment."""

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """A call that changes a file, and where it really was at that moment."""

    call: str
    place: str


@dataclass
class Trace:
    """Every change that this process makes to files while it is on: an audit hook cannot be taken out again."""

    on: bool = False
    changes: list[Change] = field(default_factory=list)

    def note(self, call: str, path: Any, folder: int = -1, *, follow: bool = False) -> None:
        if self.on and not isinstance(path, int):
            self.changes.append(Change(call, _real(os.fsdecode(path), folder, follow=follow)))
        elif self.on:
            self.changes.append(Change(call, _opened(path)))

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        match event, args:
            case "os.link", (_, target, _, folder):
                self.note(event, target, folder)
            case "os.symlink", (_, target, folder):
                self.note(event, target, folder)
            case "os.rename", (source, target, source_folder, folder):
                self.note(event, source, source_folder)
                self.note(event, target, folder)
            case (("os.remove" | "os.rmdir"), (path, folder)):
                self.note(event, path, folder)
            case "os.mkdir", (path, _, folder):
                self.note(event, path, folder)
            case (("os.chmod" | "os.utime" | "os.truncate" | "os.chown" | "os.lchown"), (path, *_)):
                # None of ours but by a descriptor, or for a symlink itself.
                self.note(event, path, args[-1] if isinstance(args[-1], int) else -1)
            case "open", (path, _, int(flags)) if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                # The event has no folder: such calls come through `opened`.
                if isinstance(path, str) and path.startswith("/"):
                    self.note("open for writing", path, follow=True)

    def opened(self, real: Callable[..., int]) -> Callable[..., int]:
        """Return os.open, traced also where it opens in a folder."""

        def traced(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.note("open for writing", path, dir_fd, follow=not flags & os.O_NOFOLLOW)
            return real(path, flags, mode, dir_fd=dir_fd)

        return traced


def _real(path: str, folder: int, *, follow: bool) -> str:
    above = _opened(folder) if folder >= 0 else str(Path.cwd())
    whole = Path(f"{above}/{path}" if not path.startswith("/") else path)
    return os.path.realpath(whole) if follow else f"{os.path.realpath(whole.parent)}/{whole.name}"


def _opened(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


_TRACE = Trace()


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Let `traced` see each call, until the block ends."""
    sys.addaudithook(_TRACE.hook)
    opened, os.open = os.open, _TRACE.opened(os.open)
    try:
        yield
    finally:
        os.open = opened


@contextlib.contextmanager
def traced() -> Iterator[list[Change]]:
    """Trace while the block runs, within `tracing`; what is changed comes to stand in the list."""
    changes: list[Change] = []
    _TRACE.changes = changes
    _TRACE.on = True
    try:
        yield changes
    finally:
        _TRACE.on = False


def everything(*roots: Path) -> dict[str, tuple[str, bytes]]:
    """Return each name below some folders, with what it is and holds; no symlink is followed."""
    found = {}
    for root in roots:
        for above, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = Path(above, name)
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    found[str(path)] = "symlink", os.fsencode(path.readlink())
                elif stat.S_ISDIR(mode):
                    found[str(path)] = "folder", b""
                else:
                    found[str(path)] = "file", path.read_bytes()
    return found
