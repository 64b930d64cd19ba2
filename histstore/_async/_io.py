"""The asyncio half of what the two shells do differently: sockets, tasks, locks, pauses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import hiredis
import redis.asyncio as redis
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry as Retry
from tenacity import AsyncRetrying

from .._protocol import Command
from .._settings import ConnectionSettings, check_handshake, keep_alive
from ..errors import BackendError

T = TypeVar("T")

Lock = asyncio.Lock
Retrying = AsyncRetrying
READ_SIZE: Final = 1 << 16

HANDSHAKE_TIMEOUT: Final = None
"""Seconds for a socket operation of redis-py's handshake. asyncio bounds the whole of it instead."""

Client = redis.Redis
ClusterClient = redis.RedisCluster
ConnectionPool = redis.ConnectionPool


def monotonic() -> float:
    """Returns the loop's clock, in seconds."""
    return asyncio.get_running_loop().time()


async def sleep(seconds: float) -> None:
    """Pauses the task."""
    await asyncio.sleep(seconds)


class Held:
    """Holds a lock that became free within `timeout` seconds. A class, because every call goes through one.

    Raises:
        Exception: It did not; an error of the given class and text.
    """

    __slots__ = ("_error", "_lock", "_text", "_timeout")

    def __init__(self, lock: asyncio.Lock, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        self._error = error
        self._lock = lock
        self._timeout = timeout
        self._text = text

    async def __aenter__(self) -> None:
        if not self._lock.locked():
            await self._lock.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire()
        except TimeoutError:
            raise self._error(self._text) from None

    async def __aexit__(self, *_error: object) -> None:
        self._lock.release()


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


def owner() -> tuple[int, Any]:
    """Returns what connections belong to: this process, and its running loop."""
    return os.getpid(), asyncio.get_running_loop()


class Sent:
    """Whether a byte of a request may have left."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


class Connection:
    """One connection: opened by redis-py, then spoken over directly.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and it
    retries. Packing and parsing are hiredis'.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._inner = settings.make()
        self._replies = hiredis.Reader(replyError=redis_errors.ResponseError)

    async def open(self, timeout: float) -> None:
        """Connects, authenticates and selects the database, within `timeout` seconds."""
        try:
            async with asyncio.timeout(min(timeout, self._settings.connect_timeout)):
                await self._inner.connect()
                provider = self._inner.credential_provider
                credentials = await provider.get_credentials_async() if provider is not None else None
                commands = self._settings.handshake(self._inner, credentials)
                if commands:
                    check_handshake(await self.exchange(commands, timeout, Sent()))
        except TimeoutError:
            raise redis_errors.TimeoutError("no connection in time") from None

    @property
    def usable(self) -> bool:
        """Whether the server has neither closed the connection nor sent what nobody asked for."""
        reader = self._inner._reader
        return reader is not None and not reader.at_eof() and reader.exception() is None and not reader._buffer

    async def exchange(self, commands: Sequence[Command], timeout: float, state: Sent) -> list[Any]:
        """Sends commands and returns their replies; an error reply is returned, not raised.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
            redis.exceptions.TimeoutError: No full answer within `timeout` seconds.
        """
        reader, writer, replies = self._inner._reader, self._inner._writer, self._replies
        payload = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        found: list[Any] = []
        try:
            async with asyncio.timeout(timeout):
                state.sent = True
                writer.write(payload)
                await writer.drain()
                while len(found) < len(commands):
                    data = await reader.read(READ_SIZE)
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

    async def listen(self, command: Command, heard: Callable[[Any], None]) -> None:
        """Sends a command, and from then on hands over what the server says, for as long as the connection lasts.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
        """
        transport = self._inner._writer.transport
        listener = _Listener(transport.get_protocol(), self._replies, heard)
        transport.set_protocol(listener)
        transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        await listener.lost

    def keep_alive(self) -> None:
        """Lets the system notice when the other end is gone, on a connection that mostly waits."""
        keep_alive(self._inner._writer.get_extra_info("socket"))

    async def close(self) -> None:
        """Closes the connection. Nothing is awaited that could hang."""
        await self._inner.disconnect(nowait=True)


class _Listener(asyncio.Protocol):
    """Hands over messages as they arrive: through a stream and a task they would come two turns of the loop later."""

    def __init__(self, former: asyncio.BaseProtocol, replies: hiredis.Reader, heard: Callable[[Any], None]) -> None:
        self._former = former
        self._replies = replies
        self._heard = heard
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Hands over the messages that are complete."""
        try:
            self._replies.feed(data)
            while (message := self._replies.gets()) is not False:
                self._heard(message)
        except hiredis.ProtocolError as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Ends the listening."""
        self._former.connection_lost(error)
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_exception(redis_errors.ConnectionError(f"the connection broke: {error or 'it was closed'}"))


class Pool:
    """Connections to one server: at most so many, idle ones reused, last in first out."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(settings.max_connections)
        self.busy = 0
        self._closed = False

    @property
    def idle(self) -> int:
        """How many connections wait to be used."""
        return len(self._idle)

    def connection(self, timeout: float) -> Lent:
        """Lends a connection. It is closed unless the body leaves cleanly: its replies may be pending.

        Raises:
            redis.exceptions.RedisError: None could be opened; nothing was sent.
        """
        return Lent(self, timeout)

    async def borrow(self, timeout: float) -> Connection:
        """Returns a connection, to be given back."""
        end = monotonic() + timeout
        if self._slots.locked():
            try:
                async with asyncio.timeout(timeout):
                    await self._slots.acquire()
            except TimeoutError:
                raise redis_errors.TimeoutError("all connections are in use: raise max_connections") from None
        else:
            await self._slots.acquire()
        self.busy += 1
        try:
            return await self._get(max(0.001, end - monotonic()))
        except BaseException:
            self.busy -= 1
            self._slots.release()
            raise

    async def give_back(self, connection: Connection, clean: bool) -> None:
        """Takes a connection back."""
        self.busy -= 1
        self._slots.release()
        if clean and not self._closed:
            self._idle.append(connection)
        else:
            await connection.close()

    async def _get(self, timeout: float) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            await connection.close()
        connection = Connection(self.settings)
        try:
            await connection.open(timeout)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Closes the idle connections now, and those in use when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()


class Lent:
    """A connection while it is lent. A class, because every call goes through one."""

    __slots__ = ("_connection", "_pool", "_timeout")

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.borrow(self._timeout)
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        await self._pool.give_back(self._connection, kind is None)


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
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._queue: list[_Job] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

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
                        job.answer.set_exception(error if isinstance(error, Exception) else BackendError("closed"))
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
        replies = await connection.exchange([command for job in batch for command in job.commands], timeout, Sent())
        acked: Any
        try:
            (acked,) = await connection.exchange([wait], timeout + patience, Sent())
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
        if self._connection is not None and self._connection.usable:
            return self._connection
        await self._drop()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        connection = Connection(self._settings)
        try:
            await connection.open(timeout)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

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
