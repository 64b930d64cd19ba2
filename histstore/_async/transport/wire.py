"""Requests and replies over one asyncio connection: replies come back in the order of the requests."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from ...protocol.call import Command
from ...wire.opening import refusal
from ...wire.resp import Replies, pack
from ...wire.sending import SendState

FLUSH_SIZE: Final = 1 << 16
"""Bytes of unsent requests that are written at once: the server works on them while others are being packed."""


class _Request:
    """A request that waits for its replies, or to be sent first.

    An error is a result of `answer` and not its exception: if the caller is cancelled just then, nobody would retrieve
    an exception. A caller that leaves cancels `answer`. A request that was not sent by then is never sent, and the
    replies to one that was sent are discarded.
    """

    __slots__ = ("answer", "began", "count", "end", "payload", "replies", "state")

    def __init__(
        self, payload: bytes, count: int, began: float, end: float, state: SendState, answer: asyncio.Future[Any]
    ) -> None:
        self.payload = payload
        self.count = count
        self.began = began
        self.end = end
        self.state = state
        self.answer = answer
        self.replies: list[Any] = []


def replies_of(result: Any) -> list[Any]:
    """Return the replies that a request's `answer` holds, or raise the error that it holds."""
    if type(result) is list:
        return result
    raise result


class Wire(asyncio.Protocol):
    """Speaks RESP over one connection.

    It is the asyncio transport's protocol from the beginning, so that no other protocol receives a byte.

    A request is written at once if no other waits for its reply. Otherwise it shares a write with the other requests of
    the same event-loop iteration; `FLUSH_SIZE` bytes are written sooner.

    Attributes:
        pending: Requests without a complete answer, oldest first. Some may not be sent yet.
        load: Bytes of the pending requests.
        retired: Whether a reply is overdue. New requests should use another connection.
        broken: Whether the connection is gone.
        clock: The loop's clock, in seconds.
        on_change: Called when there may be more room: replies have come, the server reads again, or callers have left.
            Also called when the connection is retired or broken.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.clock: Callable[[], float] = loop.time
        self._parser = Replies()
        self._unsent: list[_Request] = []
        self._unsent_size = 0
        self._flush_scheduled = False
        self._paused = False
        self.broken = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_end = math.inf
        self._on_message: Callable[[Any], None] | None = None
        self._listening: asyncio.Future[None] | None = None
        self.pending: deque[_Request] = deque()
        self.load = 0
        self.retired = False
        self.on_change: Callable[[], None] | None = None
        self._reason = "the connection broke"
        self._refused = False
        self._cause: BaseException | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to use a transport."""
        self._transport = transport
        if self.broken:  # it was aborted meanwhile
            transport.abort()

    @property
    def socket(self) -> Any:
        """The transport's socket, for setting its options."""
        return self._transport.get_extra_info("socket")

    @property
    def usable(self) -> bool:
        """Whether a new request may be answered."""
        return not (self.broken or self.retired or self._paused or self._transport.is_closing())

    # --------------------------------------------------------------------------------------- requests

    async def ask(self, commands: Sequence[Command], end: float, state: SendState) -> list[Any]:
        """Send commands as `send` does, and return their replies. An error reply is returned, not raised.

        Cancelling the caller does not affect other requests.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
            redis.exceptions.TimeoutError: No complete answer came in time.
        """
        return replies_of(await self.send(commands, end, state))

    def send(
        self, commands: Sequence[Command], end: float, state: SendState, answer: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Send commands, now or with the next write.

        Args:
            commands: The commands.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.
            answer: The future to resolve, if a caller waits for one already.

        Returns:
            The future that gets the replies, or the error that came in their place: see `replies_of`.

        Raises:
            redis.exceptions.ConnectionError: The connection was already broken.
        """
        if self.broken:
            raise self._broken_error()
        payload = pack(commands)
        if answer is None:
            answer = self._loop.create_future()
        request = _Request(payload, len(commands), self.clock(), end, state, answer)
        lone = not self.pending
        self.pending.append(request)
        self.load += len(payload)
        if end < self._timer_end:
            self._set_timer(end)
        if lone:
            state.sent = True
            self._transport.write(payload)
        else:
            self._unsent.append(request)
            self._unsent_size += len(payload)
            if self._unsent_size >= FLUSH_SIZE:
                self._flush()
            elif not self._flush_scheduled:
                self._flush_scheduled = True
                self._loop.call_soon(self._flush_as_scheduled)
        return answer

    def _flush_as_scheduled(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_size = self._unsent, [], 0
        wanted = [request for request in unsent if not request.answer.done()]
        if len(wanted) != len(unsent):
            left = {id(request) for request in unsent} - {id(request) for request in wanted}
            self.load -= sum(len(request.payload) for request in unsent if id(request) in left)
            self.pending = deque(request for request in self.pending if id(request) not in left)
        # A closing transport discards what is written to it. So nothing was sent, and the requests fail with the
        # connection.
        if wanted and not self._transport.is_closing():
            for request in wanted:
                request.state.sent = True
            self._transport.write(b"".join([request.payload for request in wanted]))
        if len(wanted) != len(unsent) and self.on_change is not None:
            self.on_change()

    # ---------------------------------------------------------------------------------------- replies

    def data_received(self, data: bytes) -> None:
        """Give each reply to the oldest request that waits for one."""
        pending, on_message = self.pending, self._on_message
        complete: list[_Request] = []
        reply: Any = None
        try:
            for reply in self._parser.read(data):
                if on_message is not None:
                    on_message(reply)
                    continue
                request = pending[0]
                request.replies.append(reply)
                if len(request.replies) == request.count:
                    complete.append(request)
                    pending.popleft()
                    self.load -= len(request.payload)
        except (redis_errors.ConnectionError, IndexError) as error:
            # A peer that sends replies to no request is not trusted with the earlier replies either.
            pending.extendleft(reversed(complete))
            if not isinstance(error, IndexError):
                self._fail(str(error))
            elif not self._fail_if_refused(reply):
                self._fail("what answers there is no Redis server: more answers than requests")
            return
        for request in complete:
            if not request.answer.done():
                request.answer.set_result(request.replies)
        if self.on_change is not None:
            self.on_change()

    async def listen(self, command: Command, on_message: Callable[[Any], None]) -> None:
        """Send a command, and pass everything that comes to `on_message` until the connection is lost.

        Raises:
            redis.exceptions.ConnectionError: The connection broke.
        """
        self._listening = self._loop.create_future()
        self._on_message = on_message
        if self.broken:
            raise self._broken_error()
        self._transport.write(pack([command]))
        await self._listening

    # --------------------------------------------------------------------------------------- failures

    def _set_timer(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(end, self._expire)
        self._timer_end = end

    def _expire(self) -> None:
        """Fail the requests whose time is up. All share one timer, because nearly all are answered in time."""
        self._timer, self._timer_end = None, math.inf
        # The loop may fire a timer early, by its clock's resolution.
        now = self._loop.time() + 0.001
        for request in self.pending:
            if request.end <= now:
                # Also if its caller has left: a dead connection full of such requests must not be used again.
                self.retired = True
                if not request.answer.done():
                    within = request.end - request.began
                    request.answer.set_result(redis_errors.TimeoutError(f"no answer within {within:.3g} s"))
        left = [request.end for request in self.pending if request.end > now]
        if left:
            self._set_timer(min(left))
        if self.retired and self.on_change is not None:
            self.on_change()

    def pause_writing(self) -> None:
        """Stop accepting requests: the server reads more slowly than they come."""
        self._paused = True

    def resume_writing(self) -> None:
        """Accept requests again."""
        self._paused = False
        if self.on_change is not None:
            self.on_change()

    def eof_received(self) -> None:
        """Fail all requests: a server that has stopped sending does not read the rest of a request either."""
        self._fail("the server closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        """Fail all requests."""
        self._fail(f"the connection broke: {error}" if error is not None else "the server closed the connection", error)

    def abort(self) -> None:
        """Close the connection, and discard what was not sent yet."""
        if self._loop.is_closed():
            return  # nobody waits any more, and the next user of the backend closes the socket
        if hasattr(self, "_transport"):
            self._transport.abort()
        self._fail("the connection was closed")

    def _fail_if_refused(self, reply: Any = None) -> bool:
        """Fail all requests if the server refuses the connection. It has read no request in that case."""
        self._refused = refusal([reply]) is not None
        if self._refused:
            self._fail(str(reply))
        return self._refused

    def _broken_error(self) -> Exception:
        """Return the reason why the connection is gone. Each caller gets its own error, which collects a traceback."""
        error = (redis_errors.ResponseError if self._refused else redis_errors.ConnectionError)(self._reason)
        error.__cause__ = self._cause
        return error

    def _fail(self, reason: str, cause: BaseException | None = None) -> None:
        if self.broken:
            return
        # The refusal may have been counted as the first of several replies.
        if not self._refused and self.pending and self._fail_if_refused(*self.pending[0].replies[:1]):
            return
        self.broken = True
        self._reason, self._cause = reason, cause
        if hasattr(self, "_transport"):
            self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        pending, self.pending, self._unsent = self.pending, deque(), []
        self.load = 0
        for request in pending:
            if not request.answer.done():
                request.answer.set_result(self._broken_error())
        if self._listening is not None and not self._listening.done():
            self._listening.set_exception(self._broken_error())
        if self.on_change is not None:
            self.on_change()
