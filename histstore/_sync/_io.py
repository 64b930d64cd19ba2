"""The blocking half of what the two shells do differently: sockets, threads' locks, pauses.

No thread and no event loop is started to serve a call. Threads may share a backend.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import hiredis
import redis
from redis import exceptions as redis_errors
from redis.retry import Retry as Retry
from tenacity import Retrying as Retrying

from .._protocol import Command
from .._settings import TRY_TIMEOUT, ConnectionSettings, check_handshake

T = TypeVar("T")

Lock = threading.Lock
READ_SIZE: Final = 1 << 16
HANDSHAKE_TIMEOUT: Final = TRY_TIMEOUT
"""Seconds for a socket operation of redis-py's handshake."""

Client = redis.Redis
ClusterClient = redis.RedisCluster
ConnectionPool = redis.ConnectionPool


def monotonic() -> float:
    """Returns a clock that only goes forward, in seconds."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Pauses the thread."""
    time.sleep(seconds)


@contextmanager
def held(lock: threading.Lock, timeout: float) -> Iterator[None]:
    """Holds a lock that was free within `timeout` seconds.

    Raises:
        redis.exceptions.TimeoutError: It was not.
    """
    if not lock.acquire(timeout=timeout):
        raise redis_errors.TimeoutError("the server did not answer in time")
    try:
        yield
    finally:
        lock.release()


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


class Connection:
    """One connection: opened by redis-py, then spoken over directly.

    redis-py's own read and write cannot tell a request that was not sent from one that was, retry, and
    bound each socket operation instead of the whole answer. Packing and parsing are hiredis'.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._inner = settings.make()
        self._replies = hiredis.Reader(replyError=redis_errors.ResponseError)

    def open(self, timeout: float) -> None:
        """Connects, authenticates and selects the database, within `timeout` seconds each."""
        bound = min(timeout, self._settings.connect_timeout)
        self._inner.socket_connect_timeout = self._inner.socket_timeout = bound
        self._inner.connect()
        provider = self._inner.credential_provider
        credentials = provider.get_credentials() if provider is not None else None
        commands = self._settings.handshake(self._inner, credentials)
        if commands:
            check_handshake(self.exchange(commands, bound, Sent()))

    @property
    def usable(self) -> bool:
        """Whether the server has neither closed the connection nor sent what nobody asked for."""
        sock = self._inner._sock
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, commands: Sequence[Command], timeout: float, state: Sent) -> list[Any]:
        """Sends commands and returns their replies; an error reply is returned, not raised.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
            redis.exceptions.TimeoutError: No full answer within `timeout` seconds.
        """
        sock, replies = self._inner._sock, self._replies
        payload = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        deadline = monotonic() + timeout
        found: list[Any] = []
        try:
            state.sent = True
            sock.settimeout(timeout)
            sock.sendall(payload)
            while len(found) < len(commands):
                # Anew before each read: an answer that trickles in must not outlast the deadline.
                left = deadline - monotonic()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
                data = sock.recv(READ_SIZE)
                if not data:
                    raise redis_errors.ConnectionError("the server closed the connection")
                replies.feed(data)
                while (reply := replies.gets()) is not False:
                    found.append(reply)
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {timeout:.3g} s") from None
        except (OSError, hiredis.ProtocolError) as error:
            raise redis_errors.ConnectionError(f"the connection broke: {error}") from error
        if len(found) != len(commands):
            raise redis_errors.ConnectionError("more answers than requests: what answers there is no Redis server")
        return found

    def close(self) -> None:
        """Closes the connection."""
        self._inner.disconnect()


class Pool:
    """Connections to one server: at most so many, idle ones reused, last in first out."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._idle: list[Connection] = []
        self._slots = threading.Semaphore(settings.max_connections)
        self._count = threading.Lock()
        self.busy = 0
        self._closed = False

    @property
    def idle(self) -> int:
        """How many connections wait to be used."""
        return len(self._idle)

    @contextmanager
    def connection(self, timeout: float) -> Iterator[Connection]:
        """Lends a connection. It is closed unless the body leaves cleanly: its replies may be pending.

        Raises:
            redis.exceptions.RedisError: None could be opened; nothing was sent.
        """
        if not self._slots.acquire(timeout=timeout):
            raise redis_errors.ConnectionError("all connections are in use: raise max_connections")
        connection = None
        clean = False
        self._change_busy(1)
        try:
            connection = self._get(timeout)
            yield connection
            clean = True
        finally:
            if connection is not None:
                if clean and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()
            self._change_busy(-1)
            self._slots.release()

    def _change_busy(self, change: int) -> None:
        with self._count:
            self.busy += change

    def _get(self, timeout: float) -> Connection:
        while True:
            try:
                connection = self._idle.pop()  # atomic: another thread may take the last one first
            except IndexError:
                break
            if connection.usable:
                return connection
            connection.close()
        connection = Connection(self.settings)
        try:
            connection.open(timeout)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Closes the idle connections now, and those in use when they come back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _Job:
    """A write that waits to be sent, by whichever thread sends next."""

    __slots__ = ("acked", "commands", "done", "error", "replies", "state")

    def __init__(self, commands: Sequence[Command], state: Sent) -> None:
        self.commands = commands
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

    def exchange(
        self, commands: Sequence[Command], wait: Command, timeout: float, state: Sent
    ) -> tuple[list[Any], Any]:
        """Returns the replies to `commands`, and the reply to `wait` or the error that came instead."""
        job = _Job(commands, state)
        self._queue.append(job)
        with self._sending:
            if not job.done:
                self._commit(self._take(), wait, timeout)
        if job.error is not None:
            raise job.error
        return job.replies, job.acked

    def _take(self) -> list[_Job]:
        batch = []
        while self._queue:  # only the thread that sends takes; others may add meanwhile
            batch.append(self._queue.popleft())
        return batch

    def _commit(self, batch: list[_Job], wait: Command, timeout: float) -> None:
        try:
            connection = self._connected(timeout)
            for job in batch:
                job.state.sent = True
            replies = connection.exchange([command for job in batch for command in job.commands], timeout, Sent())
            at = 0
            for job in batch:
                job.replies = replies[at : at + len(job.commands)]
                at += len(job.commands)
        except BaseException as error:
            self._drop()
            for job in batch:
                job.error = error if isinstance(error, Exception) else redis_errors.ConnectionError("interrupted")
                job.done = True
            if not isinstance(error, Exception):
                raise
            return
        acked: Any
        try:
            (acked,) = connection.exchange([wait], timeout, Sent())
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
        if self._connection is None or not self._connection.usable:
            self._drop()
            connection = Connection(self._settings)
            try:
                connection.open(timeout)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Waits for what is being sent, then closes the connection."""
        with self._sending:
            self._drop()
