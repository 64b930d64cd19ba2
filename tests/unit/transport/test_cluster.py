"""The transport to a cluster, over servers that answer by script. The blocking twin is generated from it.

The first request to a server takes the long way: the map is asked for, and the server is examined. These tests are
about the requests after it.
"""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions as redis_errors

from histstore import RedisBackend
from histstore._async.compat import io
from histstore._async.transport import cluster
from histstore._async.transport.cluster import MAX_HOPS, ClusterTransport
from histstore.wire.sending import SendState

A, B = ("a", 1), ("b", 2)
KEY = b"{r}:head"
COMMANDS = [("EVALSHA", "sha", b"1", KEY)]
SAVED = [[b"saved", b"1"]]


class Server:
    """A server that knows the map of slots, and answers requests by script."""

    count = (0, 0)

    def __init__(self, servers: Servers, address: tuple[str, int]) -> None:
        self.servers, self.address = servers, address
        self.requests = 0
        self.answers: list[Any] = []

    async def exchange(self, key: Any, commands: Any, end: float, state: SendState, large: bool = False) -> list[Any]:
        if commands[0] == ("CLUSTER", "SLOTS"):
            self.servers.asked += 1
            owner = self.servers.owner
            return [[[0, 16383, [owner[0].encode(), owner[1]]]]]
        self.requests += 1
        answer = self.answers.pop(0) if self.answers else SAVED
        if isinstance(answer, Exception):
            raise answer
        state.sent = True
        replies = [redis_errors.ResponseError(answer)] if isinstance(answer, str) else answer
        return [b"OK", *replies] if commands[0] == ("ASKING",) else replies

    async def drop(self) -> None:
        pass


class Servers(dict[Any, Server]):
    """The servers by address.

    Attributes:
        owner: The owner of all slots.
        asked: How often one was asked for the map.
        examined: The servers that were examined, in order.
    """

    owner = A
    asked = 0

    def __init__(self) -> None:
        self.examined: list[Any] = []

    def __missing__(self, address: Any) -> Server:
        self[address] = Server(self, address)
        return self[address]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    made = Servers()
    monkeypatch.setattr(cluster, "SingleServer", lambda settings, durable: made[settings.address])
    monkeypatch.setattr(cluster, "REFRESH_EVERY", 0.0)
    return made


@pytest.fixture
async def transport(servers: Servers) -> ClusterTransport:
    """A transport that has sent one request to the server A."""
    made = ClusterTransport(RedisBackend.from_url("redis+cluster://a:1,b:2")._seats.settings, durable=False)

    async def examine(exchange: Any, owns: Any, end: float) -> bool:
        servers.examined.append(next(each.address for each in servers.values() if each.exchange == exchange))
        return True

    made.examines(examine)
    assert await send(made) == SAVED
    assert (servers.asked, servers.examined, servers[A].requests) == (1, [A], 1)
    return made


async def send(transport: ClusterTransport, state: SendState | None = None) -> list[Any]:
    return await transport.exchange(KEY, COMMANDS, io.monotonic() + 5, state or SendState())


async def test_later_requests_go_straight_to_the_owner(transport: ClusterTransport, servers: Servers) -> None:
    """The map is not asked for again, and the server is not examined again."""
    for _ in range(3):
        assert await send(transport) == SAVED
    assert (servers.asked, servers.examined, servers[A].requests) == (1, [A], 4)


async def test_a_moved_slot_is_followed_at_once(transport: ClusterTransport, servers: Servers) -> None:
    """Each server gets the request once, and the new one is examined first. The next request asks for the map."""
    servers[A].answers = ["MOVED 1000 b:2"]
    assert await send(transport) == SAVED
    assert (servers[A].requests, servers[B].requests, servers.examined) == (2, 1, [A, B])
    servers.owner = B
    assert await send(transport) == SAVED
    assert (servers[A].requests, servers[B].requests, servers.asked) == (2, 2, 2)


async def test_a_redirected_request_was_not_sent(transport: ClusterTransport, servers: Servers) -> None:
    """The server that redirected it did not run it. If the other one cannot be reached, it may be repeated."""
    servers[A].answers = ["MOVED 1000 b:2"]
    servers[B].answers = [redis_errors.ConnectionError("refused")]
    state = SendState()
    with pytest.raises(redis_errors.ConnectionError, match="refused"):
        await send(transport, state)
    assert not state.sent


async def test_a_lost_server_has_the_map_asked_for(transport: ClusterTransport, servers: Servers) -> None:
    """The request fails, and the next one goes to the new primary."""
    servers[A].answers = [redis_errors.ConnectionError("lost")]
    with pytest.raises(redis_errors.ConnectionError, match="lost"):
        await send(transport)
    servers.owner = B
    assert await send(transport) == SAVED
    assert (servers[A].requests, servers[B].requests, servers.asked) == (2, 1, 2)


async def test_a_server_is_examined_before_its_first_request(transport: ClusterTransport, servers: Servers) -> None:
    """Also if the map is up to date when the request comes."""
    servers.owner = B
    await transport.drop()
    await transport.exchange(None, [("PING",)], io.monotonic() + 5, SendState())
    servers.examined.clear()
    servers.owner = A
    await transport._refresh(io.monotonic() + 5)
    assert await send(transport) == SAVED
    assert servers.examined == [A]


@pytest.mark.parametrize("answer", ["MOVED 1000 {}", "ASK 1000 {}"])
async def test_redirections_are_bounded(transport: ClusterTransport, servers: Servers, answer: str) -> None:
    """Two servers that send a request to each other get it `MAX_HOPS` times after the first one."""
    servers[A].answers = [answer.format("b:2")] * 20
    servers[B].answers = [answer.format("a:1")] * 20
    with pytest.raises(redis_errors.TryAgainError, match="16 servers"):
        await send(transport)
    assert servers[A].requests + servers[B].requests - 1 == 1 + MAX_HOPS
