"""Runs the listener and kills it at one labelled point, without a word about it in the product.

Wherever the outside world is about to change, or has just changed, there is a point: each call that changes a
file or folder, each commit, each writing statement that commits by itself, each notification heard. Its label
is made of the moment, of what happens and of the product's functions that asked for it::

    python -m tests.chaos.crashing "after link in files._hardlink of placing.Placer.copies:2" run
    python -m tests.chaos.crashing nth:40 run
    python -m tests.chaos.crashing record:FILE run
    python -m tests.chaos.crashing nursery

The first kills itself with SIGKILL when it comes to that point for the second time; the second at the fortieth point,
whichever that is; the third only writes down the points it comes to, a line of JSON each. With ``once:FILE`` and
``always:FILE`` something is raised instead (`tests.chaos.raising`); ``loop:FILE`` writes down what asks for files in
the event loop (`tests.chaos.loopwatch`). A nursery starts such processes by forking, which saves them the second that
the imports take; `tests.chaos.nursery` talks to it.
"""

import builtins
import ctypes
import functools
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psycopg
from psycopg import sql

import listener
from listener import cli
from tests.chaos import loopwatch, raising
from tests.chaos.marks import About, Kill, KillAtAny, Mark, Point, Record

_PRODUCT = f"{Path(listener.__file__).parent}{os.sep}"
# Helpers that everybody calls: whoever called them is who changes something.
_SHARED = f"{_PRODUCT}database.py"
_HELPERS = ("sync.folders.", "sync.marks.", "sync.phones.Phones.writing", "threads.", "boundary.")
# What a process writes for itself: compiled modules.
_IMPORTING = "<frozen importlib"
_PR_SET_PDEATHSIG = 1

