"""The blocking half of what the two shells do differently: sockets, threads' locks, pauses.

No event loop is started to serve a call, and no thread except for leases (`_tasks`). Threads may share a backend.

A signal's handler may raise wherever CPython looks for signals: when a Python function is entered, also `__exit__` and
`finally`'s callees; when a loop jumps back; when a call of C code has returned. It looks nowhere between the end of a
`with` body and the call of `__exit__`, nor between the call of `__enter__` and the body. So a lock is safe if both
are C code, as those of `threading.Lock` and `RLock` are: it is taken exactly if the body is entered, and released
whatever comes out of it.
"""

from __future__ import annotations

import _thread
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
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from tenacity import Retrying as Retrying

from ...protocol.requests import Command
from ...wire.opening import (
    CONNECT,
    CREDENTIALS,
    LOG_IN,
    LOOK_AGAIN,
    SUSPICIOUS,
    TLS,
    Opening,
    probing,
    speaks_plain,
    turned_away,
)
from ...wire.resp import Replies, pack
from ...wire.settings import ConnectionSettings, keep_alive
from ...wire.severing import Register, after_fork, sever

T = TypeVar("T")

Lock = threading.RLock
"""Re-entrant, not to be re-entered but to notice that: a signal's handler may call what it has interrupted."""
READ_SIZE: Final = 1 << 16
_FAILS: Final = (redis_errors.RedisError, OSError, UnicodeError)
"""Errors that opening a connection may end with. Any other is a signal handler's, and is passed on unchanged."""
Client = redis.Redis
ClusterClient = redis.RedisCluster
ConnectionPool = redis.ConnectionPool
KINDS: Final[dict[type[Any], str]] = {
    redis.Connection: "tcp",
    redis.SSLConnection: "tls",
    redis.UnixDomainSocketConnection: "unix",
    SentinelManagedConnection: "tcp",
    SentinelManagedSSLConnection: "tls",
}
"""redis-py's classes of connections, whose options are taken over."""


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


here: Callable[[], Any] = type(None)
"""Returns None: connections belong to a process, and to no event loop in it. C code, because every call asks."""


def clock() -> Callable[[], float]:
    """Returns the clock, in seconds. Any thread may read it."""
    return monotonic


_opened: Register[Connection] = Register()
"""Every connection of this process, and those that it has inherited by a fork."""


def sever_inherited() -> None:
    """Closes connections that are the parent process's, here only."""
    pid = os.getpid()
    sever([connection.descriptor for connection in _opened.all() if connection.pid != pid])


# At once, and not when a backend is used: as long as a child has a socket, the server believes that its parent listens.
after_fork(lambda: sever([connection.descriptor for connection in _opened.all()]))


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
    """One connection, opened and spoken over by our own means.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and they retry, and
    they bound each socket operation instead of the whole answer. Packing and parsing are hiredis'.

    Whatever interrupts opening, the socket is in `_socket` or is nobody's, and Python closes it.

    Attributes:
        settings: How it was opened. Whoever drops all connections makes a new copy, and so tells older ones.
        opening: What opening it is at, or ended with.
        release: Called once when it is closed: gives its room back.
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
        """Connects, authenticates and selects the database, within `timeout` seconds. What fails is closed.

        Raises:
            OpeningError: It failed; the text names the phase and the cause.
            OpeningTimeoutError: It took too long.
        """
        bound = min(timeout, self.settings.connect_timeout)
        opening = self.opening = Opening(self.settings, bound)
        _opened.add(self)
        try:
            self._open(opening, monotonic() + bound)
        except _FAILS as error:
            opening.ended = monotonic()
            self.close()
            found = opening.trouble = opening.error(error)
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
            addresses: list[Any] = [(socket.AF_UNIX, settings.path)]
        else:
            host, port = settings.address
            if settings.sentinels is not None:
                host, port = settings.sentinels.get_master_address()
                opening.leads_to((host, port))
            addresses = _look_up(opening, host, port, settings.family, end)
        opening.phase = CONNECT
        family, peer = self._connect(addresses, end)
        if settings.kind == "tls":
            opening.phase = TLS
            self._greet(opening, family, peer, host, end)
        self._poll.register(self._socket, select.POLLIN)
        # With a timeout, Python polls before each operation and changes the socket's mode each time it is set.
        # What TLS has read ahead a poll does not see, so there the timeouts are Python's.
        if not self._tls:
            self._socket.setblocking(False)
        opening.phase = CREDENTIALS
        provider = settings.kwargs.get("credential_provider")
        commands = settings.handshake(provider.get_credentials() if provider is not None else None)
        _left(end)  # else the provider took it, and not the server
        opening.phase = LOG_IN
        try:
            replies = self.exchange(commands, end, Sent())
        except redis_errors.ConnectionError as error:
            opening.trouble = error  # told if the time ends before more is known
            if settings.kind == "tcp" and _speaks_tls(family, peer, min(SUSPICIOUS, _left(end))):
                raise opening.secured() from None
            if opening.greeted:
                _hear_alert(settings, family, peer, host, min(SUSPICIOUS, _left(end)))
            raise
        refused = opening.refused(replies, commands)
        if refused is not None:
            raise refused

    def _connect(self, addresses: list[Any], end: float) -> tuple[int, Any]:
        """Connects to one of the addresses; each gets its share of the time."""
        left = len(addresses)
        while True:
            left -= 1
            family, address = addresses[-left - 1]
            try:
                # It fails for IPv6 where the system has none; the name may have other addresses.
                self._socket = socket.socket(family, socket.SOCK_STREAM)
                self.settings.set_up(self._socket)
                self._socket.settimeout(_left(end) / (left + 1))
                self._socket.connect(address)
                return family, address
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                if not left:
                    raise

    def _greet(self, opening: Opening, family: int, peer: Any, host: str, end: float) -> None:
        """Greets the server by TLS.

        A server that waits for a line of text answers nothing to that. If no answer comes for long, it is asked so.
        """
        try:
            context = self.settings.tls()
        except (OSError, ValueError) as error:
            raise opening.unusable(error) from error
        assert context is not None
        self._socket.settimeout(min(SUSPICIOUS, _left(end) / 2))
        self._socket = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._tls = True
        try:
            self._socket.do_handshake()
        except TimeoutError:
            if _speaks_plain(family, peer, min(SUSPICIOUS, _left(end))):
                raise opening.plain() from None
            self._socket.settimeout(_left(end))
            self._socket.do_handshake()
        opening.greeted = True

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor; negative: there is none."""
        sock = self._socket
        return -1 if sock is None else cast("int", sock.fileno())

    @property
    def usable(self) -> bool:
        """Whether the server has neither closed the connection nor sent what nobody asked for."""
        return self._socket is not None and not self._poll.poll(0)

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
                    raise turned_away(found) or redis_errors.ConnectionError("the server closed the connection")
                found += replies.read(data)
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {end - began:.3g} s") from None
        except OSError as error:
            raise turned_away(found) or redis_errors.ConnectionError(f"the connection broke: {error}") from error
        if len(found) != count:
            raise redis_errors.ConnectionError("more answers than requests: what answers there is no Redis server")
        return found

    def _send(self, payload: bytes, end: float) -> None:
        sock = self._socket
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
        sock = self._socket
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
        sock = self._socket
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
        keep_alive(self._socket)

    def interrupt(self) -> None:
        """Ends a `listen` in another thread."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection."""
        sock = self._socket
        if sock is not None:
            if self.pid == os.getpid():
                # A forked child holds the socket, too, and closing alone would leave it open.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            self._socket = None
        release, self.release = self.release, None
        if release is not None:
            release()


