# Generated from histstore/_async/transport/single_server.py by tools/unasync.py; do not edit.
"""The transport to a single server: a host and port, a socket path, or the primary that Sentinels name."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.call import Command, Route
from ...wire.opening import FRESH
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from ..compat import io
from .commit import GroupCommit
from .connection import Connection
from .connections import Connections
from .transport import Examine


class SingleServer:
    """Sends every request to one server.

    Attributes:
        settings: How new connections are opened.
        try_timeout: Timeout of one try in seconds.
        durable: Whether writes wait for confirmations.
        declares_keys: Scripts derive most of their keys, which saves bytes.

    Args:
        settings: How to connect.
        durable: Whether writes wait for confirmations.
    """

    declares_keys: Final = False

    def __init__(self, settings: ConnectionSettings, *, durable: bool) -> None:
        self.settings = settings
        self.try_timeout = settings.try_timeout
        # One connection for requests, one to listen, one for the group commit. With fewer, durable writes use the
        # first.
        self.durable = durable
        self._grouped = durable and settings.max_connections >= 3
        self._connections = Connections(settings, int(self._grouped))
        self._commits = GroupCommit(settings)
        self._listeners: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._drops = 0

    @property
    def address(self) -> str:
        """The server's host and port, or the path of its socket."""
        settings = self.settings
        return settings.path or "{}:{}".format(*settings.address)

    @property
    def may_listen(self) -> bool:
        """Whether a connection may be opened for listening, beside the one for requests."""
        return self.settings.max_connections > 1

    @property
    def count(self) -> tuple[int, int]:
        """The number of connections in use, and of idle ones."""
        return self._connections.count

    def reconnect(self, settings: ConnectionSettings) -> None:
        """Replace the connections by new ones with other settings."""
        old_connections, old_commits = self._connections, self._commits
        self.settings = settings
        self._connections = Connections(settings, int(self._grouped))
        self._commits = GroupCommit(settings)
        old_commits.close()
        old_connections.close()

    def examines(self, examine: Examine) -> bool:
        """Leave the examination to the runner."""
        return False

    def exchange(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState, large: bool = False
    ) -> list[Any]:
        """Send commands and return their replies, as `Transport.exchange` says."""
        # No coroutine of its own: every call comes through here.
        return self._connections.exchange(commands, end, state, large)

    def exchange_batch(
        self, batch: Sequence[tuple[bytes, Sequence[Command]]], end: float, state: SendState
    ) -> list[list[Any] | Exception]:
        """Send requests together and return the replies to each, as `Transport.exchange_batch` says."""
        commands = [command for _, part in batch for command in part]
        replies = iter(self._connections.exchange(commands, end, state))
        return [list(islice(replies, len(part))) for _, part in batch]

    def commit(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState,
        *, wait: Command, patience: float, large: bool,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        """Send a durable write and the WAIT that covers it, as `Transport.commit` says."""
        if large or not self._grouped:
            # In a batch, a large write would delay the others.
            *replies, acked = self._connections.exchange([*commands, wait], end + patience, state, True)
            return replies, acked
        # A timeout of 0 has a different meaning in each place.
        timeout = max(0.001, end - io.monotonic())
        return self._commits.exchange(commands, wait, timeout, patience, state)

    def subscribe(self, end: float) -> Connection:
        """Open a connection to listen on, for the caller alone.

        Raises:
            redis.exceptions.RedisError: It could not be opened until `end`.
        """
        drops = self._drops
        connection = self._connections.lend(end)
        connection.open(self.try_timeout)
        try:
            connection.keep_alive()
            if drops != self._drops:  # it may lead to the old server
                raise redis_errors.ConnectionError("all connections were dropped meanwhile")
        except BaseException:
            connection.close()
            raise
        self._listeners.add(connection)
        return connection

    def opening_error(self, now: float) -> Exception | None:
        """Return why a connection could not be opened a short time ago, or None. Each caller gets its own error."""
        for latest in (self._commits.latest, self._connections.opener.latest):
            # A failure of long ago explains nothing: other connections may have served since then.
            if latest is not None and latest.opening.ended > now - FRESH:
                return latest.opening.timeout_error()
        return None

    def servers(self) -> list[Route]:
        """Return the only server."""
        return [None]

    def leave(self, key: Route) -> None:
        """Drop all connections: the server's name may stand for another one by now."""
        self.drop()

    def drop(self) -> None:
        """Close all connections, each after its pending requests are answered. Others are opened when needed."""
        self._drops += 1
        self._connections.drop()
        self._commits.drop()
        for connection in list(self._listeners):
            connection.interrupt()

    def close(self) -> None:
        """Close the connections for good. Pending requests are answered first, or fail."""
        self._commits.close()
        self._connections.close()
