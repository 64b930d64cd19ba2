"""A proxy that delivers requests of scripts two or three times, loses, tears, delays and leaves unanswered. RESP 2.

However often a request is delivered, the client sees one reply to it, in order. Copies travel over connections of the
proxy's own, to the same server: before the original, at the same time, or late. Only calls of scripts outside MULTI are
copied; reads in a transaction, WAIT, connections that listen, and what follows ASKING are carried as they are.

A server may refuse one copy and run another, because its memory is full for a moment or because it was promoted. No
network can tell a client that its request was refused by a server that has run it. So the client gets the reply of the
copy that ran, and no late copy follows a request that was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from .resp import Replies, Requests, first_word, script_of

LONGEST = 30.0
"""Seconds that a copy waits for its reply."""
PATIENCE = 2.0
"""Seconds that an original waits for the copy that goes before it."""


class _CutError(Exception):
    """The connection is to be cut."""


@dataclass(frozen=True)
class Weather:
    """What a proxy does; shares are of requests.

    Attributes:
        seed: Makes it the same again, as far as the timing allows.
        twice: Share of calls of scripts that are delivered more than once.
        thrice: Share of those that are delivered three times.
        late: Seconds that a late copy comes late, at most.
        lose_request: Share in whose place the connection is cut. Half of the calls of scripts among them were stuck on
            their way, and reach the server late.
        lose_reply: Share whose reply never comes: the connection is cut in its place.
        tear_request: Share of which the server gets a part.
        tear_reply: Share of which the client gets a part of the reply.
        hang: Share after which the connection stands open and carries nothing any more, one way or both.
        hold: Share that is held up, with whatever comes after it.
        held: Seconds that it is held up, at most.
    """

    seed: str
    twice: float = 0.0
    thrice: float = 0.0
    late: float = 3.0
    lose_request: float = 0.0
    lose_reply: float = 0.0
    tear_request: float = 0.0
    tear_reply: float = 0.0
    hang: float = 0.0
    hold: float = 0.0
    held: float = 0.05


STATES = tuple(
    f"-{word} ".encode()
    for word in (
        "OOM", "READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS",
    )
)  # fmt: skip
"""What an error begins with by which the state of the server refuses a request."""

_OPENING = (b"\r\nAUTH\r", b"\r\nCLIENT\r", b"\r\nSELECT\r", b"\r\nPING\r")

FATES = ("lose_request", "lose_reply", "tear_request", "tear_reply", "hang", "hold")


def refuses(reply: bytes) -> bool:
    """Returns whether a reply says that the state of the server kept a request from running."""
    return reply.startswith(STATES) or first_word(reply) == "failed"


@dataclass
class _Copy:
    when: str  # before, beside, late
    given: bool = False
    delay: float = 0.0


@dataclass
class _Slot:
    """A reply to come, of which more is to be done than to pass it on.

    Attributes:
        request: What it answers.
        script: The script that is called.
        fate: What becomes of the reply.
        give: A copy's reply, to be given to the client in place of this one.
        copies: The copies that do not come late.
        late: Seconds after which late copies follow.
    """

    request: bytes
    script: str | None
    fate: str | None = None
    give: asyncio.Task[bytes] | None = None
    copies: list[asyncio.Task[bytes]] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


class RoughProxy:
    """Stands between clients and a server.

    Attributes:
        port: Where it listens.
        counts: What it did.
        rough: Whether it loses and tears; copies are delivered in any case.

    Args:
        target: The server's port, on this machine, or its host and port.
        weather: What it does.
    """

    def __init__(self, target: int | tuple[str, int], weather: Weather) -> None:
        self.target = target if isinstance(target, tuple) else ("127.0.0.1", target)
        self.weather = weather
        self.counts: Counter[str] = Counter()
        self.rough = True
        self.port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._numbers = 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> RoughProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.drain()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, writer in self._idle:
            writer.transport.abort()

    def cut(self, off: bool) -> None:
        """Carries nothing any more, over connections that stay open, or goes on."""
        if off:
            self.counts["cut off by a proxy"] += 1
            self._open.clear()
        else:
            self._open.set()

    async def passes(self) -> None:
        """Returns when it carries what comes."""
        await self._open.wait()

    async def drain(self) -> None:
        """Delivers now what would come late, and returns when it is answered."""
        self._hurry.set()
        while late := [task for task in self._tasks if task.get_name() == "late"]:
            await asyncio.wait(late)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio's own callback complains of a handler that ends as cancelled, as it does when a loop closes.
        with contextlib.suppress(asyncio.CancelledError):
            self._numbers += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await _Line(self, reader, writer, self._numbers).carry()
            finally:
                self._tasks.discard(task)

    def start(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def deliver(self, request: bytes, script: str, when: str, seconds: float = LONGEST) -> bytes:
        """Delivers a copy of a request; returns its reply, as its bytes, or nothing if there was none."""
        self.counts[f"copies of {script}, {when}"] += 1
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await self._connection()
                writer.write(request)
                replies = Replies()
                while not (found := replies.feed(await _read(reader, 1 << 16))):
                    pass
        except (OSError, TimeoutError):
            self.counts[f"copies of {script} without an answer"] += 1
            if writer is not None:
                writer.transport.abort()
            return b""
        except BaseException:
            if writer is not None:
                writer.transport.abort()
            raise
        self._idle.append((reader, writer))
        self.counts[f"copies of {script} answered {first_word(found[0])}"] += 1
        return found[0]

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await self.dial()

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection to the server."""
        return await asyncio.open_connection(*self.target, limit=1 << 20)

    def send_late(self, slot: _Slot) -> None:
        """Lets a request's late copies come when their time has come."""
        delays, slot.late = slot.late, []
        for delay in delays:
            self.start(self._late(slot, delay), "late")

    async def _late(self, slot: _Slot, delay: float) -> None:
        if delay:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._hurry.wait()
        await self.passes()
        assert slot.script is not None
        await self.deliver(slot.request, slot.script, "late")


