"""Writes down every call by which the product asks for a file in the thread of its event loop: such a call may hang."""

import asyncio
import builtins
import functools
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import listener

_PRODUCT = f"{Path(listener.__file__).parent}{os.sep}"
_ASKS = (
    *("stat", "lstat", "readlink", "access", "open", "listdir", "scandir", "statvfs", "mkdir", "rmdir", "unlink"),
    *("remove", "rename", "replace", "link", "symlink", "utime", "chmod", "chown", "truncate"),
)


def install(path: Path) -> None:
    """Watch from now on; what is found is written to a file, a line each."""
    found = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def asked(*args: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread() and _in_loop():
                asker = _asker()
                if asker is not None:
                    os.write(found, f"{name} of {args[0]!r} in {asker}\n".encode())
            return function(*args, **named)

        return asked

    for name in _ASKS:
        setattr(os, name, watched(name, getattr(os, name)))
    opened = watched("open", builtins.open)
    builtins.open = opened
    io.open = opened


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _asker() -> str | None:
    """Return the function of the product that asks, None if it is none or Python itself."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return None
        if frame.f_code.co_filename.startswith(_PRODUCT):
            return f"{frame.f_code.co_filename.removeprefix(_PRODUCT)}:{frame.f_lineno}"
        frame = frame.f_back
    return None
