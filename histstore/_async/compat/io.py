"""The asyncio half of what the two shells do differently: sockets, tasks, locks, pauses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import redis.asyncio as redis
from redis import exceptions as redis_errors
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from tenacity import AsyncRetrying

from ...policy import OpeningError, OpeningTimeoutError
from ...protocol.requests import Command
from ...wire.opening import CONNECT, CREDENTIALS, LOG_IN, LOOK_AGAIN, SUSPICIOUS, TLS, Opening, probing, speaks_plain
from ...wire.settings import ConnectionSettings, keep_alive
from ...wire.severing import Register, after_fork, sever
from ..transport.wire import Sent as Sent
from ..transport.wire import Wire
from ..transport.wire import monotonic as monotonic

T = TypeVar("T")

Retrying = AsyncRetrying

LOOK: Final = 0.005
"""Seconds between two looks at whether the event loop has ended whose task holds a lock."""

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


async def sleep(seconds: float) -> None:
    """Pauses the task."""
    await asyncio.sleep(seconds)


class _Now:
    """Awaited, returns at once."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


_NOW: Final = _Now()


class Lock:
    """A lock that goes to who asked first. Where it is free it is taken without a coroutine: every call takes one.

    Several event loops may use it, and it passes from one to the other. What a task of a loop that has ended still
    holds is taken from it. A loop that stands still is passed over, until it runs again. Each step is one operation of
    a list, which no other thread divides.
    """

    __slots__ = ("_free", "_holding", "_waiting")

    def __init__(self) -> None:
        self._free: list[None] = [None]
        self._holding: list[Held | None] = []
        self._waiting: deque[tuple[asyncio.Future[None], Held | None]] = deque()

    def take(self, by: Held | None = None) -> bool:
        """Takes the lock if it is free."""
        try:
            self._free.pop()
        except IndexError:
            return False
        self._holding.append(by)
        return True

    async def acquire(self, by: Held | None = None) -> None:
        """Takes the lock, and waits for it if need be."""
        if self.take(by):
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((place, by))
        self._serve()  # it may have been released elsewhere before the place was there
        self._keep_looking(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release(by)
            else:
                self._forget((place, by))
                self._look_for_others()
            raise

    def release(self, by: Held | None = None) -> None:
        """Gives the lock to the next who waits, or sets it free."""
        try:
            self._holding.remove(by)
        except ValueError:
            return  # the holder's loop has ended, and its task is thrown away; another has the lock
        self._free.append(None)
        # In this order: who came to wait in between either is seen here, or has found the lock free.
        if self._waiting:
            self._serve()
            self._look_for_others()

    def _serve(self) -> None:
        """Gives the lock, if it is free, to the first who waits in a loop that runs."""
        while any(_can_be_served(place) for place, _ in list(self._waiting)):
            try:
                self._free.pop()
            except IndexError:
                return  # whoever has it serves the next
            if self._hand_over():
                return
            self._free.append(None)

    def _hand_over(self) -> bool:
        for turn in list(self._waiting):
            place, waiter = turn
            loop = place.get_loop()
            if loop.is_closed():
                self._forget(turn)
            if not _can_be_served(place) or not self._forget(turn):
                continue
            self._holding.append(waiter)
            if runs(loop):
                place.set_result(None)
                return True
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._arrive, place, waiter)
                return True
            # It has ended just now.
            try:
                self._holding.remove(waiter)
            except ValueError:
                return True
        return False

    def _forget(self, turn: tuple[asyncio.Future[None], Held | None]) -> bool:
        """Takes one out of the queue; False: another thread was faster."""
        try:
            self._waiting.remove(turn)
        except ValueError:
            return False
        return True

    def _arrive(self, place: asyncio.Future[None], waiter: Held | None) -> None:
        if place.done():  # its task was cancelled
            self.release(waiter)
        else:
            place.set_result(None)

    # Whoever waits for its own loop's task is woken by that. Another loop's may end, and wake nobody.

    def _keep_looking(self, place: asyncio.Future[None]) -> None:
        """Looks after the holder, if it is another loop's, for as long as somebody waits in a place."""
        loop = place.get_loop()
        if not place.done() and not self._is_held_in(loop):
            loop.call_later(LOOK, self._look, place)

    def _look(self, place: asyncio.Future[None]) -> None:
        if not place.done():
            for holder in self._holding[:1]:
                if holder is not None and holder.loop.is_closed():
                    self.release(holder)
            self._serve()
            self._keep_looking(place)

    def _look_for_others(self) -> None:
        """Has one of those who wait in the loop that runs here look after the holder."""
        for place, _ in list(self._waiting):
            if not place.done() and runs(place.get_loop()):
                self._keep_looking(place)
                return

    def _is_held_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        for holder in self._holding[:1]:
            return holder is None or holder.loop is loop
        return False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_error: object) -> None:
        self.release()