async def _read(reader: asyncio.StreamReader, most: int) -> bytes:
    data = await reader.read(most)
    if not data:
        raise ConnectionResetError
    return data


class _Line:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(
        self, proxy: RoughProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.proxy = proxy
        self.reader, self.writer = reader, writer
        self.rng = random.Random(f"{proxy.weather.seed} {number}")
        self.slots: deque[_Slot | None] = deque()
        self.out: list[bytes] = []
        self.fresh = True  # nothing was asked over it yet
        self.listens = False
        self.queueing = False  # between MULTI and EXEC
        self.asked = False  # the last request was ASKING
        self.swallows_requests = self.swallows_replies = False
        self.far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def carry(self) -> None:
        try:
            try:
                self.far = await self.proxy.dial()
            except OSError:
                return
            both = [self.proxy.start(self._up(), "up"), self.proxy.start(self._down(), "down")]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                for error in await asyncio.gather(*both, return_exceptions=True):
                    if isinstance(error, Exception) and not isinstance(error, (OSError, _CutError)):
                        self.proxy.counts[f"bug in the proxy: {error!r}"] += 1
        finally:
            for slot in self.slots:
                if slot is not None:
                    self.proxy.send_late(slot)
            self.abort()

    def abort(self) -> None:
        self.writer.transport.abort()
        if self.far is not None:
            self.far[1].transport.abort()

    # ------------------------------------------------------------------------------- to the server

    async def _up(self) -> None:
        requests = Requests()
        while data := await self.reader.read(1 << 18):
            await self.proxy.passes()
            for request in requests.feed(data):
                await self._ask(request)
            await self._flush()

    async def _flush(self) -> None:
        if self.out:
            out, self.out = self.out, []
            assert self.far is not None
            self.far[1].write(b"".join(out))
            await self.far[1].drain()

    async def _ask(self, request: bytes) -> None:
        if self.swallows_requests:
            return
        script = self._look_at(request)
        if self.listens:
            self.out.append(request)
            return
        fate = self._fate()
        if fate in ("lose_request", "tear_request"):
            if fate == "tear_request":
                self.out.append(request[: self.rng.randrange(1, len(request))])
            elif script is not None and self.rng.random() < 0.5:
                self.proxy.counts["requests that come late"] += 1
                self.proxy.send_late(_Slot(request, script, late=[self._delay()]))
            await self._flush()
            raise _CutError
        if fate == "hold":
            await self._flush()
            await asyncio.sleep(self.rng.random() ** 3 * self.proxy.weather.held)
        if fate == "hang":
            asyncio.get_running_loop().call_later(self.rng.uniform(0.2, 2.0), self.abort)
            self.swallows_requests = self.rng.random() < 0.5
            if self.swallows_requests:
                return
        copies = list(self._copies()) if script is not None else []
        slot = None
        if copies or fate in ("lose_reply", "tear_reply", "hang"):
            slot = _Slot(request, script, fate)
            for copy in copies:
                await self._copy(slot, copy)
        self.slots.append(slot)
        self.out.append(request)

    def _look_at(self, request: bytes) -> str | None:
        """Notes what a request changes for those that follow; returns the script that it calls, if it may be copied."""
        start = request[:24]
        if self.fresh and b"\r\nSUBSCRIBE\r\n" in start:
            self.listens = True
            self.proxy.counts["connections that listen"] += 1
        self.fresh = self.fresh and any(word in start for word in _OPENING)
        if b"\r\nMULTI\r\n" in start:
            self.queueing = True
        elif b"\r\nEXEC\r\n" in start or b"\r\nDISCARD\r\n" in start:
            self.queueing = False
        script = None if self.queueing or self.asked else script_of(request)
        self.asked = b"\r\nASKING\r\n" in start
        self.proxy.counts[f"calls of {script}" if script is not None else "other requests"] += 1
        return script if script != "probe" else None

    def _fate(self) -> str | None:
        drawn = self.rng.random()
        if not self.proxy.rough:
            return None
        for fate in FATES:
            drawn -= getattr(self.proxy.weather, fate)
            if drawn < 0:
                self.proxy.counts[fate.replace("_", " ")] += 1
                return fate
        return None

    def _copies(self) -> Iterator[_Copy]:
        weather, rng = self.proxy.weather, self.rng
        if rng.random() >= weather.twice:
            return
        given = False
        for _ in range(2 if rng.random() < weather.thrice else 1):
            when = rng.choice(("before", "before", "beside", "late", "late"))
            if when == "late":
                yield _Copy(when, delay=self._delay())
                continue
            copy = _Copy(when, given=not given and rng.random() < 0.5)
            given = given or copy.given
            yield copy

    def _delay(self) -> float:
        return self.rng.choice((0.0, 0.005, 0.05, 0.5, self.proxy.weather.late)) * self.rng.random()

    async def _copy(self, slot: _Slot, copy: _Copy) -> None:
        if copy.when == "late":
            slot.late.append(copy.delay)
            return
        await self._flush()
        assert slot.script is not None
        first = copy.when == "before"
        work = self.proxy.deliver(slot.request, slot.script, copy.when, PATIENCE if first else LONGEST)
        task = self.proxy.start(work, "copy")
        slot.copies.append(task)
        if copy.given:
            slot.give = task
        if first:
            await asyncio.wait([task])

    # ------------------------------------------------------------------------------- to the client

    async def _down(self) -> None:
        assert self.far is not None
        replies = Replies()
        while data := await self.far[0].read(1 << 18):
            await self.proxy.passes()
            if self.listens:
                await self._say([data])
                continue
            out: list[bytes] = []
            for reply in replies.feed(data):
                slot = self.slots.popleft() if self.slots else None
                if slot is None:
                    out.append(reply)
                    continue
                if refuses(reply):
                    slot.late, slot.give = [], None
                    reply = await self._settled(slot, reply)
                self.proxy.send_late(slot)
                if slot.fate in ("lose_reply", "tear_reply"):
                    if slot.fate == "tear_reply":
                        out.append(reply[: self.rng.randrange(1, len(reply))])
                    await self._say(out)
                    raise _CutError
                if slot.fate == "hang":
                    self.swallows_replies = True
                if slot.give is not None:
                    await self._say(out)
                    out = []
                    given = await slot.give
                    reply = reply if not given or refuses(given) else given
                    self.proxy.counts["replies of copies given to clients"] += 1
                out.append(reply)
            await self._say(out)

    async def _settled(self, slot: _Slot, refusal: bytes) -> bytes:
        """Returns what a client may hear of a refused request that has copies.

        Raises:
            _CutError: A copy has no answer, so nobody knows whether it ran.
        """
        replies = [await copy for copy in slot.copies]
        ran = [reply for reply in replies if reply and not refuses(reply)]
        if not ran and not all(replies):
            raise _CutError
        return ran[0] if ran else refusal

    async def _say(self, out: list[bytes]) -> None:
        if out and not self.swallows_replies:
            self.writer.write(b"".join(out))
            await self.writer.drain()


@contextlib.asynccontextmanager
async def rough_proxy(target: int | tuple[str, int], weather: Weather) -> AsyncIterator[RoughProxy]:
    """Runs a proxy before a server."""
    async with RoughProxy(target, weather) as running:
        yield running


def serve(target: int | tuple[str, int], weather: Weather, pipe: Any) -> None:
    """Runs a proxy in this process, till told to stop: says its port, and at the end what it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's to answer
    asyncio.run(_serve(target, weather, pipe))


async def _serve(target: int | tuple[str, int], weather: Weather, pipe: Any) -> None:
    inbox: asyncio.Queue[str] = asyncio.Queue()

    def receive() -> None:
        try:
            inbox.put_nowait(pipe.recv())
        except EOFError:
            inbox.put_nowait("gone")
            loop.remove_reader(pipe.fileno())

    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), receive)
    async with RoughProxy(target, weather) as proxy:
        pipe.send(proxy.port)
        while (word := await inbox.get()) in ("calm", "cut", "heal"):
            if word == "calm":
                proxy.rough = False
            else:
                proxy.cut(word == "cut")
        if word == "stop":
            await proxy.drain()
    if word == "stop":
        pipe.send(proxy.counts)
