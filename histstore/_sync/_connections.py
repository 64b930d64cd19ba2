"""Which connection a request goes over: each thread that asks has one to itself meanwhile."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis import exceptions as redis_errors

from .._protocol import Command
from .._settings import ConnectionSettings
from ._io import Connection, Sent, monotonic


class Connections:
    """Sends requests to one server, over `max_connections` connections at most; idle ones are reused.

    A connection, or None for one that is to be opened anew, is the right to ask. There are never more of these than
    connections may be; those that nobody uses stand in a queue, because that costs less than counting them.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._free: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._rights = 0
        self._counting = threading.Lock()
        self._open: set[Connection] = set()
        self._closed = False

    @property
    def count(self) -> tuple[int, int]:
        """Connections in use, and idle ones."""
        busy = self._rights - self._free.qsize()
        return busy, max(0, len(self._open) - busy)

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
        connection = self._take(end)
        kept: Connection | None = None
        try:
            if self._closed:
                raise redis_errors.ConnectionError("the backend is closed")
            if connection is None or not connection.usable or connection.settings is not self._settings:
                connection = self._replace(connection, end)
            found = connection.exchange(commands, end, state)
            if connection.settings is self._settings:
                kept = connection
            return found
        finally:
            if kept is None:
                self._drop(connection)  # its replies may be pending
            self._give_back(kept)

    def _take(self, end: float) -> Connection | None:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            pass
        with self._counting:
            if self._rights < self._settings.max_connections:
                self._rights += 1
                return None
        try:
            return self._free.get(timeout=max(0.001, end - monotonic()))
        except queue.Empty:
            raise redis_errors.TimeoutError("all connections are in use: raise max_connections") from None

    def _give_back(self, connection: Connection | None) -> None:
        self._free.put(connection)
        if self._closed:
            self._drop_idle()

    def _replace(self, old: Connection | None, end: float) -> Connection:
        self._drop(old)
        connection = Connection(self._settings)
        connection.open(max(0.001, end - monotonic()))
        self._open.add(connection)
        return connection

    def _drop(self, connection: Connection | None) -> None:
        if connection is not None:
            self._open.discard(connection)
            connection.close()

    def drop(self) -> None:
        """Closes the idle connections now, and those in use when they come back. Others are opened when needed."""
        self._settings = replace(self._settings)
        self._drop_idle()

    def close(self) -> None:
        """Closes the idle connections now, and those in use when they come back. Who waits for one is told."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        rights = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._drop(self._free.get_nowait())
                rights += 1
        for _ in range(rights):
            self._free.put(None)
