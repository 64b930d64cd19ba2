"""Which connection a request goes over: small ones share a few, and large ones have one to themselves."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.requests import Command
from ...wire.settings import ConnectionSettings
from ..compat.io import Connection, Sent, monotonic
from .wire import answered

LINES: Final = 4
"""Connections that are shared, at most. One is enough as long as its answers come."""
DEPTH: Final = 512
"""Requests that may wait for their answers on a shared connection."""
WEIGHT: Final = 1 << 20
"""Bytes of requests that may wait for their answers on a shared connection."""
SLOW: Final = 0.05
"""Seconds after which an answer that has not come may hold up what is asked next over the same connection."""


class _Place:
    """What waits for room on a shared connection."""

    __slots__ = ("answer", "commands", "end", "state")

    def __init__(self, commands: Sequence[Command], end: float, state: Sent, answer: asyncio.Future[Any]) -> None:
        self.commands = commands
        self.end = end
        self.state = state
        self.answer = answer


class Connections:
    """Sends requests to one server, over `max_connections` connections at most.

    Auto-pipelining: what is asked while other answers are awaited shares a connection with them, and what is asked in
    one turn of the event loop shares a write. An answer that takes long holds up what was asked behind it, but not
    what is asked later: that goes over another connection. Where all are full, callers wait, first come first served.

    A shared connection whose answers are overdue is replaced at once. It is closed when nobody waits for it any more.
    Until then it takes the place of one that is not shared; if all of those are in use, it is closed at once.

    Attributes:
        latest: A connection that is being opened, or the latest that could not be; None: the latest one was opened.

    Args:
        settings: How to connect.
        reserved: Connections of the limit that are opened elsewhere.
    """

    def __init__(self, settings: ConnectionSettings, reserved: int = 0) -> None:
        self._settings = settings
        most = settings.max_connections - reserved
        # A single connection cannot be both shared and kept for one caller's large request.
        self._limit = min(LINES, most // 2)
        self._pool = _Pool(self, settings, most - self._limit)
        self._lines: list[Connection] = []
        self._retired: set[Connection] = set()
        self.latest: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._refused = False
        # Ordered, and anyone of many can leave at once.
        self._waiting: OrderedDict[_Place, None] = OrderedDict()
        self._closed = False

    @property
    def count(self) -> tuple[int, int]:
        """Connections in use, and idle ones."""
        # What only waits to be thrown away keeps nobody waiting.
        busy = sum(any(not request.answer.done() for request in line.wire.pending) for line in self._lines)
        return self._pool.busy + busy, self._pool.idle + len(self._lines) - busy

    async def exchange(self, commands: Sequence[Command], end: float, state: Sent, large: bool = False) -> list[Any]:
        """Sends commands and returns their replies; an error reply is returned, not raised.

        A caller that is cancelled disturbs no other's request.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Is told when a byte may have left.
            large: Whether the request or its answer may be large: it has a connection to itself.

        Raises:
            redis.exceptions.RedisError: There is no connection, it broke, or no full answer came in time.
        """
        if self._limit == 0 or (large and self._pool.left):
            return await self._pool.exchange(commands, end, state)
        line = None if self._waiting else self._free()
        if line is None:
            return answered(await self._in_turn(commands, end, state))
        return answered(await line.wire.send(commands, end, state))

    # --------------------------------------------------------------------------- shared connections

    def _free(self) -> Connection | None:
        """Returns a shared connection that has room, and whose answers come."""
        for line in self._lines:
            pending = line.wire.pending
            if (not pending or pending[0].began > monotonic() - SLOW) and _has_room(line):
                return line
        if len(self._lines) < self._limit and not self._refused:
            return None  # rather over another one
        slow = [line for line in self._lines if _has_room(line)]
        return min(slow, key=lambda line: len(line.wire.pending), default=None)

    async def _in_turn(self, commands: Sequence[Command], end: float, state: Sent) -> Any:
        """Sends commands when there is room, and returns what they were answered with."""
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        loop = asyncio.get_running_loop()
        place = _Place(commands, end, state, loop.create_future())
        self._waiting[place] = None
        self._open_another()
        timer = loop.call_at(end, self._give_up, place)
        try:
            return await place.answer
        finally:
            timer.cancel()
            self._waiting.pop(place, None)

    def _give_up(self, place: _Place) -> None:
        # Who was let in meanwhile waits for an answer, and is told by the connection that none came.
        if place in self._waiting and not place.answer.done():
            place.answer.set_result(redis_errors.TimeoutError("no connection had room in time"))

    def _let_in(self) -> None:
        """Sends what waits, for as long as there is room. In one go, so that it shares a write."""
        while self._waiting:
            line = self._free()
            if line is None:
                if not self._refused:
                    self._open_another()
                return
            place, _ = self._waiting.popitem(last=False)
            if place.answer.done():
                continue
            try:
                line.wire.send(place.commands, place.end, place.state, place.answer)
            except Exception as error:  # it cannot be packed, say: that concerns nobody else
                place.answer.set_result(error)

    def _turn_away(self, error: Exception) -> None:
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.answer.done():
                place.answer.set_result(_another(error))

    def _open_another(self) -> None:
        if self._opening is None and len(self._lines) < self._limit and not self._closed:
            opening = self.open(self._settings, self._settings.connect_timeout)
            self._opening = asyncio.create_task(opening, name="histstore-connect")
            self._opening.add_done_callback(self._opened)

    async def open(self, settings: ConnectionSettings, timeout: float) -> Connection:
        """Opens a connection within `timeout` seconds."""
        connection = Connection(settings)
        before = self.latest
        if before is None:
            before = self.latest = connection
        try:
            await connection.open(timeout)
        except redis_errors.TimeoutError as error:
            told = connection.opening.told_by(before.opening, error)
            if told is error:
                self.latest = connection
            raise told from None
        except BaseException:
            self.latest = connection
            raise
        self.latest = None
        return connection

    async def lend(self, end: float) -> Connection:
        """Returns a connection of the caller's own, which is not open yet. It has room for it until it is closed."""
        return await self._pool.lend(end)

    def _opened(self, opening: asyncio.Task[Connection]) -> None:
        """Shares a connection that was opened. If it was not, and there is no other, that is told to all who wait."""
        self._opening = None
        error: BaseException | None = redis_errors.ConnectionError("the connection was given up")
        if not opening.cancelled():
            error = opening.exception()
        if error is None:
            line = opening.result()
            if self._closed:
                line.wire.abort()
            elif line.settings is not self._settings:
                # It leads to where the connections led that were dropped meanwhile. Whoever waits opens another.
                line.wire.abort()
                self._let_in()
                return
            elif line.wire.broken:  # while nobody was told of it
                error = redis_errors.ConnectionError("the connection broke")
            else:
                line.wire.moved = lambda: self._moved(line)
                self._lines.append(line)
        if error is not None:
            self._refused = True
            if not self._lines:
                self._turn_away(error if isinstance(error, Exception) else redis_errors.ConnectionError(str(error)))
        self._let_in()

    def _moved(self, line: Connection) -> None:
        """Answers have come over a shared connection, or it is lost, or one is overdue."""
        wire = line.wire
        if wire.broken or wire.retired:
            if line in self._lines:
                self._lines.remove(line)
            # Others may still be answered.
            if not wire.broken and all(request.answer.done() for request in wire.pending):
                wire.abort()
            elif not wire.broken and line not in self._retired:
                if self._pool.borrow():
                    self._retired.add(line)
                else:
                    wire.abort()
            if wire.broken and line in self._retired:
                self._retired.remove(line)
                self._pool.give_back()
        else:
            self._refused = False
        if self._waiting:
            self._open_another()
            self._let_in()

    async def drop(self) -> None:
        """Closes all connections, each when what was asked over it is answered. Others are opened when needed."""
        self._settings = replace(self._settings)
        self._retire()
        await self._pool.drop()

    def _retire(self) -> None:
        for line in list(self._lines):
            line.wire.retired = True
            self._moved(line)

    async def close(self) -> None:
        """Closes the idle connections now, and those in use when they are not any more."""
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
        self._turn_away(redis_errors.ConnectionError("the backend is closed"))
        self._retire()
        await self._pool.close()
        if opening is not None:
            await asyncio.wait([opening])


