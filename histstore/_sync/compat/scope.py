"""The blocking half of a leased body: how it is noticed that the body is over, though its exit was interrupted.

Nothing is cancelled. A body learns from `check`, from its saves and from the exit that its lease is lost.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from .background import Background, Jobs

T = TypeVar("T")


class AbandonedBodies:
    """Leased bodies that have ended, but whose exit was interrupted before it released the lease.

    Args:
        release: Releases the leases of all abandoned bodies.

    Attributes:
        found: One object for each body that was found and not yet dealt with.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self.found: deque[object] = deque()

    def collect(self) -> None:
        """Release their leases, if there are any."""
        # Other threads may collect too. Each removes only what was found before its own work began.
        for body in iter(self._first, None):
            self._release()
            with contextlib.suppress(ValueError):
                self.found.remove(body)

    def _first(self) -> object:
        try:
            return self.found[0]
        except IndexError:
            return None

    def collect_in(self, background: Background) -> None:
        """Release their leases in the background."""
        background.start(self.collect)


class Scope:
    """A leased body. Nothing cancels it. It knows whether the body is over, though its exit was interrupted.

    A `with` statement alone holds the function that it calls at its end: when that is gone, the body is over. A body
    that was entered otherwise, by an `ExitStack` say, is over when the object that was entered is gone.

    Args:
        cancel: Unused here.
        abandoned: Is notified if the body is gone before `finish` has done its work.

    Attributes:
        caller: The identifier of the thread that runs the body, once it has begun.
    """

    __slots__ = ("_bodies", "_exit", "_held", "caller")

    def __init__(self, cancel: bool, abandoned: AbandonedBodies) -> None:
        self._bodies = abandoned
        self.caller: int | None = None
        self._exit: weakref.ref[Any] | None = None
        self._held: weakref.ref[Any] | None = None

    def watch_exit(self, held: object) -> None:
        """Watch the function that a `with` statement holds, before the body is entered."""
        self._exit = weakref.ref(held)

    def begin(self, entered: object) -> None:
        """Notice from here on if the body is gone without a release."""
        watched = self._exit() if self._exit is not None else None
        # The callback is C code, which no signal interrupts.
        self._held = weakref.ref(entered if watched is None else watched, self._bodies.found.append)

    @property
    def abandoned(self) -> bool:
        """Whether the body is over and its lease was not released."""
        return self._held is not None and self._held() is None

    def enter(self) -> None:
        """Begin the body, in this thread."""
        self.caller = threading.get_ident()

    def interrupt(self) -> None:
        """Do nothing: the body finds out by itself that the lease is lost."""

    def leave(self) -> None:
        """Do nothing: there is no request to take back."""

    def stopped(self, error: BaseException | None) -> bool:
        """Return False: nothing here ever stops a body."""
        return False

    def finish(self, work: Callable[[], T], jobs: Jobs, error: BaseException | None) -> T | None:
        """Return the result of `work`, which may run again: if it is interrupted, the next `collect` does it."""
        result = work()
        self._held = None
        return result


class Exit(Generic[T]):
    """Lets a scope watch the function that a `with` statement holds. A decorator of `__exit__`."""

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function

    def __get__(self, entered: Any, _owner: object = None) -> Callable[..., T]:
        if entered is None:
            return self._function
        held = partial(self._function, entered)
        entered.watch_exit(held)
        return held
