"""Where a backend is used: what belongs to one process and one event loop, and is made anew in another.

Two processes, or two loops, that read from one socket get each other's replies. So connections, leases, background
work and what is known about the server belong to a seat. A backend keeps the settings, and one seat for each place
where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
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
from .transport.observed import make_runner
from .transport.runner import Runner
from .transport.single_server import SingleServer

CLOSING: Final = "this backend is closing, and nothing new begins in it: make a new one"


class Seat:
    """What a backend has in one process and one event loop.

    Attributes:
        pid: The process.
        loop: The event loop; None in the blocking twin.
        runner: Sends calls.
        leases: The leases that are held and waited for here.
    """

    __slots__ = ("__weakref__", "_farewell", "leases", "loop", "pid", "runner")

    def __init__(self, pid: int, loop: Any, runner: Runner, leases: LeaseTable) -> None:
        self.pid = pid
        self.loop = loop
        self.runner = runner
        self.leases = leases
        self._farewell: object = None

    def begin(self) -> None:
        """Has the connections closed when the event loop ends, where it is ended properly."""
        self._farewell = tasks.at_the_end(self._leave)

    async def _leave(self) -> None:
        await self.leases.finish_releases()
        await self.runner.drop()

    async def close(self, drain: float) -> None:
        """Lets those inside end, gives up what is still held, and disconnects.

        Args:
            drain: Seconds to wait for those inside at most.
        """
        try:
            await self.leases.drain(drain)
        finally:
            await self.shut()

    async def shut(self) -> None:
        """Gives up what is held, and disconnects."""
        try:
            await self.leases.close()
        finally:
            await self.runner.close()


class _Nowhere:
    """Stands for a seat where there is none."""

    pid = 0
    loop = object()


class Seats:
    """All seats of a backend.

    Args:
        settings: How to connect.
        durability: What writes wait for.
        namespace: What all keys start with.
        policy: When a request about a lease is tried again.
        observer: Sees each call to the server; None: nobody does.

    Attributes:
        settings: How connections are opened in seats that are made from now on.
        prepare: Called before the first call in each seat, to start an embedded server; None: nothing to start.
    """

    def __init__(
        self, settings: ConnectionSettings, durability: Durability, namespace: str, policy: RetryPolicy,
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.prepare: Callable[[SingleServer], Awaitable[None]] | None = None
        self._observer = observer
        self._durability = durability
        self._namespace = namespace
        self._policy = policy
        # No lock guards it: in a forked child, a thread that is gone could hold it. A dict's operations are whole.
        self._taken: dict[tuple[int, Any], Seat] = {}
        # unasync: off
        # Those whose event loop stands still, perhaps for good: only the loop itself keeps them, and goes with them.
        self._resting: Register[Seat] = Register()
        # unasync: on
        self._last: Any = _Nowhere
        self._warned: set[str] = set()
        self._closing = False
        self._closed = False
        _known.add(self)

    def here(self) -> Seat:
        """Returns what belongs to this process and event loop. Costs no I/O.

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
        # unasync: off
        if seat is None:
            seat = self._wake(place)
        # unasync: on
        if seat is None:
            if self._closing:
                raise BackendError(CLOSING)
            seat = self._take(place)
        self._last = seat
        return seat

    def _take(self, place: tuple[int, Any]) -> Seat:
        transport = SingleServer(self.settings, durable=self._durability.wanted > 0)
        runner = make_runner(
            transport,
            self._durability,
            self._namespace,
            observer=self._observer,
            prepare=None if self.prepare is None else partial(self.prepare, transport),
            warned=self._warned,
        )
        made = Seat(*place, runner, LeaseTable(runner, self._namespace, self._policy, self, place))
        seat = self._taken.setdefault(place, made)
        if seat is made:
            seat.begin()
            self.inherit_nothing()
            # unasync: off
            seat.leases.release_in_background(self._bury())
            # unasync: on
        return seat

    def at(self) -> Seat:
        """Returns what belongs to this process and event loop, also if the backend is closed by now."""
        place = os.getpid(), io.here()
        seat = self._taken.get(place)
        # unasync: off
        if seat is None:
            seat = self._wake(place)
        # unasync: on
        return self.here() if seat is None else seat

    def check_open(self) -> None:
        """Raises BackendError if the backend is closed."""
        if self._closed:
            raise BackendError(CLOSED)

    def leases(self) -> list[LeaseTable]:
        """Returns the leases of all event loops of this process."""
        return [seat.leases for seat in self.all()]

    def all(self) -> list[Seat]:
        """Returns the seats of this process."""
        pid = os.getpid()
        seats = list(self._taken.values())
        # unasync: off
        seats += [seat for seat in self._resting.all() if seat not in seats]
        # unasync: on
        return [seat for seat in seats if seat.pid == pid]

    def inherit_nothing(self) -> None:
        """Puts away what this process has inherited by a fork."""
        pid = os.getpid()
        for place in [each for each in list(self._taken) if each[0] != pid]:
            self._put_away(self._taken.pop(place, None))
        # unasync: off
        for seat in self._resting.all():
            if seat.pid != pid and not seat.leases.retired:
                self._put_away(seat)
        # unasync: on
        connection.sever_inherited()

    def orphan(self) -> None:
        """Puts away everything: this process has just been forked, whatever its id is."""
        self._last = _Nowhere
        # unasync: off
        for seat in self._resting.all():
            self._put_away(seat)
        # unasync: on
        while self._taken:
            self._put_away(self._taken.popitem()[1])

    def _put_away(self, seat: Seat | None) -> None:
        if seat is not None:
            seat.leases.disown()
            _PARENTS.append(seat)

    # unasync: off
    def _bury(self) -> list[Any]:
        """Puts away the seats whose event loops have ended, and closes their sockets.

        Returns:
            The requests that give up the leases which their bodies have left behind.
        """
        calls: list[Any] = []
        for place, seat in list(self._taken.items()):
            # Two seats that are made at once may both get here; one of them has it.
            if seat.loop.is_closed() and self._taken.pop(place, None) is not None:
                calls += seat.leases.abandon()
            elif not seat.loop.is_running() and not seat.leases.busy:
                self._rest(place, seat)
        connection.sever_dead()
        return calls

    def _rest(self, place: tuple[int, Any], seat: Seat) -> None:
        """Leaves a seat to its event loop, which stands still. Many are thrown away without being closed."""
        try:
            kept = vars(seat.loop).setdefault(_KEPT, set())
        except TypeError:  # a loop of a kind that keeps nothing
            return
        kept.add(seat)
        self._resting.add(seat)
        self._taken.pop(place, None)

    def _wake(self, place: tuple[int, Any]) -> Seat | None:
        """Returns the seat of an event loop that runs again."""
        pid, loop = place
        for seat in self._resting.all():
            if seat.loop is loop and seat.pid == pid and not seat.leases.retired:
                vars(loop)[_KEPT].discard(seat)
                return self._taken.setdefault(place, seat)
        return None

    # unasync: on

    async def close(self, drain: float) -> None:
        """Closes the backend in this process.

        Args:
            drain: Seconds to wait for those inside a lock or turn at most.
        """
        self._closing = True
        place = os.getpid(), io.here()
        mine = self._taken.get(place)
        # unasync: off
        end = io.monotonic() + drain
        others = [seat for seat in self.all() if seat is not mine]
        elsewhere = [(seat, tasks.Elsewhere(seat.loop, partial(seat.close, drain))) for seat in others]
        # unasync: on
        try:
            if mine is not None:
                await mine.leases.drain(drain)
            # unasync: off
            for _, closing in elsewhere:
                await closing.wait(end)
            # unasync: on
        finally:
            # unasync: off
            calls = [call for seat, closing in elsewhere if not closing.done() for call in seat.leases.abandon()]
            for seat, _ in elsewhere:
                if seat.loop.is_closed():
                    self._taken.pop((seat.pid, seat.loop), None)
                elif not seat.loop.is_running():
                    self._rest((seat.pid, seat.loop), seat)
            connection.sever_dead()
            if calls:
                mine = mine or self._take(place)
                await mine.leases.requests.send_releases(calls)
            # unasync: on
            try:
                if mine is not None:
                    await mine.shut()
            finally:
                self._closed = True
                self._last = _Nowhere


_PARENTS: Final[list[Seat]] = []
"""What this process has inherited. It is kept for good: what is thrown away closes itself, and it is the parent's."""

# unasync: off
_KEPT: Final = "_histstore_seats"
"""The attribute of an event loop that keeps the seats which are left to it."""
# unasync: on

_known: Register[Seats] = Register()


def _orphan() -> None:
    for seats in _known.all():
        seats.orphan()


# A process that was forked by C code, without Python's hooks, is found out by its id (`Seats.here`).
after_fork(_orphan)
