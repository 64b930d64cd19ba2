"""The asyncio half of events, guards, and work handed to another event loop. The blocking twin has threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final

from . import io

Event = asyncio.Event
runs = io.runs

MOMENT: Final = 3.0
"""Seconds that another event loop gets to close what belongs to it."""


def caller() -> object:
    """Return the task that calls."""
    return asyncio.current_task()


Guard = threading.RLock
"""Takes the place of a lock that only the blocking twin needs. Nothing else runs here between two awaits; of all
context managers, this one, in C, costs least."""


async def wait(event: asyncio.Event, seconds: float | None) -> None:
    """Wait until `event` is set, or for `seconds` at most; None: without a limit."""
    if event.is_set() or (seconds is not None and seconds <= 0):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def has_ended(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether an event loop is closed: nothing in it ever continues."""
    return loop.is_closed()


def run_in(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Run a function in an event loop: at once if it is this one, otherwise soon; never if it has ended."""
    if runs(loop):
        work()
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work)


async def _farewell(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await work()


def at_the_end(work: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Run `work` when the running loop ends, if it ends the way `asyncio.run` ends one.

    An event loop has no hook for its end. But it closes the asynchronous generators that have begun in it, and then
    runs once more, so that transports are closed too.

    Returns:
        An object that the caller has to keep until then.
    """
    generator = _farewell(work)
    # The loop warns of a generator that begins after it has closed the others.
    with contextlib.suppress(StopIteration, ResourceWarning):
        generator.asend(None).send(None)
    return generator


class Elsewhere:
    """Work that is handed to another event loop of this process.

    Args:
        loop: The loop that does it. It may have ended.
        work: The work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._caller = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._done = False
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work(), name="histstore-close")
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()
        self._done = True
        run_in(self._caller, self._over.set)

    async def wait(self, end: float) -> None:
        """Wait until it is done, or until a moment after `end`. A loop that does not run is not waited for."""
        try:
            if self._loop.is_running():
                await wait(self._over, end + MOMENT - io.monotonic())
        finally:
            if not self.done():  # the work itself waits for something that takes too long
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def done(self) -> bool:
        """Return whether it is done."""
        return self._done
