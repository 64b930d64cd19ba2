"""The blocking half of what the two shells do differently about work in the background, and about cancellation.

A backend that holds leases has a thread that watches when they are due, and one for each request that renews them;
one that has waited for a lease has a thread that listens to the doorbell, until it is closed. Nothing is cancelled: a
lost lease is told by `check`, by saves and at the exit.

What a signal's handler raises may end any step here that the main thread takes (see `io`). So nothing that is locked
by Python code is used, neither `threading.Event` and `Condition` nor `Thread.start`: they would stay locked.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from ...errors import BackendError
from . import io

T = TypeVar("T")

Guard = threading.RLock
"""Re-entrant, for a signal's handler that calls the library inside of one."""

IDLE: Final = 5.0
"""Seconds that a thread waits for work before it ends."""
LOOK: Final = 1.0
"""Seconds after which a thread that waits looks anew, though nobody has woken it."""


def caller() -> int:
    """Returns which thread calls."""
    return threading.get_ident()


class Event:
    """As `threading.Event`. If whoever sets it is interrupted, those who wait notice within `LOOK` seconds."""

    __slots__ = ("_places", "_set")

    def __init__(self) -> None:
        self._set = False
        self._places: deque[Any] = deque()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Sets it, and wakes all who wait."""
        self._set = True
        while self._places:
            with contextlib.suppress(IndexError):
                self._places.popleft().release()

    def clear(self) -> None:
        """Sets it back."""
        self._set = False

    def wait(self, seconds: float | None) -> bool:
        """Waits until it is set, or until so many seconds have passed; returns whether it is."""
        end = None if seconds is None else io.monotonic() + seconds
        while not self._set:
            left = LOOK if end is None else min(LOOK, end - io.monotonic())
            if left <= 0:
                break
            place = threading.Lock()
            place.acquire()
            self._places.append(place)
            try:
                if not self._set:  # whoever has set it before saw nobody wait
                    place.acquire(timeout=left)
            finally:
                with contextlib.suppress(ValueError):
                    self._places.remove(place)
        return self._set


def wait(event: Event, seconds: float | None) -> None:
    """Waits until `event` is set, or until so many seconds have passed."""
    event.wait(seconds)


def runs(_loop: None) -> bool:
    """Tells that what belongs to no event loop is in the right one."""
    return True


def has_ended(_loop: None) -> bool:
    """Tells that no event loop has ended."""
    return False


def tell(_loop: None, work: Callable[[], None]) -> None:
    """Runs a function."""
    work()


def at_the_end(_work: Callable[[], None]) -> object:
    """Is of no use here: there is no event loop that ends."""
    return None


def _start(work: Callable[[], None], name: str) -> None:
    """Starts a thread, or is interrupted before.

    The thread is started by one that no signal interrupts; it takes one call of C code to start that one.
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
        work: What to run. Returns when to run it again, by `io.monotonic`; None: not before it is set again.
        name: The thread's name.
        strays: Where there are some, the work is run soon.
    """

    def __init__(self, work: Callable[[], float | None], name: str, strays: Strays) -> None:
        self._work = work
        self._name = name
        self._strays = strays
        self._guard = threading.RLock()
        self._changed = Event()
        self._when: float | None = None
        self._running = threading.Lock()
        """Held by the thread, from its start until it has decided to end."""
        self._runner: int | None = None
        self._closed = False

    def set(self, when: float) -> None:
        """Runs the work at `when` at the latest."""
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
            return  # of two that were started the other was faster
        self._runner = threading.get_ident()
        try:
            while self._due():
                again = self._work()
                if again is not None:
                    self.set(again)
        except BaseException:
            self._running.release()  # or nobody would be renewed any more, and `close` would wait for ever
            raise

    def _due(self) -> bool:
        """Waits for the next time; False: there is none for long, or it is closed."""
        since = io.monotonic()
        waited = False
        while True:
            self._changed.clear()
            with self._guard:
                now = io.monotonic()
                if self._closed or (self._when is None and now >= since + IDLE):
                    self._running.release()
                    return False
                if self._when is not None and (now >= self._when or (waited and self._strays.found)):
                    self._when = None
                    return True
                left = since + IDLE - now if self._when is None else self._when - now
            self._changed.wait(min(left, LOOK))
            waited = True

    def close(self) -> None:
        """Waits for the work that is under way, and runs none any more."""
        self._closed = True
        self._changed.set()
        if self._runner != threading.get_ident():
            with self._running:
                pass


class Aside:
    """Work in threads of its own, which nobody waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._under_way: dict[int, Event] = {}

    def start(self, work: Callable[[], None]) -> None:
        """Starts some."""
        try:
            _start(partial(self._run, work), self._name)
        except RuntimeError:
            self._run(work)  # no more threads may be started: those that wait for this one have to wait

    def _run(self, work: Callable[[], None]) -> None:
        over = self._under_way[threading.get_ident()] = Event()
        try:
            work()
        finally:
            del self._under_way[threading.get_ident()]
            over.set()

    def end(self) -> None:
        """Waits for what is under way."""
        for thread, over in tuple(self._under_way.items()):
            if thread != threading.get_ident():
                over.wait(None)


