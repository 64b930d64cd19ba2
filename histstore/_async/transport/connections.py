"""The connections to one server: small requests share a few, and large requests have their own."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from .connection import Connection
from .opener import Opener
from .pool import Pool
from .wire import replies_of

MAX_SHARED: Final = 4
"""Limit of shared connections. One is enough as long as its replies come promptly."""
MAX_PENDING: Final = 512
"""Limit of unanswered requests on a shared connection."""
MAX_PENDING_BYTES: Final = 1 << 20
"""Limit of the bytes of unanswered requests on a shared connection."""
SLOW_AFTER: Final = 0.05
"""Age in seconds at which an unanswered request counts as slow; new requests then use another connection."""


class _Waiter:
    """A request that waits for room on a shared connection."""

    __slots__ = ("answer", "commands", "end", "state")

    def __init__(self, commands: Sequence[Command], end: float, state: SendState, answer: asyncio.Future[Any]) -> None:
        self.commands = commands
        self.end = end
        self.state = state
        self.answer = answer


class Connections:
    """Sends requests to one server, over `max_connections` connections at most.

    Requests are pipelined automatically. A request that comes while others wait for replies shares their connection,
    and requests of the same event-loop iteration share a write. A slow reply delays the requests behind it, but later
    requests use another connection. If all connections are full, callers wait, first come first served.

    A shared connection with an overdue reply is replaced at once. It is closed when nobody waits for it any more. Until
    then it takes the place of an unshared connection; if all of those are in use, it is closed at once.

    Attributes:
        opener: Opens the connections.

    Args:
        settings: How to connect.
        reserved: Number of connections within the limit that are opened elsewhere.
    """

    def __init__(self, settings: ConnectionSettings, reserved: int = 0) -> None:
        self._settings = settings
        limit = settings.max_connections - reserved
        # A single connection cannot be both shared and kept for one caller's large request.
        self._shared_limit = min(MAX_SHARED, limit // 2)
        self.opener = Opener()
        self._pool = Pool(settings, limit - self._shared_limit, self.opener)
        self._shared: list[Connection] = []
        self._retired: set[Connection] = set()
        self._opening: asyncio.Task[Connection] | None = None
        self._refused = False
        # An OrderedDict keeps the order, and any of many waiters can leave at once.
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._closed = False

    @property
    def count(self) -> tuple[int, int]:
        """The number of connections in use, and of idle ones."""
        # A request whose caller has left does not make a connection busy.
        busy = sum(any(not request.answer.done() for request in shared.wire.pending) for shared in self._shared)
        return self._pool.busy + busy, self._pool.idle + len(self._shared) - busy

    async def exchange(
        self, commands: Sequence[Command], end: float, state: SendState, large: bool = False
    ) -> list[Any]:
        """Send commands and return their replies. An error reply is returned, not raised.

        Cancelling the caller does not affect other requests: its replies are discarded when they arrive.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.
            large: Whether the request or its reply may be large. It then has a connection to itself.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no complete answer came in time.
        """
        if self._shared_limit == 0 or (large and self._pool.capacity):
            return await self._pool.exchange(commands, end, state)
        shared = None if self._waiters else self._choose()
        if shared is None:
            return replies_of(await self._wait_for_room(commands, end, state))
        return replies_of(await shared.wire.send(commands, end, state))

    # --------------------------------------------------------------------------- shared connections

    def _choose(self) -> Connection | None:
        """Return a shared connection that has room, preferably one whose replies come promptly."""
        for shared in self._shared:
            wire = shared.wire
            if (not wire.pending or wire.pending[0].began > wire.clock() - SLOW_AFTER) and _has_room(shared):
                return shared
        if len(self._shared) < self._shared_limit and not self._refused:
            return None  # another connection is better than a slow one
        slow = [shared for shared in self._shared if _has_room(shared)]
        return min(slow, key=lambda shared: len(shared.wire.pending), default=None)

    async def _wait_for_room(self, commands: Sequence[Command], end: float, state: SendState) -> Any:
        """Send commands as soon as there is room, and return their replies or an error."""
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        loop = asyncio.get_running_loop()
        waiter = _Waiter(commands, end, state, loop.create_future())
        self._waiters[waiter] = None
        self._open_another()
        timer = loop.call_at(end, self._time_out, waiter)
        try:
            return await waiter.answer
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    def _time_out(self, waiter: _Waiter) -> None:
        # A request that was sent meanwhile waits for its reply, and the connection ends that wait.
        if waiter in self._waiters and not waiter.answer.done():
            waiter.answer.set_result(redis_errors.TimeoutError("no connection had room in time"))

    def _serve_waiters(self) -> None:
        """Send waiting requests while there is room. One pass sends all of them, so that they share a write."""
        while self._waiters:
            shared = self._choose()
            if shared is None:
                if not self._refused:
                    self._open_another()
                return
            waiter, _ = self._waiters.popitem(last=False)
            if waiter.answer.done():
                continue
            try:
                shared.wire.send(waiter.commands, waiter.end, waiter.state, waiter.answer)
            except Exception as error:  # it cannot be packed, for example; the other requests are not affected
                waiter.answer.set_result(error)

    def _fail_waiters(self, error: Exception) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.answer.done():
                waiter.answer.set_result(_copied(error))

    def _open_another(self) -> None:
        if self._opening is None and len(self._shared) < self._shared_limit and not self._closed:
            opening = self.opener.open(self._settings, self._settings.connect_timeout)
            self._opening = asyncio.create_task(opening, name="histstore-connect")
            self._opening.add_done_callback(self._on_opened)

    async def lend(self, end: float) -> Connection:
        """Return a connection for the caller alone, not open yet. It keeps its place until it is closed."""
        return await self._pool.lend(end)

    def _on_opened(self, opening: asyncio.Task[Connection]) -> None:
        """Share a new connection. If it could not be opened and there is no other, fail all waiters."""
        self._opening = None
        error: BaseException | None = redis_errors.ConnectionError("the connection was given up")
        if not opening.cancelled():
            error = opening.exception()
        if error is None:
            shared = opening.result()
            if self._closed:
                shared.wire.abort()
            elif shared.settings is not self._settings:
                # All connections were dropped meanwhile, and this one may lead to the old server. Waiters open another.
                shared.wire.abort()
                if self._waiters:
                    self._open_another()
                return
            elif shared.wire.broken:  # before `on_change` was set
                error = redis_errors.ConnectionError("the connection broke")
            else:
                shared.wire.on_change = lambda: self._on_change(shared)
                self._shared.append(shared)
        if error is not None:
            self._refused = True
            if not self._shared:
                self._fail_waiters(error if isinstance(error, Exception) else redis_errors.ConnectionError(str(error)))
        self._serve_waiters()

    def _on_change(self, shared: Connection) -> None:
        """React to replies over a shared connection, to its loss, or to an overdue reply."""
        wire = shared.wire
        if wire.broken or wire.retired:
            if shared in self._shared:
                self._shared.remove(shared)
            # Other requests over it may still be answered.
            if not wire.broken and all(request.answer.done() for request in wire.pending):
                wire.abort()
            elif not wire.broken and shared not in self._retired:
                if self._pool.borrow_slot():
                    self._retired.add(shared)
                else:
                    wire.abort()
            if wire.broken and shared in self._retired:
                self._retired.remove(shared)
                self._pool.return_slot()
        else:
            self._refused = False
        if self._waiters:
            self._open_another()
            self._serve_waiters()

    async def drop(self) -> None:
        """Close all connections, each after its pending requests are answered. Others are opened when needed."""
        self._settings = replace(self._settings)
        self._retire_shared()
        await self._pool.drop()

    def _retire_shared(self) -> None:
        for shared in list(self._shared):
            shared.wire.retired = True
            self._on_change(shared)

    async def close(self) -> None:
        """Close the idle connections now, and the others when they are no longer in use."""
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
        self._fail_waiters(redis_errors.ConnectionError("the backend is closed"))
        self._retire_shared()
        await self._pool.close()
        if opening is not None:
            await asyncio.wait([opening])


def _has_room(shared: Connection) -> bool:
    wire = shared.wire
    return wire.usable and len(wire.pending) < MAX_PENDING and wire.load < MAX_PENDING_BYTES


def _copied(error: Exception) -> Exception:
    """Return a copy of an error for one caller: each raises its own, which collects a traceback."""
    try:
        return copy.copy(error)
    except Exception:  # a foreign class, whose constructor takes other arguments than its `args`
        return error
