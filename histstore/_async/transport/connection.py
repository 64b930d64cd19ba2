"""One connection to a server: how it is opened, used and closed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.addresses import Address
from ...wire.faults import OpeningError, OpeningTimeoutError
from ...wire.opening import CONNECT, CREDENTIALS, LOG_IN, PROBE_AFTER, TLS, Opening
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings, keep_alive
from ...wire.severing import Register, after_fork, sever
from ..compat.io import monotonic
from .probes import look_up, raise_alert, speaks_plain, speaks_tls
from .wire import Wire

_register: Register[Connection] = Register()
"""Every connection of this process, and those that it inherited by a fork."""


def sever_inherited() -> None:
    """Close this process's copies of connections that belong to its parent."""
    pid = os.getpid()
    sever([connection.descriptor for connection in _register.all() if connection.pid != pid])


def sever_dead() -> None:
    """Close connections whose event loop has ended."""
    sever([connection.descriptor for connection in _register.all() if connection.loop.is_closed()])


# This happens in the fork itself and not at the backend's next use: while a child has a copy of a socket, the server
# believes that its parent still listens.
after_fork(lambda: sever([connection.descriptor for connection in _register.all()]))


class Connection:
    """One connection, opened and used without redis-py's sockets.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and they retry. hiredis
    packs and parses. Requests may be sent while others wait for their replies.

    Attributes:
        settings: The settings it was opened with. Dropping all connections copies the settings, so an older connection
            is recognised by its object.
        opening: The state of the attempt to open it.
        release: Called once when the connection is closed, to return its place in the pool.
        pid: The process that made it.
        loop: The event loop that uses it.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.opening = Opening(settings, settings.connect_timeout)
        self.release: Callable[[], None] | None = None
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._wire: Wire | None = None

    async def open(self, timeout: float) -> None:
        """Connect, authenticate and select the database, within `timeout` seconds. A failure closes the connection.

        Raises:
            OpeningError: It failed; the text names the phase and the cause.
            OpeningTimeoutError: It took too long.
        """
        bound = min(timeout, self.settings.connect_timeout)
        opening = self.opening = Opening(self.settings, bound)
        _register.add(self)
        try:
            async with asyncio.timeout(bound):
                await self._open(opening, monotonic() + bound)
        except BaseException as error:
            opening.ended = monotonic()
            await self.close()
            if isinstance(error, Exception) and self.settings.finder is not None:
                self.settings.finder.doubt()
            found = opening.error(error) if isinstance(error, Exception) else error
            if isinstance(found, OpeningError | OpeningTimeoutError):
                opening.last_error = found
            if found is error:
                raise
            raise found from error

    async def _open(self, opening: Opening, end: float) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()
        host = ""
        if settings.path is not None:
            addresses: list[Address] = [(socket.AF_UNIX, settings.path)]
        else:
            host, port = settings.address
            if settings.finder is not None:
                host, port = await settings.finder.find(end)
                opening.found((host, port))
            addresses = await look_up(opening, host, port, settings.family, end)
        opening.phase = CONNECT
        sock, peer = await self._connect(addresses, end)
        wire = Wire()
        try:
            if settings.kind == "tls":
                opening.phase = TLS
                await self._start_tls(opening, sock, peer, wire, host, end)
            elif settings.kind == "tcp":
                await loop.create_connection(lambda: wire, sock=sock)
            else:
                await loop.create_unix_connection(lambda: wire, sock=sock)
        except BaseException:
            wire.abort()
            sock.close()
            raise
        self._wire = wire
        await self._log_in(opening, sock.family, peer, host, end)

    async def _log_in(self, opening: Opening, family: int, peer: Any, host: str, end: float) -> None:
        """Send the first commands, and find out why the server refused them or did not answer."""
        settings = self.settings
        opening.phase = CREDENTIALS
        provider = settings.kwargs.get("credential_provider")
        credentials = await provider.get_credentials_async() if provider is not None else None
        commands = settings.handshake(credentials)
        if monotonic() >= end:  # a provider that blocked the loop used the time up, and not the server
            raise TimeoutError
        opening.phase = LOG_IN
        try:
            replies = await self.wire.ask(commands, end + 1.0, SendState())
        except redis_errors.ConnectionError as error:
            opening.last_error = error  # the reason to report if time runs out before a better one is found
            if settings.kind == "tcp" and await speaks_tls(family, peer):
                raise opening.needs_tls() from None
            if opening.greeted:
                await raise_alert(settings, family, peer, host)
            raise
        refused = opening.refused(replies, commands)
        if refused is not None:
            raise refused

    async def _connect(self, addresses: list[Address], end: float) -> tuple[socket.socket, Any]:
        """Connect to the first address that accepts. Each address gets an equal share of the time left.

        Returns:
            The connected socket, and the address.
        """
        loop = asyncio.get_running_loop()
        left = len(addresses)
        while True:
            left -= 1
            family, address = addresses[-left - 1]
            sock = None
            try:
                # Making an IPv6 socket fails on a system without IPv6; the name may have other addresses.
                # The socket is recorded at once, because a fork may come while it connects.
                sock = self._socket = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                self.settings.set_up(sock)
                async with asyncio.timeout_at(end - (end - loop.time()) * left / (left + 1)):
                    await loop.sock_connect(sock, address)
                return sock, address
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not left or not isinstance(error, OSError):
                    raise

    async def _start_tls(
        self, opening: Opening, sock: socket.socket, peer: Any, wire: Wire, host: str, end: float
    ) -> None:
        """Make the TLS handshake.

        A server without TLS waits for a line of text and does not answer the handshake. If no answer comes for
        `PROBE_AFTER` seconds, a second connection finds out whether the port speaks Redis without TLS.
        """
        loop = asyncio.get_running_loop()
        context = self.settings.tls()
        # asyncio's own handshake timeout fires later than ours, because its error does not name the cause.
        handshake = asyncio.ensure_future(
            loop.create_connection(
                lambda: wire,
                sock=sock,
                ssl=context,
                server_hostname=host,
                ssl_handshake_timeout=end - loop.time() + 1.0,
            )
        )
        try:
            done, _ = await asyncio.wait([handshake], timeout=min(PROBE_AFTER, (end - loop.time()) / 2))
            if not done and await speaks_plain(sock.family, peer):
                raise opening.needs_plain()
            await handshake
        finally:
            # Closing a socket below its transport is dangerous: a new socket may get the same number, and the
            # transport would unregister that one from the selector.
            if not handshake.done():
                handshake.cancel()
                await asyncio.wait([handshake])
            if not handshake.cancelled():
                handshake.exception()  # retrieve it, or the loop would log an error that nobody awaited
        opening.greeted = True

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor, negative without a socket."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def wire(self) -> Wire:
        """The requests and replies of the connection, which must be open."""
        assert self._wire is not None
        return self._wire

    @property
    def usable(self) -> bool:
        """Whether the connection is open and no unexpected data has come."""
        return self.wire.usable and not self.wire.pending

    async def listen(self, command: Command, on_message: Callable[[Any], None]) -> None:
        """Send a command, and pass each message of the server to `on_message` until the connection is lost.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
        """
        await self.wire.listen(command, on_message)

    def keep_alive(self) -> None:
        """Enable TCP keepalive, for a connection that mostly waits: the system then notices a lost peer."""
        keep_alive(self.wire.socket)

    def interrupt(self) -> None:
        """End a `listen`."""
        self.wire.abort()

    async def close(self) -> None:
        """Close the connection. This awaits nothing that could hang, and sends nothing more of a request."""
        if self._wire is not None:
            self._wire.abort()
        release, self.release = self.release, None
        if release is not None:
            release()
