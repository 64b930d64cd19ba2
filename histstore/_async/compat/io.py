"""The asyncio half of what the two shells do differently: locks, pauses and clocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying

T = TypeVar("T")

Retrying = AsyncRetrying

POLL: Final = 0.005
"""Seconds between two checks whether the event loop of the task that holds a lock has ended."""


def monotonic() -> float:
    """Return the running loop's clock in seconds."""
    return asyncio.get_running_loop().time()


async def sleep(seconds: float) -> None:
    """Pause the task."""
    await asyncio.sleep(seconds)


class _Done:
    """An awaitable that has already finished."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


_DONE: Final = _Done()


class Lock:
    """A fair lock that tasks of several event loops may share.

    A free lock is taken without a coroutine, because every call takes one.
    The lock passes from one event loop to another. If a loop ends while its task holds the lock, the lock is taken from
    that task. A loop that does not run is skipped until it runs again. Each step is a single list operation, which no
    other thread can interrupt half-way.
    """

    __slots__ = ("_free", "_holders", "_waiters")

    def __init__(self) -> None:
        self._free: list[None] = [None]
        self._holders: list[Held | None] = []
        self._waiters: deque[tuple[asyncio.Future[None], Held | None]] = deque()

    def take(self, by: Held | None = None) -> bool:
        """Take the lock if it is free, and return whether it was."""
        try:
            self._free.pop()
        except IndexError:
            return False
        self._holders.append(by)
        return True

    async def acquire(self, by: Held | None = None) -> None:
        """Take the lock, and wait until it is free."""
        if self.take(by):
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((future, by))
        self._serve()  # another thread may have released the lock just before the future was queued
        self._poll_foreign_holder(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(by)
            else:
                self._remove((future, by))
                self._poll_for_a_waiter()
            raise

    def release(self, by: Held | None = None) -> None:
        """Give the lock to the next waiter, or set it free."""
        try:
            self._holders.remove(by)
        except ValueError:
            return  # the holder's loop has ended and its task was dropped; somebody else has the lock
        self._free.append(None)
        # The order matters: a waiter that came in between is either seen here, or has found the lock free.
        if self._waiters:
            self._serve()
            self._poll_for_a_waiter()

    def _serve(self) -> None:
        """Give the lock, if it is free, to the first waiter whose loop runs."""
        while any(_can_be_served(future) for future, _ in list(self._waiters)):
            try:
                self._free.pop()
            except IndexError:
                return  # its holder serves the next waiter
            if self._hand_over():
                return
            self._free.append(None)

    def _hand_over(self) -> bool:
        for entry in list(self._waiters):
            future, waiter = entry
            loop = future.get_loop()
            if loop.is_closed():
                self._remove(entry)
            if not _can_be_served(future) or not self._remove(entry):
                continue
            self._holders.append(waiter)
            if runs(loop):
                future.set_result(None)
                return True
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._resolve, future, waiter)
                return True
            # That loop has ended just now.
            try:
                self._holders.remove(waiter)
            except ValueError:
                return True
        return False

    def _remove(self, entry: tuple[asyncio.Future[None], Held | None]) -> bool:
        """Remove an entry of the queue, and return False if another thread was faster."""
        try:
            self._waiters.remove(entry)
        except ValueError:
            return False
        return True

    def _resolve(self, future: asyncio.Future[None], waiter: Held | None) -> None:
        if future.done():  # its task was cancelled
            self.release(waiter)
        else:
            future.set_result(None)

    # A holder in the waiter's own loop wakes the waiter. A holder in another loop may end with its loop and wake
    # nobody, so one waiter polls it.

    def _poll_foreign_holder(self, future: asyncio.Future[None]) -> None:
        """Check the holder again later if it belongs to another loop and `future` still waits."""
        loop = future.get_loop()
        if not future.done() and not self._is_held_in(loop):
            loop.call_later(POLL, self._check_holder, future)

    def _check_holder(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            for holder in self._holders[:1]:
                if holder is not None and holder.loop.is_closed():
                    self.release(holder)
            self._serve()
            self._poll_foreign_holder(future)

    def _poll_for_a_waiter(self) -> None:
        """Let one waiter of the loop that runs here poll the holder."""
        for future, _ in list(self._waiters):
            if not future.done() and runs(future.get_loop()):
                self._poll_foreign_holder(future)
                return

    def _is_held_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        for holder in self._holders[:1]:
            return holder is None or holder.loop is loop
        return False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_error: object) -> None:
        self.release()


def runs(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether an event loop is the one that runs in this thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _can_be_served(future: asyncio.Future[None]) -> bool:
    """Return whether a waiter still waits and its event loop runs."""
    return not future.done() and future.get_loop().is_running()


class Held:
    """Hold a lock that became free within `timeout` seconds. It is a class because every call goes through one.

    Attributes:
        loop: The event loop of the task that holds the lock or waits for it.

    Raises:
        Exception: The lock was not free in time. The error has the given class and text.
    """

    __slots__ = ("_error", "_lock", "_text", "_timeout", "loop")

    def __init__(self, lock: Lock, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        self._error = error
        self._lock = lock
        self._timeout = timeout
        self._text = text
        self.loop = asyncio.get_running_loop()

    def __aenter__(self) -> Awaitable[None]:
        return _DONE if self._lock.take(self) else self._wait()

    def __aexit__(self, *_error: object) -> Awaitable[None]:
        self._lock.release(self)
        return _DONE

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire(self)
        except TimeoutError:
            raise self._error(self._text) from None


async def run_blocking(function: Callable[..., T], *args: Any) -> T:
    """Run blocking file or process work without blocking the loop.

    If the caller is cancelled, it returns at once and the work continues in its thread.
    """
    return await asyncio.to_thread(function, *args)


async def run_to_the_end(function: Callable[..., T], *args: Any) -> T:
    """Run blocking work that must not be left half done. A cancelled caller waits for it, too."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


async def maybe_await(value: Any) -> Any:
    """Return what a user's function returned, and await it first if it is awaitable."""
    return await value if hasattr(value, "__await__") else value


here: Final = asyncio.get_running_loop
"""Return the event loop that runs in this thread. A connection belongs to one loop of one process. Every call asks."""


def clock() -> Callable[[], float]:
    """Return this loop's clock, in seconds. Other threads may read it, too."""
    return asyncio.get_running_loop().time
