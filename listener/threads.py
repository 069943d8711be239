"""Work on files, in threads of its own: a folder that does not answer stops nobody but the jobs that need it.

A share whose server is away does not fail: whoever asks it for anything waits, for hours perhaps. So no file is looked
at in the event loop, and none in threads that others need. Each job has a lane. Where work takes long, the folders of
its lane are asked for a sign of life; one that gives none is silent, whoever waits for it gets SilentFolderError, and
no more work is begun in that lane until the threads that hang have come back. They are not lost: what they do then is
done late, and who began it is told (`SilentFolderError.afterwards`).

The threads are daemons: a process ends also while they hang.
"""

import asyncio
import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from listener.faults import EveryonesError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Work = asyncio.Future[Any]

PATIENCE = 4.0
"""After so many seconds of work the folders are asked whether they still answer, and again and again."""
_SIGN_OF_LIFE = 3.0
_CANCELLED_PATIENCE = 1.0
# Whatever the folders answer: no look takes so long, and no making of files, in seconds.
_LONGEST_LOOK = 300.0
_LONGEST = 1800.0


class SilentFolderError(EveryonesError):
    """A folder does not answer: what was begun there goes on, late, and nothing more is begun in that lane."""

    def __init__(self, text: str, lane: "Lane", work: _Work | None = None) -> None:
        super().__init__(text)
        self._lane = lane
        self._work = work

    def afterwards(self, then: Callable[[], Awaitable[None]]) -> None:
        """Do something when the work has come to its end; the lane rests until it is done."""
        if self._work is not None:
            self._lane.rest_until(asyncio.ensure_future(_after(self._work, then)))


class Lane:
    """The threads of one job, and the folders that it needs."""

    def __init__(self, folders: Iterable[str] = ()) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._late: set[_Work] = set()
        self._words: str | None = None

    @property
    def silent(self) -> str | None:
        """In words, which folder does not answer; None while all do."""
        return self._words if self._late else None

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let all work on files that is begun in this block, by this task, be done in this lane."""
        before = _lane.set(self)
        try:
            yield
        finally:
            _lane.reset(before)

    def rest_until(self, work: _Work) -> None:
        """Begin nothing more until this has ended."""
        self._late.add(work)
        work.add_done_callback(self._late.discard)

    async def watched(self, work: _Work, patience: float | None = None, longest: float = _LONGEST) -> None:
        """Wait for the end of some work. Raises SilentFolderError where a folder does not answer."""
        began = time.monotonic()
        while not work.done():
            await asyncio.wait([work], timeout=PATIENCE if patience is None else patience)
            if work.done():
                return
            words = await self._without_a_sign()
            if words is None and time.monotonic() - began > longest:
                words = f"work on files has not come to its end within {longest:g} s: a folder does not answer"
            if words is not None and not work.done():
                self._words = words
                self.rest_until(work)
                raise SilentFolderError(words, self, work)

    async def _without_a_sign(self) -> str | None:
        """Ask all folders for a sign of life; return in words which give none."""
        asked = {folder: _started(_there, folder) for folder in self._folders}
        if not asked:
            return None
        await asyncio.wait(asked.values(), timeout=_SIGN_OF_LIFE)
        silent = [folder for folder, answer in asked.items() if not answer.done()]
        for folder in silent:
            self.rest_until(asked[folder])
        if not silent:
            return None
        # The folder above all others that are silent: it may be its disk that is.
        return f"the folder {min(silent, key=len)} does not answer: see whether its disk or its server is there"

    def refuse_if_silent(self) -> None:
        """Raise SilentFolderError while threads hang."""
        if (words := self.silent) is not None:
            raise SilentFolderError(words, self)


_lane: contextvars.ContextVar[Lane | None] = contextvars.ContextVar("lane", default=None)
_lanes: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, ...], Lane]] = WeakKeyDictionary()


def lane_of(*folders: str) -> Lane:
    """Return the one lane of whatever needs these folders."""
    lanes = _lanes.setdefault(asyncio.get_running_loop(), {})
    return lanes.setdefault(folders, Lane(folders))


def _mine() -> Lane:
    """Return the lane of this task; outside of all jobs one that knows no folder."""
    return _lane.get() or Lane()


async def run(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a function in a thread of this task's lane. Raises SilentFolderError, and what the function raises."""
    mine = _mine()
    mine.refuse_if_silent()
    work = _started(function, *args, **kwargs)
    await mine.watched(work, longest=_LONGEST_LOOK)
    return work.result()  # type: ignore[no-any-return]


async def to_the_end(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run as `run` does, and wait for the end also when cancelled: it goes on in any case."""
    mine = _mine()
    mine.refuse_if_silent()
    work = _started(function, *args, **kwargs)
    try:
        await mine.watched(work)
    except asyncio.CancelledError:
        with contextlib.suppress(SilentFolderError):
            await mine.watched(work, _CANCELLED_PATIENCE)
        raise
    return work.result()  # type: ignore[no-any-return]


def _started(function: Callable[..., Any], *args: Any, **kwargs: Any) -> _Work:
    loop = asyncio.get_running_loop()
    work: _Work = loop.create_future()
    # Where nobody waits for it any more, its own error comes too late to be anybody's: asyncio would print it.
    work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    context = contextvars.copy_context()

    def done(result: Any, error: BaseException | None) -> None:
        if work.done():
            return
        if error is None:
            work.set_result(result)
        else:
            work.set_exception(error)

    def thread() -> None:
        result, error = None, None
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as raised:  # noqa: BLE001 - whoever waits gets it
            error = RuntimeError("a generator is no work") if isinstance(raised, StopIteration) else raised
        # Nobody waits any more where the loop has ended.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(done, result, error)

    threading.Thread(target=thread, name="files", daemon=True).start()
    return work


async def _after(work: _Work, then: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait([work])
    await then()


def _there(folder: str) -> None:
    with contextlib.suppress(OSError):
        # Through the folder: its own server answers, not the one of the folder above.
        os.stat(f"{folder}/.")  # noqa: PTH116 - a Path drops the dot
