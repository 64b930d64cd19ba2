"""The asyncio half of work in the background: in tasks of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sized
from typing import Any

from ..transport.transport import Listener


class Alarm:
    """Runs a function at the time that it is set to.

    Args:
        work: The function. It returns when to run it again, by `io.monotonic`; None: not before the alarm is set again.
        name: The thread's name in the blocking twin; unused here.
        urgent: Has the blocking twin run the work early; unused here.
    """

    def __init__(self, work: Callable[[], float | None], name: str, urgent: Sized) -> None:
        self._work = work
        self._when: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def set(self, when: float) -> None:
        """Run the work at `when` at the latest."""
        if self._closed or (self._when is not None and self._when <= when):
            return
        if self._handle is not None:
            self._handle.cancel()
        self._when = when
        self._handle = asyncio.get_running_loop().call_at(when, self._fire)

    def _fire(self) -> None:
        self._when = self._handle = None
        again = self._work()
        if again is not None:
            self.set(again)

    async def close(self) -> None:
        """Stop: the work does not run again."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()


class Background:
    """Work in tasks of its own, which nobody waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start some work."""
        task = asyncio.create_task(work(), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Cancel the work under way, and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Routine:
    """Runs a function in a task of its own, until it returns or is ended."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the function."""
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def end(self, connection: Listener | None) -> None:
        """Cancel the function, and wait until it has ended.

        Args:
            connection: The connection that it may be reading from, which the blocking twin interrupts; unused here.
        """
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])


class Jobs:
    """Work that runs to its end, also when the caller stops waiting for it. It must not raise."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start some work. Where the loop has ended already, nothing can be done: a lease then expires by itself."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            task = asyncio.create_task(work(), name="histstore-release")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait(self, seconds: float) -> None:
        """Wait for the work, for `seconds` at most."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)

    async def close(self) -> None:
        """Wait for all work."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
