"""Group commit: many durable writes share one WAIT."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from ..compat.io import Held, Lock, monotonic
from .connection import Connection


class _Job:
    """A write that waits to be sent by the thread that sends next.

    Attributes:
        token: Holds one token, the right to decide. The thread that takes it either sends the write or makes sure that
            nobody does.
        done: Whether the sending thread has recorded the outcome.
    """

    __slots__ = ("acked", "commands", "done", "error", "replies", "state", "timeout", "token")

    def __init__(self, commands: Sequence[Command], timeout: float, state: SendState) -> None:
        self.commands = commands
        self.timeout = timeout
        self.state = state
        self.done = False
        self.token: list[None] = [None]
        self.replies: list[Any] = []
        self.acked: Any = None
        self.error: Exception | None = None


class GroupCommit:
    """Sends writes, and the WAIT that covers them, over one connection of its own.

    WAIT counts only what was written on its own connection, and it blocks every command behind it. So at most one WAIT
    is in flight on this connection. Writes that arrive meanwhile share the next WAIT: the thread that gets the
    connection sends for all that wait.

    Attributes:
        latest: The connection that is being opened or could not be opened, or None if the latest one was opened.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._queue: deque[_Job] = deque()
        self._connection: Connection | None = None
        self._sending = Lock()
        self._closed = False
        self.latest: Connection | None = None

    def exchange(
        self, commands: Sequence[Command], wait: Command, timeout: float, patience: float, state: SendState
    ) -> tuple[list[Any], Any]:
        """Return the replies to `commands`, and the reply to `wait` or the error that came in its place.

        A caller that is interrupted, or out of time, returns at once. A write that was not sent by then is never sent.

        `Transport.commit` describes the arguments; `timeout` is that of the replies to the writes, in seconds. It waits
        `timeout` and twice `patience` at most for another thread to send its write: the WAIT of the batch before may
        last as long as its own.
        """
        most = timeout + 2 * patience
        job = _Job(commands, timeout, state)
        # True until it is certain that nobody sends the job: an interruption of this thread leaves it in the queue.
        state.sent = True
        try:
            self._queue.append(job)
            text = f"no answer within {most:.3g} s"
            with Held(self._sending, most, redis_errors.TimeoutError, text):
                if not job.done:
                    if not job.token:
                        raise redis_errors.ConnectionError("the thread that sent it was interrupted")
                    self._commit(wait, patience)
        finally:
            if job.token and _take(job.token):
                state.sent = False
            self._remove(job)
        if job.error is not None:
            raise job.error
        return job.replies, job.acked

    def _commit(self, wait: Command, patience: float) -> None:
        """Send all writes that wait. If this is interrupted, each caller finds its token taken and its job not done."""
        batch: list[_Job] = []
        for job in tuple(self._queue):
            if _take(job.token):
                batch.append(job)
            else:  # an interrupted thread left it behind
                self._remove(job)
        timeout = max(job.timeout for job in batch)
        connection: Connection | None = None
        try:
            connection = self._connect(timeout)
            commands = [command for job in batch for command in job.commands]
            replies = connection.exchange(commands, monotonic() + timeout, SendState())
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
            (acked,) = connection.exchange([wait], monotonic() + timeout + patience, SendState())
            self._connection = connection
        except (redis_errors.RedisError, OSError) as error:
            # The writes are answered. Only the number of copies is unknown.
            connection.close()
            acked = error
        at = 0
        for job in batch:
            job.replies = replies[at : at + len(job.commands)]
            job.acked = acked
            job.done = True
            at += len(job.commands)

    def _remove(self, job: _Job) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(job)

    def _connect(self, timeout: float) -> Connection:
        """Return a connection that nobody else uses meanwhile. One whose use was interrupted is never used again."""
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
        """Close the connection. During a write the next one does that, and opens another connection."""
        self._settings = replace(self._settings)
        with (
            contextlib.suppress(redis_errors.TimeoutError),
            Held(self._sending, 0, redis_errors.TimeoutError, "a write is being sent"),
        ):
            self._disconnect()

    def close(self) -> None:
        """Wait for the current batch, then close the connection."""
        self._closed = True
        with self._sending:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _take(token: list[None]) -> bool:
    """Take the one token out of a list, and return False if another thread has taken it."""
    try:
        token.pop()
    except IndexError:
        return False
    return True
