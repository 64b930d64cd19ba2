"""The blocking half of what the two shells do differently: sockets, threads' locks, pauses.

No event loop is started to serve a call, and no thread except for leases (`_tasks`). Threads may share a backend.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

import redis
from redis import exceptions as redis_errors
from redis.retry import Retry as Retry
from tenacity import Retrying as Retrying

from .._protocol import Command
from .._resp import Replies, pack
from .._settings import TRY_TIMEOUT, ConnectionSettings, check_handshake, keep_alive

T = TypeVar("T")

Lock = threading.Lock
READ_SIZE: Final = 1 << 16
HANDSHAKE_TIMEOUT: Final = TRY_TIMEOUT
"""Seconds for a socket operation of redis-py's handshake."""

Client = redis.Redis
ClusterClient = redis.RedisCluster
ConnectionPool = redis.ConnectionPool


monotonic = time.monotonic
"""Returns a clock that only goes forward, in seconds. It is the function itself: each call asks several times."""


def sleep(seconds: float) -> None:
    """Pauses the thread."""
    time.sleep(seconds)


class Held:
    """Holds a lock that became free within `timeout` seconds. A class, because every call goes through one.

    Raises:
        Exception: It did not; an error of the given class and text.
    """

    __slots__ = ("_error", "_lock", "_text", "_timeout")

    def __init__(self, lock: threading.Lock, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        self._error = error
        self._lock = lock
        self._timeout = timeout
        self._text = text

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=min(self._timeout, threading.TIMEOUT_MAX)):
            raise self._error(self._text)

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


def run_blocking(function: Callable[..., T], *args: Any) -> T:
    """Runs blocking file or process work."""
    return function(*args)


run_to_the_end = run_blocking


def maybe_await(value: Any) -> Any:
    """Returns what a user's function returned."""
    return value


def owner() -> tuple[int, Any]:
    """Returns what connections belong to: this process."""
    return os.getpid(), None


class Sent:
    """Whether a byte of a request may have left."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


def _left(end: float) -> float:
    left = end - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Connection:
    """One connection: opened by redis-py, then spoken over directly.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and they retry, and
    they bound each socket operation instead of the whole answer. Packing and parsing are hiredis'.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._inner = settings.make()
        self._replies = Replies()
        self._poll = select.poll()
        self._tls = False

    def open(self, timeout: float) -> None:
        """Connects, then logs in and selects the database, each of the two within `timeout` seconds.

        What fails is closed.
        """
        try:
            self._open(min(timeout, self.settings.connect_timeout))
        except BaseException:
            self.close()
            raise

    def _open(self, bound: float) -> None:
        self._inner.socket_connect_timeout = self._inner.socket_timeout = bound
        self._inner.connect()
        sock = self._inner._sock
        self._poll.register(sock, select.POLLIN)
        self._tls = isinstance(sock, ssl.SSLSocket)
        # With a timeout, Python polls before each operation and changes the socket's mode each time it is set.
        # What TLS has read ahead a poll does not see, so there the timeouts are Python's.
        if not self._tls:
            sock.setblocking(False)
        provider = self._inner.credential_provider
        credentials = provider.get_credentials() if provider is not None else None
        commands = self.settings.handshake(self._inner, credentials)
        if commands:
            check_handshake(self.exchange(commands, monotonic() + bound, Sent()))

    @property
    def usable(self) -> bool:
        """Whether the server has neither closed the connection nor sent what nobody asked for."""
        return self._inner._sock is not None and not self._poll.poll(0)

    def exchange(self, commands: Sequence[Command], end: float, state: Sent) -> list[Any]:
        """Sends commands and returns their replies; an error reply is returned, not raised.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Is told when a byte may have left.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
            redis.exceptions.TimeoutError: No full answer in time.
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
                    raise redis_errors.ConnectionError("the server closed the connection")
                found += replies.read(data)
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {end - began:.3g} s") from None
        except OSError as error:
            raise redis_errors.ConnectionError(f"the connection broke: {error}") from error
        if len(found) != count:
            raise redis_errors.ConnectionError("more answers than requests: what answers there is no Redis server")
        return found

    def _send(self, payload: bytes, end: float) -> None:
        sock = self._inner._sock
        if self._tls:
            sock.settimeout(_left(end))
            sock.sendall(payload)
            return
        rest = memoryview(payload)
        while True:
            try:
                rest = rest[sock.send(rest) :]
            except BlockingIOError:
                room = select.poll()
                room.register(sock, select.POLLOUT)
                room.poll(math.ceil(_left(end) * 1000))
            if not rest:
                return

    def _receive(self, end: float) -> bytes:
        sock = self._inner._sock
        # Anew before each read: an answer that trickles in must not outlast its time.
        if self._tls:
            sock.settimeout(_left(end))
        elif not self._poll.poll(math.ceil(_left(end) * 1000)):
            raise TimeoutError
        try:
            return cast("bytes", sock.recv(READ_SIZE))
        except BlockingIOError:
            return self._receive(end)

    def listen(self, command: Command, heard: Callable[[Any], None]) -> None:
        """Sends a command, and from then on hands over what the server says, for as long as the connection lasts.

        Raises:
            redis.exceptions.ConnectionError: The connection broke, or was interrupted.
        """
        sock = self._inner._sock
        try:
            sock.setblocking(True)
            sock.sendall(pack([command]))
            while data := sock.recv(READ_SIZE):
                for message in self._replies.read(data):
                    heard(message)
        except OSError as error:
            raise redis_errors.ConnectionError(f"the connection broke: {error}") from error
        raise redis_errors.ConnectionError("the server closed the connection")

    def keep_alive(self) -> None:
        """Lets the system notice when the other end is gone, on a connection that mostly waits."""
        keep_alive(self._inner._sock)

    def interrupt(self) -> None:
        """Ends a `listen` in another thread."""
        sock = self._inner._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection."""
        self._inner.disconnect()


