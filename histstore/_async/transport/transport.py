"""The interface between the runner and the servers. A cluster is another implementation of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from ...protocol.call import Command
from ...wire.sending import SendState


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

    def exchange(
        self, key: bytes | None, commands: Sequence[Command], end: float, state: SendState, large: bool = False
    ) -> Awaitable[list[Any]]:
        """Send commands and return their replies. An error reply is returned, not raised.

        Args:
            key: The key whose server gets the commands, or None for any server.
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.
            large: Whether the request or its reply may be large.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no complete answer came in time.
        """

    async def commit(
        self, key: bytes | None, commands: Sequence[Command], end: float, state: SendState,
        *, wait: Command, patience: float, large: bool,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        """Send a durable write and the WAIT that covers it.

        Args:
            key: The key whose server gets the commands.
            commands: The write.
            end: When to stop waiting for the replies to the write, by `monotonic`.
            state: Records whether a byte may have been sent.
            wait: The command that waits for the confirmations.
            patience: Additional seconds for the reply to `wait`.
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

    async def drop(self) -> None:
        """Close all connections, each after its pending requests are answered. Others are opened when needed.

        The server's address is looked up again, since the name may stand for another server by now.
        """

    async def close(self) -> None:
        """Close the connections for good. Pending requests are answered first, or fail."""
