"""Work that is cut off."""

import asyncio
import gc
import threading

from listener.threads import to_the_end


async def test_what_is_cut_off_is_waited_for_and_its_own_error_is_nobodys() -> None:
    """Else asyncio prints a traceback when the error of a thread is thrown away unseen."""
    printed: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(20)
        ended.set()
        raise ValueError("too late")

    cut_off = asyncio.create_task(to_the_end(work))
    assert await asyncio.to_thread(begun.wait, 20)
    cut_off.cancel()
    go_on.set()
    await asyncio.wait([cut_off])
    assert cut_off.cancelled()
    assert ended.is_set()
    del cut_off
    gc.collect()
    assert printed == []
