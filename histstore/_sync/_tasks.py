"""The blocking half of what the two shells do differently about work in the background, and about cancellation.

A backend that holds leases has a thread that watches when they are due, and one for each request that renews them;
one that has waited for a lease has a thread that listens to the doorbell, until it is closed. Nothing is cancelled: a
lost lease is told by `check`, by saves and at the exit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from . import _io

T = TypeVar("T")

Event = threading.Event
Guard = threading.Lock

IDLE: Final = 5.0
"""Seconds that a thread waits for work before it ends."""


def caller() -> int:
    """Returns which thread calls."""
    return threading.get_ident()


def wait(event: threading.Event, seconds: float | None) -> None:
    """Waits until `event` is set, or until so many seconds have passed."""
    event.wait(None if seconds is None else min(max(0.0, seconds), threading.TIMEOUT_MAX))


class Alarm:
    """Runs a function at the time that it is set to, in a thread of its own.

    Args:
        work: What to run. Returns when to run it again, by `_io.monotonic`; None: not before it is set again.
        name: The thread's name.
    """

    def __init__(self, work: Callable[[], float | None], name: str) -> None:
        self._work = work
        self._name = name
        self._changed = threading.Condition()
        self._when: float | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def set(self, when: float) -> None:
        """Runs the work at `when` at the latest."""
        with self._changed:
            if self._closed or (self._when is not None and self._when <= when):
                return
            self._when = when
            if self._thread is None:
                # A daemon: a program that forgets to close must be able to end.
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            else:
                self._changed.notify()

    def _run(self) -> None:
        while self._due():
            again = self._work()
            if again is not None:
                self.set(again)

    def _due(self) -> bool:
        """Waits for the next time; False: there is none for long, or it is closed."""
        with self._changed:
            while not self._closed:
                left = None if self._when is None else self._when - _io.monotonic()
                if left is not None and left <= 0:
                    self._when = None
                    return True
                if not self._changed.wait(IDLE if left is None else left) and self._when is None:
                    break
            self._thread = None
            return False

    def close(self) -> None:
        """Waits for the work that is under way, and runs none any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


class Aside:
    """Work in threads of its own, which nobody waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: set[threading.Thread] = set()

    def start(self, work: Callable[[], None]) -> None:
        """Starts some."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        thread = threading.Thread(target=work, name=self._name, daemon=True)
        thread.start()
        self._threads.add(thread)

    def end(self) -> None:
        """Waits for what is under way."""
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join()


class Routine:
    """Runs a function that goes on until it returns or is ended, in a thread of its own."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts it."""
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def end(self, connection: _io.Connection | None) -> None:
        """Ends it, whatever it waits for.

        Args:
            connection: What it may be reading from.
        """
        if connection is not None:
            connection.interrupt()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


class Jobs:
    """Work that goes on to its end. It must not raise. Here it is done when it is started."""

    def start(self, work: Callable[[], object]) -> None:
        """Does some."""
        work()

    def close(self) -> None:
        """Waits for all of it."""


class Scope:
    """A leased body. Nothing cancels it.

    Args:
        cancel: Of no effect here.

    Attributes:
        caller: Which thread runs it, once it has begun.
    """

    __slots__ = ("caller",)

    def __init__(self, cancel: bool) -> None:
        self.caller: int | None = None

    def enter(self) -> None:
        """The body begins, in this thread."""
        self.caller = threading.get_ident()

    def interrupt(self) -> None:
        """The lease is lost; the body finds out by itself."""

    def leave(self) -> None:
        """The body has ended."""

    def stopped(self, error: BaseException | None) -> bool:
        """Whether what came out of the body is our own doing."""
        return False

    def finish(self, work: Callable[[], T], jobs: Jobs, error: BaseException | None) -> T | None:
        """Returns what `work`, which may be repeated, comes to. It is done also when it is interrupted."""
        try:
            return work()
        except BaseException:
            jobs.start(work)
            raise
