"""The blocking half of what the two shells do differently: locks, pauses and clocks.

No event loop is started to serve a call, and no thread except for leases and sentinels (`background`). Threads may
share a backend.

A signal handler may raise wherever CPython checks for signals: when a Python function is entered, also `__exit__` and a
function that `finally` calls; when a loop jumps back; when a call of C code has returned. CPython does not check
between the end of a `with` body and the call of `__exit__`, nor between the call of `__enter__` and the body. So a lock
is safe if both are C code, as those of `threading.Lock` and `RLock` are: the lock is taken exactly if the body is
entered, and it is released whatever the body raises.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tenacity import Retrying

__all__ = [
    "Held",
    "Lock",
    "Retrying",
    "clock",
    "here",
    "maybe_await",
    "monotonic",
    "run_blocking",
    "run_to_the_end",
    "sleep",
]

T = TypeVar("T")

Lock = threading.RLock
"""A re-entrant lock, which is never re-entered. It only shows that a signal handler calls what it interrupted."""

monotonic = time.monotonic
"""Return a clock that never goes back, in seconds. This is the C function itself: each call reads it several times."""


def sleep(seconds: float) -> None:
    """Pause the thread."""
    time.sleep(seconds)


class _RaisesIfLate(dict[bool, None]):
    """The result of waiting for a lock: True maps to None, False raises an error."""

    def __init__(self, error: Callable[[str], Exception], text: str) -> None:
        super().__init__({True: None})
        self._error = error
        self._text = text

    def __missing__(self, _taken: bool) -> None:
        raise self._error(self._text)


@functools.lru_cache(64)
def _raise_if_late(error: Callable[[str], Exception], text: str) -> Callable[[bool], None]:
    return _RaisesIfLate(error, text).__getitem__


_BLOCKING: Final = (True,)


class Held:
    """Hold a lock that became free within `timeout` seconds. It is a class because every call goes through one.

    Both ends are C code: slots of the instance, which `with` finds through the class. The entry is the `__next__` of an
    iterator. It waits for the lock and looks the result up in a dict that raises for False.

    Raises:
        Exception: The lock was not free in time, or this thread holds it already. In the second case the caller is a
            signal handler that interrupted the holder and would wait for itself. The error has the given class, and
            in the first case the given text.
    """

    __slots__ = ("__enter__", "__exit__")
    __enter__: Any
    __exit__: Any

    def __init__(self, lock: Any, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        if lock._is_owned():
            raise error("a signal's handler called what it had interrupted; nothing was written: call it afterwards")
        timeout = timeout if timeout < threading.TIMEOUT_MAX else threading.TIMEOUT_MAX
        self.__enter__ = map(_raise_if_late(error, text), map(lock.acquire, _BLOCKING, (timeout,))).__next__
        self.__exit__ = lock.__exit__


def run_blocking(function: Callable[..., T], *args: Any) -> T:
    """Run blocking file or process work."""
    return function(*args)


run_to_the_end = run_blocking


def maybe_await(value: Any) -> Any:
    """Return what a user's function returned."""
    return value


here: Callable[[], Any] = type(None)
"""Return None: a connection belongs to a process and to no event loop. This is C code, because every call asks."""


def clock() -> Callable[[], float]:
    """Return the clock, in seconds. Any thread may read it."""
    return monotonic
