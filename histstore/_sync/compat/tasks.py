"""The blocking half of events and guards. The asyncio twin also hands work to other event loops.

An exception that a signal's handler raises may end any step here that the main thread takes (see `io`). So this uses
no lock that Python code takes: neither `threading.Event` and `Condition` nor `Thread.start`. They would stay locked.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from . import io

Guard = threading.RLock
"""Re-entrant, because a signal's handler may call the library inside of one."""

LOOK: Final = 1.0
"""Seconds after which a waiting thread looks again, though nobody has woken it."""


def caller() -> int:
    """Return the identifier of the thread that calls."""
    return threading.get_ident()


class Event:
    """An event like `threading.Event`. If the setter is interrupted, waiters notice the event within `LOOK` seconds."""

    __slots__ = ("_places", "_set")

    def __init__(self) -> None:
        self._set = False
        self._places: deque[Any] = deque()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it, and wake all waiters."""
        self._set = True
        while self._places:
            with contextlib.suppress(IndexError):
                self._places.popleft().release()

    def clear(self) -> None:
        """Reset it."""
        self._set = False

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is set, or for `seconds` at most; return whether it is set."""
        end = None if seconds is None else io.monotonic() + seconds
        while not self._set:
            left = LOOK if end is None else min(LOOK, end - io.monotonic())
            if left <= 0:
                break
            place = threading.Lock()
            place.acquire()
            self._places.append(place)
            try:
                if not self._set:  # a setter that came before saw no waiter
                    place.acquire(timeout=left)
            finally:
                with contextlib.suppress(ValueError):
                    self._places.remove(place)
        return self._set


def wait(event: Event, seconds: float | None) -> None:
    """Wait until `event` is set, or for `seconds` at most; None: without a limit."""
    event.wait(seconds)


def runs(_loop: None) -> bool:
    """Return True: code that belongs to no event loop runs in the right one."""
    return True


def has_ended(_loop: None) -> bool:
    """Return False: there is no event loop that could end."""
    return False


def run_in(_loop: None, work: Callable[[], None]) -> None:
    """Run a function."""
    work()


def at_the_end(_work: Callable[[], None]) -> object:
    """Do nothing: there is no event loop that ends."""
    return None
