"""Listening to all primaries: each message is passed on once, and a broken connection ends the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from histstore._async.transport import cluster_listener
from histstore._async.transport.cluster_listener import ClusterListener
from histstore.protocol.call import Command

A, B, C = ("a", 1), ("b", 1), ("c", 1)
RING = [b"message", b"channel", b"1000 0 holder n:{run}:lease"]


class Primary:
    """A subscription that plays messages."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False

    async def listen(self, command: Command, on_message: Callable[[Any], None]) -> None:
        while True:
            message = await self.messages.get()
            if isinstance(message, ConnectionError):
                raise message
            on_message(message)

    def interrupt(self) -> None:
        self.messages.put_nowait(ConnectionError("interrupted"))

    async def close(self) -> None:
        self.closed = True


async def run(
    played: dict[Any, list[Any]], owner: Any = A, addresses: set[Any] | None = None
) -> tuple[list[Any], BaseException | None]:
    """Play messages at each primary, and return what was passed on, and how it ended."""
    primaries = {address: Primary() for address in played}
    listener = ClusterListener(primaries, addresses or set(played), lambda address, _key: address == owner)
    heard: list[Any] = []
    listening = asyncio.ensure_future(listener.listen(("SUBSCRIBE", "channel"), heard.append))
    for address, messages in played.items():
        for message in messages:
            primaries[address].messages.put_nowait(message)
    await asyncio.sleep(0.02)
    listener.interrupt()
    await asyncio.wait([listening])
    await listener.close()
    assert all(primary.closed for primary in primaries.values())
    return heard, listening.exception()


async def test_a_message_is_passed_on_once() -> None:
    heard, error = await run({A: [RING], B: [RING], C: [RING]})
    assert heard == [RING]
    assert isinstance(error, ConnectionError)


async def test_a_message_that_its_own_server_cannot_deliver_is_passed_on_by_the_others() -> None:
    """Its server was not reached, or the slot has just moved. The waiter then asks, which does no harm."""
    heard, _ = await run({B: [RING], C: [RING]}, owner=A, addresses={A, B, C})
    assert heard == [RING, RING]


async def test_it_is_subscribed_when_all_servers_have_confirmed() -> None:
    confirmed = [b"subscribe", b"channel", 1]
    assert (await run({A: [confirmed], B: []}))[0] == []
    assert (await run({A: [confirmed], B: [confirmed]}))[0] == [confirmed]


async def test_nonsense_and_refusals_are_passed_on() -> None:
    refusal = Exception("NOPERM")
    assert (await run({A: [refusal, [b"message", b"channel", b"nonsense"]]}))[0] == [
        refusal,
        [b"message", b"channel", b"nonsense"],
    ]


async def test_one_connection_that_breaks_ends_the_whole() -> None:
    """Whoever listens then subscribes anew, wherever the primaries are by then."""
    primaries = {A: Primary(), B: Primary()}
    listener = ClusterListener(primaries, {A, B}, lambda _address, _key: True)
    primaries[B].messages.put_nowait(ConnectionError("broken"))
    with pytest.raises(ConnectionError, match="broken"):
        await asyncio.wait_for(listener.listen(("SUBSCRIBE", "channel"), lambda _message: None), 5.0)


async def test_a_primary_that_was_not_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_listener, "LOOK_AGAIN", 0.01)
    listener = ClusterListener({A: Primary()}, {A, B}, lambda _address, _key: True)
    await asyncio.wait_for(listener.listen(("SUBSCRIBE", "channel"), lambda _message: None), 5.0)
