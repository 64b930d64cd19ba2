"""One connection by itself: a socket pair, whose other end answers what the test makes it answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.exceptions import ConnectionError, TimeoutError

from histstore._async.transport.wire import FLUSH_SIZE, Wire
from histstore.wire.sending import SendState

from ..support.shells import until
from .shells import GUARD

ECHO = ("ECHO", "x")


class Pair:
    """A wire, and the other end of its socket."""

    def __init__(self, wire: Wire, far: socket.socket) -> None:
        self.wire = wire
        self.far = far
        self.loop = asyncio.get_running_loop()

    def ask(self, state: SendState, *commands: Any, seconds: float = GUARD) -> asyncio.Future[Any]:
        return self.wire.send(commands or (ECHO,), self.loop.time() + seconds, state)

    async def answer(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.far, data)

    def timers(self) -> list[Any]:
        scheduled = self.loop._scheduled  # type: ignore[attr-defined]
        return [timer for timer in scheduled if not timer.cancelled() and "Wire" in repr(timer)]


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    near, far = socket.socketpair()
    far.setblocking(False)
    _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=near)
    found = Pair(wire, far)
    async with asyncio.timeout(GUARD):
        yield found
    found.wire.abort()
    far.close()
    assert found.timers() == []


async def test_answers_go_to_whom_they_belong_wherever_they_are_cut(pair: Pair) -> None:
    """Answers of one and of several replies, an error among them, that come byte by byte, and past some who left."""
    asked = [pair.ask(SendState(), *[ECHO] * count) for count in (1, 3, 2, 1)]
    await until(lambda: not pair.wire._unsent)
    asked[2].cancel()
    for byte in b"$1\r\na\r\n+b\r\n-ERR c\r\n*2\r\n:1\r\n$-1\r\n+left\r\n+left\r\n:7\r\n":
        await pair.answer(bytes([byte]))
        await asyncio.sleep(0)
    first, second, _, last = await asyncio.gather(*asked, return_exceptions=True)
    assert first == [b"a"]
    assert [str(each) for each in second] == ["b'b'", "ERR c", "[1, None]"]
    assert last == [7]
    assert not pair.wire.pending
    assert pair.wire.load == 0


async def test_an_answer_that_nobody_asked_for_breaks_the_connection(pair: Pair) -> None:
    """Together with one that was asked for, it tells that none can be told from the other: all are failed."""
    asked = [pair.ask(SendState()), pair.ask(SendState())]
    await until(lambda: not pair.wire._unsent)
    await pair.answer(b"+a\r\n+b\r\n+c\r\n")
    found = await asyncio.gather(*asked)
    assert [type(each) for each in found] == [ConnectionError] * 2
    assert pair.wire.broken
    with pytest.raises(ConnectionError):
        pair.ask(SendState())


async def test_what_is_not_written_when_the_connection_breaks_does_not_count_as_sent(pair: Pair) -> None:
    """The write that fails may have left in part; what waits for the next write has not."""
    first = SendState()
    asked = [pair.ask(first)]
    pair.far.close()
    large, small = SendState(), SendState()
    asked.append(pair.ask(small))
    asked.append(pair.ask(large, ("ECHO", "x" * FLUSH_SIZE)))  # written at once, in vain
    last = SendState()
    asked.append(pair.ask(last))
    found = await asyncio.gather(*asked)
    assert [type(each) for each in found] == [ConnectionError] * 4
    assert [state.sent for state in (first, small, large, last)] == [True, True, True, False]


async def test_a_server_that_says_no_more_is_not_waited_for(pair: Pair) -> None:
    """Also if it does not read either, so that there is still something to be written to it."""
    asked = pair.ask(SendState(), ("ECHO", "x" * 10_000_000))
    pair.far.shutdown(socket.SHUT_WR)
    assert isinstance(await asked, ConnectionError)
    assert pair.wire.broken


async def test_a_cancelled_request_that_was_not_written_makes_room(pair: Pair) -> None:
    """Its bytes and its place are given back, whoever waits for room is told, and its neighbours are written."""
    changes = []
    pair.wire.on_change = lambda: changes.append(len(pair.wire.pending))
    asked = [pair.ask(SendState()) for _ in range(4)]
    load = pair.wire.load
    asked[1].cancel()
    asked[2].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert changes == [2]
    assert pair.wire.load == load // 2
    await pair.answer(b"+a\r\n+b\r\n")
    assert [await asked[0], await asked[3]] == [[b"a"], [b"b"]]
    pair.wire.on_change = None


async def test_one_timer_serves_all(pair: Pair) -> None:
    """Whatever their deadlines: each is told in time, the sooner ones first, and the connection is retired."""
    asked = [pair.ask(SendState(), seconds=0.09 - 0.02 * (index % 3)) for index in range(30)]
    assert len(pair.timers()) == 1
    done: list[int] = []
    for index, each in enumerate(asked):
        each.add_done_callback(lambda _answer, index=index: done.append(index))  # type: ignore[misc]
    assert {type(each) for each in await asyncio.gather(*asked)} == {TimeoutError}
    await asyncio.sleep(0)
    assert sorted(done, key=lambda index: -(index % 3)) == done
    assert pair.wire.retired
    assert not pair.wire.usable
    assert pair.timers() == []


async def test_an_answer_that_is_there_is_not_overdue(pair: Pair) -> None:
    """A process that was stopped for longer than anyone waits reads what has come before it counts the time."""
    asked = pair.ask(SendState(), seconds=0.05)
    await pair.answer(b"+a\r\n")
    end = pair.loop.time() + 0.1
    while pair.loop.time() < end:
        pass  # as if stopped: the loop does not turn
    assert await asked == [b"a"]
    assert not pair.wire.retired


async def test_a_request_that_nobody_waits_for_retires_the_connection_too(pair: Pair) -> None:
    """Else a dead connection that is full of them would stay, and stay full."""
    pair.ask(SendState(), seconds=0.03).cancel()
    await until(lambda: pair.wire.retired)
