"""The asyncio half of what the two shells do differently: sockets, tasks, locks, pauses."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import redis.asyncio as redis
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry as Retry
from tenacity import AsyncRetrying

from .._protocol import Command
from .._settings import ConnectionSettings, check_handshake, keep_alive
from ._wire import Sent as Sent
from ._wire import Wire
from ._wire import monotonic as monotonic

T = TypeVar("T")

Retrying = AsyncRetrying

HANDSHAKE_TIMEOUT: Final = None
"""Seconds for a socket operation of redis-py's handshake. asyncio bounds the whole of it instead."""

Client = redis.Redis
ClusterClient = redis.RedisCluster
ConnectionPool = redis.ConnectionPool


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
    """A lock that goes to who asked first. Where it is free it is taken without a coroutine: every call takes one."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes the lock if it is free."""
        if self._held:
            return False
        self._held = True
        return True

    async def acquire(self) -> None:
        """Takes the lock, and waits for it if need be."""
        if self.take():
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place  # whoever releases the lock hands it over
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Gives the lock to the next who waits, or sets it free."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._held = False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_error: object) -> None:
        self.release()


class Held:
    """Holds a lock that became free within `timeout` seconds. A class, because every call goes through one.

    Raises:
        Exception: It did not; an error of the given class and text.
    """

    __slots__ = ("_error", "_lock", "_text", "_timeout")

    def __init__(self, lock: Lock, timeout: float, error: Callable[[str], Exception], text: str) -> None:
        self._error = error
        self._lock = lock
        self._timeout = timeout
        self._text = text

    def __aenter__(self) -> Awaitable[None]:
        return _NOW if self._lock.take() else self._wait()

    def __aexit__(self, *_error: object) -> Awaitable[None]:
        self._lock.release()
        return _NOW

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire()
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


def owner() -> tuple[int, Any]:
    """Returns what connections belong to: this process, and its running loop."""
    return os.getpid(), asyncio.get_running_loop()


class Connection:
    """One connection: opened by redis-py, then spoken over directly.

    redis-py's own read and write cannot tell a request that was not sent from one that was, and it
    retries. Packing and parsing are hiredis'. Requests may be sent while others wait for their answers.

    Attributes:
        settings: How it was opened. Whoever drops all connections makes a new copy, and so tells older ones.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._inner = settings.make()
        self._writer: Any = None
        self._wire: Wire | None = None

    async def open(self, timeout: float) -> None:
        """Connects, authenticates and selects the database, within `timeout` seconds. What fails is closed."""
        try:
            async with asyncio.timeout(min(timeout, self.settings.connect_timeout)):
                await self._open(timeout)
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise redis_errors.TimeoutError("no connection in time") from None
            raise

    async def _open(self, timeout: float) -> None:
        await self._inner.connect()
        unread, over = self._inner._reader._buffer, self._inner._reader.at_eof()
        # From here on redis-py's connection holds settings only. A writer that nobody holds closes its socket.
        self._writer, self._inner._reader, self._inner._writer = self._inner._writer, None, None
        self._wire = Wire(self._writer.transport)
        if unread:
            raise redis_errors.ConnectionError("what answers there is no Redis server")
        if over or self._writer.transport.is_closing():
            # redis-py's protocol was told, and the wire never will be.
            raise redis_errors.ConnectionError("the server closed the connection")
        provider = self._inner.credential_provider
        credentials = await provider.get_credentials_async() if provider is not None else None
        commands = self.settings.handshake(self._inner, credentials)
        if commands:
            check_handshake(await self._wire.ask(commands, monotonic() + timeout, Sent()))

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
        keep_alive(self._writer.get_extra_info("socket"))

    def interrupt(self) -> None:
        """Ends a `listen`."""
        self.wire.abort()

    async def close(self) -> None:
        """Closes the connection. Nothing is awaited that could hang, and nothing more of a request is sent."""
        if self._wire is not None:
            self._wire.abort()
        else:
            await self._inner.disconnect(nowait=True)


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
        connection = Connection(self._settings)
        await connection.open(timeout)
        self._connection = connection
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