_CHANGES = (
    *("link", "symlink", "rename", "replace", "unlink", "remove", "mkdir", "rmdir"),
    *("utime", "chmod", "chown", "lchown", "fchmod", "fchown", "truncate", "ftruncate", "mkfifo", "setxattr"),
    *("copy_file_range", "sendfile"),
)
# The events that Python's runtime tells an audit hook: whatever changes a file by a way that is not wrapped below.
_AUDITED = frozenset(
    f"os.{name}"
    for name in (
        *("link", "symlink", "rename", "remove", "mkdir", "rmdir"),
        *("utime", "chmod", "chown", "truncate", "setxattr"),
    )
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_STATEMENT = re.compile(
    r"""\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM|CREATE\s+\w+(?:\s+IF\s+NOT\s+EXISTS)?|ALTER\s+\w+|DROP\s+\w+)
        \s+([\w."]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_COMMENT = re.compile(r"--[^\n]*")
# Of the session alone: nothing is left of it.
_OF_THE_SESSION = re.compile(r"\s*(DO|SET|BEGIN|LISTEN)\b", re.IGNORECASE)


class Points:
    """The points of this process."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._covered = threading.local()
        # What was written so far in the transaction of a connection.
        self._written: defaultdict[int, list[str]] = defaultdict(list)
        self._transactions: Counter[int] = Counter()

    def install(self) -> None:
        """Put a point before and after everything that changes the world."""
        for name in _CHANGES:
            setattr(os, name, self._around(name, getattr(os, name)))
        opened = self._around("open", builtins.open, self._opens_for_writing)
        builtins.open = opened
        io.open = opened
        os.open = self._around("open", os.open, lambda _, flags, *__, **___: bool(flags & _WRITING))
        shutil.copyfileobj = self._halfway(shutil.copyfileobj)
        sys.addaudithook(self._audit)
        self._around_database()

    def point(self, moment: str, what: str, frame: FrameType, about: About) -> None:
        self.reached(moment, what, _functions(frame), about)

    def reached(self, moment: str, what: str, functions: list[str], about: About) -> None:
        # No function of the product: somebody else's file, such as a log.
        if functions:
            self._mark.at(Point(_label(moment, what, functions), functions), about)

    # --- files ------------------------------------------------------------------------------------------

    def _around(
        self, what: str, function: Callable[..., Any], counts: Callable[..., bool] = lambda *_, **__: True
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def pointed(*args: Any, **named: Any) -> Any:
            frame = sys._getframe(1)
            if getattr(self._covered, "yes", False) or not counts(*args, **named):
                return function(*args, **named)
            text = raising.named(args)
            self.point("before", what, frame, text)
            self._covered.yes = True
            try:
                result = function(*args, **named)
            finally:
                self._covered.yes = False
            self.point("after", what, frame, text)
            return result

        return pointed

    @staticmethod
    def _opens_for_writing(_: object, mode: str = "r", *__: object, **___: object) -> bool:
        return not set(mode).isdisjoint("wax+")

    def _halfway(self, copy: Callable[..., None]) -> Callable[..., None]:
        """A copy of a file's content has a third point: when half of it is written."""
        around = self._around("copy", copy)

        def pointed(read: Any, write: Any, *length: int) -> None:
            functions = _functions(sys._getframe(1))
            if functions and self._mark.wants(_label("amid", "copy", functions)):
                content = read.read()
                write.write(content[: len(content) // 2])
                write.flush()
            self.reached("amid", "copy", functions, raising.named((read, write)))
            around(read, write, *length)

        return pointed

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if getattr(self._covered, "yes", False):
            return
        if event in _AUDITED or (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
            self.point("unseen", event, sys._getframe(1), raising.named(args))

    # --- the database -----------------------------------------------------------------------------------

    def _around_database(self) -> None:
        self._around_transactions()
        self._around_statements()
        self._around_notifications()

    def _around_transactions(self) -> None:
        points, kind = self, psycopg.AsyncTransaction
        enter, leave = kind.__aenter__, kind.__aexit__

        async def entered(self: psycopg.AsyncTransaction) -> psycopg.AsyncTransaction:
            result = await enter(self)
            points._transactions[id(self.connection)] += 1
            return result

        async def left(self: psycopg.AsyncTransaction, error: Any, *more: Any) -> bool:
            frame = sys._getframe(1)
            commits = error is None and points._transactions[id(self.connection)] == 1
            about = "\n".join(points._written[id(self.connection)])
            raised: BaseException | None = None
            if commits:
                try:
                    points.point("before", "commit", frame, lambda: about)
                except Exception as stranger:  # noqa: BLE001 - rolled back, and raised again
                    raised = stranger
            try:
                result = await leave(self, *((type(raised), raised, None) if raised else (error, *more)))
            finally:
                points._transactions[id(self.connection)] -= 1
                if not points._transactions[id(self.connection)]:
                    points._written.pop(id(self.connection), None)
            if raised is not None:
                raise raised
            if commits:
                points.point("after", "commit", frame, lambda: about)
            return result

        _replace(kind, __aenter__=entered, __aexit__=left)

    def _around_statements(self) -> None:
        points, connection, pipeline = self, psycopg.AsyncConnection, psycopg.AsyncPipeline
        execute, leave = connection.execute, pipeline.__aexit__
        sent: dict[int, list[tuple[str, list[str], str]]] = {}

        async def executed(self: psycopg.AsyncConnection[Any], query: Any, *args: Any, **named: Any) -> Any:
            frame = sys._getframe(1)
            what = _changed_by(query)
            if what is None:
                return await execute(self, query, *args, **named)
            # In a transaction nobody sees it before the commit, which has its points.
            alone = not points._transactions[id(self)]
            about = raising.parameters(args)
            if not alone:
                points._written[id(self)].append(about)
            points.point("before" if alone else "within", what, frame, lambda: about)
            result = await execute(self, query, *args, **named)
            if alone and self.pgconn.pipeline_status:
                # Only sent so far: it is committed when the pipeline ends.
                sent.setdefault(id(self), []).append((what, _functions(frame), about))
            elif alone:
                points.point("after", what, frame, lambda: about)
            return result

        async def ended(self: psycopg.AsyncPipeline, *error: Any) -> None:
            await leave(self, *error)
            for what, functions, about in sent.pop(id(self._conn), ()):
                points.reached("after", what, functions, partial(str, about))

        _replace(connection, execute=executed)
        _replace(pipeline, __aexit__=ended)

    def _around_notifications(self) -> None:
        points, connection = self, psycopg.AsyncConnection
        notifies = connection.notifies

        async def heard(self: psycopg.AsyncConnection[Any], **named: Any) -> AsyncGenerator[psycopg.Notify, None]:
            async with aclosing(notifies(self, **named)) as all_heard:
                async for notify in all_heard:
                    what = f"notification of {_kind(notify.payload)}"
                    about = partial(str, notify.payload)
                    points.point("before", what, sys._getframe(), about)
                    yield notify
                    points.point("after", what, sys._getframe(), about)

        _replace(connection, notifies=heard)


def _replace(owner: type, **functions: Callable[..., Any]) -> None:
    for name, function in functions.items():
        setattr(owner, name, function)


def _changed_by(query: object) -> str | None:
    """Return what a statement changes, None for one that only reads or that is about its own session."""
    text = query.as_string(None) if isinstance(query, sql.Composable) else query
    text = _COMMENT.sub("", text.decode() if isinstance(text, bytes) else str(text))
    if _OF_THE_SESSION.match(text):
        return None
    found = _STATEMENT.search(text)
    if found is None:
        return "lock of a job" if "pg_try_advisory_lock" in text else None
    return f"{found[1].split()[0].upper()} {found[2].removeprefix('public.')}"


def _kind(payload: str) -> str:
    try:
        return str(json.loads(payload)["kind"])
    except (ValueError, LookupError, TypeError):
        return "something else"


def _functions(frame: FrameType | None) -> list[str]:
    """Return the product's functions on the way here, innermost first; none if Python itself is loading modules."""
    found: list[str] = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_IMPORTING):
            return []
        if code.co_filename.startswith(_PRODUCT) and code.co_filename != _SHARED:
            module = code.co_filename.removeprefix(_PRODUCT).removesuffix(".py").replace(os.sep, ".")
            found.append(f"{module}.{code.co_qualname}".replace(".<locals>", ""))
        frame = frame.f_back
    return found


def _label(moment: str, what: str, functions: list[str]) -> str:
    callers = [function for function in functions if not function.startswith(_HELPERS)] or functions
    inner, outer = callers[0], callers[-1]
    # A worker thread begins with what it was started for; the event loop always with the command.
    threaded = threading.current_thread() is not threading.main_thread() and outer != inner
    return f"{moment} {what} in {inner}" + (f" of {outer}" if threaded else "")


def mark_of(text: str) -> Mark:
    """Return what the command line asks for: ``record:FILE``, or a label and a number."""
    head, _, rest = text.partition(":")
    if head == "loop":
        loopwatch.install(Path(rest))
        return Kill("", 0)
    if head in {"once", "always"}:
        raising.hurry()
        return raising.Once(Path(rest)) if head == "once" else raising.Always(Path(rest))
    if head == "record":
        return Record(Path(rest))
    if head == "nth":
        return KillAtAny(int(rest))
    label, _, count = text.rpartition(":")
    return Kill(label, int(count))


def run(mark: str, words: list[str]) -> NoReturn:
    """Run one command of the listener with points; never returns."""
    if mark:
        Points(mark_of(mark)).install()
    sys.argv = ["listener", *words]
    cli.app()
    sys.exit(0)


def nurse(requests: Iterator[str]) -> None:
    """Start processes as asked, by lines of JSON: ``start`` is answered by a pid, ``poll`` by an exit code or null."""
    for line in requests:
        request = json.loads(line)
        answer = _start(request) if request["do"] == "start" else _poll(request["pid"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        run(request["mark"], request["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - a process of its own: nobody above may go on with its copy of the nursery
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    if sys.argv[1:] == ["nursery"]:
        nurse(iter(sys.stdin.readline, ""))
    else:
        run(sys.argv[1], sys.argv[2:])