class Routine:
    """Runs a function that goes on until it returns or is ended, in a thread of its own."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._running = threading.Lock()
        self._runner: int | None = None

    def start(self) -> None:
        """Starts it."""
        try:
            _start(self._run, self._name)
        except RuntimeError as error:
            raise BackendError("waiting for a lease needs a thread, and none can be started: allow more") from error

    def _run(self) -> None:
        with self._running:  # one that ends just now is waited for
            self._runner = threading.get_ident()
            self._work()

    def end(self, connection: io.Connection | None) -> None:
        """Ends it, whatever it waits for.

        Args:
            connection: What it may be reading from.
        """
        if connection is not None:
            connection.interrupt()
        if self._runner != threading.get_ident():
            with self._running:
                pass


class Jobs:
    """Work that goes on to its end. It must not raise. Here it is done when it is started."""

    def start(self, work: Callable[[], object]) -> None:
        """Does some."""
        work()

    def wait(self, _seconds: float) -> None:
        """Returns: all of it is done."""

    def close(self) -> None:
        """Waits for all of it."""


class Strays:
    """Leased bodies that have ended, and whose exit was interrupted before their lease was given up.

    Args:
        work: Gives up the leases of all bodies that are gone.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.found: deque[object] = deque()

    def look(self) -> None:
        """Gives their leases up, if there are any."""
        # Other threads may look, too. What was found before some work began is done with after it, and nothing else.
        for stray in iter(self._first, None):
            self._work()
            with contextlib.suppress(ValueError):
                self.found.remove(stray)

    def _first(self) -> object:
        try:
            return self.found[0]
        except IndexError:
            return None

    def look_aside(self, aside: Aside) -> None:
        """Does it in the background."""
        aside.start(self.look)


class Scope:
    """A leased body. Nothing cancels it. It can tell when the body is gone, though its exit was interrupted.

    A `with` statement holds what it calls at its end, and nobody else does: when that is gone, the body is over. Where
    it was entered otherwise, by an `ExitStack` say, it is over when the object that was entered is gone.

    Args:
        cancel: Of no effect here.
        strays: Where it is noted if the body is gone before `finish` has done its work.

    Attributes:
        caller: Which thread runs it, once it has begun.
    """

    __slots__ = ("_end", "_held", "_strays", "caller")

    def __init__(self, cancel: bool, strays: Strays) -> None:
        self._strays = strays
        self.caller: int | None = None
        self._end: weakref.ref[Any] | None = None
        self._held: weakref.ref[Any] | None = None

    def ends_with(self, end: object) -> None:
        """Takes note of what a `with` statement holds, before it enters."""
        self._end = weakref.ref(end)

    def begin(self, entered: object) -> None:
        """What is held from here on has to be given up."""
        end = self._end() if self._end is not None else None
        # The callback is C code, which nothing interrupts.
        self._held = weakref.ref(entered if end is None else end, self._strays.found.append)

    @property
    def gone(self) -> bool:
        """Whether the body is over, and what it held was not given up."""
        return self._held is not None and self._held() is None

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
        """Returns what `work`, which may be repeated, comes to. If it is interrupted, whoever looks next does it."""
        found = work()
        self._held = None
        return found


class Exit(Generic[T]):
    """Lets a scope know what the `with` statement holds that enters it. A decorator of `__exit__`."""

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function

    def __get__(self, entered: Any, _owner: object = None) -> Callable[..., T]:
        if entered is None:
            return self._function
        end = partial(self._function, entered)
        entered.ends_with(end)
        return end