def runs(loop: asyncio.AbstractEventLoop) -> bool:
    """Tells whether an event loop is the one that runs in this thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _can_be_served(place: asyncio.Future[None]) -> bool:
    """Tells whether who waits in a place is there, and its event loop runs."""
    return not place.done() and place.get_loop().is_running()


class Held:
    """Holds a lock that became free within `timeout` seconds. A class, because every call goes through one.

    Attributes:
        loop: Where it is held, or waited for.

    Raises:
        Exception: It did not; an error of the given class and text.
    """

    __slots__ = ("_error", "_lock", "_text", "_timeout", "loop")

    def __init__(self, lock: Lock, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        self._error = error
        self._lock = lock
        self._timeout = timeout
        self._text = text
        self.loop = asyncio.get_running_loop()

    def __aenter__(self) -> Awaitable[None]:
        return _NOW if self._lock.take(self) else self._wait()

    def __aexit__(self, *_error: object) -> Awaitable[None]:
        self._lock.release(self)
        return _NOW

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire(self)
        except TimeoutError:
            raise self._error(self._text) from None


async def run_blocking(function: Callable[..., T], *args: Any) -> T:
    """Runs blocking file or process work without blocking the loop.

    A cancelled caller leaves at once; the work goes on in its thread to its end.
    """
    return await asyncio.to_thread(function, *args)


async def run_to_the_end(function: Callable[..., T], *args: Any) -> T:
    """Runs blocking work that must not be left half done, also when the caller is cancelled."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


async def maybe_await(value: Any) -> Any:
    """Awaits what a user's function returned, if it is awaitable."""
    return await value if hasattr(value, "__await__") else value


here: Final = asyncio.get_running_loop
"""Returns the event loop that runs in this thread: connections belong to one, of one process. Every call asks."""


def clock() -> Callable[[], float]:
    """Returns this loop's clock, in seconds. It may be read in other threads, too."""
    return asyncio.get_running_loop().time


_opened: Register[Connection] = Register()
"""Every connection of this process, and those that it has inherited by a fork."""


def sever_inherited() -> None:
    """Closes connections that are the parent process's, here only."""
    pid = os.getpid()
    sever([connection.descriptor for connection in _opened.all() if connection.pid != pid])


def sever_dead() -> None:
    """Closes connections whose event loop has ended."""
    sever([connection.descriptor for connection in _opened.all() if connection.loop.is_closed()])


# At once, and not when a backend is used: as long as a child has a socket, the server believes that its parent listens.
after_fork(lambda: sever([connection.descriptor for connection in _opened.all()]))


