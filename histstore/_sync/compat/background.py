"""The blocking half of work in the background: in threads of its own.

A backend that holds leases has one thread that watches when they are due, and one for each request that renews them.
A backend that has waited for a lease has a thread that listens to the doorbell, until the backend is closed. One whose
primary is found by sentinels has a thread that listens to each of them, from its first call until it is closed.

An exception that a signal's handler raises may end any step here that the main thread takes: see `tasks`.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Sized
from functools import partial
from typing import Final

from ...errors import BackendError
from ..transport.transport import Listener
from . import io
from .tasks import LOOK, Event

IDLE: Final = 5.0
"""Seconds that a thread waits for work before it ends."""


def _start(work: Callable[[], None], name: str) -> None:
    """Start a thread, or start nothing if a signal interrupts.

    A helper thread starts it, because no signal interrupts that one. Starting the helper is a single call of C code.
    """
    _thread.start_new_thread(_start_named, (work, name))


def _start_named(work: Callable[[], None], name: str) -> None:
    try:
        # A daemon: a program that forgets to close must be able to end.
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:  # no more threads may be started; this is one already
        work()


class Alarm:
    """Runs a function at the time that it is set to, in a thread of its own.

    Args:
        work: The function. It returns when to run it again, by `io.monotonic`; None: not before the alarm is set again.
        name: The thread's name.
        urgent: While it holds something, the work runs soon, whatever the time is set to.
    """

    def __init__(self, work: Callable[[], float | None], name: str, urgent: Sized) -> None:
        self._work = work
        self._name = name
        self._urgent = urgent
        self._guard = threading.RLock()
        self._changed = Event()
        self._when: float | None = None
        self._running = threading.Lock()
        """Held by the thread, from its start until it has decided to end."""
        self._runner: int | None = None
        self._closed = False

    def set(self, when: float) -> None:
        """Run the work at `when` at the latest."""
        with self._guard:
            if self._closed:
                return
            sooner = self._when is None or when < self._when
            if sooner:
                self._when = when
            if not self._running.locked():
                try:
                    _start(self._run, self._name)
                except RuntimeError as error:
                    raise BackendError("leases need a thread, and none can be started: allow more threads") from error
            elif sooner:
                self._changed.set()

    def _run(self) -> None:
        if not self._running.acquire(blocking=False):
            return  # two were started, and the other one was faster
        self._runner = threading.get_ident()
        try:
            while self._due():
                again = self._work()
                if again is not None:
                    self.set(again)
        except BaseException:
            self._running.release()  # otherwise no lease would be renewed any more, and `close` would wait for ever
            raise

    def _due(self) -> bool:
        """Wait for the next time; return False if there is none for long, or the alarm is closed."""
        since = io.monotonic()
        waited = False
        while True:
            self._changed.clear()
            with self._guard:
                now = io.monotonic()
                if self._closed or (self._when is None and now >= since + IDLE):
                    self._running.release()
                    return False
                if self._when is not None and (now >= self._when or (waited and self._urgent)):
                    self._when = None
                    return True
                left = since + IDLE - now if self._when is None else self._when - now
            self._changed.wait(min(left, LOOK))
            waited = True

    def close(self) -> None:
        """Stop: wait for the work under way; it does not run again."""
        self._closed = True
        self._changed.set()
        if self._runner != threading.get_ident():
            with self._running:
                pass


class Background:
    """Work in threads of its own, which nobody waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._under_way: dict[int, Event] = {}

    def start(self, work: Callable[[], None]) -> None:
        """Start some work."""
        try:
            _start(partial(self._run, work), self._name)
        except RuntimeError:
            self._run(work)  # no more threads may be started: the work of this one has to wait meanwhile

    def _run(self, work: Callable[[], None]) -> None:
        over = self._under_way[threading.get_ident()] = Event()
        try:
            work()
        finally:
            del self._under_way[threading.get_ident()]
            over.set()

    def end(self) -> None:
        """Wait for the work under way, but not for the work that calls this."""
        for thread, over in tuple(self._under_way.items()):
            if thread != threading.get_ident():
                over.wait(None)


class Routine:
    """Runs a function in a thread of its own, until it returns or is ended."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._running = threading.Lock()
        self._runner: int | None = None

    def start(self) -> None:
        """Start the function."""
        try:
            _start(self._run, self._name)
        except RuntimeError as error:
            raise BackendError("listening needs a thread, and none can be started: allow more") from error

    def _run(self) -> None:
        with self._running:  # waits for a run that is just ending
            self._runner = threading.get_ident()
            self._work()

    def end(self, connection: Listener | None) -> None:
        """End the function, whatever it waits for, and wait until it has ended.

        Args:
            connection: The connection that it may be reading from, which is interrupted.
        """
        if connection is not None:
            connection.interrupt()
        if self._runner != threading.get_ident():
            with self._running:
                pass


class Jobs:
    """Work that runs to its end. It must not raise. Here it runs in the caller's thread when it is started."""

    def start(self, work: Callable[[], object]) -> None:
        """Do some work."""
        work()

    def wait(self, _seconds: float) -> None:
        """Return at once: all work is done."""

    def close(self) -> None:
        """Return at once: all work is done."""
