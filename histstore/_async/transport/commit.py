"""Group commit: many durable writes share one WAIT."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from ..compat.io import monotonic
from .connection import Connection


class _Job:
    """A write that waits to be sent."""

    __slots__ = ("answer", "commands", "state", "timeout")

    def __init__(self, commands: Sequence[Command], timeout: float, state: SendState) -> None:
        self.commands = commands
        self.timeout = timeout
        self.state = state
        self.answer: asyncio.Future[tuple[list[Any], Any]] = asyncio.get_running_loop().create_future()


class GroupCommit:
    """Sends writes, and the WAIT that covers them, over one connection of its own.

    WAIT counts only what was written on its own connection, and it blocks every command behind it. So at most one WAIT
    is in flight on this connection. Writes that arrive meanwhile share the next WAIT.

    Attributes:
        latest: The connection that is being opened or could not be opened, or None if the latest one was opened.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._queue: list[_Job] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.latest: Connection | None = None

    async def exchange(
        self, commands: Sequence[Command], wait: Command, timeout: float, patience: float, state: SendState
    ) -> tuple[list[Any], Any]:
        """Return the replies to `commands`, and the reply to `wait` or the error that came in its place.

        A caller that is cancelled, or out of time, returns at once. A write that was not sent by then is never sent. A
        write that was sent continues with its neighbours.

        `Transport.commit` describes the arguments; `timeout` is that of the replies to the writes, in seconds. In all,
        it takes `timeout` and twice `patience` at most: the WAIT of the batch before may last as long as its own.
        """
        most = timeout + 2 * patience
        job = _Job(commands, timeout, state)
        self._queue.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_queue(wait, patience), name="histstore-group-commit")
        try:
            async with asyncio.timeout(most):
                return await job.answer
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {most:.3g} s") from None
        finally:
            job.answer.cancel()
            if job in self._queue:
                self._queue.remove(job)

    async def _send_queue(self, wait: Command, patience: float) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            try:
                await self._commit(batch, wait, patience)
            except BaseException as error:
                await self._disconnect()
                for job in batch:
                    if not job.answer.done():
                        fault = error if isinstance(error, Exception) else redis_errors.ConnectionError("closed")
                        job.answer.set_exception(fault)
                if not isinstance(error, Exception):
                    raise

    async def _commit(self, batch: Sequence[_Job], wait: Command, patience: float) -> None:
        timeout = max(job.timeout for job in batch)
        connection = await self._connect(timeout)
        # A caller that left while the connection was being opened has reported that nothing was sent.
        batch = [job for job in batch if not job.answer.done()]
        for job in batch:
            job.state.sent = True
        if not batch:
            return
        commands = [command for job in batch for command in job.commands]
        replies = await connection.wire.ask(commands, monotonic() + timeout, SendState())
        acked: Any
        try:
            (acked,) = await connection.wire.ask([wait], monotonic() + timeout + patience, SendState())
        except redis_errors.RedisError as error:
            # The writes are answered. Only the number of copies is unknown.
            await self._disconnect()
            acked = error
        at = 0
        for job in batch:
            if not job.answer.done():
                job.answer.set_result((replies[at : at + len(job.commands)], acked))
            at += len(job.commands)

    async def _connect(self, timeout: float) -> Connection:
        kept = self._connection
        if kept is not None and kept.usable and kept.settings is self._settings:
            return kept
        await self._disconnect()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        connection = self.latest = Connection(self._settings)
        await connection.open(timeout)
        self.latest, self._connection = None, connection
        return connection

    async def drop(self) -> None:
        """Close the connection after the current batch is answered. The next write opens another one."""
        self._settings = replace(self._settings)
        if self._task is None or self._task.done():
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def close(self) -> None:
        """Wait for the current batch, then close the connection."""
        self._closed = True
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        await self._disconnect()
