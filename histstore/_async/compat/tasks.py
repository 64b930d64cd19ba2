"""The asyncio half of what the two shells do differently about work in the background, and about cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from . import io

T = TypeVar("T")
P = ParamSpec("P")

Event = asyncio.Event
runs = io.runs

MOMENT: Final = 3.0
"""Seconds that another event loop has to close what belongs to it."""


def caller() -> object:
    """Returns the task that calls."""
    return asyncio.current_task()


Guard = threading.RLock
"""Stands where the blocking twin needs a lock. Here nothing else runs between two awaits; C code costs least."""


async def wait(event: asyncio.Event, seconds: float | None) -> None:
    """Waits until `event` is set, or until so many seconds have passed."""
    if event.is_set() or (seconds is not None and seconds <= 0):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def has_ended(loop: asyncio.AbstractEventLoop) -> bool:
    """Tells whether an event loop is closed: nothing in it ever goes on."""
    return loop.is_closed()


def tell(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Runs a function in an event loop: at once if it is this one, else soon; never if it has ended."""
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
    """Has something done when the running loop ends, if it is ended as `asyncio.run` does it.

    An event loop has no hook for its end. But it closes the asynchronous generators that have begun in it, and runs
    once more after that, so that transports are closed, too.

    Returns:
        What has to be kept meanwhile.
    """
    generator = _farewell(work)
    # The loop warns of a generator that begins when it has closed the others.
    with contextlib.suppress(StopIteration, ResourceWarning):
        generator.asend(None).send(None)
    return generator


class Elsewhere:
    """Work that is handed to another event loop of this process.

    Args:
        loop: Where it is done. It may have ended.
        work: What to do.
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
        tell(self._caller, self._over.set)

    async def wait(self, end: float) -> None:
        """Waits until it is done, or for a moment after `end`. A loop that does not run is not waited for."""
        try:
            if self._loop.is_running():
                await wait(self._over, end + MOMENT - io.monotonic())
        finally:
            if not self.done():  # what it waits for itself takes too long
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._hurry)

    def _hurry(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def done(self) -> bool:
        """Whether it is done."""
        return self._done


class Alarm:
    """Runs a function at the time that it is set to.

    Args:
        work: What to run. Returns when to run it again, by `io.monotonic`; None: not before it is set again.
        name: Of no use here.
        strays: Of no use here.
    """

    def __init__(self, work: Callable[[], float | None], name: str, strays: Strays) -> None:
        self._work = work
        self._when: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def set(self, when: float) -> None:
        """Runs the work at `when` at the latest."""
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
        """Runs nothing any more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()


class Aside:
    """Work in tasks of its own, which nobody waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts some."""
        task = asyncio.create_task(work(), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Ends what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Routine:
    """Runs a function that goes on until it returns or is ended, in a task of its own."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts it."""
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def end(self, connection: io.Connection | None) -> None:
        """Ends it, whatever it waits for.

        Args:
            connection: What it may be reading from.
        """
        await _end(self._task)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task])


class Jobs:
    """Work that goes on to its end, whoever stops waiting for it. It must not raise."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Starts some. Where the loop is gone already, nothing can be done: a lease lapses by itself."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            task = asyncio.create_task(work(), name="histstore-release")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait(self, seconds: float) -> None:
        """Waits for it for a while."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)

    async def close(self) -> None:
        """Waits for all of it."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))


class Strays:
    """Stands where the blocking twin looks for bodies whose exit a signal has interrupted. Here the exit is awaited.

    Args:
        work: Of no use here.
    """

    found: Final = ()

    def __init__(self, work: Callable[[], object]) -> None:
        """Makes one."""

    def look(self) -> None:
        """Finds none."""

    def look_aside(self, aside: Aside) -> None:
        """Finds none."""


def Exit(function: Callable[P, T]) -> Callable[P, T]:
    """Returns `function`, an `__aexit__`."""
    return function


class Scope:
    """The task that runs a leased body, and the right to cancel it once.

    Cancellation in asyncio is a count (`Task.cancelling`), not a flag: whoever adds to it takes the same off again, and
    what is left over is somebody else's wish to stop, which goes before ours. The rules are those of
    `asyncio.timeout` and `asyncio.TaskGroup`.

    Args:
        cancel: Whether the body is cancelled when the lease is lost.
        strays: Of no use here.

    Attributes:
        caller: The task, once the body has begun.
    """

    __slots__ = ("_before", "_cancelled", "_closed", "_wanted", "caller")

    gone: Final = False
    """Whether the body is over, and what it held was not given up: its exit sees to it."""

    def __init__(self, cancel: bool, strays: Strays) -> None:
        self._wanted = cancel
        self.caller: asyncio.Task[Any] | None = None
        self._before = 0
        self._cancelled = False
        self._closed = False

    def ends_with(self, end: object) -> None:
        """Is of no use here."""

    def begin(self, entered: object) -> None:
        """What is held from here on has to be given up."""

    def enter(self) -> None:
        """The body begins, in this task."""
        self.caller = asyncio.current_task()
        self._before = self.caller.cancelling() if self.caller is not None else 0

    def interrupt(self) -> None:
        """The lease is lost: cancels the body, unless it is the body that has just found out."""
        task = self.caller
        if not self._wanted or task is None or self._closed or self._cancelled or task is asyncio.current_task():
            return
        self._cancelled = True
        task.cancel("the lease was lost")

    def leave(self) -> None:
        """The body has ended: from now on nothing is cancelled, and our own request is taken back."""
        if not self._closed and self._cancelled and self.caller is not None:
            self.caller.uncancel()
        self._closed = True

    def stopped(self, error: BaseException | None) -> bool:
        """Whether what came out of the body is our own request to stop, and nobody else's. Asked after `leave`."""
        return isinstance(error, asyncio.CancelledError) and self._ours

    @property
    def _ours(self) -> bool:
        return self._cancelled and self.caller is not None and self.caller.cancelling() <= self._before

    async def finish(
        self, work: Callable[[], Coroutine[Any, Any, T]], jobs: Jobs, error: BaseException | None
    ) -> T | None:
        """Returns what `work`, which may be repeated, comes to. Who is cancelled leaves at once; it is done anyway.

        A task of its own from the start would do, too, but costs as much as the request in it.

        Args:
            work: What has to be done.
            jobs: Where it is done when this is cancelled.
            error: What came out of the body.

        Returns:
            None: the body is being thrown away, and nothing may be awaited in it any more.
        """
        if isinstance(error, GeneratorExit):
            jobs.start(work)
            return None
        try:
            if self._ours and not isinstance(error, asyncio.CancelledError):
                await self._absorb()
            return await work()
        except asyncio.CancelledError:
            jobs.start(work)
            raise

    async def _absorb(self) -> None:
        """Lets our own request arrive that was taken back too late: until Python 3.13 it comes at the next await."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._ours:
                raise
