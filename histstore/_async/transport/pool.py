"""Connections that serve one caller at a time."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from ..compat import io
from .connection import Connection
from .opener import Opener


class _Slots:
    """A fair semaphore: places for connections, first come first served.

    Attributes:
        free: Number of free places.
    """

    __slots__ = ("_waiters", "free")

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place if one is free, and return whether it was."""
        if self.free == 0:
            return False
        self.free -= 1
        return True

    async def acquire(self, end: float) -> None:
        """Take a place, and wait for it until `end`.

        Raises:
            redis.exceptions.TimeoutError: No place became free in time.
        """
        if self.take():
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        try:
            async with asyncio.timeout_at(end):
                await future  # `release` hands its place over
        except BaseException as error:
            if future.done() and not future.cancelled():
                self.release()
            if isinstance(error, TimeoutError):
                raise redis_errors.TimeoutError("all connections are in use: raise max_connections") from None
            raise

    def release(self) -> None:
        """Return a place."""
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                return
        self.free += 1


class Pool:
    """Lends each connection to one caller at a time. Idle connections are reused, the last one used first.

    Attributes:
        capacity: Number of connections for requests: the limit without those that are lent or about to be.
        busy: Number of connections that carry a request.

    Args:
        settings: How to connect.
        limit: Limit of connections.
        opener: Opens the connections.
    """

    def __init__(self, settings: ConnectionSettings, limit: int, opener: Opener) -> None:
        self._settings = settings
        self._opener = opener
        self._idle: list[Connection] = []
        # A connection that is in use, lent or borrowed takes a place. Idle ones take none, but never outnumber the free
        # places.
        self._slots = _Slots(limit)
        self._closed = False
        self.capacity = limit
        self.busy = 0

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    async def exchange(self, commands: Sequence[Command], end: float, state: SendState) -> list[Any]:
        """Send commands over a connection of their own, and return their replies.

        A failure closes the connection, because replies may still be on their way.
        """
        if not self._slots.take():
            await self._slots.acquire(end)
        self.busy += 1
        connection = None
        try:
            connection = await self._get(max(0.001, end - io.monotonic()))
            replies = await connection.wire.ask(commands, end, state)
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        finally:
            self.busy -= 1
            self._slots.release()
        if self._closed or connection.settings is not self._settings:
            await connection.close()
        else:
            self._idle.append(connection)
        return replies

    async def _get(self, timeout: float) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            await connection.close()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        return await self._opener.open(self._settings, timeout)

    async def lend(self, end: float) -> Connection:
        """Return a connection that is not open yet. It keeps its place until it is closed."""
        self.capacity -= 1
        try:
            await self._slots.acquire(end)
        except BaseException:
            self.capacity += 1
            raise
        self._close_surplus()
        connection = Connection(self._settings)
        connection.release = self._take_back
        return connection

    def _take_back(self) -> None:
        self.capacity += 1
        self._slots.release()

    def borrow_slot(self) -> bool:
        """Take the place of a connection if one is free, and return whether it was."""
        borrowed = self._slots.take()
        if borrowed:
            self._close_surplus()
        return borrowed

    def return_slot(self) -> None:
        """Return a borrowed place."""
        self._slots.release()

    def _close_surplus(self) -> None:
        while len(self._idle) > self._slots.free:
            self._idle.pop(0).wire.abort()

    async def drop(self) -> None:
        """Close the idle connections now, and each other one when it comes back."""
        self._settings = copy.copy(self._settings)
        while self._idle:
            await self._idle.pop().close()

    async def close(self) -> None:
        """Drop all connections, and open no other."""
        self._closed = True
        await self.drop()
