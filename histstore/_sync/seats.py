# Generated from histstore/_async/seats.py by tools/unasync.py; do not edit.
"""Seats: the parts of a backend that belong to one process and one event loop.

If two processes or two loops read from one socket, each receives replies that are meant for the other. So a seat owns
the connections, the leases, the background work and what is known about the server. A backend holds the settings, and
one seat for each place where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from os import getpid
from typing import Any, Final

from ..errors import BackendError
from ..observe import Observer
from ..policy import Durability, RetryPolicy
from ..wire.failures import CLOSED
from ..wire.settings import ConnectionSettings
from ..wire.severing import Register, after_fork
from .compat import io, tasks
from .leases.table import LeaseTable
from .transport import connection
from .transport.choice import make_transport
from .transport.observed import make_runner
from .transport.runner import Runner
from .transport.single_server import SingleServer

CLOSING: Final = "this backend is closing, and nothing new begins in it: make a new one"


class Seat:
    """The parts of a backend in one process and one event loop.

    Attributes:
        pid: The process.
        loop: The event loop; None in the blocking twin.
        runner: Sends calls.
        leases: The leases that are held or waited for here.
    """

    __slots__ = ("__weakref__", "_loop_end", "leases", "loop", "pid", "runner")

    def __init__(self, pid: int, loop: Any, runner: Runner, leases: LeaseTable) -> None:
        self.pid = pid
        self.loop = loop
        self.runner = runner
        self.leases = leases
        self._loop_end: object = None

    def begin(self) -> None:
        """Have the connections closed when the event loop ends, if it ends as `asyncio.run` ends it."""
        self._loop_end = tasks.at_the_end(self._leave)

    def _leave(self) -> None:
        self.leases.finish_releases()
        self.runner.drop()

    def close(self, drain: float) -> None:
        """Wait for leased bodies to end, give up the leases that are left, and disconnect.

        Args:
            drain: Longest wait, in seconds.
        """
        try:
            self.leases.drain(drain)
        finally:
            self.shut()

    def shut(self) -> None:
        """Give up the leases that are held, and disconnect."""
        try:
            self.leases.close()
        finally:
            self.runner.close()


class _NoSeat:
    """The value of `Seats._last` before a seat was used. It matches no place."""

    pid = 0
    loop = object()


class Seats:
    """All seats of a backend.

    Args:
        settings: How to connect.
        durability: The confirmations that writes wait for.
        namespace: Prefix of all keys.
        policy: When a request about a lease is tried again.
        observer: Sees each call to the server; None: nobody does.

    Attributes:
        settings: How new seats connect.
        prepare: Called before the first call in each seat, to start an embedded server; None: nothing to start.
    """

    def __init__(
        self, settings: ConnectionSettings, durability: Durability, namespace: str, policy: RetryPolicy,
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.prepare: Callable[[SingleServer], None] | None = None
        self._observer = observer
        self._durability = durability
        self._namespace = namespace
        self._policy = policy
        # Without a lock, which a thread could hold that does not exist in a forked child. Each operation of a dict is
        # atomic.
        self._taken: dict[tuple[int, Any], Seat] = {}
        self._last: Any = _NoSeat
        self._warned: set[str] = set()
        self._closing = False
        self._closed = False
        _known.add(self)

    def here(self) -> Seat:
        """Return the seat of this process and event loop, or make one. This does no I/O.

        Raises:
            BackendError: The backend is closed or closing, or no event loop runs here.
        """
        seat: Seat = self._last
        try:
            if seat.loop is io.here() and seat.pid == getpid():
                return seat
        except RuntimeError:
            raise BackendError(
                "no event loop runs in this thread: call this in a coroutine; histstore.sync has blocking calls"
            ) from None
        return self._find()

    def _find(self) -> Seat:
        self.check_open()
        place = os.getpid(), io.here()
        seat = self._taken.get(place)
        if seat is None:
            if self._closing:
                raise BackendError(CLOSING)
            seat = self._make(place)
        self._last = seat
        return seat

    def _make(self, place: tuple[int, Any]) -> Seat:
        transport = make_transport(self.settings, durable=self._durability.wanted > 0)
        prepare = None
        if self.prepare is not None and isinstance(transport, SingleServer):
            prepare = partial(self.prepare, transport)
        runner = make_runner(
            transport,
            self._durability,
            self._namespace,
            observer=self._observer,
            prepare=prepare,
            warned=self._warned,
        )
        made = Seat(*place, runner, LeaseTable(runner, self._namespace, self._policy, self, place))
        seat = self._taken.setdefault(place, made)
        if seat is made:
            seat.begin()
            self.inherit_nothing()
        return seat

    def at(self) -> Seat:
        """Return the seat of this process and event loop, even if the backend is closed by now."""
        place = os.getpid(), io.here()
        seat = self._taken.get(place)
        return self.here() if seat is None else seat

    def check_open(self) -> None:
        """Check that the backend is open.

        Raises:
            BackendError: It is closed.
        """
        if self._closed:
            raise BackendError(CLOSED)

    def leases(self) -> list[LeaseTable]:
        """Return the leases of all event loops of this process."""
        return [seat.leases for seat in self.all()]

    def all(self) -> list[Seat]:
        """Return the seats of this process."""
        pid = os.getpid()
        seats = list(self._taken.values())
        return [seat for seat in seats if seat.pid == pid]

    def inherit_nothing(self) -> None:
        """Put away the seats that this process has inherited by a fork."""
        pid = os.getpid()
        for place in [each for each in list(self._taken) if each[0] != pid]:
            self._put_away(self._taken.pop(place, None))
        connection.sever_inherited()

    def abandon_all(self) -> None:
        """Put away all seats: this process was just forked. Its id may equal that of an earlier process."""
        self._last = _NoSeat
        while self._taken:
            self._put_away(self._taken.popitem()[1])

    def _put_away(self, seat: Seat | None) -> None:
        if seat is not None:
            seat.leases.disown()
            _PARENTS.append(seat)

    def close(self, drain: float) -> None:
        """Close the backend in this process.

        Args:
            drain: Longest wait for the bodies of locks and turns, in seconds.
        """
        self._closing = True
        place = os.getpid(), io.here()
        own = self._taken.get(place)
        try:
            if own is not None:
                own.leases.drain(drain)
        finally:
            try:
                if own is not None:
                    own.shut()
            finally:
                self._closed = True
                self._last = _NoSeat


_PARENTS: Final[list[Seat]] = []
"""Inherited seats. They are kept for good, because freeing one would close connections that are the parent's."""


_known: Register[Seats] = Register()


def _abandon_all() -> None:
    for seats in _known.all():
        seats.abandon_all()


# If C code forked the process, no hook of Python ran. `Seats.here` then notices the new process id.
after_fork(_abandon_all)
