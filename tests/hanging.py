"""Folders that do not answer, as shares do whose server is away: whoever asks them for anything waits."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.house import House, Process

# As it is started, but that a folder is asked for a sign of life after a second.
_IMPATIENT = """
import sys
from listener import cli, threads
threads.PATIENCE, threads._SIGN_OF_LIFE = 1.0, 0.5
sys.argv = ["listener", "run"]
cli.app()
"""

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


@contextlib.contextmanager
def hanging(folder: Path) -> Iterator[None]:
    """Let a folder hang until the block ends: a FUSE whose server takes no request. Then all is as it was before."""
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no folder can hang here: {error}")
    options = f"fd={server},rootmode=40755,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"hanging", os.fsencode(folder), b"fuse", 0, options.encode()):
        os.close(server)
        pytest.skip(f"no folder can hang here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        # Whoever waits there hears that it is broken; whoever asks from now on does not come to it.
        _libc.umount2(os.fsencode(folder), _MNT_DETACH)
        os.close(server)


def impatient(house: House) -> Process:
    """Start a listener that takes a folder for silent after one and a half seconds."""
    log = house.folder / f"listener-{uuid4().hex[:8]}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-c", _IMPATIENT], env=house.environment, cwd=house.folder, stdout=output, stderr=output
        )
    return Process(popen, log)


@contextlib.contextmanager
def running(house: House) -> Iterator[Process]:
    """Run such a listener until the block ends."""
    process = impatient(house)
    try:
        process.wait_ready()
        yield process
    finally:
        process.end()
