"""The connections to one server: each request has one to itself."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from ..compat.io import monotonic
from .connection import Connection
from .opener import Opener

WAIT_STEP: Final = 0.05
"""Seconds after which a waiting thread looks for a free connection without having been woken."""


class _BusyError(Exception):
    """Another call uses the slot."""


class _RaisesIfBusy(dict[bool, None]):
    """The result of trying a lock: True maps to None, False raises an error."""

    def __missing__(self, _taken: bool) -> None:
        raise _BusyError


_RAISE_IF_BUSY: Final = _RaisesIfBusy({True: None})


class _Slot:
    """The place of one connection, which may be open.

    It is a context manager that holds the slot's lock exactly while the connection is in use, or raises _BusyError.
    Both ends are C code (see `compat.io`), so that no interruption loses a slot. The entry tries the lock and looks the
    result up in a dict that raises for False.
    """

    __slots__ = ("__enter__", "__exit__", "connection", "lent", "lock")
    __enter__: Any
    __exit__: Any

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: Connection | None = None
        self.lent = False
        self.__enter__ = map(_RAISE_IF_BUSY.__getitem__, map(self.lock.acquire, repeat(False))).__next__
        self.__exit__ = self.lock.__exit__


class Connections:
    """Sends requests to one server, over `max_connections` connections at most. Idle ones are reused.

    A request takes the first free slot, so no more connections are open than were ever needed at once.

    Attributes:
        opener: Opens the connections.

    Args:
        settings: How to connect.
        reserved: Number of connections within the limit that are opened elsewhere.
    """

    def __init__(self, settings: ConnectionSettings, reserved: int = 0) -> None:
        self.opener = Opener()
        self._settings = settings
        self._limit = settings.max_connections - reserved
        self._slots = [_Slot()]
        self._growing = threading.Lock()
        # One locked lock for each waiting thread. An interrupted thread may leave its lock here, which wastes a
        # wake-up.
        self._waiters: deque[Any] = deque()
        self._closed = False

    @property
    def count(self) -> tuple[int, int]:
        """The number of connections in use, and of idle ones."""
        own = [slot for slot in self._slots if not slot.lent]
        free = [slot for slot in own if not slot.lock.locked()]
        return len(own) - len(free), sum(slot.connection is not None for slot in free)

    def exchange(self, commands: Sequence[Command], end: float, state: SendState, large: bool = False) -> list[Any]:
        """Send commands and return their replies. An error reply is returned, not raised.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.
            large: Has no effect here.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no complete answer came in time.
        """
        slot = self._slots[0]
        try:
            while True:
                try:
                    with slot:
                        # It returns to the slot when all is answered. A connection with pending replies must not be
                        # reused.
                        connection, slot.connection = slot.connection, None
                        try:
                            if self._closed:
                                raise redis_errors.ConnectionError("the backend is closed")
                            if connection is None or not connection.usable or connection.settings is not self._settings:
                                connection = self._replace(connection, end)
                            replies = connection.exchange(commands, end, state)
                        except BaseException:
                            if connection is not None:
                                connection.close()
                            raise
                        if connection.settings is self._settings:
                            slot.connection = connection
                        else:
                            connection.close()  # all connections were dropped meanwhile
                        return replies
                except _BusyError:
                    slot = self._find_free(end)
        finally:
            if self._waiters:
                self._wake()
            if self._closed:
                self._drop_idle()

    def _replace(self, old: Connection | None, end: float) -> Connection:
        if old is not None:
            old.close()
        return self.opener.open(self._settings, max(0.001, end - monotonic()))

    def lend(self, end: float) -> Connection:
        """Return a connection for the caller alone, not open yet. It keeps its slot until it is closed.

        Only background threads call this, and no signal interrupts them.
        """
        slot = self._find_free(end)
        while not slot.lock.acquire(False):
            slot = self._find_free(end)
        slot.lent = True
        idle, slot.connection = slot.connection, None
        if idle is not None:
            idle.close()

        def release() -> None:
            slot.lent = False
            slot.lock.release()
            self._wake()

        connection = Connection(self._settings)
        connection.release = release
        return connection

    def _find_free(self, end: float) -> _Slot:
        """Return a slot that seems to be free, and wait until `end` for one."""
        while True:
            for slot in self._slots:
                if not slot.lock.locked():
                    return slot
            with self._growing:
                if len(self._slots) < self._limit:
                    self._slots.append(_Slot())
                    continue
            self._wait(end)

    def _wait(self, end: float) -> None:
        """Wait until a slot may be free."""
        left = end - monotonic()
        if left <= 0:
            raise redis_errors.TimeoutError("all connections are in use: raise max_connections") from None
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            # A slot that became free before the append has woken nobody.
            if all(slot.lock.locked() for slot in self._slots):
                waiter.acquire(timeout=min(left, WAIT_STEP))
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        with contextlib.suppress(IndexError):
            self._waiters.popleft().release()

    def drop(self) -> None:
        """Close the idle connections now, and the others when they come back. Others are opened when needed."""
        self._settings = replace(self._settings)
        self._drop_idle()

    def close(self) -> None:
        """Close the idle connections now, and the others when they come back. Threads that wait for one fail then."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        for slot in self._slots:
            with contextlib.suppress(_BusyError), slot:
                connection, slot.connection = slot.connection, None
                if connection is not None:
                    connection.close()
