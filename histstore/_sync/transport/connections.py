"""Which connection a request goes over: each thread that asks has one to itself meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.requests import Command
from ...wire.settings import ConnectionSettings
from ..compat.io import Connection, Sent, monotonic

WAKE: Final = 0.05
"""Seconds after which a thread that waits for a connection looks for one though nobody has woken it."""


class _BusyError(Exception):
    """Another call has it."""


class _OrBusy(dict[bool, None]):
    """What asking for a lock came to: True, or an error."""

    def __missing__(self, _taken: bool) -> None:
        raise _BusyError


_TAKEN: Final = _OrBusy({True: None})


class _Slot:
    """Room for one connection, which may be open.

    A context manager: it holds the slot's lock exactly while the connection is in use, or raises _BusyError. Both ends
    are C code (see `_io`), so that no interruption loses a slot: the entry asks the lock and looks the answer up.
    """

    __slots__ = ("__enter__", "__exit__", "connection", "lent", "lock")
    __enter__: Any
    __exit__: Any

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: Connection | None = None
        self.lent = False
        self.__enter__ = map(_TAKEN.__getitem__, map(self.lock.acquire, repeat(False))).__next__
        self.__exit__ = self.lock.__exit__


class Connections:
    """Sends requests to one server, over `max_connections` connections at most; idle ones are reused.

    The first slot that is free is taken, so as few connections are open as were ever needed at once.

    Attributes:
        latest: A connection that is being opened, or the latest that could not be; None: the latest one was opened.

    Args:
        settings: How to connect.
        reserved: Connections of the limit that are opened elsewhere.
    """

    def __init__(self, settings: ConnectionSettings, reserved: int = 0) -> None:
        self._settings = settings
        self._limit = settings.max_connections - reserved
        self.latest: Connection | None = None
        self._slots = [_Slot()]
        self._growing = threading.Lock()
        # Of those who wait for a slot. One that is interrupted may leave its place here; a wake-up is wasted on it.
        self._places: deque[Any] = deque()
        self._closed = False

    @property
    def count(self) -> tuple[int, int]:
        """Connections in use, and idle ones."""
        mine = [slot for slot in self._slots if not slot.lent]
        free = [slot for slot in mine if not slot.lock.locked()]
        return len(mine) - len(free), sum(slot.connection is not None for slot in free)

    def exchange(self, commands: Sequence[Command], end: float, state: Sent, large: bool = False) -> list[Any]:
        """Sends commands and returns their replies; an error reply is returned, not raised.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Is told when a byte may have left.
            large: Makes no difference here.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no full answer came in time.
        """
        slot = self._slots[0]
        try:
            while True:
                try:
                    with slot:
                        # It goes back when all is answered: one whose replies may be pending is used by nobody.
                        connection, slot.connection = slot.connection, None
                        try:
                            if self._closed:
                                raise redis_errors.ConnectionError("the backend is closed")
                            if connection is None or not connection.usable or connection.settings is not self._settings:
                                connection = self._replace(connection, end)
                            found = connection.exchange(commands, end, state)
                        except BaseException:
                            if connection is not None:
                                connection.close()
                            raise
                        if connection.settings is self._settings:
                            slot.connection = connection
                        else:
                            connection.close()  # dropped meanwhile
                        return found
                except _BusyError:
                    slot = self._free(end)
        finally:
            if self._places:
                self._wake()
            if self._closed:
                self._drop_idle()

    def _replace(self, old: Connection | None, end: float) -> Connection:
        if old is not None:
            old.close()
        connection = Connection(self._settings)
        before = self.latest
        if before is None:
            before = self.latest = connection
        try:
            connection.open(max(0.001, end - monotonic()))
        except redis_errors.TimeoutError as error:
            told = connection.opening.told_by(before.opening, error)
            if told is error:
                self.latest = connection
            raise told from None
        except BaseException:
            self.latest = connection
            raise
        self.latest = None
        return connection

    def lend(self, end: float) -> Connection:
        """Returns a connection of the caller's own, which is not open yet. It has room for it until it is closed.

        Background threads ask for one; no signal interrupts them.
        """
        slot = self._free(end)
        while not slot.lock.acquire(False):
            slot = self._free(end)
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

    def _free(self, end: float) -> _Slot:
        """Returns a slot that seems to be free."""
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
        """Waits until one may be free."""
        left = end - monotonic()
        if left <= 0:
            raise redis_errors.TimeoutError("all connections are in use: raise max_connections") from None
        place = threading.Lock()
        place.acquire()
        self._places.append(place)
        try:
            # Whoever left before that has woken nobody.
            if all(slot.lock.locked() for slot in self._slots):
                place.acquire(timeout=min(left, WAKE))
        finally:
            with contextlib.suppress(ValueError):
                self._places.remove(place)

    def _wake(self) -> None:
        with contextlib.suppress(IndexError):
            self._places.popleft().release()

    def drop(self) -> None:
        """Closes the idle connections now, and those in use when they come back. Others are opened when needed."""
        self._settings = replace(self._settings)
        self._drop_idle()

    def close(self) -> None:
        """Closes the idle connections now, and those in use when they come back. Who waits for one is told then."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        for slot in self._slots:
            with contextlib.suppress(_BusyError), slot:
                connection, slot.connection = slot.connection, None
                if connection is not None:
                    connection.close()