class Connection:
    """One connection, opened and spoken over by our own means.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and it
    retries. Packing and parsing are hiredis'. Requests may be sent while others wait for their answers.

    Attributes:
        settings: How it was opened. Whoever drops all connections makes a new copy, and so tells older ones.
        opening: What opening it is at, or ended with.
        release: Called once when it is closed: gives its room back.
        pid: The process that made it.
        loop: The event loop in which it is used.
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
        """Connects, authenticates and selects the database, within `timeout` seconds. What fails is closed.

        Raises:
            OpeningError: It failed; the text names the phase and the cause.
            OpeningTimeoutError: It took too long.
        """
        bound = min(timeout, self.settings.connect_timeout)
        opening = self.opening = Opening(self.settings, bound)
        _opened.add(self)
        try:
            async with asyncio.timeout(bound):
                await self._open(opening, monotonic() + bound)
        except BaseException as error:
            opening.ended = monotonic()
            await self.close()
            found = opening.error(error) if isinstance(error, Exception) else error
            if isinstance(found, OpeningError | OpeningTimeoutError):
                opening.trouble = found
            if found is error:
                raise
            raise found from error

    async def _open(self, opening: Opening, end: float) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()
        host = ""
        if settings.path is not None:
            addresses: list[Any] = [(socket.AF_UNIX, settings.path)]
        else:
            host, port = settings.address
            if settings.sentinels is not None:
                host, port = await settings.sentinels.get_master_address()
                opening.leads_to((host, port))
            addresses = await _look_up(opening, host, port, settings.family, end)
        opening.phase = CONNECT
        sock, peer = await self._connect(addresses, end)
        wire = Wire()
        try:
            if settings.kind == "tls":
                opening.phase = TLS
                await self._greet(opening, sock, peer, wire, host, end)
            elif settings.kind == "tcp":
                await loop.create_connection(lambda: wire, sock=sock)
            else:
                await loop.create_unix_connection(lambda: wire, sock=sock)
        except BaseException:
            wire.abort()
            sock.close()
            raise
        self._wire = wire
        opening.phase = CREDENTIALS
        provider = settings.kwargs.get("credential_provider")
        credentials = await provider.get_credentials_async() if provider is not None else None
        commands = settings.handshake(credentials)
        if monotonic() >= end:  # a provider that blocks the loop took the time, and not the server
            raise TimeoutError
        opening.phase = LOG_IN
        try:
            replies = await wire.ask(commands, end + 1.0, Sent())
        except redis_errors.ConnectionError as error:
            opening.trouble = error  # told if the time ends before more is known
            if settings.kind == "tcp" and await _speaks_tls(sock.family, peer):
                raise opening.secured() from None
            if opening.greeted:
                await _hear_alert(settings, sock.family, peer, host)
            raise
        refused = opening.refused(replies, commands)
        if refused is not None:
            raise refused

    async def _connect(self, addresses: list[Any], end: float) -> tuple[socket.socket, Any]:
        """Returns a socket that is connected to one of the addresses, and which; each gets its share of the time."""
        loop = asyncio.get_running_loop()
        left = len(addresses)
        while True:
            left -= 1
            family, address = addresses[-left - 1]
            sock = None
            try:
                # It fails for IPv6 where the system has none; the name may have other addresses.
                # Known from the beginning: a fork may come while it connects.
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

    async def _greet(self, opening: Opening, sock: socket.socket, peer: Any, wire: Wire, host: str, end: float) -> None:
        """Greets the server by TLS.

        A server that waits for a line of text answers nothing to that. If no answer comes for long, it is asked so.
        """
        loop = asyncio.get_running_loop()
        try:
            context = self.settings.tls()
        except (OSError, ValueError) as error:
            raise opening.unusable(error) from error
        # asyncio's own timeout comes second, since it does not say what took so long.
        greeting = asyncio.ensure_future(
            loop.create_connection(
                lambda: wire,
                sock=sock,
                ssl=context,
                server_hostname=host,
                ssl_handshake_timeout=end - loop.time() + 1.0,
            )
        )
        try:
            done, _ = await asyncio.wait([greeting], timeout=min(SUSPICIOUS, (end - loop.time()) / 2))
            if not done and await _speaks_plain(sock.family, peer):
                raise opening.plain()
            await greeting
        finally:
            # A socket that is closed under a transport takes the place of a newer one with its number in the selector.
            if not greeting.done():
                greeting.cancel()
                await asyncio.wait([greeting])
            if not greeting.cancelled():
                greeting.exception()  # it may have failed while the port was asked: the loop would complain
        opening.greeted = True

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor; negative: there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def wire(self) -> Wire:
        """What is said over the connection. It must be open."""
        assert self._wire is not None
        return self._wire

    @property
    def usable(self) -> bool:
        """Whether the server has neither closed the connection nor sent what nobody asked for."""
        return self.wire.usable and not self.wire.pending

    async def listen(self, command: Command, heard: Callable[[Any], None]) -> None:
        """Sends a command, and from then on hands over what the server says, for as long as the connection lasts.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
        """
        await self.wire.listen(command, heard)

    def keep_alive(self) -> None:
        """Lets the system notice when the other end is gone, on a connection that mostly waits."""
        keep_alive(self.wire.socket)

    def interrupt(self) -> None:
        """Ends a `listen`."""
        self.wire.abort()

    async def close(self) -> None:
        """Closes the connection. Nothing is awaited that could hang, and nothing more of a request is sent."""
        if self._wire is not None:
            self._wire.abort()
        release, self.release = self.release, None
        if release is not None:
            release()


async def _look_up(opening: Opening, host: str, port: int, family: int, end: float) -> list[Any]:
    """Returns the addresses of a host: family and address of each."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_STREAM
    with contextlib.suppress(socket.gaierror):
        # An address in digits needs no thread.
        found = socket.getaddrinfo(host, port, family=family, type=kind, flags=socket.AI_NUMERICHOST)
        return [(each[0], each[4]) for each in found]
    while True:
        try:
            found = await loop.getaddrinfo(host, port, family=family, type=kind)
            return [(each[0], each[4]) for each in found]
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or end - loop.time() < 2 * LOOK_AGAIN:
                raise
            opening.trouble = error
        await asyncio.sleep(LOOK_AGAIN)


