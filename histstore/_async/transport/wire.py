"""What is said over one connection: requests go out in turn, and their answers come back in the same order."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.requests import Command
from ...wire.opening import turned_away
from ...wire.resp import Replies, pack

TOGETHER: Final = 1 << 16
"""Bytes that are sent without waiting for more: the server works on them while their neighbours are made."""


def monotonic() -> float:
    """Returns the loop's clock, in seconds."""
    return asyncio.get_running_loop().time()


class Sent:
    """Whether a byte of a request may have left."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


class _Request:
    """What waits for its replies, or to be sent first.

    An error is a result of `answer`: nobody is left to take an exception where the caller is cancelled just then.
    A caller that leaves cancels it. What was not sent by then never is; the replies to what was are thrown away.
    """

    __slots__ = ("answer", "began", "count", "end", "found", "payload", "state")

    def __init__(
        self, payload: bytes, count: int, began: float, end: float, state: Sent, answer: asyncio.Future[Any]
    ) -> None:
        self.payload = payload
        self.count = count
        self.began = began
        self.end = end
        self.state = state
        self.answer = answer
        self.found: list[Any] = []


def answered(found: Any) -> list[Any]:
    """Returns the replies that a request was answered with, or raises the error that came in their place."""
    if type(found) is list:
        return found
    raise found


class Wire(asyncio.Protocol):
    """Speaks RESP. It is a transport's protocol from the beginning, so that no byte is heard by another one.

    A request goes out at once when none waits for an answer. Else it goes with its neighbours, in one write, when the
    loop has come round, or sooner when there is enough of them.

    Attributes:
        pending: Requests that are not answered yet, oldest first. Some may not be sent yet.
        load: Their bytes.
        retired: Whether an answer is overdue: what is asked next had better go elsewhere.
        broken: Whether the connection is gone.
        moved: Called when there may be more room: answers have come, the server reads on, or callers have left.
            And when the wire is retired or broken.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._replies = Replies()
        self._unsent: list[_Request] = []
        self._together = 0
        self._scheduled = False
        self._paused = False
        self.broken = False
        self._watch: asyncio.TimerHandle | None = None
        self._watched = math.inf
        self._heard: Callable[[Any], None] | None = None
        self._lost: asyncio.Future[None] | None = None
        self.pending: deque[_Request] = deque()
        self.load = 0
        self.retired = False
        self.moved: Callable[[], None] | None = None
        self._why = "the connection broke"
        self._refused = False
        self._cause: BaseException | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to speak over a transport."""
        self._transport = transport
        if self.broken:  # it was given up meanwhile
            transport.abort()

    @property
    def socket(self) -> Any:
        """The transport's socket, to set options of."""
        return self._transport.get_extra_info("socket")

    @property
    def usable(self) -> bool:
        """Whether what is asked now may be answered."""
        return not (self.broken or self.retired or self._paused or self._transport.is_closing())

    # ---------------------------------------------------------------------------------------- asking

    async def ask(self, commands: Sequence[Command], end: float, state: Sent) -> list[Any]:
        """Sends commands and returns their replies; an error reply is returned, not raised.

        A caller that is cancelled disturbs no other's request.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Is told when a byte may have left.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
            redis.exceptions.TimeoutError: No full answer in time.
        """
        return answered(await self.send(commands, end, state))

    def send(
        self, commands: Sequence[Command], end: float, state: Sent, answer: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Sends commands, now or with the next write.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Is told when a byte may have left.
            answer: What is told the replies, if somebody waits for it already.

        Returns:
            What is told the replies, or the error that came in their place: see `answered`.

        Raises:
            redis.exceptions.ConnectionError: The connection broke before.
        """
        if self.broken:
            raise self._gone()
        payload = pack(commands)
        loop = self._loop
        if answer is None:
            answer = loop.create_future()
        request = _Request(payload, len(commands), loop.time(), end, state, answer)
        lone = not self.pending
        self.pending.append(request)
        self.load += len(payload)
        if end < self._watched:
            self._watch_until(end)
        if lone:
            state.sent = True
            self._transport.write(payload)
        else:
            self._unsent.append(request)
            self._together += len(payload)
            if self._together >= TOGETHER:
                self._flush()
            elif not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._come_round)
        return answer

    def _come_round(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        unsent, self._unsent, self._together = self._unsent, [], 0
        wanted = [request for request in unsent if not request.answer.done()]
        if len(wanted) != len(unsent):
            left = {id(request) for request in unsent} - {id(request) for request in wanted}
            self.load -= sum(len(request.payload) for request in unsent if id(request) in left)
            self.pending = deque(request for request in self.pending if id(request) not in left)
        # What is written to a transport that closes is thrown away: it was not sent, and fails with the connection.
        if wanted and not self._transport.is_closing():
            for request in wanted:
                request.state.sent = True
            self._transport.write(b"".join([request.payload for request in wanted]))
        if len(wanted) != len(unsent) and self.moved is not None:
            self.moved()

    # --------------------------------------------------------------------------------------- hearing

    def data_received(self, data: bytes) -> None:
        """Gives each answer to the oldest request that waits for one."""
        pending, heard = self.pending, self._heard
        complete: list[_Request] = []
        reply: Any = None
        try:
            for reply in self._replies.read(data):
                if heard is not None:
                    heard(reply)
                    continue
                request = pending[0]
                request.found.append(reply)
                if len(request.found) == request.count:
                    complete.append(request)
                    pending.popleft()
                    self.load -= len(request.payload)
        except (redis_errors.ConnectionError, IndexError) as error:
            # Whoever answers what nobody asked has not complete what was asked either.
            pending.extendleft(reversed(complete))
            if not isinstance(error, IndexError):
                self._fail(str(error))
            elif not self._turned_away(reply):
                self._fail("what answers there is no Redis server: more answers than requests")
            return
        for request in complete:
            if not request.answer.done():
                request.answer.set_result(request.found)
        if self.moved is not None:
            self.moved()

    async def listen(self, command: Command, heard: Callable[[Any], None]) -> None:
        """Sends a command, and hands over what comes from then on, until the connection is lost.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
        """
        self._lost = self._loop.create_future()
        self._heard = heard
        if self.broken:
            raise self._gone()
        self._transport.write(pack([command]))
        await self._lost

    # ---------------------------------------------------------------------------------------- failing

    def _watch_until(self, when: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(when, self._expire)
        self._watched = when

    def _expire(self) -> None:
        """Ends the waiting that has lasted long enough. One timer for all, since nearly all are answered in time."""
        self._watch, self._watched = None, math.inf
        # The loop fires a timer up to its clock's resolution early.
        now = self._loop.time() + 0.001
        for request in self.pending:
            if request.end <= now:
                # Also if nobody waits for it any more: a dead connection that such requests fill is never asked again.
                self.retired = True
                if not request.answer.done():
                    within = request.end - request.began
                    request.answer.set_result(redis_errors.TimeoutError(f"no answer within {within:.3g} s"))
        left = [request.end for request in self.pending if request.end > now]
        if left:
            self._watch_until(min(left))
        if self.retired and self.moved is not None:
            self.moved()

    def pause_writing(self) -> None:
        """The server does not read as fast as it is written to."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        if self.moved is not None:
            self.moved()

    def eof_received(self) -> None:
        """Fails what waits for an answer: a server that says no more does not read what is still to be sent either."""
        self._fail("the server closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        """Fails what waits for an answer."""
        self._fail(f"the connection broke: {error}" if error is not None else "the server closed the connection", error)

    def abort(self) -> None:
        """Closes the connection without sending what is still to be sent."""
        if self._loop.is_closed():
            return  # nobody waits any more, and whoever uses the backend next closes the socket
        if hasattr(self, "_transport"):
            self._transport.abort()
        self._fail("the connection was closed")

    def _turned_away(self, reply: Any = None) -> bool:
        """Fails everything if the server says that it refuses the connection. It has read no request then."""
        self._refused = turned_away([reply]) is not None
        if self._refused:
            self._fail(str(reply))
        return self._refused

    def _gone(self) -> Exception:
        """Returns why the connection is gone. A new error for each caller, since each collects a traceback."""
        found = (redis_errors.ResponseError if self._refused else redis_errors.ConnectionError)(self._why)
        found.__cause__ = self._cause
        return found

    def _fail(self, text: str, cause: BaseException | None = None) -> None:
        if self.broken:
            return
        # The refusal may have been taken for the first of several answers.
        if not self._refused and self.pending and self._turned_away(*self.pending[0].found[:1]):
            return
        self.broken = True
        self._why, self._cause = text, cause
        if hasattr(self, "_transport"):
            self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        pending, self.pending, self._unsent = self.pending, deque(), []
        self.load = 0
        for request in pending:
            if not request.answer.done():
                request.answer.set_result(self._gone())
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(self._gone())
        if self.moved is not None:
            self.moved()
