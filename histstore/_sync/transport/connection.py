"""One connection to a server: how it is opened, used and closed."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.addresses import Address
from ...wire.opening import CONNECT, CREDENTIALS, LOG_IN, PROBE_AFTER, TLS, Opening, refusal
from ...wire.resp import Replies, pack
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings, keep_alive
from ...wire.severing import Register, after_fork, sever
from ...wire.tls import TlsOptionError
from ..compat.io import monotonic
from .probes import look_up, raise_alert, speaks_plain, speaks_tls, time_left

READ_SIZE: Final = 1 << 16
_OPENING_ERRORS: Final = (redis_errors.RedisError, OSError, UnicodeError, TlsOptionError)
"""Errors that opening a connection may end with. A signal handler raised any other, which is passed on unchanged."""

_register: Register[Connection] = Register()
"""Every connection of this process, and those that it inherited by a fork."""


def sever_inherited() -> None:
    """Close this process's copies of connections that belong to its parent."""
    pid = os.getpid()
    sever([connection.descriptor for connection in _register.all() if connection.pid != pid])


# This happens in the fork itself and not at the backend's next use: while a child has a copy of a socket, the server
# believes that its parent still listens.
after_fork(lambda: sever([connection.descriptor for connection in _register.all()]))


class Connection:
    """One connection, opened and used without redis-py's sockets.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and they retry. They also
    bound each socket operation instead of the whole answer. hiredis packs and parses.

    Whatever interrupts opening, the socket is either in `_socket` or unreferenced, and then Python closes it.

    Attributes:
        settings: The settings it was opened with. Dropping all connections copies the settings, so an older connection
            is recognised by its object.
        opening: The state of the attempt to open it.
        release: Called once when the connection is closed, to return its place in the pool.
        pid: The process that made it.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.opening = Opening(settings, settings.connect_timeout)
        self.release: Callable[[], None] | None = None
        self.pid = os.getpid()
        self._replies = Replies()
        self._poll = select.poll()
        self._socket: Any = None
        self._tls = False

    def open(self, timeout: float) -> None:
        """Connect, authenticate and select the database, within `timeout` seconds. A failure closes the connection.

        Raises:
            OpeningError: It failed; the text names the phase and the cause.
            OpeningTimeoutError: It took too long.
        """
        _register.add(self)
        bound = min(timeout, self.settings.connect_timeout)
        opening = self.opening = Opening(self.settings, bound)
        try:
            self._open(opening, monotonic() + bound)
        except _OPENING_ERRORS as error:
            opening.ended = monotonic()
            self.close()
            if self.settings.finder is not None:
                self.settings.finder.doubt()
            found = opening.last_error = opening.error(error)
            if found is error:
                raise
            raise found from error
        except BaseException:
            opening.ended = monotonic()
            self.close()
            raise

    def _open(self, opening: Opening, end: float) -> None:
        settings = self.settings
        host = ""
        if settings.path is not None:
            addresses: list[Address] = [(socket.AF_UNIX, settings.path)]
        else:
            host, port = settings.address
            if settings.finder is not None:
                host, port = settings.finder.find(end)
                opening.found((host, port))
            addresses = look_up(opening, host, port, settings.family, end)
        opening.phase = CONNECT
        family, peer = self._connect(addresses, end)
        if settings.kind == "tls":
            opening.phase = TLS
            self._start_tls(opening, family, peer, host, end)
        self._poll.register(self._socket, select.POLLIN)
        # With a timeout, Python polls before each operation, and it changes the socket's mode each time one is set. A
        # poll does not see what TLS has read ahead, so a TLS socket uses Python's timeouts.
        if not self._tls:
            self._socket.setblocking(False)
        self._log_in(opening, family, peer, host, end)

    def _log_in(self, opening: Opening, family: int, peer: Any, host: str, end: float) -> None:
        """Send the first commands, and find out why the server refused them or did not answer."""
        settings = self.settings
        opening.phase = CREDENTIALS
        provider = settings.kwargs.get("credential_provider")
        commands = settings.handshake(provider.get_credentials() if provider is not None else None)
        time_left(end)  # raises if the provider, and not the server, used the time up
        opening.phase = LOG_IN
        try:
            replies = self.exchange(commands, end, SendState())
        except redis_errors.ConnectionError as error:
            opening.last_error = error  # the reason to report if time runs out before a better one is found
            if settings.kind == "tcp" and speaks_tls(family, peer, min(PROBE_AFTER, time_left(end))):
                raise opening.needs_tls() from None
            if opening.greeted:
                raise_alert(settings, family, peer, host, min(PROBE_AFTER, time_left(end)))
            raise
        refused = opening.refused(replies, commands)
        if refused is not None:
            raise refused

    def _connect(self, addresses: list[Address], end: float) -> Address:
        """Connect to the first address that accepts. Each address gets an equal share of the time left."""
        left = len(addresses)
        while True:
            left -= 1
            family, address = addresses[-left - 1]
            try:
                # Making an IPv6 socket fails on a system without IPv6; the name may have other addresses.
                self._socket = socket.socket(family, socket.SOCK_STREAM)
                self.settings.set_up(self._socket)
                self._socket.settimeout(time_left(end) / (left + 1))
                self._socket.connect(address)
                return family, address
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                if not left:
                    raise

    def _start_tls(self, opening: Opening, family: int, peer: Any, host: str, end: float) -> None:
        """Make the TLS handshake.

        A server without TLS waits for a line of text and does not answer the handshake. If no answer comes for
        `PROBE_AFTER` seconds, a second connection finds out whether the port speaks Redis without TLS.
        """
        context = self.settings.tls()
        assert context is not None
        self._socket.settimeout(min(PROBE_AFTER, time_left(end) / 2))
        self._socket = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._tls = True
        try:
            self._socket.do_handshake()
        except TimeoutError:
            if speaks_plain(family, peer, min(PROBE_AFTER, time_left(end))):
                raise opening.needs_plain() from None
            self._socket.settimeout(time_left(end))
            self._socket.do_handshake()
        opening.greeted = True

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor, negative without a socket."""
        sock = self._socket
        number: int = -1 if sock is None else sock.fileno()
        return number

    @property
    def usable(self) -> bool:
        """Whether the connection is open and no unexpected data has come."""
        return self._socket is not None and not self._poll.poll(0)

    def exchange(self, commands: Sequence[Command], end: float, state: SendState) -> list[Any]:
        """Send commands and return their replies. An error reply is returned, not raised.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
            redis.exceptions.TimeoutError: No complete answer came in time.
        """
        replies, count = self._replies, len(commands)
        payload = pack(commands)
        found: list[Any] = []
        began = monotonic()
        try:
            state.sent = True
            self._send(payload, end)
            while len(found) < count:
                data = self._receive(end)
                if not data:
                    raise refusal(found) or redis_errors.ConnectionError("the server closed the connection")
                found += replies.read(data)
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {end - began:.3g} s") from None
        except OSError as error:
            raise refusal(found) or redis_errors.ConnectionError(f"the connection broke: {error}") from error
        if len(found) != count:
            raise redis_errors.ConnectionError("more answers than requests: what answers there is no Redis server")
        return found

    def _send(self, payload: bytes, end: float) -> None:
        sock = self._socket
        if self._tls:
            sock.settimeout(time_left(end))
            sock.sendall(payload)
            return
        try:
            at = sock.send(payload)
        except BlockingIOError:
            at = 0
        while at < len(payload):
            writable = select.poll()
            writable.register(sock, select.POLLOUT)
            writable.poll(math.ceil(time_left(end) * 1000))
            with contextlib.suppress(BlockingIOError):
                at += sock.send(memoryview(payload)[at:])

    def _receive(self, end: float) -> bytes:
        sock = self._socket
        # The timeout is set before each read: an answer that trickles in must not outlast its time.
        if self._tls:
            sock.settimeout(time_left(end))
        elif not self._poll.poll(math.ceil(time_left(end) * 1000)):
            raise TimeoutError
        try:
            received: bytes = sock.recv(READ_SIZE)
        except BlockingIOError:
            return self._receive(end)
        return received

    def listen(self, command: Command, on_message: Callable[[Any], None]) -> None:
        """Send a command, and pass each message of the server to `on_message` until the connection is lost.

        Raises:
            redis.exceptions.ConnectionError: The connection broke, or was interrupted.
        """
        sock = self._socket
        try:
            sock.setblocking(True)
            sock.sendall(pack([command]))
            while data := sock.recv(READ_SIZE):
                for message in self._replies.read(data):
                    on_message(message)
        except OSError as error:
            raise redis_errors.ConnectionError(f"the connection broke: {error}") from error
        raise redis_errors.ConnectionError("the server closed the connection")

    def keep_alive(self) -> None:
        """Enable TCP keepalive, for a connection that mostly waits: the system then notices a lost peer."""
        keep_alive(self._socket)

    def interrupt(self) -> None:
        """End a `listen` in another thread."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        sock = self._socket
        if sock is not None:
            if self.pid == os.getpid():
                # A forked child may have a copy of the socket, and then closing alone would leave it open.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            self._socket = None
        release, self.release = self.release, None
        if release is not None:
            release()