def _look_up(opening: Opening, host: str, port: int, family: int, end: float) -> list[Any]:
    """Returns the addresses of a host: family and address of each."""
    kind = socket.SOCK_STREAM
    with contextlib.suppress(socket.gaierror):
        # An address in digits needs no thread.
        found = socket.getaddrinfo(host, port, family=family, type=kind, flags=socket.AI_NUMERICHOST)
        return [(each[0], each[4]) for each in found]
    while True:
        try:
            found = _resolved((host, port, family, kind), end)
            return [(each[0], each[4]) for each in found]
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or end - monotonic() < 2 * LOOK_AGAIN:
                raise
            opening.trouble = error
        time.sleep(LOOK_AGAIN)


def _resolved(question: tuple[Any, ...], end: float) -> Any:
    """Looks a name up in a thread of its own: the resolver knows no timeout, and a signal does not end its wait."""
    found: list[Any] = []
    done = threading.Lock()
    done.acquire()
    try:
        _thread.start_new_thread(_resolve, (question, found, done))
    except RuntimeError:  # no more threads may be started
        return socket.getaddrinfo(*question)
    if not done.acquire(timeout=_left(end)):
        raise TimeoutError
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _resolve(question: tuple[Any, ...], found: list[Any], done: Any) -> None:
    try:
        found.append(socket.getaddrinfo(*question))
    except Exception as error:
        found.append(error)
    finally:
        done.release()


def _speaks_plain(family: int, address: Any, timeout: float) -> bool:
    """Tells whether a Redis server without TLS answers at an address."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.sendall(b"PING\r\n")
        return speaks_plain(sock.recv(64))
    return False


def _hear_alert(settings: ConnectionSettings, family: int, address: Any, host: str, timeout: float) -> None:
    """Greets a server once more and says nothing. A server that refuses the client says why after the greeting.

    What is said to it meanwhile resets the connection, and the reason may be lost.

    Raises:
        ssl.SSLError: The reason.
    """
    context = settings.tls()
    assert context is not None
    silent = (ssl.SSLEOFError, ConnectionError, TimeoutError)
    with contextlib.suppress(*silent), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        with context.wrap_socket(sock, server_hostname=host) as secured:
            secured.recv(1)


def _speaks_tls(family: int, address: Any, timeout: float) -> bool:
    """Tells whether a server answers at an address that speaks TLS."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        with probing().wrap_socket(sock):
            return True
    return False


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

    Attributes:
        latest: The connection that is being opened, or could not be opened; None: the latest one was opened.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._queue: deque[_Job] = deque()
        self._connection: Connection | None = None
        self._sending = Lock()
        self._closed = False
        self.latest: Connection | None = None

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
        connection = self.latest = Connection(self._settings)
        connection.open(timeout)
        self.latest = None
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