def _has_room(line: Connection) -> bool:
    wire = line.wire
    return wire.usable and len(wire.pending) < DEPTH and wire.load < WEIGHT


def _another(error: Exception) -> Exception:
    """Returns an error like `error`, for a caller of its own: each is raised elsewhere, and collects a traceback."""
    try:
        return copy.copy(error)
    except Exception:  # a class of somebody else's, whose constructor wants more than its arguments
        return error


class _Slots:
    """Room for connections; who asked first gets it first.

    Attributes:
        free: How much there is.
    """

    __slots__ = ("_waiting", "free")

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes room for one if there is some that nobody waits for."""
        if self.free == 0:
            return False
        self.free -= 1
        return True

    async def acquire(self, end: float) -> None:
        """Takes room for one, and waits for it until `end`."""
        if self.take():
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(end):
                await place  # whoever gives room back hands it over
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.release()
            if isinstance(error, TimeoutError):
                raise redis_errors.TimeoutError("all connections are in use: raise max_connections") from None
            raise

    def release(self) -> None:
        """Gives room back."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.free += 1


class _Pool:
    """Connections that are lent to one caller at a time; idle ones are reused, last in first out.

    Attributes:
        left: Connections that it has for requests: all but those that are lent, or about to be.
        busy: Connections that are in use.
    """

    def __init__(self, owner: Connections, settings: ConnectionSettings, limit: int) -> None:
        self._owner = owner
        self._settings = settings
        self._idle: list[Connection] = []
        # Each of those in use, lent or borrowed takes room. Idle ones do not, and are never more than there is room.
        self._slots = _Slots(limit)
        self._closed = False
        self.left = limit
        self.busy = 0

    @property
    def idle(self) -> int:
        """How many connections wait to be used."""
        return len(self._idle)

    async def exchange(self, commands: Sequence[Command], end: float, state: Sent) -> list[Any]:
        """Sends commands over a connection of their own. It is closed unless all goes well: replies may be pending."""
        if not self._slots.take():
            await self._slots.acquire(end)
        self.busy += 1
        connection = None
        try:
            connection = await self._get(max(0.001, end - monotonic()))
            found = await connection.wire.ask(commands, end, state)
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        finally:
            self.busy -= 1
            self._slots.release()
        if self._closed or connection.settings is not self._settings:
            await connection.close()
        else:
            self._idle.append(connection)
        return found

    async def _get(self, timeout: float) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            await connection.close()
        if self._closed:
            raise redis_errors.ConnectionError("the backend is closed")
        return await self._owner.open(self._settings, timeout)

    async def lend(self, end: float) -> Connection:
        """Returns a connection that is not open yet, with room for it until it is closed."""
        self.left -= 1
        try:
            await self._slots.acquire(end)
        except BaseException:
            self.left += 1
            raise
        self._shrink()
        connection = Connection(self._settings)
        connection.release = self._returned
        return connection

    def _returned(self) -> None:
        self.left += 1
        self._slots.release()

    def borrow(self) -> bool:
        """Takes the room of a connection, if there is some."""
        found = self._slots.take()
        if found:
            self._shrink()
        return found

    def give_back(self) -> None:
        """Gives it back."""
        self._slots.release()

    def _shrink(self) -> None:
        while len(self._idle) > self._slots.free:
            self._idle.pop(0).wire.abort()

    async def drop(self) -> None:
        """Closes the idle connections now, and those in use when they come back."""
        self._settings = replace(self._settings)
        while self._idle:
            await self._idle.pop().close()

    async def close(self) -> None:
        """Does the same, for good."""
        self._closed = True
        await self.drop()
