"""A TCP proxy in the test process that loses, delays, cuts, keeps back and trickles what it carries."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import hiredis

LOSE_AFTER = 0.05
"""Seconds for the replies to the requests before one whose reply is lost."""


def requests_of(data: bytes) -> list[bytes]:
    """Returns the single commands of a write; all of it as one if it does not end with a command's end."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        start, end = at, data.find(b"\r\n", at)
        if data[at : at + 1] != b"*" or end < 0:
            return [data]
        parts, at = int(data[at + 1 : end]), end + 2
        for _ in range(parts):
            end = data.find(b"\r\n", at)
            if end < 0:
                return [data]
            at = end + 2 + int(data[at + 1 : end]) + 2
        if at > len(data):
            return [data]
        found.append(data[start:at])
    return found


class Proxy:
    """Stands between a client and a server. One lives in one event loop.

    Attributes:
        sent: Bytes that clients sent, in all.
        received: Bytes that the server sent, in all.
        requests: Chunks that clients sent; what a client writes at once arrives as one, small as it is here.
        trips: Round trips, of one client: requests that followed an answer, or the beginning.
        delay: Seconds that each request is held up; or a function that returns them.
        trickle: Whether replies go out byte by byte, `pause` seconds apart.
        hold_requests: While it is clear, requests wait here.
        replies: Chunks that the server sent.
        writes: Of what clients sent, the number of the connection and the bytes, in turn; None: not written down.
        open: Connections of clients that are open.
        lost: Replies that were lost.
        kept: Requests that `keep_back` kept, whole, for `deliver`.
        repeated: Requests that were delivered once more, before they were carried: see `repeat`.
        before_cut: Awaited when a reply is lost, before the client hears of it.
        reply_delay: Seconds that whatever the server says is held up.
        answer_delay: Seconds that it is held up on connections that have not subscribed.
        deaf: Whether nothing that the server says reaches connections that have subscribed; they stay open.
        refuse_listeners: Whether connections that want to subscribe are cut.
        listeners: Connections that have subscribed, in all.
    """

    def __init__(self, url: str) -> None:
        self.database = ""
        self.retarget(url)
        self.reset_counts()
        self._lose = 0
        self._lose_if: Callable[[bytes], bool] = lambda _data: True
        self._keep = 0
        self._keep_if: Callable[[bytes], bool] = lambda _data: True
        self.kept: list[bytes] = []
        self._repeats = 0
        self._repeat_if: Callable[[bytes], bool] = lambda _data: False
        self.repeated = 0
        self.before_cut: Callable[[], Awaitable[object]] | None = None
        self.delay: float | Callable[[], float] = 0.0
        self.trickle = False
        self.pause = 0.05
        self.hold_requests = asyncio.Event()
        self.hold_requests.set()
        self.writes: list[tuple[int, bytes]] | None = None
        self._numbers: dict[asyncio.StreamWriter, int] = {}
        self._made = 0
        self._stall_if: Callable[[bytes], bool] = lambda _data: False
        self._stalled: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self.lost = 0
        self.reply_delay = self.answer_delay = 0.0
        self.deaf = self.refuse_listeners = False
        self.listeners = 0
        self._listening: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"redis://{self._user}{host}:{port}{self.database}"

    def lose_replies(self, count: int, when: Callable[[bytes], bool] = lambda _request: True) -> None:
        """Cuts the connection, `count` times, in place of the answer to a request that `when` picks.

        The request itself reaches the server and is answered there before the cut.
        """
        self._lose, self._lose_if = count, when

    @property
    def open(self) -> list[int]:
        return list(self._numbers.values())

    @property
    def stalled(self) -> list[int]:
        """The numbers of the connections that are stalled."""
        return [self._numbers[writer] for writer in self._stalled if writer in self._numbers]

    def stall(self, when: Callable[[bytes], bool] = lambda _request: True) -> None:
        """Holds up what the server says on connections over which a request comes that `when` picks, till `go_on`.

        The requests themselves reach the server.
        """
        self._stall_if = when

    def go_on(self) -> None:
        """Lets through what was held up by `stall`, and stalls no more."""
        self._stall_if = lambda _data: False
        while self._stalled:
            self._stalled.popitem()[1].set()

    def cut_stalled(self, *numbers: int) -> None:
        """Resets connections that are stalled: all, or those of these numbers."""
        for writer in list(self._stalled):
            if not numbers or self._numbers.get(writer) in numbers:
                writer.transport.abort()

    def keep_back(self, count: int, when: Callable[[bytes], bool] = lambda _request: True) -> None:
        """Cuts the connection, `count` times, in place of carrying a request that `when` picks.

        The request stays in `kept`, as in some buffer on its way, and `deliver` lets it arrive late.
        """
        self._keep, self._keep_if = count, when

    def repeat(self, times: int, when: Callable[[bytes], bool]) -> None:
        """Delivers each request that `when` picks so many times before carrying it: the client hears the last answer.

        So a proxy does that sends a request again when its connection broke before the answer came.
        """
        self._repeats, self._repeat_if = times, when

    async def deliver(self, request: bytes) -> Any:
        """Sends the bytes of a request to the server and returns its (first) reply; errors are returned."""
        reader, writer = await asyncio.open_connection(*self._target)
        replies = hiredis.Reader()
        try:
            writer.write(request)
            while (reply := replies.gets()) is False:
                data = await reader.read(1 << 16)
                assert data, "the server closed the connection"
                replies.feed(data)
            return reply
        finally:
            writer.transport.abort()

    def retarget(self, url: str) -> None:
        """Leads the connections that are opened from now on to another server."""
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self.database = parts.path
        # "user:password@" or "": whoever goes through the proxy is the user that goes without.
        self._user = "".join(parts.netloc.rpartition("@")[:2])

    def cut(self) -> None:
        """Resets every connection now."""
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_listeners(self) -> None:
        """Resets every connection that has subscribed."""
        for writer in list(self._listening):
            writer.transport.abort()

    def from_outside(self, function: Callable[[], object]) -> None:
        """Calls `function`, `cut` say, in the loop that the proxy runs in, from another thread."""
        assert self._server is not None
        done = threading.Event()
        self._server.get_loop().call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(20), "the proxy's loop hangs"

    def reset_counts(self) -> None:
        self.sent = self.received = self.requests = self.replies = self.trips = 0
        self._answered = True

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hold_requests.set()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio's own callback complains of a handler that ends as cancelled, as it does when a loop closes.
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        self._numbers[writer] = self._made = self._made + 1
        doomed = asyncio.Event()
        up = asyncio.create_task(self._up(reader, far_writer, writer, doomed))
        down = asyncio.create_task(self._down(far_reader, writer, doomed))
        self._tasks |= {up, down}
        with contextlib.suppress(Exception):
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        self._tasks -= {up, down}
        self._writers -= {writer, far_writer}
        self._listening.discard(writer)
        self._stalled.pop(writer, None)
        del self._numbers[writer]
        for each in (writer, far_writer):
            each.transport.abort()

    async def _up(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        doomed: asyncio.Event,
    ) -> None:
        while data := await reader.read(1 << 20):
            await self.hold_requests.wait()
            # The self-test subscribes, too, among other things.
            if data.startswith(b"*2\r\n$9\r\nSUBSCRIBE\r\n") and b"UNSUBSCRIBE" not in data:
                if self.refuse_listeners:
                    return
                self._listening.add(client)
                self.listeners += 1
            self.sent += len(data)
            self.requests += 1
            self.trips += self._answered
            self._answered = False
            if self.writes is not None:
                self.writes.append((self._numbers[client], data))
            if self._stall_if(data):
                self._stalled.setdefault(client, asyncio.Event())
            if self._keep > 0 and self._keep_if(data):
                self._keep -= 1
                # Requests of several callers may travel in one write.
                requests = requests_of(data)
                at = next(index for index, request in enumerate(requests) if self._keep_if(request))
                self.kept.append(requests[at])
                writer.write(b"".join(requests[:at]))
                await writer.drain()
                return
            if self._lose > 0 and self._lose_if(data):
                self._lose -= 1
                requests = requests_of(data)
                at = next((index for index, request in enumerate(requests) if self._lose_if(request)), 0)
                if at:
                    # The requests before it travel in the same write. They are answered.
                    writer.write(b"".join(requests[:at]))
                    data = b"".join(requests[at:])
                    await asyncio.sleep(LOSE_AFTER)
                doomed.set()
            if self._repeats and self._repeat_if(data):
                for request in filter(self._repeat_if, requests_of(data)):
                    for _ in range(self._repeats):
                        await self.deliver(request)
                        self.repeated += 1
            if self.delay:
                await asyncio.sleep(self.delay() if callable(self.delay) else self.delay)
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if doomed.is_set():
                self.lost += 1
                if self.before_cut is not None:
                    await self.before_cut()
                return  # the server has answered; the client never hears of it
            if self.deaf and writer in self._listening:
                continue
            held_up = self.reply_delay or (0.0 if writer in self._listening else self.answer_delay)
            if held_up:
                await asyncio.sleep(held_up)
            if writer in self._stalled:
                await self._stalled[writer].wait()
            self.received += len(data)
            self.replies += 1
            self._answered = True
            if self.trickle:
                for byte in data:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(self.pause)
            else:
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Runs a proxy before the server at `url`."""
    async with Proxy(url) as running:
        yield running