async def _speaks_plain(family: int, address: Any) -> bool:
    """Tells whether a Redis server without TLS answers at an address."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(SUSPICIOUS):
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, b"PING\r\n")
            return speaks_plain(await loop.sock_recv(sock, 64))
    return False


async def _hear_alert(settings: ConnectionSettings, family: int, address: Any, host: str) -> None:
    """Greets a server once more and says nothing. A server that refuses the client says why after the greeting.

    What is said to it meanwhile resets the connection, and the reason may be lost.

    Raises:
        ssl.SSLError: The reason.
    """
    loop = asyncio.get_running_loop()
    context = settings.tls()
    silent = (ssl.SSLEOFError, ConnectionError, TimeoutError)
    with contextlib.suppress(*silent), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(SUSPICIOUS):
            await loop.sock_connect(sock, address)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()


async def _speaks_tls(family: int, address: Any) -> bool:
    """Tells whether a server answers at an address that speaks TLS."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(SUSPICIOUS):
            await loop.sock_connect(sock, address)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock, ssl=probing(), server_hostname="")
            transport.abort()
            return True
    return False


class _Job:
    """A write that waits to be sent."""

    __slots__ = ("answer", "commands", "state", "timeout")

    def __init__(self, commands: Sequence[Command], timeout: float, state: Sent) -> None:
        self.commands = commands
        self.timeout = timeout
        self.state = state
        self.answer: asyncio.Future[tuple[list[Any], Any]] = asyncio.get_running_loop().create_future()


class GroupCommit:
    """Sends writes and the WAIT that covers them over one connection, many writes to a WAIT.

    WAIT counts what was written on its own connection, and blocks whatever is behind it. So there is
    one dedicated connection, never more than one WAIT in flight on it, and what arrives meanwhile
    shares the next one.

    Attributes:
        latest: The connection that is being opened, or could not be opened; None: the latest one was opened.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._queue: list[_Job] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.latest: Connection | None = None

    async def exchange(
        self, commands: Sequence[Command], wait: Command, timeout: float, patience: float, state: Sent
    ) -> tuple[list[Any], Any]:
        """Returns the replies to `commands`, and the reply to `wait` or the error that came instead.

        A caller that is cancelled, or out of time, leaves at once: what it has not sent is never sent, and
        what it has sent goes on, with its neighbours.

        Args:
            commands: The writes.
            wait: What waits for them.
            timeout: Seconds for the answers to the writes.
            patience: Seconds more for the answer to `wait`.
            state: Is told when a byte may have left.
        """
        job = _Job(commands, timeout, state)
        self._queue.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(wait, patience), name="histstore-group-commit")
        try:
            async with asyncio.timeout(timeout + patience):
                return await job.answer
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {timeout + patience:.3g} s") from None
        finally:
            job.answer.cancel()
            if job in self._queue:
                self._queue.remove(job)

    async def _drain(self, wait: Command, patience: float) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            try:
                await self._commit(batch, wait, patience)
            except BaseException as error:
                await self._drop()
                for job in batch:
                    if not job.answer.done():
                        fault = error if isinstance(error, Exception) else redis_errors.ConnectionError("closed")
                        job.answer.set_exception(fault)
                if not isinstance(error, Exception):
                    raise

    async def _commit(self, batch: Sequence[_Job], wait: Command, patience: float) -> None:
        timeout = max(job.timeout for job in batch)
        connection = await self._connected(timeout)
        # Whoever left while the connection was being opened was told that nothing was sent.
        batch = [job for job in batch if not job.answer.done()]
        for job in batch:
            job.state.sent = True
        if not batch:
            return
        commands = [command for job in batch for command in job.commands]
        replies = await connection.wire.ask(commands, monotonic() + timeout, Sent())
        acked: Any
        try:
            (acked,) = await connection.wire.ask([wait], monotonic() + timeout + patience, Sent())
        except redis_errors.RedisError as error:
            # The writes are answered for; only who else has them is not known.
            await self._drop()
            acked = error
        at = 0
        for job in batch:
            if not job.answer.done():
                job.answer.set_result((replies[at : at + len(job.commands)], acked))
            at += len(job.commands)

    async def _connected(self, timeout: float) -> Connection:
        kept = self._connection
        if kept is not None and kept.usable and kept.settings is self._settings:
            return kept
        await self._drop()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        connection = self.latest = Connection(self._settings)
        await connection.open(timeout)
        self.latest, self._connection = None, connection
        return connection

    async def drop(self) -> None:
        """Closes the connection as soon as what is being sent is answered; the next write opens another."""
        self._settings = replace(self._settings)
        if self._task is None or self._task.done():
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def close(self) -> None:
        """Waits for what is being sent, then closes the connection."""
        self._closed = True
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        await self._drop()
