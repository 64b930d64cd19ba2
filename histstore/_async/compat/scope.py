"""The asyncio half of a leased body: who runs it, and how it is cancelled when the lease is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from .background import Background, Jobs

T = TypeVar("T")
P = ParamSpec("P")


class AbandonedBodies:
    """Takes the place of the blocking twin's search for bodies whose exit a signal interrupted.

    Here the exit is awaited, so none is ever found.

    Args:
        release: Unused here.
    """

    found: Final = ()

    def __init__(self, release: Callable[[], object]) -> None:
        """Make one."""

    def collect(self) -> None:
        """Do nothing."""

    def collect_in(self, background: Background) -> None:
        """Do nothing."""


def Exit(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function`, an `__aexit__`."""
    return function


class Scope:
    """The task that runs a leased body, and the right to cancel it once.

    Cancellation in asyncio is a count (`Task.cancelling`), not a flag. Who adds a request takes the same one off again;
    a request that is left over is somebody else's and takes precedence over ours. The rules are those of
    `asyncio.timeout` and `asyncio.TaskGroup`.

    Args:
        cancel: Whether the body is cancelled when the lease is lost.
        abandoned: Unused here.

    Attributes:
        caller: The task, once the body has begun.
    """

    __slots__ = ("_before", "_cancelled", "_cancels", "_closed", "caller")

    abandoned: Final = False
    """Whether the body is over and its lease was not released. Never here: the exit sees to it."""

    def __init__(self, cancel: bool, abandoned: AbandonedBodies) -> None:
        self._cancels = cancel
        self.caller: asyncio.Task[Any] | None = None
        self._before = 0
        self._cancelled = False
        self._closed = False

    def watch_exit(self, held: object) -> None:
        """Do nothing: only the blocking twin watches what a `with` statement holds."""

    def begin(self, entered: object) -> None:
        """Do nothing: only the blocking twin has to notice that a lease is held from here on."""

    def enter(self) -> None:
        """Begin the body, in this task."""
        self.caller = asyncio.current_task()
        self._before = self.caller.cancelling() if self.caller is not None else 0

    def interrupt(self) -> None:
        """Cancel the body, because the lease is lost; not if the body itself has just found out."""
        task = self.caller
        if not self._cancels or task is None or self._closed or self._cancelled or task is asyncio.current_task():
            return
        self._cancelled = True
        task.cancel("the lease was lost")

    def leave(self) -> None:
        """End the body: take our own request back, and cancel nothing from now on."""
        if not self._closed and self._cancelled and self.caller is not None:
            self.caller.uncancel()
        self._closed = True

    def stopped(self, error: BaseException | None) -> bool:
        """Return whether our own request to stop, and nobody else's, ended the body. To be called after `leave`."""
        return isinstance(error, asyncio.CancelledError) and self._only_ours

    @property
    def _only_ours(self) -> bool:
        return self._cancelled and self.caller is not None and self.caller.cancelling() <= self._before

    async def finish(
        self, work: Callable[[], Coroutine[Any, Any, T]], jobs: Jobs, error: BaseException | None
    ) -> T | None:
        """Return the result of `work`, which may run again. A caller that is cancelled leaves at once.

        The work is then done in a task of `jobs`. Such a task from the start would do too, but it costs as much as
        the request in it.

        Args:
            work: The work.
            jobs: Does the work when this is cancelled.
            error: The error that ended the body.

        Returns:
            The result; None: the body is being thrown away, and must not await anything any more.
        """
        if isinstance(error, GeneratorExit):
            jobs.start(work)
            return None
        try:
            if self._only_ours and not isinstance(error, asyncio.CancelledError):
                await self._absorb()
            return await work()
        except asyncio.CancelledError:
            jobs.start(work)
            raise

    async def _absorb(self) -> None:
        """Let our own request arrive if it was taken back too late: until Python 3.13 it comes at the next await."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._only_ours:
                raise
