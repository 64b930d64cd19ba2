"""The interface between the runner and the servers. A cluster is another implementation of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from ...protocol.call import Command, Route
from ...wire.sending import SendState

Exchange = Callable[[Route, Sequence[Command], float, SendState], Awaitable[list[Any]]]
"""The `exchange` of a transport."""

Examine = Callable[[Exchange, Callable[[bytes], bool], float], Awaitable[bool]]
"""Examines a server: by its exchange, what says whether it owns a key, and until when. Returns whether it passed."""


class Listener(Protocol):
    """A subscription to messages of the server."""

    async def listen(self, command: Command, on_message: Callable[[Any], None]) -> None:
        """Send a command, and pass each message to `on_message` until the connection is lost.

        Raises:
            redis.exceptions.ConnectionError: The connection broke, or was interrupted.
        """

    def interrupt(self) -> None:
        """End a `listen`. Another thread may call it."""

    async def close(self) -> None:
        """Close the connection."""


class Transport(Protocol):
    """Carries commands to the server that owns a key, and brings the replies back.

    A transport sends a request once. It never repeats one that may have been applied: the runner decides that, by what
    `SendState` records. All of its errors are redis-py's (`redis.exceptions.RedisError`) or OSError.
    """

    @property
    def declares_keys(self) -> bool:
        """Whether scripts have to declare every key that they use."""

    @property
    def address(self) -> str:
        """The server's address, for people. It holds no password."""

    @property
    def try_timeout(self) -> float:
        """The timeout of one try in seconds."""

    @property
    def may_listen(self) -> bool:
        """Whether a connection may be opened for listening, beside the one for requests."""

    @property
    def count(self) -> tuple[int, int]:
        """The number of connections in use, and of idle ones."""

    def examines(self, examine: Examine) -> bool:
        """Have each server examined before its first request.

        Returns:
            Whether the transport does so; otherwise the runner does it for its only server.
        """

    def exchange(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState, large: bool = False
    ) -> Awaitable[list[Any]]:
        """Send commands and return their replies. An error reply is returned, not raised.

        Args:
            key: Where the commands go.
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.
            large: Whether the request or its reply may be large.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no complete answer came in time.
        """

    async def exchange_batch(
        self, batch: Sequence[tuple[bytes, Sequence[Command]]], end: float, state: SendState
    ) -> list[list[Any] | Exception]:
        """Send requests together, each to the server that owns its key, and return the replies to each.

        Where one of several servers fails, its error stands in place of the replies.

        Args:
            batch: The key and the commands of each request.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.

        Raises:
            redis.exceptions.RedisError: None could be sent, or was answered in time.
        """

    async def commit(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState,
        *, wait: Command, patience: float, large: bool,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        """Send a durable write and the WAIT that covers it.

        Args:
            key: Where the commands go.
            commands: The write.
            end: When to stop waiting for the replies to the write, by `monotonic`.
            state: Records whether a byte may have been sent.
            wait: The command that waits for the confirmations.
            patience: Additional seconds for the reply to `wait`, and as many for that of the neighbours before.
            large: Whether the request or its reply may be large.

        Returns:
            The replies to `commands`, and the reply to `wait` or the error that came in its place.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no complete answer came in time.
        """

    async def subscribe(self, end: float) -> Listener:
        """Open a connection to listen on, for the caller alone.

        Raises:
            redis.exceptions.RedisError: It could not be opened until `end`.
        """

    def opening_error(self, now: float) -> Exception | None:
        """Return why a connection could not be opened a short time ago, or None. Each caller gets its own error."""

    def servers(self) -> list[Route]:
        """Return the servers that together hold all runs; empty: not known before the first request."""

    async def leave(self, key: Route) -> None:
        """Look for another server: that of the key refuses, and its place may be another's by now."""

    async def drop(self) -> None:
        """Close all connections, each after its pending requests are answered. Others are opened when needed.

        The server's address is looked up again, since the name may stand for another server by now.
        """

    async def close(self) -> None:
        """Close the connections for good. Pending requests are answered first, or fail."""
