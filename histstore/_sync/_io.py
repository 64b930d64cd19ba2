"""The blocking half of what the two shells do differently: sockets, threads' locks, pauses.

No event loop is started to serve a call, and no thread except for leases (`_tasks`). Threads may share a backend.

A signal's handler may raise wherever CPython looks for signals: when a Python function is entered, also `__exit__` and
`finally`'s callees; when a loop jumps back; when a call of C code has returned. It looks nowhere between the end of a
`with` body and the call of `__exit__`, nor between the call of `__enter__` and the body. So a lock is safe if both
are C code, as those of `threading.Lock` and `RLock` are: it is taken exactly if the body is entered, and released
whatever comes out of it.
"""

from __future__ import annotations

import contextlib

# Looking up a host's name would import it, and a signal's handler that raises in the midst of an import leaves the
# module's lock held: each thread that looks up a name hangs from then on.
import encodings.idna  # noqa: F401
import functools
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

Lock = threading.RLock
"""Re-entrant, not to be re-entered but to notice that: a signal's handler may call what it has interrupted."""
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


class _OrLate(dict[bool, None]):
    """What waiting for a lock came to: True, or an error."""

    def __init__(self, error: Callable[[str], Exception], text: str) -> None:
        super().__init__({True: None})
        self._error = error
        self._text = text

    def __missing__(self, _taken: bool) -> None:
        raise self._error(self._text)


@functools.lru_cache(64)
def _or_late(error: Callable[[str], Exception], text: str) -> Callable[[bool], None]:
    return _OrLate(error, text).__getitem__


_BLOCKING: Final = (True,)


class Held:
    """Holds a lock that became free within `timeout` seconds. A class, because every call goes through one.

    Both ends are C code: slots of the instance, which `with` finds by way of the class. The entry is the `__next__` of
    an iterator that waits for the lock and looks the answer up where False raises.

    Raises:
        Exception: It did not, or this thread holds it: then it is a signal's handler that has interrupted the holder,
            and would wait for itself. An error of the given class; the former has the given text.
    """

    __slots__ = ("__enter__", "__exit__")
    __enter__: Any
    __exit__: Any

    def __init__(self, lock: Any, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        if lock._is_owned():
            raise error("a signal's handler called what it had interrupted; nothing was written: call it afterwards")
        timeout = timeout if timeout < threading.TIMEOUT_MAX else threading.TIMEOUT_MAX
        self.__enter__ = map(_or_late(error, text), map(lock.acquire, _BLOCKING, (timeout,))).__next__
        self.__exit__ = lock.__exit__


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
        try:
            at = sock.send(payload)
        except BlockingIOError:
            at = 0
        while at < len(payload):
            room = select.poll()
            room.register(sock, select.POLLOUT)
            room.poll(math.ceil(_left(end) * 1000))
            with contextlib.suppress(BlockingIOError):
                at += sock.send(memoryview(payload)[at:])

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
    """A write that waits to be sent, by whichever thread sends next.

    Attributes:
        right: The single token in it is the right to decide: whoever takes it sends the write, or never will.
        done: Whether the thread that sent it has told what came of it.
    """

    __slots__ = ("acked", "commands", "done", "error", "replies", "right", "state", "timeout")

    def __init__(self, commands: Sequence[Command], timeout: float, state: Sent) -> None:
        self.commands = commands
        self.timeout = timeout
        self.state = state
        self.done = False
        self.right: list[None] = [None]
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
        self._sending = Lock()
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
        # Until it is certain that nobody sends it: what interrupts this thread leaves the job in the queue.
        state.sent = True
        try:
            self._queue.append(job)
            text = f"no answer within {timeout + patience:.3g} s"
            with Held(self._sending, timeout + patience, redis_errors.TimeoutError, text):
                if not job.done:
                    if not job.right:
                        raise redis_errors.ConnectionError("the thread that sent it was interrupted")
                    self._commit(wait, patience)
        finally:
            if job.right and _taken(job.right):
                state.sent = False
            self._leave(job)
        if job.error is not None:
            raise job.error
        return job.replies, job.acked

    def _commit(self, wait: Command, patience: float) -> None:
        """Sends what waits. If it is interrupted, those whose writes it has taken find that out by themselves."""
        batch: list[_Job] = []
        for job in tuple(self._queue):
            if _taken(job.right):
                batch.append(job)
            else:  # one that an interrupted thread has left behind
                self._leave(job)
        timeout = max(job.timeout for job in batch)
        connection: Connection | None = None
        try:
            connection = self._connected(timeout)
            commands = [command for job in batch for command in job.commands]
            replies = connection.exchange(commands, monotonic() + timeout, Sent())
        except (redis_errors.RedisError, OSError) as error:
            if connection is not None:
                connection.close()
            for job in batch:
                if connection is None:
                    job.state.sent = False
                job.error = error
                job.done = True
            return
        acked: Any
        try:
            (acked,) = connection.exchange([wait], monotonic() + timeout + patience, Sent())
            self._connection = connection
        except (redis_errors.RedisError, OSError) as error:
            # The writes are answered for; only who else has them is not known.
            connection.close()
            acked = error
        at = 0
        for job in batch:
            job.replies = replies[at : at + len(job.commands)]
            job.acked = acked
            job.done = True
            at += len(job.commands)

    def _leave(self, job: _Job) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(job)

    def _connected(self, timeout: float) -> Connection:
        """Returns a connection that nobody else has meanwhile: one that was interrupted is not used again."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.usable and connection.settings is self._settings:
            return connection
        if connection is not None:
            connection.close()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        connection = Connection(self._settings)
        connection.open(timeout)
        return connection

    def drop(self) -> None:
        """Closes the connection. While a write is being sent, that is left to the next one, which opens another."""
        self._settings = replace(self._settings)
        with (
            contextlib.suppress(redis_errors.TimeoutError),
            Held(self._sending, 0, redis_errors.TimeoutError, "a write is being sent"),
        ):
            self._close_idle()

    def close(self) -> None:
        """Waits for what is being sent, then closes the connection."""
        self._closed = True
        with self._sending:
            self._close_idle()

    def _close_idle(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _taken(right: list[None]) -> bool:
    """Takes the one token out of `right`; False: somebody else has."""
    try:
        right.pop()
    except IndexError:
        return False
    return True