class _Job:
    """A write that waits to be sent, by whichever thread sends next."""

    __slots__ = ("acked", "commands", "done", "error", "replies", "state", "timeout")

    def __init__(self, commands: Sequence[Command], timeout: float, state: Sent) -> None:
        self.commands = commands
        self.timeout = timeout
        self.state = state
        self.done = False
        self.replies: list[Any] = []
        self.acked: Any = None
        self.error: Exception | None = None


class GroupCommit:
    """Sends writes and the WAIT that covers them over one connection, many writes to a WAIT.

    WAIT counts what was written on its own connection, and blocks whatever is behind it. So there is
    one dedicated connection, never more than one WAIT in flight on it, and what arrives meanwhile
    shares the next one: the thread that gets the connection sends for all that wait.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._queue: deque[_Job] = deque()
        self._connection: Connection | None = None
        self._sending = threading.Lock()
        self._closed = False

    def exchange(
        self, commands: Sequence[Command], wait: Command, timeout: float, patience: float, state: Sent
    ) -> tuple[list[Any], Any]:
        """Returns the replies to `commands`, and the reply to `wait` or the error that came instead.

        A caller that is interrupted, or out of time, leaves at once: what it has not sent is never sent.

        Args:
            commands: The writes.
            wait: What waits for them.
            timeout: Seconds for the answers to the writes.
            patience: Seconds more for the answer to `wait`.
            state: Is told when a byte may have left.
        """
        job = _Job(commands, timeout, state)
        self._queue.append(job)
        try:
            text = f"no answer within {timeout + patience:.3g} s"
            with Held(self._sending, timeout + patience, redis_errors.TimeoutError, text):
                if not job.done:
                    self._commit(self._take(), wait, patience)
        finally:
            try:
                self._queue.remove(job)
            except ValueError:
                if not job.done:
                    state.sent = True  # another thread has taken it: it may be on its way
        if job.error is not None:
            raise job.error
        return job.replies, job.acked

    def _take(self) -> list[_Job]:
        batch: list[_Job] = []
        while True:
            try:
                batch.append(self._queue.popleft())  # atomic: who is out of time takes itself out meanwhile
            except IndexError:
                return batch

    def _commit(self, batch: list[_Job], wait: Command, patience: float) -> None:
        timeout = max(job.timeout for job in batch)
        try:
            connection = self._connected(timeout)
            for job in batch:
                job.state.sent = True
            commands = [command for job in batch for command in job.commands]
            replies = connection.exchange(commands, monotonic() + timeout, Sent())
            at = 0
            for job in batch:
                job.replies = replies[at : at + len(job.commands)]
                at += len(job.commands)
        except BaseException as error:
            self._drop()
            for job in batch:
                # What a signal's handler raised here is no other thread's.
                known = isinstance(error, (redis_errors.RedisError, OSError))
                job.error = cast("Exception", error) if known else redis_errors.ConnectionError("interrupted")
                job.done = True
            if not isinstance(error, (redis_errors.RedisError, OSError)):
                raise
            return
        acked: Any
        try:
            (acked,) = connection.exchange([wait], monotonic() + timeout + patience, Sent())
        except BaseException as error:
            # The writes are answered for; only who else has them is not known.
            self._drop()
            acked = error
            if not isinstance(error, Exception):
                raise
        finally:
            for job in batch:
                job.done = True
        for job in batch:
            job.acked = acked

    def _connected(self, timeout: float) -> Connection:
        kept = self._connection
        if kept is not None and kept.usable and kept.settings is self._settings:
            return kept
        self._drop()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        connection = Connection(self._settings)
        connection.open(timeout)
        self._connection = connection
        return connection

    def drop(self) -> None:
        """Closes the connection as soon as what is being sent is answered; the next write opens another."""
        self._settings = replace(self._settings)
        if self._sending.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._sending.release()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Waits for what is being sent, then closes the connection."""
        self._closed = True
        with self._sending:
            self._drop()
